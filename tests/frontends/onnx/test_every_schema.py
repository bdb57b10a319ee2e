"""Every version of every operator of ai.onnx: it is read, and what its own schema says is computed.

Two sources of models: the backend suite's, stamped with older opsets where their schemas accept them, and hand-made calls
in the forms that the suite lacks (tests/support/onnx_old_forms.py), which are judged by numpy and, where it has the version,
by onnxruntime.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from typing import Any

import numpy as np
import onnx
import pytest
from anyir.frontends import onnx as frontend
from anyir.frontends.onnx import registry
from anyir.ir.errors import Unsupported
from anyir.kernels.run import run
from anyir.tests.support import onnx_suite as suite
from anyir.tests.support.onnx_old_forms import Form, forms
from onnx import checker, defs

GROUPS = 12
CASES_PER_VERSION = 3

#: Operators that changed their meaning at an opset: the suite's results hold from there on, older forms are hand-made.
CHANGED = {"Softmax": 13, "LogSoftmax": 13, "Hardmax": 13, "PRelu": 7}
#: Cases that an older opset does not define, with the reason.
UNDEFINED = {
    f"test_mod_{kind}_mixed_sign_fmod_0": "fmod 0 of floats came with opset 28"
    for kind in ("float16", "float32", "float64")
}
#: Operators that are tested by distribution, in tests/frontends/onnx/test_random.py.
RANDOM = frozenset(
    ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli")
)
#: Where onnxruntime has another reading: the inverse standard deviation as saved variance, a mask of zeros.
PEER_DIFFERS = frozenset(("BatchNormalization", "Dropout"))


@functools.cache
def history() -> dict[str, list[Any]]:
    """The schemas of each operator, oldest first."""
    found = defaultdict(list)
    for schema in defs.get_all_schemas_with_history():
        if schema.domain == "":
            found[schema.name].append(schema)
    return {name: sorted(schemas, key=lambda s: s.since_version) for name, schemas in sorted(found.items())}


def test_every_version_has_a_lowering() -> None:
    missing = [
        f"{name}-{schema.since_version}"
        for name, schemas in history().items()
        for schema in schemas
        if registry.handler("", name, schema.since_version) is None
        and not (schema.has_function or schema.has_context_dependent_function)
    ]
    assert not missing


# The suite's models at older opsets.


@functools.cache
def cases_by_operator() -> dict[str, list[suite.Case]]:
    found = defaultdict(list)
    for case in suite.cases().values():
        names = suite.operators(case) if case.kind in ("node", "simple") and case.name not in suite.RANDOM else ()
        if all(name.startswith("ai.onnx::") for name in names):
            for name in names:
                found[name.removeprefix("ai.onnx::")].append(case)
    return found


def stamped(case: suite.Case, opset: int) -> Any:
    """The case's model at another opset of ONNX's own domain; None if its schemas do not accept it."""
    model = onnx.ModelProto()
    model.CopyFrom(case.load())
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = opset
    try:
        checker.check_model(model, full_check=True)
    except Exception:
        return None
    return model


@functools.cache
def restamped(name: str) -> tuple[tuple[int, suite.Case, Any], ...]:
    """For each version of an operator some models that hold it, newest versions as they are."""
    found = []
    for schema in history()[name]:
        count = 0
        for case in cases_by_operator().get(name, ()):
            if count == CASES_PER_VERSION or schema.since_version < CHANGED.get(name, 0):
                break
            model = None if case.name in UNDEFINED else stamped(case, schema.since_version)
            if model is not None:
                found.append((schema.since_version, case, model))
                count += 1
    return tuple(found)


@pytest.mark.parametrize("group", range(GROUPS))
def test_older_versions_compute_what_they_did(group: int) -> None:
    wrong = {}
    for name in list(history())[group::GROUPS]:
        for opset, case, model in restamped(name):
            outcome = suite.judged(case, lambda _, feeds, model=model: suite.on_kernels(model, feeds))
            if outcome != "pass":
                wrong[f"{name}-{opset} {case.name}"] = outcome
    assert not wrong


# Forms that the suite lacks.


@functools.cache
def forms_by_operator() -> dict[str, list[Form]]:
    found = defaultdict(list)
    for form in forms():
        found[form.op].append(form)
    return found


def close(found: np.ndarray, wanted: np.ndarray) -> bool:
    """Equal up to float32 noise; dtype and shape exactly."""
    if found.dtype != wanted.dtype or found.shape != wanted.shape:
        return False
    if found.dtype.kind != "f":
        return np.array_equal(found, wanted)
    eps = float(np.finfo(found.dtype).eps)
    finite = np.abs(wanted[np.isfinite(wanted)].astype(np.float64))
    return np.allclose(found, wanted, 8 * eps, 8 * eps * float(finite.max(initial=0)))


@pytest.mark.parametrize("name", sorted(forms_by_operator()))
def test_old_forms(name: str) -> None:
    for form in forms_by_operator()[name]:
        made = list(run(frontend.read(form.model()), form.feeds()).values())
        label = f"{form.op}-{form.opset} {form.attrs}"
        assert len(made) == len(form.wanted()), label
        for found, wanted in zip(made, form.wanted(), strict=True):
            assert close(found, wanted), f"{label}: {found} against {wanted}"


def test_old_forms_in_onnxruntime() -> None:
    """The formulas are not only ours: the peer agrees wherever it has a kernel for the version."""
    pytest.importorskip("onnxruntime")
    from anyir.ir.errors import SystemFailure
    from anyir.runtimes import onnxruntime as ort

    judged, wrong = 0, []
    for form in forms():
        try:
            found = list(ort.run(form.model().SerializeToString(), form.feeds()).values())
        except (Unsupported, SystemFailure):
            continue
        judged += 1
        pairs = zip(found, form.wanted(), strict=True)
        if form.op not in PEER_DIFFERS and not all(np.allclose(f, w, 1e-4, 1e-5) for f, w in pairs):
            wrong.append(f"{form.op}-{form.opset} {form.attrs}")
    assert not wrong and judged > 150


#: Models as text, by the version that they are for, with inputs and outputs.
TEXTS: dict[tuple[str, int], tuple[str, dict[str, Any], Any]] = {
    ("Loop", 1): (
        """<ir_version: 3, opset_import: ["" : 7]>
        g (int64 m, bool go, float[2] x) => (float[2] y, float[k, 2] steps) {
            y, steps = Loop (m, go, x) <body = b (int64 i, bool on, float[2] v) => (bool on2, float[2] w, float[2] s) {
                on2 = Identity (on)
                w = Add (v, v)
                s = Identity (w)
            }>
        }""",
        {"m": np.array(3), "go": np.array(True), "x": np.array([1, -2], np.float32)},
        [[8.0, -16.0], [[2.0, -4.0], [4.0, -8.0], [8.0, -16.0]]],
    ),
    ("Optional", 15): (
        """<ir_version: 8, opset_import: ["" : 15]>
        g (float[2] x) => (float[2] y, bool has) {
            o = Optional (x)
            has = OptionalHasElement (o)
            y = OptionalGetElement (o)
        }""",
        {"x": np.array([1, -2], np.float32)},
        [[1.0, -2.0], True],
    ),
}


@pytest.mark.parametrize("version", TEXTS, ids=lambda version: "-".join(map(str, version)))
def test_models_as_text(version: tuple[str, int]) -> None:
    text, feeds, wanted = TEXTS[version]
    made = run(frontend.read(onnx.parser.parse_model(text)), feeds).values()
    assert [np.asarray(value).tolist() for value in made] == wanted


def test_every_version_is_exercised() -> None:
    """No operator and version is left to hope: each is in a model that some test of this file runs."""
    done = {(form.op, version_at(form.op, form.opset)) for form in forms()} | set(TEXTS)
    left = [
        f"{name}-{schema.since_version}"
        for name, schemas in history().items()
        for schema in schemas
        if (name, schema.since_version) not in done
        and not schema.deprecated
        and name not in RANDOM
        and schema.since_version not in {opset for opset, _, _ in restamped(name)}
    ]
    assert not left


def version_at(name: str, opset: int) -> int:
    return max(s.since_version for s in history()[name] if s.since_version <= opset)
