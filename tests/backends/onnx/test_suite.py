"""ONNX's own backend suite, read and written back by us, then run by onnxruntime and by ONNX's reference evaluator: what
they pass on the original they pass on ours."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

pytest.importorskip("onnxruntime")

import onnx
from anyir.backends import onnx as backend
from anyir.frontends import onnx as frontend
from anyir.ir.errors import Unsupported
from anyir.passes.manager import run_pipeline
from anyir.passes.presets import preset
from anyir.runtimes import onnxruntime as ort
from anyir.tests.support import onnx_suite as suite

GROUPS = 16


def _in_runtime(model, feeds):
    return list(ort.run(model.SerializeToString(), feeds).values())


def _in_reference(model, feeds):
    """ONNX's own evaluator. What it does not know is a refusal."""
    from onnx.reference import ReferenceEvaluator

    try:
        return ReferenceEvaluator(model).run(None, feeds)
    except Exception as error:
        raise Unsupported(f"onnx's reference evaluator: {error}") from None


JUDGES = {"onnxruntime": _in_runtime, "reference": _in_reference}


def _written(model, level: int, opset: int | None = None):
    """The model as we write it at an -O level, accepted by the checker."""
    module = frontend.read(model)
    if level:
        run_pipeline(module, preset(level))
    proto = backend.to_model_proto(module, opset=opset)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def _worse(case: suite.Case, made, judges: Iterable[str] = JUDGES) -> dict[str, str]:
    """By judge, why our file of a case does not pass where the original does."""
    found = {}
    for name in judges:
        if (case.name, name) in suite.PEERS_FAIL:
            continue
        judge = JUDGES[name]
        ours = suite.judged(case, lambda model, feeds, judge=judge: judge(made, feeds))
        if ours != "pass" and suite.judged(case, judge) == "pass":
            found[f"{case.name} in {name}"] = ours
    return found


@pytest.mark.parametrize("level", [0, 2])
@pytest.mark.parametrize("group", range(GROUPS))
def test_written_back_at_its_own_opset(group: int, level: int) -> None:
    """What runtimes pass on the original they pass on ours; what we wrote we write again, byte for byte."""
    worse, changed = {}, []
    for case in suite.sampled(GROUPS, group):
        made = _written(case.load(), level)
        if case.name not in suite.RANDOM:
            worse |= _worse(case, made)
        if _bytes(made) != _bytes(_written(made, 0)):
            changed.append(case.name)
    assert not worse
    assert not changed


def _bytes(model) -> bytes:
    return model.SerializeToString(deterministic=True)


@pytest.mark.parametrize("name", ["onnxruntime", pytest.param("reference", marks=pytest.mark.slow)])
@pytest.mark.parametrize("level", [0, 2])
def test_networks_written_back(level: int, name: str) -> None:
    worse = {}
    for case in suite.sampled(1, kinds=(suite.NETWORKS,)):
        worse |= _worse(case, _written(case.load(), level), [name])
    assert not worse


@pytest.mark.parametrize("opset", [13, 15, 17, 18, 21, 23, 26])
def test_written_back_at_other_opsets(opset: int) -> None:
    """What can be written at an opset gives the right numbers there; what cannot is refused with a reason."""
    wrong = {}
    for case in suite.sampled(9, opset % 9):
        if case.name in suite.RANDOM:
            continue
        ours = suite.judged(case, lambda model, feeds: _in_runtime(_written(model, 0, opset), feeds))
        if ours.startswith("wrong") and suite.judged(case, _in_runtime) == "pass":
            wrong[case.name] = ours
    assert not wrong
