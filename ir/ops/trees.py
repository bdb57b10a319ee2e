"""Ensembles of decision trees. Structure and leaf values are operands, constants as a rule; walking them is a kernel's work."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..dims import Dim, dim_eq
from ..errors import TypeInferError
from ..opdef import PURE, Axis, AxisMap, DtypeVar, OpDef, Sample, attr, op, operand, optional
from ..types import BOOL, BOOLEAN, F16, F32, F64, I64, U8, DType, TensorType
from .rules import agree, ranked
from .sampling import draw

T = DtypeVar("T", frozenset({F16, F32, F64}))
INDICES = frozenset({I64})

#: What `nodes_modes` counts: how a node compares its feature with its split. The last one tests membership of a set.
MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ", "BRANCH_MEMBER")
MEMBER = MODES.index("BRANCH_MEMBER")
AGGREGATES = ("AVERAGE", "SUM", "MIN", "MAX")


@op
class TreeEnsemble(OpDef):
    """Per row of x, the leaf of each tree that its features lead to, and per target an aggregate of those leaves' votes.

    ONNX's TreeEnsemble-5 but for three things. A child or root below 0 is the leaf `~child`, so no flags are needed and
    a tree may be a leaf. A leaf has any number of votes, `leaf_targetids[i]` and `leaf_weights[i]` for i from
    `leaf_begins[leaf]` to `leaf_begins[leaf + 1]`. There is no post-transform: that is arithmetic on the result.

    A feature that is NaN takes the branch that `nodes_missing_value_tracks_true` names. `membership_values` has one set
    per BRANCH_MEMBER node, in the order of the nodes, each ended by a NaN. AVERAGE divides the sum by the number of
    trees; a target without any vote is 0.

    x T[N, F] -> T[N, n_targets]
    """

    x = operand(T)
    nodes_featureids = operand(INDICES)
    nodes_modes = operand(frozenset({U8}))
    nodes_splits = operand(T)
    nodes_missing_value_tracks_true = operand(BOOLEAN)
    nodes_truenodeids = operand(INDICES)
    nodes_falsenodeids = operand(INDICES)
    tree_roots = operand(INDICES)
    leaf_begins = operand(INDICES)
    leaf_targetids = operand(INDICES)
    leaf_weights = operand(T)
    membership_values = optional(T)
    n_targets = attr(int)
    aggregate_function = attr(str, "SUM", choices=AGGREGATES)
    traits = PURE

    def infer(
        self,
        x,
        nodes_featureids,
        nodes_modes,
        nodes_splits,
        nodes_missing_value_tracks_true,
        nodes_truenodeids,
        nodes_falsenodeids,
        tree_roots,
        leaf_begins,
        leaf_targetids,
        leaf_weights,
        membership_values,
        *,
        n_targets,
        aggregate_function,
    ):
        if n_targets < 1:
            raise TypeInferError(f"n_targets is {n_targets}")
        shape = ranked(x, "x", 2)
        _same_length(
            "nodes",
            nodes_featureids,
            nodes_modes,
            nodes_splits,
            nodes_missing_value_tracks_true,
            nodes_truenodeids,
            nodes_falsenodeids,
        )
        _same_length("votes", leaf_targetids, leaf_weights)
        for value, what in ((tree_roots, "tree_roots"), (membership_values, "membership_values")):
            ranked(value, what, 1)
        begins = ranked(leaf_begins, "leaf_begins", 1)
        if begins is not None and dim_eq(begins[0], 0):
            raise TypeInferError("leaf_begins is empty (one entry more than there are leaves is expected)")
        return TensorType(x.dtype, None if shape is None else (shape[0], n_targets))

    def axes(self, x, *operands, **attrs):
        if x.rank is None:
            return None
        pinned = tuple(None if v is None else (None,) * (v.rank or 0) for v in operands)
        return AxisMap(((Axis("n"), None), *pinned), ((Axis("n"), None),))

    def samples(self, rng):
        for dtype, aggregate, member in ((F32, "SUM", False), (F64, "AVERAGE", False), (F32, "MIN", True)):
            nodes = sample_trees(rng, dtype, member)
            x = draw(rng, (5, 3), dtype)
            x[1, 0] = np.nan
            yield Sample((x, *nodes), {"n_targets": 2, "aggregate_function": aggregate}, _NAMES)
        single = sample_trees(rng, F32, False, votes=(1, 1))
        yield Sample((draw(rng, (4, 3)), *single), {"n_targets": 2}, _NAMES)


_NAMES = (
    "nodes_featureids", "nodes_modes", "nodes_splits", "nodes_missing_value_tracks_true", "nodes_truenodeids",
    "nodes_falsenodeids", "tree_roots", "leaf_begins", "leaf_targetids", "leaf_weights", "membership_values",
)  # fmt: skip


def _same_length(what: str, *values: Any) -> None:
    """Vectors of one length. Raises TypeInferError."""
    length: Dim | None = None
    for value in values:
        shape = ranked(value, what, 1)
        if shape is not None:
            length = shape[0] if length is None else agree(length, shape[0], f"numbers of {what}")


def sample_trees(
    rng: np.random.Generator, dtype: DType, member: bool, votes: tuple[int, int] = (1, 3)
) -> tuple[np.ndarray | None, ...]:
    """The operands behind x of two trees of depth 2 over three features with two targets."""
    true = np.array([1, ~0, ~2, 4, ~4, ~6], np.int64)
    false = np.array([2, ~1, ~3, 5, ~5, ~7], np.int64)
    leaves = 8
    modes = rng.integers(0, MEMBER, 6).astype(U8.numpy)
    members = None
    if member:
        modes[1] = modes[4] = MEMBER
        members = np.array([0.5, -1.0, np.nan, 2.0, np.nan], dtype.numpy)
    counts = rng.integers(votes[0], votes[1] + 1, leaves)
    begins = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return (
        rng.integers(0, 3, 6),
        modes,
        draw(rng, (6,), dtype, -1.0, 1.0),
        draw(rng, (6,), BOOL),
        true,
        false,
        np.array([0, 3], np.int64),
        begins,
        rng.integers(0, 2, begins[-1]),
        draw(rng, (int(begins[-1]),), dtype),
        members,
    )
