"""Tensors: the data of weights. One protocol; data in memory, mapped from a file, splat, packed, strings or lazy.

A tensor never changes. `numpy()` gives a read-only array in the dtype's storage type, sub-byte types unpacked to one
element per byte; files hold little-endian bytes, sub-byte types packed with the first element in the lowest bits.
Evaluation of lazy tensors stands in `lazy`. Must not import the graph.
"""

from __future__ import annotations

import hashlib
import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from typing import Any, Protocol

import numpy as np

from .errors import InternalError, InvalidModel, Unsupported, clean
from .storage import MappedFile, check_limit
from .types import BOOL, STRING, DType

BLOCK = 16 << 20  # bytes that a streaming operation holds at once
_COPY = 1 << 20  # arrays of a caller up to this many bytes are copied, larger ones are shared


class ByteSink(Protocol):
    """What tensors are written to. A `skip(n)` method, where there is one, writes n zero bytes as a hole."""

    def write(self, data: Any, /) -> Any: ...


class Tensor(ABC):
    """An immutable dense array: `dtype`, `shape` (ints), `nbytes` in a file, and ways to get at the data."""

    __slots__ = ("_digest", "dtype", "shape")
    dtype: DType
    shape: tuple[int, ...]

    def __init__(self, dtype: DType, shape: Iterable[int]) -> None:
        self.dtype = dtype
        self.shape = checked_shape(shape)
        self._digest: bytes | None = None

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes in a file (sub-byte types packed; for strings the sum of their encoded lengths)."""
        return self.dtype.nbytes(self.size)

    @abstractmethod
    def numpy(self) -> np.ndarray:
        """The whole array, read-only, of `dtype.numpy`; a view of the data where there is one, else a copy."""

    def region(self, begin: tuple[int, ...], end: tuple[int, ...]) -> np.ndarray:
        """The elements begin[i] <= index[i] < end[i], read-only or fresh."""
        return self.numpy()[tuple(map(slice, begin, end))]

    def blocks(self, max_bytes: int = BLOCK) -> Iterator[np.ndarray]:
        """The elements in row-major order as flat arrays of at most `max_bytes` (at least one element) each."""
        for begin, end in row_major_boxes(self.shape, self.dtype.numpy.itemsize, max_bytes):
            yield np.ascontiguousarray(self.region(begin, end)).reshape(-1)

    def write(self, file: ByteSink) -> None:
        """Stream `nbytes` bytes. Unsupported for strings, which have no raw form."""
        for chunk in self._raw_chunks():
            file.write(chunk)

    def digest(self) -> bytes:
        """16 bytes (BLAKE2b) over dtype, shape and file bytes: equal for equal contents, however stored. Cached."""
        if self._digest is None:
            state = hashlib.blake2b(f"{self.dtype}{list(self.shape)}".encode(), digest_size=16)
            for chunk in self._raw_chunks():
                state.update(chunk)
            self._digest = state.digest()
        return self._digest

    def structure(self) -> bytes:
        """A digest of how the data is made that leaves large data alone: equal says equal contents, not the reverse."""
        return self.digest()

    def _raw_chunks(self) -> Iterator[Any]:
        blocks = self.blocks()
        if not self.dtype.is_packed:
            return (block.view(np.uint8).data for block in blocks)
        return _packed_chunks(blocks, self.dtype.bits)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = self.numpy()
        return array.astype(dtype, copy=bool(copy)) if dtype is not None or copy else array

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.dtype}{list(self.shape)}>"


class ArrayTensor(Tensor):
    """An array in memory. The caller gives the array away: it must not be written to afterwards."""

    __slots__ = ("_array",)

    def __init__(self, array: np.ndarray, dtype: DType | None = None) -> None:
        kind = dtype or DType.of(array.dtype)
        if kind is STRING:
            raise InvalidModel("strings belong in a StringTensor")
        if array.dtype != kind.numpy:
            array = array.astype(kind.numpy)  # another byte order or an exact change that the caller asked for
        array = np.asarray(array)  # of an operation on arrays without axes: a scalar
        array = (array if array.flags.c_contiguous else array.copy(order="C")).view()
        array.flags.writeable = False
        self._array = array
        super().__init__(kind, array.shape)

    def numpy(self) -> np.ndarray:
        return self._array

    def __reduce__(self) -> tuple[Any, ...]:
        return ArrayTensor, (self._array, self.dtype)


class _RawTensor(Tensor):
    """Data that is there as the bytes of a file."""

    __slots__ = ()

    @abstractmethod
    def _bytes(self) -> memoryview: ...

    def _check(self) -> None:
        have = len(self._bytes())
        if self.dtype is STRING or have != self.nbytes:
            raise InvalidModel(f"{have} bytes of data for {self.dtype}{list(self.shape)} (expected {self.nbytes})")
        if self.dtype is BOOL and have and np.frombuffer(self._bytes(), np.uint8).max() > 1:
            raise InvalidModel("a bool tensor holds a byte that is neither 0 nor 1")

    def numpy(self) -> np.ndarray:
        if self.dtype.is_packed:
            return _frozen(unpack(self._bytes(), self.dtype, self.size).reshape(self.shape))
        return _frozen(_aligned(np.frombuffer(self._bytes(), self.dtype.numpy)).reshape(self.shape))

    def region(self, begin: tuple[int, ...], end: tuple[int, ...]) -> np.ndarray:
        if self.dtype.is_packed:
            return super().region(begin, end)
        return np.frombuffer(self._bytes(), self.dtype.numpy).reshape(self.shape)[tuple(map(slice, begin, end))]

    def blocks(self, max_bytes: int = BLOCK) -> Iterator[np.ndarray]:
        per_byte = 8 // self.dtype.bits if self.dtype.is_packed else 1
        step = max(max_bytes // self.dtype.numpy.itemsize // per_byte, 1) * per_byte
        for start in range(0, self.size, step):
            count = min(step, self.size - start)
            span = self._bytes()[self.dtype.nbytes(start) : self.dtype.nbytes(start + count)]
            if self.dtype.is_packed:
                yield unpack(span, self.dtype, count)
            else:
                yield _aligned(np.frombuffer(span, self.dtype.numpy))

    def _raw_chunks(self) -> Iterator[Any]:
        if self.dtype.is_packed and self.size * self.dtype.bits % 8:
            return super()._raw_chunks()  # unused bits of the last byte become zero
        data = self._bytes()
        return (data[start : start + BLOCK] for start in range(0, len(data), BLOCK))


class MappedTensor(_RawTensor):
    """Bytes `offset .. offset + length` of a mapped file. Pickles as path, offset and length.

    Raises InvalidModel when the bytes are not in the file or are not what dtype and shape need. `write` checks first
    that the file did not change, and keeps its holes where the sink can `skip`.
    """

    __slots__ = ("file", "length", "offset")

    def __init__(self, file: MappedFile, offset: int, length: int, dtype: DType, shape: Iterable[int]) -> None:
        super().__init__(dtype, shape)
        self.file = file
        self.offset = operator.index(offset)
        self.length = operator.index(length)
        self._check()

    def _bytes(self) -> memoryview:
        return self.file.view(self.offset, self.length)

    def write(self, file: ByteSink) -> None:
        self.file.recheck()
        skip = getattr(file, "skip", None)
        if skip is None or self.size * self.dtype.bits % 8:
            super().write(file)
            return
        for is_data, offset, length in self.file.segments(self.offset, self.length):
            if not is_data:
                skip(length)
                continue
            for start in range(offset, offset + length, BLOCK):
                file.write(self.file.view(start, min(BLOCK, offset + length - start)))

    def structure(self) -> bytes:
        place = (*self.file.location, self.file.stamp, self.offset, self.length, self.dtype.name, self.shape)
        return hashlib.blake2b(repr(place).encode("utf-8", "surrogatepass"), digest_size=16).digest()

    def __reduce__(self) -> tuple[Any, ...]:
        return MappedTensor, (self.file, self.offset, self.length, self.dtype, self.shape)


class PackedTensor(_RawTensor):
    """Bytes in memory as a file holds them: 2- and 4-bit types packed, the first element in the lowest bits."""

    __slots__ = ("_data",)

    def __init__(self, data: Any, dtype: DType, shape: Iterable[int]) -> None:
        super().__init__(dtype, shape)
        self._data = memoryview(bytes(data))
        self._check()

    @staticmethod
    def pack(array: np.ndarray, dtype: DType | None = None) -> PackedTensor:
        """An array of a 2- or 4-bit type in a quarter or half of its bytes."""
        tensor = ArrayTensor(array, dtype)
        return PackedTensor(b"".join(tensor._raw_chunks()), tensor.dtype, tensor.shape)

    def _bytes(self) -> memoryview:
        return self._data

    def __reduce__(self) -> tuple[Any, ...]:
        return PackedTensor, (bytes(self._data), self.dtype, self.shape)


class SplatTensor(Tensor):
    """One value everywhere; never materialised by `write`. `value` is a scalar or an array of one element."""

    __slots__ = ("value",)

    def __init__(self, value: Any, dtype: DType, shape: Iterable[int]) -> None:
        super().__init__(dtype, shape)
        self.value = as_tensor(value, dtype).numpy().reshape(())
        if dtype is STRING:
            raise InvalidModel("strings belong in a StringTensor")

    def numpy(self) -> np.ndarray:
        return np.broadcast_to(self.value, self.shape)

    def write(self, file: ByteSink) -> None:
        skip = getattr(file, "skip", None)
        if skip is not None and not any(self.value.tobytes()):
            skip(self.nbytes)
        else:
            super().write(file)

    def structure(self) -> bytes:
        text = f"splat {self.dtype}{list(self.shape)} {self.value.tobytes().hex()}"
        return hashlib.blake2b(text.encode(), digest_size=16).digest()

    def __reduce__(self) -> tuple[Any, ...]:
        return SplatTensor, (self.value, self.dtype, self.shape)


class StringTensor(Tensor):
    """Strings (`str`, or `bytes` that are not UTF-8), as an object array."""

    __slots__ = ("_array",)

    def __init__(self, strings: Any, shape: Iterable[int] | None = None) -> None:
        array = np.array(strings, dtype=object)
        array = array if shape is None else array.reshape(checked_shape(shape))
        for item in array.flat:
            if not isinstance(item, str | bytes):
                raise InvalidModel(f"{clean(item)!r} is not a string")
        array.flags.writeable = False
        self._array = array
        super().__init__(STRING, array.shape)

    @property
    def nbytes(self) -> int:
        return sum(len(_encoded(item)) for item in self._array.flat)

    def numpy(self) -> np.ndarray:
        return self._array

    def write(self, file: ByteSink) -> None:
        raise Unsupported("a string tensor has no raw bytes", hint="write its elements one by one")

    def _raw_chunks(self) -> Iterator[bytes]:
        for item in self._array.flat:
            data = _encoded(item)
            yield len(data).to_bytes(8, "little") + data

    def __reduce__(self) -> tuple[Any, ...]:
        return StringTensor, (self._array.tolist(), self.shape)


class LazyTensor(Tensor):
    """A tensor still to be computed, as data: an op name, operand tensors, attributes. Prints, pickles, compares.

    `dtype` and `shape` may be left out for the ops that `lazy` knows. Evaluated by boxes where the op allows, else
    whole; the result is checked against dtype and shape. Chains deeper than 32 are evaluated when they are built.
    """

    __slots__ = ("attrs", "depth", "op", "operands")
    MAX_DEPTH = 32
    depth: int

    def __init__(
        self,
        op: str,
        operands: Iterable[Tensor],
        attrs: Mapping[str, Any] | None = None,
        dtype: DType | None = None,
        shape: Iterable[int] | None = None,
    ) -> None:
        from . import lazy

        operands = tuple(operands)
        depth = 1 + max((t.depth for t in operands if isinstance(t, LazyTensor)), default=0)
        if depth > self.MAX_DEPTH:
            operands, depth = tuple(ArrayTensor(t.numpy(), t.dtype) for t in operands), 1
        self.op = op
        self.operands = operands
        self.attrs = tuple(sorted((attrs or {}).items()))
        self.depth = depth
        if dtype is None or shape is None:
            dtype, shape = lazy.infer(op, operands, dict(self.attrs))
        super().__init__(dtype, shape)

    def numpy(self) -> np.ndarray:
        return _frozen(self.region((0,) * len(self.shape), self.shape))

    def region(self, begin: tuple[int, ...], end: tuple[int, ...]) -> np.ndarray:
        from . import lazy

        array = lazy.region(self.op, self.operands, dict(self.attrs), self.shape, begin, end)
        want = tuple(b - a for a, b in zip(begin, end, strict=True))
        if array.dtype != self.dtype.numpy or array.shape != want:
            raise InternalError(f"lazy {self.op} gave {array.dtype}{list(array.shape)}, not {self.dtype}{list(want)}")
        return array

    def blocks(self, max_bytes: int = BLOCK) -> Iterator[np.ndarray]:
        from . import lazy

        if lazy.by_boxes(self.op):
            return super().blocks(max_bytes)
        return ArrayTensor(self.numpy(), self.dtype).blocks(max_bytes)

    def structure(self) -> bytes:
        state = hashlib.blake2b(f"{self.op} {self.attrs!r} {self.dtype}{list(self.shape)}".encode(), digest_size=16)
        for operand in self.operands:
            state.update(operand.structure())
        return state.digest()

    def __repr__(self) -> str:
        attrs = "".join(f", {name}={value!r}" for name, value in self.attrs)
        return f"<lazy {self.op}({', '.join(map(repr, self.operands))}{attrs}) {self.dtype}{list(self.shape)}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return LazyTensor, (self.op, self.operands, dict(self.attrs), self.dtype, self.shape)


# ------------------------------------------------------------------------------------------------- helpers


def as_tensor(data: Any, dtype: DType | None = None) -> Tensor:
    """A tensor of a number, string, (nested) list, array or tensor.

    With `dtype` the data is converted to it; into an integer type only without change of value. Raises InvalidModel
    where that is not possible. A caller's writeable array is copied up to 1 MiB and shared above.
    """
    if isinstance(data, Tensor):
        return data if dtype in (None, data.dtype) else ArrayTensor(_converted(data.numpy(), dtype))
    array = np.asarray(data)
    if dtype is STRING or array.dtype.kind in "USO":
        return StringTensor(array.tolist() if array.ndim else [array.item()], array.shape)
    own = not isinstance(data, np.ndarray) or not array.flags.writeable or array.nbytes > _COPY
    converted = array if dtype is None else _converted(array, dtype)
    return ArrayTensor(converted.copy() if converted is data and not own else converted, dtype)


def reinterpret(tensor: Tensor, dtype: DType, shape: Iterable[int]) -> Tensor:
    """The bytes of `tensor` as another dtype and shape, mapped ones where they lie. Raises InvalidModel for a misfit."""
    if isinstance(tensor, MappedTensor):
        return MappedTensor(tensor.file, tensor.offset, tensor.length, dtype, shape)
    return PackedTensor(b"".join(tensor._raw_chunks()), dtype, shape)


def _converted(array: np.ndarray, dtype: DType) -> np.ndarray:
    if array.dtype == dtype.numpy:
        return array
    with np.errstate(all="ignore"):
        made = array.astype(dtype.numpy)
        if (dtype.is_int or dtype is BOOL) and not np.array_equal(made.astype(array.dtype), array):
            raise InvalidModel(f"the values do not fit into {dtype}")
    return made


def checked_shape(shape: Iterable[int]) -> tuple[int, ...]:
    """The shape of data as Python ints. InvalidModel for a negative dim, LimitExceeded for absurd ranks and dims."""
    dims = tuple([operator.index(dim) for dim in shape])
    check_limit("rank", len(dims), "tensor rank")
    if dims:
        if min(dims) < 0:
            raise InvalidModel(f"a tensor has the dimension {min(dims)}")
        check_limit("dim", max(dims), "dimension")
    check_limit("tensor_bytes", math.prod(dims), "number of elements")
    return dims


def row_major_boxes(
    shape: tuple[int, ...], itemsize: int, max_bytes: int
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Boxes (begin, end) that cover `shape` in row-major order, each contiguous there and at most `max_bytes` large."""
    if 0 in shape:
        return
    inner, axis = itemsize, len(shape)
    while axis and inner * shape[axis - 1] <= max_bytes:
        axis -= 1
        inner *= shape[axis]
    if not axis:
        yield (0,) * len(shape), shape
        return
    step, rest = max(max_bytes // inner, 1), shape[axis:]
    for outer in product(*map(range, shape[: axis - 1])):
        for start in range(0, shape[axis - 1], step):
            stop = min(start + step, shape[axis - 1])
            yield (*outer, start, *(0 for _ in rest)), (*(i + 1 for i in outer), stop, *rest)


def pack(array: np.ndarray, bits: int) -> np.ndarray:
    """Elements of a 2- or 4-bit type as packed bytes, the first in the lowest bits, the last byte filled with zeros."""
    per_byte = 8 // bits
    codes = array.reshape(-1).view(np.uint8) & ((1 << bits) - 1)
    padded = np.zeros(-(-len(codes) // per_byte) * per_byte, np.uint8)
    padded[: len(codes)] = codes
    columns = padded.reshape(-1, per_byte) << (np.arange(per_byte, dtype=np.uint8) * bits)
    return np.bitwise_or.reduce(columns, axis=1, dtype=np.uint8)


def unpack(data: Any, dtype: DType, count: int) -> np.ndarray:
    """The first `count` elements of packed bytes, as a flat array of `dtype.numpy`."""
    per_byte = 8 // dtype.bits
    packed = np.frombuffer(data, np.uint8)
    codes = (packed[:, None] >> (np.arange(per_byte, dtype=np.uint8) * dtype.bits)).reshape(-1)[:count]
    codes &= (1 << dtype.bits) - 1
    if dtype.kind == "int":  # sign extension
        half = 1 << (dtype.bits - 1)
        return ((codes ^ half).view(np.int8) - np.int8(half)).astype(dtype.numpy)
    return codes.view(dtype.numpy)


def _packed_chunks(blocks: Iterable[np.ndarray], bits: int) -> Iterator[memoryview]:
    per_byte = 8 // bits
    rest = np.zeros(0, np.uint8)
    for block in blocks:
        codes = np.concatenate([rest, block.view(np.uint8)])
        whole = len(codes) // per_byte * per_byte
        yield pack(codes[:whole], bits).data
        rest = codes[whole:]
    yield pack(rest, bits).data


def _frozen(array: np.ndarray) -> np.ndarray:
    if array.flags.writeable:
        array.flags.writeable = False
    return array


def _aligned(array: np.ndarray) -> np.ndarray:
    """Compiled kernels want aligned data; a file may hold it anywhere."""
    return array if array.flags.aligned else array.copy()


def _encoded(item: str | bytes) -> bytes:
    return item.encode("utf-8", "surrogatepass") if isinstance(item, str) else item
