"""What holds for every module: passes keep the IR valid and the numbers right, and know when they are done."""

from __future__ import annotations

import numpy as np
import pytest
from anyir.ir.graph import Module
from anyir.kernels.compare import compare, limits_for
from anyir.kernels.jit import interpreted
from anyir.kernels.run import run
from anyir.passes.instrument import VerifyEach
from anyir.passes.manager import Context, run_pipeline
from anyir.passes.presets import preset
from anyir.tests.support.graphs import random_module, with_specials
from anyir.tests.support.text import same_bits

BATCH = 25
SEEDS = 150
MANY = 2000


def at_level(module: Module, level: int) -> Module:
    """A copy behind the level's pipeline, verified after each pass."""
    copy = module.clone()
    run_pipeline(copy, preset(level), Context(level=level), [VerifyEach()])
    return copy


def check_numbers(first: int, last: int) -> None:
    for seed in range(first, last):
        made = random_module(seed)
        for inputs in (made.inputs, with_specials(made.inputs, seed)):
            with interpreted(), np.errstate(all="ignore"):
                wanted = run(made.module, inputs)
                exact = run(at_level(made.module, 1), inputs)
                for name, array in wanted.items():
                    assert same_bits(array, exact[name]), f"seed {seed}: -O1 changes {name}"
                limits = limits_for(made.module, inputs)
                for level in (2, 3):
                    report = compare(wanted, run(at_level(made.module, level), inputs), limits)
                    assert report.passed, f"seed {seed}: -O{level}\n{report}"


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("first", range(0, SEEDS, BATCH))
def test_passes_keep_the_numbers(first: int) -> None:
    """-O1 to the last bit, NaN, infinities and -0.0 included; -O2 and -O3 within the computed limits."""
    check_numbers(first, first + BATCH)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("first", range(SEEDS, MANY, 100))
def test_passes_keep_the_numbers_of_many(first: int) -> None:
    check_numbers(first, first + 100)


@pytest.mark.parametrize(
    "name", ["canonicalize", "cse", "dce", "fold", "fold-batch-norm", "fuse-activations", "dead-weights"]
)
def test_a_second_run_changes_nothing(name: str) -> None:
    for seed in range(SEEDS):
        module = random_module(seed, nodes=12).module
        run_pipeline(module, name)
        version, text = module.version, str(module)
        run_pipeline(module, name)
        assert module.version == version and str(module) == text, f"seed {seed}: {name} changed its own result"


@pytest.mark.parametrize("level", [1, 2, 3])
def test_a_level_is_a_fixpoint(level: int) -> None:
    for seed in range(0, SEEDS, 5):
        once = at_level(random_module(seed).module, level)
        again = at_level(once, level)
        assert once == again, f"seed {seed}: a second -O{level} goes on"


def test_the_same_module_gives_the_same_text() -> None:
    for seed in range(0, SEEDS, 10):
        assert str(at_level(random_module(seed).module, 2)) == str(at_level(random_module(seed).module, 2))
