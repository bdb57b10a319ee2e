"""ONNX's own backend suite, read and written back by us, then run by onnxruntime: what it passes on the original it
passes on ours."""

from __future__ import annotations

import pytest

pytest.importorskip("onnxruntime")

import onnx
from anyir.backends import onnx as backend
from anyir.frontends import onnx as frontend
from anyir.runtimes import onnxruntime as ort
from anyir.tests.support import onnx_suite as suite

GROUPS = 16

#: Our file needs an operator version that onnxruntime has no kernel for.
NOT_RUN = {f"test_training_dropout_zero_ratio{suffix}": "RandomUniform-22" for suffix in ("", "_mask")}


def _original(model, feeds):
    return list(ort.run(model.SerializeToString(), feeds).values())


def _written(opset):
    def run(model, feeds):
        proto = backend.to_model_proto(frontend.read(model), opset=opset)
        onnx.checker.check_model(proto, full_check=True)
        return list(ort.run(proto.SerializeToString(), feeds).values())

    return run


@pytest.mark.parametrize("group", range(GROUPS))
def test_written_back_at_its_own_opset(group: int) -> None:
    worse = {}
    for case in suite.sampled(GROUPS, group):
        skipped = case.name in suite.RANDOM or case.name in suite.REFUSED or case.name in NOT_RUN
        if skipped or suite.operators(case) & suite.UNSUPPORTED:
            continue
        ours = suite.judged(case, _written(None))
        if ours != "pass" and suite.judged(case, _original) == "pass":
            worse[case.name] = ours
    assert not worse


@pytest.mark.parametrize("opset", [13, 15, 17, 18, 21, 23, 26])
def test_written_back_at_other_opsets(opset: int) -> None:
    """What can be written at an opset gives the right numbers there; what cannot is refused with a reason."""
    wrong = {}
    for case in suite.sampled(9, opset % 9):
        if case.name in suite.RANDOM:
            continue
        ours = suite.judged(case, _written(opset))
        if ours.startswith("wrong") and suite.judged(case, _original) == "pass":
            wrong[case.name] = ours
    assert not wrong


def test_write_read_write_is_byte_identical() -> None:
    changed = []
    for case in suite.sampled(3, 1):
        if case.name in suite.REFUSED or suite.operators(case) & suite.UNSUPPORTED:
            continue
        first = backend.to_model_proto(frontend.read(case.load())).SerializeToString(deterministic=True)
        second = backend.to_model_proto(frontend.read(first)).SerializeToString(deterministic=True)
        if first != second:
            changed.append(case.name)
    assert not changed
