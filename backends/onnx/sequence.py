"""Rows of sequences and optionals."""

from __future__ import annotations

import numpy as np

from ...formats.onnx import dtypes
from ...ir.graph import Node
from ...ir.types import BOOL, OptionalType, TensorType
from .emitter import Emitter
from .registry import emits

SAME = {
    "sequence_construct": "SequenceConstruct",
    "sequence_insert": "SequenceInsert",
    "sequence_erase": "SequenceErase",
    "sequence_at": "SequenceAt",
    "sequence_length": "SequenceLength",
}


@emits(*SAME, since=11)
def same(e: Emitter, n: Node) -> None:
    e.node(SAME[n.name], n.operands)


@emits("sequence_empty", since=11)
def sequence_empty(e: Emitter, n: Node) -> None:
    elem = n.attr("elem")
    if not isinstance(elem, TensorType) or elem.dtype is None:
        raise e.refuse(f"an empty sequence of {elem}")
    e.node("SequenceEmpty", (), dtype=dtypes.TO_CODE[elem.dtype])


@emits("split_to_sequence", since=11)
def split_to_sequence(e: Emitter, n: Node) -> None:
    e.node("SplitToSequence", n.operands, axis=n.attr("axis"), keepdims=n.attr("keepdims"))


@emits("concat_from_sequence", since=11)
def concat_from_sequence(e: Emitter, n: Node) -> None:
    e.node("ConcatFromSequence", n.operands, axis=n.attr("axis"), new_axis=n.attr("new_axis"))


@emits("optional", since=15)
def optional(e: Emitter, n: Node) -> None:
    e.node("Optional", n.operands, type=n.attr("type"))


@emits("optional_get_element", since=13)
def optional_get_element(e: Emitter, n: Node) -> None:
    """Before opset 18 only an optional has an element."""
    plain = not isinstance(n.operands[0].type, OptionalType)  # type: ignore[union-attr]
    e.node("Identity" if plain and e.opset < 18 else "OptionalGetElement", n.operands)


@emits("optional_has_element", since=13)
def optional_has_element(e: Emitter, n: Node) -> None:
    """Before opset 18 only an optional can be asked."""
    x = n.operands[0] if n.operands else None
    if e.opset < 18 and not (x is not None and isinstance(x.type, OptionalType)):
        e.node("Identity", [e.literal(np.array(x is not None), BOOL)])
    else:
        e.node("OptionalHasElement", n.operands)
