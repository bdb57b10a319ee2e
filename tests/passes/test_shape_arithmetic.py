"""Generated programs that regroup, slice, repeat and index tensors by sizes which they compute themselves, as exported models do:
behind `canonicalize` and `fold` they give the same bits for every size that they ran with, zero and one among them."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
from anyir.ir.builder import Builder
from anyir.ir.dims import Dim, evaluate
from anyir.ir.errors import AnyIRError
from anyir.ir.graph import Module, Value
from anyir.ir.parser import parse_module
from anyir.ir.types import F32, I32, I64
from anyir.ir.verify import verify
from anyir.kernels.inputs import sample_inputs
from anyir.kernels.jit import interpreted
from anyir.kernels.run import run
from anyir.passes.manager import Context, run_pipeline
from anyir.tests.support.text import module, ops, optimised, same_bits

SIZES = ({"N": 2, "S": 3}, {"N": 1, "S": 4}, {"N": 0, "S": 3}, {"N": 3, "S": 1}, {"N": 2, "S": 0}, {"N": 5, "S": 2})
PIPELINE = "inline,dce,canonicalize,fold,canonicalize,fold,canonicalize,cse,dce"


class Program:
    """A random program over x: f32[N, S, 6] and the table t: f32[4, 6]; it keeps to what inference accepts."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.module = parse_module('anyir 1\nmodule "program"\ngraph @main(%x: f32[N, S, 6]) {\n  return(%x)\n}\n')
        self.graph = self.module.graphs["main"]
        self.b = Builder(self.graph, before=self.graph.return_node)
        self.x = self.graph.inputs[0]
        table = np.arange(24, dtype=np.float32).reshape(4, 6) / 8
        self.values, self.table = [self.x], self.b.const(table)
        for _ in range(self.random.randint(4, 12)):
            value = self.random.choice(self.values[-3:])
            try:
                made = self.random.choice(STEPS)(self, value)
            except AnyIRError:
                continue
            if made.rank is not None and made.rank <= 5:
                self.values.append(made)
        self.graph.return_node.set_operands(self.values[-2:])
        self.module.add_signature("main", self.graph, ["x"], [f"out{i}" for i in range(len(self.graph.outputs))])

    def size(self, value: Value, axis: int) -> Value:
        """One size as a vector, taken from one of the values that have it, in one of the ways that exporters have."""
        b, rank = self.b, value.rank
        way = self.random.randrange(5)
        if way == 0:
            return b.shape(value, start=axis, end=axis + 1)
        if way == 1:
            return b.unsqueeze(b.gather(b.shape(value), np.asarray(axis)), (0,))
        if way == 2:
            return b.slice(b.shape(value), (axis,), (axis + 1,), (0,))
        if way == 3:
            return b.cast(b.cast(b.gather(b.shape(value), (axis - rank,)), to=I32), to=I64)
        return b.div(b.mul(b.gather(b.shape(value), (axis,)), 2), 2)

    def target(self, value: Value, dims: list) -> Value:
        """A shape from axes of `value` (strings of digits) and numbers."""
        return self.b.concat(
            *(self.size(value, int(d)) if isinstance(d, str) else self.b.const((d,)) for d in dims), axis=0
        )


def regroup(p: Program, v: Value) -> Value:
    """The same dims, with some merged, split, dropped or added, in a computed or a constant target."""
    dims: list = [
        str(i) if p.random.random() < 0.8 or not isinstance(d, int) else d for i, d in enumerate(v.shape or ())
    ]
    for i, d in enumerate(v.shape or ()):
        if d == 6 and p.random.random() < 0.5:
            dims[i : i + 1] = [2, 3]
            break
    if p.random.random() < 0.4:
        dims.insert(p.random.randint(0, len(dims)), 1)
    if p.random.random() < 0.3 and len(dims) > 1:
        dims[p.random.randrange(len(dims))] = -1
    return p.b.reshape(v, p.target(v, dims))


def flatten(p: Program, v: Value) -> Value:
    return p.b.flatten(v, axis=p.random.randint(0, v.rank or 0))


def unsqueeze(p: Program, v: Value) -> Value:
    return p.b.unsqueeze(v, (p.random.randint(0, v.rank or 0),))


def squeeze(p: Program, v: Value) -> Value:
    return p.b.squeeze(v, tuple(i for i, d in enumerate(v.shape or ()) if d == 1)[:1])


def transpose(p: Program, v: Value) -> Value:
    return p.b.transpose(v, perm=p.random.sample(range(v.rank or 0), v.rank or 0))


def cut(p: Program, v: Value) -> Value:
    axis = p.random.randrange(v.rank or 0)
    start, end = p.random.choice(((0, 2**63 - 1), (1, 5), (-2, 2**63 - 1), (0, -1), (0, 1), (0, 10**9)))
    if p.random.random() < 0.3:
        return p.b.slice(v, (0,), p.size(v, axis), (axis,))
    return p.b.slice(v, (start,), (end,), (axis,))


def repeat(p: Program, v: Value) -> Value:
    made = p.b.expand(
        p.b.unsqueeze(v, (0,)), p.target(v, [p.random.choice((1, 2)), *(str(i) for i in range(v.rank or 0))])
    )
    return p.b.add(made, v) if p.random.random() < 0.5 else p.b.relu(made)


def fill(p: Program, v: Value) -> Value:
    shape = p.target(v, [str(i) for i in range(v.rank or 0)])
    return p.b.add(v, p.b.mul(p.b.constant_of_shape(shape, value=0.5, to=F32), 3.0))


def positions(p: Program, v: Value) -> Value:
    axis = p.random.randrange(v.rank or 0)
    limit = p.b.reshape(p.size(v, axis), ())
    rows = p.b.gather(p.table, p.b.range(p.b.const(0), limit, p.b.const(1)))
    return p.b.matmul(rows, p.b.transpose(rows, perm=(1, 0)))


def combine(p: Program, v: Value) -> Value:
    return p.b.add(v, p.random.choice(p.values))


def join(p: Program, v: Value) -> Value:
    return p.b.concat(v, v, axis=p.random.randrange(v.rank or 0))


STEPS = (
    regroup,
    regroup,
    regroup,
    flatten,
    unsqueeze,
    squeeze,
    transpose,
    cut,
    cut,
    repeat,
    fill,
    positions,
    combine,
    join,
)


def check(seeds: range) -> int:
    ran = 0
    for seed in seeds:
        before = Program(seed).module
        verify(before)
        after = before.clone()
        run_pipeline(after, PIPELINE, Context(level=1))
        verify(after)
        for sizes in SIZES:
            ran += same(before, after, sizes, seed)
    return ran


def same(before: Module, after: Module, sizes: dict[str, int], seed: int) -> bool:
    inputs = sample_inputs(before, sizes=sizes)
    strange: list[Value] = []
    with interpreted(), np.errstate(all="ignore"):
        try:
            wanted = run(before, inputs, taps=shape_taps(before, sizes, strange))
        except AnyIRError:
            return False  # a size that the program itself does not take
        if strange:
            return False
        found = run(after, inputs)
    assert all(same_bits(wanted[name], found[name]) for name in wanted), f"seed {seed}, {sizes}"
    return True


def shape_taps(program: Module, sizes: dict[str, int], strange: list[Value]) -> dict[Value, Callable]:
    """Observers that collect the values whose shapes are not what their types say: a size of 0 that a program computes for a
    reshape means "copy" there, which no type foresees."""

    def expected(dim: Dim) -> int | None:
        try:
            return evaluate(dim, sizes)
        except AnyIRError:
            return None  # a size that depends on data

    def observer(value: Value, shape: list[int | None]) -> Callable[[np.ndarray], None]:
        def look(array: np.ndarray) -> None:
            if any(size not in (None, found) for size, found in zip(shape, array.shape, strict=True)):
                strange.append(value)

        return look

    values = [v for node in program.all_nodes() for v in node.results if v.shape is not None]
    return {v: observer(v, [expected(d) for d in v.shape or ()]) for v in values}


def test_generated_programs() -> None:
    assert check(range(60)) > 120


@pytest.mark.slow
def test_many_generated_programs() -> None:
    assert check(range(60, 3000)) > 6000


def test_scaffolding_vanishes() -> None:
    """Head split and merge as exporters write them: nothing but reshape and transpose is left, and the sizes are open."""
    made = optimised(
        module("""(%x: f32[N, S, 8]) {
          %s = shape(%x) : i64[3]
          const %i = 0 : i64[]
          const %j = 1 : i64[]
          const %z = [0] : i64[1]
          const %h = [2] : i64[1]
          const %d = [-1] : i64[1]
          %a = gather(%s, %i) {axis = 0} : i64[]
          %b = gather(%s, %j) {axis = 0} : i64[]
          %c = unsqueeze(%a, %z) : i64[1]
          %e = unsqueeze(%b, %z) : i64[1]
          %t = concat(%c, %e, %h, %d) {axis = 0} : i64[4]
          %y = reshape(%x, %t) : f32[N, S, 2, 4]
          %p = transpose(%y) {perm = [0, 2, 1, 3]} : f32[N, 2, S, 4]
          return(%p)
        }"""),
        "canonicalize,fold,dce",
    )
    assert ops(made) == ["reshape", "transpose"]
    assert str(made.main.outputs[0].type) == "f32[N, 2, S, 4]"
