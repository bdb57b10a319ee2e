"""ONNX's own backend suite: file -> IR -> reference kernels, against the expected outputs that the suite ships."""

from __future__ import annotations

import re
from pathlib import Path

import anyir
import pytest
from anyir.tests.support import onnx_suite as suite

GROUPS = 16
EVERY_KIND = (*suite.KINDS, suite.NETWORKS)


@pytest.mark.parametrize("group", range(GROUPS))
def test_every_case_passes(group: int) -> None:
    """All but those whose expected output is one draw of a generator: see test_random.py for their distributions."""
    outcomes = {
        case.name: suite.judged(case, suite.on_kernels)
        for case in suite.sampled(GROUPS, group, EVERY_KIND)
        if case.name not in suite.RANDOM
    }
    assert {name: outcome for name, outcome in outcomes.items() if outcome != "pass"} == {}


def test_the_whole_suite_is_tried() -> None:
    assert len(suite.cases()) >= 2033


def test_the_page_lists_what_is_not_plainly_passed() -> None:
    page = (Path(anyir.__file__).parent / "docs" / "onnx-conformance.md").read_text(encoding="utf-8")
    worse = {name for name, _ in suite.PEERS_FAIL}
    assert set(re.findall(r"`(test_\w+)`", page)) == suite.RANDOM | suite.NOISY | worse
