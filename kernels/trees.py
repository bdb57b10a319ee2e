"""Tree ensembles: structure checked as a whole, then one compiled walk per row and tree.

Votes are summed in float64 in the order of the trees and rounded once. A structure that is not a forest (a child or a
target out of range, a cycle) is refused before anything is walked; the walk itself then needs no checks.
"""

from __future__ import annotations

import numpy as np

from ..ir.errors import InvalidModel
from ..ir.ops.trees import AGGREGATES, MEMBER, MODES
from . import budget
from .jit import jit
from .numeric import narrow
from .registry import kernel

Array = np.ndarray

#: The operands that `check_forest` takes, in its order.
STRUCTURE = (
    "nodes_featureids", "nodes_modes", "nodes_truenodeids", "nodes_falsenodeids", "tree_roots", "leaf_begins",
    "leaf_targetids",
)  # fmt: skip
#: Multiply-adds that one step down a tree costs, and what a vote costs.
STEP = 20


@kernel("tree_ensemble")
def tree_ensemble(
    x: Array,
    nodes_featureids: Array,
    nodes_modes: Array,
    nodes_splits: Array,
    nodes_missing_value_tracks_true: Array,
    nodes_truenodeids: Array,
    nodes_falsenodeids: Array,
    tree_roots: Array,
    leaf_begins: Array,
    leaf_targetids: Array,
    leaf_weights: Array,
    membership_values: Array | None = None,
    *,
    n_targets: int,
    aggregate_function: str,
) -> Array:
    """x T[N, F] -> T[N, n_targets]. Raises InvalidModel for a structure that is no forest, OverBudget for too much work."""
    most, votes = check_forest(
        nodes_featureids, nodes_modes, nodes_truenodeids, nodes_falsenodeids, tree_roots, leaf_begins, leaf_targetids,
        features=x.shape[1], targets=n_targets,
    )  # fmt: skip
    begins, members = member_sets(nodes_modes, membership_values)
    spent = budget.current()
    if spent is not None:
        spent.spend(STEP * x.shape[0] * len(tree_roots) * (most + votes + 1))
    out = np.zeros((x.shape[0], n_targets))
    _walk(
        np.ascontiguousarray(x, np.float64), nodes_featureids, nodes_modes, nodes_splits.astype(np.float64),
        nodes_missing_value_tracks_true, nodes_truenodeids, nodes_falsenodeids, tree_roots, begins, members,
        leaf_begins, leaf_targetids, leaf_weights.astype(np.float64), AGGREGATES.index(aggregate_function), out,
    )  # fmt: skip
    if aggregate_function == "AVERAGE" and len(tree_roots):
        out /= len(tree_roots)
    return narrow(out, x.dtype)


def check_forest(
    features_of: Array,
    modes: Array,
    true: Array,
    false: Array,
    roots: Array,
    begins: Array,
    targets_of: Array,
    *,
    features: int | None,
    targets: int,
) -> tuple[int, int]:
    """The longest way from a root to a leaf, in nodes, and the most votes of a leaf; O(nodes).

    Raises InvalidModel for a feature, mode, child, root, leaf or target out of range, and for cycles.
    """
    _within(features_of, 0, features, "a feature id")
    _within(modes, 0, len(MODES), "a node mode")
    leaves = begins.size - 1
    for array, what in ((true, "a true branch"), (false, "a false branch"), (roots, "a root")):
        _within(array, -leaves, true.size, what)
    _within(targets_of, 0, targets, "a target id")
    counts = np.diff(begins)
    if leaves < 0 or begins[0] != 0 or begins[-1] != targets_of.size or (counts < 0).any():
        raise InvalidModel("the leaves of a tree ensemble do not divide the votes among them")
    depth = _depth(true, false, roots)
    if depth < 0:
        raise InvalidModel("the nodes of a tree form a cycle")
    return int(depth), int(counts.max(initial=0))


def _within(array: Array, low: int, high: int | None, what: str) -> None:
    if not array.size:
        return
    worst = int(array.min()) if int(array.min()) < low else int(array.max())
    if worst < low or (high is not None and worst >= high):
        limits = f"{low} to {high - 1}" if high is not None else f"{low} or more"
        raise InvalidModel(f"{what} of a tree ensemble is {worst} ({limits} expected)")


def member_sets(modes: Array, values: Array | None) -> tuple[Array, Array]:
    """Where the sorted set of each node begins in the returned values (i64[nodes + 1]); other nodes have empty ones."""
    own = modes == MEMBER
    with np.errstate(invalid="ignore"):  # a NaN that signals is one too
        given = np.zeros(0) if values is None else values.astype(np.float64)
    ends = np.flatnonzero(np.isnan(given))
    if len(ends) != np.count_nonzero(own) or (given.size and not np.isnan(given[-1])):
        raise InvalidModel(
            f"{len(ends)} sets of members, each ended by NaN, for {np.count_nonzero(own)} BRANCH_MEMBER nodes"
        )
    sizes = np.zeros(modes.size + 1, np.int64)
    sizes[1:][own] = np.diff(ends, prepend=-1) - 1
    kept = ~np.isnan(given)
    owner = np.cumsum(~kept)[kept]
    flat = given[kept]
    return np.cumsum(sizes), flat[np.lexsort((flat, owner))]


@jit(lambda true, false, roots: 2 * true.size + roots.size)
def _depth(true: Array, false: Array, roots: Array) -> int:
    """The longest way down in nodes; -1 for a cycle. Depth first with a stack of its own; state 1: on the way."""
    state = np.zeros(true.size, np.int8)
    height = np.zeros(true.size, np.int64)
    stack = np.empty(2 * true.size + 2, np.int64)
    longest = 0
    for root in roots:
        top = 0
        if root >= 0:
            stack[0] = root
            top = 1
        while top > 0:
            node = stack[top - 1]
            below = (true[node], false[node])
            if state[node] == 0:
                state[node] = 1
                for child in below:
                    if child >= 0:
                        if state[child] == 1:
                            return -1
                        if state[child] == 0:
                            stack[top] = child
                            top += 1
                continue
            top -= 1
            if state[node] == 1:
                state[node] = 2
                height[node] = 1
                for child in below:
                    if child >= 0:
                        height[node] = max(height[node], height[child] + 1)
        if root >= 0:
            longest = max(longest, height[root])
    return longest


@jit(lambda members, low, high, value: 8)
def _holds(members: Array, low: int, high: int, value: float) -> bool:
    """Binary search in members[low:high]."""
    end = high
    while low < high:
        middle = (low + high) // 2
        if members[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low < end and members[low] == value


@jit(lambda x, *rest: x.shape[0] * rest[6].size * 16)
def _walk(
    x, features, modes, splits, missing, true, false, roots, sets, members, begins, targets, weights, aggregate, out
):  # fmt: skip
    """Adds (or takes the least or largest of) the votes into `out`, which is zero. Tree by tree: its nodes stay in the
    cache."""
    seen = np.zeros(out.shape, np.bool_)
    for root in roots:
        for row in range(x.shape[0]):
            node = root
            while node >= 0:
                value, split, mode = x[row, features[node]], splits[node], modes[node]
                if np.isnan(value):
                    taken = missing[node]
                elif mode == 0:
                    taken = value <= split
                elif mode == 1:
                    taken = value < split
                elif mode == 2:
                    taken = value >= split
                elif mode == 3:
                    taken = value > split
                elif mode == 4:
                    taken = value == split
                elif mode == 5:
                    taken = value != split
                else:
                    taken = _holds(members, sets[node], sets[node + 1], value)
                node = true[node] if taken else false[node]
            for vote in range(begins[~node], begins[~node + 1]):
                at, weight = targets[vote], weights[vote]
                if aggregate <= 1:
                    out[row, at] += weight
                elif not seen[row, at] or (weight < out[row, at] if aggregate == 2 else weight > out[row, at]):
                    out[row, at] = weight
                seen[row, at] = True
