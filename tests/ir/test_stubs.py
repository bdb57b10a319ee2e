"""ir/builder.pyi is what the op definitions say."""

from __future__ import annotations

import ast
from pathlib import Path

import anyir.ir.stubs
from anyir.ir.ops import core_ops
from anyir.ir.stubs import builder_stub

STUB = Path(anyir.ir.stubs.__file__).with_name("builder.pyi")


def test_the_stub_in_the_repository_is_current() -> None:
    assert STUB.read_text(encoding="utf-8") == builder_stub(), "run `python -m anyir.ir.stubs`"


def test_every_core_op_has_a_method() -> None:
    tree = ast.parse(builder_stub())
    (cls,) = [item for item in tree.body if isinstance(item, ast.ClassDef)]
    methods = {item.name.rstrip("_") for item in cls.body if isinstance(item, ast.FunctionDef)}
    assert {op.name for op in core_ops()} <= methods
    assert not any("." in name for name in methods)


def test_methods_say_operands_attributes_and_results() -> None:
    text = builder_stub()
    assert "def relu(self, x: Operand) -> Value:" in text
    assert "def not_(self, x: Operand) -> Value:" in text
    assert "def topk(\n        self,\n        x: Operand,\n        k: Operand,\n        *,\n        axis: int" in text
    assert ") -> tuple[Value, ...]:" in text
