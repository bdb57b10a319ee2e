"""Dtypes and value types: interned, frozen, compared by identity.

Dtypes cover everything that ONNX has; storage is numpy or ml_dtypes. Interning makes `a is b` the type comparison, so
memo tables and use lists never compare shapes element by element.
"""

from __future__ import annotations

import math
from typing import ClassVar

import ml_dtypes
import numpy as np

from .dims import Dim, Expr, dim_eq, symbols
from .errors import InvalidModel
from .expr import ANONYMOUS
from .storage import check_limit, limit


class DType:
    """An element type. `numpy` is its storage type; sub-byte types are stored unpacked, one element per byte."""

    __slots__ = ("bits", "kind", "name", "numpy")
    _by_name: ClassVar[dict[str, DType]] = {}
    _by_numpy: ClassVar[dict[np.dtype, DType]] = {}

    def __init__(self, name: str, storage: object, bits: int, kind: str) -> None:
        self.name = name
        self.numpy = np.dtype(storage)  # type: ignore[call-overload]
        self.bits = bits
        self.kind = kind
        DType._by_name[name] = self
        DType._by_numpy.setdefault(self.numpy, self)

    @staticmethod
    def of(source: object) -> DType:
        """The dtype of a numpy dtype (or anything that numpy turns into one). Raises InvalidModel if there is none."""
        storage = np.dtype(source)  # type: ignore[call-overload]
        if storage.kind in "US":
            return STRING
        found = DType._by_numpy.get(storage.newbyteorder("="))
        if found is None:
            raise InvalidModel(f"numpy dtype {storage} has no IR dtype")
        return found

    @property
    def is_float(self) -> bool:
        return self.kind == "float"

    @property
    def is_int(self) -> bool:
        return self.kind in ("int", "uint")

    @property
    def is_signed(self) -> bool:
        return self.kind in ("int", "float")

    @property
    def is_numeric(self) -> bool:
        return self.kind in ("int", "uint", "float", "complex")

    @property
    def is_packed(self) -> bool:
        """Stored with several elements in one byte by file formats (2- and 4-bit types)."""
        return self.bits in (2, 4)

    def nbytes(self, count: int) -> int:
        """Bytes of `count` elements in a file."""
        return (count * self.bits + 7) // 8

    def __repr__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple:
        return dtype, (self.name,)


BOOL = DType("bool", np.bool_, 8, "bool")
I2 = DType("i2", ml_dtypes.int2, 2, "int")
I4 = DType("i4", ml_dtypes.int4, 4, "int")
I8 = DType("i8", np.int8, 8, "int")
I16 = DType("i16", np.int16, 16, "int")
I32 = DType("i32", np.int32, 32, "int")
I64 = DType("i64", np.int64, 64, "int")
U2 = DType("u2", ml_dtypes.uint2, 2, "uint")
U4 = DType("u4", ml_dtypes.uint4, 4, "uint")
U8 = DType("u8", np.uint8, 8, "uint")
U16 = DType("u16", np.uint16, 16, "uint")
U32 = DType("u32", np.uint32, 32, "uint")
U64 = DType("u64", np.uint64, 64, "uint")
F4E2M1 = DType("f4e2m1", ml_dtypes.float4_e2m1fn, 4, "float")
F6E2M3 = DType("f6e2m3", ml_dtypes.float6_e2m3fn, 8, "float")
F6E3M2 = DType("f6e3m2", ml_dtypes.float6_e3m2fn, 8, "float")
F8E4M3FN = DType("f8e4m3fn", ml_dtypes.float8_e4m3fn, 8, "float")
F8E4M3FNUZ = DType("f8e4m3fnuz", ml_dtypes.float8_e4m3fnuz, 8, "float")
F8E5M2 = DType("f8e5m2", ml_dtypes.float8_e5m2, 8, "float")
F8E5M2FNUZ = DType("f8e5m2fnuz", ml_dtypes.float8_e5m2fnuz, 8, "float")
F8E8M0 = DType("f8e8m0", ml_dtypes.float8_e8m0fnu, 8, "float")
F16 = DType("f16", np.float16, 16, "float")
BF16 = DType("bf16", ml_dtypes.bfloat16, 16, "float")
F32 = DType("f32", np.float32, 32, "float")
F64 = DType("f64", np.float64, 64, "float")
C64 = DType("c64", np.complex64, 64, "complex")
C128 = DType("c128", np.complex128, 128, "complex")
STRING = DType("str", np.object_, 0, "string")

ALL = frozenset(DType._by_name.values())
FLOAT = frozenset(t for t in ALL if t.is_float)
INT = frozenset(t for t in ALL if t.is_int)
NUMERIC = frozenset(t for t in ALL if t.is_numeric)
REAL = FLOAT | INT
BOOLEAN = frozenset({BOOL})
INDEX = frozenset({I32, I64})


def dtype(name: str) -> DType:
    """The dtype with this text name, such as `f32`. Raises InvalidModel for an unknown name."""
    found = DType._by_name.get(name)
    if found is None:
        raise InvalidModel(f"unknown dtype {name!r}", hint=f"known: {', '.join(DType._by_name)}")
    return found


class Type:
    """Base of all value types. Instances are interned: equal means identical."""

    __slots__ = ()

    def __copy__(self) -> Type:
        return self

    def __deepcopy__(self, memo: dict) -> Type:
        return self


def _check_size(type_: TensorType) -> None:
    """Rank, dims and bytes, as far as they are known, are within the limits: nothing downstream overflows int64."""
    if type_.shape is None:
        return
    known = [dim for dim in type_.shape if type(dim) is int]
    nbytes = math.prod(known) * (max(type_.dtype.bits, 8) // 8 if type_.dtype is not None else 1)
    if len(type_.shape) > limit("rank"):
        check_limit("rank", len(type_.shape), "rank of a tensor")
    if max(known, default=0) > limit("dim"):
        check_limit("dim", max(known), f"a dim of {type_}")
    if nbytes > limit("tensor_bytes"):
        check_limit("tensor_bytes", nbytes, f"bytes of {type_}")


class TensorType(Type):
    """A dense tensor. `dtype` None: unknown. `shape` None: unknown rank; its dims are ints or symbolic `Expr`s."""

    __slots__ = ("dtype", "shape")
    dtype: DType | None
    shape: tuple[Dim, ...] | None
    _interned: ClassVar[dict[tuple, TensorType]] = {}

    def __new__(cls, dtype: DType | None = None, shape: tuple[Dim, ...] | list[Dim] | None = None) -> TensorType:
        key = (dtype, None if shape is None else tuple(shape))
        found = cls._interned.get(key)
        if found is None:
            for dim in key[1] or ():
                if not isinstance(dim, Expr) and (type(dim) is not int or dim < 0):
                    raise InvalidModel(f"{dim!r} is not a dimension (an int >= 0 or a symbolic expression)")
            found = object.__new__(cls)
            found.dtype, found.shape = key
            _check_size(found)
            cls._interned[key] = found
        return found

    @property
    def rank(self) -> int | None:
        return None if self.shape is None else len(self.shape)

    @property
    def is_static(self) -> bool:
        """Rank and every dim are known numbers."""
        return self.shape is not None and all(type(d) is int for d in self.shape)

    @property
    def numel(self) -> Dim | None:
        """Number of elements, symbolic where a dim is; None when the rank is unknown."""
        if self.shape is None:
            return None
        total: Dim = 1
        for dim in self.shape:
            total = total * dim
        return total

    def with_shape(self, shape: tuple[Dim, ...] | list[Dim] | None) -> TensorType:
        return TensorType(self.dtype, shape)

    def with_dtype(self, dtype: DType | None) -> TensorType:
        return TensorType(dtype, self.shape)

    def __str__(self) -> str:
        name = self.dtype.name if self.dtype else "?"
        return f"{name}[*]" if self.shape is None else f"{name}[{', '.join(map(str, self.shape))}]"

    __repr__ = __str__

    def __reduce__(self) -> tuple:
        return TensorType, (self.dtype, self.shape)


class _Wrapper(Type):
    """A type around another one (sequence, optional), interned by class and element."""

    __slots__ = ("elem",)
    elem: Type
    _interned: ClassVar[dict[tuple, _Wrapper]] = {}
    keyword: ClassVar[str]

    def __new__(cls, elem: Type) -> _Wrapper:
        found = _Wrapper._interned.get((cls, elem))
        if found is None:
            found = object.__new__(cls)
            found.elem = elem
            _Wrapper._interned[cls, elem] = found
        return found

    def with_elem(self, elem: Type) -> _Wrapper:
        """The same wrapper around another type."""
        return type(self)(elem)

    def wraps_like(self, other: Type) -> bool:
        """Whether `other` is the same but for what is inside."""
        return type(self) is type(other)

    def __str__(self) -> str:
        return f"{self.keyword}<{self.elem}>"

    __repr__ = __str__

    def __reduce__(self) -> tuple:
        return type(self), (self.elem,)


class SequenceType(_Wrapper):
    """A list of values of one type."""

    __slots__ = ()
    keyword = "seq"


class OptionalType(_Wrapper):
    """A value or nothing."""

    __slots__ = ()
    keyword = "optional"


class MapType(_Wrapper):
    """A dictionary from integers or strings to values of one type."""

    __slots__ = ("key",)
    key: DType
    keyword = "map"
    _maps: ClassVar[dict[tuple, MapType]] = {}

    def __new__(cls, key: DType, elem: Type) -> MapType:
        found = cls._maps.get((key, elem))
        if found is None:
            if not (key.is_int or key is STRING):
                raise InvalidModel(f"the keys of a map are {key} (integers or str expected)")
            found = object.__new__(cls)
            found.key, found.elem = key, elem
            cls._maps[key, elem] = found
        return found

    def with_elem(self, elem: Type) -> MapType:
        return MapType(self.key, elem)

    def wraps_like(self, other: Type) -> bool:
        return isinstance(other, MapType) and other.key is self.key

    def __str__(self) -> str:
        return f"map<{self.key}, {self.elem}>"

    __repr__ = __str__

    def __reduce__(self) -> tuple:
        return MapType, (self.key, self.elem)


class NoneType(Type):
    """The type of an absent value."""

    __slots__ = ()
    _instance: ClassVar[NoneType | None] = None

    def __new__(cls) -> NoneType:
        if cls._instance is None:
            cls._instance = object.__new__(cls)
        return cls._instance

    def __str__(self) -> str:
        return "none"

    __repr__ = __str__

    def __reduce__(self) -> tuple:
        return NoneType, ()


UNKNOWN = TensorType()


def refines(new: Type, old: Type) -> bool:
    """`new` says the same as `old` or more: unknown dtype, rank or symbolic dims may have become known. A symbolic dim
    may become any other that is not surely different (N is not N + 1)."""
    if new is old:
        return True
    if isinstance(new, _Wrapper) and new.wraps_like(old):
        return refines(new.elem, old.elem)  # type: ignore[attr-defined]
    if not (isinstance(new, TensorType) and isinstance(old, TensorType)):
        return False
    if old.dtype is not None and new.dtype is not old.dtype:
        return False
    if old.shape is None:
        return True
    if new.shape is None or len(new.shape) != len(old.shape):
        return False
    return all(n == o or _may_become(n, o) for n, o in zip(new.shape, old.shape, strict=True))


def _may_become(new: Dim, old: Dim) -> bool:
    return isinstance(old, Expr) and dim_eq(new, old) is not False


def meet(a: Type, b: Type) -> Type | None:
    """What two types of one value say together; None if they contradict. Where both are symbolic `a` has the word,
    unless it only has a made-up symbol to say."""
    if a is b:
        return a
    if isinstance(a, _Wrapper) and a.wraps_like(b):
        inner = meet(a.elem, b.elem)  # type: ignore[attr-defined]
        return None if inner is None else a.with_elem(inner)
    if not (isinstance(a, TensorType) and isinstance(b, TensorType)):
        return None
    if a.dtype is not b.dtype and a.dtype is not None and b.dtype is not None:
        return None
    dtype = a.dtype if b.dtype is None else b.dtype
    if a.shape is None or b.shape is None:
        return TensorType(dtype, b.shape if a.shape is None else a.shape)
    if len(a.shape) != len(b.shape):
        return None
    dims = [_meet_dims(x, y) for x, y in zip(a.shape, b.shape, strict=True)]
    return None if None in dims else TensorType(dtype, dims)  # type: ignore[arg-type]


def _meet_dims(a: Dim, b: Dim) -> Dim | None:
    if a == b:
        return a
    if dim_eq(a, b) is False:
        return None
    if not isinstance(a, Expr) or not isinstance(b, Expr):
        return b if isinstance(a, Expr) else a
    return b if _made_up(a) and not (b.symbol is not None and _made_up(b)) else a


def _made_up(dim: Expr) -> bool:
    """It holds a symbol of which nothing but its identity is known."""
    return any(ANONYMOUS.match(name) for name in symbols(dim))


def join(a: Type, b: Type) -> Type:
    """What is true of both types: where they differ the result knows less. Branches of an `if` meet here."""
    if a is b:
        return a
    if isinstance(a, _Wrapper) and a.wraps_like(b):
        return a.with_elem(join(a.elem, b.elem))  # type: ignore[attr-defined]
    if isinstance(a, OptionalType) or isinstance(b, OptionalType):  # what is there may stand for what may be
        return OptionalType(join(*(t.elem if isinstance(t, OptionalType) else t for t in (a, b))))
    if not (isinstance(a, TensorType) and isinstance(b, TensorType)):
        raise InvalidModel(f"types {a} and {b} cannot meet in one value")
    dtype = a.dtype if a.dtype is b.dtype else None
    if a.shape is None or b.shape is None or len(a.shape) != len(b.shape):
        return TensorType(dtype, None)
    if a.shape == b.shape:
        return TensorType(dtype, a.shape)
    return TensorType(dtype, tuple(x if x == y else Expr.fresh() for x, y in zip(a.shape, b.shape, strict=True)))
