"""New contents for a module's weights, by key: from a .safetensors file, a torch checkpoint, or a mapping of arrays.

What `Module.load_weights` does. Everything is checked before anything is changed. Imports no framework; a torch file is
read by torch itself, which then has to be installed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import AnyIRError, InvalidModel, UsageError, clean
from .tensor import Tensor, as_tensor
from .types import TensorType

if TYPE_CHECKING:
    from .graph import Module
    from .weights import Weight

TORCH_SUFFIXES = (".pt", ".pth", ".bin")

Source = str | os.PathLike[str] | Mapping[str, Any]


def load_weights(module: Module, source: Source) -> dict[str, list[str]]:
    """See `Module.load_weights`."""
    stored, where = _stored(source)
    by_name = {name: w for w in module.weights if w.role != "const" for name in (w.key, *w.aliases)}
    by_name |= {w.key: w for w in module.weights if w.role != "const"}  # a key goes before another weight's alias
    made: dict[Weight, tuple[str, Tensor]] = {}
    for name, item in stored.items():
        if name in by_name:
            weight, tensor = by_name[name], _tensor(name, item, where)
            _check(weight, name, tensor, made.get(weight), where)
            made.setdefault(weight, (name, tensor))
    for weight, (_, tensor) in made.items():
        module.set_weight(weight, tensor)
    return {
        "taken": [weight.key for weight in made],
        "missing": [w.key for w in module.weights if w.role == "param" and w not in made],
        "unexpected": [name for name in stored if name not in by_name],
    }


def _check(weight: Weight, name: str, tensor: Tensor, before: tuple[str, Tensor] | None, where: str) -> None:
    """The type is the weight's; names that are tied have the same contents."""
    if TensorType(tensor.dtype, tuple(tensor.shape)) is not weight.type:
        found = f"{tensor.dtype}{list(tensor.shape)}"
        raise InvalidModel(f"weight {weight.key!r} is {weight.type}, the file has {found}", where=where)
    if before is not None and before[1].digest() != tensor.digest():
        what = f"{before[0]!r} and {name!r} are one weight in the module and differ in the file"
        raise InvalidModel(what, where=where, hint="keep them tied in training, or leave one of them out")


def _stored(source: Source) -> tuple[Mapping[str, Any], str]:
    """What the source holds by name, and what to call it in errors."""
    if isinstance(source, Mapping):
        return source, ""
    if not isinstance(source, (str, os.PathLike)):
        raise UsageError(
            f"weights come from a file or a mapping, not from a {type(source).__name__}", hint="give net.state_dict()"
        )
    path = os.fspath(source)
    if path.lower().endswith(TORCH_SUFFIXES):
        from ..formats import torch_state

        return torch_state.read(path), path
    from ..formats import safetensors

    return safetensors.read(path)[0], path


def _tensor(name: str, item: Any, where: str) -> Tensor:
    """A tensor, array or torch tensor (on any device) as a tensor of ours with memory of its own."""
    if isinstance(item, Tensor):
        return item
    try:
        return as_tensor(np.array(_array(item)))
    except AnyIRError as error:
        raise (error.at(where) if where else error) from None
    except (TypeError, ValueError) as error:
        raise InvalidModel(f"{clean(name)!r} is no tensor: {clean(error)}", where=where) from None


def _array(item: Any) -> Any:
    """A torch tensor as an array, told by its methods so that torch need not be imported."""
    if not hasattr(item, "detach"):
        return item
    from ..formats.torch_state import array_of

    return array_of(item)
