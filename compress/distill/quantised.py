"""Straight-through training of a quantised student: its graph in floats, with the same roundings and the same scales.

    form = training_form(student)        # quantize and dequantize as float arithmetic, integer weights as float masters
    ...                                  # train form.module (its state dict has the student's keys)
    form.bring_back(student, arrays)     # the masters, quantised with the scales that the student has

Forward, the training form computes what the student computes; backward, rounding counts as the identity and saturation
stops the gradient (Bengio et al., 1308.3432; Jacob et al., 1712.05877). Integer arithmetic (qlinear_conv, matmul_integer ...)
becomes the same sums in floats, exact below 2^24. Float16 weights get float32 masters. Scales and zero points never change.
Works on the IR alone; imports no framework.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np

from ...ir.builder import Builder
from ...ir.errors import InternalError, Unsupported
from ...ir.graph import Graph, Module, Node, Value
from ...ir.opdef import MOVEMENT, SAME_QUANT
from ...ir.types import BF16, F16, F32, F64, I32, DType
from ...kernels.registry import get_kernel
from ...passes.decompose.qlinear import ratio_of, shaped
from ...passes.decompose.quant import spread_blocks
from ...passes.decompose.rules import Declined
from ...passes.manager import run_pipeline
from ...passes.select import layer_name
from .integers import factors, stored_weight, told_scales, unit_of

#: Nodes whose constant operands are weights, whatever role a file gives them.
WEIGHTED = frozenset(
    ("conv", "conv_transpose", "gemm", "matmul", "einsum", "add", "gather", "lstm", "gru", "rnn", "attention")
)
_HALF = (F16, BF16)
#: Besides those that the traits name: it takes the integer that it fills with as an operand.
_MOVES = frozenset(("pad",))
#: Ops with a float form of their own (a method of `_Floats`), and those that have one where they compute with such integers.
_OWN = frozenset(
    (
        "quantize",
        "dequantize",
        "dynamic_quantize",
        "qlinear_conv",
        "qlinear_matmul",
        "conv_integer",
        "matmul_integer",
        "cast",
    )
)
_FOLLOWED = frozenset(("requantize", "add"))


@dataclass(frozen=True)
class Master:
    """A float copy of a stored weight: how it is stored again. Without a scale it is only cast. `low` and `high` bound the
    integers, which keep out of the lowest one where the student does (symmetric weights)."""

    key: str
    start: np.ndarray
    scale: np.ndarray | None = None
    zero: np.ndarray | None = None
    block: int = 0
    low: int = 0
    high: int = 0

    def stored(self, trained: np.ndarray, before: np.ndarray, dtype: DType) -> np.ndarray:
        """`trained` as the student stores it. What has not moved is what it was, to the last bit."""
        if self.scale is None:
            return trained.astype(dtype.numpy)
        made = get_kernel("quantize")(trained, self.scale, self.zero, to=dtype, saturate=True, block_size=self.block)
        kept = np.clip(made.astype(np.int64), self.low, self.high).astype(dtype.numpy)
        return np.where(trained == self.start, before, kept)


@dataclass
class TrainingForm:
    """`module` computes what the student computes, in floats; `masters` are by key of weight."""

    module: Module
    masters: dict[str, Master] = field(default_factory=dict)
    quantised: bool = False
    notes: list[str] = field(default_factory=list)

    def bring_back(self, student: Module, trained: Mapping[str, np.ndarray]) -> None:
        """Put trained weights, by key, into `student`: the module that this form was made of, or a clone of it."""
        made = {}
        for key, array in trained.items():
            weight = student.weights[key]
            master = self.masters.get(key)
            made[key] = array if master is None else master.stored(array, weight.tensor.numpy(), weight.tensor.dtype)
        for key, array in made.items():
            student.set_weight(student.weights[key], np.ascontiguousarray(array))


def training_form(student: Module) -> TrainingForm:
    """The form of `student` that trains; the student is left as it is. Raises Unsupported for integer arithmetic that has no
    straight-through form."""
    form = TrainingForm(student.clone())
    floats = _Floats(form)
    for graph in form.module.all_graphs():
        floats.rewrite(graph)
    run_pipeline(form.module, "dce")
    form.module.drop_unused_weights()
    for key in form.masters:
        if form.module.weights.get(key) is None:
            raise InternalError(f"the master of {key!r} lost its name")
    return form


class _Floats:
    """Rewrites graphs. `floats` holds for integer values between quantize and dequantize what they are as floats, `made` the
    masters of constants."""

    def __init__(self, form: TrainingForm) -> None:
        self.form, self.module = form, form.module
        self.floats: dict[Value, Value] = {}
        self.made: dict[Value, Value] = {}

    def rewrite(self, graph: Graph) -> None:
        for node in graph.nodes():
            b = Builder(graph, before=node, loc=node.loc)
            self.half_weights(b, node)
            follows = any(value in self.floats for value in node.inputs())
            if node.name in _OWN or (follows and node.name in _FOLLOWED):
                getattr(self, node.name)(b, node)
            elif follows:
                self.moved(b, node)
        for value in graph.outputs:
            if value in self.floats:
                raise Unsupported(f"the output %{value.hint} is quantised", hint="distil the form with float outputs")

    def half_weights(self, b: Builder, node: Node) -> None:
        """Float16 parameters train as float32: Adam's squares leave the range of float16."""
        for index, value in enumerate(node.operands):
            weight = value.weight if value is not None else None
            if weight is not None and weight.role == "param" and weight.tensor.dtype in _HALF:
                if value not in self.made:
                    start = weight.tensor.numpy().astype(np.float32)
                    self.form.masters[weight.key] = Master(weight.key, start)
                    self.made[value] = self.module.add_weight(weight.key, start, "param", "master of a half weight")
                node.set_operand(index, b.cast(self.made[value], to=weight.tensor.dtype))

    def quantize(self, b: Builder, node: Node) -> None:
        x, scale, zero = (*node.operands, None)[:3]
        to = node.attr("to")
        if not to.is_int or to.bits > 16:
            raise _refused(node, f"quantising to {to} has no straight-through form")
        self.freeze(scale, zero)
        info = ml_dtypes.iinfo(to.numpy)
        self.floats[node.result] = self.rounded(b, node, x, scale, zero, int(info.min), int(info.max))
        self.form.quantised = True

    def rounded(self, b: Builder, node: Node, x: Value, scale: Value, zero: Value | None, low: int, high: int) -> Value:
        """clip(round(x / scale) + zero): what quantize gives, as floats."""
        wide = _wide(x, scale)
        y = self.straight(b, b.div(_cast(b, x, wide), self.spread(b, node, scale, x, wide)))
        if zero is not None:
            y = b.add(y, self.spread(b, node, zero, x, wide))
        return self.clipped(b, y, low, high)

    def dequantize(self, b: Builder, node: Node) -> None:
        stored, scale, zero = (*node.operands, None)[:3]
        self.freeze(scale, zero)
        if stored in self.floats:
            x = self.floats[stored]
        elif self.trains(stored, node):
            x = self.master(b, node, stored, scale, zero)
        else:
            if stored.node is not None and not stored.node.operands[0].is_const:
                self.form.notes.append(f"{layer_name(node)} is computed with integers and stays as it is")
            return
        wide = x.dtype
        if zero is not None:
            x = b.sub(x, self.spread(b, node, self.floats.get(zero, zero), x, wide))
        y = b.mul(x, self.spread(b, node, scale, x, wide))
        node.result.replace_uses(_cast(b, y, node.attr("to")))
        self.form.quantised = True

    def dynamic_quantize(self, b: Builder, node: Node) -> None:
        """Scale and zero point from the range, as ONNX's DynamicQuantizeLinear; the gradient goes through them too."""
        (x,) = node.operands
        zero, steps, one = (b.const(np.float32(number)) for number in (0, 255, 1))
        axes = tuple(range(x.rank))
        high = b.max(b.reduce_max(x, axes, keepdims=False), zero)
        low = b.min(b.reduce_min(x, axes, keepdims=False), zero)
        width = b.div(b.sub(high, low), steps)
        scale = b.where(b.equal(width, zero), one, width)
        offset = self.straight(b, b.clip(b.neg(b.div(low, scale)), zero, steps))
        y, old_scale, old_zero = node.results
        self.floats[y] = b.clip(b.add(self.straight(b, b.div(x, scale)), offset), zero, steps)
        self.floats[old_zero] = offset
        old_scale.replace_uses(scale)
        self.form.quantised = True

    # Integer arithmetic: the same sums in floats.

    def qlinear_conv(self, b: Builder, node: Node) -> None:
        x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, bias = (*node.operands, None)[:9]
        scales = factors(x_scale, w_scale)
        total = self.product(b, node, (x, x_zero), (w, w_zero), scales)
        if bias is not None:
            along_channels = (-1, *(1,) * (x.rank - 2))
            total = b.add(total, b.reshape(self.bias(b, node, bias, scales), along_channels))
        self.ended(b, node, total, (x_scale, w_scale, y_scale, y_zero), (1, 1, 1, 1))

    def qlinear_matmul(self, b: Builder, node: Node) -> None:
        x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero = node.operands
        total = self.product(b, node, (x, x_zero), (w, w_zero), factors(x_scale, w_scale))
        self.ended(b, node, total, (x_scale, w_scale, y_scale, y_zero), (-2, -1, -2, -2))

    def conv_integer(self, b: Builder, node: Node) -> None:
        x, w, x_zero, w_zero = (*node.operands, None, None)[:4]
        self.floats[node.result] = self.product(b, node, (x, x_zero), (w, w_zero), told_scales(node))

    matmul_integer = conv_integer

    def product(self, b: Builder, node: Node, data: tuple, weights: tuple, scales: Sequence[Value]) -> Value:
        """The sums of products of differences, `scales` the constants that they are multiplied by: the last is the weights'."""
        conv = node.name.endswith("conv") or node.name == "conv_integer"
        (x, x_zero), (w, w_zero) = data, weights
        if not (x.dtype.is_int and w.dtype.is_int and min(x.rank or 0, w.rank or 0) >= 2):
            raise _refused(node, f"it multiplies {x.type} and {w.type}")
        self.freeze(x_zero, w_zero, *scales)
        axis = 0 if conv else -1
        left = self.less(b, node, self.number(b, x), x_zero, 1 if conv else -2)
        right = self.less(b, node, self.weight(b, node, w, w_zero, scales, axis), w_zero, axis)
        return b.conv(left, right, **dict(node.attrs)) if conv else b.matmul(left, right)

    def number(self, b: Builder, x: Value) -> Value:
        return self.floats.get(x) or b.cast(x, to=F32)

    def less(self, b: Builder, node: Node, x: Value, zero: Value | None, axis: int) -> Value:
        """The difference of numbers and their zero point, a single one or one along `axis`."""
        if zero is None:
            return x
        laid = shaped(b, self.number(b, zero), x.rank, axis)
        if laid is None:
            raise _refused(node, "the shape of a zero point is not known")
        return b.sub(x, laid)

    def weight(self, b: Builder, node: Node, w: Value, zero: Value | None, scales: Sequence[Value], axis: int) -> Value:
        """The weights of a product, rounded to integers, with a master behind them where they are stored."""
        if w in self.floats:
            return self.floats[w]
        found = stored_weight(w)
        if found is None or not (zero is None or zero.is_const):
            self.form.notes.append(f"the weights of {layer_name(node)} are shared or computed and stay as they are")
            return b.cast(w, to=F32)
        stored, perm = found
        back = np.argsort(perm)
        scale = unit_of(stored.array().transpose(perm), scales, axis).transpose(back)
        offset = None if zero is None else shaped(b, zero, len(perm), axis)
        if offset is not None and offset.rank:
            offset = b.const(offset.array().transpose(back))
        self.form.quantised = True
        made = self.master(b, node, stored, b.const(scale), offset)
        return made if stored is w else b.transpose(made, perm=perm)

    def bias(self, b: Builder, node: Node, stored: Value, scales: Sequence[Value]) -> Value:
        """An i32 bias in units of the sums that it is added to; without their scales it stays as it is."""
        if not stored.is_const or stored_weight(stored) is None or not scales:
            return self.number(b, stored)
        shape, parts = stored.array().shape, [scale.array().reshape(-1).astype(np.float32) for scale in scales]
        if any(part.size not in (1, math.prod(shape)) for part in parts):
            return self.number(b, stored)
        unit = functools.reduce(np.multiply, parts)
        if not (np.isfinite(unit).all() and (unit > 0).all()):
            return self.number(b, stored)
        laid = unit.reshape((1,) * len(shape) if unit.size == 1 else shape)
        return self.master(b, node, stored, b.const(laid), None)

    def ended(self, b: Builder, node: Node, total: Value, parameters: tuple, axes: tuple[int, ...]) -> None:
        """The sums times x_scale w_scale / y_scale, as integers around y's zero point."""
        self.freeze(*parameters)
        x_scale, w_scale, y_scale, y_zero = (
            shaped(b, self.floats.get(value, value), total.rank, axis)
            for value, axis in zip(parameters, axes, strict=True)
        )
        if None in (x_scale, w_scale, y_scale, y_zero):
            raise _refused(node, "the shape of a scale or zero point is not known")
        scaled = b.mul(total, ratio_of(b, x_scale, w_scale, y_scale))
        self.floats[node.result] = self.integral(b, scaled, _cast(b, y_zero, F32), node.result.dtype)

    def requantize(self, b: Builder, node: Node) -> None:
        x, scale, zero = (*node.operands, None)[:3]
        if node.attr("rounding") != "half_even":
            raise _refused(node, "it rounds in fixed point")
        self.freeze(*factors(scale), zero)
        scaled = b.mul(self.floats[x], self.spread(b, node, scale, x, F32))
        offset = None if zero is None else self.spread(b, node, self.floats.get(zero, zero), x, F32)
        self.floats[node.result] = self.integral(b, scaled, offset, node.attr("to"))

    def add(self, b: Builder, node: Node) -> None:
        """Sums of integers, a stored bias among them."""
        if node.result.dtype is not I32:
            raise _refused(node, "it computes with integers")
        scales = told_scales(node)
        self.floats[node.result] = b.add(*(self.floats.get(v) or self.bias(b, node, v, scales) for v in node.operands))

    def cast(self, b: Builder, node: Node) -> None:
        """Integers as floats are what they are; floats that were rounded and clipped are integers from here on."""
        (x,), to = node.operands, node.attr("to")
        if x in self.floats:
            if to.is_int and to.bits < x.dtype.bits:
                raise _refused(node, f"it wraps around in {to}")
            if to.is_int:
                self.floats[node.result] = self.floats[x]
            else:
                node.result.replace_uses(_cast(b, self.floats[x], to))
        elif to.is_int and to.bits <= 16 and (rounded := _rounded_by(x, to)) is not None:
            inner = Builder(rounded.graph, before=rounded, loc=rounded.loc)
            rounded.result.replace_uses(self.straight(inner, rounded.operands[0]))
            self.floats[node.result] = x
            self.form.quantised = True

    def integral(self, b: Builder, x: Value, zero: Value | None, to: DType) -> Value:
        """clip(round(x) + zero) within the range of `to`."""
        info = ml_dtypes.iinfo(to.numpy)
        y = self.straight(b, x)
        return self.clipped(b, y if zero is None else b.add(y, zero), int(info.min), int(info.max))

    @staticmethod
    def clipped(b: Builder, y: Value, low: int, high: int) -> Value:
        return b.clip(y, b.const(y.dtype.numpy.type(low)), b.const(y.dtype.numpy.type(high)))

    @staticmethod
    def straight(b: Builder, x: Value) -> Value:
        return b.call("torch.straight_round", [x]).result

    def trains(self, stored: Value, node: Node) -> bool:
        """An integer constant that is a weight: by its role, or by what uses it. Scalars are constants of the computation."""
        if stored.weight is None or not stored.rank or not stored.dtype.is_int:
            return False
        uses = {use.node.op.name for use in stored.uses}
        if uses != {"dequantize"} or len({use.node.operands[1:] for use in stored.uses}) > 1:
            self.form.notes.append(f"{stored.weight.key} is used with several scales and stays as it is")
            return False
        return stored.weight.role == "param" or any(user.name in WEIGHTED for user in node.result.users)

    def master(self, b: Builder, node: Node, stored: Value, scale: Value, zero: Value | None) -> Value:
        """The float copy of an integer weight, rounded to the integers that it will be stored as."""
        key, block = stored.weight.key, node.attrs.get("block_size", 0)
        if not scale.is_const or (zero is not None and not zero.is_const):
            raise _refused(node, f"the scale of {key} is computed")
        info = ml_dtypes.iinfo(stored.dtype.numpy)
        low, high = int(info.min), int(info.max)
        integers = stored.array()
        if low < 0 and not (integers == integers.dtype.type(low)).any():
            low = -high  # symmetric weights keep out of the lowest integer
        if key not in self.form.masters:
            offset = None if zero is None else zero.array()
            start = get_kernel("dequantize")(integers, scale.array(), offset, to=F32, block_size=block)
            self.form.masters[key] = Master(key, start, scale.array(), offset, block, low, high)
            self.made[stored] = self.module.add_weight(key, start, "param", f"master of {stored.dtype} weights")
        return self.rounded(b, node, self.made[stored], scale, zero, low, high)

    def moved(self, b: Builder, node: Node) -> None:
        """An op that only moves or compares integers does the same to floats."""
        if not (node.has(MOVEMENT) or node.has(SAME_QUANT) or node.name in _MOVES) or node.regions:
            raise _refused(node, "it computes with integers")
        wide = next(self.floats[v].dtype for v in node.inputs() if v in self.floats)
        stored = next(v.dtype for v in node.inputs() if v in self.floats)
        operands = [
            self.floats.get(v) or (v if v is None or v.dtype is not stored else _cast(b, v, wide))
            for v in node.operands
        ]
        made = b.call(node.name, operands, dict(node.attrs))
        self.floats.update(
            (old, new) for old, new in zip(node.results, made.results, strict=True) if old.dtype is stored
        )
        for old, new in zip(node.results, made.results, strict=True):
            if old.dtype is not stored:  # indices of a max_pool
                old.replace_uses(new)

    def spread(self, b: Builder, node: Node, parameter: Value, x: Value, wide: DType) -> Value:
        made = spread_blocks(b, _cast(b, parameter, wide), x, node.attrs.get("block_size", 0))
        if isinstance(made, Declined):
            raise _refused(node, str(made.reason))
        return made

    @staticmethod
    def freeze(*parameters: Value | None) -> None:
        """Scales and zero points are no parameters here, whatever the file says."""
        for value in parameters:
            if value is not None and value.weight is not None:
                value.weight.role = "const"


def _wide(x: Value, scale: Value) -> DType:
    """The type in which quantize divides, f32 at least."""
    found = x.dtype if x.dtype.is_float and x.dtype.bits >= scale.dtype.bits else scale.dtype
    return found if found in (F32, F64) else F32


def _rounded_by(x: Value, to: DType) -> Node | None:
    """The round behind `x`, a value clipped to numbers that `to` holds."""
    clip, info = x.node, ml_dtypes.iinfo(to.numpy)
    limits = clip.operands[1:] if clip is not None and clip.name == "clip" else ()
    if len(limits) != 2 or not all(v is not None and v.is_const and info.min <= v.scalar() <= info.max for v in limits):
        return None
    made = clip.operands[0].node
    return made if made is not None and made.name == "round" else None


def _cast(b: Builder, x: Value, to: DType) -> Value:
    return x if x.dtype is to else b.cast(x, to=to)


def _refused(node: Node, why: str) -> Unsupported:
    return Unsupported(
        f"{node.name} {layer_name(node)!r} cannot be trained: {why}", where=str(node.loc), hint="give its QDQ form"
    )
