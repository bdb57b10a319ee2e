"""Straight-through training of a quantised student: its graph in floats, with the same roundings and the same scales.

    form = training_form(student)        # quantize and dequantize as float arithmetic, integer weights as float masters
    ...                                  # train form.module (its state dict has the student's keys)
    form.bring_back(student, arrays)     # the masters, quantised with the scales that the student has

Forward, the training form computes what the student computes; backward, rounding counts as the identity and saturation
stops the gradient (Bengio et al., 1308.3432; Jacob et al., 1712.05877). Float16 weights get float32 masters. Scales and zero
points never change. Works on the IR alone; imports no framework.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np

from ...ir.builder import Builder
from ...ir.errors import InternalError, Unsupported
from ...ir.graph import Graph, Module, Node, Value
from ...ir.opdef import MOVEMENT, SAME_QUANT
from ...ir.types import BF16, F16, F32, F64, DType
from ...kernels.registry import get_kernel
from ...passes.decompose.quant import spread_blocks
from ...passes.decompose.rules import Declined
from ...passes.manager import run_pipeline
from ...passes.select import layer_name

#: Nodes whose constant operands are weights, whatever role a file gives them.
WEIGHTED = frozenset(
    ("conv", "conv_transpose", "gemm", "matmul", "einsum", "add", "gather", "lstm", "gru", "rnn", "attention")
)
_HALF = (F16, BF16)
#: Besides those that the traits name: it takes the integer that it fills with as an operand.
_MOVES = frozenset(("pad",))


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
    straight-through form (QLinear operators, ...): its QDQ form has one."""
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
            if node.name in ("quantize", "dequantize", "dynamic_quantize"):
                getattr(self, node.name)(b, node)
            elif any(value in self.floats for value in node.inputs()):
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
        return b.clip(y, b.const(wide.numpy.type(low)), b.const(wide.numpy.type(high)))

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
        key, block = stored.weight.key, node.attr("block_size")
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
        made = spread_blocks(b, _cast(b, parameter, wide), x, node.attr("block_size"))
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


def _cast(b: Builder, x: Value, to: DType) -> Value:
    return x if x.dtype is to else b.cast(x, to=to)


def _refused(node: Node, why: str) -> Unsupported:
    return Unsupported(
        f"{node.name} {layer_name(node)!r} cannot be trained: {why}", where=str(node.loc), hint="give its QDQ form"
    )
