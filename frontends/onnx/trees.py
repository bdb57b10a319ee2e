"""ai.onnx.ml's tree ensembles, old and new, as one op and arithmetic on what it returns.

The operators of versions 1 and 3 list nodes by tree and node id, leaves among them; version 5 lists inner nodes and
leaves apart. Both become one numbering: inner nodes from 0, a leaf as `~leaf`. The arrays are checked as a whole.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ...ir.graph import Value
from ...ir.ops.trees import MEMBER, MODES
from ...ir.tensor import as_tensor
from ...ir.types import F32, F64, DType
from ...kernels.trees import STRUCTURE, check_forest, member_sets
from .importer import Call, Importer, known_dtype
from .ml import DOMAIN, as_rows, has, labels_of
from .ml_models import best_label, binary_label, pair_of, transformed
from .registry import handles

Array = np.ndarray

AGGREGATES = ("AVERAGE", "SUM", "MIN", "MAX")


class Forest(NamedTuple):
    """The arrays of a `tree_ensemble` behind x, in its order."""

    nodes_featureids: Array
    nodes_modes: Array
    nodes_splits: Array
    nodes_missing_value_tracks_true: Array
    nodes_truenodeids: Array
    nodes_falsenodeids: Array
    tree_roots: Array
    leaf_begins: Array
    leaf_targetids: Array
    leaf_weights: Array
    membership_values: Array | None = None


def _call(c: Importer, n: Call, x: Value, forest: Forest, targets: int, aggregate: str) -> Value:
    """The op on rows x, the forest checked. Raises InvalidModel."""
    features = x.shape[1]  # type: ignore[index]
    if targets < 1:
        raise n.invalid(f"{targets} targets")
    known = features if isinstance(features, int) else None
    check_forest(*(getattr(forest, name) for name in STRUCTURE), features=known, targets=targets)
    member_sets(forest.nodes_modes, forest.membership_values)
    name = n.node.name or n.node.outputs[0]
    given = [
        None if array is None else c.b.weight(c.module.add_weight(f"{name}.{field}", as_tensor(array), "const").weight)
        for field, array in zip(Forest._fields, forest, strict=True)
    ]
    return c.b.tree_ensemble(x, *given, n_targets=targets, aggregate_function=aggregate)


def _ints(n: Call, name: str, size: int | None = None) -> Array:
    """An attribute of integers, of the given length."""
    made = np.asarray(n.attr(name) or (), np.int64)
    if size is not None and made.size != size:
        raise n.invalid(f"{name} has {made.size} entries, expected {size}")
    return made


def _numbers(c: Importer, n: Call, name: str, size: int | None) -> Array | None:
    """Floats, or the doubles of `name_as_tensor`; None when neither is given."""
    proto = n.attr(f"{name}_as_tensor")
    if proto is not None and has(n, name):
        raise n.invalid(f"{name} and {name}_as_tensor are both given")
    if proto is None and not has(n, name):
        return None
    made = np.asarray(n.attr(name), np.float32) if proto is None else c.tensor(proto, n.label).numpy()
    if made.ndim != 1 or made.dtype.kind != "f" or (size is not None and made.size != size):
        raise n.invalid(f"{name} has shape {list(made.shape)} of {made.dtype}, expected [{size}] of floats")
    return made


# ------------------------------------------------------------------------------------------------ versions 1 and 3


class _Nodes:
    """The nodes of a version 1 or 3 operator: where each (tree, node) pair stands, and which are leaves."""

    def __init__(self, n: Call) -> None:
        trees = _ints(n, "nodes_treeids")
        if not trees.size:
            raise n.invalid("there are no nodes")
        self.n, self.size = n, trees.size
        self.tree_ids, self.tree = np.unique(trees, return_inverse=True)
        self.node_ids, node = np.unique(_ints(n, "nodes_nodeids", self.size), return_inverse=True)
        places = self.tree * len(self.node_ids) + node
        self.order = np.argsort(places, kind="stable")
        self.sorted = places[self.order]
        if (np.diff(self.sorted) == 0).any():
            raise n.invalid("a node id occurs twice in a tree")
        modes = n.attr("nodes_modes") or ()
        if len(modes) != self.size:
            raise n.invalid(f"nodes_modes has {len(modes)} entries, expected {self.size}")
        codes = {name: code for code, name in enumerate(MODES[:MEMBER])} | {"LEAF": -1}
        unknown = [mode for mode in dict.fromkeys(modes) if mode not in codes]
        if unknown:
            raise n.invalid(f"nodes_modes holds {unknown[0]!r}")
        self.modes = np.asarray([codes[mode] for mode in modes], np.int64)
        self.leaf = self.modes < 0
        counts = np.cumsum(~self.leaf)
        self.number = np.where(self.leaf, ~(np.arange(self.size) - counts), counts - 1)

    def find(self, tree: Array, node: Array, what: str) -> Array:
        """Positions of nodes by id; `tree` holds indices into `tree_ids`. Raises InvalidModel."""
        at = np.minimum(np.searchsorted(self.node_ids, node), len(self.node_ids) - 1)
        wanted = tree * len(self.node_ids) + at
        place = np.minimum(np.searchsorted(self.sorted, wanted), self.size - 1)
        lost = (self.node_ids[at] != node) | (self.sorted[place] != wanted)
        if lost.any():
            raise self.n.invalid(f"{what} refers to node {int(node[lost][0])}, which its tree does not have")
        return self.order[place]

    def trees_of(self, ids: Array, what: str) -> Array:
        """Indices into `tree_ids`."""
        at = np.minimum(np.searchsorted(self.tree_ids, ids), len(self.tree_ids) - 1)
        lost = self.tree_ids[at] != ids
        if lost.any():
            raise self.n.invalid(f"{what} refers to tree {int(ids[lost][0])}, which does not exist")
        return at

    def child(self, name: str) -> Array:
        """The children of the inner nodes in the op's numbering."""
        inner = ~self.leaf
        ids = _ints(self.n, name, self.size)[inner]
        return self.number[self.find(self.tree[inner], ids, name)]

    def roots(self) -> Array:
        """The first node listed of each tree, trees in the order of their first nodes."""
        _, first = np.unique(self.tree, return_index=True)
        return self.number[np.sort(first)]


def _old_forest(c: Importer, n: Call, votes: str) -> Forest:
    """`votes` is the prefix of the leaves' attributes: target or class."""
    nodes = _Nodes(n)
    inner = ~nodes.leaf
    splits = _numbers(c, n, "nodes_values", nodes.size)
    if splits is None:
        raise n.invalid("nodes_values is missing")
    tracks = _ints(n, "nodes_missing_value_tracks_true") if has(n, "nodes_missing_value_tracks_true") else None
    if tracks is not None and tracks.size != nodes.size:
        raise n.invalid(f"nodes_missing_value_tracks_true has {tracks.size} entries, expected {nodes.size}")
    begins, targets, weights = _old_votes(c, n, nodes, votes)
    dtype = np.result_type(splits.dtype, weights.dtype)
    return Forest(
        _ints(n, "nodes_featureids", nodes.size)[inner],
        nodes.modes[inner].astype(np.uint8),
        splits[inner].astype(dtype),
        np.zeros(int(inner.sum()), bool) if tracks is None else tracks[inner] == 1,
        nodes.child("nodes_truenodeids"),
        nodes.child("nodes_falsenodeids"),
        nodes.roots(),
        begins,
        targets,
        weights.astype(dtype),
    )


def _old_votes(c: Importer, n: Call, nodes: _Nodes, votes: str) -> tuple[Array, Array, Array]:
    """Begins, targets and weights of the votes, sorted by leaf; what inner nodes vote is never counted."""
    ids = _ints(n, f"{votes}_ids")
    weights = _numbers(c, n, f"{votes}_weights", ids.size)
    if weights is None:
        raise n.invalid(f"{votes}_weights is missing")
    trees = nodes.trees_of(_ints(n, f"{votes}_treeids", ids.size), f"{votes}_treeids")
    at = nodes.find(trees, _ints(n, f"{votes}_nodeids", ids.size), f"{votes}_nodeids")
    counted = nodes.leaf[at]
    leaf = ~nodes.number[at[counted]]
    order = np.argsort(leaf, kind="stable")
    counts = np.bincount(leaf, minlength=int(nodes.leaf.sum()))
    return np.concatenate([[0], np.cumsum(counts)]), ids[counted][order], weights[counted][order]


def _rows(c: Importer, n: Call, forest: Forest) -> tuple[Value, Forest]:
    """Rows and forest in the dtype to compute in: doubles where either is double, else f32."""
    x = as_rows(c, n, n.x)
    double = known_dtype(x) is F64 or forest.nodes_splits.dtype == np.float64
    dtype = F64 if double else F32
    x = x if x.dtype is dtype else c.b.cast(x, to=dtype)
    return x, forest._replace(
        nodes_splits=forest.nodes_splits.astype(dtype.numpy), leaf_weights=forest.leaf_weights.astype(dtype.numpy)
    )


def _with_base(c: Importer, n: Call, scores: Value, base: Array | None) -> Value:
    """Base values added, one for each column; the result is f32, as the operator's."""
    if base is not None:
        scores = c.b.add(scores, c.const(base.astype(known_dtype(scores).numpy)))
    return scores if scores.dtype is F32 else c.b.cast(scores, to=F32)


@handles("TreeEnsembleRegressor", domain=DOMAIN)
def tree_ensemble_regressor(c: Importer, n: Call) -> Any:
    aggregate = n.attr("aggregate_function", "SUM")
    if aggregate not in AGGREGATES:
        raise n.invalid(f"aggregate_function is {aggregate!r}")
    x, forest = _rows(c, n, _old_forest(c, n, "target"))
    targets = n.attr("n_targets") or 0
    scores = _call(c, n, x, forest, targets, aggregate)
    return transformed(c, n, _with_base(c, n, scores, _numbers(c, n, "base_values", targets)))


@handles("TreeEnsembleClassifier", domain=DOMAIN)
def tree_ensemble_classifier(c: Importer, n: Call) -> Any:
    """Scores per class and the highest one's label. Where two classes get votes for one of them only, the other is its
    opposite, or what it leaves of 1 where no vote is negative, as in onnxruntime; the specification says nothing of it."""
    labels, classes = labels_of(c, n)
    x, forest = _rows(c, n, _old_forest(c, n, "class"))
    voted = np.unique(forest.leaf_targetids).tolist()
    alone = classes <= 2 and len(voted) == 1
    base = _numbers(c, n, "base_values", None)
    if base is not None and base.size != classes and not (alone and base.size == 1):
        raise n.invalid(f"base_values has {base.size} entries for {classes} classes")
    raw = _call(c, n, x, forest, classes, "SUM")
    if not alone:
        scores = _with_base(c, n, raw, base)
        return best_label(c, labels, scores), transformed(c, n, scores)
    positive = not bool((forest.leaf_weights < 0).any())
    column = c.b.slice(raw, (voted[0],), (voted[0] + 1,), (1,)) if classes == 2 else raw
    score = _with_base(c, n, column, base if base is None or base.size == 1 else base[voted])
    if classes == 1:
        labels = _yes_and_no(c, n)
    label = binary_label(c, labels, score, 0.5 if positive and classes == 2 else 0.0)
    if classes == 2 and voted == [0]:
        return label, pair_of(c, n, score, signed=not positive)
    if classes == 2:
        score = c.b.concat(c.b.mul(score, c.scalar(0, score)), score, axis=1)
    return label, transformed(c, n, score)


def _yes_and_no(c: Importer, n: Call) -> Value:
    """One class is there or not: the labels 0 and 1."""
    if has(n, "classlabels_strings"):
        raise n.refuse("one class with a string for a label has no label for its absence")
    return c.const(np.asarray([0, 1], np.int64))


# -------------------------------------------------------------------------------------------------------- version 5


@handles("TreeEnsemble", domain=DOMAIN)
def tree_ensemble(c: Importer, n: Call) -> Any:
    x = as_rows(c, n, n.x)
    dtype = known_dtype(x)
    modes = _tensor(c, n, "nodes_modes", None, np.dtype(np.uint8))
    size = modes.size
    weights = _tensor(c, n, "leaf_weights", None, dtype.numpy)
    tracks = n.attr("nodes_missing_value_tracks_true") or (0,) * size
    if len(tracks) != size:
        raise n.invalid(f"nodes_missing_value_tracks_true has {len(tracks)} entries, expected {size}")
    roots = _ints(n, "tree_roots")
    if roots.size and (roots.min() < 0 or roots.max() >= size):
        raise n.invalid(f"tree_roots refers to nodes that do not exist (there are {size})")
    members = n.attr("membership_values")
    forest = Forest(
        _ints(n, "nodes_featureids", size),
        modes,
        _tensor(c, n, "nodes_splits", size, dtype.numpy),
        np.asarray(tracks, np.int64) == 1,
        _branch(n, "true", size, weights.size),
        _branch(n, "false", size, weights.size),
        roots,
        np.arange(weights.size + 1),
        _ints(n, "leaf_targetids", weights.size),
        weights,
        None if members is None else _tensor(c, n, "membership_values", None, dtype.numpy),
    )
    aggregate = n.attr("aggregate_function", 1)
    if not 0 <= aggregate < len(AGGREGATES):
        raise n.invalid(f"aggregate_function is {aggregate}")
    return transformed(c, n, _call(c, n, x, forest, n.attr("n_targets") or 0, AGGREGATES[aggregate]))


def _tensor(c: Importer, n: Call, name: str, size: int | None, dtype: np.dtype) -> Array:
    """An attribute's vector. Raises InvalidModel when it has another length or dtype."""
    array = c.tensor(n.attr(name), n.label).numpy()
    if array.ndim != 1 or array.dtype != dtype or (size is not None and array.size != size):
        wanted = f"{DType.of(dtype)}[{'n' if size is None else size}]"
        raise n.invalid(f"{name} is {DType.of(array.dtype)}{list(array.shape)}, expected {wanted}")
    return array


def _branch(n: Call, side: str, size: int, leaves: int) -> Array:
    """Children on one side: nodes as they are, leaves as ~leaf."""
    ids, flags = _ints(n, f"nodes_{side}nodeids", size), _ints(n, f"nodes_{side}leafs", size)
    limits = np.where(flags != 0, leaves, size)
    if ((ids < 0) | (ids >= limits)).any():
        raise n.invalid(f"nodes_{side}nodeids refers to nodes or leaves that do not exist")
    return np.where(flags != 0, ~ids, ids)
