"""Measured sensitivity: what each layer alone, in integers, does to the outputs of a model that is otherwise float.

    rows = sensitivities(module, plan, layout, style, feeds)          # one per layer, the most sensitive first

A layer is a node of the plan with a grid of its own, with the bias and clamp that belong to it: its operands, weight and
result are rounded, nothing else. The float model runs once; each layer then costs one run of what stands behind it. Imports
no framework.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..ir.graph import Module, Node, Value
from ..kernels.constants import shelf_of
from ..kernels.precision import quiet
from ..kernels.run import bind_inputs, run_node
from ..passes.manager import Feeds
from ..passes.quantize.insert import WeightStyle, grain
from ..passes.quantize.params import Params, to_floats, to_integers, weight_params
from ..passes.quantize.plan import Layout, Plan
from ..passes.quantize.roles import weighted
from ..passes.select import layer_name

#: Samples that are enough to rank layers.
SAMPLES = 4

Env = dict[Value, Any]


class Row(NamedTuple):
    """`sqnr` is that of the outputs in dB (infinite: nothing changed), the noise of all outputs taken together after each is
    scaled to power 1."""

    node: Node
    layer: str
    sqnr: float

    @property
    def decibel(self) -> float | None:
        """For reports: rounded, None where nothing changed."""
        return round(self.sqnr, 2) if np.isfinite(self.sqnr) else None


def sensitivities(
    module: Module, plan: Plan, layout: Layout, style: WeightStyle, feeds: Feeds, samples: int = SAMPLES
) -> list[Row]:
    """Every layer of the plan, the one that costs most first; layers that cost the same in the order of the graph."""
    noise: dict[Node, float] = {}
    batches = 0
    for arrays in few(feeds, samples):
        batches += 1
        for node, found in _one_batch(module, plan, layout, style, arrays):
            noise[node] = noise.get(node, 0.0) + found
    rows = [Row(node, layer_name(node), _decibel(total / max(batches, 1))) for node, total in noise.items()]
    return sorted(rows, key=lambda row: row.sqnr)


def few(feeds: Feeds, samples: int) -> Iterator[dict[str, np.ndarray]]:
    """The first batches, the last of them cut short, until there are `samples` samples."""
    left = samples
    for batch in feeds.batches():
        size = max((len(a) for a in batch.values() if a.ndim), default=1)
        take = min(size, left)
        yield {name: a[:take] if a.ndim and len(a) == size else a for name, a in batch.items()}
        left -= take
        if left <= 0:
            return


def _decibel(noise: float) -> float:
    return float("inf") if noise == 0 else -10 * float(np.log10(noise))


def _one_batch(
    module: Module, plan: Plan, layout: Layout, style: WeightStyle, arrays: dict[str, np.ndarray]
) -> Iterator[tuple[Node, float]]:
    """The noise that each layer makes in the outputs, power of the outputs 1."""
    graph = plan.graph
    nodes = list(graph.nodes())
    env: Env = dict(zip(graph.inputs, bind_inputs(module.signature, arrays), strict=True))
    with shelf_of(module), quiet():
        live = _last_uses(nodes, graph.outputs)
        wanted = _outputs(_run(nodes, dict(env), live, {}), graph.outputs)
        for place, node in enumerate(nodes):
            rounding = _layer(node, plan, layout, style)
            if rounding:
                shown = _run(nodes[place:], dict(env), live, rounding, place)
                yield node, _noise(wanted, _outputs(shown, graph.outputs))
            _run([node], env, live, {}, place)


class Rounding(NamedTuple):
    """What is rounded at a node: operands by place, and its result."""

    operands: dict[int, Params]
    result: Params | None


def _layer(node: Node, plan: Plan, layout: Layout, style: WeightStyle) -> dict[Node, Rounding]:
    """What is rounded where `node` and what belongs to it are in integers; nothing for nodes that have no grid of their own."""
    grid = plan.nodes.get(node)
    edges = plan.edges(node) if grid is not None else []
    if grid is None or not edges or plan.role(node).kind == "same":
        return {}
    operands = {place: layout.at(value, grid) for place, value in edges}
    found = weighted(node) if plan.role(node).kind == "product" else None
    if found is not None:
        axes, block = grain(style, found)
        array = node.operands[found.place].array()  # type: ignore[union-attr]
        operands[found.place] = weight_params(array, style.grid, axes, block, style.clip)
    last = node
    while last.result in plan.inner:
        last = last.result.uses[0].node
    result = layout.at(last.result, grid)
    if last is node:
        return {node: Rounding(operands, result)}
    return {node: Rounding(operands, None), last: Rounding({}, result)}


def _run(
    nodes: Sequence[Node], env: Env, last: dict[Value, int], rounding: dict[Node, Rounding], start: int = 0
) -> Env:
    """Run `nodes`, which stand from `start` on, in `env`; values are dropped after their last use."""
    for place, node in enumerate(nodes, start):
        operands = [None if v is None else v.array() if v.is_const else env[v] for v in node.operands]
        extra = rounding.get(node)
        if extra is not None:
            for index, params in extra.operands.items():
                operands[index] = rounded(operands[index], params)
        results = run_node(node, operands)
        if extra is not None and extra.result is not None:
            results = (rounded(results[0], extra.result),)
        env.update(zip(node.results, results, strict=True))
        for value in (*node.inputs(), *node.results):
            if last.get(value, -1) <= place:
                env.pop(value, None)
    return env


def rounded(array: np.ndarray, params: Params) -> np.ndarray:
    """`array` through the integers and back."""
    return to_floats(to_integers(array, params), params).astype(array.dtype)


def _last_uses(nodes: Sequence[Node], kept: Sequence[Value]) -> dict[Value, int]:
    last = {value: place for place, node in enumerate(nodes) for value in node.inputs()}
    return {**last, **dict.fromkeys(kept, len(nodes))}


def _outputs(env: Env, outputs: Sequence[Value]) -> list[np.ndarray]:
    found = [env[v] for v in outputs if not v.is_const]
    return [np.asarray(a, np.float64) for a in found if isinstance(a, np.ndarray) and a.dtype.kind == "f"]


def _noise(wanted: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> float:
    """Mean over the outputs of |difference|^2 / |output|^2."""
    parts = [
        float(((a - b) ** 2).sum() / max(float((a**2).sum()), np.finfo(np.float64).tiny))
        for a, b in zip(wanted, found, strict=True)
        if a.size
    ]
    return sum(parts) / max(len(parts), 1)
