"""Reads ONNX files, bytes and ModelProtos of every opset into modules. `onnx` is imported when called.

module = read("net.onnx")
module = read(model_proto, shapes={"image": (1, 3, 224, 224)})
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...ir.errors import AnyIRError, InvalidModel, UsageError, clean
from ...ir.types import TensorType

if TYPE_CHECKING:
    from onnx import ModelProto

    from ...ir.graph import Graph, Module, Value
    from .importer import Importer

SUFFIXES = (".onnx",)


def read(
    source: str | os.PathLike | bytes | ModelProto,
    *,
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    folder: str | os.PathLike | None = None,
) -> Module:
    """The model as a module with one signature, `serving_default`.

    `shapes` gives inputs other dims (numbers, or names for dynamic ones) than the file declares; `folder` is where
    external data of a ModelProto or of bytes lies. Types are inferred; what the file declares of inner values and
    outputs is only compared, and contradictions go into `module.diagnostics`.

    Raises InvalidModel (broken), Unsupported (all unknown operators in one message), LimitExceeded, SystemFailure.
    """
    from ...formats.onnx import container

    proto, path = container.load(source)
    if path is None and folder is not None:
        path = Path(folder) / "model.onnx"
    try:
        return _lower(proto, path, dict(shapes or {}))
    except AnyIRError as error:
        raise error.at(str(path)) if path is not None and not error.where.startswith(str(path)) else error from None


def _lower(proto: ModelProto, path: Path | None, shapes: dict[str, Any]) -> Module:
    from ...formats.onnx import views
    from ...ir.builder import Builder
    from ...ir.graph import Module, bulk
    from ...ir.verify import verify
    from .importer import Importer, Scope, check_declared

    model = views.view(proto)
    module = Module(clean(proto.graph.name))
    _metadata(module, model)
    with bulk():
        graph = module.add_graph("main")
        importer = Importer(model, path, module)
        importer.b = Builder(graph)
        inputs = _inputs(importer, graph, shapes)
        scope = Scope(opsets=model.opsets)
        outputs = importer.run(inputs, scope)
        graph.set_outputs(outputs)
    _take_declared_ranks(importer, outputs)
    module.drop_unused_weights()
    module.add_signature("serving_default", graph, list(inputs), [o.name for o in proto.graph.output])
    for info in (*proto.graph.value_info, *proto.graph.output):
        value = scope.values.get(info.name)
        if value is not None:
            check_declared(value, info, module)
    verify(module)
    return module


def _take_declared_ranks(importer: Importer, outputs: list[Value]) -> None:
    """Where inference knows nothing of an output's shape, its declaration counts, each dim for itself."""
    for value, info in zip(outputs, importer.model.proto.graph.output, strict=True):
        declared = importer.declared(info.name) if value.node is not None and value.rank is None else None
        if isinstance(declared, TensorType) and value.dtype in (None, declared.dtype) and declared.rank is not None:
            value.refine(declared)
            importer.module.diagnostics.append(f"output '{clean(info.name)}': the shape is taken from its declaration")


def _inputs(importer: Importer, graph: Graph, shapes: dict[str, Any]) -> dict[str, Any]:
    """Graph inputs but for those that are initializers, which are constants."""
    from ...formats.onnx.types import type_of

    model, module, dims = importer.model, importer.module, importer.dims
    inputs: dict[str, Any] = {}
    for info in model.proto.graph.input:
        name, where = info.name, f"input '{clean(info.name)}'"
        if not name:
            raise InvalidModel("a graph input has no name")
        if name in model.graph.initializers or name in model.graph.sparse:
            if model.proto.ir_version >= 4:
                module.diagnostics.append(f"{where} has a default value and is fixed to it")
            continue
        type_ = type_of(info.type, dims.of(name), where)
        if type_ is None:
            raise InvalidModel("the input has no type", where=where)
        inputs[name] = graph.add_input(_reshaped(type_, shapes.pop(name, None), where), name)
    if shapes:
        raise UsageError(
            f"no input is called {clean(next(iter(shapes)))!r}", hint=f"inputs: {', '.join(map(clean, inputs))}"
        )
    return inputs


def _reshaped(type_: Any, wanted: Sequence[int | str] | None, where: str) -> Any:
    from ...ir.dims import sym

    if wanted is None:
        return type_
    if type_.shape is not None and len(type_.shape) != len(wanted):
        raise UsageError(f"shape {list(wanted)} does not fit {type_}", where=where)
    return type_.with_shape(tuple(sym(d) if isinstance(d, str) else d for d in wanted))


def _metadata(module: Module, model: Any) -> None:
    """Producer, opsets, documentation and the user's own entries, as text."""
    from ...formats.onnx.container import text
    from ...formats.onnx.external import DIGEST_KEY

    proto = model.proto
    for domain, version in model.opsets.items():
        module.metadata[f"opset.{domain}"] = str(version)
    for key in ("producer_name", "producer_version", "domain", "doc_string"):
        if getattr(proto, key):
            module.metadata[f"onnx.{key}"] = text(getattr(proto, key), key)
    if proto.producer_name:
        module.metadata["producer"] = f"{proto.producer_name} {proto.producer_version}".strip()
    if proto.model_version:
        module.metadata["onnx.model_version"] = str(proto.model_version)
    if proto.graph.doc_string:
        module.metadata["onnx.graph_doc_string"] = text(proto.graph.doc_string, "doc_string")
    for entry in proto.metadata_props:
        if entry.key != DIGEST_KEY:
            module.metadata[f"user.{text(entry.key, 'metadata')}"] = text(entry.value, "metadata")


__all__ = ["SUFFIXES", "read"]
