"""`move-data` on generated graphs of ops that move elements: every bit kept, never a node more, a second run changes nothing, the
order of its rules makes no difference; and its time is linear."""

from __future__ import annotations

import time
from collections.abc import Callable
from random import Random

import numpy as np
import pytest
from anyir.ir.builder import Builder
from anyir.ir.dims import dim_eq, sym
from anyir.ir.equality import first_difference
from anyir.ir.errors import AnyIRError
from anyir.ir.graph import Graph, Module, Value
from anyir.ir.types import F32, TensorType
from anyir.ir.verify import verify
from anyir.kernels.inputs import sample_inputs
from anyir.passes.manager import Context, run_pipeline
from anyir.tests.support.graphs import with_specials
from anyir.tests.support.text import assert_same_numbers

UNARY = ("relu", "neg", "exp", "abs", "tanh")
PIPELINE = "fix(canonicalize,fold,move-data,cancel-transposes,cse,dce)"
Step = Callable[[Random, Builder, list[Value]], "list[Value]"]


def static_axes(x: Value, least: int = 1) -> list[int]:
    return [i for i, d in enumerate(x.shape or ()) if isinstance(d, int) and d >= least]


def unary(rng: Random, b: Builder, values: list[Value]) -> list[Value]:
    return [b.call(rng.choice(UNARY), (rng.choice(values),)).result]


def binary(rng: Random, b: Builder, values: list[Value]) -> list[Value]:
    x = rng.choice(values)
    alike = [v for v in values if v.shape == (x.shape or ())[len(x.shape or ()) - (v.rank or 0) :]]
    scale = np.float32(rng.choice((0.5, -1.0, 3.0)))
    trailing = [d for d in (x.shape or ())[-1:] if isinstance(d, int)]
    row = np.arange(trailing[0], dtype=np.float32) if trailing else scale
    return [b.call(rng.choice(("add", "mul")), (x, rng.choice([*alike, scale, row]))).result]


def slices(rng: Random, b: Builder, values: list[Value]) -> list[Value]:
    x = rng.choice([v for v in values if static_axes(v, 2)])
    axis = rng.choice(static_axes(x, 2))
    size = x.shape[axis]
    start = rng.randrange(size)
    made = [b.slice(x, (start,), (rng.randint(start + 1, size),), (axis,), (rng.choice((1, 1, 2)),))]
    if rng.random() < 0.5:
        cut = rng.randrange(1, size)
        made += [b.slice(x, (0,), (cut,), (axis,)), b.slice(x, (cut,), (2**63 - 1,), (axis,))]
    return made


def splits(rng: Random, b: Builder, values: list[Value]) -> list[Value]:
    x = rng.choice([v for v in values if static_axes(v, 2)])
    axis = rng.choice(static_axes(x, 2))
    cut = rng.randrange(1, x.shape[axis])
    parts = b.split(x, (cut, x.shape[axis] - cut), axis=axis, num_outputs=2)
    op = rng.choice((None, *UNARY))
    return list(parts) if op is None else [b.call(op, (v,)).result for v in parts]


def concats(rng: Random, b: Builder, values: list[Value]) -> list[Value]:
    x = rng.choice([v for v in values if v.rank])
    axis = rng.randrange(x.rank)

    def joins(v: Value) -> bool:
        pairs = zip(v.shape, x.shape, strict=True)
        return v.rank == x.rank and all(i == axis or dim_eq(*pair) is True for i, pair in enumerate(pairs))

    parts = [v for v in values if joins(v)] if all(v.shape is not None for v in values) else [x]
    return [b.concat(*[rng.choice(parts) for _ in range(rng.randint(2, 3))], axis=axis)]


def pads(rng: Random, b: Builder, values: list[Value]) -> list[Value]:
    x = rng.choice(values)
    return [b.pad(x, [rng.choice((0, 0, 1, 2)) for _ in range(2 * x.rank)])]


def gathers(rng: Random, b: Builder, values: list[Value]) -> list[Value]:
    x = rng.choice([v for v in values if static_axes(v)])
    axis = rng.choice(static_axes(x))
    places = [rng.randrange(x.shape[axis]) for _ in range(rng.randint(1, 3))]
    return [b.gather(x, np.asarray(places[0] if rng.random() < 0.5 else places), axis=axis)]


def regroups(rng: Random, b: Builder, values: list[Value]) -> list[Value]:
    x = rng.choice([v for v in values if sum(not isinstance(d, int) for d in v.shape) <= 1 and 0 not in v.shape])
    dims = [d if isinstance(d, int) else -1 for d in x.shape]
    if rng.random() < 0.4 and len(dims) > 1:
        at = rng.randrange(len(dims) - 1)
        dims[at : at + 2] = [-1 if -1 in dims[at : at + 2] else dims[at] * dims[at + 1]]
    elif rng.random() < 0.6:
        even = [i for i, d in enumerate(dims) if d > 1 and d % 2 == 0]
        at = rng.choice(even or [0])
        dims[at : at + 1] = [2, dims[at] // 2] if even else [1, *dims[at : at + 1]]
    else:
        dims = [d for d in dims if d != 1]
    return [b.reshape(x, dims)]


def turns(rng: Random, b: Builder, values: list[Value]) -> list[Value]:
    x = rng.choice(values)
    perm = list(range(x.rank))
    rng.shuffle(perm)
    return [b.transpose(x, perm=perm)]


def reductions(rng: Random, b: Builder, values: list[Value]) -> list[Value]:
    x = rng.choice([v for v in values if v.rank])
    axis = rng.randrange(x.rank)
    if rng.random() < 0.5:
        return [b.softmax(x, axis=axis)]
    made = b.reduce_sum(x, (axis,), keepdims=rng.random() < 0.5)
    return [made if made.rank == x.rank else b.unsqueeze(made, (axis,))]


def others(rng: Random, b: Builder, values: list[Value]) -> list[Value]:
    x = rng.choice([v for v in values if v.rank])
    return [b.reverse(x, axes=(rng.randrange(x.rank),)) if rng.random() < 0.5 else b.expand(x, (2,) + (1,) * x.rank)]


STEPS: tuple[Step, ...] = (
    *(unary, binary, slices, splits, concats, pads, gathers, regroups, turns, reductions, others),
    *(unary, regroups, regroups, turns, concats),
)


def generated(seed: int) -> Module:
    """A graph of a few inputs and some twenty steps; what nothing reads is its output."""
    rng = Random(seed)
    module = Module("generated")
    graph = module.add_graph("main")
    first = sym("N") if rng.random() < 0.5 else rng.choice((0, 1, 2, 3))
    shapes = [(first, 4, 6), (first, 4, 6), (2, 6), (1, 4, 6)]
    values = [graph.add_input(TensorType(F32, s), f"x{i}") for i, s in enumerate(shapes[: rng.randint(1, 4)])]
    b = Builder(graph)
    for _ in range(rng.randint(4, 24)):
        try:
            values += rng.choice(STEPS)(rng, b, values[-6:])
        except (IndexError, AnyIRError):  # no value of the kind that the step takes, or a step that does not fit it
            continue
        values = [v for v in values if (v.rank or 0) <= 5 and v.type.numel is not None]
    graph.set_outputs([v for node in graph.nodes() for v in node.results if not v.n_uses] or values[-1:])
    module.add_signature("main", graph, [v.hint for v in graph.inputs], [f"out{i}" for i in range(len(graph.outputs))])
    return module


def moved(module: Module, **options: int) -> Module:
    made = module.clone()
    run_pipeline(made, PIPELINE, Context(level=1, **options))  # type: ignore[arg-type]
    verify(made)
    return made


def outputs_of(module: Module, known: dict) -> list:
    """Names of the outputs that are equal for equal computations of whatever order; `known` holds those given so far."""
    names: dict[Value, tuple] = {value: ("input", i) for i, value in enumerate(module.main.inputs)}

    def name(value: Value) -> tuple:
        if value.is_const:
            array = value.array()
            return array.dtype.str, array.shape, array.tobytes()
        return names[value]

    for node in module.main.nodes():
        call = node.name, str(sorted(node.attrs.items())), tuple(map(name, node.inputs()))
        number = known.setdefault(call, len(known))
        names.update((value, (number, value.index)) for value in node.results)
    return [name(value) for value in module.main.outputs]


def check(seed: int) -> None:
    before = generated(seed)
    after = moved(before)
    for sizes in ({"N": 0}, {"N": 1}, {"N": 3}):
        plain = sample_inputs(before, sizes=sizes, seed=seed)
        for inputs in (plain, with_specials(plain, seed)):
            assert_same_numbers(before, after, exact=True, inputs=inputs)
    assert first_difference(moved(after), after) is None, "a second run goes on"
    known: dict = {}
    shuffled = moved(before, shuffle=seed + 1)
    assert outputs_of(shuffled, known) == outputs_of(after, known), "the order of the rules makes a difference"
    assert len(shuffled.main) == len(after.main)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("block", range(4))
def test_generated_graphs_keep_every_bit(block: int) -> None:
    for seed in range(block * 12, block * 12 + 12):
        check(seed)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("block", range(20))
def test_more_generated_graphs_keep_every_bit(block: int) -> None:
    for seed in range(1000 + block * 100, 1000 + block * 100 + 100):
        check(seed)


@pytest.mark.parametrize("seed", range(0, 200, 5))
def test_never_a_node_more(seed: int) -> None:
    """Each of both passes alone, on a graph in canonical form."""
    module = generated(seed)
    run_pipeline(module, "fix(canonicalize,fold,cse,dce)", Context(level=1))
    for name in ("move-data", "cancel-transposes", "move-data"):
        count = len(module.main)
        run_pipeline(module, name, Context(level=1))
        assert len(module.main) <= count, name


def chain(kind: str, length: int) -> Module:
    """A residual chain with something to move in each link."""
    module = Module(kind)
    graph: Graph = module.add_graph("main")
    x = first = graph.add_input(TensorType(F32, (sym("N"), 4, 6)), "x")
    b = Builder(graph)
    for _ in range(length):
        if kind == "reshape":
            x = b.add(b.reshape(b.relu(b.reshape(x, (-1, 24))), (-1, 4, 6)), x)
        elif kind == "split":
            low, high = b.split(x, (2, 2), axis=1, num_outputs=2)
            x = b.add(b.concat(b.exp(low), b.exp(high), axis=1), x)
        elif kind == "concat":
            x = b.concat(x, first, axis=1)
        elif kind == "slice":
            x = b.add(b.slice(b.pad(x, (0, 1, 0, 0, 0, 0)), (1,), (5,), (1,)), x)
        else:
            x = b.add(b.transpose(b.relu(b.transpose(x, perm=(0, 2, 1))), perm=(0, 2, 1)), x)
    graph.set_outputs([x])
    module.add_signature("main", graph, ["x"], ["y"])
    return module


@pytest.mark.parametrize("kind", ["reshape", "split", "concat", "slice", "transpose"])
def test_time_is_linear(kind: str) -> None:
    """Four times the length in at most six times the time (the better of two runs)."""

    def seconds(length: int) -> float:
        found = []
        for _ in range(2):
            module = chain(kind, length)
            begin = time.process_time()
            run_pipeline(module, "move-data,cancel-transposes", Context(level=1))
            found.append(time.process_time() - begin)
        return min(found)

    assert seconds(400) < 6 * seconds(100) + 0.05
