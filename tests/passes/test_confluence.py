"""The order in which rules stand does not matter: rules of equal benefit, shuffled, make the same graph of every real model.

Which rule of two fires first is decided by `benefit`, where it is declared, and else by the name alone: a rename must not change
what users get."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from anyir.frontends import onnx as frontend
from anyir.ir.equality import first_difference
from anyir.ir.graph import Module
from anyir.passes.manager import Context, run_pipeline
from anyir.passes.presets import preset
from anyir.tests.support.model_cases import CASES, source

LEVELS = (1, 2, 3)
#: One model after the other (scope), so that few are held. Exporting one takes seconds: they have their turn in the long run.
FAST = [pytest.param(name, marks=[pytest.mark.slow] if name.startswith("torch-") else []) for name in CASES]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("models")
    return lambda name: source(name, folder)


@lru_cache(maxsize=4)
def loaded(path: Path) -> Module:
    return frontend.read(path)


@lru_cache(maxsize=4)
def optimised(path: Path, level: int) -> Module:
    return again(loaded(path), level)


def again(module: Module, level: int, shuffle: int | None = None) -> Module:
    made = module.clone()
    run_pipeline(made, preset(level), Context(level=level, shuffle=shuffle))
    return made


def settles_alike(path: Path, level: int, seeds: range) -> None:
    for seed in seeds:
        difference = first_difference(optimised(path, level), again(loaded(path), level, seed))
        assert difference is None, f"-O{level}, rules shuffled with seed {seed}: {difference}"


def stays(once: Module, level: int) -> None:
    """Another run edits nothing at all, not even to put back what was there."""
    made = once.clone()
    version = made.version
    run_pipeline(made, preset(level), Context(level=level))
    assert first_difference(once, made) is None
    assert made.version == version, f"a second -O{level} edits without effect"


@pytest.mark.parametrize("name", FAST, scope="module")
def test_the_order_of_rules_makes_no_difference(name: str, files: Any) -> None:
    settles_alike(files(name), 2, range(1))


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", CASES, scope="module")
def test_no_order_of_many_makes_a_difference(name: str, level: int, files: Any) -> None:
    settles_alike(files(name), level, range(1, 6))


@pytest.mark.parametrize("name", FAST, scope="module")
def test_a_second_run_changes_nothing(name: str, files: Any) -> None:
    stays(optimised(files(name), 2), 2)


@pytest.mark.slow
@pytest.mark.parametrize("level", (1, 3))
@pytest.mark.parametrize("name", CASES, scope="module")
def test_a_second_run_of_another_level_changes_nothing(name: str, level: int, files: Any) -> None:
    """-O3 as well: what a first run has had of the bound is not given out again."""
    stays(optimised(files(name), level), level)
