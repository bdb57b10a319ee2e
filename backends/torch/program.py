"""Writes `.pt2` through torch.export of the live module; dynamic sizes stay dynamic, names stay the user's."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from typing import Any

from ...formats.pt2 import NOTES
from ...ir.dims import evaluate, symbols
from ...ir.errors import MissingPackage, Unsupported
from ...ir.expr import Expr
from ...ir.graph import Module
from ...ir.provenance import notes_of
from ...ir.storage import OutputSet
from ...ir.types import TensorType
from .names import torch_name

_EPOCH = (1980, 1, 1, 0, 0, 0)


def write_pt2(module: Module, path: str | os.PathLike[str], protect: Iterable[str | os.PathLike[str]]) -> list[str]:
    """The files written. Raises MissingPackage without torch, Unsupported when torch.export refuses, SystemFailure."""
    program = exported(module)
    import torch

    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # the places of our own files on this machine
    buffer = io.BytesIO()
    with _quiet():
        torch.export.save(
            program, buffer, extra_files={NOTES: json.dumps(noted)} if (noted := notes_of(module)) else None
        )
    mapped = [file.path for file in module.files]
    with OutputSet(protect=[*protect, *mapped]) as out:
        _restamp(buffer, out.open(path, main=True))
    return [os.fspath(path)]


def exported(module: Module) -> Any:
    """The live module as a torch.export.ExportedProgram."""
    from . import registered

    live = registered(module)
    try:
        import torch
    except ImportError as exc:  # pragma: no cover - to_torch has said so already
        raise MissingPackage("writing .pt2 needs torch", hint="pip install anyir[torch]") from exc
    failure: Exception | None = None
    for distinct in (True, False):
        args, shapes = _examples(torch, module, distinct)
        try:
            with _quiet(), torch.no_grad():
                return torch.export.export(live, (), args, dynamic_shapes=_structure(live, shapes), strict=False)
        except Exception as exc:  # torch raises many types here; what it says is for the user
            failure = failure or exc
    assert failure is not None
    said = f"{type(failure).__name__}: {str(failure)[:600]}"
    raise Unsupported(f"torch.export refuses the module: {said}") from failure


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torch logs what it also raises."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _examples(torch: Any, module: Module, distinct: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Example inputs by name, and which of their axes are dynamic. Symbols get sizes of their own, at least 2; where torch
    wants two of them to be equal it is tried again with one size for all."""
    sizes: dict[str, int] = {}
    for value in module.main.inputs:
        for dim in value.shape or ():
            for name in symbols(dim):
                sizes.setdefault(name, _size(module, name, 3 + len(sizes) * distinct))
    args, shapes = {}, {}
    for slot, value in zip(module.signature.inputs, module.main.inputs, strict=True):
        if not isinstance(value.type, TensorType) or value.shape is None or value.dtype is None:
            raise Unsupported(f"input {slot.name!r} is {value.type}: torch.export needs a tensor of known rank")
        dims = [evaluate(dim, sizes) for dim in value.shape]
        args[slot.name] = torch.zeros(dims, dtype=getattr(torch, torch_name(value.dtype)))
        dynamic = {axis: torch.export.Dim.DYNAMIC for axis, dim in enumerate(value.shape) if isinstance(dim, Expr)}
        shapes[slot.name] = dynamic or None
    return args, shapes


def _size(module: Module, name: str, wanted: int) -> int:
    low, high = module.facts.range_of(name)
    divisor = module.facts.divisor_of(name)
    size = max(wanted, int(low), 2)
    size += -size % divisor
    return int(min(size, high))


def _structure(live: Any, shapes: dict[str, Any]) -> Any:
    """torch names arguments that a signature does not show by the parameter that collects them."""
    shown = getattr(type(live).forward, "__signature__", None)
    return shapes if shown is not None else {"args": (), "kwargs": shapes}


def _restamp(source: io.BytesIO, target: Any) -> None:
    """Copy an archive with fixed times and without the random id that torch puts in, so that outputs repeat."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as new:
        names = old.namelist()
        top = names[0].split("/", 1)[0]
        for name in names:
            data = old.read(name)
            if name.endswith("/.data/serialization_id"):
                data = b"0" * len(data)
            info = zipfile.ZipInfo(f"archive/{name[len(top) + 1 :]}", _EPOCH)
            info.extra = _aligned(target.tell(), info.filename)
            with contextlib.closing(new.open(info, "w")) as member:
                member.write(data)


def _aligned(offset: int, name: str) -> bytes:
    """An extra field that makes the data of the next member begin at a multiple of 64, as torch's archives have it."""
    start = offset + 30 + len(name.encode()) + 4
    return b"FB" + (-start % 64).to_bytes(2, "little") + b"Z" * (-start % 64)
