"""The page of ONNX operators tells what reading really does."""

from __future__ import annotations

from anyir.frontends import onnx as frontend
from anyir.frontends.onnx import registry
from anyir.frontends.onnx.coverage import handler_start, lowerings, operators
from anyir.ir.ops import load_families
from anyir.tests.support import onnx_lowerings as support
from anyir.tests.support import onnx_suite as suite


def test_every_handler_was_seen_at_work() -> None:
    handlers = {(domain, name, since) for (domain, name), rows in registry.table().items() for since, _ in rows}
    assert handlers <= set(lowerings()), "run `python tests/support/onnx_lowerings.py`"


def test_lowerings_name_ops_of_the_ir() -> None:
    named = {name for forms in lowerings().values() for form in forms for name in form}
    assert named <= {*load_families(), "opaque"}


def test_what_is_seen_now_stands_in_the_table() -> None:
    with support.watching() as found:
        for case in suite.sampled(7, 3):
            frontend.read(case.load())
    new = {key for key, forms in found.items() if not forms <= set(lowerings().get(key, ()))}
    assert not new, "run `python tests/support/onnx_lowerings.py`"


def test_every_operator_is_read_in_every_opset() -> None:
    refused = [f"{o.domain}::{o.op_type} {o.opsets}" for o in operators() if o.how == "-"]
    assert not refused


def test_ranges_of_one_operator_follow_each_other() -> None:
    rows = list(operators())
    for before, after in zip(rows, rows[1:], strict=False):
        if (before.domain, before.op_type) == (after.domain, after.op_type):
            assert before.last is not None and before.last + 1 == after.first
        assert handler_start(before.domain, before.op_type, before.first) <= before.first
