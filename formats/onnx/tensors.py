"""TensorProto to Tensor, every declared size compared with what is there before anything is allocated.

Layout of each element type: onnx.proto, comments of TensorProto. External data is opened by `storage.open_beside` and
stays mapped; nothing of it is read here.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...ir import types as t
from ...ir.errors import InvalidModel, Unsupported, clean
from ...ir.storage import MappedFile, check_limit, checked_range, open_beside, parse_count
from ...ir.tensor import ArrayTensor, MappedTensor, PackedTensor, StringTensor, Tensor, as_tensor, unpack
from . import dtypes
from .container import text

if TYPE_CHECKING:
    from onnx import SparseTensorProto, TensorProto

_INT64_MAX = (1 << 63) - 1
#: How elements lie in a file.
_LITTLE = {d: d.numpy.newbyteorder("<") if d.numpy.isbuiltin == 1 else d.numpy for d in dtypes.TO_CODE}


def read(proto: TensorProto, path: Path | None, where: str) -> tuple[Tensor, MappedFile | None]:
    """The tensor of a proto, and the file that it is mapped from, if any. `path` is the model's own.

    Raises InvalidModel (sizes, fields or locations that do not fit), Unsupported and LimitExceeded.
    """
    dtype, shape, count = header(proto, where)
    if proto.data_location == 1:
        return _external(proto, path, dtype, shape, count, where)
    if proto.external_data:
        raise InvalidModel("external_data is given, but data_location says the data is inside", where=where)
    if dtype is t.STRING:
        return StringTensor(_strings(proto, count, where), shape), None
    if proto.HasField("raw_data"):
        _only(proto, None, where)
        if dtype.is_packed:
            return _packed(proto.raw_data, dtype, shape, count, where), None
        return ArrayTensor(from_raw(proto.raw_data, dtype, count, where).reshape(shape), dtype), None
    return ArrayTensor(_typed(proto, dtype, count, where).reshape(shape), dtype), None


def header(proto: TensorProto, where: str) -> tuple[t.DType, tuple[int, ...], int]:
    """Element type, shape and element count, computed in Python ints and within the limits."""
    dtype = dtypes.from_code(proto.data_type, where)
    if proto.HasField("segment"):
        raise Unsupported("tensors stored in segments cannot be read", where=where)
    shape = tuple(proto.dims)
    check_limit("rank", len(shape), "rank", where)
    count = 1
    for dim in shape:
        if dim < 0:
            raise InvalidModel(f"dimension {dim} is negative", where=where)
        count *= dim
    if max(count, dtypes.file_bytes(dtype, count)) > _INT64_MAX:
        raise InvalidModel(f"{count} elements are more than any file can hold", where=where)
    return dtype, shape, count


def densify(proto: SparseTensorProto, path: Path | None, where: str) -> Tensor:
    """A sparse tensor with its zeros written out; indices are linear or one row of coordinates per value, sorted."""
    values, _ = read(proto.values, path, where)
    indices, _ = read(proto.indices, path, where)
    shape = tuple(proto.dims)
    count = 1
    for dim in shape:
        if dim < 0:
            raise InvalidModel(f"dimension {dim} is negative", where=where)
        count *= dim
    check_limit("rank", len(shape), "rank", where)
    check_limit("fold_total_bytes", count * max(values.dtype.numpy.itemsize, 1), "bytes of a dense tensor", where)
    nnz = values.shape[0] if len(values.shape) == 1 else -1
    if nnz < 0 or indices.dtype is not t.I64 or tuple(indices.shape) not in ((nnz,), (nnz, len(shape))):
        raise InvalidModel("values and indices of a sparse tensor do not fit together", where=where)
    linear = _linear(indices.numpy(), shape, where)
    if nnz and (int(linear.min()) < 0 or int(linear.max()) >= count or not (np.diff(linear) > 0).all()):
        raise InvalidModel("sparse indices are out of range, repeated or not sorted", where=where)
    dense = np.full(count, "", object) if values.dtype is t.STRING else np.zeros(count, values.dtype.numpy)
    dense[linear] = values.numpy()
    return as_tensor(dense.reshape(shape), values.dtype)


def _linear(indices: np.ndarray, shape: tuple[int, ...], where: str) -> np.ndarray:
    if indices.ndim == 1:
        return indices
    if indices.size and ((indices < 0) | (indices >= np.asarray(shape))).any():
        raise InvalidModel("a sparse index is out of range", where=where)
    linear = np.zeros(indices.shape[0], np.int64)
    for axis, dim in enumerate(shape):
        linear = linear * dim + indices[:, axis]
    return linear


def _only(proto: TensorProto, field: str | None, where: str) -> None:
    """No data field but `field` may hold anything."""
    if field is None and not (
        proto.float_data or proto.int32_data or proto.string_data
        or proto.int64_data or proto.double_data or proto.uint64_data
    ):  # fmt: skip
        return
    for name in dtypes.FIELDS:
        if name != field and len(getattr(proto, name)):
            raise InvalidModel(
                f"data lies in {name}" + (f", expected in {field}" if field else " and in raw_data"), where=where
            )


def _strings(proto: TensorProto, count: int, where: str) -> list[str | bytes]:
    """The strings; what is not UTF-8 stays bytes."""
    _only(proto, "string_data", where)
    if proto.HasField("raw_data"):
        raise InvalidModel("strings cannot lie in raw_data", where=where)
    if len(proto.string_data) != count:
        raise InvalidModel(f"{len(proto.string_data)} strings, the shape needs {count}", where=where)
    return [_text(raw) for raw in proto.string_data]


def _text(raw: bytes) -> str | bytes:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def _packed(raw: bytes, dtype: t.DType, shape: tuple[int, ...], count: int, where: str) -> Tensor:
    if len(raw) != dtype.nbytes(count):
        raise InvalidModel(f"the data has {len(raw)} bytes, the shape needs {dtype.nbytes(count)}", where=where)
    return PackedTensor(raw, dtype, shape)


def _typed(proto: TensorProto, dtype: t.DType, count: int, where: str) -> np.ndarray:
    """Elements from the typed field of `dtype`; narrow integers and bit patterns must be in range."""
    field, storage = dtypes.TYPED_FIELD[proto.data_type]
    _only(proto, field, where)
    values = getattr(proto, field)
    packed = dtype.is_packed
    entries = dtype.nbytes(count) if packed else count * (2 if dtype.kind == "complex" else 1)
    if len(values) != entries:
        raise InvalidModel(f"{field} has {len(values)} entries, the shape needs {entries}", where=where)
    array = np.asarray(values, storage)
    if field in ("float_data", "double_data", "int64_data"):
        return array.view(dtype.numpy.newbyteorder("<")).astype(dtype.numpy, copy=False)
    if packed:
        return unpack(_ranged(array, 0, 255, where).astype(np.uint8), dtype, count)
    if dtype.is_int or dtype is t.BOOL:
        low, high = (0, 1) if dtype is t.BOOL else _limits(dtype)
        return _ranged(array, low, high, where).astype(dtype.numpy)
    bits = dtypes.file_bits(dtype)
    carrier = np.uint16 if bits == 16 else np.uint8
    return _ranged(array, 0, (1 << bits) - 1, where).astype(carrier).view(dtype.numpy)


def _limits(dtype: t.DType) -> tuple[int, int]:
    if dtype.kind == "uint":
        return 0, (1 << dtype.bits) - 1
    return -(1 << (dtype.bits - 1)), (1 << (dtype.bits - 1)) - 1


def _ranged(array: np.ndarray, low: int, high: int, where: str) -> np.ndarray:
    if array.size and (int(array.min()) < low or int(array.max()) > high):
        raise InvalidModel(f"an entry is out of range {low}..{high}", where=where)
    return array


def from_raw(raw: Any, dtype: t.DType, count: int, where: str) -> np.ndarray:
    """Elements of a type of whole bytes, or of six bits, from little-endian bytes."""
    wanted = dtypes.file_bytes(dtype, count)
    if len(raw) != wanted:
        raise InvalidModel(f"the data has {len(raw)} bytes, the shape needs {wanted}", where=where)
    if dtype in dtypes.SIX_BIT:
        return unpack_six(np.frombuffer(raw, np.uint8), count).view(dtype.numpy)
    if dtype is t.BOOL:
        return _ranged(np.frombuffer(raw, np.uint8), 0, 1, where).view(np.bool_)
    return np.frombuffer(raw, _LITTLE[dtype])


def unpack_six(raw: np.ndarray, count: int) -> np.ndarray:
    """6-bit codes from a bit stream, four in three bytes, low bits first."""
    bits = np.unpackbits(raw, bitorder="little")[: 6 * count].reshape(count, 6)
    return np.packbits(bits, axis=1, bitorder="little").reshape(count)


def pack_six(array: np.ndarray) -> np.ndarray:
    """The bit stream of 6-bit codes."""
    codes = array.reshape(-1).view(np.uint8)
    return np.packbits(np.unpackbits(codes[:, None], axis=1, bitorder="little")[:, :6].reshape(-1), bitorder="little")


def _external(
    proto: TensorProto, path: Path | None, dtype: t.DType, shape: tuple[int, ...], count: int, where: str
) -> tuple[Tensor, MappedFile | None]:
    """A tensor mapped from the file beside the model. The one place where external data is looked at."""
    entries: dict[str, str] = {}
    for entry in proto.external_data:
        if text(entry.key, where) in entries:
            raise InvalidModel(f"external_data has two entries '{clean(entry.key)}'", where=where)
        entries[entry.key] = text(entry.value, where)
    _only(proto, None, where)
    if dtype is t.STRING or proto.HasField("raw_data"):
        raise InvalidModel("strings, and tensors with raw_data, cannot have external data", where=where)
    if "location" not in entries:
        raise InvalidModel("external data without a location", where=where)
    if path is None:
        raise InvalidModel(
            "external data of a model that is no file", where=where, hint="pass the model's path, or `folder`"
        )
    wanted = dtypes.file_bytes(dtype, count)
    offset = parse_count(entries["offset"], "offset", where) if "offset" in entries else 0
    length = parse_count(entries["length"], "length", where) if "length" in entries else wanted
    if length != wanted:
        raise InvalidModel(f"external data of {length} bytes, the shape needs {wanted}", where=where)
    try:
        file = open_beside(path, entries["location"])
    except InvalidModel as error:
        raise error.at(where) from None
    checked_range(offset, length, file.size, "external data", where)
    if dtype in dtypes.SIX_BIT:
        return ArrayTensor(from_raw(file.view(offset, length), dtype, count, where).reshape(shape), dtype), file
    return MappedTensor(file, offset, wanted, dtype, shape), file


def fill_header(proto: TensorProto, name: str, tensor: Tensor) -> None:
    """Name, type and dims, without data."""
    proto.name = name
    proto.data_type = dtypes.TO_CODE[tensor.dtype]
    proto.dims.extend(tensor.shape)


def fill_strings(proto: TensorProto, tensor: Tensor) -> None:
    """The elements of a string tensor, which have no raw form."""
    for item in tensor.numpy().reshape(-1):
        proto.string_data.append(item.encode() if isinstance(item, str) else item)


def raw_bytes(tensor: Tensor) -> int:
    """Bytes of the tensor's `raw_data`."""
    return dtypes.file_bytes(tensor.dtype, tensor.size)


def write_raw(tensor: Tensor, file: Any) -> None:
    """Stream the tensor's `raw_data`."""
    if tensor.dtype in dtypes.SIX_BIT:
        file.write(pack_six(tensor.numpy()).data)
    else:
        tensor.write(file)


def tensor_proto(name: str, tensor: Tensor) -> TensorProto:
    """A TensorProto with its data inside: for what is small."""
    import onnx

    proto = onnx.TensorProto()
    fill_header(proto, name, tensor)
    if tensor.dtype is t.STRING:
        fill_strings(proto, tensor)
    else:
        data = io.BytesIO()
        write_raw(tensor, data)
        proto.raw_data = data.getvalue()
    return proto
