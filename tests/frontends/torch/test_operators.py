"""Every operator family against torch's own results, through ExportedProgram objects and `.pt2` files, at two batch sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from anyir.frontends import torch as frontend
from anyir.ir.equality import first_difference
from anyir.ir.verify import verify
from anyir.kernels.compare import compare, limits_for
from anyir.kernels.run import run
from anyir.tests.support.torch_cases import Case, all_cases, arrays, batches, expected, exported, saved

#: Sizes that depend on data or that inference cannot follow get fresh symbols, so two readings differ in their names.
FRESH = ("index-mask", "index-nonzero", "shape-flip-roll", "index-masked-select")


@pytest.mark.parametrize("case", all_cases(), ids=lambda case: case.name)
def test_matches_torch(case: Case, tmp_path: Path) -> None:
    module = frontend.read(exported(case))
    verify(module)
    from_file = frontend.read(saved(case, tmp_path))
    from_file.name = module.name
    if case.name not in FRESH:
        assert first_difference(module, from_file) is None
    for batch in batches(case):
        inputs = arrays(case.inputs(batch))
        wanted = dict(zip(module.signature.output_names(), expected(case, batch), strict=True))
        found = run(module, inputs)
        for name, value in found.items():  # Python floats are f32 scalars here
            wanted[name] = wanted[name].astype(value.dtype) if wanted[name].ndim == 0 else wanted[name]
        report = compare(wanted, found, limits_for(module, inputs, runs=2, exact=found))
        assert report.passed, str(report)


def test_a_wrong_kernel_would_show() -> None:
    """The comparison has teeth: one ULP-sized nudge passes, a relative error of 1e-4 does not."""
    case = next(c for c in all_cases() if c.name == "matmul-linear")
    module = frontend.read(exported(case))
    inputs = arrays(case.inputs(3))
    found = run(module, inputs)
    limits = limits_for(module, inputs, runs=2)
    nudged = {name: np.nextafter(value, np.float32(np.inf)) for name, value in found.items()}
    wrong = {name: value * np.float32(1.0001) for name, value in found.items()}
    assert compare(found, nudged, limits).passed
    assert not compare(found, wrong, limits).passed
