"""Our type inference beside its peers': onnx.shape_inference (data propagation on) and onnxruntime's symbolic inference.

What a file declares of inner values and outputs is taken away first: only what is inferred counts. Values are matched by
name. A peer's dim is a number, an expression over input symbols that sympy evaluates, or a symbol that it made up.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import re
from collections import ChainMap
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from anyir.formats.onnx.dtypes import from_code
from anyir.frontends.onnx import read
from anyir.ir.dims import Expr, evaluate, match_dim, symbols
from anyir.ir.errors import AnyIRError
from anyir.ir.expr import ANONYMOUS
from anyir.ir.graph import Module, Node, Value
from anyir.ir.types import STRING, OptionalType, SequenceType, TensorType
from anyir.kernels.run import bind_inputs, run_graph, run_node

#: Values of the input symbols under which symbolic dims are compared: large enough that nothing is clamped by chance.
BINDINGS = (lambda i: 96 + 32 * i, lambda i: 160 + 64 * i)


@dataclass
class Peer:
    """What one peer says of a value: dtype code (0: unknown) and dims (None: unknown rank), each an int, text or None."""

    code: int
    dims: tuple[int | str | None, ...] | None


@dataclass
class Comparison:
    """Values counted by who knows more, and what is wrong, as text by value name."""

    values: int = 0
    stronger: int = 0
    equal: int = 0
    weaker: dict[str, str] = field(default_factory=dict)
    contradicted: dict[str, str] = field(default_factory=dict)

    def add(self, other: Comparison, prefix: str) -> None:
        self.values += other.values
        self.stronger += other.stronger
        self.equal += other.equal
        self.weaker.update({f"{prefix}/{name}": why for name, why in other.weaker.items()})
        self.contradicted.update({f"{prefix}/{name}": why for name, why in other.contradicted.items()})

    def __str__(self) -> str:
        return (
            f"{self.values} values: ours stronger {self.stronger}, equal {self.equal}, weaker {len(self.weaker)}, "
            f"contradicted {len(self.contradicted)}"
        )


def symbolic(model: Any) -> Any:
    """A copy of the model whose inputs have symbolic dims, `d5` for each 5: equal sizes are one symbol, 0 and 1 stay
    numbers, and so do the lengths of integer vectors, which are mostly shapes."""
    copy = type(model)()
    copy.CopyFrom(model)
    fixed = {i.name for i in copy.graph.initializer}
    for info in copy.graph.input:
        tensor = info.type.tensor_type
        if info.name not in fixed and not (len(tensor.shape.dim) == 1 and tensor.elem_type in (6, 7)):
            for dim in tensor.shape.dim:
                if dim.dim_value > 1:
                    dim.dim_param = f"d{dim.dim_value}"
    return copy


def undeclared(model: Any) -> Any:
    """A copy of the model that says nothing of inner values and nothing of the outputs' shapes."""
    copy = type(model)()
    copy.CopyFrom(model)
    pending = [copy.graph]
    while pending:
        graph = pending.pop()
        del graph.value_info[:]
        for info in graph.output if graph is copy.graph else (*graph.input, *graph.output):
            if info.type.HasField("tensor_type"):
                info.type.tensor_type.ClearField("shape")
        pending += [g for node in graph.node for a in node.attribute for g in (a.g, *a.graphs) if g.node]
    return copy


# ------------------------------------------------------------------------------------------------------ peers


def by_onnx(model: Any) -> Any:
    """The model with onnx's inferred types, strictly where it can; None when it gives up."""
    from onnx import shape_inference

    for strict in (True, False):
        with contextlib.suppress(Exception):
            return shape_inference.infer_shapes(model, strict_mode=strict, data_prop=True)
    return None


def by_onnxruntime(model: Any) -> Any:
    """The model with the types that onnxruntime's symbolic inference finds, complete or not; None when it gives up."""
    from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference, get_opset

    logging.getLogger("onnxruntime.tools.symbolic_shape_infer").setLevel(logging.CRITICAL)
    with contextlib.suppress(Exception):
        if (get_opset(model) or 0) < 7:
            return None
        peer = SymbolicShapeInference(2**31 - 1, False, False, 0)
        peer._preprocess(model)
        with contextlib.suppress(Exception):
            while peer.run_:
                peer._infer_impl()
            peer._update_output_from_vi()
        return peer.out_mp_
    return None


def said(model: Any) -> dict[str, Peer]:
    """What a peer's model says, by value name; names that stand for several values are left out."""
    found: dict[str, Peer | None] = {}
    pending = [model.graph]
    while pending:
        graph = pending.pop()
        for name, info in {i.name: i for i in (*graph.input, *graph.value_info, *graph.output)}.items():
            kind = info.type.WhichOneof("value")
            if kind == "tensor_type":
                tensor = info.type.tensor_type
                dims = tuple(map(_dim, tensor.shape.dim)) if tensor.HasField("shape") else None
                found[name] = None if name in found else Peer(tensor.elem_type, dims)
        pending += [g for node in graph.node for a in node.attribute for g in (a.g, *a.graphs) if g.node]
    return {name: peer for name, peer in found.items() if peer is not None}


def _dim(dim: Any) -> int | str | None:
    return dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else dim.dim_param or None


# ------------------------------------------------------------------------------------------------------- ours


def named(module: Module) -> dict[str, Value]:
    """Values by the names that the file gave them; a name that several values have is left out."""
    found: dict[str, list[Value]] = {}
    for graph in module.all_graphs():
        for value in (*graph.inputs, *(v for node in graph.nodes() for v in node.results)):
            if value.hint:
                found.setdefault(value.hint, []).append(value)
    unique = {name: values[0] for name, values in found.items() if len(values) == 1}
    signature = module.signature
    unique.update(zip((slot.name for slot in signature.outputs), signature.graph.outputs, strict=True))
    return unique


# ------------------------------------------------------------------------------------------------- comparison


class Judge:
    """Compares one model's values. `solved` maps the symbols of a peer's inputs to our dims."""

    def __init__(self, module: Module, peers: list[dict[str, Peer]]) -> None:
        self.module = module
        self.peers = peers
        inputs = dict(zip((s.name for s in module.signature.inputs), module.main.inputs, strict=True))
        known = dict.fromkeys(n for v in inputs.values() for d in v.shape or () for n in _names(d))
        self.bindings = [{name: at(i) for i, name in enumerate(known)} for at in BINDINGS]
        self.solved: list[dict[str, Any]] = [self._solve(peer, inputs) for peer in peers]
        self.same: list[dict[str, Any]] = [{} for _ in peers]

    def _solve(self, peer: dict[str, Peer], inputs: dict[str, Value]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in inputs.items():
            if name in peer and peer[name].dims is not None and value.shape is not None:
                for theirs, ours in zip(peer[name].dims or (), value.shape, strict=True):
                    if isinstance(theirs, str) and found.setdefault(theirs, ours) is not ours:
                        found[theirs] = None  # such as "?", which stands for any size
        return {theirs: ours for theirs, ours in found.items() if ours is not None}

    def run(self) -> Comparison:
        made = Comparison()
        ours = named(self.module)
        for slot in self.module.signature.inputs:
            ours.pop(slot.name, None)
        for name in dict.fromkeys(name for peer in self.peers for name in peer):
            if name in ours:
                self._value(name, ours[name], made)
        return made

    def _value(self, name: str, value: Value, made: Comparison) -> None:
        made.values += 1
        type_ = value.type
        if not isinstance(type_, TensorType):
            if not isinstance(type_, SequenceType | OptionalType):
                made.contradicted[name] = f"{type_} is a tensor for a peer"
            return
        stronger = [self._against(index, name, value, made) for index, peer in enumerate(self.peers) if name in peer]
        if name in made.weaker or name in made.contradicted:
            return
        if all(stronger):
            made.stronger += 1
        else:
            made.equal += 1

    def _against(self, index: int, name: str, value: Value, made: Comparison) -> bool:
        """Whether ours says more than this peer; notes where it says less or something else."""
        peer, shown = self.peers[index][name], f"{value.type}, a peer says {self.peers[index][name]}"
        if peer.code and value.dtype is None:
            made.weaker[name] = shown
        elif peer.code and from_code(peer.code, name) is not value.dtype:
            made.contradicted[name] = shown
        if peer.dims is None:
            return value.shape is not None
        if value.shape is None:
            made.weaker[name] = shown
            return False
        if len(value.shape) != len(peer.dims):
            made.contradicted[name] = shown
            return False
        verdicts = [self._dim(index, ours, theirs) for ours, theirs in zip(value.shape, peer.dims, strict=True)]
        if "other" in verdicts:
            made.contradicted[name] = shown
        elif "less" in verdicts:
            made.weaker[name] = shown
        return "more" in verdicts or (not peer.code and value.dtype is not None)

    def _dim(self, index: int, ours: Any, theirs: int | str | None) -> str:
        """`more`, `same`, `less` or `other`: how our dim stands to a peer's."""
        if theirs is None:
            return "more"
        if isinstance(theirs, int):
            return "less" if isinstance(ours, Expr) else "same" if ours == theirs else "other"
        numbers = self._evaluated(index, theirs)
        if numbers is None:  # a symbol that the peer made up: equal ones must be equal in ours
            if not isinstance(ours, Expr):
                return "more"
            first = self.same[index].setdefault(theirs, ours)
            if first is ours:
                return "more" if not made_up(ours) else "same"
            return "more" if not made_up(ours) and not made_up(first) else "less"
        if not isinstance(ours, Expr):
            return "more"
        if made_up(ours):
            return "less"
        return "same" if [evaluate(ours, binding) for binding in self.bindings] == numbers else "other"

    def _evaluated(self, index: int, text: str) -> list[int] | None:
        """A peer's expression under our bindings; None where it holds a symbol of the peer's own."""
        expression = parsed(text)
        if expression is None:
            return None
        names = {str(s) for s in expression.free_symbols}
        solved = self.solved[index]
        if text in solved:  # an input's dim whose name looks like a formula
            return None if made_up(solved[text]) else [evaluate(solved[text], b) for b in self.bindings]
        if not names <= set(solved) or any(made_up(solved[n]) for n in names):
            return None
        values = []
        for binding in self.bindings:
            got = expression.subs({s: evaluate(solved[str(s)], binding) for s in expression.free_symbols})
            if not got.is_Integer:
                return None
            values.append(int(got))
        return values


def _names(dim: Any) -> tuple[str, ...]:
    return symbols(dim) if isinstance(dim, Expr) else ()


def made_up(dim: Any) -> bool:
    """It holds a symbol of which nothing is known."""
    return any(ANONYMOUS.match(name) for name in _names(dim))


@functools.cache
def parsed(text: str) -> Any:
    """A sympy expression; a name that sympy cannot read is one symbol; None for what is neither."""
    import sympy  # noqa: TID251  (the peers write sympy expressions)

    if not re.fullmatch(r"[A-Za-z_0-9.\s+*/%(),-]+", text):
        return sympy.Symbol(text)
    names = {n: sympy.Symbol(n, integer=True) for n in re.findall(r"[A-Za-z_][A-Za-z_0-9.]*", text)}
    functions = {"floor": sympy.floor, "ceiling": sympy.ceiling, "Max": sympy.Max, "Min": sympy.Min, "Mod": sympy.Mod}
    try:
        return sympy.sympify(text, locals={**names, **{k: v for k, v in functions.items() if f"{k}(" in text}})
    except (sympy.SympifyError, SyntaxError, TypeError, AttributeError):
        return sympy.Symbol(text)


def loaded(model: Any, folder: Any = None) -> Module | None:
    """The model in our IR; None where it is refused."""
    try:
        return read(model, folder=folder)
    except AnyIRError:
        return None


def compared(model: Any, folder: Any = None) -> Comparison | None:
    """Our inference against the peers'; None where our frontend refuses the model, whose external data is in `folder`."""
    bare = undeclared(model)
    module = loaded(bare, folder)
    if module is None:
        return None
    peers = [said(found) for found in (by_onnx(bare), by_onnxruntime(bare)) if found is not None]
    return Judge(module, peers).run()


# ---------------------------------------------------------------------------------------------------- soundness


class Witness:
    """Runs a module on the kernels and holds each result against its inferred type and known elements.

    Input symbols have the sizes of the inputs; a symbol that inference made up gets its value where it is first met and
    must keep it. What is made up in a region may change from one run of the region to the next.
    """

    def __init__(self, module: Module) -> None:
        self.module = module
        self.bound: dict[Any, dict[str, int]] = {}
        self.lies: dict[str, str] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.checked = 0

    def run(self, inputs: dict[str, Any]) -> None:
        graph = self.module.main
        arrays = bind_inputs(self.module.signature, inputs)
        self.bound[graph] = {}
        for value, array in zip(graph.inputs, arrays, strict=True):
            self._value(graph, value, array)
        run_graph(graph, arrays, evaluate=self._evaluate)

    def _evaluate(self, node: Node, operands: Any) -> tuple[Any, ...]:
        graph = node.graph
        if graph is not self.module.main and node is graph.first:
            self.bound[graph] = {}
        made = run_node(node, operands, evaluate=self._evaluate)
        for value, array in zip(node.results, made, strict=True):
            self._value(graph, value, array)
        return made

    def _value(self, graph: Any, value: Value, array: Any) -> None:
        type_ = value.type
        if not isinstance(type_, TensorType) or array is None:
            return
        array = np.asarray(array)
        self.checked += 1
        if value.hint:
            self.shapes[value.hint] = array.shape
        right = type_.dtype in (None, STRING) or type_.dtype.numpy == array.dtype
        if type_.shape is not None:
            right = right and len(type_.shape) == array.ndim
            right = right and all(self._fits(graph, d, n) for d, n in zip(type_.shape, array.shape, strict=True))
        if value.elems is not None:
            pairs = zip(value.elems, array.reshape(-1), strict=True)
            right = right and all(e is None or self._fits(graph, e, int(x)) for e, x in pairs)
        if not right:
            found = f"{array.dtype}{list(array.shape)} {array.reshape(-1)[:8] if value.elems else ''}"
            self.lies[f"{value.owner!r} {value.hint}"] = f"{type_} {value.elems or ''}, the kernels make {found}"

    def _fits(self, graph: Any, dim: Any, size: int) -> bool:
        if not isinstance(dim, Expr):
            return dim == size
        known = self._known(graph)
        solved = match_dim(dim, size, {name: known[name] for name in symbols(dim) if name in known})
        if solved is None:
            return False
        self.bound.setdefault(graph, {}).update(solved)
        return True

    def _known(self, graph: Any) -> ChainMap[str, int]:
        """What the symbols seen so far stand for, in this graph and those around it."""
        maps = []
        while graph is not None:
            maps.append(self.bound.setdefault(graph, {}))
            graph = graph.parent.graph if graph.parent is not None else None
        return ChainMap(*maps)


__all__ = ["Comparison", "Witness", "compared", "loaded", "made_up", "symbolic", "undeclared"]
