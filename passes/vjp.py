"""Vector-Jacobian products: what each op hands back to its operands, given what its results were handed.

    @vjp("mul")
    def _mul(b, node, g): ...          # g: one adjoint per result (None: none); returns one per operand (None: nothing)

Where a derivative has several values (relu at 0, abs at 0, ties of max) frameworks differ; 0 at the kink, and for ties the
first operand, is what PyTorch does in the first two cases and what is done here in all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..ir.builder import Builder
from ..ir.dims import dim_eq
from ..ir.errors import Unsupported
from ..ir.graph import Node, Value
from ..ir.ops.window import resolve_pads, window
from ..ir.storage import check_limit

Handed = tuple[Value | None, ...]
Rule = Callable[[Builder, Node, Handed], Sequence[Value | None]]

#: Op name -> its rule.
RULES: dict[str, Rule] = {}


def vjp(*names: str) -> Callable[[Rule], Rule]:
    """Register the rule of ops by name. A second rule for one op is an error."""

    def register(rule: Rule) -> Rule:
        for name in names:
            if name in RULES:
                raise TypeError(f"two derivatives of {name}")
            RULES[name] = rule
        return rule

    return register


def pointwise(name: str) -> Callable[[Callable[[Builder, Node, Value], Value]], Any]:
    """Register an op of one operand by its derivative: the adjoint of its result is multiplied by it."""

    def register(derivative: Callable[[Builder, Node, Value], Value]) -> Any:
        def rule(b: Builder, node: Node, handed: Handed) -> Sequence[Value | None]:
            return [b.mul(_given(handed), derivative(b, node, _one(node)))]

        vjp(name)(rule)
        return derivative

    return register


# ---------------------------------------------------------------------------------------------------------- helpers


def number(b: Builder, value: float, like: Value) -> Value:
    return b.const(np.asarray(value, like.dtype.numpy))  # type: ignore[union-attr]


def filled_like(b: Builder, x: Value, value: float) -> Value:
    """A tensor of x's shape and dtype."""
    if x.dtype is None:
        raise Unsupported(f"a derivative by a value of type {x.type}")
    known = x.shape is not None and all(isinstance(d, int) for d in x.shape)
    return b.expand(number(b, value, x), x.shape if known else b.shape(x))


def ones_like(b: Builder, x: Value) -> Value:
    return filled_like(b, x, 1)


def zeros_like(b: Builder, x: Value) -> Value:
    return filled_like(b, x, 0)


def _one(node: Node) -> Value:
    return node.operands[0]  # type: ignore[return-value]


def _given(handed: Handed) -> Value:
    """The adjoint of the first result, which is there: a node is visited when one of its results has one."""
    return handed[0]  # type: ignore[return-value]


def rank_of(value: Value, node: Node) -> int:
    if value.rank is None:
        raise Unsupported(f"the derivative of {node.name} needs the rank of its operand")
    return value.rank


def summed_to(b: Builder, g: Value, like: Value, node: Node) -> Value:
    """`g` summed over the axes along which `like` was broadcast."""
    have, want = g.shape, like.shape
    if have is None or want is None:
        raise Unsupported(f"the derivative of {node.name} needs the shapes of its operands")
    lead = len(have) - len(want)
    axes = list(range(lead))
    for axis, (h, w) in enumerate(zip(have[lead:], want, strict=True), lead):
        if w == 1 and h != 1:
            axes.append(axis)
        elif w != 1 and dim_eq(h, w) is not True:
            raise Unsupported(f"the derivative of {node.name}: whether {w} is broadcast to {h} is not known")
    if not axes:
        return g
    kept = b.reduce_sum(g, tuple(axes), keepdims=True)
    return b.squeeze(kept, tuple(range(lead))) if lead else kept


def like_operand(b: Builder, g: Value, x: Value) -> Value:
    """`g`, which has x's elements in order, in x's shape."""
    if x.shape is not None and all(isinstance(d, int) for d in x.shape):
        return b.reshape(g, x.shape, allowzero=0 in x.shape)
    return b.reshape(g, b.shape(x), allowzero=True)


# ------------------------------------------------------------------------------------------------------- arithmetic


@vjp("add")
def _add(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    return [summed_to(b, _given(g), v, node) for v in node.inputs()]


@vjp("sub")
def _sub(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    x, y = node.inputs()
    return [summed_to(b, _given(g), x, node), summed_to(b, b.neg(_given(g)), y, node)]


@vjp("mul")
def _mul(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    x, y = node.inputs()
    return [summed_to(b, b.mul(_given(g), y), x, node), summed_to(b, b.mul(_given(g), x), y, node)]


@vjp("div")
def _div(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    x, y = node.inputs()
    first = b.div(_given(g), y)
    return [summed_to(b, first, x, node), summed_to(b, b.neg(b.mul(first, node.result)), y, node)]


@vjp("pow")
def _pow(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    """y x**(y - 1), which is 0 for y = 0, and x**y log(x), which is 0 for x = 0."""
    x, y = node.inputs()
    if y.dtype is not x.dtype:
        if not y.is_const:
            raise Unsupported(f"the derivative of pow with an exponent of {y.dtype}")
        y = b.const(y.array().astype(x.dtype.numpy))  # type: ignore[union-attr]
    zero, one = number(b, 0, x), number(b, 1, x)
    lower = b.where(b.equal(y, zero), one, b.sub(y, one))
    base = b.mul(_given(g), b.mul(y, b.pow(x, lower)))
    if node.operands[1].is_const:  # type: ignore[union-attr]
        return [summed_to(b, base, x, node), None]
    log = b.log(b.where(b.equal(x, zero), one, x))
    power = b.mul(_given(g), b.mul(node.result, log))
    return [summed_to(b, base, x, node), summed_to(b, power, y, node)]


@vjp("max", "min")
def _extreme(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    x, y = node.inputs()
    first = b.greater_equal(x, y) if node.name == "max" else b.less_equal(x, y)
    zero = number(b, 0, x)
    return [
        summed_to(b, b.where(first, _given(g), zero), x, node),
        summed_to(b, b.where(first, zero, _given(g)), y, node),
    ]


@vjp("where")
def _where(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    condition, x, y = node.inputs()
    zero = number(b, 0, x)
    return [
        None,
        summed_to(b, b.where(condition, _given(g), zero), x, node),
        summed_to(b, b.where(condition, zero, _given(g)), y, node),
    ]


@vjp("clip")
def _clip(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    """The bounds are taken as constants."""
    x, low, high = (*node.operands, None, None)[:3]
    made = _given(g)
    for bound, beyond in ((low, b.less), (high, b.greater)):
        if bound is not None:
            if not bound.is_const:
                raise Unsupported("the derivative of clip with computed bounds")
            made = b.where(beyond(x, bound), number(b, 0, made), made)
    return [made]


@vjp("floor", "ceil", "round", "trunc", "sign")
def _flat(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    return [None]


# --------------------------------------------------------------------------------------------------------- pointwise


@vjp("neg")
def _neg(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    return [b.neg(_given(g))]


@vjp("identity")
def _identity(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    return [_given(g)]


@vjp("cast")
def _cast(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    """Between floats; an integer hands nothing back."""
    dtype = _one(node).dtype
    return [b.cast(_given(g), to=dtype) if dtype is not None and dtype.is_float else None]


pointwise("exp")(lambda b, n, x: n.result)
pointwise("log")(lambda b, n, x: b.reciprocal(x))
pointwise("sqrt")(lambda b, n, x: b.div(number(b, 0.5, x), n.result))
pointwise("rsqrt")(lambda b, n, x: b.mul(number(b, -0.5, x), b.div(n.result, x)))
pointwise("square")(lambda b, n, x: b.mul(number(b, 2, x), x))
pointwise("reciprocal")(lambda b, n, x: b.neg(b.mul(n.result, n.result)))
pointwise("abs")(lambda b, n, x: b.sign(x))
pointwise("sin")(lambda b, n, x: b.cos(x))
pointwise("cos")(lambda b, n, x: b.neg(b.sin(x)))
pointwise("log1p")(lambda b, n, x: b.reciprocal(b.add(x, number(b, 1, x))))
pointwise("expm1")(lambda b, n, x: b.exp(x))
pointwise("tanh")(lambda b, n, x: b.sub(number(b, 1, x), b.mul(n.result, n.result)))
pointwise("sigmoid")(lambda b, n, x: b.mul(n.result, b.sub(number(b, 1, x), n.result)))
pointwise("softplus")(lambda b, n, x: b.sigmoid(x))
pointwise("relu")(lambda b, n, x: _above(b, x, number(b, 0, x)))
pointwise("relu6")(lambda b, n, x: b.mul(_above(b, x, number(b, 0, x)), _above(b, number(b, 6, x), x)))
pointwise("silu")(lambda b, n, x: _silu(b, n, x))


@pointwise("erf")
def _erf(b: Builder, node: Node, x: Value) -> Value:
    return b.mul(number(b, 2 / math.sqrt(math.pi), x), b.exp(b.neg(b.mul(x, x))))


@pointwise("leaky_relu")
def _leaky_relu(b: Builder, node: Node, x: Value) -> Value:
    return b.where(b.greater(x, number(b, 0, x)), number(b, 1, x), number(b, node.attr("alpha"), x))


@pointwise("elu")
def _elu(b: Builder, node: Node, x: Value) -> Value:
    alpha = number(b, node.attr("alpha"), x)
    return b.where(b.greater(x, number(b, 0, x)), number(b, 1, x), b.add(node.result, alpha))


def _above(b: Builder, x: Value, limit: Value) -> Value:
    return b.cast(b.greater(x, limit), to=x.dtype)


def _silu(b: Builder, node: Node, x: Value) -> Value:
    """s + y (1 - s) with s = sigmoid(x)."""
    s = b.sigmoid(x)
    return b.add(s, b.mul(node.result, b.sub(number(b, 1, x), s)))


# ---------------------------------------------------------------------------------------------------------- products


def _turned(b: Builder, x: Value, rank: int) -> Value:
    """The last two axes swapped."""
    return b.transpose(x, perm=(*range(rank - 2), rank - 1, rank - 2))


@vjp("matmul")
def _matmul(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    """Vectors become matrices of one row or column for the while."""
    x, y = node.inputs()
    given, rank_x, rank_y = _given(g), rank_of(x, node), rank_of(y, node)
    left = b.unsqueeze(x, (0,)) if rank_x == 1 else x
    right = b.unsqueeze(y, (1,)) if rank_y == 1 else y
    if rank_y == 1:
        given = b.unsqueeze(given, (-1,))
    if rank_x == 1:
        given = b.unsqueeze(given, (-2,))
    dx = summed_to(b, b.matmul(given, _turned(b, right, max(rank_y, 2))), left, node)
    dy = summed_to(b, b.matmul(_turned(b, left, max(rank_x, 2)), given), right, node)
    return [b.squeeze(dx, (0,)) if rank_x == 1 else dx, b.squeeze(dy, (1,)) if rank_y == 1 else dy]


@vjp("gemm")
def _gemm(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    x, y, z = (*node.operands, None)[:3]
    alpha, turned_x, turned_y = node.attr("alpha"), node.attr("transA"), node.attr("transB")
    given = _given(g)
    dx = (
        b.gemm(y, given, alpha=alpha, transA=turned_y, transB=True)
        if turned_x
        else b.gemm(given, y, alpha=alpha, transB=not turned_y)
    )
    dy = (
        b.gemm(given, x, alpha=alpha, transA=True, transB=turned_x)
        if turned_y
        else b.gemm(x, given, alpha=alpha, transA=not turned_x)
    )
    dz = None if z is None else summed_to(b, b.mul(given, number(b, node.attr("beta"), given)), z, node)
    return [dx, dy, dz]


@vjp("conv")
def _conv(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    """By x: the transposed convolution, filled up to x's size. By w: the convolution of x with the adjoint, batch and
    channels in each other's place and strides and dilations too; groups are told apart by slices of the channels."""
    x, w, bias = (*node.operands, None)[:3]
    given, spatial = _given(g), rank_of(w, node) - 2  # type: ignore[arg-type]
    dims = (*(x.shape or (None,)), *(w.shape or (None,)), *(given.shape or (None,)))  # type: ignore[union-attr]
    known = all(isinstance(d, int) for d in (*dims[2 : spatial + 2], *w.shape, *given.shape[2:]))  # type: ignore[union-attr, misc]
    if node.attr("channels_last") or not known:
        raise Unsupported("the derivative of conv needs channels in front and known sizes")
    geometry = {name: node.attr(name) for name in ("strides", "pads", "dilations", "auto_pad")}
    _, strides, dilations, begins, ends, *_ = full = resolve_pads(window(w.shape[2:], **geometry), x.shape[2:])  # type: ignore[union-attr, index]
    pads, groups, extents = (*begins, *ends), node.attr("groups"), full.extents
    spare = tuple(
        x.shape[2 + i] + pads[i] + pads[spatial + i] - ((given.shape[2 + i] - 1) * strides[i] + extents[i])  # type: ignore[union-attr, index]
        for i in range(spatial)
    )
    dx = b.conv_transpose(
        given, w, strides=strides, pads=pads, dilations=dilations, groups=groups, output_padding=spare
    ) if all(s < max(strides[i], dilations[i]) for i, s in enumerate(spare)) else None  # fmt: skip
    if dx is None:
        raise Unsupported("the derivative of conv whose pads leave more than a stride unused")
    reach = tuple(pads[spatial + i] - spare[i] for i in range(spatial))
    swap = (1, 0, *range(2, 2 + spatial))
    parts = []
    for i in range(groups):
        own = _channels(b, x, i, groups), _channels(b, given, i, groups)
        turned = [b.transpose(v, perm=swap) for v in own]
        made = b.conv(
            _padded(b, turned[0], pads[:spatial], reach), turned[1], strides=dilations, dilations=strides,
            pads=(0,) * (2 * spatial),
        )  # fmt: skip
        parts.append(b.transpose(made, perm=swap))
    dw = parts[0] if groups == 1 else b.concat(*parts, axis=0)
    axes = (0, *range(2, 2 + spatial))
    return [dx, dw, None if bias is None else b.reduce_sum(given, axes, keepdims=False)]


def _channels(b: Builder, x: Value, index: int, groups: int) -> Value:
    """Group `index` of the channels."""
    if groups == 1:
        return x
    size = x.shape[1] // groups  # type: ignore[index]
    return b.slice(x, (index * size,), ((index + 1) * size,), (1,))


def _padded(b: Builder, x: Value, begins: Sequence[int], ends: Sequence[int]) -> Value:
    """Zeros around the spatial axes; a negative number cuts off."""
    if not any((*begins, *ends)):
        return x
    return b.pad(x, (0, 0, *begins, 0, 0, *ends))


# -------------------------------------------------------------------------------------------------------- reductions


def _reduced_axes(node: Node) -> tuple[int, ...]:
    x, axes = (*node.operands, None)[:2]
    rank = rank_of(x, node)  # type: ignore[arg-type]
    known = axes.ints() if axes is not None else ()
    if known is None:
        raise Unsupported(f"the derivative of {node.name} needs known axes")
    if not known:
        return () if node.attr("noop_with_empty_axes") else tuple(range(rank))
    return tuple(sorted(a % rank for a in known))


def _spread(b: Builder, node: Node, g: Value) -> Value:
    """An adjoint of the reduced value, in the shape of the operand but for axes of 1."""
    axes = _reduced_axes(node)
    return g if node.attr("keepdims") or not axes else b.unsqueeze(g, axes)


def _expanded(b: Builder, g: Value, x: Value) -> Value:
    static = x.shape is not None and all(isinstance(d, int) for d in x.shape)
    return b.expand(g, x.shape if static else b.shape(x))


@vjp("reduce_sum")
def _reduce_sum(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    return [_expanded(b, _spread(b, node, _given(g)), _one(node))]


@vjp("reduce_mean")
def _reduce_mean(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    return [_shared(b, node, _spread(b, node, _given(g)))]


@vjp("global_average_pool")
def _global_average_pool(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    return [_shared(b, node, _given(g))]


def _shared(b: Builder, node: Node, g: Value) -> Value:
    """The adjoint of a mean, in equal parts."""
    x = _one(node)
    total = b.div(b.size(x), b.size(node.result))
    return _expanded(b, b.div(g, b.cast(total, to=x.dtype)), x)


@vjp("reduce_sum_square")
def _reduce_sum_square(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    x = _one(node)
    return [b.mul(_spread(b, node, _given(g)), b.mul(number(b, 2, x), x))]


@vjp("softmax")
def _softmax(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    """y (g - sum(g y))"""
    y = node.result
    total = b.reduce_sum(b.mul(_given(g), y), (node.attr("axis"),), keepdims=True)
    return [b.mul(y, b.sub(_given(g), total))]


@vjp("log_softmax")
def _log_softmax(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    """g - softmax(x) sum(g)"""
    total = b.reduce_sum(_given(g), (node.attr("axis"),), keepdims=True)
    return [b.sub(_given(g), b.mul(b.exp(node.result), total))]


# ------------------------------------------------------------------------------------------------------------ shapes


@vjp("reshape", "flatten", "squeeze", "unsqueeze")
def _reshape(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    return [like_operand(b, _given(g), _one(node))]


@vjp("transpose")
def _transpose(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    perm = node.attr("perm") or tuple(reversed(range(rank_of(_one(node), node))))
    return [b.transpose(_given(g), perm=tuple(int(i) for i in np.argsort(perm)))]


@vjp("expand")
def _expand(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    return [summed_to(b, _given(g), _one(node), node)]


@vjp("concat")
def _concat(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    axis, parts = node.attr("axis"), list(node.inputs())
    sizes = [v.shape[axis] if v.shape is not None else None for v in parts]
    if not all(isinstance(size, int) for size in sizes):
        raise Unsupported("the derivative of concat needs known sizes")
    ends = np.cumsum(sizes).tolist()
    return [b.slice(_given(g), (end - size,), (end,), (axis,)) for end, size in zip(ends, sizes, strict=True)]


@vjp("slice")
def _slice(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    """The adjoint put back where it was taken, zeros elsewhere: along each axis by the positions that were taken."""
    x, made = _one(node), _given(g)
    starts, ends, axes, steps = (v.ints() if v is not None else None for v in (*node.operands[1:], None, None)[:4])
    if starts is None or ends is None or x.shape is None:
        raise Unsupported("the derivative of slice needs known bounds")
    axes = axes if axes is not None else tuple(range(len(starts)))
    steps = steps if steps is not None else (1,) * len(starts)
    from ..ir.ops.shapes import slice_positions

    for axis, *bounds in zip(axes, starts, ends, steps, strict=True):
        size = x.shape[axis]
        if not isinstance(size, int):
            raise Unsupported("the derivative of slice along an axis of unknown size")
        check_limit("fold_bytes", 8 * size, "bytes of a table in a derivative")
        positions = np.asarray(slice_positions(size, *bounds), np.int64)
        back = np.full(size, len(positions), np.int64)
        back[positions] = np.arange(len(positions))
        pads = [0] * (2 * len(x.shape))
        pads[len(x.shape) + axis % len(x.shape)] = 1
        made = b.gather(b.pad(made, tuple(pads)), b.const(back), axis=axis)
    return [made]


@vjp("split")
def _split(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    parts = [zeros_like(b, v) if given is None else given for v, given in zip(node.results, g, strict=True)]
    return [b.concat(*parts, axis=node.attr("axis"))]


@vjp("pad")
def _pad(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    """Constant padding: what was added is cut off."""
    x, (pads, _, axes) = _one(node), (*node.operands[1:], None, None)[:3]
    known = pads.ints() if pads is not None else None
    dims = x.shape
    if node.attr("mode") != "constant" or known is None or dims is None:
        raise Unsupported("the derivative of pad needs constant padding of known size")
    along = axes.ints() if axes is not None else tuple(range(len(dims)))
    ends = known[len(known) // 2 :]
    if along is None or min(known, default=0) < 0:
        raise Unsupported("the derivative of pad that cuts off")
    starts = known[: len(known) // 2]
    return [b.slice(_given(g), starts, tuple(-e if e else 2**31 - 1 for e in ends), along), None]


@vjp("gather")
def _gather(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    """Added up at the places that were read."""
    x, at = node.inputs()
    axis, rank, many = node.attr("axis") % rank_of(x, node), rank_of(x, node), rank_of(at, node)
    front = (*range(axis, axis + many), *range(axis), *range(axis + many, rank + many - 1))
    perm = (axis, *range(axis), *range(axis + 1, rank))
    base = b.transpose(zeros_like(b, x), perm=perm) if axis else zeros_like(b, x)
    given = b.transpose(_given(g), perm=front) if axis else _given(g)
    made = b.scatter_nd(base, b.unsqueeze(at, (-1,)), given, reduction="add")
    back = tuple(int(i) for i in np.argsort(perm))
    return [b.transpose(made, perm=back) if axis else made]
