"""The words and tables after a compile or a verify."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .screen import plain_table, size

if TYPE_CHECKING:
    from ..kernels.compare import Row
    from .check import Check
    from .flow import CompileReport

CHECK_COLUMNS = ("output", "shape", "max|d|", "limit", "argmax", "judge", "inputs", "verdict")


def check_rows(checks: Sequence[Check]) -> list[tuple[Any, ...]]:
    """One row per output and judge."""
    rows: list[tuple[Any, ...]] = []
    for check in checks:
        if check.report is None:
            rows.append(("-", "", "", "", "", check.judge, check.shapes, check.skipped))
            continue
        for row in check.report.rows:
            verdict = "pass" if row.passed else _failure(row)
            agreed = f"{row.argmax[0]}/{row.argmax[1]}" if row.argmax else ""
            shape = "x".join(map(str, row.shape)) or "scalar"
            rows.append(
                (row.name, shape, f"{row.max_abs:.1e}", f"{row.limit:.1e}", agreed, check.judge, check.shapes, verdict)
            )
    return rows


def _failure(row: Row) -> str:
    at = f" at {list(row.index)}: {row.found} vs {row.expected}" if row.index is not None else ""
    needs = f" (needs {row.needed:.1e})" if math.isfinite(row.needed) else ""
    return f"FAIL {row.reason}{at}{needs}"


def checks_table(checks: Sequence[Check]) -> str:
    return plain_table(CHECK_COLUMNS, check_rows(checks))


def verdict(report: CompileReport) -> str:
    """In words: verified by whom, failed, or not verified and why."""
    if report.verified is None:
        return f"not verified: {report.why_not or 'no check was possible'}"
    judges = list(dict.fromkeys(c.judge for c in report.checks if c.report is not None))
    missing = [f"{c.judge} {c.skipped}" for c in report.checks if c.report is None]
    text = f"verified by {' and '.join(judges)}" if report.verified else f"FAILED the check by {' and '.join(judges)}"
    return text + (f"; {'; '.join(missing)}" if missing else "")


def compile_block(report: CompileReport) -> str:
    """The short block after a compile: ops and bytes before and after, each output's worst error, time and memory."""
    before, after = report.ops_before.total(), report.ops_after.total() or report.ops_before.total()
    target = report.files[-1] if report.files else "(not written)"
    change = f" ({report.bytes_after / report.bytes_before - 1:+.0%})" if report.bytes_before else ""
    lines = [f"{report.source} -> {target}"]
    lines.append(f"  ops     {before} -> {after}")
    lines.append(f"  bytes   {size(report.bytes_before)} -> {size(report.bytes_after)}{change}")
    for check in report.checks:
        if check.report is None:
            continue
        for row in check.report.rows:
            mark = "ok" if row.passed else "FAIL"
            text = f"max|d| {row.max_abs:.1e} (limit {row.limit:.1e})" if row.passed else _failure(row)
            lines.append(f"  check   {row.name}: {text}  {check.judge}, {check.shapes}  {mark}")
    stages = ", ".join(f"{name} {seconds:.2f}" for name, seconds in report.seconds.items())
    lines.append(f"  time    {sum(report.seconds.values()):.2f} s ({stages}), peak memory {size(report.peak_bytes)}")
    lines.append(f"  {verdict(report)}")
    return "\n".join(lines)


def compile_json(report: CompileReport) -> dict[str, Any]:
    """The report as data; no times but the stages', so that two runs differ there only."""
    return {
        "source": report.source,
        "files": report.files,
        "format": report.format,
        "ops": {"before": dict(report.ops_before), "after": dict(report.ops_after)},
        "bytes": {"before": report.bytes_before, "after": report.bytes_after},
        "verified": report.verified,
        "verdict": verdict(report),
        "checks": checks_json(report.checks),
        "rules": dict(report.stats),
        "notes": report.notes,
        "seconds": report.seconds,
        "peak_bytes": report.peak_bytes,
    }


def checks_json(checks: Sequence[Check]) -> list[dict[str, Any]]:
    made = []
    for check in checks:
        outputs = [] if check.report is None else check.report.as_dict()["outputs"]
        made.append({"judge": check.judge, "inputs": check.shapes, "skipped": check.skipped, "outputs": outputs})
    return made
