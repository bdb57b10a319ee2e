"""The pass `quantize`: integers in place of floats, with ranges from calibration data.

    quantize                                              int8 weights and activations
    quantize{activations=int16}                           16x8: int16 activations, int8 weights
    quantize{activations=dynamic}                         activations quantised as they come: needs no data
    quantize{activations=none,weights=int4,per=block:32}   weights alone;  weights=float16 halves them

Must not import a framework.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..ir.errors import UsageError
from ..ir.graph import Graph, Module, Node
from ..kernels.threads import one_thread
from ..passes.manager import Context, Feeds, module_pass
from ..passes.quantize.insert import Inserter, WeightStyle, ranges_of
from ..passes.quantize.interface import integer_interface
from ..passes.quantize.params import ACTIVATIONS, SYMMETRIC, WEIGHTS, Grid
from ..passes.quantize.plan import Layout, Plan, make_plan
from ..passes.quantize.weights import quantise_tables, quantise_weights, to_half
from ..passes.select import layer_name, select, selector
from .correct import SAMPLES, Few, float_means
from .correct import correct as correct_biases
from .sensitivity import sensitivities

#: What an override may make of a layer.
PRECISIONS = ("float", *ACTIVATIONS)
INTEGERS = tuple(ACTIVATIONS)


@dataclass(frozen=True)
class Settings:
    """The options of `quantize`, checked. `overrides` are (selector, precision) pairs, later ones first."""

    weights: str = "int8"
    activations: str = "int8"
    observer: str = "output"
    per: str = "channel"
    block: int = 0
    symmetric: bool = False
    where: str = ""
    overrides: tuple[tuple[Callable[[Node], bool], str], ...] = ()
    keep: int = 0
    keep_as: str = "float"
    correct: bool = True
    io: str = "float"
    grids: Mapping[str, Grid] = field(default_factory=dict)

    @property
    def style(self) -> WeightStyle:
        return WeightStyle(WEIGHTS[self.weights], self.per != "tensor", self.block, self.weights == "int4")

    def wanted(self, module: Module) -> Callable[[Node], str]:
        """Which grid each node shall compute on. Raises UsageError where an expression fits no node."""
        chosen = set(select(module, self.where)) if self.where else None

        def grid(node: Node) -> str:
            for fits, precision in self.overrides:
                if fits(node):
                    return precision
            return self.activations if chosen is None or node in chosen else "float"

        return grid


def check_settings(given: Mapping[str, Any]) -> Settings:
    """The options as `Settings`. Raises UsageError (R023) that says what may stand there."""
    options = dict(given)
    options["overrides"] = _overrides(options["overrides"])
    options["per"], options["block"] = _granularity(options["per"])
    made = Settings(**options, grids=SYMMETRIC if options["symmetric"] else ACTIVATIONS)
    if made.activations != "none" and made.weights == "float16":
        _refuse("float16 weights go with activations=none")
    if made.activations in INTEGERS and (made.block or made.weights == "int4"):
        _refuse(f"{made.weights} weights per {given['per']} go with activations=none or activations=dynamic")
    if made.keep and made.activations not in INTEGERS:
        _refuse(
            f"keep={made.keep} goes with integer activations, where sensitivity is measured; use where or overrides"
        )
    if made.keep < 0:
        _refuse(f"keep={made.keep}: expected 0 or more layers")
    if made.io != "float" and made.io != made.activations:
        _refuse(f"io={made.io} goes with activations={made.io}")
    return made


def _refuse(what: str) -> None:
    raise UsageError(f"quantize: {what}", code="R023")


def _one_of(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UsageError(f"quantize: {name}={value!r}", code="R023", hint=f"{name} is one of: {', '.join(allowed)}")


def _granularity(per: str) -> tuple[str, int]:
    """("channel", 0), ("tensor", 0), or ("block", size)."""
    kind, _, size = per.partition(":")
    if kind == "block" and size.isdigit() and int(size) > 1:
        return kind, int(size)
    if per not in ("channel", "tensor"):
        raise UsageError(f"quantize: per={per!r}", code="R023", hint="per is channel, tensor, or block:32")
    return per, 0


def _overrides(given: Any) -> tuple[tuple[Callable[[Node], bool], str], ...]:
    """A mapping from `where` expressions to precisions, or the same as text: 'name=stem: float; op=gemm: int16'."""
    if isinstance(given, str):
        pairs = [part.rpartition(":")[::2] for part in given.split(";") if part.strip()]
        given = {where.strip(): precision.strip() for where, precision in pairs}
    if not isinstance(given or {}, Mapping):
        _refuse(f"overrides={given!r}: expected expressions and precisions")
    for precision in (given or {}).values():
        _one_of("an override", precision, PRECISIONS)
    made = [(selector(where), precision) for where, precision in (given or {}).items()]
    return tuple(reversed(made))


@module_pass("quantize", numerics="approx", check=check_settings)
@one_thread()
def quantize(
    module: Module,
    ctx: Context,
    *,
    weights: Literal["int8", "int4", "float16"] = "int8",
    activations: Literal["int8", "uint8", "int16", "dynamic", "none"] = "int8",
    observer: Literal["output", "minmax", "percentile", "entropy", "mse"] = "output",
    per: str = "channel",
    symmetric: bool = False,
    where: str = "",
    overrides: Any = None,
    keep: int = 0,
    keep_as: Literal["float", "int16"] = "float",
    correct: bool = True,
    io: Literal["float", "int8", "uint8", "int16"] = "float",
) -> None:
    """Integers in place of floats: weights as constants behind dequantize, activations as quantize and dequantize pairs."""
    options = {name: value for name, value in locals().items() if name not in ("module", "ctx")}
    settings = check_settings(options)
    if settings.weights == "float16":
        rows = to_half(module, settings.wanted(module))
    elif settings.activations in ("none", "dynamic"):
        rows = quantise_weights(module, settings.style, settings.wanted(module), settings.activations == "dynamic")
    else:
        rows = _static(module, ctx, settings)
    module.drop_unused_weights()
    ctx.stats["quantize"] += len(rows)
    ctx.records.extend({"pass": "quantize", **row} for row in rows)


def calibration(ctx: Context, name: str) -> Feeds:
    """The samples that a pass works from. Raises UsageError (R024) when there are none."""
    if ctx.data is None or ctx.data.count == 0:
        raise UsageError(
            f"{name} needs calibration data" + ("" if ctx.data is None else ", the given data is empty"),
            code="R024",
            hint="give some with --data (an .npz file, a folder of images or arrays), or use activations=dynamic",
        )
    return ctx.data


def _static(module: Module, ctx: Context, settings: Settings) -> list[dict[str, Any]]:
    """Quantise with calibrated ranges, correct biases, and leave the rest to weights alone. Returns rows for the report."""
    data = calibration(ctx, "quantize")
    wanted = settings.wanted(module)
    graph = module.signature.graph
    plan, layout = calibrated(module, graph, data, settings, wanted)
    rows: list[dict[str, Any]] = []
    if settings.keep:
        ranked = sensitivities(module, plan, layout, settings.style, data)
        rows += [{"layer": row.layer, "op": row.node.name, "sqnr": row.decibel} for row in ranked]
        kept = ranked[: settings.keep]
        ctx.notes.append(f"quantize: kept in {settings.keep_as}: {', '.join(row.layer for row in kept)}")
        kinds = dict.fromkeys((row.node for row in kept), settings.keep_as)
        plan, layout = calibrated(module, graph, data, settings, lambda node: kinds.get(node) or wanted(node))
    few = Few(data, SAMPLES)
    products = [node for node in plan.nodes if plan.role(node).kind == "product"]
    ends = {node: plan.biases[node][0].result if node in plan.biases else node.result for node in products}
    means = float_means(module, ends, few) if settings.correct else {}
    before = {node: (layer_name(node), _weight_bytes(node)) for node in products}
    Inserter(plan, layout, settings.style).run()
    if settings.correct:
        correct_biases(module, means, few, ctx)
    if settings.io != "float":
        ctx.notes += [f"quantize: {note}" for note in integer_interface(module)]
    rows += [_row(node, plan, *before[node]) for node in products]
    rows += quantise_tables(module, settings.style, wanted)
    rows += [{"layer": layer_name(n), "op": n.name, "bits": "float", "why": why} for n, why in plan.skipped.items()]
    return rows


def calibrated(
    module: Module, graph: Graph, data: Feeds, settings: Settings, wanted: Callable[[Node], str]
) -> tuple[Plan, Layout]:
    """What becomes integers, with parameters from the ranges that `data` shows."""
    from .calibrate import observe
    from .ranges import observer_for

    plan = make_plan(graph, wanted, integer_ends=settings.io != "float")
    observers = observe(module, plan.observed(), data, observer_for(settings.observer, plan))
    return plan, Layout(plan, ranges_of(observers, plan, settings.grids), settings.grids)


def _weight_bytes(node: Node) -> int:
    return sum(v.weight.nbytes for v in node.inputs() if v.weight is not None and v.weight.role != "const")


def _row(node: Node, plan: Plan, layer: str, before: int) -> dict[str, Any]:
    integers = [v.node.operands[0] for v in node.inputs() if v.node is not None and v.node.name == "dequantize"]
    after = sum(v.weight.nbytes for v in integers if v is not None and v.weight is not None)
    bits = f"{ACTIVATIONS[plan.nodes[node]].dtype.bits}x8"
    return {"layer": layer, "op": node.name, "bits": bits, "bytes_before": before, "bytes_after": after}
