"""Random valid modules, made of the ops' own samples and seeded: what the laws of the IR and of the passes are tried on.

    made = random_module(17)
    run(made.module, made.inputs)

A module is a DAG of samples that were plugged into each other where types fit, with elementwise chains between them,
several outputs, constants of every dtype, named and unnamed weights, regions, locations, facts, metadata, signatures and
awkward names. About half of the modules have a symbolic batch. All of them run on the reference kernels.
"""

from __future__ import annotations

import functools
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from anyir.ir.builder import Builder
from anyir.ir.dims import sym
from anyir.ir.errors import TypeInferError
from anyir.ir.graph import Graph, Module, Value
from anyir.ir.loc import UNKNOWN_LOC, Loc
from anyir.ir.opdef import Sample, Typed
from anyir.ir.ops import get_op, load_families
from anyir.ir.signature import Slot
from anyir.ir.tensor import Tensor, as_tensor
from anyir.ir.types import ALL, BF16, BOOL, F16, F32, F64, STRING, DType, TensorType

#: Not for plugging: they hold the graph together, take regions, are not pure, or refuse most numbers.
WITHOUT = frozenset({"return", "opaque", "call", "if", "loop", "scan", "mel_weight_matrix"})
#: Elements of a sample above which it is left to the op's own tests.
LARGE = 400

FLOAT_UNARY = ("neg", "abs", "relu", "sigmoid", "tanh", "exp", "identity", "floor", "softsign", "square", "silu", "erf")
FLOAT_BINARY = ("add", "sub", "mul", "div", "min", "max")
INT_UNARY = ("neg", "abs", "identity")
INT_BINARY = ("add", "sub", "mul", "min", "max")
HINTS = ("x", "x", "conv1", "a b", "layer/1:0", "0", "7up", "é", "none", "const", "return", "%", "\n", "y" * 90, "")
SPECIAL = (np.nan, -0.0, 0.0, np.inf, -np.inf, 1.0)


@dataclass
class Generated:
    """A module with inputs by name that it runs on, and the size that its symbol N has in them."""

    module: Module
    inputs: dict[str, np.ndarray]
    sizes: dict[str, int] = field(default_factory=dict)


@dataclass
class _Step:
    """One node to build: operands are None, an index into the values, or an index into the leaves as ("leaf", i)."""

    op: str
    operands: list[Any]
    attrs: dict[str, Any]
    loc: Loc


@dataclass
class _Leaf:
    """An input or constant."""

    array: np.ndarray
    is_const: bool
    dtype: DType
    role: str = "const"


@functools.cache
def pool() -> tuple[tuple[str, Sample], ...]:
    """Every small sample of every core op, in a fixed order."""
    rows = []
    for name in sorted(n for n in load_families() if "." not in n and n not in WITHOUT):
        for sample in get_op(name).samples(np.random.default_rng(zlib.crc32(name.encode()))):
            if any(isinstance(o, Typed) for o in sample.operands):
                continue
            arrays = [
                np.asarray(a) for o in sample.operands for a in (o if isinstance(o, list) else [o]) if a is not None
            ]
            if sum(a.size for a in arrays) <= LARGE and not sample.attrs.get("channels_last"):
                rows.append((name, sample))
    return tuple(rows)


@functools.cache
def sockets() -> dict[tuple[str, tuple[int, ...]], list[tuple[str, Sample, int]]]:
    """(dtype, shape) -> the samples whose operand number i has that type; floats only, since integers may be indices."""
    found: dict[tuple[str, tuple[int, ...]], list[tuple[str, Sample, int]]] = {}
    for name, sample in pool():
        declared = get_op(name).operands
        for i, array in enumerate(flat_operands(sample)):
            const = declared[min(i, len(declared) - 1)].name in sample.const
            if array is not None and not const and DType.of(array.dtype).is_float:
                found.setdefault((DType.of(array.dtype).name, array.shape), []).append((name, sample, i))
    return found


def flat_operands(sample: Sample) -> list[np.ndarray | None]:
    flat = [a for o in sample.operands for a in (o if isinstance(o, list) else [o])]
    return [None if a is None else np.asarray(a) for a in flat]


class Generator:
    """Plans a module as steps over leaves, then builds it: statically, and if it can be with a symbolic batch."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.leaves: list[_Leaf] = []
        self.steps: list[_Step] = []
        self.scratch = Module("scratch")
        self.builder = Builder(self.scratch.add_graph("main"))
        self.values: list[Value] = []

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def pick(self, items: Any) -> Any:
        return items[int(self.rng.integers(len(items)))]

    # Planning.

    def plan(self, nodes: int) -> None:
        ways = (self.plug, self.plug, self.elementwise, self.elementwise, self.fresh, self.exotic)
        while len(self.steps) < nodes:
            self.pick(ways)()

    def leaf(self, array: np.ndarray, is_const: bool, dtype: DType | None = None) -> tuple[str, int]:
        role = self.pick(("const", "param", "buffer")) if is_const else "const"
        self.leaves.append(_Leaf(array, is_const, dtype or DType.of(array.dtype), role))
        return ("leaf", len(self.leaves) - 1)

    def try_step(self, op: str, operands: list[Any], attrs: dict[str, Any]) -> None:
        """Take the step unless inference refuses."""
        step = _Step(op, operands, attrs, self.location())
        scratch = [
            self._scratch_leaf(o) if isinstance(o, tuple) else None if o is None else self.values[o] for o in operands
        ]
        try:
            node = self.builder.call(op, scratch, attrs)
        except TypeInferError:
            return
        self.steps.append(step)
        self.values.extend(node.results)

    def _scratch_leaf(self, ref: tuple[str, int]) -> Value:
        leaf = self.leaves[ref[1]]
        if leaf.is_const:
            return self.scratch.add_weight(f"w{ref[1]}", _tensor(leaf))
        return self.builder.graph.add_input(TensorType(leaf.dtype, leaf.array.shape))

    def static_values(self) -> list[int]:
        return [i for i, v in enumerate(self.values) if isinstance(v.type, TensorType) and v.type.is_static and v.dtype]

    def sample_step(self, name: str, sample: Sample, plugged: int | None = None, value: int = -1) -> None:
        declared = get_op(name).operands
        operands: list[Any] = []
        for i, array in enumerate(flat_operands(sample)):
            if array is None or i == plugged:
                operands.append(None if array is None else value)
                continue
            const = declared[min(i, len(declared) - 1)].name in sample.const
            operands.append(self.leaf(array, const or self.chance(0.5)))
        self.try_step(name, operands, dict(sample.attrs))

    def fresh(self) -> None:
        self.sample_step(*self.pick(pool()))

    def plug(self) -> None:
        """A value goes where a sample has an operand of its type."""
        for _ in range(4):
            known = self.static_values()
            if not known:
                break
            index = self.pick(known)
            value = self.values[index]
            fitting = sockets().get((value.dtype.name, tuple(value.shape)))
            if fitting:
                name, sample, position = self.pick(fitting)
                self.sample_step(name, sample, position, index)
                return
        self.fresh()

    def elementwise(self) -> None:
        known = [i for i in self.static_values() if self.values[i].dtype.is_float or self.values[i].dtype.is_int]
        if not known:
            return self.fresh()
        index = self.pick(known)
        value = self.values[index]
        is_float = value.dtype.is_float
        if self.chance(0.5):
            return self.try_step(self.pick(FLOAT_UNARY if is_float else INT_UNARY), [index], {})
        alike = [i for i in known if self.values[i].type is value.type]
        other: Any = self.pick(alike)
        if self.chance(0.5):
            other = self.leaf(self.constant_for(value), True)
        operands = [index, other] if self.chance(0.7) else [other, index]
        return self.try_step(self.pick(FLOAT_BINARY if is_float else INT_BINARY), operands, {})

    def constant_for(self, value: Value) -> np.ndarray:
        """Something to combine with a value: neutral elements and special numbers more often than others."""
        dtype = value.dtype.numpy
        shape = () if self.chance(0.6) else tuple(value.shape)
        if not value.dtype.is_float:
            return self.rng.integers(0, 3, shape).astype(dtype)
        if self.chance(0.5):
            return np.full(shape, self.pick((0.0, -0.0, 1.0, -1.0, 2.0, 0.5, np.nan, np.inf)), dtype)
        return self.rng.standard_normal(shape).astype(dtype)

    def exotic(self) -> None:
        """A constant of any dtype that goes through ops which only move elements."""
        dtype = self.pick(sorted(ALL, key=lambda t: t.name))
        shape = tuple(int(d) for d in self.rng.integers(0, 5, int(self.rng.integers(0, 4))))
        ref = self.leaf(random_elements(dtype, shape, self.rng), True, dtype)
        self.try_step("identity", [ref], {})
        if len(shape) >= 2 and dtype is not STRING:
            self.try_step("transpose", [len(self.values) - 1], {"perm": tuple(reversed(range(len(shape))))})

    def location(self) -> Loc:
        if self.chance(0.4):
            return UNKNOWN_LOC
        source = {"file": "net.py", "line": 3} if self.chance(0.5) else {}
        one = Loc(self.pick(("torch", "onnx", "keras")), f"layer{self.rng.integers(9)}.é", **source)
        return one if self.chance(0.7) else Loc.fuse([one, Loc("onnx", 'odd "name"\n'), Loc("", "")], "fold")

    # Building.

    def build(self, batch: int | None = None) -> Generated:
        """The planned module; dims of inputs that are `batch` long at the front become N. Raises TypeInferError."""
        module = Module(self.pick(("model", "odd name", "é\n")))
        graph = module.add_graph(self.pick(("main", "a graph", "g.1")))
        names, arrays, leaves = [], [], {}
        for i, leaf in enumerate(self.leaves):
            if leaf.is_const:
                leaves[i] = self.constant(module, leaf, i)
            else:
                shape = leaf.array.shape
                dims = (sym("N"), *shape[1:]) if batch and shape and shape[0] == batch else shape
                leaves[i] = graph.add_input(TensorType(leaf.dtype, dims), HINTS[i % len(HINTS)])
                names.append(f"in{i}" if i % 3 else f"in {i}é")
                arrays.append(leaf.array)
        outputs = self.nodes(Builder(graph), leaves)
        graph.set_outputs(outputs)
        slots = [Slot(f"out{i}", ("nest", i) if i % 2 else ()) for i in range(len(outputs))]
        module.add_signature("serving_default", graph, [Slot(name) for name in names], slots)
        self.decorate(module)
        return Generated(module, dict(zip(names, arrays, strict=True)), {"N": batch} if batch else {})

    def constant(self, module: Module, leaf: _Leaf, number: int) -> Value:
        if leaf.role == "const" and number % 2:
            return module.literal(_tensor(leaf))
        value = module.add_weight(f"layer.{number}" if number % 5 else f"odd key {number}é\n", _tensor(leaf), leaf.role)
        value.weight.aliases = (f"alias {number}",) if number % 3 == 0 else ()
        value.weight.origin = "made up" if number % 4 == 0 else ""
        return value

    def nodes(self, b: Builder, leaves: dict[int, Value]) -> list[Value]:
        values: list[Value] = []
        for number, step in enumerate(self.steps):
            operands = [
                leaves[o[1]] if isinstance(o, tuple) else None if o is None else values[o] for o in step.operands
            ]
            node = b.at(step.loc).call(step.op, operands, step.attrs)
            for value in node.results:
                value.hint = HINTS[(number * 7) % len(HINTS)]
            values.extend(node.results)
        ends = [v for v in values if not v.n_uses]
        chosen = ends[: max(1, len(ends) - 1)] + ([values[0]] if values[0].n_uses else [])
        return self.with_region(b, chosen) if len(self.steps) % 4 == 0 else chosen

    def with_region(self, b: Builder, outputs: list[Value]) -> list[Value]:
        """Send one output through an `if` whose branches use a constant of the module."""
        first = outputs[0]
        if not isinstance(first.type, TensorType) or first.dtype not in (F16, BF16, F32, F64):
            return outputs
        flag = b.const(bool(len(self.steps) % 8), BOOL)
        half = b.const(np.full((), 0.5, first.dtype.numpy))
        regions = [_branch(b, name, first, half) for name in ("then", "else")]
        chosen = b.call("if", (flag, first), {}, regions).results[0]
        return [chosen, *outputs[1:]]

    def decorate(self, module: Module) -> None:
        module.metadata = {"producer": "tests", "user.note": 'a "quoted" line\n'} if len(self.steps) % 2 else {}
        module.facts.add_range("N", 1, 4096, "guard")
        module.facts.add_divisor("M", 8, "declared")
        module.facts.add_equal(sym("K"), 2 * sym("N") + 1, "declared")


def _branch(b: Builder, name: str, like: Value, half: Value) -> Graph:
    region = b.module.new_region(name)
    inner = region.add_input(like.type, "captured")
    at = Builder(region)
    region.set_outputs([at.mul(inner, half) if name == "then" else at.neg(at.add(inner, half))])
    return region


def _tensor(leaf: _Leaf) -> Tensor:
    return as_tensor(leaf.array, leaf.dtype)


def random_elements(dtype: DType, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Any bits that the dtype can hold: NaNs with payloads, infinities, -0.0, extremes; strings with odd characters."""
    count = int(np.prod(shape))
    if dtype is STRING:
        words = ("", "text", 'a "b"', "é\n", b"\xff\xfe", "\u202e", "\\")
        made = np.empty(count, object)
        made[:] = [words[int(i)] for i in rng.integers(0, len(words), count)]
        return made.reshape(shape)
    if dtype is BOOL:
        return rng.integers(0, 2, shape).astype(bool)
    raw = rng.integers(0, 256, count * dtype.numpy.itemsize).astype(np.uint8)
    if dtype.is_packed and dtype.kind == "int":
        half = 1 << (dtype.bits - 1)
        return (raw.astype(np.int64) % (2 * half) - half).astype(dtype.numpy).reshape(shape)
    if dtype.is_packed or dtype.name.startswith("f6"):
        raw &= (1 << (6 if dtype.name.startswith("f6") else dtype.bits)) - 1
    return raw.view(dtype.numpy).reshape(shape)


def random_module(seed: int, nodes: int = 8) -> Generated:
    """The module of this seed."""
    generator = Generator(seed)
    generator.plan(nodes)
    state = generator.rng.bit_generator.state
    batches = [
        leaf.array.shape[0]
        for leaf in generator.leaves
        if not leaf.is_const and leaf.array.ndim and leaf.array.shape[0] > 1
    ]
    if batches and seed % 2:
        try:
            return generator.build(max(batches, key=batches.count))
        except TypeInferError:
            generator.rng.bit_generator.state = state
    return generator.build()


def with_specials(inputs: dict[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """The same inputs with NaN, infinities and -0.0 strewn into those of floats."""
    rng = np.random.default_rng(seed)
    made = {}
    for name, array in inputs.items():
        made[name] = array
        if array.dtype.kind == "f" and array.size:
            flat = array.astype(array.dtype, copy=True).reshape(-1)
            where = rng.integers(0, flat.size, max(1, flat.size // 3))
            flat[where] = rng.choice(np.array(SPECIAL), len(where)).astype(array.dtype)
            made[name] = flat.reshape(array.shape)
    return made


__all__ = ["Generated", "pool", "random_elements", "random_module", "with_specials"]
