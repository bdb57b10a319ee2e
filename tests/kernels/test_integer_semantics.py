"""Our integer kernels against onnxruntime's: the same integers, or neighbours where the value before rounding is a tie.

200 cases of each operator here, 5,000 in the slow run (`pytest -m slow`). A tie is a value whose distance from a half is
within the roundings of float32 that lead to it; nothing else may differ. Products of u8 and s8 saturate in onnxruntime on
x86 processors without VNNI: weights keep to 7 bits there, which is what a model for such processors has to do.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxruntime")

from anyir.frontends import onnx as frontend
from anyir.kernels.run import run
from anyir.runtimes import onnxruntime as ort
from anyir.tests.support import integer_cases
from anyir.tests.support.integer_cases import DRAWS, Case, cases, model_of

BATCH = 25


def has_vnni() -> bool:
    """Whether the processor multiplies u8 by s8 without saturating pairs."""
    info = Path("/proc/cpuinfo")
    flags = info.read_text(encoding="utf-8") if info.is_file() else ""
    return "vnni" in flags or "asimddp" in flags


@pytest.fixture(autouse=True)
def processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integer_cases, "SATURATES", not has_vnni())


def differences(case: Case, wanted: list[np.ndarray], found: list[np.ndarray]) -> int:
    """How many elements are neighbours at a tie; anything else that differs is an error."""
    ties = 0
    for a, b in zip(wanted, found, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape, (
            f"{case.op_type}: {a.dtype} {a.shape}, ours {b.dtype} {b.shape}"
        )
        if a.dtype.kind == "f":
            gap = np.abs(a.astype(np.float64) - b.astype(np.float64))
            assert (gap <= case.atol).all(), f"{case.op_type}: off by {gap.max()} {case}"
            continue
        differ = a != b
        if not differ.any():
            continue
        assert case.real is not None, f"{case.op_type}: {a[differ]} and {b[differ]} {case}"
        gap = np.abs(a.astype(np.int64) - b.astype(np.int64))
        half = np.abs(case.real - np.floor(case.real) - 0.5)
        assert gap.max() == 1, f"{case.op_type}: {gap.max()} steps apart {case}"
        assert (half[differ] <= case.spread).all(), f"{case.op_type}: {half[differ].max()} beside a half {case}"
        ties += int(differ.sum())
    if case.real is not None:
        nearest(case, wanted[0])
        nearest(case, found[0])
    return ties


def nearest(case: Case, made: np.ndarray) -> None:
    """Both sides round the formula's value: agreement alone could be a common mistake."""
    info = np.iinfo(made.dtype)
    gap = np.abs(made.astype(np.float64) - np.clip(case.real, info.min, info.max))
    assert gap.max(initial=0.0) <= 0.5 + case.spread, f"{case.op_type}: {gap.max()} from the formula {case}"


def judged(name: str, seed: int, count: int) -> tuple[int, int]:
    """(elements compared, ties) over `count` cases."""
    elements = ties = 0
    drawn = cases(name, seed, count)
    while batch := list(itertools.islice(drawn, BATCH)):
        model, feeds = model_of(batch)
        wanted = ort.run(model.SerializeToString(), feeds, threads=1, optimise=False)
        found = run(frontend.read(model), feeds)
        for i, case in enumerate(batch):
            names = [f"y{i}_{k}" for k in range(len(case.results))]
            ties += differences(case, [wanted[n] for n in names], [found[n] for n in names])
            elements += sum(wanted[n].size for n in names)
    return elements, ties


@pytest.mark.parametrize("name", sorted(DRAWS))
def test_like_onnxruntime(name: str) -> None:
    elements, _ = judged(name, 0, 200)
    assert elements >= 200


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(DRAWS))
def test_like_onnxruntime_at_length(name: str, record_property) -> None:
    elements, ties = judged(name, 1, 5000)
    record_property("elements", elements)
    record_property("ties", ties)
    assert elements >= 5000 and ties <= elements / 100
