"""Speed of the core on a module of 100,000 nodes, against the budgets of the design (CPU seconds on one core).

    pytest benchmarks --benchmark-enable -s          all, with figures
    pytest benchmarks -m "not slow"                  once each, small modules: do they still run?

Budgets hold on an idle machine. The yardstick (a fixed amount of plain Python) tells how slow this one is at the moment;
a budget is exceeded when the figure, divided by that slowness, is above it.
"""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from anyir.ir.graph import Module, bulk
from anyir.ir.parser import parse_module
from anyir.ir.verify import verify
from anyir.passes.manager import Context, run_pipeline

from .models import large_module

NODES = 100_000
BUDGETS = {"build": 1.0, "walk": 0.02, "verify": 0.3, "print": 1.0, "parse": 3.0, "canonicalize": 2.0}
BYTES_PER_NODE = 1000
#: CPU seconds of the yardstick on the machine that the budgets were set on.
YARDSTICK = 0.05
ROUNDS = 3


def yardstick() -> float:
    """CPU seconds for a fixed amount of what the core does all day: attributes, dicts, tuples, calls."""

    class Item:
        __slots__ = ("key", "next")

    with bulk():
        began = time.process_time()
        table: dict[tuple[int, str], Any] = {}
        last = None
        for number in range(200_000):
            item = Item()
            item.key, item.next = (number % 1000, "x"), last
            last = table.get(item.key, item)
            table[item.key] = item
        return time.process_time() - began


def slowness() -> float:
    """How many times slower than the budgets' machine this one is now; never below 1."""
    return max(1.0, min(yardstick() for _ in range(3)) / YARDSTICK)


def tensors(module: Module) -> dict[bytes, Any]:
    return {weight.tensor.digest(): weight.tensor for weight in module.weights}


def steps(nodes: int) -> dict[str, Callable[[], Callable[[], Any]]]:
    """Each step as a function that prepares and returns what is measured."""
    module = large_module(nodes)
    text, stored = str(module), tensors(module)

    def canonicalize() -> Callable[[], Any]:
        copy = module.clone()
        return lambda: run_pipeline(copy, "canonicalize", Context())

    return {
        "build": lambda: lambda: large_module(nodes),
        "walk": lambda: lambda: sum(1 for _ in module.main.nodes()),
        "verify": lambda: lambda: verify(module),
        "print": lambda: lambda: str(module),
        "parse": lambda: lambda: parse_module(text, weights=stored),
        "canonicalize": canonicalize,
    }


def cpu_seconds(prepare: Callable[[], Callable[[], Any]], rounds: int = ROUNDS) -> float:
    """The best of a few rounds."""
    best = float("inf")
    for _ in range(rounds):
        measured = prepare()
        gc.collect()
        began = time.process_time()
        measured()
        best = min(best, time.process_time() - began)
    return best


@pytest.mark.parametrize("name", BUDGETS)
def test_small(benchmark: Any, name: str) -> None:
    """A thousand nodes: comparable over time, and quick enough for every run."""
    prepare = steps(1000)[name]
    benchmark.pedantic(lambda run: run(), setup=lambda: ((prepare(),), {}), rounds=5)


@pytest.mark.slow
def test_budgets_at_a_hundred_thousand_nodes(capsys: pytest.CaptureFixture) -> None:
    figures, lines = {}, []
    for name, prepare in steps(NODES).items():
        slow = slowness()
        figures[name] = cpu_seconds(prepare) / slow
        lines.append(
            f"{name:14}{figures[name]:8.3f} s of {BUDGETS[name]} (measured on a machine {slow:.1f} times slower)"
        )
    with capsys.disabled():
        print("", *lines, sep="\n")
    over = {name: seconds for name, seconds in figures.items() if seconds > BUDGETS[name]}
    assert not over, f"over budget: {over}"


@pytest.mark.slow
def test_time_grows_linearly(capsys: pytest.CaptureFixture) -> None:
    """time(10 n) < 13 time(n): one large module against ten small ones, right after each other, the best of a few pairs."""
    small, large = steps(NODES // 10), steps(NODES)
    ratios = {}
    for name in BUDGETS:
        pairs = [
            (cpu_seconds(large[name], 1), sum(cpu_seconds(small[name], 1) for _ in range(10))) for _ in range(ROUNDS)
        ]
        ratios[name] = min(10 * one / ten for one, ten in pairs)
    with capsys.disabled():
        print("", *(f"{name:14} time(10n) = {ratio:5.1f} time(n)" for name, ratio in ratios.items()), sep="\n")
    assert not {name: ratio for name, ratio in ratios.items() if ratio >= 13}


@pytest.mark.slow
def test_bytes_per_node(capsys: pytest.CaptureFixture) -> None:
    large_module(100)
    gc.collect()
    tracemalloc.start()
    module = large_module(NODES // 10)
    used = tracemalloc.get_traced_memory()[0] / sum(1 for _ in module.main.nodes())
    tracemalloc.stop()
    with capsys.disabled():
        print(f"\n{used:.0f} bytes per node")
    assert used < BYTES_PER_NODE
