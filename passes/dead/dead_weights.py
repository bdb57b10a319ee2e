"""Dead-weight elimination: what contributes nothing, or only a constant, goes with its partners everywhere.

A round proves what it can of values (`spans`), finds what something reads (`liveness`), moves the share of constant, equal and
near-dead channels to where it does not need them (`plan`) and removes every class of channels that nothing reads any more
(`remove`). Rounds go on until nothing is found. Data is held to be finite: 0 * inf would be NaN.

Given (rows 2, 3 of %w2 and columns 1, 3 of %w1 are zero):
    %h = relu(matmul(%x, %w1))      : f32[N, 4]
    %y = matmul(%h, %w2)
Result:
    %h = relu(matmul(%x, %w1'))     : f32[N, 1]
    %y = matmul(%h, %w2')
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from ...ir.graph import Module, Node
from ..manager import Context, module_pass
from ..prune.groups import Analysis
from . import report
from .bounded import Bounded, Spent
from .gains import Gains
from .labels import Equalities
from .layers import Layers, layers
from .liveness import Liveness
from .near_twins import NearTwins
from .plan import BOUNDED, Planner
from .products import Product, Products
from .remove import apply, removable
from .rows import UNREACHED, drop_unreached_rows
from .settle import CLAMPS, settle
from .spans import Span, Spans

#: The module's metadata: how much of its numbers' bound near-dead channels have had so far.
GIVEN = "dead-weights.bound"
#: Matrices above this many elements are looked at, but no intervals are computed of what they make.
LARGEST = 1 << 22
#: Up to this many, bounds on one side are carried on as well.
SMALL = 1 << 16
#: Ops between a product and a clamp that an interval is worth carrying through.
_BETWEEN = frozenset({"add", "batch_norm", "mul", "sub"})


@module_pass("dead-weights", numerics="ulp")
def dead_weights(module: Module, ctx: Context, *, bound: float = 0.0) -> None:
    """Drop channels that contribute nothing, in all layers that they run through.

    `bound` > 0 also takes channels that can move no result of a layer by more than bound times what the layer can reach
    (proven, but not lossless: -O3, or an explicit request). Every removal leaves a row in the report. The module remembers
    what of a bound was given out: a second run has only the rest.
    """
    found: Counter[str] = Counter()
    allowed, bound = bound, max(0.0, bound - float(module.metadata.get(GIVEN, 0.0)))
    rows = drop_unreached_rows(module)
    ctx.records.extend(rows)
    products, spent = Products(), dict[Node, Spent]()
    while _round(module, ctx, products, found, bound, spent):
        pass
    bounded = any(found[kind] for kind in BOUNDED)
    if bounded:
        module.metadata[GIVEN] = repr(allowed)
    if rows:
        ctx.stats[UNREACHED] += sum(row["count"] for row in rows)
        ctx.notes.append(f"dead-weights: {ctx.stats[UNREACHED]} rows of tables removed that no index reaches")
    ctx.stats.update(found)
    channels = sum(count for kind, count in found.items() if kind in report.PROOFS)
    if channels:
        told = ", ".join(f"{count} {kind}" for kind, count in sorted(found.items()))
        within = f" (bound {bound:g})" if bounded else ""
        ctx.notes.append(f"dead-weights: {channels} channels removed{within}: {told}")
    module.drop_unused_weights()


def _round(
    module: Module, ctx: Context, made: Products, found: Counter[str], bound: float, spent: dict[Node, Spent]
) -> bool:
    """True where something was removed, or settled so that more may be."""
    known = layers(module, made)
    products, odd = known.products, known.is_odd
    clamps = any(True for _ in module.all_nodes(*CLAMPS))
    if not (products or known.units) or not (odd or bound or clamps):
        return False
    _tell_strange(ctx, products)
    spans = Spans(module, known, lambda p, x: _is_worth(p, x, bound))
    if settle(module, spans, found):
        return True
    if not (odd or bound or any(spans.at(p.x, p.data_axis).constant.any() for p in products.values())):
        return False
    if _remove(module, ctx, known, spans, found, 0.0, spent):
        return True
    return bool(bound and _remove(module, ctx, known, spans, found, bound, spent))


def _tell_strange(ctx: Context, products: dict[Node, Product]) -> None:
    """Layers that are left alone because of a NaN or an infinity among their weights."""
    for p in products.values():
        if not p.scan.is_plain and not p.is_finite:
            note = f"dead-weights: {p.name} has NaN or infinite weights and is left alone"
            if note not in ctx.notes:
                ctx.notes.append(note)


def _is_worth(p: Product, x: Span, bound: float) -> bool:
    """Whether the intervals of a product's results are worth a pass over its weights: data that is bounded on both sides, not
    constants alone, or for small layers before a clamp on one."""
    size = p.w.type.numel  # type: ignore[attr-defined]
    if size > LARGEST:
        return False
    bounded = np.isfinite(x.lo) & np.isfinite(x.hi) & ~x.constant
    return bool(bound or bounded.any() or (size <= SMALL and _is_clamped(p)))


def _is_clamped(p: Product) -> bool:
    """Whether a clamp stands behind a product, at most two ops away."""
    nodes: list[Node] = p.node.result.users
    for _ in range(3):
        if any(node.name in CLAMPS for node in nodes):
            return True
        nodes = [user for node in nodes[:4] if node.name in _BETWEEN for user in node.result.users]
    return False


def _remove(
    module: Module,
    ctx: Context,
    known: Layers,
    spans: Spans,
    found: Counter[str],
    bound: float,
    spent: dict[Node, Spent],
) -> bool:
    analysis = Analysis(module, accept_norms=False)
    live = Liveness(module, analysis, known, spans)
    given = None
    if bound:
        given = Bounded(bound, Gains(module, known, spans), NearTwins(module, known, spans, bound), spent)
    edits = Planner(live, spans, Equalities(module, known), given).edits()
    gone = removable(analysis, live.live())
    if not gone.any():
        return False
    kinds = report.kinds_of(analysis, live, edits, gone)
    found.update(kinds.values())
    ctx.records.extend(report.rows(analysis, edits, kinds, bound))
    apply(module, analysis, edits, gone)
    return True
