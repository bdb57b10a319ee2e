"""State dicts of torch: `.pt` files of tensors by name, read by torch's own restricted loader, and tensors as arrays.

Imports torch only inside functions.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from ..ir.errors import InvalidModel, MissingPackage, SystemFailure
from ..ir.storage import map_file

#: What numpy has no dtype of its own for, by its bits.
_BY_BITS = {
    "torch.bfloat16": ("int16", ml_dtypes.bfloat16),
    "torch.float8_e4m3fn": ("uint8", ml_dtypes.float8_e4m3fn),
    "torch.float8_e5m2": ("uint8", ml_dtypes.float8_e5m2),
}
#: Under which trainers put the model's state beside an optimiser's.
_INSIDE = ("state_dict", "model_state_dict", "model")


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The torch tensors of a state dict by name, on the CPU. Only tensors and plain containers are unpickled
    (`weights_only`). Raises MissingPackage, SystemFailure, InvalidModel."""
    where = os.fspath(path)
    map_file(path)  # a regular file within the limits, or an error of ours
    try:
        import torch
    except ModuleNotFoundError as exc:
        raise MissingPackage(
            "torch checkpoints are read by torch", where=where, hint="pip install anyir[torch], or save .safetensors"
        ) from exc
    try:
        found = torch.load(where, map_location="cpu", weights_only=True)
    except OSError as error:
        raise SystemFailure(f"cannot read: {error.strerror or error}", where=where) from None
    except Exception as error:  # torch, zipfile and the unpickler have many errors of their own
        said = str(error).partition("\n")[0][:200]
        raise InvalidModel(
            f"not a state dict of torch: {said}", where=where, hint="torch.save(net.state_dict(), path)"
        ) from None
    return _tensors(found, where)


def _tensors(found: Any, where: str) -> dict[str, Any]:
    import torch

    for key in _INSIDE:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
            break
    if not isinstance(found, Mapping):
        raise InvalidModel(f"holds a {type(found).__name__}, not tensors by name", where=where)
    made = {str(name): item for name, item in found.items() if isinstance(item, torch.Tensor)}
    if not made:
        raise InvalidModel("holds no tensors by name", where=where, hint="torch.save(net.state_dict(), path)")
    return made


def array_of(tensor: Any) -> np.ndarray:
    """The elements of a dense torch tensor, on whatever device it lies. Raises InvalidModel for other kinds."""
    import torch

    plain = tensor.detach().cpu()
    if plain.layout != torch.strided or plain.is_quantized:
        raise InvalidModel("a sparse or quantised torch tensor", hint="to_dense(), or dequantize()")
    by_bits = _BY_BITS.get(str(plain.dtype))
    try:
        if by_bits is None:
            return plain.resolve_conj().resolve_neg().numpy()
        return plain.contiguous().view(getattr(torch, by_bits[0])).numpy().view(by_bits[1])
    except (TypeError, RuntimeError) as error:
        raise InvalidModel(f"a torch tensor of dtype {plain.dtype}: {error}") from None


__all__ = ["array_of", "read"]
