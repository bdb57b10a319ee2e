"""From a legalised module to files: skeleton in memory, weights streamed, everything in place at once or nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ...formats.onnx import external, stream, views
from ...formats.onnx.tensors import raw_bytes, tensor_proto, write_raw
from ...ir.errors import InternalError, InvalidModel, LimitExceeded, Unsupported, UsageError
from ...ir.graph import Module, bulk
from ...ir.signature import Signature
from ...ir.storage import OutputSet
from ...ir.tensor import Tensor
from .export import Export

if TYPE_CHECKING:
    from onnx import ModelProto

EXTERNAL_FROM = 1024  # smaller tensors (shapes, scales) stay in the model, where tools look at them


@bulk()
def write_legal(
    module: Module,
    path: str | os.PathLike,
    external_data: bool | None,
    signature: str | None,
    protect: Iterable[str | os.PathLike],
) -> list[str]:
    """Write what `legalize` made; returns the files, the model last."""
    export = _exported(module, signature)
    path = os.fspath(path)
    layout = stream.Layout(export.model, export.tensors)
    outside = layout.size > stream.FILE_LIMIT if external_data is None else external_data
    guarded = [*protect, *(file.path for file in module.files)]
    if not outside:
        with OutputSet(guarded) as out:
            layout.write(out.open(path, main=True))
        return [path]
    data_path = f"{path}.data"
    with OutputSet(guarded) as out:
        inside = _write_data(export, out.open(data_path), os.path.basename(data_path))
        stream.Layout(export.model, inside).write(out.open(path, main=True))
    return [data_path, path]


@bulk()
def proto_of_legal(module: Module, signature: str | None) -> ModelProto:
    """The whole model in one protobuf."""
    export = _exported(module, signature)
    total = sum(raw_bytes(t) for t in export.tensors if t is not None)
    if total > stream.FILE_LIMIT:
        raise LimitExceeded(
            f"{total} bytes of weights do not fit into a protobuf", hint="write a file with external data"
        )
    for proto, tensor in zip(export.model.graph.initializer, export.tensors, strict=True):
        if tensor is not None:
            proto.raw_data = tensor_proto("", tensor).raw_data
    return export.model


def _exported(module: Module, key: str | None) -> Export:
    export = Export(module, _signature(module, key), int(module.metadata["opset."]))
    _check(export.build())
    return export


def _signature(module: Module, key: str | None) -> Signature:
    """ONNX has one entry point."""
    if key is None:
        if len(module.signatures) != 1:
            names = ", ".join(module.signatures) or "none"
            raise Unsupported(f"ONNX has one entry point, the module has {names}", hint="choose a signature")
        return module.signature
    if key not in module.signatures:
        raise UsageError(f"no signature is called {key!r}", hint=f"there are: {', '.join(module.signatures)}")
    return module.signatures[key]


def _check(model: ModelProto) -> None:
    """Our own reader's structural rules hold for what is about to be written."""
    try:
        views.view(model)
    except (InvalidModel, Unsupported) as error:
        raise InternalError(f"the ONNX model that was made is not valid: {error}") from error


def _write_data(export: Export, file: Any, name: str) -> list[Tensor | None]:
    """Stream the large tensors, equal ones once, and point their initializers at them; returns what stays inside."""
    inside = list(export.tensors)
    large = [i for i, t in enumerate(inside) if t is not None and raw_bytes(t) >= EXTERNAL_FROM]
    first: dict[Any, int] = {}
    keys = {i: _contents(inside[i]) for i in large}  # type: ignore[arg-type]
    unique = [i for i in large if first.setdefault(keys[i], i) == i]
    offsets = dict(zip(unique, stream.place([inside[i] for i in unique], external.HEADER), strict=True))  # type: ignore[misc]
    sink = external.Sink(file)
    sink.begin(external.HEADER)
    for i in unique:
        sink.begin(offsets[i])
        write_raw(inside[i], sink)  # type: ignore[arg-type]
    external.write_header(file, sink.digest())
    entry = export.model.metadata_props.add()
    entry.key, entry.value = external.DIGEST_KEY, sink.digest()
    for i in large:
        external.point(export.model.graph.initializer[i], name, offsets[first[keys[i]]], raw_bytes(inside[i]))  # type: ignore[arg-type]
        inside[i] = None
    return inside


def _contents(tensor: Tensor) -> Any:
    """A key that is equal only for equal bytes, found without reading large data."""
    return tensor.dtype, tensor.shape, tensor.structure()
