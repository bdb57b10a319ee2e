"""The words and tables after a compile or a verify."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..ir.errors import clean
from .screen import WIDTH, plain_table, size

if TYPE_CHECKING:
    from ..kernels.compare import Row
    from .check import Check
    from .compression import CompressReport
    from .flow import CompileReport

CHECK_COLUMNS = ("output", "shape", "max|d|", "limit", "argmax", "judged by", "verdict")
BLOCK_COLUMNS = ("output", "judged by", "max|d|", "limit", "")
#: Outputs in the block after a compile; the worst ones stand first.
BLOCK_ROWS = 12
#: Rules in it.
BLOCK_RULES = 8


def check_rows(checks: Sequence[Check]) -> list[tuple[Any, ...]]:
    """One row per output and judge."""
    rows: list[tuple[Any, ...]] = []
    for check in checks:
        if check.report is None:
            rows.append(("-", "", "-", "-", "", check.judge, "FAIL" if check.failed else check.skipped))
            continue
        for row in check.report.rows:
            agreed = f"{row.argmax[0]}/{row.argmax[1]}" if row.argmax else ""
            shape = "x".join(map(str, row.shape)) or "scalar"
            rows.append(
                (row.name, shape, f"{row.max_abs:.1e}", f"{row.limit:.1e}", agreed, check.judge, _row_verdict(row))
            )
    return rows


def _row_verdict(row: Row) -> str:
    if row.blank:
        return "all NaN"
    if row.passed:
        return "ok (ill-conditioned)" if "ill-conditioned" in row.reason else "ok"
    return "FAIL"


def failures(checks: Sequence[Check]) -> list[str]:
    """For each comparison that failed a line that says where, by how much, and what would pass."""
    lines = [f"  {c.judge}, inputs {c.shapes}: {c.failed}" for c in checks if c.failed]
    for check in checks:
        for row in check.report.failures if check.report is not None else ():
            at = (
                f" at {list(row.index)}: {_brief(row.found)} instead of {_brief(row.expected)}"
                if row.index is not None
                else ""
            )
            factor = f", {row.needed / row.limit:.2g} times the limit" if row.limit else ""
            needs = (
                f"{factor}; passes with a limit of {row.needed:.1e}" if math.isfinite(row.needed) else f": {row.reason}"
            )
            lines.append(f"  {row.name}, inputs {check.shapes}{at}{needs}")
    return [part for line in lines for part in textwrap.wrap(clean(line, 400), WIDTH, subsequent_indent="    ")]


def _brief(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def checks_table(checks: Sequence[Check]) -> str:
    return "\n".join([plain_table(CHECK_COLUMNS, check_rows(checks)), *failures(checks)])


def verdict(report: CompileReport) -> str:
    """In words: verified by whom, failed, or not verified and why."""
    if report.verified is None:
        return f"not verified: {report.why_not or 'no check was possible'}"
    judges = dict.fromkeys(c.judge for c in report.checks if not c.skipped)
    missing = dict.fromkeys(f"{c.judge} {c.skipped}" for c in report.checks if c.skipped)
    text = f"verified by {' and '.join(judges)}" if report.verified else f"FAILED the check by {' and '.join(judges)}"
    return "; ".join([text, *missing])


def compile_block(report: CompileReport) -> str:
    """The short block after a compile: ops and bytes before and after, each output's worst error, time and memory."""
    before, after = report.ops_before.total(), report.ops_after.total()
    lines = [clean(f"{report.source} -> {report.files[-1] if report.files else '(not written)'}", 400)]
    lines.append(f"  ops     {before} -> {after}")
    if report.stats:
        lines += textwrap.wrap(fired(report), WIDTH, initial_indent="  rules   ", subsequent_indent=" " * 10)
    lines.append(f"  bytes   {size(report.bytes_before)} -> {size(report.bytes_after)}{_change(report)}")
    if report.checks:
        lines.append(f"  inputs  {clean(report.samples, 400)}")
        lines += _block_table(report.checks)
    stages = ", ".join(f"{name} {seconds:.2f}" for name, seconds in report.seconds.items())
    lines.append(f"  time    {sum(report.seconds.values()):.2f} s ({stages}), peak memory {size(report.peak_bytes)}")
    lines.append(f"  {clean(verdict(report), 400)}")
    return "\n".join(lines)


def fired(report: CompileReport) -> str:
    """The rules that fired most often, with counts."""
    ranked = sorted(report.stats.items(), key=lambda item: (-item[1], item[0]))
    left = len(ranked) - BLOCK_RULES
    more = f"; and {left} more, --stats shows all" if left > 0 else ""
    return ", ".join(f"{clean(name, 80)} {count}" for name, count in ranked[:BLOCK_RULES]) + more


def compress_block(report: CompressReport) -> str:
    """The block after a compression: that of a compile, and what was saved and lost."""
    from ..compress.report import summary

    assert report.result is not None
    lines = [compile_block(report)]
    if report.zipped is not None:
        lines.append(f"  zipped  {size(report.zipped[0])} -> {size(report.zipped[1])}")
    told = [
        (label, f"{text}; {report.fused}" if label == "integer" and report.fused else text)
        for label, text in summary(report.result)
    ]
    return "\n".join([*lines, *(f"  {label:<7} {text}" for label, text in told)])


def _change(report: CompileReport) -> str:
    if not report.bytes_before or not report.bytes_after:
        return ""
    share = round(100 * (report.bytes_after / report.bytes_before - 1))
    return f" ({share:+d} %)" if share else ""


def _block_table(checks: Sequence[Check]) -> list[str]:
    """Per output and judge the comparison that came nearest to its limit."""
    worst: dict[tuple[str, str], Row] = {}
    for check in checks:
        for row in check.report.rows if check.report is not None else ():
            key = row.name, check.judge
            if key not in worst or _share(row) > _share(worst[key]):
                worst[key] = row
    ranked = list(worst.items())
    if len(ranked) > BLOCK_ROWS:
        ranked.sort(key=lambda item: -_share(item[1]))
    rows = [
        (name, judge, f"{row.max_abs:.1e}", f"{row.limit:.1e}", _row_verdict(row))
        for (name, judge), row in ranked[:BLOCK_ROWS]
    ]
    rows += [("-", c.judge, "-", "-", "FAIL") for c in checks if c.failed]
    lines = plain_table(BLOCK_COLUMNS, rows, indent=" " * 10).splitlines()
    left = len(ranked) - BLOCK_ROWS
    more = [f"          and {left} comparisons further from their limits"] if left > 0 else []
    return ["  check " + lines[0][8:], *lines[1:], *more, *(f"        {line}" for line in failures(checks))]


def _share(row: Row) -> float:
    """How much of its limit a comparison used; infinite when it failed."""
    if not row.passed:
        return math.inf
    return row.max_abs / row.limit if row.limit else 0.0


def proof_line(row: Mapping[str, Any]) -> str:
    """One removal and why it is one: `dead-weights: 3 zero-channel of conv1.weight: zero wherever it is read`."""
    return f"{row['pass']}: {row['count']} {row['kind']} of {row['layer']}: {row['proof']}"


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
        "proofs": report.proofs,
        "seconds": report.seconds,
        "peak_bytes": report.peak_bytes,
    }


def checks_json(checks: Sequence[Check]) -> list[dict[str, Any]]:
    """Each comparison with its rows as `kernels.compare.Row` has them."""
    return [
        {
            "judge": check.judge,
            "inputs": check.shapes,
            "passed": check.passed,
            "skipped": check.skipped,
            "failed": check.failed,
            "outputs": [] if check.report is None else check.report.as_dict()["outputs"],
        }
        for check in checks
    ]
