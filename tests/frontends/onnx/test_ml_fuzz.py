"""ai.onnx.ml nodes with attributes changed at random: they read and run, or one of our own errors says why not."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import onnx
import pytest
from anyir.frontends import onnx as frontend
from anyir.ir.errors import AnyIRError, InternalError
from anyir.kernels import budget
from anyir.kernels.run import run
from anyir.tests.support.ml_models import F32, I64, a_map, model, tensor

X = np.random.default_rng(0).uniform(-1, 1, (3, 2)).astype(np.float32)
OLD = {
    "nodes_treeids": [0] * 5, "nodes_nodeids": [0, 1, 2, 3, 4], "nodes_featureids": [0, 0, 1, 0, 0],
    "nodes_modes": ["BRANCH_LEQ", "LEAF", "BRANCH_NEQ", "LEAF", "LEAF"], "nodes_values": [0.5, 0, 0.25, 0, 0],
    "nodes_truenodeids": [1, 0, 3, 0, 0], "nodes_falsenodeids": [2, 0, 4, 0, 0],
    "nodes_missing_value_tracks_true": [0, 0, 1, 0, 0],
}  # fmt: skip
VOTES = {"treeids": [0] * 4, "nodeids": [1, 3, 4, 4], "ids": [0, 1, 0, 1], "weights": [1.0, 2.0, 3.0, 4.0]}
NEW = {
    "nodes_featureids": [0, 1], "nodes_modes": tensor(np.array([0, 6], np.uint8)), "n_targets": 2,
    "nodes_splits": tensor(np.array([0.5, 0], np.float32)), "nodes_truenodeids": [0, 1], "nodes_trueleafs": [1, 1],
    "nodes_falsenodeids": [1, 2], "nodes_falseleafs": [0, 1], "leaf_targetids": [0, 1, 1], "tree_roots": [0],
    "leaf_weights": tensor(np.ones(3, np.float32)), "membership_values": tensor(np.array([1, 2, np.nan], np.float32)),
}  # fmt: skip
SVC = {
    "support_vectors": [0.5] * 8, "coefficients": [1.0] * 8, "rho": [0.1] * 3, "vectors_per_class": [1, 2, 1],
    "classlabels_ints": [0, 1, 2], "kernel_type": "POLY", "kernel_params": [0.5, 0.25, 2.0], "prob_a": [-1.0] * 3,
    "prob_b": [0.0] * 3,
}  # fmt: skip
SEEDS: dict[str, tuple[onnx.ModelProto, Any]] = {
    "trees 3": (model("TreeEnsembleRegressor", {"x": X}, [F32], 3, **OLD, **{f"target_{k}": v for k, v in VOTES.items()},
                      n_targets=2, aggregate_function="MIN"), X),
    "classes": (model("TreeEnsembleClassifier", {"x": X}, [I64, F32], 3, **OLD, **{f"class_{k}": v for k, v in VOTES.items()},
                      classlabels_int64s=[3, 8], base_values=[0.5, 0.25], post_transform="SOFTMAX"), X),
    "trees 5": (model("TreeEnsemble", {"x": X}, [F32], 5, **NEW), X),
    "vectors": (model("SVMClassifier", {"x": X}, [I64, F32], 1, **SVC), X),
    "linear": (model("LinearClassifier", {"x": X}, [I64, F32], 1, coefficients=[1.0] * 6, intercepts=[0.5] * 3,
                     classlabels_ints=[1, 2, 3]), X),
    "labels": (model("LabelEncoder", {"x": np.array([1, 2])}, [I64], 4, keys_int64s=[1, 2], values_int64s=[5, 6]),
               np.array([1, 2])),
    "categories": (model("OneHotEncoder", {"x": np.array([1, 2])}, [F32], 1, cats_int64s=[1, 2], zeros=0), np.array([1, 2])),
    "map": (model("CastMap", {"x": a_map(I64, F32)}, [F32], 1, map_form="SPARSE", max_map=5), {1: 2.0}),
}  # fmt: skip

INTS = (-1, 0, 1, 2, 5, 7, 10**6, 2**31, 2**40, 2**63 - 1, -(2**63))
FLOATS = (float("nan"), float("inf"), -1.0, 0.0, 1e38)
TEXTS = (b"LEAF", b"BRANCH_LEQ", b"NONE", b"SOFTMAX", b"PROBIT", b"LINEAR", b"DENSE", b"x", b"\xff", b"")


def changed(proto: onnx.ModelProto, rng: random.Random) -> bytes:
    """The model with one to three entries of attributes replaced, dropped or added."""
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    for _ in range(rng.randint(1, 3)):
        attribute = rng.choice(made.graph.node[0].attribute)
        for entries, choices in ((attribute.ints, INTS), (attribute.floats, FLOATS), (attribute.strings, TEXTS)):
            if entries:
                _change_list(entries, choices, rng)
        if attribute.type == onnx.AttributeProto.INT:
            attribute.i = rng.choice(INTS)
        elif attribute.type == onnx.AttributeProto.STRING:
            attribute.s = rng.choice(TEXTS)
        elif attribute.type == onnx.AttributeProto.TENSOR:
            raw = bytearray(attribute.t.raw_data)
            raw[rng.randrange(len(raw))] = rng.randrange(256)
            attribute.t.raw_data = bytes(raw)
            attribute.t.dims[0] += rng.choice((0, 0, 0, -1, 1))
    return made.SerializeToString()


def _change_list(entries: Any, choices: tuple, rng: random.Random) -> None:
    at, how = rng.randrange(len(entries)), rng.random()
    if how < 0.7:
        entries[at] = rng.choice(choices)
    elif how < 0.85:
        del entries[at]
    else:
        entries.append(rng.choice(choices))


@pytest.mark.parametrize("name", SEEDS)
def test_changed_attributes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the compiled kernels: no index may leave an array."""
    monkeypatch.setattr("anyir.kernels.jit.UNCOMPILED_STEPS", 0)
    proto, x = SEEDS[name]
    rng, ran = random.Random(name), 0
    for _ in range(150):
        data = changed(proto, rng)
        try:
            with budget.spending(budget.Budget(10**9, 10**8)):
                run(frontend.read(data), [x])
            ran += 1
        except InternalError:
            raise
        except AnyIRError as error:
            assert error.message
    assert 0 < ran < 150
