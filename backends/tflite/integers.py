"""Float operators between dequantize and quantize become TFLite's quantised ones, scale by scale.

    D(x), D(w), D(b) -> tfl.conv_2d -> Q        becomes        tfl.q_conv_2d(x, w, b)

A rule gives the quantised operator, or a reason why there is none: then the floats between D and Q stay, exactly as
the model says. Results are those of LiteRT's integer kernels: within one step of what D, float and Q would give.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ...ir.builder import Builder
from ...ir.graph import Graph
from ...ir.types import F32, I4, I8, I16, DType
from ...ir.value import Node, Value
from ...kernels.registry import get_kernel
from ...passes.quantize.qdq import apply_dequantize, encoding_of, lone, made_by, reliable
from .lower.common import numbers
from .ops.integer_unary import fixed_parameters
from .qdq import PASSING, numbers_of, only_read_by, requantised, usable
from .table import legal

#: Bias scales may differ from the product of the others by this much, as float32 products do.
BIAS_TOLERANCE = 1e-6


class Data(NamedTuple):
    """An integer tensor with one scale and zero point."""

    value: Value
    scale: float
    zero: int


class Reason(NamedTuple):
    """Why there is no quantised operator."""

    text: str


class Site(NamedTuple):
    """A float node whose one reader is a quantize node, and what that makes."""

    b: Builder
    node: Node
    stored: DType
    scale: float
    zero: int

    def call(self, name: str, operands: tuple, data: tuple[Data, ...], **attrs) -> Value | Reason:
        """The quantised op, unless the table refuses it."""
        attrs["scales"] = (*(d.scale for d in data), self.scale)
        attrs["zeros"] = (*(d.zero for d in data), self.zero)
        made = self.b.call(name, operands, attrs)
        reason = legal(made)
        if reason is not None:
            made.erase()
            return Reason(reason)
        return made.result


Rule = Callable[[Site], "Value | Reason"]
RULES: dict[str, Rule] = {}


def quantised(*names: str) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        for name in names:
            RULES[name] = rule
        return rule

    return register


def to_integers(graph: Graph) -> list[str]:
    """Replace what has a rule; says where and why floats stay between integers."""
    left = []
    for node in list(graph.nodes("quantize")):
        source = node.operands[0].node
        p = encoding_of(node)
        if source is None or source.name not in RULES or not usable(p) or p.stored not in (I8, I16):
            continue
        if p.stored is I16 and p.zeros().any():
            continue
        site = Site(Builder(graph, before=source, loc=source.loc), source, p.stored, *numbers_of(p))
        made: Value | Reason = Reason("its float result is read too")
        if only_read_by(node):
            made = RULES[source.name](site)
        if isinstance(made, Reason):
            left.append(f"{source.name} at {source.loc} computes in floats: {made.text}")
            continue
        made.refine(node.result.type)
        made.hint = node.result.hint or source.result.hint
        node.replace(made)
        for reader in list(source.result.users):
            reader.set_operand(0, made)
        source.erase()
    return left


# ------------------------------------------------------------------------------------------------------------ operands


def _data(site: Site, value: Value) -> Data | None:
    """The integers that a float operand comes from, of the result's type; a lone number is made one."""
    source = made_by(value, "dequantize")
    if source is None:
        return _number(site, value) if value.is_const and value.dtype is F32 else None
    p = encoding_of(source)
    if p.stored is not site.stored or not usable(p) or (p.stored is I16 and p.zeros().any()):
        return None
    return Data(_own(site.b, source.operands[0]), *numbers_of(p))


def _own(b: Builder, value: Value) -> Value:
    """Constants are tensors of their own for each reader, since scales belong to tensors."""
    return b.const(value.weight.tensor, key=value.weight.key, role=value.weight.role) if value.is_const else value


def _number(site: Site, value: Value) -> Data | None:
    """A constant whose elements are all the same."""
    array = value.array()
    number = float(array.reshape(-1)[0]) if array.size else 0.0
    if not array.size or not (array == array.reshape(-1)[0]).all() or not np.isfinite(number):
        return None
    full = 127 if site.stored is I8 else 32767
    scale = float(np.float32(abs(number) / full)) or 1.0
    stored = np.full(array.shape, np.sign(number) * full, site.stored.numpy)
    return Data(site.b.const(stored), scale, 0)


def _weights(site: Site, value: Value, axis: int) -> tuple[Value, np.ndarray] | Reason:
    """Symmetric constant integers with one scale, or one per entry along `axis`."""
    source = made_by(value, "dequantize")
    if source is None or not source.operands[0].is_const:
        return Reason("its weights are not constant integers")
    p = encoding_of(source)
    if p.stored not in (I8, I4) or reliable(p) or p.zeros().any():
        return Reason(f"its weights are not symmetric 8-bit or 4-bit integers ({p.stored})")
    scales = p.scale.array().astype(np.float32)
    if scales.size > 1 and (scales.ndim != value.rank or scales.shape[axis] != scales.size):
        return Reason(f"its weights have scales of shape {scales.shape}")
    if scales.size not in (1, value.shape[axis]):
        return Reason("its weights have scales per block")
    array = source.operands[0].array()
    if p.stored is I8 and array.size and int(array.min()) < -127:
        return Reason("a weight is -128, for which kernels have no room")
    return _own(site.b, source.operands[0]), scales.reshape(-1)


def _bias(site: Site, value: Value | None, x: Data, scales: np.ndarray, outs: int) -> Value | Reason:
    """Integers at the product of the scales of data and weights; 64 bits of them for 16-bit data."""
    steps = np.float32(x.scale) * scales
    source = made_by(value, "dequantize")
    array: np.ndarray
    if value is None:
        array = np.zeros(outs, np.int64)
    elif source is not None and source.operands[0].is_const:
        p = encoding_of(source)
        given = np.broadcast_to(p.scales().reshape(-1), (outs,))
        array = source.operands[0].array().reshape(-1).astype(np.int64)
        if p.zeros().any() or (np.abs(given - steps) > BIAS_TOLERANCE * steps).any():
            array = _rounded((array - np.broadcast_to(p.zeros().reshape(-1), array.shape)) * given / steps)
    elif value.is_const:
        array = _rounded(value.array().reshape(-1).astype(np.float64) / steps)
    else:
        return Reason("its bias is computed")
    limit = (1 << 31) - 1 if site.stored is I8 else (1 << 40) - 1
    if array.size and np.abs(array).max() > limit:
        return Reason("its bias is too large for the product of its scales")
    array = np.broadcast_to(array, (outs,)).astype(np.int32 if site.stored is I8 else np.int64)
    weight = source.operands[0].weight if source is not None else value.weight if value is not None else None
    named: dict = {} if weight is None else {"key": weight.key, "role": weight.role, "origin": "quantised"}
    return site.b.const(np.ascontiguousarray(array), **named)


def _rounded(x: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(x), -(2.0**62), 2.0**62).astype(np.int64)


def _attrs(site: Site) -> dict:
    return dict(site.node.attrs)


# ------------------------------------------------------------------------------------------------------------ products


def _product(site: Site, x: Value, w: Value, bias: Value | None, axis: int) -> tuple | Reason:
    """(data, weights, bias, scales of the weights)"""
    data = _data(site, x)
    if data is None:
        return Reason(f"its data are not {site.stored} with one scale")
    found = _weights(site, w, axis)
    if isinstance(found, Reason):
        return found
    weights, scales = found
    made = _bias(site, bias, data, scales, numbers(w.shape)[axis])
    return made if isinstance(made, Reason) else (data, weights, made, site.b.const(scales))


@quantised("tfl.conv_2d", "tfl.depthwise_conv_2d", "tfl.fully_connected")
def _convolution(site: Site) -> Value | Reason:
    x, w, bias = (*site.node.operands, None)[:3]
    found = _product(site, x, w, bias, 3 if site.node.name == "tfl.depthwise_conv_2d" else 0)
    if isinstance(found, Reason):
        return found
    data, *rest = found
    return site.call(site.node.name.replace("tfl.", "tfl.q_"), (data.value, *rest), (data,), **_attrs(site))


@quantised("tfl.transpose_conv")
def _transposed(site: Site) -> Value | Reason:
    shape, w, x, bias = site.node.operands
    found = _product(site, x, w, bias, 0)
    if isinstance(found, Reason):
        return found
    data, weights, made, scales = found
    return site.call("tfl.q_transpose_conv", (shape, weights, data.value, made, scales), (data,), **_attrs(site))


@quantised("tfl.batch_matmul")
def _batch_matmul(site: Site) -> Value | Reason:
    """Transposes of the last two axes, which sank below D, become flags."""
    attrs, both = _attrs(site), []
    for value, flag in zip(site.node.operands, ("adj_x", "adj_y"), strict=True):
        data = _data(site, value)
        if data is None:
            return Reason(f"an operand is not {site.stored} with one scale")
        turn = made_by(data.value, "transpose")
        if turn is not None and _swaps_last(turn.attr("perm")):
            data, attrs[flag] = data._replace(value=turn.operands[0]), not attrs[flag]
        both.append(data)
    return site.call("tfl.q_batch_matmul", tuple(d.value for d in both), tuple(both), **attrs)


def _swaps_last(perm: tuple[int, ...]) -> bool:
    rank = len(perm)
    return rank >= 2 and perm == (*range(rank - 2), rank - 1, rank - 2)


# ---------------------------------------------------------------------------------------------------------- arithmetic


def _operands(site: Site, *values: Value) -> tuple[Data, ...] | Reason:
    found = [_data(site, v) for v in values]
    if any(d is None for d in found):
        return Reason(f"an operand is not {site.stored} with one scale")
    return tuple(d for d in found if d is not None)


_ARITHMETIC = {"add": "add", "sub": "sub", "mul": "mul", "square": "mul", "squared_difference": "squared_difference"}
_BINARY = [*_ARITHMETIC, *(f"tfl.{name}" for name in ("add", "sub", "mul", "squared_difference"))]


@quantised(*_BINARY)
def _arithmetic(site: Site) -> Value | Reason:
    values = site.node.operands * (2 if site.node.name == "square" else 1)
    data = _operands(site, *values)
    if isinstance(data, Reason):
        return data
    name = _ARITHMETIC[site.node.name.removeprefix("tfl.")]
    if name in ("add", "sub", "squared_difference") and not _fits(site, data):
        return Reason("scales that are too far apart")
    return site.call(f"tfl.q_{name}", tuple(d.value for d in data), data, **_attrs(site))


def _fits(site: Site, data: tuple[Data, ...]) -> bool:
    """The kernels only scale sums down, and end the process where they would have to scale up."""
    twice, places = 2 * max(d.scale for d in data), 15 if site.stored is I16 else 20
    if site.node.name.endswith("difference"):
        return twice * twice / (1 << 14) < site.scale
    return twice / (1 << places) < site.scale


@quantised("reduce_mean", "reduce_sum")
def _reduction(site: Site) -> Value | Reason:
    x, axes = site.node.operands[0], site.node.operand("axes")
    chosen = tuple(range(x.rank)) if axes is None else axes.ints()
    data = _operands(site, x)
    if isinstance(data, Reason):
        return data
    if not chosen or any(type(x.shape[a]) is not int for a in chosen):
        return Reason("its axes are not known")
    attrs = {"reduced": tuple(a % x.rank for a in chosen), "keepdims": site.node.attr("keepdims")}
    return site.call(f"tfl.q_{site.node.name.removeprefix('reduce_')}", (data[0].value,), data, **attrs)


@quantised("prelu")
def _prelu(site: Site) -> Value | Reason:
    x, slope = site.node.operands
    data = _operands(site, x)
    if isinstance(data, Reason):
        return data
    found = _data(site._replace(stored=I8), slope)
    if found is None:
        return Reason("its slope is not i8 with one scale")
    return site.call("tfl.q_prelu", (data[0].value, found.value), (data[0], found))


# --------------------------------------------------------------------------------------------------- of one tensor

_UNARY = {
    **dict.fromkeys(("relu", "relu6", "leaky_relu", "hard_swish", "elu", "exp", "log", "abs", "tanh"), ""),
    "tfl.relu_n1_to_1": "relu_n1_to_1",
    "tfl.relu_0_to_1": "relu_0_to_1",
    "sigmoid": "logistic",
    "gelu": "gelu",
    "softmax": "softmax",
    "log_softmax": "log_softmax",
}
_ATTRIBUTES: dict[str, Callable[[Node], dict]] = {
    "leaky_relu": lambda node: {"alpha": node.attr("alpha")},
    "gelu": lambda node: {"approximate": node.attr("approximate") == "tanh"},
}


@quantised(*_UNARY)
def _unary(site: Site) -> Value | Reason:
    """Results with a scale of their own are scaled to what the model wants afterwards."""
    data = _operands(site, site.node.operands[0])
    if isinstance(data, Reason):
        return data
    name = f"tfl.q_{_UNARY[site.node.name] or site.node.name}"
    attrs = _ATTRIBUTES.get(site.node.name, lambda node: {})(site.node)
    if name == "tfl.q_hard_swish":
        wrong = hard_swish_errors(data[0], site)
        if wrong:  # all to the same side, which networks do not forgive
            return Reason(f"the 8-bit kernel is off by a step for {wrong} of 256 values")
    fixed = fixed_parameters(name, site.stored)
    if fixed is None:
        return site.call(name, (data[0].value,), data, **attrs)
    made = site._replace(scale=fixed[0], zero=fixed[1]).call(name, (data[0].value,), data, **attrs)
    if isinstance(made, Reason):
        return made
    return requantised(site.b, made, fixed, (site.scale, site.zero), site.stored)


def hard_swish_errors(x: Data, site: Site) -> int:
    """For how many of all 8-bit values the kernel, which truncates a product, is not the rounded real result."""
    stored = np.arange(-128, 128).astype(np.int8)
    scales, zeros = (x.scale, site.scale), (x.zero, site.zero)
    made = get_kernel("tfl.q_hard_swish")(stored, scales=scales, zeros=zeros)
    real = (stored.astype(np.float64) - x.zero) * x.scale
    real = real * np.clip(real + 3, 0, 6) / 6 / site.scale
    return int((np.clip(np.rint(real) + site.zero, -128, 127) != made).sum())


@quantised("tfl.average_pool_2d", "tfl.max_pool_2d", "tfl.resize_bilinear")
def _same_scale(site: Site) -> Value | Reason:
    """These keep scale and zero point: another one is reached by a step of its own."""
    data = _operands(site, site.node.operands[0])
    if isinstance(data, Reason):
        return data
    if site.node.attrs.get("fused_activation_function", "NONE") != "NONE":
        return Reason("an activation on integers of one scale")
    made = site.b.call(site.node.name, (data[0].value, *site.node.operands[1:]), _attrs(site))
    reason = legal(made)
    if reason is not None:
        made.erase()
        return Reason(reason)
    return requantised(site.b, made.result, (data[0].scale, data[0].zero), (site.scale, site.zero), site.stored)


# -------------------------------------------------------------------------------------------------------------- hybrid

_HYBRID = ("tfl.conv_2d", "tfl.depthwise_conv_2d", "tfl.fully_connected")


def to_hybrid(graph: Graph, everywhere: bool = False) -> None:
    """Products of integer weights with data that are marked (or all of them) go to the kernels that quantise on the way."""
    for node in list(graph.nodes(*_HYBRID)):
        if everywhere or _is_marked(node.operands[0]):
            _hybrid(node)
    for node in list(graph.nodes("tfl.dynamic")):
        node.replace(node.operands[0])


def _is_marked(value: Value) -> bool:
    """Below a mark, by nothing but moves and pads."""
    while value.node is not None and value.node.name in PASSING:
        value = value.node.operands[0]
    return value.node is not None and value.node.name == "tfl.dynamic"


def _hybrid(node: Node) -> None:
    x, w, bias = (*node.operands, None)[:3]
    axis = 3 if node.name == "tfl.depthwise_conv_2d" else 0
    b = Builder(node.graph, before=node, loc=node.loc)
    found = _weights(Site(b, node, I8, 1.0, 0), w, axis)
    outs = w.shape[axis]
    grouped = node.name == "tfl.conv_2d" and x.shape[-1] != w.shape[-1]
    if isinstance(found, Reason) or grouped or (outs == 1 and axis == 0 and w.rank == 4) or x.dtype is not F32:
        return
    weights, scales = found
    if weights.dtype is I4 and axis == 3:
        return
    per_output = b.const(np.resize(scales, numbers((outs,))))
    name = node.name.replace("tfl.", "tfl.hybrid_")
    node.replace(b.call(name, (x, weights, _float_bias(b, bias), per_output), dict(node.attrs)).result)


def _float_bias(b: Builder, bias: Value | None) -> Value | None:
    source = made_by(bias, "dequantize")
    if bias is None or source is None or not source.operands[0].is_const:
        return bias
    weight = source.operands[0].weight
    made = apply_dequantize(source.operands[0].array(), encoding_of(source), F32)
    return b.const(made, key=weight.key, role=weight.role, origin="dequantised")


# -------------------------------------------------------------------------------------------------------------- edges


def finish(graph: Graph) -> None:
    """What is left of Q: the kernel's own rounding."""
    for node in list(graph.nodes("quantize")):
        p = encoding_of(node)
        if usable(p) and p.stored.name in ("i8", "u8", "i16") and node.operands[0].dtype is F32:
            b = Builder(graph, before=node, loc=node.loc)
            scale, zero = numbers_of(lone(b, p))
            if p.stored is not I16 or zero == 0:
                made = b.call("tfl.quantize", (node.operands[0],), {"scale": scale, "zero": zero, "to": p.stored})
                made.result.hint = node.result.hint
                node.replace(made.result)
