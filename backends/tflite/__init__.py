"""The TFLite backend: legalise a clone of the module until every node is one that TFLite has, then write one for one.

legalize(module) -> Module        what will be written, as IR (it runs on the reference kernels)
offenders(module) -> list         what cannot be written, and why
write(module, path)               the file
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...ir.graph import Module
    from .legalization import Offender

FORMAT = "tflite"

__all__ = ["FORMAT", "legalize", "offenders", "write"]


def legalize(module: Module, **options: Any) -> Module:
    """A clone of `module` in which every node is legal. Raises Unsupported with all offenders at once."""
    from .legalization import legalize as run

    return run(module, **options)


def offenders(module: Module, **options: Any) -> list[Offender]:
    """The nodes, inputs and outputs that TFLite cannot express, each with the reason; empty when all is well."""
    from .legalization import offenders as run

    return run(module, **options)


def write(module: Module, path: str | os.PathLike[str], **options: Any) -> Module:
    """Write `module` to `path`; returns the legalised module that was written.

    Options: `weights_outside` (None: above 512 MB) puts weights behind the flatbuffer, `legal=True` says that `module`
    comes from `legalize`, `profile` is the runtime aimed at.
    """
    from .writer import write as run

    return run(module, path, **options)
