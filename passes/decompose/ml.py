"""Classical machine learning as arithmetic: lookups, support vector machines, tree ensembles. Knows no target."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ir.builder import Builder
from ...ir.errors import InvalidModel
from ...ir.ops.trees import MEMBER, MODES
from ...ir.types import BOOL, F32, STRING
from ...ir.value import Node, Value
from ...kernels.trees import STRUCTURE, check_forest
from .rules import Declined, decomposes, scalar, shape_of, sizes

#: Steps down a tree that are written out one by one.
MOST_STEPS = 64


@decomposes("label_encoder")
def label_encoder(b: Builder, node: Node) -> Value | Declined:
    """The largest position among the equal keys, counted from 1, looks up the values behind the default."""
    x, keys, values, default = node.operands
    if STRING in (x.dtype, values.dtype):
        return Declined("a target that has strings has no smaller operators for them")
    if not keys.is_const or x.rank is None:
        return Declined("the keys are not constant, or the rank is not known")
    column = b.unsqueeze(x, (x.rank,))
    same = b.equal(column, keys)
    if keys.dtype.is_float and np.isnan(keys.array()).any():
        same = b.or_(same, b.and_(b.is_nan(column), np.isnan(keys.array())))
    if not keys.shape[0]:
        return Declined("there are no keys")
    places = np.arange(1, keys.array().size + 1)
    at = b.reduce_max(b.where(same, places, np.zeros((), np.int64)), (x.rank,), keepdims=False)
    return b.gather(b.concat(b.reshape(default, (1,)), values, axis=0), at)


# ------------------------------------------------------------------------------------------- support vector machines


def _kernel(b: Builder, node: Node, x: Value, vectors: Value) -> Value:
    """[N, V]"""
    kind, gamma, coef0 = (node.attr(name) for name in ("kernel_type", "gamma", "coef0"))
    if kind == "RBF":
        gaps = b.sub(b.unsqueeze(x, (1,)), vectors)
        return b.exp(b.mul(b.reduce_sum(b.mul(gaps, gaps), (2,), keepdims=False), scalar(b, -gamma, x)))
    inner = b.matmul(x, b.transpose(vectors, perm=(1, 0)))
    if kind == "LINEAR":
        return inner
    inner = b.add(b.mul(inner, scalar(b, gamma, x)), scalar(b, coef0, x))
    return b.tanh(inner) if kind == "SIGMOID" else b.pow(inner, scalar(b, node.attr("degree"), x))


@decomposes("svm_regressor")
def svm_regressor(b: Builder, node: Node) -> Value:
    x, vectors, coefficients, rho = node.operands
    rows = x if vectors is None else _kernel(b, node, x, vectors)
    made = b.add(b.matmul(rows, b.unsqueeze(coefficients, (1,))), b.slice(rho, (0,), (1,)))
    if not node.attr("one_class"):
        return made
    return b.where(b.greater(made, scalar(b, 0, x)), scalar(b, 1, x), scalar(b, -1, x))


@decomposes("svm_classifier")
def svm_classifier(b: Builder, node: Node) -> tuple[Value, Value] | Declined:
    """Each duel's sum is a product of the kernels with a constant column, each class's votes one of the duels won."""
    x, vectors, table, rho, labels, prob_a = (*node.operands, None)[:6]
    if prob_a is not None:
        return Declined("the probabilities of classes are found by iteration")
    if not table.is_const:
        return Declined("the coefficients are not constant")
    if vectors is None:
        scores = b.add(b.matmul(x, b.transpose(table, perm=(1, 0))), b.slice(rho, (0,), (1,)))
        return b.gather(labels, _highest(b, scores, bool((table.array() >= 0).all()))), scores
    per_class = node.attr("vectors_per_class")
    columns, winners, losers = _duels(table.array(), per_class)
    count = columns.shape[1]
    sums = b.add(b.matmul(_kernel(b, node, x, vectors), b.const(columns)), b.slice(rho, (0,), (count,)))
    won = b.cast(b.greater(sums, scalar(b, 0, x)), to=F32)
    lost = b.sub(scalar(b, 1, x), won)
    votes = b.add(b.matmul(won, b.const(winners)), b.matmul(lost, b.const(losers)))
    label = b.gather(labels, b.arg_max(votes, axis=1, keepdims=False))
    return label, b.concat(b.neg(sums), sums, axis=1) if len(per_class) == 2 else sums


def _highest(b: Builder, scores: Value, positive: bool) -> Value:
    """Indices of the best classes; of two the second, as soon as the best score says yes."""
    best = b.arg_max(scores, axis=1, keepdims=False)
    if scores.shape[1] != 2:
        return best
    top = b.reduce_max(scores, (1,), keepdims=False)
    yes = b.greater_equal(top, scalar(b, 0.5, scores)) if positive else b.greater(top, scalar(b, 0, scores))
    return b.where(yes, np.ones((), np.int64), best)


def _duels(table: np.ndarray, per_class: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coefficients f32[V, duels], and who gets the vote of a duel won and lost, f32[duels, C]."""
    owner = np.repeat(np.arange(len(per_class)), per_class)
    pairs = [(i, j) for i in range(len(per_class)) for j in range(i + 1, len(per_class))]
    columns = np.zeros((len(owner), len(pairs)), np.float32)
    winners, losers = (np.zeros((len(pairs), len(per_class)), np.float32) for _ in range(2))
    for d, (i, j) in enumerate(pairs):
        columns[owner == i, d] = table[j - 1, owner == i]
        columns[owner == j, d] = table[i, owner == j]
        winners[d, i] = losers[d, j] = 1
    return columns, winners, losers


# ------------------------------------------------------------------------------------------------------------- trees


@decomposes("tree_ensemble", rounds=True)
def tree_ensemble(b: Builder, node: Node) -> Value | Declined:
    """All rows go down all trees together, one step at a time, by lookups; a leaf leads to itself. What the leaves vote is
    one more lookup, in a dense table."""
    x = node.operands[0]
    if not all(v is None or v.is_const for v in node.operands[1:]):
        return Declined("the trees are not constant")
    arrays = {
        declared.name: value.array()
        for declared, value in zip(node.op.operands[1:], node.operands[1:], strict=False)
        if value is not None
    }
    reason, steps = _unfit(node, arrays)
    if reason:
        return Declined(reason)
    trees = _Lookups(b, arrays)
    count = len(arrays["tree_roots"])
    at = b.expand(trees.table(trees.place(arrays["tree_roots"])[None]), shape_of(b, [*sizes(x, [0]), count]))
    for _ in range(steps):
        at = trees.step(x, at)
    return _voted(b, node, arrays, b.sub(at, np.asarray(trees.inner, np.int64)), x)


def _unfit(node: Node, arrays: dict[str, np.ndarray]) -> tuple[str, int]:
    """Why a forest cannot be written out ("" when it can), and how many steps down it has at most."""
    if (arrays["nodes_modes"] == MEMBER).any() or np.isnan(arrays["nodes_splits"]).any():
        return "a node tests membership of a set, or its split is NaN", 0
    if not len(arrays["tree_roots"]):
        return "there are no trees", 0
    features = node.operands[0].shape[1] if node.operands[0].shape else None  # type: ignore[union-attr]
    try:
        steps, _ = check_forest(
            *(arrays[name] for name in STRUCTURE),
            features=features if isinstance(features, int) else None,
            targets=node.attr("n_targets"),
        )
    except InvalidModel as error:
        return error.message, 0
    return (f"the trees are {steps} nodes deep (at most {MOST_STEPS})" if steps > MOST_STEPS else ""), steps


class _Lookups:
    """The forest as tables over one numbering: inner nodes, then leaves."""

    def __init__(self, b: Builder, arrays: dict[str, np.ndarray]) -> None:
        self.b = b
        self.inner, leaves = len(arrays["nodes_modes"]), len(arrays["leaf_begins"]) - 1
        own = self.inner + np.arange(leaves)
        self.ways = [
            self.table(np.concatenate([self.place(arrays[f"nodes_{side}nodeids"]), own])) for side in ("true", "false")
        ]
        self.features = self.table(self._padded(arrays["nodes_featureids"], leaves))
        self.splits = self.table(self._padded(arrays["nodes_splits"], leaves))
        self.modes = arrays["nodes_modes"]
        tracks = self._padded(arrays["nodes_missing_value_tracks_true"], leaves)
        self.tracks = self.table(tracks) if tracks.any() else None
        holds = {"less": ("LEQ", "LT", "NEQ"), "equal": ("LEQ", "GTE", "EQ"), "greater": ("GTE", "GT", "NEQ")}
        self.holds = {}
        for name, modes in holds.items():
            codes = [MODES.index(f"BRANCH_{mode}") for mode in modes]
            self.holds[name] = self.table(self._padded(np.isin(self.modes, codes), leaves))

    def table(self, array: np.ndarray) -> Value:
        return self.b.const(np.ascontiguousarray(array))

    def place(self, nodes: np.ndarray) -> np.ndarray:
        return np.where(nodes < 0, self.inner + ~nodes, nodes)

    @staticmethod
    def _padded(array: np.ndarray, leaves: int) -> np.ndarray:
        return np.concatenate([array, np.zeros(leaves, array.dtype)])

    def step(self, x: Value, at: Value) -> Value:
        """The nodes [N, R] behind the nodes `at`. How a value compares says enough, whatever the mode: less, equal or
        greater, or none of them where it is missing."""
        b = self.b
        value = b.gather_elements(x, b.gather(self.features, at), axis=1)
        split = b.gather(self.splits, at)
        taken = self._taken(value, split, at)
        if self.tracks is not None:
            taken = b.or_(taken, b.and_(b.is_nan(value), b.gather(self.tracks, at)))
        return b.where(taken, *(b.gather(way, at) for way in self.ways))

    def _taken(self, value: Value, split: Value, at: Value) -> Value:
        b = self.b
        single = {0: b.less_equal, 1: b.less, 2: b.greater_equal, 3: b.greater, 4: b.equal}
        kinds = set(self.modes.tolist())
        if len(kinds) == 1 and kinds <= set(single):
            return single[kinds.pop()](value, split)
        parts = [b.and_(getattr(b, name)(value, split), b.gather(table, at)) for name, table in self.holds.items()]
        return b.or_(b.or_(parts[0], parts[1]), parts[2])


def _voted(b: Builder, node: Node, arrays: dict[str, np.ndarray], leaf: Value, x: Value) -> Value:
    """[N, targets] from the leaves [N, R]."""
    aggregate, targets = node.attr("aggregate_function"), node.attr("n_targets")
    begins = arrays["leaf_begins"]
    owner = np.repeat(np.arange(len(begins) - 1), np.diff(begins))
    place, weights = (owner, arrays["leaf_targetids"]), arrays["leaf_weights"].astype(np.float64)
    table = np.zeros((len(begins) - 1, targets))
    if aggregate in ("SUM", "AVERAGE"):
        np.add.at(table, place, weights)
        total = b.reduce_sum(b.gather(_in_dtype(b, table, x), leaf), (1,), keepdims=False)
        return total if aggregate == "SUM" else b.div(total, scalar(b, len(arrays["tree_roots"]), x))
    table[:] = np.inf if aggregate == "MIN" else -np.inf
    (np.minimum if aggregate == "MIN" else np.maximum).at(table, place, weights)
    seen = np.zeros((len(begins) - 1, targets), np.float32)
    seen[place] = 1
    reduce = b.reduce_min if aggregate == "MIN" else b.reduce_max
    extreme = reduce(b.gather(_in_dtype(b, table, x), leaf), (1,), keepdims=False)
    any_vote = b.reduce_max(b.gather(b.const(seen), leaf), (1,), keepdims=False)
    return b.where(b.cast(any_vote, to=BOOL), extreme, scalar(b, 0, x))


def _in_dtype(b: Builder, table: np.ndarray, x: Any) -> Value:
    return b.const(table.astype(x.dtype.numpy))
