"""Verdicts as JUnit XML, which CI systems show: a test case per output and judge. No times, so that files repeat."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from ..ir.errors import clean
from ..ir.outputs import atomic_write

if TYPE_CHECKING:
    from .check import Check, VerifyReport


def write(path: Path, name: str, report: VerifyReport) -> None:
    """The file, whole or not at all. Raises SystemFailure."""
    from .check import unproven

    suite = Element("testsuite", name=clean(name))
    for check in report.checks:
        judge = clean(f"{check.judge}, inputs {check.shapes}" if check.shapes else check.judge)
        for output, kind, message in _cases(check):
            _case(suite, judge, output, kind, message)
    if blank := unproven(report.checks):
        _case(suite, "all inputs", "outputs have numbers", "failure", blank)
    for kind in ("failure", "error", "skipped"):
        suite.set({"failure": "failures", "error": "errors"}.get(kind, kind), str(len(suite.findall(f"*/{kind}"))))
    suite.set("tests", str(len(suite)))
    indent(suite)
    with atomic_write(path) as file:
        file.write(tostring(suite, encoding="utf-8", xml_declaration=True) + b"\n")


def _cases(check: Check) -> Iterator[tuple[str, str, str]]:
    """Per output its name, what became of it ("" for a pass), and a message."""
    if check.report is None:
        yield "runs", "error" if check.failed else "skipped", check.failed or check.skipped
        return
    for row in check.report.rows:
        yield row.name, "" if row.passed else "failure", str(row)


def _case(suite: Element, judge: str, name: str, kind: str, message: str) -> None:
    case = SubElement(suite, "testcase", classname=judge, name=clean(name))
    if kind:
        SubElement(case, kind, message=clean(message, 600))
