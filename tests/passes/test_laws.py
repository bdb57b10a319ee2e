"""What holds for every module: passes keep the IR valid and the numbers right, and know when they are done."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

import numpy as np
import pytest
from anyir.ir.graph import Module
from anyir.kernels.compare import compare, limits_for
from anyir.kernels.jit import interpreted
from anyir.kernels.run import run
from anyir.passes.dead.dead_weights import GIVEN
from anyir.passes.instrument import VerifyEach
from anyir.passes.manager import Context, run_pipeline
from anyir.passes.presets import preset
from anyir.tests.support.graphs import Generated, random_module, with_specials
from anyir.tests.support.structures import structured_module
from anyir.tests.support.text import same_bits

BATCH = 25
SEEDS = 150
#: Seeds of the long run: `pytest tests/passes/test_laws.py -m slow`, about a quarter of an hour of one core.
MANY = 5000
MAKERS: dict[str, Callable[[int], Generated]] = {"random": random_module, "structured": structured_module}
#: It looks at weights, not at numbers that flow: zero times infinity, which it takes for zero, is none of its business.
FINITE = ("dead-weights",)


def at_level(module: Module, level: int, without: Collection[str] = ()) -> Module:
    """A copy behind the level's pipeline, verified after each pass."""
    copy, ctx = module.clone(), Context(level=level)
    run_pipeline(copy, preset(level, without), ctx, [VerifyEach()])
    assert not [note for note in ctx.notes if "still changed" in note], ctx.notes
    return copy


def check_numbers(make: Callable[[int], Generated], first: int, last: int) -> None:
    for seed in range(first, last):
        made = make(seed)
        for inputs, without in ((made.inputs, ()), (with_specials(made.inputs, seed), FINITE)):
            with interpreted(), np.errstate(all="ignore"):
                wanted = run(made.module, inputs)
                exact = run(at_level(made.module, 1), inputs)
                for name, array in wanted.items():
                    assert same_bits(array, exact[name]), f"seed {seed}: -O1 changes {name}"
                if without and make is structured_module:
                    continue  # linear layers in a row are one at -O2: what is infinite between them need not meet its opposite
                limits = limits_for(made.module, inputs)
                for level in (2, 3):
                    rewritten = at_level(made.module, level, without)
                    if GIVEN in rewritten.metadata:  # what it gave away by its bound, its certificate answers for
                        rewritten = at_level(made.module, level, FINITE)
                    got = run(rewritten, inputs)
                    if level == 3 and make is structured_module:
                        # Approx rules are not infinite where the written-out form is.
                        got = {k: np.where(np.isfinite(wanted[k]), v, wanted[k]) for k, v in got.items()}
                    report = compare(wanted, got, limits)
                    assert report.passed, f"seed {seed}: -O{level}\n{report}"


def check_fixpoint(make: Callable[[int], Generated], level: int, seeds: Iterable[int]) -> None:
    for seed in seeds:
        once = at_level(make(seed).module, level)
        again = at_level(once, level)
        assert once == again, f"seed {seed}: a second -O{level} goes on"


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("first", range(0, SEEDS, BATCH))
def test_passes_keep_the_numbers(first: int) -> None:
    """-O1 to the last bit, NaN, infinities and -0.0 included; -O2 and -O3 within the computed limits."""
    check_numbers(random_module, first, first + BATCH)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("first", range(0, SEEDS // 3, BATCH))
def test_passes_keep_the_numbers_of_structures(first: int) -> None:
    check_numbers(structured_module, first, first + BATCH)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("first", range(0, MANY, 100))
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_laws_of_many(make: Callable[[int], Generated], first: int) -> None:
    """Ten thousand graphs in all: numbers at each level, verified after each pass, and a second run changes nothing."""
    check_numbers(make, first, first + 100)
    for level in (1, 2, 3):
        check_fixpoint(make, level, range(first, first + 100))


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


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("level", [1, 2, 3])
def test_a_level_is_a_fixpoint(level: int, make: Callable[[int], Generated]) -> None:
    check_fixpoint(make, level, range(0, SEEDS, 5))


def test_the_same_module_gives_the_same_text() -> None:
    for seed in range(0, SEEDS, 10):
        assert str(at_level(random_module(seed).module, 2)) == str(at_level(random_module(seed).module, 2))
