"""What a file says beside the computation, into the module's metadata: see formats/onnx/notes.py."""

from __future__ import annotations

from typing import Any

from ...formats.onnx import notes, views
from ...formats.onnx.container import text
from ...formats.onnx.external import DIGEST_KEY
from ...ir.graph import Module


def describe(module: Module, model: views.Model, *, keep_functions: bool) -> None:
    """Producer, opsets, documentation, properties, annotations and the user's own entries, as text."""
    proto, metadata = model.proto, module.metadata
    for domain, version in model.opsets.items():
        metadata[f"opset.{domain}"] = str(version)
    for key in ("producer_name", "producer_version", "domain", "doc_string"):
        if getattr(proto, key):
            metadata[f"onnx.{key}"] = text(getattr(proto, key), key)
    if proto.producer_name:
        metadata["producer"] = f"{proto.producer_name} {proto.producer_version}".strip()
    if proto.model_version:
        metadata["onnx.model_version"] = str(proto.model_version)
    for entry in proto.metadata_props:
        if entry.key != DIGEST_KEY:
            metadata[f"user.{text(entry.key, 'metadata')}"] = text(entry.value, "metadata")
    entries = {
        "graph": notes.beside(proto.graph, "graph"),
        **_values(_graphs(model.graph)),
        "quantization": notes.quantization(proto.graph),
        "configuration": notes.configurations(proto),
        "functions": _functions(model) if keep_functions else {},
    }
    for key, entry in entries.items():
        if entry:
            metadata[f"onnx.{key}"] = notes.dump(entry)
    _dropped(module, model)


def _graphs(top: views.Graph) -> list[views.Graph]:
    """A graph and all graphs inside it."""
    found = [top]
    for graph in found:
        found += [inner for node in graph.nodes for inner in node.graphs()]
    return found


def _values(graphs: list[views.Graph]) -> dict[str, Any]:
    """The notes on values and initializers by name (the first one, where graphs beside each other share a name)."""
    values: dict[str, notes.Beside] = {}
    tensors: dict[str, notes.Beside] = {}
    declared: dict[str, None] = {}
    for graph in graphs:
        proto: Any = graph.proto
        declared |= dict.fromkeys(text(info.name, "value_info") for info in proto.value_info)
        infos = [*proto.value_info]
        if hasattr(proto, "initializer"):
            infos += [*proto.input, *proto.output]
            for tensor in (*proto.initializer, *(sparse.values for sparse in proto.sparse_initializer)):
                _add(tensors, tensor.name, notes.beside(tensor, "an initializer"))
        for info in infos:
            _add(values, info.name, notes.of_value(info, "value_info"))
    return {"values": values, "value_info": list(declared), "tensors": tensors}


def _add(table: dict[str, notes.Beside], name: str, found: notes.Beside) -> None:
    if found:
        table.setdefault(text(name, "a name"), found)


def _functions(model: views.Model) -> dict[str, Any]:
    made = {}
    for key, function in model.functions.items():
        entry = notes.beside(function.body.proto, f"function {key[1]}")
        entry |= {name: found for name, found in _values(_graphs(function.body)).items() if found}
        if entry:
            made[notes.function_key(key)] = entry
    return made


def _dropped(module: Module, model: views.Model) -> None:
    """Say what is not kept."""
    proto = model.proto
    if proto.training_info:
        module.diagnostics.append(f"training_info is left out ({len(proto.training_info)} entries)")
    called = {
        (node.domain, node.op_type, node.overload)
        for top in (model.graph, *(f.body for f in model.functions.values()))
        for graph in _graphs(top)
        for node in graph.nodes
    }
    idle = ["::".join(key[:2]) for key in model.functions if key not in called]
    if idle:
        module.diagnostics.append(f"functions that are never called are left out: {', '.join(idle[:20])}")
