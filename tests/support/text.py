"""Modules from a few lines of IR text, and the checks that most tests of passes end with."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from anyir.ir.equality import first_difference
from anyir.ir.graph import Module
from anyir.ir.parser import parse_module
from anyir.ir.verify import verify
from anyir.kernels.compare import compare, limits_for
from anyir.kernels.inputs import sample_inputs
from anyir.kernels.jit import interpreted
from anyir.kernels.run import run
from anyir.passes.manager import Context, Instrument, run_pipeline


def module(body: str) -> Module:
    """The module of some text: `anyir 1`, a name and a signature are added where they are missing; a body that begins
    with a parenthesis is the one of @main."""
    text = body.strip()
    if text.startswith("("):
        text = f"graph @main{text}"
    if not text.startswith("anyir"):
        text = f'anyir 1\nmodule "test"\n{text}\n'
    made = parse_module(text)
    if not made.signatures:
        for graph in list(made.graphs.values())[:1]:
            made.add_signature(
                "serving_default",
                graph,
                [v.hint or f"in{v.index}" for v in graph.inputs],
                [f"out{i}" for i in range(len(graph.outputs))],
            )
    return made


def optimised(
    source: Module | str, pipeline: str, level: int = 2, instruments: list[Instrument] | None = None
) -> Module:
    """A verified copy of `source` behind a pipeline."""
    made = (module(source) if isinstance(source, str) else source).clone()
    run_pipeline(made, pipeline, Context(level=level), instruments or [])
    verify(made, allow_channels_last=True)
    return made


def main_text(made: Module) -> str:
    """The lines of the first graph, without locations and signature, names as printed."""
    text = re.sub(r"  loc\([^\n]*\)", "", str(made))
    return "\n".join(line.strip() for line in text.splitlines() if line.startswith("  "))


def ops(made: Module) -> list[str]:
    return [node.name for node in made.all_nodes()]


def assert_equal_modules(a: Module, b: Module) -> None:
    assert first_difference(a, b) is None
    assert first_difference(b, a) is None


def same_bits(a: Any, b: Any) -> bool:
    """Equal to the last bit, -0.0 included; a NaN equals any NaN."""
    if a is None or b is None:
        return a is b
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same_bits, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(map(same_bits, a.values(), b.values()))
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if a.dtype == object or a.dtype.kind in "biu":
        return a.tolist() == b.tolist()
    nan_a, nan_b = np.asarray(a != a), np.asarray(b != b)
    zero = np.zeros((), a.dtype)
    return np.array_equal(nan_a, nan_b) and np.where(nan_a, zero, a).tobytes() == np.where(nan_b, zero, b).tobytes()


def assert_same_numbers(
    before: Module, after: Module, *, exact: bool = False, inputs: Any = None, seed: int = 0
) -> None:
    """Both give the same results: to the last bit, or within the limits that are computed for `before`."""
    given = sample_inputs(before, seed=seed) if inputs is None else inputs
    with interpreted(), np.errstate(all="ignore"):
        wanted, found = run(before, given), run(after, list(given.values()))
        if exact:
            different = [name for name in wanted if not same_bits(wanted[name], found[name])]
            assert not different, f"{different}: {wanted[different[0]]!r} became {found[different[0]]!r}"
        else:
            report = compare(wanted, found, limits_for(before, given))
            assert report.passed, str(report)
