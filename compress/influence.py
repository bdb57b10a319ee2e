"""How far the loss of a layer shows in what the model gives out.

    errors = output_errors(module, [{node: matrix}, ...], feeds)   # relative squared error of the outputs, per variant

A variant is a set of layers with other matrices, as pruning with the rest fitted anew would leave them. The
model is run once, and from the changed layers on once more per variant: a branch beside a skip shows little, a
bottleneck much. Constant differences are left out: biases take them. Imports no framework.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..ir.graph import Module, Node, Value
from ..kernels.constants import shelf_of
from ..kernels.precision import quiet
from ..kernels.run import bind_inputs, run_node
from ..passes.manager import Feeds
from .rows import channel_axis
from .stages import Env

Variant = Mapping[Node, np.ndarray]


@dataclass
class _Branch:
    """What differs from the model's own values in one variant."""

    variant: Variant
    values: Env = field(default_factory=dict)


def output_errors(module: Module, variants: Sequence[Variant], feeds: Feeds) -> list[float]:
    """The squared error of the float outputs of each variant, as a share of their variance.

    The matrices are the second operands of their nodes, which stand in the graph of the first signature. 0 where there is no
    float output.
    """
    signature = module.signature
    errors, energy = np.zeros(len(variants)), 0.0
    for batch in feeds.batches():
        env: Env = dict(zip(signature.graph.inputs, bind_inputs(signature, batch), strict=True))
        branches = [_Branch(variant) for variant in variants]
        _run(module, env, branches)
        outputs = [v for v in signature.graph.outputs if v.weight is None and v.dtype is not None and v.dtype.is_float]
        for value in outputs:
            truth = env[value].astype(np.float64)
            energy += float(np.square(truth - truth.mean(axis=0 if truth.ndim and len(truth) > 1 else None)).sum())
            for place, branch in enumerate(branches):
                if value in branch.values:
                    errors[place] += float(np.square(branch.values[value].astype(np.float64) - truth).sum())
    return list(errors / energy) if energy > 0 else [0.0] * len(variants)


def _run(module: Module, env: Env, branches: Sequence[_Branch]) -> None:
    """Run the graph, and each branch where it differs; `env` ends with the outputs."""
    graph = module.signature.graph
    last = {value: node for node in (*graph.nodes(), graph.return_node) for value in node.inputs()}
    for node in graph.nodes():
        made = _results(module, node, env)
        for branch in branches:
            matrix = branch.variant.get(node)
            if matrix is None and not any(value in branch.values for value in node.inputs()):
                continue
            changed = {v: branch.values.get(v, env.get(v)) for v in node.inputs() if v.weight is None}
            results = _results(module, node, changed, matrix)
            if matrix is not None and not any(value in branch.values for value in node.inputs()):
                results = (_centred(node, results[0], made[0]),)
            branch.values.update(zip(node.results, results, strict=True))
        env.update(zip(node.results, made, strict=True))
        for value in node.inputs():
            if last[value] is node:
                env.pop(value, None)
                for branch in branches:
                    branch.values.pop(value, None)


def _results(module: Module, node: Node, env: Env, matrix: np.ndarray | None = None) -> tuple[Any, ...]:
    with shelf_of(module) as shelf, quiet():
        operands = [_operand(v, env, shelf) for v in node.operands]
        if matrix is not None:
            operands[1] = matrix
        return run_node(node, operands)


def _operand(value: Value | None, env: Env, shelf: Any) -> Any:
    return None if value is None else env[value] if value.weight is None else shelf.array(value.weight.tensor)


def _centred(node: Node, made: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """`made` with the mean of `truth` in every channel."""
    axes = tuple(i for i in range(made.ndim) if i != channel_axis(node))
    gap = made.astype(np.float64) - truth
    return (truth + (gap - gap.mean(axis=axes, keepdims=True))).astype(made.dtype)
