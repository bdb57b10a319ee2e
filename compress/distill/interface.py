"""Teacher and student side by side: which input and output goes with which, where the logits are, and inner values made
visible as further outputs. Works on the IR alone; imports no framework.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ...ir.errors import UsageError, clean
from ...ir.graph import Graph, Module, Node, Value
from ...ir.signature import Slot
from ...ir.types import TensorType
from ...passes.select import layer_name

_LISTED = 8


@dataclass(frozen=True)
class Pairing:
    """The teacher's name for each input and output of the student."""

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


def pair(teacher: Module, student: Module) -> Pairing:
    """Inputs and outputs by name where the names are the same, else by position. Raises UsageError (N003) showing both
    interfaces where number, dtypes or shapes differ."""
    found = []
    for kind in ("inputs", "outputs"):
        theirs, ours = _slots(teacher, kind), _slots(student, kind)
        by_name = set(ours) == set(theirs) or (kind == "outputs" and set(ours) <= set(theirs))
        if not by_name and len(ours) != len(theirs):
            raise _differs(teacher, student, f"the student has {len(ours)} {kind}, the teacher {len(theirs)}")
        names = {n: n for n in ours} if by_name else dict(zip(ours, theirs, strict=True))
        for name, other in names.items():
            if not _alike(ours[name], theirs[other]):
                what = f"{kind[:-1]} {clean(name)!r} is {ours[name].type}, the teacher's {clean(other)!r} {theirs[other].type}"
                raise _differs(teacher, student, what)
        found.append(names)
    return Pairing(*found)


def _slots(module: Module, kind: str) -> dict[str, Value]:
    signature = module.signature
    graph = signature.graph
    names, values = (
        (signature.input_names(), graph.inputs) if kind == "inputs" else (signature.output_names(), graph.outputs)
    )
    return dict(zip(names, values, strict=True))


def _alike(a: Value, b: Value) -> bool:
    """The same dtype, and shapes that agree where both are numbers."""
    if not isinstance(a.type, TensorType) or not isinstance(b.type, TensorType) or a.dtype is not b.dtype:
        return False
    if a.shape is None or b.shape is None:
        return True
    sizes = zip(a.shape, b.shape, strict=False)
    return len(a.shape) == len(b.shape) and all(x == y for x, y in sizes if type(x) is int and type(y) is int)


def _differs(teacher: Module, student: Module, what: str) -> UsageError:
    shown = [f"{what}"]
    for who, module in (("student", student), ("teacher", teacher)):
        for kind in ("inputs", "outputs"):
            slots = [f"{clean(name)} {value.type}" for name, value in _slots(module, kind).items()]
            more = f", and {len(slots) - _LISTED} more" if len(slots) > _LISTED else ""
            shown.append(f"  {who} {kind:<8}{', '.join(slots[:_LISTED])}{more}")
    return UsageError("\n".join(shown), code="N003", where="student and teacher have different interfaces")


# ------------------------------------------------------------------------------------------------ inner values


def logits_of(value: Value) -> Value:
    """What a closing softmax or log_softmax over the last axis was computed from, else the value itself: losses want logits."""
    node = value.node
    if node is None or node.name not in ("softmax", "log_softmax") or not value.rank or node.operands[0] is None:
        return value
    return node.operands[0] if node.attr("axis") % value.rank == value.rank - 1 else value


def is_classifier(value: Value) -> bool:
    """Two classes or more in the last axis, and either a closing softmax or a plain [batch, classes]."""
    if value.shape is None or len(value.shape) < 2 or value.shape[-1] == 1 or not _is_float(value):
        return False
    return logits_of(value) is not value or len(value.shape) == 2


def _is_float(value: Value) -> bool:
    return value.dtype is not None and value.dtype.is_float


def find_value(module: Module, name: str) -> Value:
    """The value that a hint names: an output, a value's own name, or what the last node of the layer called so gives ("stages.3"
    is the end of that stage). Raises UsageError with near names."""
    graph = module.signature.graph
    by_output = _slots(module, "outputs")
    if name in by_output:
        return by_output[name]
    by_hint: dict[str, Value] = {}
    by_layer: dict[str, Value] = {}
    for node in graph.nodes():
        for value in node.results:
            by_hint.setdefault(value.hint, value)
        for called in _names(node):
            by_layer[called] = node.results[0]
    found = by_hint.get(name) or by_layer.get(name)
    if found is None or not name:
        known = [n for n in (*by_output, *by_layer, *by_hint) if n]
        near = difflib.get_close_matches(name, known, 3)
        shown = ", ".join(map(clean, near or known[-_LISTED:]))
        raise UsageError(f"{module.name!r} has no value or layer {clean(name)!r}", hint=f"did you mean one of: {shown}")
    if not _is_float(found):
        raise UsageError(f"{clean(name)!r} is {found.type}: a hint compares float values")
    return found


def _names(node: Node) -> Iterator[str]:
    """What people call a layer: its weight's key, the source's scope, and every part of these that stands before a dot."""
    if node.results:
        for name in (layer_name(node), node.loc.scope, *(loc.scope for loc in node.loc.fused)):
            while name:
                yield name
                name = name.rpartition(".")[0]


def tapped(module: Module, values: Sequence[Value]) -> tuple[Module, list[str]]:
    """A clone of `module` (of its first signature) that also returns `values`, and the output that shows each of them. A value
    that is an output already keeps its name there."""
    clone = module.clone()
    signature = clone.signature
    graph = signature.graph
    twins = dict(zip(_values(module.signature.graph), _values(graph), strict=True))
    outputs, slots = list(graph.outputs), [Slot(slot.name) for slot in signature.outputs]
    taken, names = {slot.name for slot in slots}, []
    for index, value in enumerate(values):
        twin = twins.get(value) or clone.constant(clone.weights[value.weight.key])  # type: ignore[union-attr]
        if twin not in outputs:
            name = f"inner_{index}"
            while name in taken:
                name += "_"
            taken.add(name)
            outputs.append(twin)
            slots.append(Slot(name))
        names.append(slots[outputs.index(twin)].name)
    graph.set_outputs(outputs)
    signature.outputs, signature.state = slots, []
    clone.signatures = {signature.key: signature}
    signature.check()
    return clone, names


def _values(graph: Graph) -> Iterator[Value]:
    """The inputs and results of a graph; in the same order in a clone."""
    yield from graph.inputs
    for node in graph.nodes():
        yield from node.results
