"""Importing this module fills the handler table. Must not import torch."""

from . import (
    activation,
    attention,
    control,
    conv,
    creation,
    elementwise,
    index,
    matmul,
    norm,
    pool,
    quant,
    recurrent,
    reduce,
    resize,
    shape,
    written,
)

__all__ = [
    "activation",
    "attention",
    "control",
    "conv",
    "creation",
    "elementwise",
    "index",
    "matmul",
    "norm",
    "pool",
    "quant",
    "recurrent",
    "reduce",
    "resize",
    "shape",
    "written",
]
