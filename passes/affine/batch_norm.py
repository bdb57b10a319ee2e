"""Scale and shift, batch norm among them, go into the weights of the layers around them.

y = f * (W x + b) + s = (f W) x + (f b + s) behind a layer, W (f x + s) + b = (W f) x + (W s + b) before one. The layer need not
be the neighbour: an affine travels along values that nothing else reads through what it commutes with (paths.py).
"""

from __future__ import annotations

import numpy as np

from ...ir.graph import Node, Value
from ...ir.tensor import ArrayTensor
from ..manager import pattern_pass
from ..rewrite import StagingBuilder, rule
from .affine import OPS, Affine, read, rounded, scaled
from .bias_shapes import reshape_constant_first
from .compose import compose_convolutions, order_of_products
from .grouped import einsum_of_groups_to_conv
from .moves import MOVES
from .paths import PASSED_BACK, before, behind
from .plan import BEHIND, Plan
from .products import PRODUCTS
from .rows import gemm_of_rows_to_matmul

_TAKERS = frozenset((*BEHIND, *MOVES, *PASSED_BACK))


@rule(*OPS, numerics="ulp", benefit=4)
def absorb_behind(b: StagingBuilder, node: Node):
    """batch_norm(conv(x, w)), mul(reshape(matmul(x, w)), c), add(conv(x, w, b), c) -> conv(x, w', b')"""
    if not any(v is not None and v.node is not None and v.node.name in _TAKERS for v in node.operands[:2]):
        return None
    found = read(node)
    if found is None:
        return b.decline("scale and shift must be finite constants")
    index, made = found
    data = node.operands[index]
    plan = Plan(made.sources)
    why = behind(plan, node, index, made)
    if why is None:
        plan.commit(b)
        return data
    return _as_gemm(b, node, data, made) or b.decline(why)  # type: ignore[arg-type]


def _as_gemm(b: StagingBuilder, node: Node, data: Value, made: Affine) -> Value | None:
    """A matmul of rank 2 has no bias, but the gemm that it is has one."""
    product = data.node
    if product is None or product.name != "matmul" or data.n_uses != 1 or data.rank != 2:
        return None
    x, w = product.operands
    if x.rank != 2 or w.rank != 2 or made.factor.shape[0] != 1 or made.shift.shape[0] != 1:  # type: ignore[union-attr]
        return None
    columns = data.shape[1]  # type: ignore[index]
    if not isinstance(columns, int) or (made.scales and w.weight is None):  # type: ignore[union-attr]
        return None
    tensor = scaled(w.weight, made.factor) if made.scales else None  # type: ignore[union-attr, arg-type]
    shift = rounded(np.broadcast_to(made.shift[0], (columns,)), data.dtype)  # type: ignore[arg-type]
    if shift is None or (made.scales and tensor is None):
        return None
    plan = Plan(made.sources)
    why = plan.put(product, 1, tensor) if tensor is not None else None
    key = w.weight.wanted if w.weight is not None else "gemm"  # type: ignore[union-attr]
    moved = None if made.scales else plan.moved(ArrayTensor(np.array(shift), data.dtype))
    why = why or plan.put(product, 2, ArrayTensor(np.array(shift), data.dtype), f"{key}.bias", moved)
    if why is not None:
        return None
    new = {i: plan.constant(b, item) for i, item in plan.operands[product].items()}
    return b.gemm(x, new.get(1, w), new[2])


@rule(*OPS, numerics="ulp", benefit=3)
def absorb_before(b: StagingBuilder, node: Node):
    """conv(mul(x, c), w), matmul(transpose(add(x, c)), w) -> conv(x, w', b')"""
    found = read(node)
    if found is None:
        return None
    index, made = found
    plan = Plan(made.sources)
    why = plan.visit(node) or before(plan, node.result, made)
    if why is not None:
        return b.decline(why)
    plan.commit(b)
    return node.operands[index]


fold_batch_norm = pattern_pass(
    "fold-batch-norm",
    [
        absorb_behind,
        absorb_before,
        compose_convolutions,
        order_of_products,
        reshape_constant_first,
        gemm_of_rows_to_matmul,
        einsum_of_groups_to_conv,
        *PRODUCTS,
    ],
    doc="Scale, shift, batch norm, bias and padding go into the weights and attributes of the layers around them.",
)
