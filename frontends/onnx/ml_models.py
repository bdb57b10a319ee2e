"""ai.onnx.ml: linear models and support vector machines, and how scores become labels and what users see of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...ir.graph import Value
from ...ir.types import I64
from .importer import Call, Importer
from .ml import DOMAIN, as_f32, as_rows, has, labels_of
from .registry import handles

TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")
#: The constant of Winitzki's approximation of the inverse error function ("A handy approximation for the error function
#: and its inverse", 2008), which is what every implementation of these operators computes.
WINITZKI = 0.147
#: Scores closer to 0 than this are zeros to SOFTMAX_ZERO.
ZERO = 1e-7


# ------------------------------------------------------------------------------------------------ post-transforms


def transformed(c: Importer, n: Call, scores: Value) -> Value:
    """`post_transform` of scores [N, E], row by row."""
    name = transform_of(n)
    if name == "NONE":
        return scores
    if name == "LOGISTIC":
        return c.b.sigmoid(scores)
    if name == "SOFTMAX":
        return c.b.softmax(scores, axis=-1)
    return _probit(c, scores) if name == "PROBIT" else _softmax_zero(c, scores)


def transform_of(n: Call) -> str:
    given = n.attr("post_transform", "NONE")
    name = TRANSFORMS[given] if isinstance(given, int) and 0 <= given < len(TRANSFORMS) else given
    if name not in TRANSFORMS:
        raise n.invalid(f"post_transform is {given!r} (one of {', '.join(TRANSFORMS)} expected)")
    return name


def _softmax_zero(c: Importer, x: Value) -> Value:
    """The softmax of the scores that are not zero, zeros staying zeros; a row of zeros only is 0.5 throughout."""
    b = c.b
    largest = b.reduce_max(x, (-1,), keepdims=True)
    counts = b.greater(b.abs(x), c.scalar(ZERO, x))
    grown = b.where(counts, b.exp(b.sub(x, largest)), c.scalar(0, x))
    total = b.reduce_sum(grown, (-1,), keepdims=True)
    none = b.equal(total, c.scalar(0, x))
    return b.where(none, c.scalar(0.5, x), b.div(grown, b.where(none, c.scalar(1, x), total)))


def _probit(c: Importer, x: Value) -> Value:
    """sqrt(2) erfinv(2 x - 1)."""
    b = c.b
    t = b.sub(b.mul(x, c.scalar(2, x)), c.scalar(1, x))
    log = b.log(b.mul(b.sub(c.scalar(1, x), t), b.add(t, c.scalar(1, x))))
    v = b.add(b.mul(log, c.scalar(0.5, x)), c.scalar(2 / (math.pi * WINITZKI), x))
    root = b.sqrt(b.sub(b.mul(v, v), b.mul(log, c.scalar(1 / WINITZKI, x))))
    return b.mul(b.mul(b.sign(t), b.sqrt(b.sub(root, v))), c.scalar(math.sqrt(2), x))


def pair_of(c: Importer, n: Call, score: Value, signed: bool) -> Value:
    """The scores of two classes from the second one's [N, 1]: its opposite beside it, or, for scores that count as
    probabilities, what they leave of 1. A transform says which: all expect logits but PROBIT."""
    name = transform_of(n)
    signed = signed if name == "NONE" else name != "PROBIT"
    first = c.b.neg(score) if signed else c.b.sub(c.scalar(1, score), score)
    return transformed(c, n, c.b.concat(first, score, axis=1))


# --------------------------------------------------------------------------------------------------------- labels


def best_label(c: Importer, labels: Value, scores: Value) -> Value:
    """The label [N] of the highest of scores [N, C], the first of equals."""
    return c.b.gather(labels, c.b.arg_max(scores, axis=1, keepdims=False))


def binary_label(c: Importer, labels: Value, score: Value, threshold: float) -> Value:
    """The second label where score [N, 1] is above the threshold, else the first."""
    above = c.b.cast(c.b.greater(score, c.scalar(threshold, score)), to=I64)
    return c.b.gather(labels, c.b.reshape(above, (-1,)))


# ---------------------------------------------------------------------------------------------------------- linear


def _linear(c: Importer, n: Call, x: Value, models: int) -> Value:
    """Scores f32[N, models] of rows x."""
    weights = np.asarray(n.attr("coefficients") or (), np.float32)
    if models < 1 or not weights.size or weights.size % models:
        raise n.invalid(f"{weights.size} coefficients for {models} models")
    table = c.const(weights.reshape(models, -1))
    if not has(n, "intercepts"):
        return c.b.gemm(x, table, transB=True)
    intercepts = np.asarray(n.attr("intercepts"), np.float32)
    if intercepts.size != models:
        raise n.invalid(f"{intercepts.size} intercepts for {models} models")
    return c.b.gemm(x, table, c.const(intercepts), transB=True)


@handles("LinearRegressor", domain=DOMAIN)
def linear_regressor(c: Importer, n: Call) -> Any:
    x = as_rows(c, n, as_f32(c, n.x))
    return transformed(c, n, _linear(c, n, x, n.attr("targets", 1)))


@handles("LinearClassifier", domain=DOMAIN)
def linear_classifier(c: Importer, n: Call) -> Any:
    """One model per class, or one for two classes: it speaks for the second one when positive."""
    labels, classes = labels_of(c, n, "classlabels_ints")
    x = as_rows(c, n, as_f32(c, n.x))
    features, models = x.shape[1], len(n.attr("intercepts") or ())  # type: ignore[index]
    if not models:
        models = len(n.attr("coefficients")) // max(features, 1) if isinstance(features, int) else classes
    scores = _linear(c, n, x, models)
    if models == 1 and classes == 2:
        return binary_label(c, labels, scores, 0.0), pair_of(c, n, scores, signed=False)
    if models != classes:
        raise n.invalid(f"{models} linear models for {classes} classes")
    return best_label(c, labels, scores), transformed(c, n, scores)


# ------------------------------------------------------------------------------------------ support vector machines


def _kernel(n: Call) -> dict[str, Any]:
    """The kernel's attributes; `kernel_params` are gamma, coef0 and degree."""
    params = tuple(n.attr("kernel_params") or (0.0, 0.0, 0.0))
    if len(params) != 3:
        raise n.invalid(f"kernel_params has {len(params)} entries (gamma, coef0 and degree expected)")
    kind = n.attr("kernel_type", "LINEAR")
    if kind not in ("LINEAR", "POLY", "RBF", "SIGMOID"):
        raise n.invalid(f"kernel_type is {kind!r}")
    return {"kernel_type": kind, "gamma": params[0], "coef0": params[1], "degree": params[2]}


def _table(c: Importer, n: Call, name: str, rows: int) -> Value:
    """An attribute's floats as a constant f32[rows, n]."""
    items = np.asarray(n.attr(name) or (), np.float32)
    if rows < 1 or not items.size or items.size % rows:
        raise n.invalid(f"{name} has {items.size} entries, which do not make {rows} rows")
    return c.const(items.reshape(rows, -1))


def _floats(c: Importer, n: Call, name: str, least: int) -> Value:
    items = np.asarray(n.attr(name) or (), np.float32)
    if items.size < least:
        raise n.invalid(f"{name} has {items.size} entries, expected {least}")
    return c.const(items)


@handles("SVMRegressor", domain=DOMAIN)
def svm_regressor(c: Importer, n: Call) -> Any:
    """Without support vectors it is a linear model, whatever the kernel."""
    x, supports = as_rows(c, n, as_f32(c, n.x)), n.attr("n_supports", 0)
    if supports < 0:
        raise n.invalid(f"n_supports is {supports}")
    kernel: dict[str, Any] = _kernel(n) if supports else {}
    vectors = _table(c, n, "support_vectors", supports) if supports else None
    coefficients = _floats(c, n, "coefficients", 1)
    made = c.b.svm_regressor(
        x, vectors, coefficients, _floats(c, n, "rho", 1), one_class=bool(n.attr("one_class", 0)), **kernel
    )
    return transformed(c, n, made)


@handles("SVMClassifier", domain=DOMAIN)
def svm_classifier(c: Importer, n: Call) -> Any:
    labels, classes = labels_of(c, n, "classlabels_ints")
    x, per_class = as_rows(c, n, as_f32(c, n.x)), tuple(n.attr("vectors_per_class") or ())
    supports, duels = sum(per_class), classes * (classes - 1) // 2
    if supports <= 0:
        linear = _table(c, n, "coefficients", classes)
        label, scores = c.b.svm_classifier(x, None, linear, _floats(c, n, "rho", 1), labels)
        return label, transformed(c, n, scores)
    if classes < 2:
        raise n.invalid("one class only, where classes are told apart in pairs")
    coefficients = np.asarray(n.attr("coefficients") or (), np.float32)
    wanted = (classes - 1) * supports
    if coefficients.size < wanted:
        raise n.invalid(f"{coefficients.size} coefficients, expected {wanted}")
    odds = [_floats(c, n, name, duels) if has(n, name) else None for name in ("prob_a", "prob_b")]
    label, scores = c.b.svm_classifier(
        x,
        _table(c, n, "support_vectors", supports),
        c.const(coefficients[:wanted].reshape(classes - 1, supports)),
        _floats(c, n, "rho", duels),
        labels,
        *odds,
        vectors_per_class=per_class,
        **_kernel(n),
    )
    return label, transformed(c, n, scores)
