"""Reads the MindIR files that our backend writes (modern dialect) back into modules. MindSpore is not needed.

module = read("net.mindir")
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...ir.graph import Module

SUFFIXES = (".mindir",)


def read(source: str | os.PathLike, **_: Any) -> Module:
    """The model as a module with one signature, `serving_default`; parameters are mapped, not copied.

    Names are those of the file. A dim of -1 becomes the symbol that the writer noted, else a fresh one. Raises
    InvalidModel (broken), Unsupported (all unknown primitives in one message), LimitExceeded, SystemFailure.
    """
    from ...ir.errors import AnyIRError, clean
    from .reader import read_model

    try:
        return read_model(source)
    except AnyIRError as error:
        where = clean(os.fspath(source))
        raise error if error.where.startswith(where) else error.at(where) from None


__all__ = ["SUFFIXES", "read"]
