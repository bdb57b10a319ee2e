"""Writes modules as MindIR files that MindSpore 2.7 and later load. MindSpore itself is not needed.

write(module, "net.mindir")
write(module, "net.mindir", external_data=True)   # weights into net.mindir.data; by default above 1 GiB
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...ir.graph import Module
    from .lowering import Offender

FORMAT = "mindir"
SUFFIXES = (".mindir",)


def write(
    module: Module,
    path: str | os.PathLike,
    *,
    external_data: bool | None = None,
    signature: str | None = None,
    protect: Iterable[str | os.PathLike] = (),
    **_: Any,
) -> list[str]:
    """Write `module` (left unchanged) and return the files written, the model last.

    `external_data` True puts weights into `<name>.data` beside the model, False forbids it, None does it above 1 GiB.
    `protect` are files that must not be overwritten; those that the module maps are protected anyway. Raises
    Unsupported naming everything that MindSpore lacks, UsageError, SystemFailure; on an error nothing is written.
    """
    from .lowering import legalize_quantised
    from .writer import write_legal

    legal, quantisation = legalize_quantised(module, signature=signature)
    return write_legal(legal, path, external_data, protect, quantisation)


def legalize(module: Module, *, signature: str | None = None, **_: Any) -> Module:
    """A clone of MindSpore's operators only, runnable on the kernels; see `lowering.legalize`."""
    from .lowering import legalize as run

    return run(module, signature=signature)


def offenders(module: Module, *, signature: str | None = None, **_: Any) -> list[Offender]:
    """Every node that cannot be written, with reasons; empty when all can."""
    from .lowering import offenders as run

    return run(module, signature=signature)


def support(name: str) -> str:
    """How the op `name` is written: direct, decomposed, or - when there is no way."""
    from .lowering import support as run

    return run(name)


__all__ = ["FORMAT", "SUFFIXES", "legalize", "offenders", "support", "write"]
