"""Live torch objects: exporting an nn.Module, and an ExportedProgram as the same plain data that `.pt2` files give.

The only module of this frontend that works with torch, and it gets torch handed in: callers import it when they hold a
live object. Sizes come as the text that torch prints for them, through the parser that `.pt2` files use.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ...formats.exported import (
    LEAF,
    TORCH_NAMES,
    Exported,
    ExportedGraph,
    ExportedNode,
    InputSpec,
    OutputSpec,
    Payload,
    Ref,
    TensorMeta,
    Tree,
)
from ...formats.pt2 import place_of
from ...formats.pt2_symbols import Sym, parse_symbolic
from ...ir.errors import MissingPackage, Unsupported, UsageError
from ...ir.types import DType


def torch_module() -> Any:
    """The torch package. Raises MissingPackage."""
    try:
        import torch
    except ImportError as exc:
        raise MissingPackage("reading live torch objects needs torch", hint="pip install anyir[torch]") from exc
    return torch


# ------------------------------------------------------------------------------------------------------- export


def export(module: Any, inputs: Any, dynamic_shapes: Any) -> tuple[Any, dict[str, str]]:
    """(ExportedProgram, names of its symbols) of a live module, in eval mode, with example inputs.

    `inputs`: a tensor, a sequence of positional arguments, or a dict of keyword arguments. `dynamic_shapes`: None makes the
    first dimension dynamic wherever it is as long as that of the first tensor; otherwise as torch.export takes it, where
    a str stands for a dimension of that name.
    """
    torch = torch_module()
    if inputs is None:
        raise UsageError("a live module needs example inputs", hint="pass inputs=(tensor, ...)")
    args, kwargs = _arguments(torch, inputs)
    shapes = dynamic_shapes
    if dynamic_shapes is None:
        args, kwargs, shapes = _dynamic_batch(torch, args, kwargs)
    with _eval_mode(torch, module):
        program = _traced(torch, module, args, kwargs, shapes)
    return program, _names_of_dims(torch, program, args, kwargs, shapes)


def _traced(torch: Any, module: Any, args: Any, kwargs: Any, shapes: Any) -> Any:
    """Export with named dimensions from 1 up and, where the model wants other bounds, with those that torch finds."""
    failure: Exception | None = None
    for strict in (True, False):
        try:
            return torch.export.export(module, args, kwargs, dynamic_shapes=_dims(torch, shapes, strict), strict=False)
        except Exception as exc:  # torch raises many types here; what it says is for the user
            failure = failure or exc
            if "Constraints violated" not in str(exc):
                break
    assert failure is not None
    raise Unsupported(
        f"torch.export cannot trace the module: {_first_lines(failure)}",
        hint="give dynamic_shapes={} for fixed sizes, or export the module yourself",
    ) from failure


def _first_lines(exc: Exception) -> str:
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return f"{type(exc).__name__}: " + " ".join(lines[:10])[:900]


def _arguments(torch: Any, inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    def tensor(value: Any) -> Any:
        return torch.from_numpy(np.ascontiguousarray(value)) if isinstance(value, np.ndarray) else value

    if isinstance(inputs, Mapping):
        return (), {name: tensor(value) for name, value in inputs.items()}
    if isinstance(inputs, list | tuple):
        return tuple(tensor(value) for value in inputs), {}
    return (tensor(inputs),), {}


@contextlib.contextmanager
def _eval_mode(torch: Any, module: Any) -> Iterator[None]:
    """Eval mode and no fused encoder kernels while tracing; the user's settings come back."""
    before = [(part, part.training) for part in module.modules()]
    fast = torch.backends.mha.get_fastpath_enabled()
    module.eval()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for part, training in before:
            part.training = training


def _dynamic_batch(torch: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Example inputs and dynamic shapes with one symbol N for the batch. A batch of 1 is doubled: torch would fix it."""
    leaves = [v for v in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(v, torch.Tensor)]
    sizes = [v.shape[0] for v in leaves if v.dim() > 0]
    if not sizes:
        return args, kwargs, None

    def shape(value: Any) -> Any:
        is_batch = isinstance(value, torch.Tensor) and value.dim() > 0 and value.shape[0] == sizes[0]
        return {0: "N"} if is_batch else None

    def grown(value: Any) -> Any:
        return torch.cat([value, value]) if shape(value) is not None and sizes[0] == 1 else value

    tree_map = torch.utils._pytree.tree_map
    return tree_map(grown, args), tree_map(grown, kwargs), tree_map(shape, kwargs if kwargs else args)


def _dims(torch: Any, shapes: Any, named: bool) -> Any:
    """dynamic_shapes with every str turned into a Dim: one of that name, or one whose range torch finds."""
    made: dict[str, Any] = {}

    def convert(item: Any) -> Any:
        if isinstance(item, str):
            return made.setdefault(item, torch.export.Dim(item, min=1)) if named else torch.export.Dim.DYNAMIC
        if isinstance(item, Mapping):
            return {key: convert(value) for key, value in item.items()} or None
        if isinstance(item, list | tuple):
            return type(item)(convert(value) for value in item)
        return item

    return convert(shapes)


def _names_of_dims(torch: Any, program: Any, args: Any, kwargs: Any, shapes: Any) -> dict[str, str]:
    """Names that the user gave to dimensions, by torch's symbol. Structures that do not line up give none."""
    found: dict[str, str] = {}
    values = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    fakes = iter([values.get(name) for name in program.graph_signature.user_inputs])
    per_leaf: list[Any] = []
    _pair(torch, list(args), list(shapes.values()) if isinstance(shapes, Mapping) and args else shapes, per_leaf)
    _pair(torch, kwargs, shapes if not args else None, per_leaf)
    for spec, fake in zip(per_leaf, fakes, strict=False):
        if not isinstance(fake, torch.Tensor) or spec is None:
            continue
        for axis, dim in spec.items() if isinstance(spec, Mapping) else enumerate(spec):
            name = dim if isinstance(dim, str) else getattr(dim, "__name__", "")
            text = str(fake.shape[axis])
            if name and not text.isdigit() and text.isidentifier() and name not in found.values():
                found.setdefault(text, name)
    return found


def _pair(torch: Any, value: Any, shapes: Any, found: list[Any]) -> None:
    """Append the shape spec of every leaf of `value`, in pytree order."""
    if isinstance(value, Mapping):
        for key in value:
            _pair(torch, value[key], shapes.get(key) if isinstance(shapes, Mapping) else None, found)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            fits = isinstance(shapes, list | tuple) and index < len(shapes)
            _pair(torch, item, shapes[index] if fits else None, found)
    else:
        found.append(shapes if isinstance(value, torch.Tensor) else None)


def decompose(program: Any) -> Any:
    """The program made functional, with every operator that has no handler taken apart as far as torch can."""
    from . import handlers  # noqa: F401
    from .lower import entry_of

    torch = torch_module()
    table = torch.export.default_decompositions()
    for op in list(table):
        if entry_of(str(op)) is not None:
            del table[op]
    try:
        return program.run_decompositions(table)
    except Exception as exc:
        raise Unsupported(f"torch cannot decompose the program: {_first_lines(exc)}") from exc


# --------------------------------------------------------------------------------------------------- conversion


def from_program(program: Any, symbol_names: dict[str, str] | None = None) -> Exported:
    """A live ExportedProgram as plain data. Raises Unsupported for what the data cannot say."""
    torch = torch_module()
    signature = program.graph_signature
    call = program.call_spec
    module = program.graph_module
    return Exported(
        graph=_Converter(torch, module).graph(module),
        inputs=[_input_spec(spec) for spec in signature.input_specs],
        outputs=[_output_spec(spec) for spec in signature.output_specs],
        in_tree=_tree(call.in_spec),
        out_tree=_tree(call.out_spec),
        arg_names=_argument_names(program),
        ranges={str(symbol): _range(bounds) for symbol, bounds in program.range_constraints.items()},
        weights=_weights(torch, program),
        producer=f"torch {torch.__version__}",
        symbol_names=symbol_names or {},
    )


def _argument_names(program: Any) -> list[str]:
    entry = next((e for e in program.module_call_graph if e.fqn == ""), None)
    names = getattr(entry.signature, "forward_arg_names", None) if entry is not None else None
    return list(names or ())


_INPUTS = {"PARAMETER": "parameter", "BUFFER": "buffer", "CONSTANT_TENSOR": "constant", "USER_INPUT": "user"}


def _input_spec(spec: Any) -> InputSpec:
    kind = _INPUTS.get(spec.kind.name)
    if kind is None:
        raise Unsupported(f"graph input of the kind {spec.kind.name}")
    arg = _spec_arg(spec.arg)
    if kind == "user" and not isinstance(arg, Ref):
        return InputSpec("literal", arg, spec.arg.name or "")
    return InputSpec(kind, arg, spec.target or "")


def _output_spec(spec: Any) -> OutputSpec:
    kind = "user" if spec.kind.name == "USER_OUTPUT" else spec.kind.name.lower()
    return OutputSpec(kind, _spec_arg(spec.arg), spec.target or "")


_ARGS = {"TensorArgument": "tensor", "SymIntArgument": "int", "SymFloatArgument": "float", "SymBoolArgument": "bool"}


def _spec_arg(arg: Any) -> Any:
    kind = _ARGS.get(type(arg).__name__)
    if kind is not None:
        return Ref(arg.name, kind)
    if type(arg).__name__ == "ConstantArgument":
        return arg.value
    raise Unsupported(f"an argument of the kind {type(arg).__name__}")


def _tree(spec: Any) -> Tree | None:
    if spec is None:
        return None
    children = tuple(_tree(child) for child in _children(spec))
    if spec.type is None:
        return LEAF
    keys = spec.context if isinstance(spec.context, list | tuple) else None
    if spec.type in (tuple, list):
        return Tree(spec.type.__name__, (), children)  # type: ignore[arg-type]
    if keys is not None and len(keys) == len(children) and all(isinstance(key, str | int) for key in keys):
        return Tree("dict", tuple(map(str, keys)), children)  # type: ignore[arg-type]
    return Tree("tuple", (), children)  # type: ignore[arg-type]


def _children(spec: Any) -> Sequence[Any]:
    children = getattr(spec, "children", None)
    return children() if callable(children) else spec.children_specs


def _range(bounds: Any) -> tuple[int | None, int | None]:
    def bound(value: Any) -> int | None:
        text = str(value)
        return int(text) if text.lstrip("-").isdigit() else None

    return bound(bounds.lower), bound(bounds.upper)


def _weights(torch: Any, program: Any) -> dict[str, Payload]:
    tensors = {**program.state_dict, **program.constants}
    return {name: _payload(torch, t, name) for name, t in tensors.items() if isinstance(t, torch.Tensor)}


def _payload(torch: Any, tensor: Any, name: str) -> Payload:
    if tensor.layout is not torch.strided or type(tensor) not in (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer):
        raise Unsupported(f"weight {name!r} is no plain dense tensor")
    plain = tensor.detach().cpu().resolve_conj().resolve_neg()
    key = (
        tensor.untyped_storage().data_ptr(),
        str(tensor.dtype),
        tuple(tensor.shape),
        tensor.stride(),
        tensor.storage_offset(),
    )
    return Payload(to_numpy(torch, plain), key if tensor.numel() else (name,))


def to_numpy(torch: Any, tensor: Any) -> np.ndarray:
    """A CPU tensor as an array that shares its memory; bfloat16 and 8-bit floats get their ml_dtypes type."""
    dtype = _dtype(tensor.dtype)
    if tensor.dtype in (torch.bfloat16,) or "float8" in str(tensor.dtype):
        raw = tensor.view(torch.int16 if dtype.bits == 16 else torch.uint8).numpy()
        return raw.view(dtype.numpy)
    return tensor.numpy()


def _dtype(dtype: Any) -> DType:
    found = TORCH_NAMES.get(str(dtype).removeprefix("torch."))
    if found is None:
        raise Unsupported(f"dtype {dtype}")
    return found


class _Converter:
    """torch.fx graphs to plain data."""

    def __init__(self, torch: Any, module: Any) -> None:
        self.torch = torch
        self.module = module

    def graph(self, module: Any) -> ExportedGraph:
        made = ExportedGraph([], [], [], {}, {})
        for node in module.graph.nodes:
            if node.op == "placeholder":
                made.inputs.append(self._declare(made, node.name, node.meta.get("val")))
            elif node.op == "call_function":
                if node.target is _getitem():
                    continue  # its producer names it
                made.nodes.append(self._call(made, module, node))
            elif node.op == "output":
                results = node.args[0]
                made.outputs = [
                    self._argument(module, item)
                    for item in (results if isinstance(results, list | tuple) else (results,))
                ]
        return made

    def _declare(self, graph: ExportedGraph, name: str, value: Any) -> Any:
        """Record the type of a value; the Ref to it, or the value itself when it is a plain one."""
        torch = self.torch
        if isinstance(value, torch.Tensor):
            if value.layout is not torch.strided:
                raise Unsupported(f"{name} is a tensor of the layout {value.layout}")
            graph.tensors[name] = TensorMeta(_dtype(value.dtype), tuple(map(_size, value.shape)))
            return Ref(name)
        for kind, cls in (("int", torch.SymInt), ("float", torch.SymFloat), ("bool", torch.SymBool)):
            if isinstance(value, cls):
                if kind != "bool":
                    graph.symbols[name] = parse_symbolic(str(value.node.expr))
                return Ref(name, kind)
        return value

    def _call(self, graph: ExportedGraph, module: Any, node: Any) -> ExportedNode:
        target = _target(node.target)
        args = {name: self._argument(module, value) for name, value in self._named(node)}
        stack = node.meta.get("nn_module_stack") or {}
        entries = ";".join(f"{key},{path},{kind}" for key, (path, kind) in stack.items())
        scope, source = place_of(entries, node.meta.get("stack_trace") or "")
        return ExportedNode(target, args, self._results(graph, node), scope, source)

    def _named(self, node: Any) -> Iterator[tuple[str, Any]]:
        schema = getattr(node.target, "_schema", None)
        if schema is not None:
            names = [argument.name for argument in schema.arguments]
        elif isinstance(node.target, types.BuiltinFunctionType | types.FunctionType):
            names = ["a", "b", "c"]
        else:
            names = [str(i) for i in range(len(node.args))]
        yield from zip(names, node.args, strict=False)
        yield from node.kwargs.items()

    def _results(self, graph: ExportedGraph, node: Any) -> tuple[Any, ...]:
        value = node.meta.get("val")
        if not isinstance(value, list | tuple):
            self._declare(graph, node.name, value)
            return () if value is None else (node.name,)
        users = {user.args[1]: user.name for user in node.users if user.target is _getitem()}
        names: list[str | None] = []
        for index, item in enumerate(value):
            name = users.get(index, f"{node.name}_unused_{index}")
            names.append(name if item is not None else None)
            if item is not None:
                self._declare(graph, name, item)
        schema = getattr(node.target, "_schema", None)
        if schema is not None and len(schema.returns) == 1:
            return (tuple(name for name in names if name is not None),)
        return tuple(names)

    def _argument(self, module: Any, value: Any) -> Any:
        torch = self.torch
        if isinstance(value, list | tuple):
            return tuple(self._argument(module, item) for item in value)
        if isinstance(value, torch.fx.Node):
            if value.op == "get_attr":
                return self.graph(getattr(module, value.target))
            kinds = {torch.SymInt: "int", torch.SymFloat: "float", torch.SymBool: "bool"}
            return Ref(value.name, kinds.get(type(value.meta.get("val")), "tensor"))
        if isinstance(value, torch.dtype):
            return _dtype(value)
        if isinstance(value, torch.layout):
            if value is not torch.strided:
                raise Unsupported(f"layout {value}")
            return None
        if isinstance(value, torch.device | torch.memory_format):
            return None
        if value is None or isinstance(value, bool | int | float | complex | str):
            return value
        if hasattr(value, "_schema"):
            return str(value)
        raise Unsupported(f"an argument of type {type(value).__name__}")


def _getitem() -> Any:
    import operator

    return operator.getitem


def _target(target: Any) -> str:
    """The name under which `.pt2` files have an operator."""
    if hasattr(target, "_schema"):
        return str(target)
    if (
        type(target).__module__.startswith("torch._ops")
        or hasattr(target, "_ns_and_name")
        or hasattr(target, "namespace")
    ):
        return f"higher_order.{target.__name__}"
    return f"{target.__module__}.{target.__name__}"


def _size(size: Any) -> Sym:
    return size if isinstance(size, int) else parse_symbolic(str(size.node.expr))
