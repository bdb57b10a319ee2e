"""What compression did to each layer: bits, bytes, work, integer arithmetic, and the error that it makes.

Layers are the nodes that `cost.macs` counts, matched between the dense and the compressed module by their weight, else
by where they come from in the source. An error is a signal to noise ratio in dB of what the layer passes on, which is its
result after the bias and the activation behind it, and after the rounding of it where it is quantised:

    total   the compressed model's own inputs: what has gone wrong up to here
    own     the dense model's inputs, rounded as the layer rounds them: what this layer does wrong

Both run on the reference kernels, one batch at a time. Imports no framework.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..ir.cost import LAYERS, macs
from ..ir.errors import AnyIRError
from ..ir.graph import Module, Node, Value
from ..ir.opdef import ELEMENTWISE, MOVEMENT
from ..kernels.registry import get_kernel
from ..kernels.run import run, run_node
from ..passes.select import layer_name, stored, weight_of

Arrays = Mapping[str, np.ndarray]

#: Ops that have integer operands themselves.
INTEGER_OPS = frozenset({"conv_integer", "matmul_integer", "qlinear_conv", "qlinear_matmul", "dynamic_quantize_lstm"})


@dataclass
class LayerRow:
    """One layer. `before` and `after` are None where the layer is new or gone; errors are None where they were not or
    cannot be measured."""

    name: str
    op: str
    bits: tuple[int | None, int | None] = (None, None)
    bytes: tuple[int, int] = (0, 0)
    macs: tuple[int | None, int | None] = (0, 0)
    zeros: float = 0.0
    arithmetic: str = "float"
    own: float | None = None
    total: float | None = None
    sensitivity: float | None = None


@dataclass
class Pair:
    """A layer in both modules."""

    name: str
    before: Node | None
    after: Node | None


def pair_layers(dense: Module, compressed: Module) -> list[Pair]:
    """The layers of both, in the order of `compressed`; those that are gone at the end."""
    waiting: dict[tuple[str, int], Node] = dict(_numbered(dense))
    found = [Pair(layer_name(node), waiting.pop(key, None), node) for key, node in _numbered(compressed)]
    return found + [Pair(layer_name(node), node, None) for node in waiting.values()]


def _numbered(module: Module) -> Iterable[tuple[tuple[str, int], Node]]:
    """Every layer with what it is known by: its weight's or its source's name, and how many of that came before."""
    seen: dict[str, int] = {}
    for node in module.all_nodes():
        if node.name in LAYERS:
            weight = weight_of(node)
            key = layer_name(node) if weight is None else weight.weight.wanted  # type: ignore[union-attr]
            seen[key] = seen.get(key, -1) + 1
            yield (key, seen[key]), node


# ------------------------------------------------------------------------------------------------------------- facts


def facts(pair: Pair, sizes: Mapping[str, int]) -> LayerRow:
    """What can be read off the graphs."""
    node = pair.after or pair.before
    assert node is not None
    row = LayerRow(pair.name, node.name)
    row.bits = (bits(pair.before), bits(pair.after))
    row.bytes = (stored_bytes(pair.before), stored_bytes(pair.after))
    row.macs = tuple(macs(n, sizes) if n is not None else 0 for n in (pair.before, pair.after))  # type: ignore[assignment]
    row.zeros = zeros(pair.after)
    row.arithmetic = arithmetic(pair.after) if pair.after is not None else "removed"
    return row


def bits(node: Node | None) -> int | None:
    """Of one element of the layer's weight as it is stored."""
    weight = weight_of(node) if node is not None else None
    return None if weight is None or weight.dtype is None else weight.dtype.bits


def stored_bytes(node: Node | None) -> int:
    """Of the constants that a layer has, scales among them, each once."""
    if node is None:
        return 0
    found: dict[Any, None] = {}
    pending = list(node.inputs())
    while pending:
        value = pending.pop()
        if value.is_const:
            found[value.weight] = None
        elif value.node is not None and _is_constant(value):
            pending += value.node.inputs()
    return sum(weight.nbytes for weight in found)


def zeros(node: Node | None) -> float:
    """The share of the weight's elements that are zero, as real numbers."""
    weight = weight_of(node) if node is not None else None
    if weight is None or not weight.weight.tensor.size:  # type: ignore[union-attr]
        return 0.0
    array = weight.array()
    zero = 0
    for user in weight.users:
        point = user.operand("zero_point") if user.name == "dequantize" else None
        if point is not None and point.is_const and not np.any(point.array() != point.array().flat[0]):
            zero = point.array().flat[0]
    return float(np.count_nonzero(array == zero)) / array.size


def arithmetic(node: Node) -> str:
    """In what the layer computes once a target has folded its quantize and dequantize nodes: `int8` or `int8x16` (weights x
    activations), `float` with what is stored smaller, and why it is not integer."""
    if node.name in INTEGER_OPS:
        return "int8"
    weight = weight_of(node)
    behind = [value.node for value in node.inputs() if value.node is not None and value.node.name == "dequantize"]
    small = weight is not None and weight.dtype is not None and weight.dtype.bits < 32
    if weight is not None and small and not weight.dtype.is_int:  # type: ignore[union-attr]
        return f"float ({weight.dtype} weights)"
    data = [n.operands[0] for n in behind if n.operands[0] is not None and not _is_constant(n.operands[0])]
    wanted = sum(1 for value in list(node.inputs())[:2] if not _is_constant(value))
    if not small and (weight is not None or not data):
        return "float"
    if len(data) < wanted:
        return f"float ({weight.dtype} weights)" if small else "float"  # type: ignore[union-attr]
    if weight is not None and weight.dtype.bits < 8:
        return f"float ({weight.dtype} weights)"
    kinds = "x".join(dict.fromkeys(str(d.dtype.bits) for d in [weight, *data] if d is not None and d.dtype is not None))
    if any(_dynamic(value) for value in data):
        return f"int{kinds} (dynamic)"
    tail = _tail(node)
    if tail and tail[-1].name in ("quantize", "requantize"):
        return f"int{kinds}"
    return f"int{kinds}, float result"


def _dynamic(value: Value) -> bool:
    return value.node is not None and value.node.name == "dynamic_quantize"


def _is_constant(value: Value) -> bool:
    """A constant, or what dequantize, casts and moves make of one."""
    return stored(value).is_const


# ------------------------------------------------------------------------------------------------------------ errors


@dataclass
class Noise:
    """Sums of squares over all samples."""

    signal: float = 0.0
    noise: float = 0.0
    count: int = 0

    def add(self, wanted: np.ndarray, found: np.ndarray) -> None:
        a, b = wanted.astype(np.float64), found.astype(np.float64)
        self.signal += float(np.square(a).sum())
        self.noise += float(np.square(a - b).sum())
        self.count += a.size

    @property
    def db(self) -> float | None:
        """10 log10(signal / noise): infinite where nothing differs, None where nothing was seen."""
        if not self.count or not math.isfinite(self.noise) or not math.isfinite(self.signal):
            return None
        if not self.noise:
            return math.inf
        return 10 * math.log10(self.signal / self.noise) if self.signal else -math.inf


@dataclass
class _Probe:
    """What is looked at of one layer. `wanted` is the dense value behind `tail_before`, `found` the compressed one. `kept`
    are the dense channels that the compressed result still has, `fed` those of its inputs by operand; None: all."""

    pair: Pair
    tail_before: list[Node]
    tail_after: list[Node]
    inputs: list[tuple[int, Value]]
    kept: np.ndarray | None = None
    fed: dict[int, np.ndarray | None] = field(default_factory=dict)
    own: Noise = field(default_factory=Noise)
    total: Noise = field(default_factory=Noise)

    @property
    def axis(self) -> int:
        """Where the channels of inputs and results are."""
        return 1 if self.pair.before.name in ("conv", "conv_transpose") else -1  # type: ignore[union-attr]

    @property
    def wanted(self) -> Value:
        return (self.tail_before[-1] if self.tail_before else self.pair.before).results[0]  # type: ignore[union-attr]

    @property
    def found(self) -> Value:
        return (self.tail_after[-1] if self.tail_after else self.pair.after).results[0]  # type: ignore[union-attr]


def errors(
    dense: Module,
    compressed: Module,
    pairs: Sequence[Pair],
    batches: Iterable[Arrays],
    kept: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, _Probe]:
    """Own and total noise of every layer that both modules have, by name. `kept` are the dense output channels that a pruned
    layer still has, by its name. One batch of all layers' inputs and outputs is in memory at a time."""
    main = dense.signature.graph, compressed.signature.graph
    probes = [made for pair in pairs if (made := _probe(pair, *main)) is not None]
    _note_kept(probes, kept or {})
    wanted = {probe.wanted for probe in probes} | {value for probe in probes for _, value in probe.inputs}
    for feeds in batches:
        held: dict[Value, np.ndarray] = {}
        run(dense, feeds, taps={value: _keep(held, value) for value in wanted})
        for probe in probes:
            _own(probe, held)
        taps: dict[Value, list[_Probe]] = {}
        for probe in probes:
            taps.setdefault(probe.found, []).append(probe)
        run(compressed, feeds, taps={value: _compare(held, those) for value, those in taps.items()})
    return {probe.pair.name: probe for probe in probes}


def _keep(held: dict[Value, np.ndarray], value: Value) -> Any:
    def observe(array: np.ndarray) -> None:
        held[value] = array

    return observe


def _compare(held: Mapping[Value, np.ndarray], probes: Sequence[_Probe]) -> Any:
    def observe(array: np.ndarray) -> None:
        for probe in probes:
            wanted = _left(held.get(probe.wanted), probe.kept, probe.axis)
            if wanted is not None and wanted.shape == array.shape:
                probe.total.add(wanted, _real(array, probe.tail_after))

    return observe


def _probe(pair: Pair, before: Any, after: Any) -> _Probe | None:
    """None for layers that only one module has, that stand in a region (how often it runs is not known), or that pass on
    integers by themselves."""
    if pair.before is None or pair.after is None or pair.before.graph is not before or pair.after.graph is not after:
        return None
    if pair.after.name != pair.before.name:
        return None
    first, second = _tail(pair.before), _tail(pair.after)
    names = [node.name for node in second if node.name not in ("quantize", "requantize")]
    if not second or second[-1].name != "quantize":  # compare after what both have
        same = 0
        while same < min(len(first), len(names)) and first[same].name == names[same]:
            same += 1
        first, second = first[:same], second[:same]
    inputs = [
        (i, value) for i, value in enumerate(pair.before.operands) if value is not None and not _is_constant(value)
    ]
    return _Probe(pair, first, second, inputs)


def _note_kept(probes: Sequence[_Probe], kept: Mapping[str, Sequence[int]]) -> None:
    """Which dense channels the results and inputs of every probed layer still have."""
    known: dict[Value, np.ndarray] = {}
    for probe in probes:
        channels = kept.get(probe.pair.name)
        if channels is not None and probe.pair.after is not None:
            probe.kept = known[probe.pair.after.results[0]] = np.asarray(channels, np.int64)
    for probe in probes:
        for index, before in probe.inputs:
            now = probe.pair.after.operands[index]  # type: ignore[union-attr]
            probe.fed[index] = None if now is None or now.shape == before.shape else _kept_of(now, known, probe.axis)


def _kept_of(value: Value, known: Mapping[Value, np.ndarray], axis: int) -> np.ndarray | None:
    """The dense channels that a value has: those of the nearest layer behind it with as many. What pruning ties together (the
    branches of a sum, a depthwise layer and its input) keeps the same ones, so any way back will do."""
    pending, seen = [value], {value}
    while pending:
        value = pending.pop()
        if value in known:
            return known[value]
        for operand in value.node.inputs() if value.node is not None else ():
            same = operand.rank == value.rank and operand.rank and operand.shape[axis] == value.shape[axis]  # type: ignore
            if same and operand not in seen and not operand.is_const:
                seen.add(operand)
                pending.append(operand)
    return None


def _left(array: Any, channels: np.ndarray | None, axis: int) -> Any:
    """The kept channels of a dense array."""
    if array is None or channels is None or array.ndim < 2 or channels.max(initial=-1) >= array.shape[axis]:
        return array
    return array.take(channels, axis=axis)


def _tail(node: Node) -> list[Node]:
    """The elementwise nodes behind a layer that only its result runs through, up to and with a quantize."""
    made: list[Node] = []
    current = node
    while len(current.results) >= 1 and (user := current.results[0].single_user()) is not None:
        others = [value for value in user.inputs() if value is not current.results[0] and not _is_constant(value)]
        if user.name == "return" or user.regions or others or len(user.results) != 1:
            break
        if user.name in ("quantize", "requantize"):
            made.append(user)
            break
        if not user.has(ELEMENTWISE) or user.has(MOVEMENT) or user.name in ("dequantize", "cast"):
            break
        made.append(user)
        current = user
    return made


def _own(probe: _Probe, held: Mapping[Value, np.ndarray]) -> None:
    """The layer as it is now on the inputs that it had before."""
    node = probe.pair.after
    assert node is not None
    wanted = _left(held.get(probe.wanted), probe.kept, probe.axis)
    given = {i: _left(held[value], probe.fed.get(i), probe.axis) for i, value in probe.inputs if value in held}
    if wanted is None or len(given) < len(probe.inputs):
        return
    try:
        operands = [
            None if value is None else _rounded(value, given[i]) if i in given else _constant(value)
            for i, value in enumerate(node.operands)
        ]
        result = run_node(node, operands)[0]
        for step in probe.tail_after:
            previous = node.results[0] if step is probe.tail_after[0] else None
            result = _step(step, result, previous or _before(probe.tail_after, step))
        real = _real(result, probe.tail_after)
    except (AnyIRError, ValueError, KeyError):
        return  # its inputs have other shapes now: some of them were pruned
    if real.shape == wanted.shape:
        probe.own.add(wanted, real)


def _before(steps: Sequence[Node], step: Node) -> Value:
    return steps[steps.index(step) - 1].results[0]


def _step(step: Node, result: np.ndarray, through: Value) -> np.ndarray:
    operands = [None if v is None else result if v is through else _constant(v) for v in step.operands]
    return run_node(step, operands)[0]


def _real(array: np.ndarray, tail: Sequence[Node]) -> np.ndarray:
    """What the integers of a quantised result stand for."""
    if not tail or tail[-1].name != "quantize":
        return array
    scale, point = tail[-1].operand("scale"), tail[-1].operand("zero_point")
    return _dequantized(array, _constant(scale), None if point is None else _constant(point), tail[-1])


def _dequantized(array: np.ndarray, scale: np.ndarray, point: np.ndarray | None, node: Node) -> np.ndarray:
    from ..ir.types import F32

    return get_kernel("dequantize")(array, scale, point, to=F32, block_size=node.attr("block_size"))


def _rounded(value: Value, array: np.ndarray) -> np.ndarray:
    """`array` as it arrives at a layer whose operand is `value`: through that value's quantisation where it has one."""
    node = value.node
    if node is None or node.name != "dequantize":
        return array
    scale, point = node.operand("scale"), node.operand("zero_point")
    if _dynamic(node.operands[0]):
        integers, real, zero = get_kernel("dynamic_quantize")(array.astype(np.float32))
        return _dequantized(integers, real, zero, node).astype(array.dtype)
    if not _is_constant(scale) or (point is not None and not _is_constant(point)):
        return array
    real, zero = _constant(scale), None if point is None else _constant(point)
    how = {"to": node.operands[0].dtype, "saturate": True, "block_size": node.attr("block_size")}
    return _dequantized(get_kernel("quantize")(array, real, zero, **how), real, zero, node).astype(array.dtype)


def _constant(value: Value) -> np.ndarray:
    """The array of a constant, or of what dequantize, casts and moves make of one. Raises KeyError where something else in it
    is computed."""
    chain: list[Node] = []
    while not value.is_const:
        if value.node is None:
            raise KeyError(value.hint)
        chain.append(value.node)
        value = chain[-1].operands[0]  # type: ignore[assignment]
    array = value.array()
    for node in reversed(chain):
        others = node.operands[1:]
        if any(v is not None and not v.is_const for v in others):
            raise KeyError(node.name)
        array = run_node(node, [array, *(None if v is None else v.array() for v in others)])[0]
    return array
