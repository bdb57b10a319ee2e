"""Tree ensembles as ONNX has them: one vote per leaf since version 5 of ai.onnx.ml, one list of nodes per tree before."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ir.graph import Node
from ...ir.ops.trees import AGGREGATES, MODES
from ...ir.tensor import as_tensor
from ...ir.types import F32, U8
from .emitter import Emitter
from .ml import DOMAIN, fixed, ml_node, version_of
from .registry import emits

Array = np.ndarray


@emits("tree_ensemble")
def tree_ensemble(e: Emitter, n: Node) -> None:
    arrays = {
        declared.name: None if value is None else fixed(e, value, declared.name)
        for declared, value in zip(n.op.operands[1:], (*n.operands[1:], None), strict=False)
    }
    arrays.setdefault("membership_values", None)
    if version_of(n) >= 5:
        _newest(e, n, arrays)
    else:
        _regressor(e, n, arrays)


# --------------------------------------------------------------------------------------------------------- version 5


def _newest(e: Emitter, n: Node, arrays: dict[str, Any]) -> None:
    """TreeEnsemble. A leaf with several votes takes as many copies of the whole forest, one vote each."""
    aggregate, trees = n.attr("aggregate_function"), len(arrays["tree_roots"])
    counts = np.diff(arrays["leaf_begins"])
    copies = max(int(counts.max(initial=1)), 1)
    if aggregate in ("MIN", "MAX") and counts.size and counts.min() == 0:
        raise e.refuse(f"a leaf without votes has no {aggregate}")
    attrs = _copied(_with_roots(arrays), copies, aggregate)
    dtype = n.result.dtype
    for name in ("nodes_splits", "leaf_weights", "membership_values"):
        if attrs[name] is not None:
            attrs[name] = as_tensor(attrs[name], dtype)  # type: ignore[arg-type]
    attrs["nodes_modes"] = as_tensor(attrs["nodes_modes"], U8)
    lists = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in attrs.items()}
    if aggregate != "AVERAGE" or copies == 1:
        code = AGGREGATES.index(aggregate)
        ml_node(e, n, "TreeEnsemble", [n.operands[0]], n_targets=n.attr("n_targets"), aggregate_function=code, **lists)
        return
    total = e.temp(
        "TreeEnsemble", [n.operands[0]], dtype, domain=DOMAIN, version=version_of(n), n_targets=n.attr("n_targets"),
        aggregate_function=AGGREGATES.index("SUM"), **lists,
    )  # fmt: skip
    e.node("Div", [total, e.literal(trees, dtype)])


def _with_roots(arrays: dict[str, Any]) -> dict[str, Any]:
    """A tree that is a leaf gets a node both of whose branches lead to it."""
    roots = arrays["tree_roots"].copy()
    bare = roots < 0
    if not bare.any():
        return arrays
    leaves, size = roots[bare], len(arrays["nodes_modes"])
    roots[bare] = size + np.arange(len(leaves))
    made = dict(arrays) | {"tree_roots": roots}
    for name in ("nodes_truenodeids", "nodes_falsenodeids"):
        made[name] = np.concatenate([arrays[name], leaves])
    for name in ("nodes_featureids", "nodes_modes", "nodes_splits", "nodes_missing_value_tracks_true"):
        made[name] = np.concatenate([arrays[name], np.zeros(len(leaves), arrays[name].dtype)])
    return made


def _copied(arrays: dict[str, Any], copies: int, aggregate: str) -> dict[str, Any]:
    """The attributes of `copies` forests: in copy i each leaf has its vote i. Where it has fewer, a sum gets 0 and an
    extreme its last vote again."""
    begins, targets, weights = (arrays[name] for name in ("leaf_begins", "leaf_targetids", "leaf_weights"))
    size, leaves, counts = len(arrays["nodes_modes"]), len(begins) - 1, np.diff(begins)
    made: dict[str, Any] = {}
    for side in ("true", "false"):
        child = np.concatenate([_moved(arrays[f"nodes_{side}nodeids"], i * size, i * leaves) for i in range(copies)])
        made[f"nodes_{side}nodeids"] = np.where(child < 0, ~child, child)
        made[f"nodes_{side}leafs"] = (child < 0).astype(np.int64)
    for name in ("nodes_featureids", "nodes_modes", "nodes_splits"):
        made[name] = np.tile(arrays[name], copies)
    tracks = np.tile(arrays["nodes_missing_value_tracks_true"].astype(np.int64), copies)
    made["nodes_missing_value_tracks_true"] = tracks if tracks.any() else None
    members = arrays["membership_values"]
    made["membership_values"] = None if members is None else np.tile(members, copies)
    made["tree_roots"] = np.concatenate([arrays["tree_roots"] + i * size for i in range(copies)])
    own = [begins[:-1] + np.clip(i, 0, np.maximum(counts - 1, 0)) for i in range(copies)]
    there = [counts > i if aggregate in ("SUM", "AVERAGE") else counts > 0 for i in range(copies)]
    at, kept = np.concatenate(own), np.concatenate(there)
    safe = np.where(kept, at, 0)
    made["leaf_targetids"] = np.where(kept, targets[safe], 0) if len(targets) else np.zeros(leaves * copies, np.int64)
    zero = np.zeros((), weights.dtype)
    made["leaf_weights"] = np.where(kept, weights[safe], zero) if len(weights) else np.zeros(at.size, weights.dtype)
    return made


def _moved(child: Array, nodes: int, leaves: int) -> Array:
    return np.where(child < 0, child - leaves, child + nodes)


# -------------------------------------------------------------------------------------------------- versions 1 to 4


def _regressor(e: Emitter, n: Node, arrays: dict[str, Any]) -> None:
    """TreeEnsembleRegressor: nodes and leaves in one list, tree after tree, each root first and its ids from 0 on."""
    if n.result.dtype is not F32 or arrays["membership_values"] is not None:
        raise e.refuse("TreeEnsembleRegressor computes in float32 and knows no sets")
    nodes, trees, ids, where = _listed(e, arrays)
    inner = nodes >= 0
    at = np.where(inner, nodes, 0)
    attrs: dict[str, Any] = {"nodes_treeids": trees, "nodes_nodeids": ids}
    for name in ("nodes_featureids", "nodes_missing_value_tracks_true"):
        attrs[name] = (
            np.where(inner, arrays[name][at], 0).astype(np.int64) if inner.any() else np.zeros(len(nodes), int)
        )
    attrs["nodes_values"] = np.where(inner, arrays["nodes_splits"][at], 0.0) if inner.any() else np.zeros(len(nodes))
    for side in ("true", "false"):
        child = arrays[f"nodes_{side}nodeids"]
        attrs[f"nodes_{side}nodeids"] = (
            np.where(inner, where(child[at]), 0) if inner.any() else np.zeros(len(nodes), int)
        )
    begins, leaf = arrays["leaf_begins"], ~nodes[~inner]
    counts = np.diff(begins)[leaf]
    votes = np.repeat(begins[leaf] - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts) + np.arange(counts.sum())
    attrs["target_treeids"], attrs["target_nodeids"] = (np.repeat(a[~inner], counts) for a in (trees, ids))
    attrs["target_ids"] = arrays["leaf_targetids"][votes]
    attrs["target_weights"] = arrays["leaf_weights"][votes].astype(np.float64)
    if not attrs["nodes_missing_value_tracks_true"].any():
        del attrs["nodes_missing_value_tracks_true"]
    modes = [
        MODES[mode] if is_inner else "LEAF"
        for mode, is_inner in zip(_taken(arrays["nodes_modes"], at), inner, strict=True)
    ]
    ml_node(
        e, n, "TreeEnsembleRegressor", [n.operands[0]], nodes_modes=modes, n_targets=n.attr("n_targets"),
        aggregate_function=n.attr("aggregate_function"), **{name: array.tolist() for name, array in attrs.items()},
    )  # fmt: skip


def _taken(array: Array, at: Array) -> Array:
    return array[at] if len(array) else np.zeros(len(at), int)


def _listed(e: Emitter, arrays: dict[str, Any]) -> tuple[Array, Array, Array, Any]:
    """All nodes (inner ones as they are, leaves as ~leaf) tree by tree, breadth first; their tree and node ids; and the
    function from nodes to node ids. Refuses where two branches lead to one node."""
    level, owner = arrays["tree_roots"], np.arange(len(arrays["tree_roots"]))
    levels, owners, seen = [], [], 0
    size, leaves = len(arrays["nodes_modes"]), len(arrays["leaf_begins"]) - 1
    while level.size and seen <= size + leaves:
        levels.append(level)
        owners.append(owner)
        seen += level.size
        inner = level >= 0
        sides = [arrays[f"nodes_{side}nodeids"][level[inner]] for side in ("true", "false")]
        level, owner = np.stack(sides, axis=1).reshape(-1), np.repeat(owner[inner], 2)
    nodes = np.concatenate(levels) if levels else np.zeros(0, np.int64)
    if len(np.unique(nodes)) < len(nodes):
        raise e.refuse("two branches of a tree lead to one node")
    trees = np.concatenate(owners) if owners else np.zeros(0, np.int64)
    order = np.argsort(trees, kind="stable")
    nodes, trees = nodes[order], trees[order]
    ids = np.arange(len(trees)) - np.searchsorted(trees, trees)
    place = np.zeros(size + leaves, np.int64)
    place[np.where(nodes < 0, size + ~nodes, nodes)] = ids
    return nodes, trees, ids, lambda child: place[np.where(child < 0, size + ~child, child)]
