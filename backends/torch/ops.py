"""Operators for training that the core IR has not, named `torch.*`. Each has a kernel, so that what is trained prints, runs
and is compared like any other graph. Must not import torch.
"""

from __future__ import annotations

import numpy as np

from ...ir.opdef import ELEMENTWISE, PURE, DtypeVar, OpDef, op, operand
from ...ir.types import F32, F64
from ...kernels.registry import kernel

T = DtypeVar("T", frozenset({F32, F64}))


@op(name="torch.straight_round")
class StraightRound(OpDef):
    """round(x), half to even, with the gradient of x: the straight-through estimator (Bengio et al., 1308.3432)."""

    x = operand(T)
    traits = PURE | ELEMENTWISE

    def infer(self, x):
        return x.type


kernel("torch.straight_round")(np.rint)
