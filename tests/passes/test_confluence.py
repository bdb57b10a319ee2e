"""The order in which rules stand does not matter: rules of equal benefit, shuffled, make the same graph of every real model.

Which rule of two fires first is decided by `benefit`, where it is declared, and else by the name alone: a rename must not change
what users get."""

from __future__ import annotations

from functools import cache
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


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("models")
    return lambda name: source(name, folder)


@cache
def optimised(path: Path, level: int, shuffle: int | None = None) -> Module:
    made = frontend.read(path)
    run_pipeline(made, preset(level), Context(level=level, shuffle=shuffle))
    return made


def settles_alike(path: Path, level: int, seeds: range) -> None:
    for seed in seeds:
        difference = first_difference(optimised(path, level), optimised(path, level, seed))
        assert difference is None, f"-O{level}, rules shuffled with seed {seed}: {difference}"


@pytest.mark.parametrize("name", CASES)
def test_the_order_of_rules_makes_no_difference(name: str, files: Any) -> None:
    settles_alike(files(name), 2, range(1))


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", CASES)
def test_no_order_of_many_makes_a_difference(name: str, level: int, files: Any) -> None:
    settles_alike(files(name), level, range(1, 6))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", CASES)
def test_a_second_run_changes_nothing(name: str, level: int, files: Any) -> None:
    once = optimised(files(name), level)
    again = once.clone()
    run_pipeline(again, preset(level), Context(level=level))
    assert first_difference(once, again) is None
