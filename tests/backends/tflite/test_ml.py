"""Models of ai.onnx.ml as TFLite: what is arithmetic, and trees and support vector machines taken apart, in LiteRT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert")

from anyir.backends import tflite
from anyir.frontends import onnx as frontend
from anyir.ir.errors import AnyIRError
from anyir.kernels.compare import compare, limits_for
from anyir.kernels.run import run
from anyir.runtimes.litert import Job, run_many
from anyir.tests.support.ml_models import F32, I64, model

RNG = np.random.default_rng(41)
X = RNG.uniform(-1, 1, (5, 3)).astype(np.float32)
HOLES = np.where(RNG.random((5, 3)) < 0.3, np.nan, X).astype(np.float32)

TREE = {
    "nodes_treeids": [0] * 5 + [1] * 3, "nodes_nodeids": [0, 1, 2, 3, 4, 0, 1, 2],
    "nodes_featureids": [0, 0, 1, 0, 0, 2, 0, 0], "nodes_values": [0.1, 0, -0.2, 0, 0, 0.3, 0, 0],
    "nodes_modes": ["BRANCH_LEQ", "LEAF", "BRANCH_GT", "LEAF", "LEAF", "BRANCH_LT", "LEAF", "LEAF"],
    "nodes_truenodeids": [1, 0, 3, 0, 0, 1, 0, 0], "nodes_falsenodeids": [2, 0, 4, 0, 0, 2, 0, 0],
    "nodes_missing_value_tracks_true": [1, 0, 0, 0, 0, 1, 0, 0],
}  # fmt: skip
LEAVES = {
    "treeids": [0, 0, 0, 1, 1],
    "nodeids": [1, 3, 4, 1, 2],
    "ids": [0, 1, 0, 1, 0],
    "weights": [1.5, -2, 0.5, 4, -1],
}


def forest(prefix: str) -> dict[str, Any]:
    return TREE | {f"{prefix}_{key}": item for key, item in LEAVES.items()}


def floats(*shape: int) -> list[float]:
    return np.float32(RNG.uniform(-1, 1, shape)).reshape(-1).tolist()


RBF = {"kernel_type": "RBF", "kernel_params": [0.5, 0.0, 0.0]}
MODELS: dict[str, tuple] = {
    **{f"trees, {how}": ("TreeEnsembleRegressor", HOLES, [F32], forest("target") | {"n_targets": 2, "aggregate_function": how})
       for how in ("SUM", "AVERAGE", "MIN", "MAX")},
    "classifying trees": ("TreeEnsembleClassifier", HOLES, [I64, F32],
                          forest("class") | {"classlabels_int64s": [3, 8], "post_transform": "SOFTMAX"}),
    "support vectors": ("SVMRegressor", X, [F32],
                        {"support_vectors": floats(4, 3), "coefficients": floats(4), "rho": [0.5], "n_supports": 4, **RBF}),
    "classifying vectors": ("SVMClassifier", X, [I64, F32],
                            {"support_vectors": floats(4, 3), "coefficients": floats(2, 4), "rho": floats(3),
                             "vectors_per_class": [1, 2, 1], "classlabels_ints": [5, 6, 7], **RBF}),
    "linear": ("LinearClassifier", X, [I64, F32],
               {"coefficients": floats(3, 3), "intercepts": floats(3), "classlabels_ints": [5, 6, 7],
                "post_transform": "SOFTMAX"}),
    "scaler": ("Scaler", X, [F32], {"offset": [0.5], "scale": floats(3)}),
    "normalizer": ("Normalizer", X, [F32], {"norm": "L2"}),
    "largest": ("Normalizer", X, [F32], {"norm": "MAX"}),
    "imputer": ("Imputer", HOLES, [F32], {"imputed_value_floats": [7.0, 8.0, 9.0], "replaced_value_float": float("nan")}),
    "binarizer": ("Binarizer", X, [F32], {"threshold": 0.25}),
    "one-hot": ("OneHotEncoder", np.array([4, 9, -1]), [F32], {"cats_int64s": [-1, 4]}),
    "labels": ("LabelEncoder", np.array([4, 9, -1]), [I64], {"keys_int64s": [-1, 4], "values_int64s": [10, 20]}),
}  # fmt: skip


def test_in_litert(tmp_path: Path) -> None:
    jobs, expected = [], []
    for number, (op_type, x, outputs, attrs) in enumerate(MODELS.values()):
        version = 2 if op_type == "LabelEncoder" else 1
        module, feeds = frontend.read(model(op_type, {"x": x}, outputs, version, **attrs)), {"x": x}
        path = tmp_path / f"{number}.tflite"
        tflite.write(module, path)
        truth = run(module, feeds)
        expected.append((truth, limits_for(module, feeds, exact=truth, runs=8)))
        jobs.append(Job(str(path), feeds))
    for name, made, (truth, limits) in zip(MODELS, run_many(jobs), expected, strict=True):
        assert not isinstance(made, AnyIRError), f"{name}: {made}"
        report = compare(truth, made, limits)
        assert report.passed, f"{name}: {report}"
