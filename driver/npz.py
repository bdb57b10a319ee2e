"""Arrays by name in `.npz` files: test data in, outputs out. No pickles either way, and the same bytes every time."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from ..ir.errors import AnyIRError, InvalidModel, SystemFailure

if TYPE_CHECKING:
    from ..ir.signature import Signature

    Arrays = dict[str, np.ndarray]


def read_inputs(path: str | os.PathLike[str]) -> Arrays:
    """The arrays of an .npz file by name. Raises InvalidModel (pickled members too), SystemFailure."""
    where = os.fspath(path)
    try:
        with np.load(path, allow_pickle=False) as stored:
            if not hasattr(stored, "files"):
                raise InvalidModel("not an .npz file", where=where, hint="numpy.savez(path, name=array)")
            return {name: stored[name] for name in stored.files}
    except AnyIRError:
        raise
    except OSError as error:
        raise SystemFailure(f"cannot read: {error.strerror or error}", where=where) from None
    except Exception as error:  # numpy, zipfile and zlib have errors of their own
        raise InvalidModel(f"not a readable .npz file: {error or type(error).__name__}", where=where) from None


def flat(outputs: Mapping[str, Any]) -> Arrays:
    """Outputs as arrays: the elements of a sequence are `name[i]`, strings are UTF-8 of a fixed length, what is absent is
    left out."""
    from ..kernels.text import raw

    made: Arrays = {}
    for name, value in outputs.items():
        parts = (
            {f"{name}[{i}]": item for i, item in enumerate(value)}
            if isinstance(value, (list, tuple))
            else {name: value}
        )
        for key, item in parts.items():
            if item is None:
                continue
            array = np.asarray(item)
            if array.dtype == object and array.size:
                array = np.array([raw(x) for x in array.flat]).reshape(array.shape)
            made[key] = array
    return made


def gathered(signature: Signature, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs as a model wants them: the members `name[0]`, `name[1]` ... are a sequence, which is empty where there are none;
    an optional without any member is absent."""
    from ..ir.types import OptionalType, SequenceType

    made = dict(arrays)
    for value, name in zip(signature.graph.inputs, signature.input_names(), strict=True):
        type_ = value.type.elem if isinstance(value.type, OptionalType) else value.type
        parts: list[Any] = []
        while isinstance(type_, SequenceType) and name not in made and f"{name}[{len(parts)}]" in made:
            parts.append(made.pop(f"{name}[{len(parts)}]"))
        if parts or isinstance(value.type, SequenceType):
            made.setdefault(name, parts)
        elif isinstance(value.type, OptionalType):
            made.setdefault(name, None)
    return made


def write_outputs(file: BinaryIO, arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Write an .npz. A name that would lead out of the folder in which somebody unpacks the archive is replaced; returns
    {name: replacement}."""
    replaced = {name: f"output_{i}" for i, name in enumerate(arrays) if not _is_harmless(name)}
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{replaced.get(name, name)}.npy")  # dated 1980
            with archive.open(member, "w", force_zip64=True) as out:
                np.lib.format.write_array(out, array, allow_pickle=False)
    return replaced


def _is_harmless(name: str) -> bool:
    parts = name.replace("\\", "/").split("/")
    return bool(name) and name.isprintable() and ".." not in parts and not name.startswith(("/", "\\"))
