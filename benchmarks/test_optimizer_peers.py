"""One `-O2` against the best of five other optimisers on each real model: nodes, bytes, seconds, outputs, latency.

pytest benchmarks/test_optimizer_peers.py -m slow -s        needs pip install 'anyir[peers,ort]'
"""

from __future__ import annotations

from pathlib import Path

import pytest
from anyir.benchmarks import optimizer_peers as peers
from anyir.frontends.onnx import read
from anyir.kernels.compare import compare, limits_for
from anyir.kernels.run import run
from anyir.runtimes import onnxruntime as ort

pytestmark = pytest.mark.slow
for package in ("onnxruntime", "onnxsim", "onnxslim", "onnxscript", "onnxoptimizer"):
    pytest.importorskip(package)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("peers")


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[peers.Row]:
    made = peers.board(peers.names(), folder)
    peers.show(made)
    return made


def test_every_model_is_written(rows: list[peers.Row]) -> None:
    assert not [
        (r.name, tool, r.made[tool].error) for r in rows for tool in (peers.OWN, peers.RAISED) if r.made[tool].error
    ]


def test_fewest_nodes(rows: list[peers.Row]) -> None:
    """On 95 models of 100 no portable tool writes fewer; in the mean 0.72 of the source's, 0.65 with a raised opset."""
    worse = [(row.name, row.made[peers.OWN].nodes, row.best_peer()) for row in rows if not row.wins]
    assert len(worse) <= 0.05 * len(rows), worse
    assert peers.mean([row.ratio(peers.OWN) for row in rows]) <= 0.72
    assert peers.mean([row.ratio(peers.RAISED) for row in rows]) <= 0.65


def test_files_do_not_grow(rows: list[peers.Row]) -> None:
    assert peers.sizes(rows) <= 1.0
    assert not [
        (row.name, row.made[peers.OWN].size, row.size) for row in rows if row.made[peers.OWN].size > 1.05 * row.size
    ]


def test_seconds(rows: list[peers.Row]) -> None:
    """CPU seconds of load, optimise and save, all models together."""
    assert sum(row.made[peers.OWN].seconds for row in rows) < 10


def test_outputs_are_equal(rows: list[peers.Row], folder: Path) -> None:
    """In onnxruntime, the written files against the original, within what rounding explains."""
    differ = []
    for row in rows:
        module = read(row.source)
        for which in (0, 1):
            feeds = peers.feeds_of(row.name, row.source, which)
            limits = limits_for(module, feeds, exact=run(module, feeds))
            expected = ort.run(row.source, feeds, threads=1)
            for tool in (peers.OWN, peers.RAISED):
                found = ort.run(folder / f"{row.name}.{tool}.onnx", feeds, threads=1)
                report = compare(expected, found, limits)
                differ += [] if report.passed else [(row.name, which, tool, str(report))]
    assert not differ


def test_latency(rows: list[peers.Row], folder: Path) -> None:
    """onnxruntime on our file takes no longer than on the original, with its own optimisations on and off."""
    found = {r.name: {on: peers.slowdown(r, folder, on, tuple(r.made)) for on in (True, False)} for r in rows}
    peers.show_latency(found, tuple(peers.TOOLS))
    own = {on: {name: modes[on][peers.OWN] for name, modes in found.items()} for on in (True, False)}
    assert not [(name, on, ratio) for on in own for name, ratio in own[on].items() if ratio > 1.05]
    assert peers.mean(list(own[True].values())) <= 0.98
    assert peers.mean(list(own[False].values())) <= 0.90
