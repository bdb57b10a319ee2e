"""Writes modules as TFLite files. Needs `flatbuffers` only; the runtime is not needed.

    write(module, "net.tflite")
    write(module, "net.tflite", external_data=True)   # weights behind the flatbuffer; by default above 512 MB

A clone is legalised until every node is one that TFLite has, checked, and written one for one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...ir.graph import Module
    from .legalization import Offender

FORMAT = "tflite"
SUFFIXES = (".tflite",)

__all__ = ["FORMAT", "SUFFIXES", "legalize", "offenders", "support", "write"]


def write(
    module: Module,
    path: str | os.PathLike[str],
    *,
    external_data: bool | None = None,
    signature: str | None = None,
    protect: Iterable[str | os.PathLike[str]] = (),
    hybrid: bool = False,
    sparse: bool = False,
    **_: Any,
) -> list[str]:
    """Write `module` (left unchanged) and return the files written.

    `external_data` True puts weights behind the flatbuffer in the same file, where they are streamed and mapped, False
    forbids it, None does it above 512 MB. `signature` writes one signature only. `protect` are files that must not be
    overwritten; those that the module maps are protected anyway. Integer weights of float products are read through
    DEQUANTIZE, exactly; with `hybrid`, and where the model asks for it (quantize{activations=dynamic}), the product runs
    on integers, its data quantised by their own range. With `sparse`, weights with so many zeros that it makes the file
    smaller are stored without them: the runtime unpacks each once, and computes what it always does. Raises Unsupported
    naming everything that TFLite lacks, UsageError, SystemFailure; on an error nothing is written.
    """
    from .legalization import legalize
    from .writer import write_legal

    return write_legal(legalize(module, signature=signature, hybrid=hybrid), path, external_data, protect, sparse)


def legalize(module: Module, *, signature: str | None = None, hybrid: bool = False, **_: Any) -> Module:
    """A clone of TFLite's operators only, runnable on the kernels. Raises Unsupported with all offenders at once."""
    from .legalization import legalize as run

    return run(module, signature=signature, hybrid=hybrid)


def offenders(module: Module, *, signature: str | None = None, **_: Any) -> list[Offender]:
    """The nodes, inputs and outputs that TFLite cannot express, each with the reason; empty when all can."""
    from .legalization import offenders as run

    return run(module, signature=signature)


def support(name: str) -> str:
    """How the op `name` is written: direct, decomposed, or - when there is no way."""
    from .legalization import support as run

    return run(name)
