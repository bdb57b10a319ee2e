"""Operators of domains that we don't know: one `opaque` node with everything that the file says of them."""

from __future__ import annotations

from typing import Any

from ...formats.onnx import tensors, views
from ...ir.errors import Unsupported
from ...ir.types import UNKNOWN, Type
from .importer import Call, Importer

OWN = ("domain", "op_type", "overload", "version", "types", "has", "gives", "graphs", "captures", "protos")


def lower(c: Importer, n: Call) -> Any:
    """The operator's attributes keep their names; one that the opaque op needs itself gets an underscore behind it."""
    attrs: dict[str, Any] = {
        "domain": n.node.domain,
        "op_type": n.node.op_type,
        "overload": n.node.overload,
        "version": n.opset,
        "types": tuple(c.declared(name, n.scope) or UNKNOWN for name in n.node.outputs),
    }
    _presence(n, attrs)
    present = [v for v in n.inputs if v is not None]
    graphs = [
        (f"{name}*" if isinstance(value, tuple) else name, graph)
        for name, value in n.attrs.items()
        for graph in _graphs_of(value)
    ]
    names = c.captures([graph for _, graph in graphs], n.scope)
    regions = []
    for _, graph in graphs:
        region, outputs = c.region(graph, n.scope, [_input_type(c, n, graph, name) for name in graph.inputs], names)
        region.set_outputs(outputs)
        regions.append(region)
    attrs["graphs"], attrs["captures"] = tuple(name for name, _ in graphs), len(names)
    attrs |= _attributes(c, n)
    captured = [c.lookup(name, n.scope) for name in names]
    return c.b.call("opaque", (*present, *captured), attrs, regions).results


def _presence(n: Call, attrs: dict[str, Any]) -> None:
    """Which operands and results are there, where not all are."""
    has, gives = tuple(v is not None for v in n.inputs), tuple(bool(name) for name in n.node.outputs)
    if not all(has):
        attrs["has"] = has
    if not all(gives):
        attrs["gives"] = gives


def _graphs_of(value: Any) -> tuple[views.Graph, ...]:
    if isinstance(value, views.Graph):
        return (value,)
    return value if isinstance(value, tuple) and value and isinstance(value[0], views.Graph) else ()


def _input_type(c: Importer, n: Call, graph: views.Graph, name: str) -> Type:
    """What the file says of an input of an attribute graph: nobody else knows. Names of dims say nothing in there."""
    from ...formats.onnx.types import type_of

    info = next(info for info in graph.proto.input if info.name == name)
    return type_of(info.type, None, n.label) or UNKNOWN


def _attributes(c: Importer, n: Call) -> dict[str, Any]:
    """The operator's attributes but for graphs; those that the IR has no words for as bytes."""
    protos = {a.name: a for a in n.node.proto.attribute if not a.ref_attr_name}
    made: dict[str, Any] = {}
    kept: list[bytes] = []
    for name, value in n.attrs.items():
        if _graphs_of(value):
            continue
        if _speakable(value):
            made[f"{name}_" if name.rstrip("_") in OWN else name] = _plain(c, n, value)
        elif name in protos:
            kept.append(_self_contained(c, n, protos[name]))
        else:
            raise Unsupported(f"attribute '{name}' of this kind comes from a function's caller", where=n.label)
    return {**made, "protos": tuple(kept)} if kept else made


def _speakable(value: Any) -> bool:
    """Numbers, strings, dense tensors, and lists of them that say what they are lists of."""
    if isinstance(value, tuple):
        return bool(value) and all(_speakable(v) and not isinstance(v, tuple) for v in value)
    return isinstance(value, (int, float, str, bytes)) or hasattr(value, "data_type")


def _plain(c: Importer, n: Call, value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_plain(c, n, v) for v in value)
    return c.tensor(value, n.label) if hasattr(value, "data_type") else value


def _self_contained(c: Importer, n: Call, attribute: Any) -> bytes:
    """The attribute's own bytes; sparse tensors with their parts inside, whatever file these are in."""
    import onnx

    made = onnx.AttributeProto()
    made.CopyFrom(attribute)
    for sparse in (*([made.sparse_tensor] if made.HasField("sparse_tensor") else ()), *made.sparse_tensors):
        for part in (sparse.values, sparse.indices):
            if part.data_location == onnx.TensorProto.EXTERNAL:
                part.CopyFrom(tensors.tensor_proto(part.name, c.tensor(part, n.label)))
    return made.SerializeToString(deterministic=True)
