"""`--shape x=1,3,224,224`: dims of inputs fixed or named by the user, and carried through the graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..ir.dims import Dim, Expr, substitute, sym, symbols
from ..ir.errors import UsageError
from ..ir.graph import Module
from ..ir.infer import infer_module
from ..ir.types import SequenceType, TensorType


def parse_shape(text: str) -> tuple[str, list[int | str]]:
    """`name=1,3,H,W` as name and dims; `?` leaves a dim open. Raises UsageError."""
    name, equals, dims = text.rpartition("=")
    if not equals or not name:
        raise UsageError(f"--shape {text!r} is not NAME=DIM,DIM,...", hint="--shape image=1,3,224,224")
    made: list[int | str] = []
    for item in dims.split(",") if dims else []:
        item = item.strip()
        if item.isdigit():
            made.append(int(item))
        elif item == "?" or item.isidentifier():
            made.append(item)
        else:
            raise UsageError(f"{item!r} in --shape {text!r} is no number and no name")
    return name, made


def set_shapes(module: Module, shapes: Mapping[str, Sequence[int | str]]) -> None:
    """Give inputs of the first signature other dims and infer everything behind them again. Raises UsageError where an
    input is unknown, a rank differs, or a fixed size would change."""
    sig = module.signature
    values = dict(zip(sig.input_names(), sig.graph.inputs, strict=True))
    bindings: dict[str, Dim] = {}
    for name, wanted in shapes.items():
        if name not in values:
            raise UsageError(f"--shape names {name!r}", hint=f"the inputs are: {', '.join(values)}")
        type_ = values[name].type
        if not isinstance(type_, TensorType):
            raise UsageError(f"input {name!r} is a {type_}, it has no shape")
        _bind(name, type_, wanted, bindings)
    _substitute(module, bindings)
    for name, wanted in shapes.items():
        value = values[name]
        if value.shape is None:
            value.refine(TensorType(value.dtype, [d if isinstance(d, int) else sym(d) for d in wanted]))
    infer_module(module)


def _bind(name: str, type_: TensorType, wanted: Sequence[int | str], bindings: dict[str, Dim]) -> None:
    if type_.shape is None:
        return
    if len(type_.shape) != len(wanted):
        raise UsageError(f"--shape {name} has {len(wanted)} dims, the input is {type_}")
    for old, new in zip(type_.shape, wanted, strict=True):
        if new == "?":
            continue
        if isinstance(old, int):
            if old != new:
                raise UsageError(f"--shape {name}: the model fixes a dim at {old}, {new} was given ({type_})")
        elif old.symbol is None:
            raise UsageError(f"--shape {name}: the dim {old} is computed and cannot be set")
        else:
            made = new if isinstance(new, int) else sym(new)
            if bindings.setdefault(old.symbol, made) != made:
                raise UsageError(f"--shape gives {old} the values {bindings[old.symbol]} and {made}")


def _substitute(module: Module, bindings: Mapping[str, Dim]) -> None:
    """Put dims in place of symbols in every type and known element."""
    if not bindings:
        return

    def dim(old: Dim | None) -> Dim | None:
        return substitute(old, bindings) if isinstance(old, Expr) and set(symbols(old)) & set(bindings) else old

    def type_of(old):
        if isinstance(old, TensorType) and old.shape is not None:
            return TensorType(old.dtype, [dim(d) for d in old.shape])  # type: ignore[misc]
        return type(old)(type_of(old.elem)) if isinstance(old, SequenceType) else old

    for graph in module.all_graphs():
        for value in (*graph.inputs, *(v for node in graph.nodes() for v in node.results)):
            value.type = type_of(value.type)
            if value._elems is not None:
                value._elems = tuple(map(dim, value._elems))
