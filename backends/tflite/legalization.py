"""Legalisation: half and double floats to float32, rich ops decomposed, layout assigned, the rest lowered, then fused.

Works on a clone; numerics are those of the core kernels but for rounding. The result holds only nodes of the table.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...ir import storage
from ...ir.builder import Builder
from ...ir.dims import Expr
from ...ir.errors import Unsupported, UsageError
from ...ir.graph import Graph, Module
from ...ir.opdef import PURE, Trait
from ...ir.symbols import settle_symbols
from ...ir.types import BF16, F16, F32, F64, I8, I16, U8, DType, TensorType
from ...ir.value import Node, Value
from ...kernels.budget import OverBudget, hold, nbytes, spending
from ...kernels.run import run_node
from ...passes.decompose import decomposable, decompose
from ...passes.layout import assign_layout, simplify_transposes
from ...passes.optimize.fold import allowance
from .emit.integer import Parameters, parameters
from .fuse import fuse
from .integers import finish, to_hybrid, to_integers
from .lower import lowerings
from .lower.norm import BEFORE_LAYOUT
from .lower.resize import native
from .qdq import has_integers, is_half, lift, make_signed, prepare, rows_of_blocks, settle
from .table import DEFAULT_PROFILE, Profile, legal, rows, storable
from .wide import narrow

_NARROWED = (F64, F16, BF16)
_SHOWN = 20


class Offender(NamedTuple):
    """Something that TFLite cannot express: the op (or `input`, `output`), its place, and the reason."""

    op: str
    where: str
    reason: str

    def __str__(self) -> str:
        return f"{self.op} at {self.where}: {self.reason}" if self.where else f"{self.op}: {self.reason}"


def legalize(
    module: Module, *, signature: str | None = None, profile: Profile = DEFAULT_PROFILE, hybrid: bool = False
) -> Module:
    """A legal clone. `hybrid` gives integer weights to the kernels that quantise their data on the way, also where the
    model does not ask for it. Raises Unsupported naming every offender, UsageError for an unknown signature."""
    made, found = _attempt(module, signature, profile, hybrid)
    if found:
        more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        parts = f"{len(found)} part{'s' * (len(found) > 1)} of the model"
        raise Unsupported(
            f"TFLite cannot express {parts}: {'; '.join(map(str, found[:_SHOWN]))}{more}",
            code="U201",
            where=module.name,
            hint="cut these parts off, or write another format",
        )
    settle_symbols(made)
    return made


def offenders(module: Module, *, signature: str | None = None, profile: Profile = DEFAULT_PROFILE) -> list[Offender]:
    return _attempt(module, signature, profile)[1]


def support(name: str) -> str:
    """direct: TFLite has it; decomposed: it is written as other ops; -: it is refused."""
    if name in rows():
        return "direct"
    return "decomposed" if name in lowerings() or decomposable(name, _writes) else "-"


def _writes(name: str) -> bool:
    return support(name) != "-"


def _chosen(module: Module, signature: str | None) -> Module:
    """A clone with one signature only, if one is asked for."""
    made = module.clone()
    if signature is None:
        return made
    if signature not in made.signatures:
        raise UsageError(f"no signature {signature!r}", hint=f"there are: {', '.join(made.signatures)}")
    made.signatures = {signature: made.signatures[signature]}
    made.graphs = {name: g for name, g in made.graphs.items() if g is made.signatures[signature].graph}
    return made


def _attempt(
    module: Module, signature: str | None, profile: Profile, hybrid: bool = False
) -> tuple[Module, list[Offender]]:
    made = _chosen(module, signature)
    unranked = [
        node
        for node in made.all_nodes()
        if any(isinstance(v.type, TensorType) and v.rank is None for v in node.results)
    ]
    if unranked:
        return made, [Offender(node.name, str(node.loc), "its result's rank is not known") for node in unranked]
    to_float32(made)
    _drop_empty(made)
    integers = has_integers(made)
    for graph in list(made.all_graphs()) if integers else ():
        prepare(graph)
    decompose(made, _before_layout, BEFORE_LAYOUT)
    _tidy(made)
    assign_layout(made)
    left = _lower(made, profile)
    _tidy(made)
    if integers:
        _to_integers(made, hybrid)
        left |= _lower(made, profile, weights=False)
    for graph in list(made.all_graphs()):
        fuse(graph)
        simplify_transposes(graph)
    _tidy(made, weights=False)
    _separate_outputs(made)
    _separate_constants(made)
    made.drop_unused_weights()
    return made, _remaining(made, left, profile)


def _to_integers(module: Module, hybrid: bool) -> None:
    """Quantised operators where the model has quantize and dequantize on all sides of a float one."""
    for graph in list(module.all_graphs()):
        lift(graph)
        make_signed(graph)
        fuse(graph)
        sweep(graph)
        settle(graph)
        module.diagnostics += to_integers(graph)
        settle(graph)
        to_hybrid(graph, hybrid)
        rows_of_blocks(graph)
        finish(graph)
        sweep(graph)
        narrow(graph)


def _lower(module: Module, profile: Profile, weights: bool = True) -> dict[Node, str]:
    """Lower until the same nodes are left twice: one that was lowered may have given a declined one what its rule lacked.
    (Edits are no sign of progress: a rule that declines may have made nodes and taken them back.) With `weights`, quantize
    and dequantize are left alone, since neighbours may take them in."""

    def wanted(node: Node) -> str | None:
        return None if weights and node.name in ("quantize", "dequantize") else legal(node, profile)

    before: dict[Node, str] | None = None
    while True:
        left = decompose(module, wanted, lowerings())
        if before is not None and left.keys() == before.keys():
            return left
        before = left


def _remaining(module: Module, reasons: dict[Node, str], profile: Profile) -> list[Offender]:
    found = []
    for graph in module.graphs.values():
        for kind, values in (("input", graph.inputs), ("output", graph.outputs)):
            bad = [(v, storable(v, profile)) for v in values]
            found += [Offender(kind, v.hint, reason) for v, reason in bad if reason]
    for node in module.all_nodes():
        reason = legal(node, profile)
        if reason is not None:
            found.append(Offender(node.name, str(node.loc), reasons.get(node, reason)))
    return found


# ------------------------------------------------------------------------------------------------ before the layout

# Ops over images that have no kernel: taken apart first, so that layout assignment sees what they are made of.
_TAKEN_APART = frozenset(
    [
        "batch_norm",
        "instance_norm",
        "group_norm",
        "lp_pool",
        "global_lp_pool",
        "adaptive_average_pool",
        "adaptive_max_pool",
        "mean_variance_normalization",
        "lp_normalization",
        "max_pool_with_indices",
        "max_unpool",
        "qlinear_conv",
        "hardmax",
        "grid_sample",
    ]
)


def _before_layout(node: Node) -> str | None:
    if node.name in _TAKEN_APART:
        return "no kernel"
    if node.name == "resize" and native(node) is None:
        return "another interpolation"
    if node.name == "lrn" and (node.attr("size") % 2 == 0 or node.operands[0].rank != 4):
        return "an even window"
    if node.name in ("depth_to_space", "space_to_depth") and node.attr("mode") == "CRD":
        return "column-row-depth order"
    return None


# -------------------------------------------------------------------------------------------------------- dtypes


def to_float32(module: Module) -> None:
    """Compute f64, f16 and bf16 in f32: constants are converted, interfaces keep their dtype behind a cast."""
    graphs = list(module.all_graphs())
    found = {v.dtype for g in graphs for v in (*g.inputs, *(r for node in g.nodes() for r in node.results))}
    if not found & set(_NARROWED):
        return
    if F64 in found:
        module.diagnostics.append("TFLite computes float64 in float32")
    for graph in module.graphs.values():
        _Narrow(module).graph(graph)


class _Narrow:
    """Rebuilds every node that touches such a dtype."""

    def __init__(self, module: Module) -> None:
        self.module = module
        self.constants: dict[Value, Value] = {}

    def graph(self, graph: Graph, interface: bool = True) -> None:
        places: dict[Value, Value] = {}
        b = Builder(graph, before=graph.first)
        for value in graph.inputs:
            if value.dtype in _NARROWED:
                if interface:
                    places[value] = b.cast(value, to=F32)
                else:
                    value.type = TensorType(F32, value.shape)  # a region's own input: its node feeds it f32
        wanted = [v.dtype for v in graph.outputs]
        for node in list(graph.nodes()):
            if not (node.name == "cast" and node.result in places.values()):
                self._node(node, places)
        b = Builder(graph, before=graph.return_node)
        outputs = []
        for value, dtype in zip(graph.outputs, wanted, strict=True):
            made = places.get(value, value) if not value.is_const else self._constant(b, value)
            back = interface and dtype in _NARROWED and made.dtype is F32
            outputs.append(b.cast(made, to=dtype) if back else made)
        graph.set_outputs(outputs)
        for node in list(graph.reversed()):
            if node.results and not any(v.n_uses for v in node.results) and any(v in places for v in node.results):
                node.erase()

    def _node(self, node: Node, places: dict[Value, Value]) -> None:
        touched = any(v.dtype in _NARROWED or v in places for v in (*node.inputs(), *node.results))
        for region in node.regions:
            self.graph(region, interface=False)
        if not touched or is_half(node):
            return
        b = Builder(node.graph, before=node, loc=node.loc)
        operands = [
            None if v is None else self._constant(b, v) if v.is_const else places.get(v, v) for v in node.operands
        ]
        if node.name == "bitcast":  # bits are not a number: what it reads keeps its dtype
            operands = [
                v if v.dtype is old.dtype else b.cast(v, to=old.dtype)
                for v, old in zip(operands, node.operands, strict=True)
            ]
            node.set_operands(operands)
            return
        attrs = {k: F32 if isinstance(v, DType) and v in _NARROWED else v for k, v in node.attrs.items()}
        if node.name == "cast" and attrs["to"] is operands[0].dtype:
            places[node.result] = self._rounded(b, operands[0], node.operands[0].dtype, node.attr("to"))
            return
        regions = node.regions
        node.regions = ()
        made = b.make(node.op, tuple(operands), attrs, regions)
        places |= dict(zip(node.results, made.results, strict=True))

    @staticmethod
    def _rounded(b: Builder, value: Value, source: DType, to: DType) -> Value:
        """A cast to a half float that the model asks for rounds; one that only undoes another is gone."""
        if to not in (F16, BF16) or source is to:
            return value
        return b.cast(b.cast(value, to=to), to=F32)

    def _constant(self, b: Builder, value: Value) -> Value:
        if value.dtype not in _NARROWED:
            return value
        if value not in self.constants:
            weight = value.weight
            with np.errstate(over="ignore"):
                array = value.array().astype(np.float32)
            made = b.const(array, key=weight.key, role=weight.role, origin="cast f32")
            self.constants[value] = made
        return self.constants[value]


# ------------------------------------------------------------------------------------------------------ cleaning up


def _tidy(module: Module, weights: bool = True) -> None:
    with spending(allowance(module)):
        for graph in list(module.all_graphs()):
            fold(graph, weights)
            sweep(graph)
    module.drop_unused_weights()


#: Integer weights of fewer elements are stored as floats where floats are wanted.
_FEW = 256


def fold(graph: Graph, weights: bool = True) -> None:
    """Compute what has constant operands only, within the limits of folding; bits are those of the reference kernels. What
    the budget does not pay for stays.

    Weights in integers and halves stay as they are: all with `weights`, else those of some size that TFLite can read.
    """
    for node in list(graph.nodes()):
        if (node.name == "dequantize" or is_half(node)) and (weights or _stays(node)):
            continue
        if not node.operands or node.regions or not node.has(PURE) or node.has(Trait.RANDOM):
            continue
        if not all(v.is_const for v in node.inputs()) or not all(_foldable(v) for v in node.results):
            continue
        try:
            made = run_node(node, [None if v is None else v.array() for v in node.operands])
            size = nbytes(made)
            if size > storage.limit("fold_bytes"):  # of strings, whose type does not tell
                continue
            hold(size)
        except OverBudget:
            continue
        b = Builder(graph, before=node)
        source = next(node.inputs()).weight
        keep = source.role != "const"
        named = {"key": source.key, "role": source.role, "origin": node.name} if keep else {}
        node.replace(*(b.const(np.asarray(a), v.dtype, **named) for a, v in zip(made, node.results, strict=True)))


def _stays(node: Node) -> bool:
    type_ = node.result.type
    count = type_.numel if isinstance(type_, TensorType) else None
    return legal(node) is None and isinstance(count, int) and count >= _FEW


def _foldable(value: Value) -> bool:
    type_ = value.type
    if not isinstance(type_, TensorType) or type_.dtype is None or not type_.is_static:
        return False
    count = type_.numel
    return isinstance(count, int) and type_.dtype.nbytes(count) <= storage.limit("fold_bytes")


def sweep(graph: Graph) -> None:
    """Erase what nothing uses."""
    for node in list(graph.reversed()):
        if node.has(PURE) and not any(value.n_uses for value in node.results):
            node.erase()


def _separate_outputs(module: Module) -> None:
    """One tensor under two output names confuses signature maps: copy it."""
    for graph in module.all_graphs():
        seen: set[Value] = set()
        b = Builder(graph, before=graph.return_node)
        outputs = []
        for value in graph.outputs:
            outputs.append(_copy(b, value) if value in seen else value)
            seen.add(value)
        graph.set_outputs(outputs)


def _computed(node: Node) -> bool:
    """A quantize or dequantize whose scale or zero point is computed: it is refused."""
    return node.name in ("quantize", "dequantize") and not all(v.is_const for v in list(node.inputs())[1:])


def _separate_constants(module: Module) -> None:
    """Integers that stand for different numbers are different tensors, however equal (biases of zeros): the scale is the
    tensor's."""
    known: dict[Value, list[tuple[Parameters, Value]]] = {}
    for node in list(module.all_nodes("pad")):
        fill = node.operand("value")
        if fill is not None and fill.is_const and fill.n_uses > 1 and fill.dtype in (I8, U8, I16):
            node.set_operand(2, _own_copy(module, fill))  # what is filled in stands for a number in the data's scale
    for node in module.all_nodes():
        if not any(v.is_const for v in node.inputs()) or _computed(node):
            continue
        for value, made in parameters(node):
            if not value.is_const:
                continue
            forms = known.setdefault(value, [(made, value)])
            own = next((other for like, other in forms if like.same(made)), None)
            if own is None:
                own = _own_copy(module, value)
                forms.append((made, own))
            if own is not value:
                node.set_operands(own if v is value else v for v in node.operands)


def _own_copy(module: Module, value: Value) -> Value:
    """A constant of the same elements that nobody else uses."""
    weight = value.weight
    return module.add_weight(weight.wanted, weight.tensor, weight.role, weight.origin)  # type: ignore[union-attr]


def _drop_empty(module: Module) -> None:
    """Results without elements become constants: several kernels crash on them, and there is nothing to compute."""
    for graph in list(module.all_graphs()):
        for node in list(graph.nodes()):
            if node.results and node.has(PURE) and all(_is_empty(v) for v in node.results):
                b = Builder(graph, before=node)
                node.replace(*(b.const(np.zeros(v.shape or (), v.dtype.numpy)) for v in node.results))


def _is_empty(value: Value) -> bool:
    return isinstance(value.type, TensorType) and value.type.is_static and 0 in (value.shape or ())


def _copy(b: Builder, value: Value) -> Value:
    """A reshape to the same shape."""
    unknown = sum(isinstance(d, Expr) for d in value.shape or ())
    if value.shape is None or unknown > 1:
        return b.reshape(value, b.call("tfl.shape", (value,)).result)
    return b.reshape(value, tuple(-1 if isinstance(d, Expr) else d for d in value.shape), allowzero=0 in value.shape)
