"""Sequences and optionals. SequenceMap becomes a loop that takes elements out and puts results in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...formats.onnx import dtypes, views
from ...formats.onnx.types import type_of
from ...ir.builder import Builder
from ...ir.graph import Graph, Value
from ...ir.ops.sequence import renewed
from ...ir.types import F32, SequenceType, TensorType
from .control import COUNTER, FLAG
from .importer import Call, Importer
from .registry import handles


@handles("SequenceEmpty")
def sequence_empty(c: Importer, n: Call) -> Any:
    code = n.attr("dtype")
    dtype = F32 if code is None else dtypes.from_code(code, n.label)
    return c.b.sequence_empty(elem=TensorType(dtype))


@handles("SequenceConstruct")
def sequence_construct(c: Importer, n: Call) -> Any:
    return c.b.sequence_construct(*n.inputs)


@handles("SequenceInsert")
def sequence_insert(c: Importer, n: Call) -> Any:
    return c.b.sequence_insert(*n.take(3))


@handles("SequenceErase")
def sequence_erase(c: Importer, n: Call) -> Any:
    return c.b.sequence_erase(*n.take(2))


@handles("SequenceAt")
def sequence_at(c: Importer, n: Call) -> Any:
    return c.b.sequence_at(*n.inputs)


@handles("SequenceLength")
def sequence_length(c: Importer, n: Call) -> Any:
    return c.b.sequence_length(n.x)


@handles("SplitToSequence")
def split_to_sequence(c: Importer, n: Call) -> Any:
    x, split = n.take(2)
    return c.b.split_to_sequence(x, split, axis=n.attr("axis", 0), keepdims=bool(n.attr("keepdims", 1)))


@handles("ConcatFromSequence")
def concat_from_sequence(c: Importer, n: Call) -> Any:
    return c.b.concat_from_sequence(n.x, axis=n.attr("axis"), new_axis=bool(n.attr("new_axis", 0)))


@handles("Optional")
def optional(c: Importer, n: Call) -> Any:
    """The attribute `type` counts only where there is no operand."""
    (x,) = n.take(1)
    if x is not None:
        return c.b.optional(x)
    declared = n.attr("type")
    if declared is None:
        raise n.invalid("an Optional has neither an input nor a type")
    return c.b.optional(type=type_of(declared, None, n.label))


@handles("OptionalGetElement")
def optional_get_element(c: Importer, n: Call) -> Any:
    return c.b.optional_get_element(n.x)


@handles("OptionalHasElement")
def optional_has_element(c: Importer, n: Call) -> Any:
    return c.b.optional_has_element(*n.take(1))


@handles("SequenceMap")
def sequence_map(c: Importer, n: Call) -> Any:
    """Iteration i applies the body to element i of each sequence, and to the other operands as they are."""
    body: views.Graph = n.attrs["body"]
    if len(body.inputs) != len(n.inputs) or len(body.outputs) != len(n.node.outputs) or None in n.inputs:
        raise n.invalid(f"the body takes {len(body.inputs)} and yields {len(body.outputs)} values")
    if not isinstance(n.x.type, SequenceType):
        raise n.invalid(f"the first input is {n.x.type}, a sequence is expected")
    names = c.captures((body,), n.scope)
    region, kinds = _mapping(c, n, body, names)
    empty = [c.b.sequence_empty(elem=kind) for kind in kinds]
    captured = [c.lookup(name, n.scope) for name in names]
    operands = (c.b.sequence_length(n.x), c.const(np.array(True)), *empty, *n.inputs, *captured)
    return c.b.call("loop", operands, {"carried": len(empty)}, [region]).results


def _mapping(c: Importer, n: Call, body: views.Graph, names: Sequence[str]) -> tuple[Graph, list[TensorType]]:
    """The loop's region, and the types of the elements that it makes: their shapes may differ from turn to turn."""
    region = c.module.new_region(body.name)
    at, flag = region.add_input(COUNTER, "i"), region.add_input(FLAG, "go_on")
    made = [region.add_input(SequenceType(TensorType()), name) for name in body.outputs]
    whole = [region.add_input(v.type, f"{name}_all") for v, name in zip(n.inputs, body.inputs, strict=True)]  # type: ignore[union-attr]
    b = Builder(region)
    given = [b.sequence_at(x, at) if isinstance(x.type, SequenceType) else x for x in whole]
    outputs = c.fill(region, body, n.scope, dict(zip(body.inputs, given, strict=True)), names)
    kinds = [_kind(n, y) for y in outputs]
    for sequence, kind in zip(made, kinds, strict=True):
        sequence.refine(SequenceType(kind))
    region.set_outputs([flag, *(b.sequence_insert(s, y) for s, y in zip(made, outputs, strict=True))])
    return region, kinds


def _kind(n: Call, y: Value) -> TensorType:
    if not isinstance(y.type, TensorType) or y.dtype is None:
        raise n.refuse(f"the body yields {y.type}: elements of a sequence are tensors of a known dtype")
    return renewed(y.type)  # type: ignore[return-value]
