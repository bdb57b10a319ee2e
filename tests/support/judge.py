"""Agreement within the computed limits: no tolerance is typed by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anyir.ir.graph import Module
from anyir.kernels.compare import compare, limits_for
from anyir.kernels.run import run


def assert_agrees(
    module: Module, feeds: Mapping[str, Any], *found: Mapping[str, Any], signature: str | None = None
) -> None:
    """Each of `found`, outputs by name, is what the reference kernels make of `module` and `feeds`, up to rounding."""
    truth = run(module, feeds, signature=signature)
    limits = limits_for(module, feeds, exact=truth, signature=signature)
    for outputs in found:
        report = compare(truth, outputs, limits)
        assert report.passed, str(report)
