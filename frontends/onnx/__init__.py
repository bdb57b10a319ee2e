"""Reads ONNX files, bytes and ModelProtos of every opset into modules. `onnx` is imported when called.

module = read("net.onnx")
module = read(model_proto, shapes={"image": (1, 3, 224, 224)})
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ...ir.dims import Dim, Expr, symbols
from ...ir.errors import AnyIRError, InvalidModel, UsageError, clean
from ...ir.expr import ANONYMOUS
from ...ir.types import TensorType, Type, meet

if TYPE_CHECKING:
    from onnx import ModelProto

    from ...ir.graph import Graph, Module, Value
    from ...ir.signature import Slot
    from .importer import Importer, Scope

SUFFIXES = (".onnx",)


def read(
    source: str | os.PathLike | bytes | ModelProto,
    *,
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    folder: str | os.PathLike | None = None,
    functions: str = "keep",
    defaults: str = "keep",
) -> Module:
    """The model as a module with one signature, `serving_default`.

    `shapes` gives inputs other dims (numbers, or names for dynamic ones) than the file declares; `folder` is where
    external data of a ModelProto or of bytes lies. Types are inferred; what the file declares of inner values and
    outputs is only compared, and contradictions go into `module.diagnostics`.

    `functions`: "keep" makes a call of a local function a `call` with the body inside (pass `inline` undoes it), "inline"
    puts the body in its place. `defaults`: "keep" leaves an initializer that is also an input (from IR version 4 on) an
    input with a default, through which nothing can be computed in advance; "fix" makes it a constant.

    Raises InvalidModel (broken), Unsupported (all unknown operators in one message), LimitExceeded, SystemFailure.
    """
    from ...formats.onnx import container
    from ...ir.graph import bulk

    choice = _Choice(
        dict(shapes or {}), _checked("functions", functions, "inline"), _checked("defaults", defaults, "fix")
    )
    proto, path = container.load(source)
    if path is None and folder is not None:
        path = Path(folder) / "model.onnx"
    try:
        with bulk():
            return _lower(proto, path, choice)
    except AnyIRError as error:
        raise error.at(str(path)) if path is not None and not error.where.startswith(str(path)) else error from None


class _Choice(NamedTuple):
    """What the caller asked for."""

    shapes: dict[str, Any]
    keep_functions: bool
    keep_defaults: bool


def _checked(option: str, given: str, otherwise: str) -> bool:
    """Whether to keep. Raises UsageError for a word that is neither."""
    if given not in ("keep", otherwise):
        raise UsageError(f"{option} is {given!r}, expected 'keep' or {otherwise!r}")
    return given == "keep"


def _lower(proto: ModelProto, path: Path | None, choice: _Choice) -> Module:
    from ...formats.onnx import views
    from ...ir.builder import Builder
    from ...ir.graph import Module, bulk
    from ...ir.verify import verify
    from .importer import Importer, Scope, check_declared
    from .metadata import describe

    model = views.view(proto)
    module = Module(clean(proto.graph.name))
    describe(module, model, keep_functions=choice.keep_functions)
    with bulk():
        graph = module.add_graph("main")
        importer = Importer(model, path, module, keep_functions=choice.keep_functions)
        importer.b = Builder(graph)
        scope = Scope(opsets=model.opsets)
        slots, inputs = _inputs(importer, graph, choice)
        outputs = importer.run(inputs, scope)
        graph.set_outputs(outputs)
    _take_declared_ranks(importer, outputs, scope)
    module.add_signature("serving_default", graph, slots, _output_names(module, proto))
    module.drop_unused_weights()
    for info in (*proto.graph.value_info, *proto.graph.output):
        value = scope.values.get(info.name)
        if value is not None:
            check_declared(value, info, module)
    verify(module)
    return module


def _take_declared_ranks(importer: Importer, outputs: list[Value], scope: Scope) -> None:
    """Where inference knows nothing of an output's shape, its declaration counts, each dim for itself; where it only has a
    made-up symbol for a dim, the declared name does, unless an input has a dim of that name: that would be a claim."""
    for value, info in zip(outputs, importer.model.proto.graph.output, strict=True):
        if value.node is None or not isinstance(value.type, TensorType):
            continue
        declared = importer.declared(info.name, scope)
        if value.rank is not None:
            _take_declared_names(importer, value, declared, info)
            continue
        if isinstance(declared, TensorType) and value.dtype in (None, declared.dtype) and declared.rank is not None:
            value.refine(declared)
            importer.module.diagnostics.append(f"output '{clean(info.name)}': the shape is taken from its declaration")


def _take_declared_names(importer: Importer, value: Value, declared: Type | None, info: Any) -> None:
    """The names that the file has for dims for which inference has a made-up symbol."""
    if not isinstance(declared, TensorType) or declared.rank != value.rank:
        return
    named = {dim.dim_param for dim in info.type.tensor_type.shape.dim}
    claimed = {name for v in importer.b.graph.inputs for dim in v.shape or () for name in symbols(dim)}
    dims = [
        name if _is_made_up(own) and isinstance(name, Expr) and name.symbol in named - claimed else own
        for own, name in zip(value.shape or (), declared.shape or (), strict=True)
    ]
    value.refine(TensorType(value.dtype, dims))


def _is_made_up(dim: Dim) -> bool:
    return isinstance(dim, Expr) and bool(dim.symbol and ANONYMOUS.match(dim.symbol))


def _output_names(module: Module, proto: ModelProto) -> list[str]:
    """The outputs' names; one that is listed twice gets a number the second time."""
    taken = dict.fromkeys(info.name for info in (*proto.graph.input, *proto.graph.output))
    names: dict[str, None] = {}
    for info in proto.graph.output:
        name, count = info.name, 0
        while name in names or (count and name in taken):
            count += 1
            name = f"{info.name}_{count}"
        names[name] = None
        if count:
            module.diagnostics.append(
                f"output '{clean(info.name)}' is listed twice; one of them is called '{clean(name)}'"
            )
    return list(names)


def _inputs(importer: Importer, graph: Graph, choice: _Choice) -> tuple[list[Slot], dict[str, Any]]:
    """The graph inputs. One that is an initializer too is a constant, or an input with that default."""
    from ...formats.onnx.types import type_of
    from ...ir.signature import Slot

    model, module, dims = importer.model, importer.module, importer.dims
    shapes = dict(choice.shapes)
    slots, inputs = [], {}
    for info in model.proto.graph.input:
        name, where = info.name, f"input '{clean(info.name)}'"
        if not name:
            raise InvalidModel("a graph input has no name")
        stored = model.graph.initializers.get(name) or model.graph.sparse.get(name)
        if stored is not None and (model.proto.ir_version < 4 or not choice.keep_defaults):
            if model.proto.ir_version >= 4:
                module.diagnostics.append(f"{where} has a default value and is fixed to it")
            continue
        type_ = type_of(info.type, dims.of(name), where)
        default = None if stored is None else importer.initializer(name, stored)
        if default is not None:
            module.diagnostics.append(
                f"{where} has a default value; it stays an input, and nothing is folded through it"
            )
            type_ = _defaulted(type_, default.type, where)
        if type_ is None:
            raise InvalidModel("the input has no type", where=where)
        inputs[name] = graph.add_input(_reshaped(type_, shapes.pop(name, None), where), name)
        slots.append(Slot(name, default=None if default is None else default.weight))
    if shapes:
        raise UsageError(
            f"no input is called {clean(next(iter(shapes)))!r}", hint=f"inputs: {', '.join(map(clean, inputs))}"
        )
    return slots, inputs


def _defaulted(declared: Type | None, default: Type, where: str) -> Type:
    """The type of an input with a default: what is declared, so that other shapes may be fed, but never without a dtype."""
    if declared is None:
        return default
    if meet(declared, default) is None:
        raise InvalidModel(f"the default is {default}, the input is declared as {declared}", where=where)
    return declared if declared.dtype is not None else TensorType(default.dtype, declared.shape)  # type: ignore[attr-defined]


def _reshaped(type_: Any, wanted: Sequence[int | str] | None, where: str) -> Any:
    from ...ir.dims import sym

    if wanted is None:
        return type_
    if type_.shape is not None and len(type_.shape) != len(wanted):
        raise UsageError(f"shape {list(wanted)} does not fit {type_}", where=where)
    return type_.with_shape(tuple(sym(d) if isinstance(d, str) else d for d in wanted))


__all__ = ["SUFFIXES", "read"]
