"""All twelve roads: three sources x four targets, for three trained networks, each output executed by its real runtime
and compared with the source framework's own output on the whole test set."""

from __future__ import annotations

import importlib
from functools import cache

import anyir
import numpy as np
import pytest
from anyir.kernels.compare import compare, limits_for

from tests.support.networks import NAMES, SOURCES, network

TARGETS = {
    "onnx": (".onnx", "onnxruntime"),
    "tflite": (".tflite", "litert"),
    "mindir": (".mindir", "mindspore"),
    "torch": (".pt2", "torch"),
    "python": (".py", "torch"),
}
#: A batch size that no network was exported with, beside the whole test set.
SMALL = 7


@cache
def prepared(name: str, source: str):
    """The trained network, its outputs by name as its framework gave them, and their limits."""
    trained = network(name, source)
    module = anyir.load(trained.path)
    output = module.signature.output_names()[0]
    inputs = {module.signature.input_names()[0]: trained.x}
    return trained, inputs, {output: trained.expected}, limits_for(module, inputs)


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Every file of one target, run in one go: the runtimes that live in a child process start once."""
    folder = tmp_path_factory.mktemp("roads")

    @cache
    def run(target: str):
        suffix, runtime = TARGETS[target]
        jobs = {}
        for name in NAMES:
            for source in SOURCES:
                trained, inputs, _, _ = prepared(name, source)
                path = folder / f"{name}-{source}-{target}{suffix}"
                anyir.compile(trained.path, path, verify=False)
                small = {key: array[:SMALL] for key, array in inputs.items()}
                jobs[name, source, "all"] = (str(path), inputs)
                jobs[name, source, "small"] = (str(path), small)
        adapter = importlib.import_module(f"anyir.runtimes.{runtime}")
        if hasattr(adapter, "run_many"):
            outcomes = adapter.run_many([adapter.Job(path, arrays) for path, arrays in jobs.values()])
        else:
            outcomes = [adapter.run(path, arrays) for path, arrays in jobs.values()]
        return dict(zip(jobs, outcomes, strict=True))

    return run


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("name", NAMES)
def test_road_gives_the_frameworks_own_results_and_predictions(executed, name: str, source: str, target: str) -> None:
    trained, _, expected, limits = prepared(name, source)
    for size, rows in (("all", len(trained.x)), ("small", SMALL)):
        found = executed(target)[name, source, size]
        if isinstance(found, Exception):
            raise found
        wanted = {key: array[:rows] for key, array in expected.items()}
        assert list(found) == list(wanted), "the user's output names, in order"
        report = compare(wanted, found, limits)
        assert report.passed, str(report)
        for key, array in wanted.items():
            np.testing.assert_array_equal(np.argmax(found[key], -1), np.argmax(array, -1))


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("name", NAMES)
def test_network_has_learnt_its_task(name: str, source: str) -> None:
    """A comparison of untrained networks would prove less: near-constant outputs agree too easily."""
    trained, *_ = prepared(name, source)
    assert np.mean(np.argmax(trained.expected, -1) == trained.y) > 0.9
