"""Shape and movement ops; computed shapes become tuples (see `tuples`). Must not import MindSpore."""

from __future__ import annotations

import numpy as np

from ...ir.builder import Builder
from ...ir.types import F32, F64, I16, I32, I64
from ...ir.value import Node, Value
from ...passes.decompose.rules import Declined, Outcome, shape_of, sizes, static
from ...passes.decompose.shape import constant_pads
from .ops import WHOLE
from .registry import EVERY, FLOAT_2, INTS, Call, Shape, Tensors, emits, lowers
from .tuples import is_scalar, is_tuple, needs_tuple, scalar_of, tuple_of

_FAR = WHOLE


# ----------------------------------------------------------------------------------------------- tuples of ints


@emits("ms.dim", frozenset())
def dim(node: Node) -> Call:
    return Call("Shape", node.operands, picks=(node.attr("axis"),))


_SCALARS = {
    "add": "ScalarAdd",
    "sub": "ScalarSub",
    "mul": "ScalarMul",
    "div": "ScalarFloorDiv",
    "mod": "ScalarMod",
    "max": "ScalarMax",
    "min": "ScalarMin",
}


@emits("ms.scalar", frozenset())
def scalar(node: Node) -> Call:
    return Call(_SCALARS[node.attr("kind")], tuple(v.ints()[0] if v.ints() else v for v in node.operands))


@emits("ms.make_tuple", frozenset())
def make_tuple(node: Node) -> Call:
    return Call("MakeTuple", tuple(v.ints()[0] if v.ints() else v for v in node.operands))


@emits("ms.tensor_to_tuple", frozenset({I32, I64}))
def tensor_to_tuple(node: Node) -> Call:
    return Call("TensorToTuple", node.operands)


# ------------------------------------------------------------------------------------------------------- shapes


def _whole_shape(node: Node) -> str | None:
    known = node.result.ints() is not None
    whole = node.attr("start") == 0 and node.attr("end") is None
    return None if whole and not known else "TensorShape gives all dims, of a shape that is not known"


@emits("shape", frozenset(), check=_whole_shape)
def shape(node: Node) -> Call:
    return Call("TensorShape", node.operands)


@lowers("shape")
def lower_shape(b: Builder, node: Node) -> Outcome:
    """What is known is a constant; some of the dims are a slice of all."""
    known, x = node.result.ints(), node.operands[0]
    if known is not None:
        return b.const(np.asarray(known, np.int64).reshape(node.result.shape))
    end = x.rank if node.attr("end") is None else node.attr("end")
    return b.slice(b.shape(x), (node.attr("start"),), (end,), (0,))


def _settled(node: Node) -> str | None:
    given = node.operands[1].ints()
    if not is_tuple(node.operands[1]):
        return "a computed shape becomes a tuple first"
    return "a 0 stands for a dim" if given and 0 in given and not node.attr("allowzero") else None


@emits("reshape", EVERY, check=_settled)
def reshape(node: Node) -> Call:
    return Call("Reshape", (node.operands[0], Shape(node.operands[1])))


@lowers("reshape")
def lower_reshape(b: Builder, node: Node) -> Outcome:
    """Dims that inference knows, one of them -1 where it does not."""
    x, wanted = node.operands
    made = tuple_of(b, node, node.result.shape, _without_zeros(b, node), rest=True)
    if made is wanted:
        return Declined("")
    return b.reshape(x, made, allowzero=True)


def _without_zeros(b: Builder, node: Node) -> Value:
    """The computed shape with the dims of x in place of zeros, where there may be any."""
    x, wanted = node.operands
    elems = wanted.elems
    if node.attr("allowzero") or (elems is not None and all(e is not None and e != 0 for e in elems)):
        return wanted
    length = wanted.shape[0] if wanted.shape else None
    if is_tuple(wanted) or type(length) is not int:
        return wanted
    wanted = wanted if wanted.dtype is I64 else b.cast(wanted, to=I64)
    zero = b.const(np.asarray(0))
    own = shape_of(b, [*sizes(x, range(min(length, x.rank))), *[1] * (length - x.rank)])
    own = b.const(list(own)) if isinstance(own, tuple) else own
    return b.where(b.equal(wanted, zero), own, wanted)


def _full_target(node: Node) -> str | None:
    reason = needs_tuple(1)(node)
    given = node.operands[1].ints()
    if reason or given is None:
        return reason
    return None if given == node.result.shape else "BroadcastTo takes the result's shape"


@emits("expand", EVERY, check=_full_target)
def expand(node: Node) -> Call:
    return Call("BroadcastTo", (node.operands[0], Shape(node.operands[1])))


@lowers("expand")
def lower_expand(b: Builder, node: Node) -> Outcome:
    x, wanted = node.operands
    if is_tuple(wanted) and wanted.ints() is None:
        return Declined("")
    return b.expand(x, tuple_of(b, node, node.result.shape, _broadcast_shape(b, node)))


def _broadcast_shape(b: Builder, node: Node) -> Value:
    """The larger of both dims, axis by axis: sizes of 1 repeat either way."""
    x, wanted = node.operands
    wanted = wanted if wanted.dtype is I64 else b.cast(wanted, to=I64)
    rank = node.result.rank
    own = shape_of(b, [*[1] * (rank - x.rank), *sizes(x)])
    length = wanted.shape[0]
    if type(length) is int and length < rank:
        wanted = b.concat(b.const([1] * (rank - length)), wanted, axis=0)
    return b.max(wanted, b.const(list(own)) if isinstance(own, tuple) else own)


@emits("constant_of_shape", frozenset({I32, I64}), check=needs_tuple(0))
def constant_of_shape(node: Node) -> Call:
    return Call("FillV2", (Shape(node.operands[0]), np.asarray(node.attr("value"), node.result.dtype.numpy)))


@lowers("constant_of_shape")
def lower_constant_of_shape(b: Builder, node: Node) -> Outcome:
    made = tuple_of(b, node, node.result.shape, node.operands[0])
    return b.constant_of_shape(made, value=node.attr("value"), to=node.attr("to"))


@emits("tile", EVERY, check=needs_tuple(1))
def tile(node: Node) -> Call:
    return Call("Tile", (node.operands[0], Shape(node.operands[1])))


@lowers("tile")
def lower_tile(b: Builder, node: Node) -> Outcome:
    x, repeats = node.operands
    if is_tuple(repeats):
        return Declined("")
    known = repeats.elems is not None and None not in repeats.elems
    return b.tile(x, tuple_of(b, node, repeats.elems, repeats) if known else _raw(b, repeats))


def _raw(b: Builder, vector: Value) -> Value:
    vector = vector if vector.dtype is I64 else b.cast(vector, to=I64)
    return b.call("ms.tensor_to_tuple", (vector,)).results[0]


# ----------------------------------------------------------------------------------------------------- movement


@emits("transpose", EVERY)
def transpose(node: Node) -> Call:
    return Call("Transpose", (node.operands[0], node.attr("perm")))


def _several(node: Node) -> str | None:
    return None if len(node.operands) > 1 else "one tensor is not joined"


@emits("concat", EVERY, check=_several)
def concat(node: Node) -> Call:
    return Call("Concat", (Tensors(node.operands), node.attr("axis")))


@lowers("concat")
def lower_concat(b: Builder, node: Node) -> Outcome:
    return node.operands[0] if len(node.operands) == 1 else Declined("")


def _even(node: Node) -> bool:
    """All parts have one size: it is known, or the whole is a multiple of their number whatever its symbols are."""
    axis, x = node.attr("axis"), node.operands[0]
    dims = [v.shape[axis] for v in node.results]
    if static(*dims, x.shape[axis]):
        return len(set(dims)) == 1
    rest = x.shape[axis] % len(dims)
    return node.operand("split") is None and static(rest) and rest == 0


def _known_parts(node: Node) -> str | None:
    dims = [v.shape[node.attr("axis")] for v in node.results]
    return None if _even(node) or static(*dims) else "the sizes of the parts are computed"


@emits("split", EVERY, check=_known_parts)
def split(node: Node) -> Call:
    x, axis, count = node.operands[0], node.attr("axis"), len(node.results)
    axis = axis % x.rank
    if _even(node):
        return Call("Split", (x, axis, count), picks=tuple(range(count)))
    parts = tuple(v.shape[axis] for v in node.results)
    return Call("SplitWithSize", (x, parts, axis), picks=tuple(range(count)))


def _constant_axes(node: Node) -> str | None:
    axes = node.operand("axes")
    if axes is None:
        return None if static(*node.operands[0].shape) else "which dims are 1 is not known"
    return None if axes.ints() is not None else "the axes are computed"


@emits("squeeze", EVERY, check=_constant_axes)
def squeeze(node: Node) -> Call:
    x, axes = node.operands[0], node.operand("axes")
    gone = [i for i, d in enumerate(x.shape) if d == 1] if axes is None else sorted(a % x.rank for a in axes.ints())
    return Call("Squeeze", (x, tuple(gone))) if gone else Call("Identity", (x,))


def _one_axis(node: Node) -> str | None:
    axes = node.operands[1].ints()
    if axes is None:
        return "the axes are computed"
    return None if len(axes) == 1 else "ExpandDims adds one dim"


@emits("unsqueeze", EVERY, check=_one_axis)
def unsqueeze(node: Node) -> Call:
    return Call("ExpandDims", (node.operands[0], node.operands[1].ints()[0] % node.result.rank))


@lowers("unsqueeze")
def lower_unsqueeze(b: Builder, node: Node) -> Outcome:
    """One axis after the other, lowest first."""
    x, axes = node.operands[0], node.operands[1].ints()
    if axes is None or len(axes) == 1:
        return Declined("")
    for axis in sorted(a % node.result.rank for a in axes):
        x = b.unsqueeze(x, (axis,))
    return x


@emits("reverse", EVERY)
def reverse(node: Node) -> Call:
    return Call("ReverseV2", (node.operands[0], node.attr("axes")))


def _border(node: Node) -> str | None:
    pairs = constant_pads(node)
    if pairs is None:
        return "the pads are computed"
    if node.attr("mode") != "constant" or any(p < 0 for pair in pairs for p in pair):
        return "PadV3 adds constants"
    value = node.operand("value")
    return None if value is None or value.rank == 0 else "the value is a scalar"


@emits("pad", EVERY, check=_border)
def pad(node: Node) -> Call:
    """Pads are begin and end of the last axis first."""
    x, value = node.operands[0], node.operand("value")
    flat = tuple(p for pair in reversed(constant_pads(node)) for p in pair)
    value = np.zeros((), x.dtype.numpy) if value is None else value
    return Call("PadV3", (x, flat, value), {"mode": "constant", "paddings_contiguous": True})


@lowers("pad")
def scalar_pad(b: Builder, node: Node) -> Outcome:
    """A value of one element in a vector becomes a scalar."""
    x, value = node.operands[0], node.operand("value")
    if node.attr("mode") != "constant" or value is None or value.rank == 0:
        return Declined("")
    return b.pad(x, node.operands[1], b.reshape(value, ()), node.operand("axes"), mode="constant")


def _dcr(node: Node) -> str | None:
    return None if node.attrs.get("mode", "DCR") == "DCR" else "DepthToSpace takes blocks before channels"


@emits("depth_to_space", FLOAT_2 | INTS, check=_dcr)
def depth_to_space(node: Node) -> Call:
    return Call("DepthToSpace", node.operands, {"block_size": node.attr("blocksize"), "format": "NCHW"})


@emits("space_to_depth", FLOAT_2 | INTS, check=_dcr)
def space_to_depth(node: Node) -> Call:
    return Call("SpaceToDepth", node.operands, {"block_size": node.attr("blocksize"), "format": "NCHW"})


def _constant_diagonal(node: Node) -> str | None:
    k = node.operand("k")
    return None if k is None or k.ints() is not None else "the diagonal is computed"


@emits("trilu", EVERY, check=_constant_diagonal)
def trilu(node: Node) -> Call:
    k = node.operand("k")
    shift = 0 if k is None else k.ints()[0]
    if node.attr("upper"):
        return Call("Triu", (node.operands[0], shift))
    return Call("Tril", (node.operands[0],), {"diagonal": shift})


@emits("ms.item", frozenset({F32, I64}))
def item(node: Node) -> Call:
    return Call("TensorToScalar", node.operands)


def _scalars(node: Node) -> str | None:
    """All constants, or none that is a computed tensor."""
    if all(v.is_const for v in node.operands):
        return None
    if node.operands[0].dtype not in (F32, I64):
        return "scalars are of 64-bit integers or 32-bit floats"
    return None if all(v.is_const or is_scalar(v) for v in node.operands) else "bounds are scalars"


@emits("range", frozenset({F32, F64, I16, I32, I64}), check=_scalars)
def range_(node: Node) -> Call:
    """The last argument is the most elements that there may be."""
    if all(v.is_const for v in node.operands):
        return Call("Range", (*node.operands, _FAR))
    return Call("Range", (*(v.scalar() if v.is_const else v for v in node.operands), _FAR))


@lowers("range")
def lower_range(b: Builder, node: Node) -> Outcome:
    """Computed bounds become scalars; narrow integers count in i64."""
    kind = node.operands[0].dtype
    if kind in (I16, I32):
        return b.cast(b.range(*(b.cast(v, to=I64) for v in node.operands)), to=kind)
    if kind not in (F32, I64):
        return Declined("a computed range of f64")
    return b.range(*(v if v.is_const or is_scalar(v) else scalar_of(b, node, v) for v in node.operands))
