"""`irc verify` as a gate: limits of the user's own, and verdicts for CI."""

from __future__ import annotations

import xml.etree.ElementTree as xml
from pathlib import Path
from typing import Any

import anyir
import numpy as np
import pytest
from anyir.ir.builder import Builder
from anyir.ir.errors import UsageError
from anyir.ir.graph import Module
from anyir.ir.types import F32, TensorType
from anyir.kernels.compare import Limit, compare


def scaled(path: Path, *factors: float, name: str = "y") -> str:
    """x times a factor per column, and x itself."""
    module = Module("scaled")
    graph = module.add_graph("main")
    b = Builder(graph)
    x = graph.add_input(TensorType(F32, (2, len(factors))), "x")
    graph.set_outputs([b.mul(x, b.const(np.array(factors, np.float32))), b.neg(x)])
    module.add_signature("main", graph, ["x"], [name, "same"])
    anyir.save(module, path)
    return path.name


@pytest.fixture
def pair(tmp_path: Path) -> tuple[str, str]:
    """The second model's first output is 1 % larger."""
    return scaled(tmp_path / "a.onnx", 1, 100), scaled(tmp_path / "b.onnx", 1.01, 101)


@pytest.mark.parametrize(("limits", "code"), [
    ([], 1),
    (["--rtol", "0.011"], 0),
    (["--rtol", "0.009"], 1),
    (["--rtol", "0.009", "--atol", "1"], 0),
    (["--cos", "0.9999"], 0),
    (["--cos", "0.9999", "--atol", "1e-6"], 1),
    (["--atol", "100", "--cos", "1"], 1),
    (["--rtol", "-1"], 2),
    (["--cos", "1.5"], 2),
])  # fmt: skip
def test_limits_that_are_given_must_all_hold(irc: Any, pair: tuple[str, str], limits: list[str], code: int) -> None:
    assert irc("verify", *pair, *limits).code == code


def test_a_cosine_that_is_too_small_is_told(irc: Any, tmp_path: Path) -> None:
    pair = scaled(tmp_path / "a.onnx", 1, 1), scaled(tmp_path / "b.onnx", -1, -1)
    done = irc("verify", *pair, "--cos", "0.5")
    assert done.code == 1 and "less than 0.5" in " ".join(done.out.split())


def test_relative_limits_go_by_the_reference() -> None:
    """|a - b| <= atol + rtol |a|, element by element: NaN and infinities still have to meet."""
    a, b = {"y": np.array([0.0, 1.0, 1000.0])}, {"y": np.array([0.001, 1.01, 1010.0])}
    assert not compare(a, b, Limit(0.0, rtol=0.011)).passed
    report = compare(a, b, Limit(0.001, rtol=0.01))
    assert report.passed and report.rows[0].needed == pytest.approx(0.001)
    assert not compare({"y": np.array([np.inf])}, {"y": np.array([1e30])}, Limit(0.0, rtol=1.0)).passed
    assert not compare({"y": np.array([1.0])}, {"y": np.array([np.nan])}, Limit(0.0, rtol=1.0)).passed


def test_verdicts_as_junit(irc: Any, tmp_path: Path, pair: tuple[str, str]) -> None:
    """One case per output; a failed one says what differs. Equal runs give equal bytes."""
    texts = []
    for _ in range(2):
        assert irc("verify", *pair, "--junit", "verify.xml").code == 1
        texts.append((tmp_path / "verify.xml").read_bytes())
    assert texts[0] == texts[1]
    suite = xml.fromstring(texts[0])
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors"), suite.get("skipped")) == (
        "2",
        "1",
        "0",
        "0",
    )
    assert {case.get("name"): case.find("failure") is None for case in suite} == {"y": False, "same": True}
    assert "would pass with" in suite.find("*/failure").get("message")
    assert irc("verify", *pair, "--rtol", "0.1", "--junit", "verify.xml").code == 0
    assert xml.parse(tmp_path / "verify.xml").getroot().get("failures") == "0"


def test_names_cannot_leave_their_place_in_the_file(irc: Any, tmp_path: Path) -> None:
    name = 'y"/><failure/>\x07<&'
    pair = scaled(tmp_path / "a.onnx", 1, name=name), scaled(tmp_path / "b.onnx", 1, name=name)
    assert irc("verify", *pair, "--junit", "verify.xml").code == 0
    suite = xml.parse(tmp_path / "verify.xml").getroot()
    assert len(suite) == 2 and not suite.findall("*/failure") and "<failure/>" in suite[0].get("name")


def test_outputs_of_nan_alone_are_a_failure_there_too(irc: Any, tmp_path: Path) -> None:
    pair = scaled(tmp_path / "a.onnx", np.nan), scaled(tmp_path / "b.onnx", np.nan)
    assert irc("verify", *pair, "--junit", "verify.xml").code == 1
    assert "all NaN" in xml.parse(tmp_path / "verify.xml").getroot().find("*/failure").get("message")


def test_a_folder_that_is_not_there_is_an_error(irc: Any, pair: tuple[str, str]) -> None:
    assert irc("verify", *pair, "--rtol", "1", "--junit", "nowhere/verify.xml").code == 4
    with pytest.raises(UsageError):
        anyir.verify(pair[0], pair[1], with_b="nowhere")
