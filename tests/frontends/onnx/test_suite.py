"""ONNX's own backend suite: file -> IR -> reference kernels, against the expected outputs that the suite ships."""

from __future__ import annotations

import pytest
from anyir.tests.support import onnx_suite as suite

GROUPS = 16


@pytest.mark.parametrize("group", range(GROUPS))
def test_no_case_is_wrong(group: int) -> None:
    """Every case passes or is refused for an operator of the table."""
    wrong = {}
    for case in suite.sampled(GROUPS, group):
        if case.name in suite.RANDOM:
            continue
        outcome = suite.judged(case, suite.on_kernels)
        refused = outcome.startswith("unsupported") and (
            case.name in suite.REFUSED or suite.operators(case) & suite.UNSUPPORTED
        )
        if outcome != "pass" and not refused:
            wrong[case.name] = outcome
    assert not wrong


def test_the_table_of_refused_operators_is_not_stale() -> None:
    """Each operator of the table that the suite covers is still refused somewhere."""
    still = set()
    for case in suite.cases().values():
        named = suite.operators(case) & suite.UNSUPPORTED
        if named - still and suite.judged(case, suite.on_kernels).startswith("unsupported"):
            still |= named
    assert still == suite.UNSUPPORTED


def test_how_many_cases_pass() -> None:
    """The figure that only ever goes up."""
    refused = sum(bool(suite.operators(c) & suite.UNSUPPORTED) for c in suite.cases().values())
    assert len(suite.cases()) - refused - len(suite.REFUSED) >= 1850
