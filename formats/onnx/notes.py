"""What a model says beside its computation: documentation, properties, denotations, device configurations, annotations.

A node's notes are pairs of key and text that travel with its origin; everything else is one JSON text per kind in the
module's metadata, values and tensors by name. A reader makes these and a writer restores them where what they are about is
written. No IR graph here.

    onnx.graph          {"doc_string", "metadata_props"} of the main graph
    onnx.values         name -> {"doc_string", "metadata_props", "denotation", "dims"} of inputs, outputs and inner values
    onnx.value_info     names of the inner values whose types the source states
    onnx.tensors        name -> {"doc_string", "metadata_props"} of initializers
    onnx.quantization   name -> {parameter: [name of its tensor, the tensor as hexadecimal bytes]}
    onnx.configuration  device configurations: [name, number of devices, names of devices]
    onnx.functions      "domain::name:overload" -> {"doc_string", "metadata_props", "values", "value_info"}
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ...ir.archive import parse_json
from ...ir.errors import InvalidModel, clean
from .container import text

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TypeProto

Pairs = tuple[tuple[str, str], ...]
Beside = dict[str, Any]

_DOC, _PROP, _DEVICE = "doc_string", "prop.", "device"


def dump(value: Any) -> str:
    """JSON in one spelling."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def parse(metadata: dict[str, str], key: str, kind: type) -> Any:
    """The value of a metadata entry, empty when there is none. Raises InvalidModel when it is not of this kind."""
    written = metadata.get(key)
    if written is None:
        return kind()
    value = parse_json(written.encode("utf-8", "surrogatepass"), "metadata", where=key, limit_name="file_bytes")
    if not isinstance(value, kind):
        raise InvalidModel(f"metadata '{key}' is no JSON {kind.__name__}")
    return value


def properties(entries: Iterable[Any], where: str) -> list[tuple[str, str]]:
    """metadata_props as pairs."""
    return [(text(entry.key, where), text(entry.value, where)) for entry in entries]


def fill_properties(entries: Any, pairs: Iterable[Any]) -> None:
    for key, value in pairs:
        entry = entries.add()
        entry.key, entry.value = str(key), str(value)


# ------------------------------------------------------------------------------------------------------- nodes


def of_node(node: NodeProto, graphs: Iterable[tuple[str, GraphProto]]) -> Pairs:
    """The notes of a node and of the graphs that are its attributes."""
    pairs = list(_described(node, ""))
    pairs += [(_DEVICE, c.SerializeToString(deterministic=True).hex()) for c in node.device_configurations]
    for name, graph in graphs:
        pairs += _described(graph, f"{name}:")
    return tuple(pairs)


def _described(proto: Any, prefix: str) -> Iterable[tuple[str, str]]:
    if proto.doc_string:
        yield f"{prefix}{_DOC}", text(proto.doc_string, "a doc_string")
    for key, value in properties(proto.metadata_props, "metadata_props"):
        yield f"{prefix}{_PROP}{key}", value


def fill(proto: Any, notes: Pairs, prefix: str = "") -> None:
    """Documentation and properties of a node, or of its attribute graph under its prefix `name:`."""
    for key, value in notes:
        if key == f"{prefix}{_DOC}":
            proto.doc_string = value
        elif key.startswith(f"{prefix}{_PROP}"):
            fill_properties(proto.metadata_props, [(key.removeprefix(f"{prefix}{_PROP}"), value)])


def fill_devices(node: NodeProto, notes: Pairs) -> None:
    """Device configurations; of the sharding those parts that are about values which the node still has."""
    for key, value in notes:
        if key != _DEVICE:
            continue
        made = node.device_configurations.add()
        try:
            made.ParseFromString(bytes.fromhex(value))
        except Exception as error:  # protobuf's own class depends on its implementation
            raise InvalidModel(f"a device configuration cannot be read: {clean(error)}") from None
        kept = [spec for spec in made.sharding_spec if spec.tensor_name in (*node.input, *node.output)]
        del made.sharding_spec[:]
        made.sharding_spec.extend(kept)


# ------------------------------------------------------------------------------------- graphs, values, tensors


def beside(proto: Any, where: str) -> Beside:
    """Documentation and properties; only what is there."""
    made: Beside = {}
    if proto.doc_string:
        made[_DOC] = text(proto.doc_string, where)
    if proto.metadata_props:
        made["metadata_props"] = properties(proto.metadata_props, where)
    return made


def of_value(info: Any, where: str) -> Beside:
    """The same of a value, and what its type and dims are said to mean."""
    made = beside(info, where)
    if info.type.denotation:
        made["denotation"] = text(info.type.denotation, where)
    dims = [text(dim.denotation, where) for dim in _dims(info.type)]
    if any(dims):
        made["dims"] = dims
    return made


def _dims(proto: TypeProto) -> Iterable[Any]:
    return proto.tensor_type.shape.dim if proto.HasField("tensor_type") else ()


def restore(proto: Any, found: Any) -> None:
    """Give a graph, function, tensor or value what `beside` or `of_value` found. Raises InvalidModel."""
    if not found:
        return
    if not isinstance(found, dict) or not _well_formed(found):
        raise InvalidModel(f"metadata of '{clean(proto.name)}' is malformed")
    if _DOC in found:
        proto.doc_string = found[_DOC]
    fill_properties(proto.metadata_props, found.get("metadata_props", ()))
    if "denotation" in found:
        proto.type.denotation = found["denotation"]
    dims = found.get("dims", ())
    if dims and len(dims) == len(list(_dims(proto.type))):
        for dim, meaning in zip(_dims(proto.type), dims, strict=True):
            if meaning:
                dim.denotation = meaning


def _well_formed(found: Beside) -> bool:
    props, dims = found.get("metadata_props", []), found.get("dims", [])
    texts = [found.get(_DOC, ""), found.get("denotation", "")]
    if not isinstance(props, list) or not isinstance(dims, list):
        return False
    pairs = all(isinstance(p, list) and len(p) == 2 for p in props)
    return pairs and all(isinstance(t, str) for t in [*texts, *dims, *(part for p in props for part in p)])


# ------------------------------------------------------------------------------------------------------ models


def configurations(model: ModelProto) -> list[tuple[str, int, list[str]]]:
    """The model's device configurations."""
    where = "configuration"
    return [(text(c.name, where), c.num_devices, [text(d, where) for d in c.device]) for c in model.configuration]


def fill_configurations(model: ModelProto, found: list[Any]) -> None:
    """Raises InvalidModel for what `configurations` did not make."""
    for entry in found:
        fits = isinstance(entry, list) and len(entry) == 3 and isinstance(entry[0], str) and type(entry[1]) is int
        if not fits or not isinstance(entry[2], list) or not all(isinstance(d, str) for d in entry[2]):
            raise InvalidModel("metadata 'onnx.configuration' is malformed")
        made = model.configuration.add()
        made.name, made.num_devices = entry[0], entry[1]
        made.device.extend(entry[2])


def quantization(graph: GraphProto) -> dict[str, dict[str, list[str]]]:
    """Quantisation annotations; the parameters' tensors go along, because no node may use them."""
    stored = {tensor.name: tensor for tensor in graph.initializer}
    made: dict[str, dict[str, list[str]]] = {}
    for annotation in graph.quantization_annotation:
        entry = made.setdefault(text(annotation.tensor_name, "an annotation"), {})
        for key, name in properties(annotation.quant_parameter_tensor_names, "an annotation"):
            tensor = stored.get(name)
            inside = tensor is not None and tensor.data_location == 0
            entry[key] = [name, tensor.SerializeToString(deterministic=True).hex() if inside else ""]  # type: ignore[union-attr]
    return made


def function_key(key: tuple[str, str, str]) -> str:
    """How `onnx.functions` names a function."""
    return f"{key[0]}::{key[1]}:{key[2]}"


def member(table: dict[str, Any], key: str, kind: type) -> Any:
    """An entry of metadata, empty when there is none. Raises InvalidModel when it is not of this kind."""
    found: Any = table.get(key, kind())
    names: Any = found if kind is list else ()
    if not isinstance(found, kind) or not all(isinstance(item, str) for item in names):
        raise InvalidModel(f"metadata '{clean(key)}' is malformed")
    return found


def parameters(found: Any) -> Iterable[tuple[str, str, bytes]]:
    """Key, tensor name and tensor of each parameter that `quantization` found. Raises InvalidModel."""
    try:
        return [(key, str(name), bytes.fromhex(data)) for key, (name, data) in found.items()]
    except (AttributeError, TypeError, ValueError):
        raise InvalidModel("metadata 'onnx.quantization' is malformed") from None
