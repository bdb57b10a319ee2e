"""From an exported program, whichever door it came in by, to a module: one walk over its nodes in execution order.

Each node goes to the handler of its operator; what has none is collected, so that one error names all of it. Results are
held against the types that torch declares. Must not import torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ...formats.exported import Exported, ExportedGraph, ExportedNode, InputSpec, Payload, Ref, TensorMeta, refs
from ...ir.builder import Builder
from ...ir.dims import dim_eq
from ...ir.errors import AnyIRError, InvalidModel, Unsupported, UsageError, clean
from ...ir.expr import Expr
from ...ir.graph import Module, bulk
from ...ir.loc import Loc
from ...ir.provenance import take
from ...ir.signature import Slot
from ...ir.tensor import ArrayTensor, MappedTensor, Tensor
from ...ir.types import BOOL, F32, I64, DType, TensorType
from ...ir.value import Value
from ...ir.weights import Weight
from .context import Context
from .mutation import Write, analyse, is_inplace, packet, pure_twin
from .registry import Entry, find
from .symbols import Symbols

MAX_ERRORS = 20

#: Nodes that only check or only compute sizes: what they say is in the declared types.
_ASSERTS = frozenset(
    [
        "_assert_scalar",
        "_assert_tensor_metadata",
        "_assert_async",
        "sym_constrain_range",
        "sym_constrain_range_for_size",
        "_functional_assert_async",
    ]
)
_SIZES = ("_operator.", "math.", "torch.sym_")


def entry_of(target: str) -> Entry | None:
    """The handler of an operator, in-place twins included."""
    found = find(target)
    return found if found is not None or not is_inplace(target) else find(pure_twin(target))


def lower(program: Exported, name: str, names: Any = None) -> Module:
    """The module of an exported program.

    Raises Unsupported naming every operator (up to 20) that cannot be lowered, InvalidModel for an inconsistent program.
    """
    from . import handlers  # noqa: F401  (fills the table)

    with bulk():
        return _Lowering(program, name).run(names)


def unknown_operators(program: Exported) -> list[str]:
    """Operators without a handler and in-place calls that are no renamings; empty when `lower` can begin."""
    from . import handlers  # noqa: F401

    return [reason for _, reason in _offences(program.graph)]


def _offences(graph: ExportedGraph) -> list[tuple[ExportedNode, str]]:
    aliases = analyse(graph)
    found = []
    for index, node in enumerate(graph.nodes):
        if _is_bookkeeping(graph, node):
            continue
        if index in aliases.refused:
            found.append((node, f"{node.target}: {aliases.refused[index]}"))
        elif entry_of(node.target) is None:
            found.append((node, f"no handler for {node.target}"))
        for inner in _subgraphs(node):
            found.extend(_offences(inner))
    return found


def _subgraphs(node: ExportedNode) -> Iterable[ExportedGraph]:
    return (value for value in node.args.values() if isinstance(value, ExportedGraph))


def _is_bookkeeping(graph: ExportedGraph, node: ExportedNode) -> bool:
    name = packet(node.target)
    if name in _ASSERTS or node.target.startswith(_SIZES):
        return True
    return name.startswith("sym_") and not any(output in graph.tensors for output in node.outputs)


def lower_graph(c: Context) -> None:
    """Lower every node of `c.graph` into `c.env`. Errors are collected and raised as one."""
    aliases = analyse(c.graph)
    problems = _offences(c.graph)
    if problems:
        raise _all_in_one(problems)
    for index, node in enumerate(c.graph.nodes):
        if _is_bookkeeping(c.graph, node):
            continue
        c.node = node
        c.b.at(_loc(node))
        try:
            _lower_node(c, node, aliases.writes.get(index, ()))
        except Unsupported as error:
            problems.append((node, f"{node.target}: {error.message}" + (f" ({error.hint})" if error.hint else "")))
            if len(problems) >= MAX_ERRORS:
                break
            _stand_in(c, node)
        except AnyIRError as error:
            raise error.at(f"{_place(node)}{clean(node.target)}") from None
    if problems:
        raise _all_in_one(problems)


def _all_in_one(problems: list[tuple[ExportedNode, str]]) -> Unsupported:
    lines = list(dict.fromkeys(f"{_place(node)}{clean(reason)}" for node, reason in problems))
    more = f"\n  and {len(lines) - MAX_ERRORS} more" if len(lines) > MAX_ERRORS else ""
    if len(lines) == 1:
        return Unsupported(lines[0])
    return Unsupported(f"{len(lines)} operators cannot be read:\n  " + "\n  ".join(lines[:MAX_ERRORS]) + more)


def _place(node: ExportedNode) -> str:
    source = f"{node.source[0]}:{node.source[1]}" if node.source else ""
    shown = " ".join(part for part in (clean(node.scope), clean(source)) if part)
    return f"{shown}: " if shown else ""


def _loc(node: ExportedNode) -> Loc:
    file, line = node.source or ("", 0)
    return Loc("torch", node.scope, file=file, line=line)


def _stand_in(c: Context, node: ExportedNode) -> None:
    """Placeholders for the results of a node that failed, so that later problems show too; the module is thrown away."""
    for name in _flat(node.outputs):
        meta = c.graph.tensors.get(name)
        if meta is not None:
            c.env[name] = c.b.graph.add_input(TensorType(meta.dtype, c.dims(meta)))


def _flat(outputs: Sequence[Any]) -> Iterable[str]:
    for output in outputs:
        if isinstance(output, tuple):
            yield from output
        elif output is not None:
            yield output


# ----------------------------------------------------------------------------------------------------- one node


def _lower_node(c: Context, node: ExportedNode, writes: Sequence[Write]) -> None:
    entry = entry_of(node.target)
    if entry is None:
        raise Unsupported("no handler")
    args = {name: resolve(c, value) for name, value in node.args.items()}
    result = entry(c, args)
    if is_inplace(node.target) and isinstance(result, Value):
        result = c.cast(result, c.dtype)
    _bind(c, node, result)
    for write in writes:
        if write.view is not None:
            result = _written_back(c, c.graph.nodes[write.view], result)
        for name in write.names:
            c.env[name] = result


def _written_back(c: Context, view: ExportedNode, value: Value) -> Value:
    """What a slice or selection was taken from, with `value` in its place."""
    scatter = find(f"aten.{packet(view.target)}_scatter")
    if scatter is None:
        raise Unsupported("no handler")
    args = {name: resolve(c, item) for name, item in view.args.items()}
    return scatter(c, {**args, "src": value})


def resolve(c: Context, value: Any) -> Any:
    """An argument with names replaced by what they stand for: values, dims, symbolic floats."""
    if isinstance(value, tuple):
        return tuple(resolve(c, item) for item in value)
    if not isinstance(value, Ref):
        return value
    found = c.env.get(value.name)
    if found is not None:
        return found
    if value.kind in ("int", "float") and value.name in c.graph.symbols:
        return c.symbols.number(c.graph.symbols[value.name])
    if value.kind == "bool":
        raise Unsupported("a condition on sizes that is known only at run time")
    raise Unsupported(f"{clean(value.name)!r} is a result that is not available")


def _bind(c: Context, node: ExportedNode, result: Any) -> None:
    """Give the results their names, after comparing them with what torch declares."""
    outputs = node.outputs
    if len(outputs) == 1 and isinstance(outputs[0], tuple):
        outputs = outputs[0]
    results = result if isinstance(result, tuple) else (result,)
    if len(outputs) > len(results):
        raise InvalidModel(f"{len(outputs)} results where there are {len(results)}")
    for name, value in zip(outputs, results, strict=False):
        if isinstance(name, tuple):
            raise InvalidModel("a list where one tensor is expected")
        if name is None:
            continue
        if value is None:
            if name in c.used:
                raise Unsupported(f"{clean(name)!r}, a by-product, is used")
            continue
        if name in c.graph.tensors:
            _check(c, value, c.graph.tensors[name])
        else:
            _bind_number(c, name, value)
        c.env[name] = value


def _bind_number(c: Context, name: str, value: Value) -> None:
    """A number read from a tensor: ints become sizes, floats stay scalars."""
    tree = c.graph.symbols.get(name)
    if isinstance(tree, str) and value.dtype is not None and not value.dtype.is_float:
        c.symbols.define(c.symbols.names.get(tree, tree), value)
    elif tree is None:
        raise InvalidModel(f"result {clean(name)!r} has no declared type")


def _check(c: Context, value: Value, meta: TensorMeta) -> None:
    """The declared type holds. Dims that inference cannot relate to the declared ones take the declared names."""
    declared = TensorType(meta.dtype, c.dims(meta))
    shape = value.shape
    if value.dtype is not meta.dtype or (shape is not None and len(shape) != len(declared.shape or ())):
        raise InvalidModel(f"torch declares the result as {declared}, its operands make it {value.type}")
    if shape is None:
        value.refine(declared)
        return
    merged = []
    for have, want in zip(shape, declared.shape or (), strict=True):
        same = dim_eq(have, want, c.b.module.facts)
        if same is False:
            raise InvalidModel(f"torch declares the result as {declared}, its operands make it {value.type}")
        merged.append(want if same is None and isinstance(have, Expr) else have)
    if tuple(merged) != shape and value.node is not None:
        value.refine(TensorType(value.dtype, merged))
    c.symbols.learn(value)


# ------------------------------------------------------------------------------------------------- whole program


class _Lowering:
    """One program on its way to a module."""

    def __init__(self, program: Exported, name: str) -> None:
        self.program = program
        self.module = Module(name)
        self.graph = self.module.add_graph("main")
        symbols = Symbols(_symbol_names(program))
        self.c = Context(Builder(self.graph), program.graph, symbols)
        self.c.used = used_names(program.graph)
        self.weights: dict[Any, Weight] = {}

    def run(self, names: Any) -> Module:
        module, program, c = self.module, self.program, self.c
        module.metadata["producer"] = program.producer
        take(module, program.notes)
        for symbol, (low, high) in sorted(program.ranges.items()):
            # torch traces with sizes of at least 2 in mind; that bound is its habit, not the model's.
            least = max(low or 0, 0) if low != 2 else 1
            module.facts.add_range(c.symbols.names.get(symbol, symbol), least, high, origin="guard")
        inputs = self._inputs()
        lower_graph(c)
        outputs = self._outputs()
        self.graph.set_outputs([value for _, value in outputs])
        renamed = _renaming(names, [slot.name for slot in inputs])
        ins = [Slot(renamed.get(s.name, s.name), s.path) for s in inputs]
        outs = [Slot(renamed.get(s.name, s.name), s.path) for s, _ in outputs]
        for slot, value in zip(ins, self.graph.inputs, strict=True):
            value.hint = slot.name
        module.add_signature("serving_default", self.graph, ins, outs)
        module.drop_unused_weights()
        self._take_over_keys()
        return module

    def _take_over_keys(self) -> None:
        """Derived weights get the key of what they were made from, where that is used by nobody else."""
        weights = self.module.weights
        for value, key in self.c.derived.items():
            weight = value.weight
            if weight is not None and key not in weights:
                weights.remove(weight)
                weight.key = value.hint = key
                weights.add(weight)

    # Inputs.

    def _inputs(self) -> list[Slot]:
        names = _input_paths(self.program)
        slots = []
        for index, spec in enumerate(self.program.inputs):
            if spec.kind in ("parameter", "buffer", "constant"):
                self.c.env[spec.arg.name] = self._weight(spec)
            elif isinstance(spec.arg, Ref):
                slots.append(self._user_input(spec.arg, names.get(index, Slot(spec.arg.name))))
        taken: set[str] = set()
        return [_unique(slot, taken) for slot in slots]

    def _user_input(self, ref: Ref, slot: Slot) -> Slot:
        graph = self.program.graph
        if ref.kind == "tensor":
            meta = graph.tensors[ref.name]
            value = self.graph.add_input(TensorType(meta.dtype, self.c.dims(meta)), slot.name)
            self.c.symbols.learn(value)
            self.c.env[ref.name] = value
            return slot
        tree = graph.symbols.get(ref.name)
        if ref.kind != "int" or not isinstance(tree, str):
            raise Unsupported(f"input {clean(slot.name)!r} is a {ref.kind} known only at run time")
        value = self.graph.add_input(TensorType(I64, ()), slot.name)
        self.c.symbols.define(self.c.symbols.names.get(tree, tree), value)
        return slot

    def _weight(self, spec: InputSpec) -> Value:
        payload = self.program.weights.get(spec.target)
        if payload is None:
            raise InvalidModel(f"no values for {spec.kind} {clean(spec.target)!r}")
        meta = self.program.graph.tensors[spec.arg.name]
        dtype, shape = DType.of(payload.array.dtype), tuple(payload.array.shape)
        if dtype is not meta.dtype or shape != meta.shape:
            raise InvalidModel(
                f"{spec.kind} {clean(spec.target)!r} is stored as {TensorType(dtype, shape)}, "
                f"the graph declares {meta.dtype}{list(meta.shape)}"
            )
        weight = self.weights.get(payload.storage)
        if weight is None:
            role = {"parameter": "param", "buffer": "buffer"}.get(spec.kind, "const")
            weight = Weight(spec.target, self._tensor(payload, dtype), role)
            self.weights[payload.storage] = weight
            self.module.weights.add(weight)
        elif spec.target != weight.key:
            weight.aliases = (*weight.aliases, spec.target)
        return self.module.constant(weight)

    def _tensor(self, payload: Payload, dtype: DType) -> Tensor:
        if payload.span is None:
            return ArrayTensor(payload.array, dtype)
        file, offset = payload.span
        if file not in self.module.files:
            self.module.files.append(file)
        return MappedTensor(file, offset, payload.array.nbytes, dtype, payload.array.shape)

    # Outputs.

    def _outputs(self) -> list[tuple[Slot, Value]]:
        paths = _output_paths(self.program)
        found = []
        for position, spec in enumerate(self.program.outputs):
            if spec.kind != "user":
                what = spec.kind.replace("_", " ")
                raise Unsupported(
                    f"the program has a {what}: it changes {clean(spec.target)!r} when it runs",
                    hint="call .eval() on the module before it is exported, and keep state outside of forward",
                )
            slot = paths[position] if position < len(paths) else Slot(f"output_{position}")
            value = self._output(spec.arg)
            if value is not None:
                found.append((slot, value))
        taken: set[str] = set()
        return [(_unique(slot, taken), value) for slot, value in found]

    def _output(self, arg: Any) -> Value | None:
        """A result as a value; None has none. Numbers become scalars."""
        found = resolve(self.c, arg)
        if found is None or isinstance(found, Value):
            return found
        if isinstance(found, bool):
            return self.c.const(found, BOOL)
        if isinstance(found, int | Expr):
            return self.c.value(found, I64)
        if isinstance(found, str | tuple | complex):
            raise Unsupported(f"a result of type {type(found).__name__}")
        return self.c.value(found, F32)


def used_names(graph: ExportedGraph) -> frozenset[str]:
    """Names that a node or the outputs use."""
    found = {ref.name for node in graph.nodes for ref in refs(tuple(node.args.values()))}
    found.update(ref.name for ref in refs(tuple(graph.outputs)))
    return frozenset(found)


def _symbol_names(program: Exported) -> dict[str, str]:
    """torch's symbols by better names: the user's, and N for the first dimension of the first input."""
    names = dict(program.symbol_names)
    for spec in program.inputs:
        if spec.kind != "user" or not isinstance(spec.arg, Ref) or spec.arg.kind != "tensor":
            continue
        shape = program.graph.tensors[spec.arg.name].shape
        if shape and isinstance(shape[0], str):
            if shape[0] not in names and "N" not in (*names.values(), *program.ranges):
                names[shape[0]] = "N"
            break
    return names


def _input_paths(program: Exported) -> dict[int, Slot]:
    """The slot of each user input by its place among all inputs: forward's argument names, then the place inside."""
    users = [i for i, spec in enumerate(program.inputs) if spec.kind in ("user", "literal")]
    leaves = program.in_tree.leaves() if program.in_tree is not None else []
    if len(leaves) != len(users):
        return {}
    slots = {}
    for index, path in zip(users, leaves, strict=True):
        if len(path) < 2:
            return {}
        group, first, *rest = path
        if group == 0 and isinstance(first, int):
            name = program.arg_names[first] if first < len(program.arg_names) else f"input_{first}"
        else:
            name = str(first)
        nested = (name, *rest) if rest else ()
        slots[index] = Slot(".".join(map(str, (name, *rest))), nested)
    return slots


def _output_paths(program: Exported) -> list[Slot]:
    """Output slots in order: dict keys are names, positions `output_i`, what lies deeper joined with dots."""
    if program.out_tree is None:
        return []
    slots = []
    for path in program.out_tree.leaves():
        head = path[0] if path else 0
        name = f"output_{head}" if isinstance(head, int) else head
        flat = len(path) <= 1 and not (path and isinstance(head, str))
        slots.append(Slot(".".join(map(str, (name, *path[1:]))), () if flat else path))
    return slots


def _unique(slot: Slot, taken: set[str]) -> Slot:
    name, count = slot.name, 1
    while name in taken:
        name, count = f"{slot.name}_{count}", count + 1
    taken.add(name)
    return Slot(name, slot.path)


def _renaming(names: Any, inputs: list[str]) -> Mapping[str, str]:
    """`names` as a mapping: it may be a sequence of input names, or a mapping from old names to new ones."""
    if names is None:
        return {}
    if isinstance(names, Mapping):
        return names
    if isinstance(names, str) or len(names) > len(inputs):
        raise UsageError(f"names: a sequence of at most {len(inputs)} input names is expected, or a mapping")
    return dict(zip(inputs, names, strict=False))


__all__ = ["entry_of", "lower", "lower_graph", "unknown_operators"]
