"""Each pass on small programs: the whole result stands in tests/golden/<pass>/<case>.anyir.

A file begins with `# run: <pipeline>` (and perhaps `# level: <n>`), then the program, then a line of dashes and what
becomes of it. `pytest --update-golden` writes the second half and shows the difference. What is exact must keep every bit
on sample inputs, everything else the computed limits.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from anyir.ir.canonical import FORMS
from anyir.ir.parser import parse_module
from anyir.ir.verify import verify
from anyir.kernels.inputs import sample_inputs
from anyir.passes.manager import Context, run_pipeline
from anyir.tests.conftest import GOLDEN, Golden
from anyir.tests.support.graphs import with_specials
from anyir.tests.support.text import assert_same_numbers

SEPARATOR = "# ------------------------------------------------------------------------- becomes\n"
FOLDERS = (
    "canonicalize",
    "fold",
    "cse",
    "dce",
    "cancel-transposes",
    "fold-batch-norm",
    "fuse-activations",
    "fuse-norms",
    "dead-weights",
    "fold-quantize",
    "integer-ops",
    "reassociate",
)
CASES = sorted(str(p.relative_to(GOLDEN)) for folder in FOLDERS for p in (GOLDEN / folder).glob("*.anyir"))


def header(text: str, name: str, default: str) -> str:
    found = re.search(rf"^# {name}: (.*)$", text, re.MULTILINE)
    return found[1] if found else default


@pytest.mark.parametrize("case", CASES)
def test_golden(case: str, golden: Golden) -> None:
    source = (GOLDEN / case).read_text(encoding="utf-8").partition(SEPARATOR)[0]
    before = parse_module(source, case)
    verify(before)
    made = before.clone()
    level = int(header(source, "level", "2"))
    pipeline = header(source, "run", Path(case).parent.name)
    run_pipeline(made, pipeline, Context(level=level))
    verify(made)
    exact = Path(case).parent.name in ("canonicalize", "fold", "cse", "dce", "cancel-transposes")
    plain = sample_inputs(before)
    for inputs in (plain, with_specials(plain, 1)) if exact else (plain, sample_inputs(before, seed=1)):
        assert_same_numbers(before, made, exact=exact, inputs=inputs)
    again = made.clone()
    run_pipeline(again, pipeline, Context(level=level))
    assert str(again) == str(made), "a second run goes on"
    golden.check(case, f"{source}{SEPARATOR}{made}")


def test_every_folder_has_cases() -> None:
    assert {str(Path(case).parent) for case in CASES} == set(FOLDERS)


def test_every_canonical_form_has_a_case() -> None:
    """ir/canonical.py is a list of promises: each is shown by a golden file that quotes its spelling."""
    quoted = {header((GOLDEN / case).read_text(encoding="utf-8"), "form", "") for case in CASES}
    assert {form.spelling for form in FORMS} <= quoted, sorted({form.spelling for form in FORMS} - quoted)
