"""Inputs and outputs as the integers that the first and last layers compute with."""

from __future__ import annotations

from dataclasses import replace

from ...ir.graph import Graph, Module, Node, Value
from ...ir.signature import Slot


def integer_interface(module: Module) -> list[str]:
    """Drop the quantize behind each input and the dequantize before each output of the first signature; slots say scale and
    zero point. Returns a note for every float input or output that stays one."""
    signature = module.signature
    graph = signature.graph
    notes = []
    for place, value in enumerate(list(graph.inputs)):
        slot = signature.inputs[place]
        node = _quantiser(value)
        if node is None or slot.default is not None:
            if value.dtype is not None and value.dtype.is_float:
                notes.append(f"input {slot.name!r} stays {value.dtype}: it is not only read as integers on one grid")
            continue
        signature.inputs[place] = _slot(slot, node)
        made = graph.add_input(node.result.type, value.hint)
        node.replace(made)
        _move_input(graph, made, place)
    outputs = list(graph.outputs)
    for place, value in enumerate(outputs):
        node = value.node
        if node is None or node.name != "dequantize" or not _is_plain(node):
            if value.dtype is not None and value.dtype.is_float:
                notes.append(f"output {signature.outputs[place].name!r} stays {value.dtype}: integers do not reach it")
            continue
        signature.outputs[place] = _slot(signature.outputs[place], node)
        outputs[place] = node.operands[0]  # type: ignore[call-overload]
    readers = [value.node for value in graph.outputs if value.node is not None and value.node.name == "dequantize"]
    graph.set_outputs(outputs)
    for node in dict.fromkeys(readers):
        if not node.result.n_uses:
            node.erase()
    signature.check()
    return notes


def _quantiser(value: Value) -> Node | None:
    """The one node that takes an input, if that makes integers of it, with one scale."""
    node = value.single_user()
    if node is None or node.name != "quantize" or value.n_uses != 1 or node.operands[0] is not value:
        return None
    return node if _is_plain(node) else None


def _is_plain(node: Node) -> bool:
    return all(v is not None and v.is_const and not v.rank for v in node.operands[1:])


def _slot(slot: Slot, node: Node) -> Slot:
    zero = node.operand("zero_point")
    return replace(slot, quant=(float(node.operand("scale").scalar()), 0 if zero is None else int(zero.scalar())))


def _move_input(graph: Graph, made: Value, place: int) -> None:
    """Put the last input where the unused one at `place` is."""
    graph.remove_input(place)
    graph.inputs.insert(place, graph.inputs.pop())
    for index, value in enumerate(graph.inputs):
        value.index = index
    assert graph.inputs[place] is made
