"""ai.onnx.ml, linear models and support vector machines: onnxruntime is the judge but where it departs from the text."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime")

from anyir.frontends import onnx as frontend
from anyir.ir.errors import InvalidModel
from anyir.tests.support.ml_models import F32, I64, STR, check_against, check_against_onnxruntime, model, ours

RNG = np.random.default_rng(5)
X = RNG.uniform(-1, 1, (7, 3)).astype(np.float32)
TRANSFORMS = ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"]
TYPES = [X, X.astype(np.float64), (4 * X).astype(np.int32), (4 * X).astype(np.int64)]


def floats(*shape: int, low: float = -1.0, high: float = 1.0) -> list[float]:
    return np.float32(RNG.uniform(low, high, shape)).reshape(-1).tolist()


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


# ---------------------------------------------------------------------------------------------------------- linear


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("intercepts", [True, False])
def test_linear_regressor(transform: str, intercepts: bool) -> None:
    attrs: dict[str, Any] = {"coefficients": floats(4, 3), "targets": 4, "post_transform": transform}
    if intercepts:
        attrs["intercepts"] = floats(4)
    check_against_onnxruntime(model("LinearRegressor", {"x": X}, [F32], 1, **attrs), {"x": X})


@pytest.mark.parametrize("x", TYPES[1:])
def test_linear_regressor_of_other_types(x: np.ndarray) -> None:
    weights = floats(2, 3)
    proto = model("LinearRegressor", {"x": x}, [F32], 1, coefficients=weights, intercepts=[0.5, -1.0], targets=2)
    wanted = x @ np.reshape(weights, (2, 3)).T + [0.5, -1.0]
    check_against(proto, {"x": x}, {"o0": wanted.astype(np.float32)})


def test_one_target_is_transformed_too() -> None:
    """onnxruntime leaves a single score as it is; the specification does not."""
    weights = floats(3)
    proto = model("LinearRegressor", {"x": X}, [F32], 1, coefficients=weights, post_transform="LOGISTIC")
    check_against(proto, {"x": X}, {"o0": sigmoid(X @ np.array(weights))[:, None].astype(np.float32)})
    row = ours(proto, {"x": X})[0][0]
    single = model("LinearRegressor", {"x": X[0]}, [F32], 1, coefficients=weights, post_transform="LOGISTIC")
    np.testing.assert_array_equal(ours(single, {"x": X[0]})[0], row[None])


def test_probit_is_near_the_quantile_function() -> None:
    """Winitzki's formula is within 0.005 of it; onnxruntime computes the same formula."""
    p = np.linspace(0.01, 0.99, 99, dtype=np.float32)[:, None]
    proto = model("LinearRegressor", {"x": p}, [F32], 1, coefficients=[1.0], post_transform="PROBIT")
    check_against_onnxruntime(proto, {"x": p})
    wanted = np.array([[NormalDist().inv_cdf(v)] for v in p[:, 0].tolist()])
    assert np.abs(ours(proto, {"x": p})[0] - wanted).max() < 0.005
    ends = np.array([[0.0], [0.5], [1.0]], np.float32)
    np.testing.assert_array_equal(ours(proto, {"x": ends})[0], [[-np.inf], [0], [np.inf]])


def test_softmax_of_what_is_not_zero() -> None:
    x = np.array([[0.0, 1.0, -2.0], [0.0, 0.0, 3.0], [0.5, 0.25, 1.0]], np.float32)
    attrs = {"coefficients": np.eye(3).reshape(-1).tolist(), "targets": 3, "post_transform": "SOFTMAX_ZERO"}
    proto = model("LinearRegressor", {"x": x}, [F32], 1, **attrs)
    check_against_onnxruntime(proto, {"x": x})
    zeros = np.zeros((1, 3), np.float32)
    np.testing.assert_array_equal(ours(proto, {"x": zeros})[0], np.full((1, 3), 0.5, np.float32))


LABELS = [{"classlabels_ints": [4, -7, 9]}, {"classlabels_strings": ["a", "", "c"]}]


def code(labels: dict[str, Any]) -> int:
    return STR if "classlabels_strings" in labels else I64


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("x", TYPES)
def test_linear_classifier(labels: dict[str, Any], transform: str, x: np.ndarray) -> None:
    attrs = {"coefficients": floats(3, 3), "intercepts": floats(3), "post_transform": transform, **labels}
    check_against_onnxruntime(model("LinearClassifier", {"x": x}, [code(labels), F32], 1, **attrs), {"x": x})


@pytest.mark.parametrize("labels", [{"classlabels_ints": [4, -7]}, {"classlabels_strings": ["a", "b"]}])
@pytest.mark.parametrize("models", [1, 2])
@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC"])
def test_linear_classifier_of_two_classes(labels: dict[str, Any], models: int, transform: str) -> None:
    attrs = {"coefficients": floats(models, 3), "intercepts": floats(models), "post_transform": transform, **labels}
    check_against_onnxruntime(model("LinearClassifier", {"x": X}, [code(labels), F32], 1, **attrs), {"x": X})


def test_one_score_for_two_classes_is_a_logit_to_softmax() -> None:
    """onnxruntime leaves out the transform here; ONNX's reference evaluator sees the opposite score as the other class's."""
    weights = floats(3)
    attrs = {"coefficients": weights, "intercepts": [0.1], "classlabels_ints": [0, 1], "post_transform": "SOFTMAX"}
    score = X @ np.array(weights) + 0.1
    truth = {"o0": (score > 0).astype(np.int64), "o1": softmax(np.stack([-score, score], axis=1)).astype(np.float32)}
    check_against(model("LinearClassifier", {"x": X}, [I64, F32], 1, **attrs), {"x": X}, truth)


def test_a_linear_classifier_without_intercepts() -> None:
    weights = floats(3, 3)
    scores = (X @ np.reshape(weights, (3, 3)).T).astype(np.float32)
    proto = model("LinearClassifier", {"x": X}, [I64, F32], 1, coefficients=weights, classlabels_ints=[5, 6, 7])
    check_against(proto, {"x": X}, {"o0": 5 + scores.argmax(axis=1), "o1": scores})


@pytest.mark.parametrize(
    ("attrs", "message"),
    [
        (
            {"coefficients": [1.0] * 6, "intercepts": [1.0, 2.0], "classlabels_ints": [1, 2, 3]},
            "2 linear models for 3 classes",
        ),
        (
            {"coefficients": [1.0] * 4, "intercepts": [1.0] * 3, "classlabels_ints": [1, 2, 3]},
            "4 coefficients for 3 models",
        ),
        ({"coefficients": [1.0] * 6, "intercepts": [1.0] * 3, "classlabels_ints": [1, 2, 3]}, "K|3 and 2 differ|gemm"),
        ({"coefficients": [1.0] * 3}, "exactly one of classlabels_strings"),
        ({"coefficients": [1.0] * 3, "classlabels_ints": [0, 1], "post_transform": "RELU"}, "post_transform is 'RELU'"),
    ],
)
def test_linear_classifiers_that_are_refused(attrs: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidModel, match=message):
        frontend.read(model("LinearClassifier", {"x": X}, [I64, F32], 1, **attrs))


# ------------------------------------------------------------------------------------------ support vector machines

KERNELS = [("LINEAR", 0.0, 0.0, 0.0), ("POLY", 0.5, 0.25, 3.0), ("POLY", 0.5, 0.25, 2.0), ("RBF", 0.75, 0.0, 0.0)]
KERNELS += [("SIGMOID", 0.5, -0.25, 0.0)]


def kernel(row: tuple[str, float, float, float]) -> dict[str, Any]:
    return {"kernel_type": row[0], "kernel_params": list(row[1:])}


@pytest.mark.parametrize("row", KERNELS)
@pytest.mark.parametrize("one_class", [0, 1])
def test_svm_regressor(row: Any, one_class: int) -> None:
    attrs = {
        "support_vectors": floats(5, 3), "coefficients": floats(5), "rho": [0.125], "n_supports": 5,
        "one_class": one_class, **kernel(row),
    }  # fmt: skip
    check_against_onnxruntime(model("SVMRegressor", {"x": X}, [F32], 1, **attrs), {"x": X})


def test_a_linear_svm_regressor() -> None:
    """Without support vectors the coefficients are those of the features."""
    attrs = {"coefficients": floats(3), "rho": [0.5], "n_supports": 0, **kernel(("LINEAR", 0.0, 0.0, 0.0))}
    check_against_onnxruntime(model("SVMRegressor", {"x": X}, [F32], 1, **attrs), {"x": X})


@pytest.mark.parametrize("x", TYPES[1:])
def test_svm_regressor_of_other_types(x: np.ndarray) -> None:
    vectors, weights = floats(4, 3), floats(4)
    attrs = {"support_vectors": vectors, "coefficients": weights, "rho": [0.5], "n_supports": 4, **kernel(KERNELS[3])}
    gaps = ((x.astype(np.float32)[:, None].astype(np.float64) - np.reshape(vectors, (4, 3))) ** 2).sum(axis=-1)
    wanted = (np.exp(-0.75 * gaps) @ weights + 0.5)[:, None].astype(np.float32)
    check_against(model("SVMRegressor", {"x": x}, [F32], 1, **attrs), {"x": x}, {"o0": wanted}, written=False)


@pytest.mark.parametrize("row", KERNELS)
@pytest.mark.parametrize("labels", LABELS)
def test_svm_classifier(row: Any, labels: dict[str, Any]) -> None:
    attrs = {
        "support_vectors": floats(6, 3), "coefficients": floats(2, 6), "rho": floats(3, low=-0.1, high=0.1),
        "vectors_per_class": [2, 1, 3], **kernel(row), **labels,
    }  # fmt: skip
    check_against_onnxruntime(model("SVMClassifier", {"x": X}, [code(labels), F32], 1, **attrs), {"x": X})


@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.parametrize("x", TYPES)
def test_svm_probabilities(classes: int, x: np.ndarray) -> None:
    duels = classes * (classes - 1) // 2
    attrs = {
        "support_vectors": floats(2 * classes, 3), "coefficients": floats(classes - 1, 2 * classes),
        "rho": floats(duels), "vectors_per_class": [2] * classes, "classlabels_ints": list(range(classes)),
        "prob_a": floats(duels, low=-2, high=-1), "prob_b": floats(duels), **kernel(KERNELS[3]),
    }  # fmt: skip
    check_against_onnxruntime(model("SVMClassifier", {"x": x}, [I64, F32], 1, **attrs), {"x": x})


@pytest.mark.parametrize("positive", [True, False])
def test_svm_classifier_of_two_classes(positive: bool) -> None:
    coefficients = floats(1, 6, low=0.1) if positive else floats(1, 6)
    attrs = {
        "support_vectors": floats(6, 3), "coefficients": coefficients, "rho": [-0.2], "vectors_per_class": [3, 3],
        "classlabels_ints": [3, 8], **kernel(KERNELS[3]),
    }  # fmt: skip
    check_against_onnxruntime(model("SVMClassifier", {"x": X}, [I64, F32], 1, **attrs), {"x": X})


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("positive", [True, False])
def test_a_linear_svm_classifier(classes: int, positive: bool) -> None:
    attrs = {
        "coefficients": floats(classes, 3, low=0.1 if positive else -1.0), "rho": [0.1],
        "classlabels_ints": [4, 7, 9][:classes], **kernel(KERNELS[0]),
    }  # fmt: skip
    check_against_onnxruntime(model("SVMClassifier", {"x": X}, [I64, F32], 1, **attrs), {"x": X})


@pytest.mark.parametrize("transform", ["LOGISTIC", "SOFTMAX"])
def test_svm_scores_are_transformed(transform: str) -> None:
    attrs = {
        "support_vectors": floats(6, 3), "coefficients": floats(2, 6), "rho": floats(3), "vectors_per_class": [2, 1, 3],
        "classlabels_ints": [0, 1, 2], "post_transform": transform, **kernel(KERNELS[3]),
    }  # fmt: skip
    check_against_onnxruntime(model("SVMClassifier", {"x": X}, [I64, F32], 1, **attrs), {"x": X})


SVC = {
    "support_vectors": [1.0] * 18, "coefficients": [1.0] * 12, "rho": [1.0] * 3, "vectors_per_class": [2, 1, 3],
    "classlabels_ints": [0, 1, 2],
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"coefficients": [1.0] * 11}, "11 coefficients, expected 12"),
        ({"rho": [1.0] * 2}, "rho has 2 entries, expected 3"),
        ({"vectors_per_class": [2, 4]}, "vectors_per_class"),
        ({"vectors_per_class": [-2, 1, 7]}, "vectors_per_class"),
        ({"support_vectors": [1.0] * 17}, "support_vectors has 17 entries"),
        ({"support_vectors": [1.0] * 12}, "3 features for support vectors of 2"),
        ({"kernel_type": "COSINE"}, "kernel_type is 'COSINE'"),
        ({"kernel_params": [1.0]}, "kernel_params has 1 entries"),
        ({"prob_a": [1.0] * 3}, "prob_a and prob_b go together"),
        ({"classlabels_ints": [0]}, "one class only"),
    ],
)
def test_svm_classifiers_that_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidModel, match=message):
        frontend.read(model("SVMClassifier", {"x": X}, [I64, F32], 1, **SVC | change))
