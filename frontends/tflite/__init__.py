"""Reads `.tflite` files into modules, with no runtime and no generated schema code.

    module = read("net.tflite")

Operators that mean the same as core ops become those; TFLite's own (channels-last convolutions, fused arithmetic ...)
become `tfl.*` ops, which have kernels; quantised ones become float ops between dequantize and quantize. Covers all that
the TFLite backend writes, and other models built from it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...ir.graph import Module

SUFFIXES = (".tflite",)

__all__ = ["SUFFIXES", "read"]


def read(source: str | os.PathLike[str], **options: Any) -> Module:
    """The module in `source`, weights mapped from the file.

    Raises InvalidModel (broken), Unsupported (operators that the IR has not), LimitExceeded,
    SystemFailure.
    """
    from .reader import read as run

    return run(source, **options)
