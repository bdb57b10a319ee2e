"""Which ops compute on integers, and how: the table that insertion reads. A row says which operands are data, where the
weight and its output channel stand, and how the result's grid relates to the operands'.

    product   weight (or data) times data, summed in 32 bits; the result has a grid of its own
    own       the result has a grid of its own
    same      operands and result share one grid: the op moves, picks or averages elements
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ...ir.types import BF16, F16, F32
from ...ir.value import Node, Value

#: Types that are quantised; f64 is asked for where digits matter.
FLOATS = frozenset({F16, BF16, F32})


class Role(NamedTuple):
    """`data` are the operands that carry data (None: all). `fixed` is the range of a result that needs no observation."""

    kind: str
    data: tuple[int, ...] | None = None
    fixed: tuple[float, float] | None = None
    fits: Callable[[Node], bool] = lambda node: True


def _keeps_range(node: Node) -> bool:
    """A resize that makes no value beyond those it was given."""
    outside = node.attr("coordinate_transformation_mode") == "tf_crop_and_resize"
    return node.attr("mode") in ("nearest", "linear") and not outside and not node.attr("antialias")


def _constant_pad(node: Node) -> bool:
    """A pad whose value, if it has one, is a known number."""
    value = node.operand("value")
    return value is None or value.scalar() is not None


def _known_limits(node: Node) -> bool:
    return all(v is None or v.scalar() is not None for v in node.operands[1:])


_FIRST = (0,)
_SAME = Role("same", _FIRST)
_OWN = Role("own", _FIRST)

ROLES: dict[str, Role] = {
    **dict.fromkeys(("conv", "conv_transpose", "gemm", "matmul"), Role("product", (0, 1))),
    **dict.fromkeys(("add", "sub", "mul"), Role("own")),
    **dict.fromkeys(("concat", "max", "min"), Role("same")),
    "where": Role("same", (1, 2)),
    **dict.fromkeys(
        (
            "reshape", "transpose", "slice", "split", "squeeze", "unsqueeze", "expand", "tile", "flatten", "gather",
            "space_to_depth", "depth_to_space", "reverse", "identity", "max_pool", "global_max_pool",
            "adaptive_max_pool", "average_pool", "reduce_max", "reduce_min",
        ),
        _SAME,
    ),
    "resize": Role("same", _FIRST, fits=_keeps_range),
    "pad": Role("same", _FIRST, fits=_constant_pad),
    "clip": Role("own", _FIRST, fits=_known_limits),
    "prelu": Role("own"),
    **dict.fromkeys(
        (
            "relu", "relu6", "leaky_relu", "elu", "hard_swish", "hard_sigmoid", "silu", "gelu", "mish", "neg", "abs",
            "global_average_pool", "adaptive_average_pool", "reduce_mean", "reduce_sum",
        ),
        _OWN,
    ),
    **dict.fromkeys(("sigmoid", "softmax"), Role("own", _FIRST, (0.0, 1.0))),
    "tanh": Role("own", _FIRST, (-1.0, 1.0)),
    "log_softmax": Role("own", _FIRST, (-16.0, 0.0)),
}  # fmt: skip

#: Activations that saturation of the result does, or an integer clamp: nothing stands between them and their producer.
CLAMPS = frozenset({"relu", "relu6", "clip"})


def role_of(node: Node) -> Role | None:
    """How `node` computes on integers; None where it does not."""
    role = ROLES.get(node.name)
    if role is None or node.regions or not node.results or not role.fits(node):
        return None
    touched = [*(v for _, v in data_operands(node, role)), *node.results]
    if any(v.dtype not in FLOATS or v.rank is None for v in touched):
        return None
    return role


def data_operands(node: Node, role: Role) -> list[tuple[int, Value]]:
    """The operands that carry data (or a product's weight), with their places."""
    pairs = enumerate(node.operands)
    return [(i, v) for i, v in pairs if v is not None and (role.data is None or i in role.data)]


class Weighted(NamedTuple):
    """A product with a constant factor: where it stands, its output channels' axis, the axis that is summed over, and the
    bias operand's place."""

    place: int
    channel: int | None
    summed: int
    bias: int | None


def weighted(node: Node) -> Weighted | None:
    """Where the weight of a product stands; None where both factors are data."""
    second, first = node.operands[1], node.operands[0]
    bias = 2 if len(node.operands) > 2 and node.operands[2] is not None else None
    if second is not None and second.is_const and second.rank:
        if node.name == "conv":
            return Weighted(1, 0, 1, bias)
        if node.name == "conv_transpose":
            return Weighted(1, 1, 0, bias)
        if node.name == "gemm":
            return Weighted(1, *((0, 1) if node.attr("transB") else (1, 0)), bias)
        return Weighted(1, second.rank - 1, second.rank - 2, None) if second.rank > 1 else Weighted(1, None, 0, None)
    if node.name in ("gemm", "matmul") and first is not None and first.is_const and first.rank:
        return Weighted(0, None, first.rank - 1, bias)
    return None
