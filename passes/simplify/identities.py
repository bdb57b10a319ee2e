"""What does nothing goes: identities, casts, expands, transposes, pads, slices, concats and pools that change nothing."""

from __future__ import annotations

from ...ir.graph import Node
from ...ir.types import STRING, DType
from ..optimize.common import producer, same_type
from ..rewrite import StagingBuilder, rule


@rule("identity")
def drop_identity(b: StagingBuilder, node: Node):
    """identity(x) -> x"""
    return node.operands[0]


@rule("cast")
def drop_cast(b: StagingBuilder, node: Node):
    """cast to the dtype that x has -> x"""
    x = node.operands[0]
    return x if x.dtype is node.attr("to") else None


@rule("cast")
def merge_casts(b: StagingBuilder, node: Node):
    """cast(cast(x)) -> cast(x) where the inner one loses nothing"""
    inner = producer(node.operands[0], "cast")
    if inner is None:
        return None
    x = inner.operands[0]
    if x.dtype is None or not widens(x.dtype, inner.attr("to")):
        return b.decline("the inner cast may lose something")
    if node.attr("to") is STRING and inner.attr("to").is_float:
        return None  # the spelling depends on the type: f32 0.1 is "0.1", as f64 it is "0.10000000149011612"
    return b.call("cast", (x,), dict(node.attrs)).result


_EXACT_BITS = {"f16": 11, "bf16": 8, "f32": 24, "f64": 53}
_WIDER = {("f16", "f32"), ("f16", "f64"), ("bf16", "f32"), ("bf16", "f64"), ("f32", "f64")}


def widens(source: DType, target: DType) -> bool:
    """Every value of `source` is one of `target`."""
    if source.kind == "bool":
        return target.is_int or target.is_float
    if source.is_int and target.is_int:
        if source.is_packed or target.is_packed:
            return False
        signed = (source.kind == "int", target.kind == "int")
        return signed != (True, False) and target.bits - source.bits >= (signed == (False, True))
    if source.is_int and target.name in _EXACT_BITS:
        return source.bits <= _EXACT_BITS[target.name]
    return (source.name, target.name) in _WIDER


@rule("expand")
def drop_expand(b: StagingBuilder, node: Node):
    """expand to the shape that x has -> x"""
    return node.operands[0] if same_type(node.operands[0], node.result) else None


@rule("reshape", "flatten", "squeeze", "unsqueeze", "tile", "slice", "pad", "reverse")
def drop_no_op(b: StagingBuilder, node: Node):
    """reshape, tile, slice, pad and reverse that leave everything as it is -> x"""
    x = node.operands[0]
    return x if same_type(x, node.result) and _STAYS.get(node.name, _always)(node) else None


def _always(node: Node) -> bool:
    return True


def _no_steps(node: Node) -> bool:
    steps = node.operand("steps")
    return steps is None or (steps.ints() is not None and all(s == 1 for s in steps.ints()))


def _no_pads(node: Node) -> bool:
    pads = node.operand("pads").ints()
    return pads is not None and not any(pads)


def _only_unit_axes(node: Node) -> bool:
    shape = node.operands[0].shape  # type: ignore[union-attr]
    return shape is not None and all(shape[a] == 1 for a in node.attr("axes"))


_STAYS = {"slice": _no_steps, "pad": _no_pads, "reverse": _only_unit_axes}


@rule("transpose")
def drop_transpose(b: StagingBuilder, node: Node):
    """transpose by the identity -> x"""
    perm = node.attr("perm")
    return node.operands[0] if perm == tuple(range(len(perm))) else None


@rule("transpose", benefit=2)
def merge_transposes(b: StagingBuilder, node: Node):
    """transpose(transpose(x)) -> transpose(x)"""
    inner = producer(node.operands[0], "transpose")
    if inner is None:
        return None
    outer_perm, inner_perm = node.attr("perm"), inner.attr("perm")
    return b.transpose(inner.operands[0], perm=tuple(inner_perm[p] for p in outer_perm))


@rule("concat")
def drop_concat_of_one(b: StagingBuilder, node: Node):
    """concat(x) -> x; empty parts go"""
    axis = node.attr("axis")
    parts = [v for v in node.operands if v.shape is None or v.shape[axis] != 0]
    if len(parts) == 1 and same_type(parts[0], node.result):
        return parts[0]
    if parts and len(parts) < len(node.operands):
        return b.concat(*parts, axis=axis)
    return None


@rule("split")
def drop_split_into_one(b: StagingBuilder, node: Node):
    """split into one part -> x"""
    if len(node.results) != 1 or not same_type(node.operands[0], node.results[0]):
        return None
    return node.operands[0]


@rule("max_pool", "average_pool")
def drop_pool_of_one(b: StagingBuilder, node: Node):
    """max_pool and average_pool with a window of one element and stride 1 -> x"""
    if any(k != 1 for k in (*node.attr("kernel_shape"), *node.attr("strides"))):
        return None  # padding is always smaller than the window, so there is none
    return node.operands[0] if same_type(node.operands[0], node.result) else None


@rule("global_max_pool", "global_average_pool")
def drop_global_pool(b: StagingBuilder, node: Node):
    """global_max_pool and global_average_pool of one element -> x"""
    x = node.operands[0]
    return x if x.shape is not None and all(d == 1 for d in x.shape[2:]) and same_type(x, node.result) else None


@rule("resize")
def drop_resize(b: StagingBuilder, node: Node):
    """resize by nearest neighbours to the size that x has -> x"""
    x, scales = node.operands[0], node.operand("scales")
    if node.attr("mode") != "nearest" or not same_type(x, node.result):
        return None
    if node.attr("coordinate_transformation_mode") not in ("half_pixel", "asymmetric", "pytorch_half_pixel"):
        return b.decline("the coordinates are other ones")
    if scales is not None and (not scales.is_const or any(scales.array() != 1)):
        return b.decline("the scales are not 1")
    return x


RULES = (
    drop_identity,
    drop_cast,
    merge_casts,
    drop_expand,
    drop_no_op,
    drop_transpose,
    merge_transposes,
    drop_concat_of_one,
    drop_split_into_one,
    drop_pool_of_one,
    drop_global_pool,
    drop_resize,
)
