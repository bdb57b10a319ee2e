"""Types as a file declares them: TypeProto to IR types, dim names to symbols."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from ...ir.dims import Dim, parse_dim, sym, symbols
from ...ir.errors import InvalidModel, Unsupported, clean
from ...ir.expr import ANONYMOUS, Expr
from ...ir.storage import check_limit
from ...ir.types import MapType, OptionalType, SequenceType, TensorType, Type
from . import dtypes
from .container import text

_FORMULA = re.compile(r"[A-Za-z_0-9.\s+*/%(),-]+")


class Dims:
    """Dim protos to dims. The same name is the same symbol throughout; a formula such as `N*2 + 1` is read as one only
    where each of its names also stands alone in an input, else the whole text is a name. Unknown dims of
    an input get a name made of the input's and the axis."""

    def __init__(self, infos: Iterable[Any]) -> None:
        self.alone = set()
        for info in infos:
            for dim in _shape_of(info.type):
                if re.fullmatch(r"[A-Za-z_][A-Za-z_0-9.]*", text(dim.dim_param, "a dim")):
                    self.alone.add(dim.dim_param)

    def of(self, name: str) -> Callable[[Any, int], Dim]:
        """The function that reads the dims of input `name`."""

        def read(dim: Any, axis: int) -> Dim:
            if dim.HasField("dim_value") and dim.dim_value >= 0:
                return dim.dim_value
            if dim.HasField("dim_value") or dim.dim_param in ("", "?"):  # exporters write -1 for "any"
                return self._unnamed(name, axis)
            check_limit("name_bytes", len(dim.dim_param), "length of a dim's name")
            formula = self._formula(dim.dim_param)
            return sym(dim.dim_param) if formula is None else formula

        return read

    def apart(self, name: str) -> Callable[[Any, int], Dim]:
        """The function that reads the dims of a value whose declaration is not to be trusted: names say nothing."""

        def read(dim: Any, axis: int) -> Dim:
            known = dim.HasField("dim_value") and dim.dim_value >= 0
            return dim.dim_value if known else self._unnamed(name, axis)

        return read

    def _unnamed(self, name: str, axis: int) -> Dim:
        made = f"{re.sub(r'[^A-Za-z_0-9]', '_', name[:60]).lstrip('_0123456789') or 'dim'}_{axis}"
        while made in self.alone:
            made += "_"
        self.alone.add(made)
        return sym(made)

    def _formula(self, text: str) -> Dim | None:
        if text in self.alone or len(text) > 200 or not _FORMULA.fullmatch(text):
            return None
        try:
            parsed = parse_dim(text)
        except InvalidModel:
            return None
        names = symbols(parsed)
        return parsed if names and all(name in self.alone for name in names) else None


def _shape_of(type_proto: Any) -> Iterable[Any]:
    kind = type_proto.WhichOneof("value")
    return type_proto.tensor_type.shape.dim if kind == "tensor_type" else ()


def _unknown(dim: Any, axis: int) -> Dim:
    return dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else Expr.fresh()


def type_of(proto: Any, dims: Callable[[Any, int], Dim] | None, where: str) -> Type | None:
    """The IR type of a TypeProto; None when nothing is declared. Raises InvalidModel and Unsupported (sparse)."""
    wrappers: list[Callable[[Type], Type]] = []
    while True:
        kind = proto.WhichOneof("value")
        if kind not in ("sequence_type", "optional_type", "map_type"):
            break
        check_limit("nesting", len(wrappers) + 1, "nesting of types", where)
        if kind == "map_type":
            wrappers.append(partial(MapType, dtypes.from_code(proto.map_type.key_type, where)))
            proto = proto.map_type.value_type
        else:
            wrappers.append(SequenceType if kind == "sequence_type" else OptionalType)
            proto = getattr(proto, kind).elem_type
    if kind is None:
        return None
    if kind != "tensor_type":
        raise Unsupported(f"values of {kind.removesuffix('_type')} type cannot be read", where=clean(where))
    if SequenceType in wrappers:  # elements may differ in shape: a dim's name says nothing beyond its own element
        dims = None
    tensor = proto.tensor_type
    dtype = dtypes.from_code(tensor.elem_type, where) if tensor.elem_type else None
    shape = None
    if tensor.HasField("shape"):
        check_limit("rank", len(tensor.shape.dim), "rank", where)
        shape = tuple((dims or _unknown)(dim, axis) for axis, dim in enumerate(tensor.shape.dim))
    made: Type = TensorType(dtype, shape)
    for wrapper in reversed(wrappers):
        made = wrapper(made)
    return made


def dim_name(dim: Any) -> str | None:
    """How a file names a symbolic dim; None where it holds a symbol that inference made up, whose name means nothing."""
    if any(ANONYMOUS.match(name) for name in symbols(dim)):
        return None
    return dim.symbol or str(dim)


def proto_of(type_: Type) -> Any:
    """A TypeProto for an IR type: unknown dtypes and ranks are left out, symbolic dims go by name."""
    import onnx

    proto = onnx.TypeProto()
    at = proto
    while isinstance(type_, SequenceType | OptionalType | MapType):
        if isinstance(type_, MapType):
            at.map_type.key_type = dtypes.TO_CODE[type_.key]
            at = at.map_type.value_type
        else:
            at = at.sequence_type.elem_type if isinstance(type_, SequenceType) else at.optional_type.elem_type
        type_ = type_.elem
    if not isinstance(type_, TensorType):
        return proto
    at.tensor_type.elem_type = dtypes.TO_CODE.get(type_.dtype, 0)  # type: ignore[arg-type]
    if type_.shape is not None:
        at.tensor_type.shape.SetInParent()
        for dim in type_.shape:
            made = at.tensor_type.shape.dim.add()
            if type(dim) is int:
                made.dim_value = check_limit("dim", dim, "dimension")
            elif (name := dim_name(dim)) is not None:
                made.dim_param = name
    return proto
