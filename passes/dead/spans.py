"""What is proven of values without data: for each slice along an axis an interval that holds every element, a constant where
its ends are equal. Data is held to be finite (0 * inf would be NaN), as everywhere in this pass.

Ends are float64 and rounded outwards, so that a bound stays one in the arithmetic of the runtime. One walk over the graphs, each
node once; nothing is stored of values of which nothing is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ...ir.graph import Graph, Module, Node, Value
from ...ir.opdef import ELEMENTWISE
from ...ir.types import BOOL, STRING, DType
from .functions import KEEP_ZERO, at_points, image
from .layers import Layers
from .movement import Part, channel_axis, parts, split_part
from .products import REAL, Product

#: Constants above this many elements say nothing along their axes unless they are matrices of products.
LARGEST = 1 << 22
#: Numbers of a matrix that are taken to float64 at once.
BLOCK = 1 << 20

Array = np.ndarray


class Span(NamedTuple):
    """Ends of the intervals: float64 [n], or [1] for all slices alike."""

    lo: Array
    hi: Array

    @property
    def constant(self) -> Array:
        return (self.lo == self.hi) & np.isfinite(self.lo)

    @property
    def zero(self) -> Array:
        return (self.lo == 0) & (self.hi == 0)

    @property
    def says(self) -> bool:
        return bool(np.isfinite(self.lo).any() or np.isfinite(self.hi).any())

    def wide(self, size: int) -> Span:
        return self if len(self.lo) == size else Span(np.repeat(self.lo, size), np.repeat(self.hi, size))

    def join(self, other: Span) -> Span:
        return Span(np.minimum(self.lo, other.lo), np.maximum(self.hi, other.hi))


UNKNOWN = Span(np.array([-np.inf]), np.array([np.inf]))
ZERO = Span(np.zeros(1), np.zeros(1))
UNIT = Span(np.zeros(1), np.ones(1))
SIGNED_UNIT = Span(-np.ones(1), np.ones(1))


def constant(number: Array) -> Span:
    return Span(number, number)


class Spans:
    """The spans of all values of a module. `ask(product, data)` says whether the intervals of a product's rows are worth their
    cost: without, only its constant rows are found."""

    def __init__(self, module: Module, layers: Layers, ask: Callable[[Product, Span], bool]) -> None:
        self.layers = layers
        self.ask = ask
        self.hulls: dict[Value, Span] = {}
        self.along: dict[Value, dict[int, Span]] = {}
        self._constants: dict[tuple[Value, int | None], Span | None] = {}
        for graph in module.all_graphs():
            self._walk(graph)

    def _walk(self, graph: Graph) -> None:
        for node in graph.nodes():
            if node in self.layers.products:
                self._product(self.layers.products[node])
            elif node.has(ELEMENTWISE):
                self._elementwise(node)
            elif node.name in _RULES:
                _RULES[node.name](self, node)

    # What is known.

    def hull(self, value: Value | None) -> Span:
        """Of all elements together."""
        if value is None:
            return UNKNOWN
        if value.is_const:
            return self._constant(value, None) or UNKNOWN
        return self.hulls.get(value, UNKNOWN)

    def at(self, value: Value | None, axis: int) -> Span:
        """Along an axis."""
        if value is None:
            return UNKNOWN
        if value.is_const:
            return self._constant(value, axis) or self._constant(value, None) or UNKNOWN
        return self.along.get(value, {}).get(axis) or self.hulls.get(value, UNKNOWN)

    def _constant(self, value: Value, axis: int | None) -> Span | None:
        key = (value, axis)
        if key not in self._constants:
            self._constants[key] = self._measured(value, axis)
        return self._constants[key]

    @staticmethod
    def _measured(value: Value, axis: int | None) -> Span | None:
        tensor = value.weight.tensor  # type: ignore[union-attr]
        if value.dtype not in REAL or not 0 < tensor.size <= LARGEST:
            return None
        array = value.array()
        others = tuple(i for i in range(array.ndim) if i != axis)
        lo = np.atleast_1d(array.min(axis=others).astype(np.float64))
        hi = np.atleast_1d(array.max(axis=others).astype(np.float64))
        return Span(lo, hi) if np.isfinite(lo).all() and np.isfinite(hi).all() else None

    # What is found.

    def tell(self, value: Value, axis: int | None, span: Span | None) -> None:
        if span is None or value.dtype not in REAL:
            return
        lo, hi = (np.where(np.isnan(end), wide, end) for end, wide in zip(span, (-np.inf, np.inf), strict=True))
        made = Span(lo, hi)
        if not made.says:
            return
        if axis is None:
            self.hulls[value] = made
        else:
            self.along.setdefault(value, {})[axis] = made

    def _elementwise(self, node: Node) -> None:
        y, operands = node.result, node.operands
        if y.dtype not in REAL or y.shape is None or any(v is not None and v.shape is None for v in operands):
            return
        self.tell(y, None, _rounded(node, transfer(node, [self.hull(v) if v is not None else None for v in operands])))
        rank = len(y.shape)
        for axis in self._axes(operands, rank):
            if type(y.shape[axis]) is int and y.shape[axis] > 1:  # type: ignore[operator]
                row = [None if v is None else self._aligned(v, axis - rank + len(v.shape)) for v in operands]  # type: ignore[arg-type]
                self.tell(y, axis, _rounded(node, _sized(transfer(node, row), y.shape[axis])))  # type: ignore[arg-type]

    def _axes(self, operands: Sequence[Value | None], rank: int) -> list[int]:
        """Axes of the result along which an operand says more than as a whole."""
        found: set[int] = set()
        for value in operands:
            if value is None:
                continue
            shift = rank - len(value.shape)  # type: ignore[arg-type]
            if value.is_const:
                found.update(i + shift for i, n in enumerate(value.shape) if n != 1)  # type: ignore[arg-type]
            else:
                found.update(i + shift for i in self.along.get(value, ()))
        return sorted(found)

    def _aligned(self, value: Value, axis: int) -> Span:
        return self.hull(value) if axis < 0 or value.shape[axis] == 1 else self.at(value, axis)  # type: ignore[index]

    def _product(self, p: Product) -> None:
        y = p.node.result
        if y.dtype not in REAL:
            return
        bias = ZERO if p.bias is None else self.at(p.bias, len(p.bias.shape) - 1) if p.bias.shape else self.hull(p.bias)
        bias = Span(*(end * p.beta for end in bias)) if p.beta >= 0 else Span(*(end * p.beta for end in bias[::-1]))
        x = self.at(p.x, p.data_axis)
        x = (x.join(ZERO) if p.partial else x).wide(p.channels)
        intervals = x.says and self.ask(p, x)
        if (intervals or _may_be_constant(p, x)) and p.is_finite:
            self.tell(y, p.out_axis, product_span(p, x, bias.wide(p.outputs), intervals=intervals))


def _may_be_constant(p: Product, x: Span) -> bool:
    """Whether a row may have weights for constants alone: most rows have one for some of the first few other inputs."""
    if p.groups > 1:
        return bool(p.zero_rows.any() or x.constant.any())
    others = np.flatnonzero(~x.constant)[:8]
    return not p.cube(p.numbers())[0][:, others].any(axis=(1, 2)).all()


def product_span(p: Product, x: Span, bias: Span, *, intervals: bool) -> Span:
    """Of each row: bias + alpha * sum w x, the sum of every term's interval; a constant where all terms are."""
    shape = (p.groups, p.outputs // p.groups)
    lo, hi = np.empty(shape), np.empty(shape)
    ends = [end.reshape(p.groups, -1, 1) for end in x]
    known = x.constant.reshape(p.groups, -1, 1)
    for rows, cube in p.blocks(BLOCK):
        up, down = np.maximum(cube, 0).sum(-1), np.minimum(cube, 0).sum(-1)
        open_ = ((up - down) @ (~known).astype(np.float64))[..., 0] > 0
        fixed = ((up + down) @ np.where(known, ends[0], 0.0))[..., 0]
        if intervals:
            margin = p.slack * (_times(up - down, np.maximum(np.abs(ends[0]), np.abs(ends[1]))) + np.abs(fixed))
            low = _times(up, ends[0]) + _times(down, ends[1]) - margin
            high = _times(up, ends[1]) + _times(down, ends[0]) + margin
        else:
            low, high = np.full(open_.shape, -np.inf), np.full(open_.shape, np.inf)
        lo[:, rows], hi[:, rows] = np.where(open_, low, fixed), np.where(open_, high, fixed)
    made = [p.alpha * end.reshape(-1) for end in ((lo, hi) if p.alpha >= 0 else (hi, lo))]
    with np.errstate(invalid="ignore"):
        low, high = made[0] + bias.lo, made[1] + bias.hi
    loose = np.where(low == high, 0.0, p.slack) * np.maximum(np.abs(bias.lo), np.abs(bias.hi))
    return Span(low - loose, high + loose)


def _times(weights: Array, ends: Array) -> Array:
    """weights [g, o, i] of one sign times ends [g, i, 1]: a zero weight makes nothing of an infinity."""
    endless = np.isinf(ends)
    with np.errstate(invalid="ignore"):
        made = (weights @ np.where(endless, 0.0, ends))[..., 0]
        if endless.any():
            sign = (weights @ np.where(endless, np.sign(ends), 0.0))[..., 0]
            both = (np.abs(weights) @ endless.astype(np.float64))[..., 0]
            made = np.where(both > 0, np.where(np.abs(sign) == both, np.sign(sign) * np.inf, np.nan), made)
    return made


# ------------------------------------------------------------------------------------------------ element by element


#: Copy or compare, round nothing.
_EXACT = frozenset(
    {"relu", "relu6", "clip", "min", "max", "where", "abs", "neg", "identity", "floor", "ceil", "round", "trunc"}
)


def _rounded(node: Node, span: Span | None) -> Span | None:
    """The span widened by what one rounding of the op's result can add; constants stay as they are."""
    if span is None or node.name in _EXACT:
        return span
    if node.result.dtype is None:
        return None
    share = np.where(span.lo == span.hi, 0.0, 4 * epsilon(node.result.dtype))
    with np.errstate(invalid="ignore"):
        lo, hi = span.lo - share * np.abs(span.lo), span.hi + share * np.abs(span.hi)
    low, high = _CODOMAIN.get(node.name, (-np.inf, np.inf))
    return Span(np.maximum(lo, low), np.minimum(hi, high))


#: No rounding leaves these.
_CODOMAIN = {
    **dict.fromkeys(("tanh", "softsign", "erf", "sin", "cos"), (-1.0, 1.0)), "sigmoid": (0.0, 1.0), "hard_sigmoid": (0.0, 1.0)
}  # fmt: skip


def epsilon(dtype: DType) -> float:
    import ml_dtypes

    return float(ml_dtypes.finfo(dtype.numpy).eps)


def _sized(span: Span | None, size: int) -> Span | None:
    return None if span is None else span.wide(size)


def transfer(node: Node, spans: Sequence[Span | None]) -> Span | None:
    """The span of an elementwise op from its operands' (None: absent)."""
    name, attrs = node.name, node.attrs
    with np.errstate(all="ignore"):
        if name in _BINARY and len(spans) == 2:
            return _BINARY[name](*spans)
        if name == "cast":
            return _cast(node, spans[0])
        if name == "clip":
            low, high = spans[1] if len(spans) > 1 else None, spans[2] if len(spans) > 2 else None
            return _clip(spans[0], low, high)  # type: ignore[arg-type]
        if name == "where":
            return spans[1].join(spans[2])  # type: ignore[union-attr, arg-type]
        if len([s for s in spans if s is not None]) != 1 or spans[0] is None:
            return None
        made = image(name, attrs, *spans[0])
        if made is not None:
            return Span(*made)
        return _kept_zero(name, attrs, spans[0])


def _kept_zero(name: str, attrs: Mapping[str, Any], x: Span) -> Span | None:
    """What is known of functions by nothing but f(0) = 0, or by their values at points."""
    points = at_points(name, attrs, x.lo)
    if points is not None:
        return Span(np.where(x.constant, points, -np.inf), np.where(x.constant, points, np.inf))
    moved = (name == "shrink" and attrs["lambd"] < 0) or (name == "thresholded_relu" and attrs["alpha"] < 0)
    if name not in KEEP_ZERO or moved:
        return None
    return Span(np.where(x.zero, 0.0, -np.inf), np.where(x.zero, 0.0, np.inf))


def _cast(node: Node, x: Span | None) -> Span | None:
    source = node.operands[0].dtype  # type: ignore[union-attr]
    if source in REAL:
        return x
    if source is BOOL:
        return UNIT
    if source is not None and source is not STRING and not source.is_float and source.bits <= 16:
        info = np.iinfo(source.numpy) if source.bits >= 8 else None
        return None if info is None else Span(np.array([float(info.min)]), np.array([float(info.max)]))
    return None


def _add(a: Span, b: Span) -> Span:
    return Span(a.lo + b.lo, a.hi + b.hi)


def _sub(a: Span, b: Span) -> Span:
    return Span(a.lo - b.hi, a.hi - b.lo)


def _mul(a: Span, b: Span) -> Span:
    corners = [np.where((x == 0) | (y == 0), 0.0, x * y) for x in a for y in b]
    return Span(np.minimum.reduce(corners), np.maximum.reduce(corners))


def _div(a: Span, b: Span) -> Span:
    safe = (b.lo > 0) | (b.hi < 0)
    made = _mul(a, Span(1 / np.where(safe, b.hi, 1.0), 1 / np.where(safe, b.lo, 1.0)))
    exact = a.constant & b.constant
    quotient = a.lo / np.where(safe, b.lo, 1.0)
    lo, hi = (np.where(exact, quotient, end) for end in made)
    return Span(np.where(safe, lo, -np.inf), np.where(safe, hi, np.inf))


def _prelu(x: Span, slope: Span) -> Span:
    above = Span(np.maximum(x.lo, 0), np.maximum(x.hi, 0))
    return _add(above, _mul(Span(np.minimum(x.lo, 0), np.minimum(x.hi, 0)), slope))


def _clip(x: Span, low: Span | None, high: Span | None) -> Span:
    for bound, pick in ((low, np.maximum), (high, np.minimum)):
        if bound is not None:
            x = Span(pick(x.lo, bound.lo), pick(x.hi, bound.hi))
    return x


_BINARY: dict[str, Callable[[Any, Any], Span]] = {
    "add": _add,
    "sub": _sub,
    "mul": _mul,
    "div": _div,
    "prelu": _prelu,
    "min": lambda a, b: Span(np.minimum(a.lo, b.lo), np.minimum(a.hi, b.hi)),
    "max": lambda a, b: Span(np.maximum(a.lo, b.lo), np.maximum(a.hi, b.hi)),
}


# ------------------------------------------------------------------------------------------------------- other ops


def _carried(spans: Spans, node: Node, change: Callable[[Span], Span | None]) -> None:
    """The data's spans, changed, along batch and channels: windows slide along the other axes."""
    x, y = node.operands[0], node.result
    if x is None or x.shape is None or y.shape is None or len(x.shape) != len(y.shape):
        return
    if spans.hull(x) is not UNKNOWN:
        spans.tell(y, None, change(spans.hull(x)))
    for axis, span in _known(spans, x):
        if axis in (0, channel_axis(node)) and x.shape[axis] == y.shape[axis]:
            spans.tell(y, axis, change(span))


def _known(spans: Spans, x: Value) -> Iterable[tuple[int, Span]]:
    return list(spans.along.get(x, {}).items())


def _only_zero(span: Span) -> Span:
    return _zero_where(span.zero)


def _zero_where(zero: Array) -> Span:
    return Span(np.where(zero, 0.0, -np.inf), np.where(zero, 0.0, np.inf))


def _only_constant(span: Span) -> Span:
    return Span(np.where(span.constant, span.lo, -np.inf), np.where(span.constant, span.hi, np.inf))


def _kept(spans: Spans, node: Node) -> None:
    _carried(spans, node, lambda span: span)


def _average(spans: Spans, node: Node) -> None:
    """Padding that counts is zeros."""
    _carried(spans, node, (lambda s: s.join(ZERO)) if node.attr("count_include_pad") else lambda s: s)


def _zero_kept(spans: Spans, node: Node) -> None:
    _carried(spans, node, _only_zero)


def _resize(spans: Spans, node: Node) -> None:
    if node.attr("coordinate_transformation_mode") != "tf_crop_and_resize":
        _carried(spans, node, (lambda s: s) if node.attr("mode") in ("nearest", "linear") else _only_constant)


def _reduced(spans: Spans, node: Node) -> None:
    """A mean or extreme of equal numbers is that number; a sum of zeros is zero."""
    from ..prune.rules import reduced_axes

    x, over = node.operands[0], reduced_axes(node)
    if x is None or x.shape is None or over is None:
        return
    change = _only_zero if node.name == "reduce_sum" else lambda span: span
    if node.name != "reduce_sum" and spans.hull(x) is not UNKNOWN:
        spans.tell(node.result, None, spans.hull(x))
    for axis, span in _known(spans, x):
        if axis not in over:
            place = axis if node.attr("keepdims") else axis - sum(a < axis for a in over)
            spans.tell(node.result, place, change(span))


def _batch_norm(spans: Spans, node: Node) -> None:
    """factor * x + shift."""
    params = node.operands[1:5]
    if node.operands[0].shape is None or not all(v is not None and v.is_const for v in params):  # type: ignore[union-attr]
        return
    scale, bias, mean, var = (v.array().astype(np.float64) for v in params)  # type: ignore[union-attr]
    at = channel_axis(node)
    with np.errstate(all="ignore"):
        factor = scale / np.sqrt(var + node.attr("epsilon"))
        made = _add(_mul(spans.at(node.operands[0], at), constant(factor)), constant(bias - factor * mean))
    if np.isfinite(factor).all():
        spans.tell(node.result, at, _rounded(node, made))


def _norm(spans: Spans, node: Node) -> None:
    """Where the scale is zero the bias is left; a channel of zeros has no deviation from its mean, and no size, either."""
    x, scale, bias = (*node.operands, None, None)[:3]
    if x is None or not x.shape:
        return
    at = len(x.shape) - 1 if node.name in ("layer_norm", "rms_norm") else channel_axis(node)
    size = x.shape[at]
    if type(size) is not int or size < 2:
        return
    gone = spans.at(x, at).wide(size).zero
    if node.name in _WHOLE:
        groups = _WHOLE[node.name](node, size)
        gone = np.repeat(gone.reshape(groups, -1).all(axis=1), size // groups)
    if scale is not None and scale.shape == (size,):
        gone = gone | spans.at(scale, 0).wide(size).zero
    if gone.any() and (bias is None or bias.shape == (size,)):
        left = ZERO if bias is None else spans.at(bias, 0)
        lo, hi = (np.where(gone, end, far) for end, far in zip(left, (-np.inf, np.inf), strict=True))
        spans.tell(node.result, at, Span(lo, hi))


#: How many groups of channels a norm has, each with a mean of its own. Of an rms norm zeros stay zeros, one by one.
_WHOLE: dict[str, Callable[[Node, int], int]] = {
    "instance_norm": lambda node, size: size,
    "group_norm": lambda node, size: node.attr("num_groups"),
    "layer_norm": lambda node, size: 1,
}


def _zero_everywhere(spans: Spans, node: Node) -> None:
    for axis, span in _known(spans, node.operands[0]):  # type: ignore[arg-type]
        spans.tell(node.result, axis, _only_zero(span))


def _softmax(spans: Spans, node: Node) -> None:
    spans.tell(node.result, None, UNIT)


def _moved(spans: Spans, node: Node) -> None:
    y = node.result
    if y.shape is None or not any(v is not None and _says(spans, v) for v in node.operands):
        return
    filled = ZERO if node.name == "pad" and len(node.operands) < 3 else UNKNOWN
    if node.name == "pad" and len(node.operands) > 2:
        filled = ZERO if node.operands[2] is None else spans.hull(node.operands[2])
    extra = filled if node.name == "pad" and node.attr("mode") == "constant" else None
    data = node.operands if node.name == "concat" else node.operands[:1]
    hulls = [spans.hull(v) for v in data] + ([extra] if extra is not None else [])
    spans.tell(y, None, _joined(hulls))
    for axis in range(len(y.shape)):
        found = parts(node, axis)
        if found is not None:
            rows = [_joined([_taken(spans, node, part, filled) for part in beside]) for beside in found]
            made = Span(*(np.concatenate([getattr(row, end) for row in rows]) for end in ("lo", "hi")))
            spans.tell(y, axis, made if extra is None else made.join(extra))


def _says(spans: Spans, value: Value) -> bool:
    return value.is_const or value in spans.along or value in spans.hulls


def _joined(found: Sequence[Span]) -> Span:
    made = found[0]
    for other in found[1:]:
        made = made.join(other)
    return made


def _taken(spans: Spans, node: Node, part: Part, filled: Span) -> Span:
    """The hull of the slices that each slice takes; -1 is the padding."""
    source = node.operands[part.operand]
    ends = spans.at(source, part.axis).wide(source.shape[part.axis])  # type: ignore[union-attr, index, arg-type]
    lo, hi = (np.append(end, fill[0]) for end, fill in zip(ends, filled, strict=True))
    return Span(lo[part.table].min(axis=1), hi[part.table].max(axis=1))


def _split(spans: Spans, node: Node) -> None:
    x = node.operands[0]
    if x is None or x.shape is None or not _says(spans, x):
        return
    for index, y in enumerate(node.results):
        if y.shape is None:
            continue
        spans.tell(y, None, spans.hull(x))
        for axis, _ in _known(spans, x):
            part = split_part(node, index, axis)
            if part is not None and len(part.table) > 1:
                spans.tell(y, axis, _taken(spans, node, part, UNKNOWN))


def _computed_product(spans: Spans, node: Node) -> None:
    """Of two computed values: zero along an axis where either is."""
    amap = node.op.axis_map(node)
    added = len(node.operands) > 2 and node.operands[2] is not None
    if amap is None or node.result.shape is None or added:
        return
    rows = [(v, labels) for v, labels in zip(node.operands, amap.operands, strict=False) if v is not None and labels]
    for axis, label in enumerate(amap.results[0]):
        size = node.result.shape[axis]
        if label is None or type(size) is not int or size < 2:
            continue
        zero = np.zeros(size, bool)
        for value, labels in rows:
            for place, other in enumerate(labels):
                if (
                    other is not None
                    and other.label == label.label
                    and other.role == "pass"
                    and value.shape[place] == size
                ):  # type: ignore[index]
                    zero |= spans.at(value, place).wide(size).zero
        if zero.any():
            spans.tell(node.result, axis, _zero_where(zero))


def _attention(spans: Spans, node: Node) -> None:
    """Averages of values: zero where those are, head by head."""
    q, v, y = node.operands[0], node.operands[2], node.results[0]
    if q is None or q.shape is None or v is None or v.shape is None or y.shape is None or len(v.shape) != len(y.shape):
        return
    if len(node.operands) > 5 and node.operands[5] is not None:
        return
    for axis, span in _known(spans, v):
        if len(v.shape) == 4 and axis == 3:
            spans.tell(y, axis, _only_zero(span))
        elif axis == (1 if len(v.shape) == 4 else 2) and type(y.shape[axis]) is int:
            heads = len(span.lo) if axis == 1 else node.attr("kv_num_heads")
            shared = y.shape[axis] // len(span.lo)  # type: ignore[operator]
            zero = np.repeat(span.zero.reshape(heads, -1), shared, axis=0)  # type: ignore[arg-type]
            spans.tell(y, axis, _zero_where(zero.reshape(-1)))


def _gather(spans: Spans, node: Node) -> None:
    """Of a table that is too large to be measured its zero columns are known."""
    table = spans.layers.tables.get(node)
    if table is None or table.w.type.numel <= LARGEST:  # type: ignore[attr-defined]
        _moved(spans, node)
    elif table.scan.zero[1].any() and table.is_finite:
        spans.tell(node.result, table.out_axis, _zero_where(table.scan.zero[1]))


def _recurrent(spans: Spans, node: Node) -> None:
    """What tanh leaves is between -1 and 1; a mean of such (gru) is too, unless the state begins elsewhere."""
    plain = not node.attr("activations") and (node.name == "lstm" or len(node.operands) < 6 or node.operands[5] is None)
    for y in node.results[:2] if plain else ():
        spans.tell(y, None, SIGNED_UNIT)
    units = spans.layers.units.get(node)
    for y in node.results if units is not None and units.zero.any() else ():
        spans.tell(y, y.rank - 1, _zero_where(units.zero))  # type: ignore[union-attr, operator]


_RULES: dict[str, Callable[[Spans, Node], None]] = {
    "max_pool": _kept, "average_pool": _average, "global_average_pool": _kept, "global_max_pool": _kept,
    "adaptive_average_pool": _kept, "adaptive_max_pool": _kept, "lp_pool": _zero_kept, "global_lp_pool": _zero_kept,
    "resize": _resize, "reduce_mean": _reduced, "reduce_max": _reduced, "reduce_min": _reduced, "reduce_sum": _reduced,
    "batch_norm": _batch_norm, "instance_norm": _norm, "group_norm": _norm, "layer_norm": _norm, "rms_norm": _norm,
    "lp_normalization": _zero_everywhere, "gather": _gather,
    "softmax": _softmax, "split": _split, "attention": _attention,
    **dict.fromkeys(("matmul", "gemm", "einsum"), _computed_product), **dict.fromkeys(("lstm", "gru", "rnn"), _recurrent),
    **dict.fromkeys(("transpose", "squeeze", "unsqueeze", "reshape", "flatten", "concat", "slice", "pad", "expand",
                     "tile", "reverse", "depth_to_space"), _moved),
}  # fmt: skip
