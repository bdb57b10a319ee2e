"""Writes a ModelProto whose large tensors never enter it: the bytes of weights go from their tensors into the file.

`model` is a skeleton: initializer i of its graph has name, type and dims but no data. Field numbers: onnx.proto. Fields
are written in the order of their numbers, as protobuf itself does, so a small model's bytes are the same either way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...ir.errors import LimitExceeded
from ...ir.tensor import Tensor
from .tensors import raw_bytes, write_raw

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, TensorProto

ALIGNMENT = 4096
FILE_LIMIT = (1 << 31) - 1

_MODEL_GRAPH, _GRAPH_INITIALIZER, _TENSOR_RAW = 7, 5, 9
_GRAPH_HEAD = ("node", "name")  # fields 1 and 2, the only ones in front of the initializers
_TENSOR_HEAD = ("dims", "data_type", "name")
_MODEL_HEAD = ("ir_version", "producer_name", "producer_version", "domain", "model_version", "doc_string")


def varint(value: int) -> bytes:
    """Base-128 encoding, low groups first."""
    made = bytearray()
    while value > 127:
        made.append(value & 127 | 128)
        value >>= 7
    made.append(value)
    return bytes(made)


def _prefix(field: int, length: int) -> bytes:
    return varint(field << 3 | 2) + varint(length)


def _parts(message: Any, head: Sequence[str], skip: str) -> tuple[bytes, bytes]:
    """A message without field `skip`, cut in two where that field belongs."""
    first, second = type(message)(), type(message)()
    for descriptor, value in message.ListFields():
        if descriptor.name == skip:
            continue
        target = first if descriptor.name in head else second
        if hasattr(value, "MergeFrom"):
            getattr(target, descriptor.name).MergeFrom(value)
        else:
            setattr(target, descriptor.name, value)
    return tuple(part.SerializeToString(deterministic=True) for part in (first, second))  # type: ignore[return-value]


class Layout:
    """Where every byte of the model file goes, known before the first one is written.

    `inline[i]` is the tensor whose data follows initializer i, or None where the skeleton says it all.
    """

    def __init__(self, model: ModelProto, inline: Sequence[Tensor | None]) -> None:
        graph: GraphProto = model.graph
        self.model = _parts(model, _MODEL_HEAD, "graph")
        self.graph = _parts(graph, _GRAPH_HEAD, "initializer")
        self.tensors = [
            (*_tensor_parts(proto, tensor), tensor) for proto, tensor in zip(graph.initializer, inline, strict=True)
        ]
        self.graph_size = sum(map(len, self.graph)) + sum(self._field_size(*entry) for entry in self.tensors)
        self.size = sum(map(len, self.model)) + len(_prefix(_MODEL_GRAPH, self.graph_size)) + self.graph_size

    @staticmethod
    def _field_size(head: bytes, tail: bytes, tensor: Tensor | None) -> int:
        size = _tensor_size(head, tail, tensor)
        return len(_prefix(_GRAPH_INITIALIZER, size)) + size

    def write(self, file: Any) -> None:
        """Stream the model. LimitExceeded above 2 GiB, which no protobuf reader takes."""
        if self.size > FILE_LIMIT:
            raise LimitExceeded(
                f"the model file would have {self.size} bytes (protobuf ends at {FILE_LIMIT})",
                hint="write the weights into a file of their own",
            )
        file.write(self.model[0])
        file.write(_prefix(_MODEL_GRAPH, self.graph_size))
        file.write(self.graph[0])
        for head, tail, tensor in self.tensors:
            file.write(_prefix(_GRAPH_INITIALIZER, _tensor_size(head, tail, tensor)))
            file.write(head)
            if tensor is not None:
                write_raw(tensor, file)
            file.write(tail)
        file.write(self.graph[1])
        file.write(self.model[1])


def _tensor_parts(proto: TensorProto, tensor: Tensor | None) -> tuple[bytes, bytes]:
    """An initializer up to its data, and what stands behind the data."""
    if tensor is None:
        return proto.SerializeToString(deterministic=True), b""
    head, tail = _parts(proto, _TENSOR_HEAD, "raw_data")
    return head + _prefix(_TENSOR_RAW, raw_bytes(tensor)), tail


def _tensor_size(head: bytes, tail: bytes, tensor: Tensor | None) -> int:
    return len(head) + (0 if tensor is None else raw_bytes(tensor)) + len(tail)


def place(tensors: Sequence[Tensor], start: int) -> list[int]:
    """Offsets of tensors in an external data file, each at a page boundary (onnx.proto: so that it can be mapped)."""
    offsets = []
    for tensor in tensors:
        start = -(-start // ALIGNMENT) * ALIGNMENT
        offsets.append(start)
        start += raw_bytes(tensor)
    return offsets
