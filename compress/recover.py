"""Recovery without training: after pruning, layers are fitted anew to what the dense model computed there.

Every layer that has lost inputs, in order, by least squares towards the weights that it has,

    W' = W + R X^T (X X^T + lambda mean(diag) I)^-1,    R = Y - (W X + b)

with a row of ones in X for the bias, twice. First X are what is left of the dense model's inputs and Y its outputs: the rest
makes good for what has gone, and nothing is noise. Then X are the pruned model's own inputs, and Y the dense model's outputs,
for a branch that is added to a skip those of the sum less the pruned skip: a layer makes good what those before it have lost
(Frantar and Alistarh, OBC, 2208.11580, section 4; a ridge towards the current weights, so that few samples do no harm). Each
lambda is chosen for each layer by the half of the samples that the other half was not fitted on; where nothing beats the
weights as they are, they stay. Only the sums X X^T and R X^T are kept, in float64. Imports no framework.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..ir.graph import Module, Node, Value
from ..ir.tensor import ArrayTensor
from ..kernels.precision import quiet
from ..passes.manager import Context
from ..passes.prune.layers import Layer, layers_of
from .rows import affordable, channel_axis, columns_of, first_half, input_axis, rows_wanted, sample_rows, sampled_layer
from .stages import Stage

#: Multiplications that the samples which are fitted to make in the dense model.
WORK = 48e9
#: Ridges that are tried, relative to the mean of the diagonal.
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
#: A system that is singular is damped ten times more, up to this.
MOST_DAMPING = 100.0
#: Columns of X that are fitted at once; wider layers are fitted part by part, each part making good for those before.
WIDEST = 4608
#: Between which values an activation tells its inputs apart.
LIMITS = {"relu": (0.0, np.inf), "relu6": (0.0, 6.0)}
#: Times that a layer before such an activation is fitted again, what is cut off on both sides left out.
SWEEPS = 3


@dataclass
class Fit:
    """One layer to fit: `layer` of the pruned module, `dense` its node in the dense one, `kept` and `read` which of the output
    and of the input channels there still are (None: all, of inputs: not known)."""

    layer: Layer
    dense: Node
    kept: np.ndarray | None
    read: np.ndarray | None
    #: Where a residual connection is added: (the pruned module's skip, the dense module's sum).
    skip: tuple[Value, Value] | None = None
    #: What an activation behind the layer cuts off: below and above all is one to it.
    limits: tuple[float, float] | None = None
    #: What is fitted: the layer's result, or the sum of it and a constant behind it; and the same in the dense module.
    result: Value = field(init=False)
    target: Value = field(init=False)
    #: Operand `bias[1]` of node `bias[0]` is that constant, or the layer's own bias (which may be absent).
    bias: tuple[Node, int] | None = field(init=False)

    @property
    def node(self) -> Node:
        return self.layer.node

    def outputs(self, dense: np.ndarray) -> np.ndarray:
        """What is left of the dense layer's outputs."""
        return dense if self.kept is None else np.take(dense, self.kept, axis=channel_axis(self.dense))

    def inputs(self, dense: np.ndarray) -> np.ndarray:
        """What is left of the dense layer's inputs."""
        return dense if self.read is None else np.take(dense, self.read, axis=input_axis(self.dense))

    def computed(self, x: np.ndarray) -> np.ndarray:
        """The layer's results [G, P, O / G] for rows x [G, P, D], with the constant that is added."""
        matrix = self.layer.matrix(self.layer.array()).astype(np.float64)
        made = x @ matrix.reshape(len(x), len(matrix) // len(x), -1).transpose(0, 2, 1)
        node, index = self.bias or (self.node, 2)
        bias = node.operands[index] if index < len(node.operands) else None
        return made if bias is None else made + np.broadcast_to(bias.array(), len(matrix)).reshape(len(x), 1, -1)


Channels = Mapping[Node, np.ndarray]


@dataclass
class Origin:
    """Where a pruned module comes from: `pairs` leads from its nodes to those of `dense`, `kept` and `read` from its layers to
    the output and to the input channels of the dense layer that they still have."""

    dense: Module
    pairs: Mapping[Node, Node]
    kept: Channels = field(default_factory=dict)
    read: Channels = field(default_factory=dict)


def recover(module: Module, origin: Origin, ctx: Context, work: float = 0.0) -> None:
    """Fit the layers of `module` that have lost inputs.

    Needs `ctx.data`; of many samples, if one takes `work` multiplications, some are taken. Layers that cannot be fitted are
    named in the notes and keep their weights.
    """
    assert ctx.data is not None
    feeds = affordable(ctx.data, WORK, work)
    fits = list(_fits(module, origin, ctx))
    stage, truth = Stage(module, feeds), Stage(origin.dense, feeds)
    for number, fit in enumerate(fits):
        ctx.records.append(_fit(module, fit, stage, truth, np.random.default_rng((ctx.seed, number)), ctx))
    ctx.stats["recover"] += len(fits)


def _fits(module: Module, origin: Origin, ctx: Context) -> Iterator[Fit]:
    """The layers that have lost inputs, in order."""
    pairs = origin.pairs
    for node in module.signature.graph.nodes():
        before = layers_of(pairs[node]) if node in pairs else []
        found = layers_of(node)
        if not any(columns_of(a) < columns_of(b) for a, b in zip(found, before, strict=False)):
            continue
        layer = sampled_layer(node)
        if isinstance(layer, str) or layer.value.n_uses > 1:
            reason = layer if isinstance(layer, str) else "its weights serve several layers"
            ctx.notes.append(f"recover: {found[0].name} keeps its weights: {reason}")
            continue
        fit = Fit(layer, pairs[node], origin.kept.get(node), origin.read.get(node))
        _find_target(fit, pairs)
        yield fit


def _find_target(fit: Fit, pairs: Mapping[Node, Node]) -> None:
    """What is fitted, and to what: looks through a constant that is added, then for the sum with a skip."""
    node = fit.node
    fit.result, fit.target = node.result, fit.dense.result
    fit.bias = None if node.name == "matmul" else (node, 2)
    user = _only_user(fit.result)
    if fit.bias is None and user is not None and user.name == "add" and user in pairs:
        place = 1 - user.operands.index(fit.result)
        constant = user.operands[place]
        if constant is not None and constant.is_const and constant.shape == fit.result.shape[-1:]:  # type: ignore[index]
            fit.result, fit.target, fit.bias = user.result, pairs[user].result, (user, place)
            user = _only_user(fit.result)
    if user is not None and user.name == "add" and user in pairs:
        skip = user.operands[1 - user.operands.index(fit.result)]
        if skip is None or skip.is_const or skip is fit.result or skip.type is not fit.result.type:
            return
        if skip.node is None or skip.node.before(node):
            fit.skip = (skip, pairs[user].result)
    elif user is not None:
        fit.limits = LIMITS.get(user.name)


def _only_user(value: Value) -> Node | None:
    return value.uses[0].node if value.n_uses == 1 and value.uses[0].node.results else None


# ------------------------------------------------------------------------------------------------------------- one layer


@dataclass
class Sums:
    """Over rows of samples: X X^T [G, D, D] and R X^T [G, O, D] with the ones as the last of D columns, and R R^T's trace."""

    xx: np.ndarray
    rx: np.ndarray
    rr: float = 0.0
    rows: int = 0

    @staticmethod
    def zeros(groups: int, columns: int, outputs: int) -> Sums:
        return Sums(np.zeros((groups, columns, columns)), np.zeros((groups, outputs, columns)))

    def add(self, x: np.ndarray, r: np.ndarray) -> None:
        """x [G, P, D], r [G, P, O]."""
        with quiet():
            for total, rows in zip(self.xx, x, strict=True):  # one by one: BLAS then computes half of what is symmetric
                total += rows.T @ rows
            self.rx += r.transpose(0, 2, 1) @ x
            self.rr += float(np.vdot(r, r))
        self.rows += x.shape[1]

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.xx + other.xx, self.rx + other.rx, self.rr + other.rr, self.rows + other.rows)

    def after(self, change: np.ndarray) -> Sums:
        """The sums when a change [G, O, D] of weights and bias has been made."""
        return Sums(self.xx, self.rx - change @ self.xx, self.loss(change), self.rows)

    def loss(self, change: np.ndarray) -> float:
        """The squared error that is left after a change [G, O, D] of weights and bias."""
        return self.rr - 2 * float(np.vdot(self.rx, change)) + float(np.vdot(change @ self.xx, change))


Halves = tuple[Sums, Sums]


def _fit(
    module: Module, fit: Fit, stage: Stage, truth: Stage, rng: np.random.Generator, ctx: Context
) -> dict[str, Any]:
    """Fit one layer, all its columns or part by part; returns the row for the report (mean squared errors per element)."""
    columns, row = columns_of(fit.layer), {"pass": "recover", "layer": fit.layer.name}
    errors: list[float] = []
    for sweep in range(1 + (SWEEPS if fit.limits else 0)):
        for start in range(0, columns, WIDEST):
            part = slice(start, min(start + WIDEST, columns))
            halves, dense = _sums(fit, part, stage, truth, rng, fit.limits if sweep else None)
            elements = max(sum(half.rows for half in halves) * halves[0].rx.shape[0] * halves[0].rx.shape[1], 1)
            errors.append((halves[0].rr + halves[1].rr) / elements)
            change, ridge = best_change(halves, dense)
            if change is not None and not _store(module, fit, part, change):
                change, ridge = None, f"the fitted ones do not fit into {fit.layer.value.dtype}"
            if change is None:
                if not sweep:
                    ctx.notes.append(f"recover: {fit.layer.name} keeps its weights: {ridge}")
                errors.append(errors[-1])
            else:
                errors.append(max((halves[0] + halves[1]).loss(change), 0.0) / elements)
                row["ridge"] = ridge
    return {**row, "error_before": errors[0], "error_after": errors[-1]}


def _sums(
    fit: Fit, part: slice, stage: Stage, truth: Stage, rng: np.random.Generator, limits: tuple[float, float] | None
) -> tuple[Halves, Halves | None]:
    """The sums of the first and of the second half of the samples: with the pruned model's inputs, and without limits with what
    is left of the dense model's too."""
    wanted = [fit.node.operands[0], fit.result, *([fit.skip[0]] if fit.skip else [])]
    both = limits is None and fit.read is not None
    goals = [fit.skip[1] if fit.skip else fit.target, *([fit.dense.operands[0], fit.target] if both else [])]
    pruned = stage.values(wanted, end=fit.node)  # type: ignore[arg-type]
    dense = truth.values(goals, end=goals[0].node.next)  # type: ignore[arg-type, union-attr]
    own, left, seen, count = _Gathered(part), _Gathered(part), 0, max(stage.feeds.count, 1)
    for arrays, (goal, *source) in zip(pruned, dense, strict=True):
        share = rows_wanted(part.stop - part.start, count, len(goal))
        x, (y, *made) = sample_rows(fit.layer, arrays[0], [fit.outputs(goal), *arrays[1:]], share, rng)
        own.add(x, _residual(y, made, limits), first_half(x.shape[1], count, seen, len(goal)))
        if source:
            x, (y,) = sample_rows(fit.layer, fit.inputs(source[0]), [fit.outputs(source[1])], share, rng)
            left.add(x, y - fit.computed(x), first_half(x.shape[1], count, seen, len(goal)))
        seen += len(goal)
    assert own.halves is not None
    return own.halves, left.halves


@dataclass
class _Gathered:
    """Sums of both halves over some columns, batch by batch: neighbours, often alike, are on one side."""

    part: slice
    halves: Halves | None = None

    def add(self, x: np.ndarray, r: np.ndarray, middle: int) -> None:
        """x [G, P, D], r [G, P, O], of which `middle` rows are of the first half."""
        x = np.concatenate([x[:, :, self.part], np.ones((*x.shape[:2], 1))], axis=2)
        if self.halves is None:
            self.halves = Sums.zeros(len(x), x.shape[2], r.shape[2]), Sums.zeros(len(x), x.shape[2], r.shape[2])
        self.halves[0].add(x[:, :middle], r[:, :middle])
        self.halves[1].add(x[:, middle:], r[:, middle:])


def _residual(y: np.ndarray, made: Sequence[np.ndarray], limits: tuple[float, float] | None) -> np.ndarray:
    """y less the sum of `made`; with limits, where both lie beyond one of them nothing is missing, and where only y does
    it is the limit that is missed."""
    own = made[0] if len(made) == 1 else np.sum(made, axis=0)
    if limits is not None:
        y = np.where(y <= limits[0], np.minimum(own, limits[0]), y)
        y = np.where(y >= limits[1], np.maximum(own, limits[1]), y)
    return y - own


def _store(module: Module, fit: Fit, part: slice, change: np.ndarray) -> bool:
    """Add a change [G, O / G, D + 1] to weights and bias; False, and nothing done, where that does not fit their type."""
    old = fit.layer.array()
    matrix = fit.layer.matrix(old).astype(np.float64)
    matrix[:, part] += change[:, :, :-1].reshape(len(matrix), -1)
    with np.errstate(over="ignore"):
        array = fit.layer.restore(matrix).astype(old.dtype)
    if not np.isfinite(array.astype(np.float64)).all():
        return False
    fit.layer.store(module, array, "fitted to the dense model")
    if fit.bias is not None:
        add_bias(module, *fit.bias, change[:, :, -1].reshape(-1), f"{fit.layer.value.weight.key}.bias")  # type: ignore[union-attr]
    return True


def add_bias(module: Module, node: Node, index: int, shift: np.ndarray, key: str) -> None:
    """Add `shift` [O] to the constant at an operand of the node; one that is absent becomes a weight called `key`."""
    old = node.operands[index] if index < len(node.operands) else None
    dtype = node.result.dtype.numpy  # type: ignore[union-attr]
    made = ArrayTensor((shift if old is None else old.array().astype(np.float64) + shift).astype(dtype))
    if old is not None and old.n_uses == 1 and made.shape == old.shape:
        module.set_weight(old.weight, made)  # type: ignore[arg-type]
        return
    operands = [*node.operands, *[None] * (index + 1 - len(node.operands))]
    wanted = key if old is None else old.weight.wanted  # type: ignore[union-attr]
    operands[index] = module.add_weight(wanted, made, "param", "fitted to the dense model")
    node.set_operands(operands)


# --------------------------------------------------------------------------------------------------------------- algebra


def best_change(own: Halves, left: Halves | None = None) -> tuple[np.ndarray | None, Any]:
    """The change [G, O, D] of weights and bias that does best on samples that it was not fitted on, and its ridge.

    It starts from what the inputs that are `left` of the dense model's ask for, where that is of use, and goes on to what the
    pruned model's `own` ask for. (None, reason) where no change beats none. The last of D columns is the ones: it is not
    damped.
    """
    found: list[tuple[float, np.ndarray | None, float | None]] = [(own[0].rr + own[1].rr, None, None)]
    why = "no fit is better on samples that it has not seen"
    starts = None if left is None else _starts(left)
    if starts is not None:
        crossed = [(own[i].after(starts[i]), own[1 - i].after(starts[i])) for i in (0, 1)]
        score, ridge = _best_ridge(crossed)
        found += [(sum(seen.rr for _, seen in crossed), starts[2], None), (score, starts[2], ridge)]
    if min(found, key=_score)[1] is None:
        score, ridge = _best_ridge([own, own[::-1]])
        why = why if ridge else "its inputs give a singular system"
        found.append((score, None, ridge))
    _, start, ridge = min(found, key=_score)
    if ridge is None:
        return start, why if start is None else None
    total = own[0] + own[1]
    change = solve(total if start is None else total.after(start), ridge)
    if change is None:
        return start, why
    return change if start is None else start + change, ridge


def _score(found: tuple[float, Any, Any]) -> float:
    return found[0]


def _starts(left: Halves) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """The changes fitted to the first half, to the second, and to both, where those do good on the other half."""
    score, ridge = _best_ridge([left, left[::-1]])
    if ridge is None or not score < left[0].rr + left[1].rr:
        return None
    first, second, both = (solve(sums, ridge) for sums in (*left, left[0] + left[1]))
    return None if first is None or second is None or both is None else (first, second, both)


def _best_ridge(crossed: Sequence[Halves]) -> tuple[float, float | None]:
    """The ridge with which what is fitted to the first of each pair is best on the second, and its loss there; (inf, None) where
    every system is singular."""
    best: tuple[float, float | None] = (np.inf, None)
    for ridge in RIDGES:
        changes = [solve(fitted, ridge) for fitted, _ in crossed]
        if all(change is not None for change in changes):
            pairs = zip(crossed, changes, strict=True)
            best = min(best, (sum(seen.loss(change) for (_, seen), change in pairs), ridge), key=lambda each: each[0])  # type: ignore[arg-type, misc]
    return best


def solve(sums: Sums, ridge: float) -> np.ndarray | None:
    """R X^T (X X^T + ridge mean(diag) I)^-1 as [G, O, D], damped ten times more where singular; None where that does not
    help or the data are not finite."""
    if not (np.isfinite(sums.xx).all() and np.isfinite(sums.rx).all()):
        return None
    places = np.arange(sums.xx.shape[1] - 1)
    scale = np.maximum(sums.xx[:, places, places].mean(axis=1), 1e-30)
    while ridge <= MOST_DAMPING:
        system = sums.xx.copy()
        system[:, places, places] += ridge * scale[:, None]
        system[:, -1, -1] += 1e-9 * max(sums.rows, 1)
        try:
            change = np.linalg.solve(system, sums.rx.transpose(0, 2, 1)).transpose(0, 2, 1)
        except np.linalg.LinAlgError:
            change = None
        if change is not None and np.isfinite(change).all():
            return change
        ridge *= 10
    return None
