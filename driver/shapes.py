"""`--shape x=1,3,224,224`: dims of inputs fixed or named by the user, and carried through the graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..ir.dims import Dim, sym
from ..ir.errors import TypeInferError, UsageError
from ..ir.graph import Module
from ..ir.infer import infer_module
from ..ir.symbols import replace_symbols
from ..ir.types import TensorType
from .options import near


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


def parse_shapes(texts: Sequence[str]) -> dict[str, list[int | str]]:
    """All --shape options of a command line. Raises UsageError, also for an input that is named twice."""
    made: dict[str, list[int | str]] = {}
    for text in texts:
        name, dims = parse_shape(text)
        if name in made:
            raise UsageError(f"--shape names {name!r} twice")
        made[name] = dims
    return made


def set_shapes(module: Module, shapes: Mapping[str, Sequence[int | str]]) -> None:
    """Give inputs of the first signature other dims and infer everything behind them again. Raises UsageError where an
    input is unknown, a rank differs, or a fixed size would change."""
    sig = module.signature
    values = dict(zip(sig.input_names(), sig.graph.inputs, strict=True))
    bindings: dict[str, Dim] = {}
    for name, wanted in shapes.items():
        if name not in values:
            raise UsageError(f"there is no input {name!r}", where="--shape", hint=near(name, list(values)))
        type_ = values[name].type
        if not isinstance(type_, TensorType):
            raise UsageError(f"input {name!r} is a {type_}, it has no shape")
        _bind(name, type_, wanted, bindings)
    replace_symbols(module, bindings)
    for name, wanted in shapes.items():
        value = values[name]
        if value.shape is None:
            value.refine(TensorType(value.dtype, [d if isinstance(d, int) else sym(d) for d in wanted]))
    try:
        infer_module(module)
    except TypeInferError as error:
        branches = (
            "; if a branch for another value of an input is what does not fit, --bind NAME=VALUE puts that input in"
        )
        error.hint = error.hint or f"the model does not take these sizes{branches * any(module.all_nodes('if'))}"
        raise error.at("--shape") from None


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
