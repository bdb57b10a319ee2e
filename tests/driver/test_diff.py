"""`irc diff`: which changes of an interface users notice, and what the exit code says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from anyir.driver.diff import _differ


@pytest.mark.parametrize(
    ("name", "old", "new", "differ"),
    [
        ("in x", "f32[N, 3]", "f32[batch, 3]", False),
        ("in x", "f32[N, 3]", "f32[1, 3]", True),
        ("in x", "f32[N, 3]", "f16[N, 3]", True),
        ("in x", "f32[N, 3]", "f32[N, 3, 1]", True),
        ("in x", "f32[N, 3]", None, True),
        ("out y", "f32[_3, 3]", "f32[2, 3]", False),
        ("out y", "f32[(N + 1)//2 - min(N, 5), 3]", "f32[_0, 3]", False),
        ("out y", "f32[1, 3]", "f32[2, 3]", True),
        ("main: out y", "f32[_3]", "f32[2]", False),
        ("in x", "str[]", "str[]", False),
    ],
)
def test_what_counts_as_another_interface(name: str, old: str, new: str | None, differ: bool) -> None:
    assert _differ(name, old, new) is differ


def test_a_compiled_model_has_the_interface_of_its_source(irc: Any, net: str) -> None:
    assert irc("compile", net, "-o", "small.onnx").code == 0
    done = irc("diff", net, "small.onnx", "--json")
    assert (done.code, done.json["interface"]) == (0, [])
    assert done.json["totals"]["ops"]["b"] < done.json["totals"]["ops"]["a"]
    assert done.json["ops"]["batch_norm"] == {"a": 1, "b": 0}


def test_another_interface_is_exit_code_1(irc: Any, net: str, tmp_path: Path) -> None:
    assert irc("compile", net, "-o", "fixed.onnx", "--shape", "image=2,1,8,8").code == 0
    done = irc("diff", net, "fixed.onnx")
    assert done.code == 1 and "error[N003]" in done.err and "in image" in done.out
