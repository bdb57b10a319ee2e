"""The table from aten operators to handlers, and the checking of a call's arguments against a handler's parameters.

A handler is a function of the context and of the operator's schema arguments by name; its annotations say what kind of
argument it takes, its defaults are those of the schema:

    @handles("aten.leaky_relu")
    def leaky_relu(c: Context, self: Tensor, negative_slope: Number = 0.01) -> Value: ...

Keys are packets (`aten.add`, all overloads) or full names (`aten.max.dim`), which win. Arguments come from files, so a
wrong kind is an InvalidModel error and an argument that the handler does not know an Unsupported one. No torch here.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from ...ir.dims import Dim
from ...ir.errors import InvalidModel, Unsupported, clean
from ...ir.expr import Expr
from ...ir.types import DType
from ...ir.value import Value

if TYPE_CHECKING:
    from .context import Context

Handler = Callable[..., Any]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _wrong(kind: str, value: Any) -> InvalidModel:
    shown = "a tensor" if isinstance(value, Value) else type(value).__name__
    return InvalidModel(f"{shown} where {kind} is expected")


def _tensor(value: Any) -> Value:
    if not isinstance(value, Value):
        raise _wrong("a tensor", value)
    return value


def _tensors(value: Any) -> tuple[Value, ...]:
    if not isinstance(value, tuple):
        raise _wrong("a list of tensors", value)
    return tuple(_tensor(item) for item in value)


def _optional_tensors(value: Any) -> tuple[Value | None, ...]:
    if not isinstance(value, tuple):
        raise _wrong("a list of tensors", value)
    return tuple(None if item is None else _tensor(item) for item in value)


def _int(value: Any) -> int:
    if isinstance(value, Expr):
        raise Unsupported(f"a size known only at run time ({value}) where a fixed int is needed")
    if not isinstance(value, int):
        raise _wrong("an int", value)
    return int(value)


def _ints(value: Any) -> tuple[int, ...]:
    return tuple(_int(item) for item in value) if isinstance(value, tuple) else (_int(value),)


def _size(value: Any) -> Dim:
    return value if isinstance(value, Expr) else _int(value)


def _sizes(value: Any) -> tuple[Dim, ...]:
    return tuple(_size(item) for item in value) if isinstance(value, tuple) else (_size(value),)


def _number(value: Any) -> int | float | bool:
    if isinstance(value, Expr | Symbolic):
        raise Unsupported(f"a number known only at run time ({value}) where a fixed one is needed")
    if isinstance(value, complex):
        raise Unsupported("complex numbers")
    if not _is_number(value):
        raise _wrong("a number", value)
    return value


def _float(value: Any) -> float:
    return float(_number(value))


def _floats(value: Any) -> tuple[float, ...]:
    return tuple(_float(item) for item in value) if isinstance(value, tuple) else (_float(value),)


def _operand(value: Any) -> Operand:
    if isinstance(value, Value | Expr | Symbolic):
        return value
    return _number(value)


def _scalar(value: Any) -> Any:
    return value if isinstance(value, Expr | Symbolic) else _number(value)


def _of(kind: type, name: str) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if not isinstance(value, kind):
            raise _wrong(name, value)
        return value

    return check


@dataclass(frozen=True)
class Symbolic:
    """A float computed from sizes: known only at run time."""

    tree: tuple


# What annotations mean. A parameter without annotation takes anything.
Tensor = Annotated[Value, _tensor]
Tensors = Annotated[tuple[Value, ...], _tensors]
OptionalTensors = Annotated[tuple[Value | None, ...], _optional_tensors]
Int = Annotated[int, _int]
Ints = Annotated[tuple[int, ...], _ints]
Size = Annotated[Dim, _size]
Sizes = Annotated[tuple[Dim, ...], _sizes]
Number = Annotated[int | float | bool, _number]
Float = Annotated[float, _float]
Floats = Annotated[tuple[float, ...], _floats]
Operand = Annotated[Any, _operand]  # a tensor, a number, or a size or float known at run time
Scalar = Annotated[Any, _scalar]  # an Operand that is no tensor
Bool = Annotated[bool, _of(bool, "a bool")]
Str = Annotated[str, _of(str, "a string")]
Dtype = Annotated[DType, _of(DType, "a dtype")]


@dataclass(frozen=True)
class Parameter:
    """One parameter of a handler: how to check it, and its default (`inspect.Parameter.empty` if there is none)."""

    check: Callable[[Any], Any] | None
    default: Any
    optional: bool


@dataclass(frozen=True)
class Entry:
    """A handler with its parameters, which are read from its signature once."""

    handler: Handler
    parameters: dict[str, Parameter]
    takes_all: bool = False

    def __call__(self, context: Context, args: dict[str, Any]) -> Any:
        if self.takes_all:
            return self.handler(context, **args)
        bound = {}
        for name, value in args.items():
            parameter = self.parameters.get(name)
            if parameter is None:
                if value in IGNORED.get(name, ()):
                    continue
                raise Unsupported(f"argument {clean(name)!r} = {clean(value)}")
            bound[name] = (
                value if parameter.check is None or (value is None and parameter.optional) else parameter.check(value)
            )
        for name, parameter in self.parameters.items():
            if name in bound:
                continue
            if parameter.default is inspect.Parameter.empty:
                raise InvalidModel(f"argument {name!r} is missing")
            default = parameter.default
            bound[name] = default if parameter.check is None or default is None else parameter.check(default)
        return self.handler(context, **bound)


#: Arguments that mean nothing here when they have one of these values: placement, memory format, how gradients flow.
_ANY = type("_Any", (), {"__contains__": lambda self, item: True})()
IGNORED: dict[str, Any] = {
    "layout": (None,), "device": (None,), "memory_format": (None,), "pin_memory": _ANY, "non_blocking": _ANY,
    "copy": _ANY, "implicit": _ANY, "sparse_grad": _ANY, "cudnn_enable": _ANY, "cudnn_enabled": _ANY,
    "requires_grad": _ANY, "generator": (None,),
}  # fmt: skip

HANDLERS: dict[str, Entry] = {}


def handles(*targets: str) -> Callable[[Handler], Handler]:
    """Register a handler for packets (`aten.add`) or single overloads (`aten.max.dim`). A second one is an error."""

    def register(handler: Handler) -> Handler:
        kinds = [parameter.kind for parameter in inspect.signature(handler).parameters.values()]
        entry = Entry(handler, _parameters(handler), inspect.Parameter.VAR_KEYWORD in kinds)
        for target in targets:
            if target in HANDLERS:
                raise TypeError(f"two handlers for {target}")
            HANDLERS[target] = entry
        return handler

    return register


def _parameters(handler: Handler) -> dict[str, Parameter]:
    hints = typing.get_type_hints(
        handler, include_extras=True, localns={"Context": object, "Expr": Expr, "Operand": Operand}
    )
    found = {}
    for name, parameter in list(inspect.signature(handler).parameters.items())[1:]:
        check, optional = _check_of(hints.get(name))
        found[name] = Parameter(check, parameter.default, optional)
    return found


def _check_of(hint: Any) -> tuple[Callable[[Any], Any] | None, bool]:
    """The check of an annotation, and whether None is allowed (`Tensor | None`)."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        inner = [item for item in typing.get_args(hint) if item is not type(None)]
        return _check_of(inner[0])[0] if len(inner) == 1 else None, True
    metadata = getattr(hint, "__metadata__", None)
    return (metadata[0], False) if metadata else (None, False)


def find(target: str) -> Entry | None:
    """The handler of `aten.name.overload`: that of the overload, else that of the packet; in-place twins have none."""
    return HANDLERS.get(target) or HANDLERS.get(target.rpartition(".")[0])
