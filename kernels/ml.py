"""Classical machine learning: lookups in sorted keys, maps as Python dicts, support vector machines in float64."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from ..ir.errors import InvalidModel, clean
from ..ir.types import F32, I64, STRING, DType
from . import budget
from .registry import kernel

Array = np.ndarray

#: Elements of one block of differences that the RBF kernel holds.
_BLOCK = 1 << 20
#: What stands in a row of strings where a sparse map has no key: onnxruntime's choice; the specification names none.
_NO_STRING = "0.f"
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*([eE][+-]?\d+)?|\.\d+([eE][+-]?\d+)?|inf|infinity|nan)\s*", re.IGNORECASE)
_INTEGER = re.compile(r"\s*[+-]?\d{1,19}\s*")


def find(x: Array, keys: Array) -> Array:
    """i64 of x's shape: the last i with keys[i] equal to the element (a NaN equals any NaN), -1 where there is none."""
    if keys.dtype == object:
        table = {key: i for i, key in enumerate(keys.tolist())}
        found = [table.get(item, -1) for item in x.reshape(-1).tolist()]
        return np.asarray(found, np.int64).reshape(x.shape)
    if not keys.size:
        return np.full(x.shape, -1, np.int64)
    unique, backwards = np.unique(keys[::-1], return_index=True)
    at = np.minimum(np.searchsorted(unique, x), unique.size - 1)
    same = unique[at] == x
    if keys.dtype.kind == "f":
        same |= np.isnan(unique[at]) & np.isnan(x)
    return np.where(same, keys.size - 1 - backwards[at], -1).astype(np.int64)


@kernel("label_encoder")
def label_encoder(x: Array, keys: Array, values: Array, default: Array) -> Array:
    """values[i] of the last key that equals the element, else the default; in the shape of x and the dtype of values."""
    at = find(x, keys)
    padded = np.append(values, default.reshape(1)).astype(values.dtype)
    return padded[at]  # -1 is the default


@kernel("one_hot_encoder")
def one_hot_encoder(x: Array, cats: Array) -> Array:
    """f32, one more axis than x. Raises InvalidModel for an element that is no category."""
    at = find(x, cats)
    if (at < 0).any():
        raise InvalidModel(f"one_hot_encoder: {clean(x[at < 0].reshape(-1)[0])} is no category")
    return (at[..., None] == np.arange(cats.size)).astype(np.float32)


@kernel("zip_map")
def zip_map(x: Array, keys: Array) -> list[dict[Any, np.float32]]:
    """A dict per row, from int or str to number."""
    names = keys.tolist()
    return [dict(zip(names, row, strict=True)) for row in np.atleast_2d(x)]


@kernel("cast_map")
def cast_map(x: dict[int, Any], *, to: DType, size: int | None) -> Array:
    """One row. Raises InvalidModel for a key outside of a row of given size, and for text that is no number."""
    items = sorted(x.items())
    if size is None:
        values = [_converted(value, to) for _, value in items]
    else:
        outside = [key for key, _ in items if not 0 <= key < size]
        if outside:
            raise InvalidModel(f"cast_map: key {outside[0]} does not fit a row of {size}")
        values = [{F32: 0.0, I64: 0}.get(to, _NO_STRING)] * size
        for key, value in items:
            values[key] = _converted(value, to)
    row = np.empty((1, len(values)), to.numpy)
    row[0, :] = values
    return row


def _converted(value: Any, to: DType) -> Any:
    """One value of a map. Numbers become text as C's `%f` writes them."""
    if not isinstance(value, str):
        number = float(np.float32(value))
        if to is F32:
            return number
        if to is not I64:
            return f"{number:f}"
        if not abs(number) < 2.0**63:
            raise InvalidModel(f"cast_map: {number} is no 64-bit integer")
        return int(number)
    if to is F32 and _NUMBER.fullmatch(value):
        return float(value)
    if to is I64 and _INTEGER.fullmatch(value) and -(2**63) <= int(value) < 2**63:
        return int(value)
    if to in (F32, I64):
        raise InvalidModel(f"cast_map: {clean(value)!r} is no number")
    return value


@kernel("dict_vectorizer")
def dict_vectorizer(x: dict[Any, Any], vocabulary: Array, *, to: DType) -> Array:
    """One row in the order of the vocabulary. Raises InvalidModel for an unknown key."""
    words = vocabulary.tolist()
    unknown = set(x) - set(words)
    if unknown:
        raise InvalidModel(f"dict_vectorizer: {clean(min(unknown))!r} is not in the vocabulary")
    row = np.empty((1, len(words)), to.numpy)
    row[0, :] = [x.get(word, "" if to is STRING else 0) for word in words]
    return row


# ------------------------------------------------------------------------------------------- support vector machines


def _kernels(x: Array, vectors: Array, kernel_type: str, gamma: float, coef0: float, degree: float) -> Array:
    """f64[N, V]: the kernel of each row with each support vector."""
    budget.hold(8 * x.shape[0] * vectors.shape[0])
    budget.spend(budget.ELEMENT * x.shape[0] * vectors.size)
    if kernel_type == "LINEAR":
        return x @ vectors.T
    if kernel_type == "RBF":
        made = np.empty((x.shape[0], vectors.shape[0]))
        step = max(_BLOCK // max(vectors.size, 1), 1)
        for at in range(0, x.shape[0], step):
            made[at : at + step] = ((x[at : at + step, None] - vectors) ** 2).sum(axis=-1)
        return np.exp(-gamma * made)
    inner = gamma * (x @ vectors.T) + coef0
    return np.tanh(inner) if kernel_type == "SIGMOID" else inner**degree


@kernel("svm_regressor")
def svm_regressor(
    x: Array, support_vectors: Array | None, coefficients: Array, rho: Array, *, one_class: bool, **kind: Any
) -> Array:
    """f32[N, 1]; 1 or -1 for one class."""
    wide, weights = x.astype(np.float64), coefficients.astype(np.float64)
    rows = wide if support_vectors is None else _kernels(wide, support_vectors.astype(np.float64), **kind)
    made = rows @ weights + float(rho[0])
    return (np.where(made > 0, 1, -1) if one_class else made)[:, None].astype(np.float32)


@kernel("svm_classifier")
def svm_classifier(
    x: Array,
    support_vectors: Array | None,
    coefficients: Array,
    rho: Array,
    labels: Array,
    prob_a: Array | None = None,
    prob_b: Array | None = None,
    *,
    vectors_per_class: tuple[int, ...],
    **kind: Any,
) -> tuple[Array, Array]:
    """The winning labels [N], and the scores f32[N, classes or duels]."""
    wide, table = x.astype(np.float64), coefficients.astype(np.float64)
    if support_vectors is None:
        scores = wide @ table.T + float(rho[0])
        return labels[_highest(scores, bool((table >= 0).all()))], scores.astype(np.float32)
    rows = _kernels(wide, support_vectors.astype(np.float64), **kind)
    sums, votes = _duels(rows, table, rho.astype(np.float64), vectors_per_class)
    if prob_a is not None and prob_b is not None:
        count = sums.shape[1]
        wins = 1 / (1 + np.exp(sums * prob_a[:count].astype(np.float64) + prob_b[:count].astype(np.float64)))
        sums = _probabilities(np.clip(wins, 1e-7, 1 - 1e-7), len(vectors_per_class))
    elif len(vectors_per_class) == 2:
        sums = np.concatenate([-sums, sums], axis=1)
    return labels[votes.argmax(axis=1)], sums.astype(np.float32)


def _highest(scores: Array, positive: bool) -> Array:
    """The best class; of two classes the second, as soon as the best score says yes."""
    best = scores.argmax(axis=1)
    if scores.shape[1] != 2:
        return best
    top = scores.max(axis=1)
    return np.where(top >= 0.5 if positive else top > 0, 1, best)


def _duels(rows: Array, table: Array, rho: Array, per_class: tuple[int, ...]) -> tuple[Array, Array]:
    """f64[N, duels] sums of i < j, and i64[N, C] how many duels each class wins."""
    starts = np.concatenate([[0], np.cumsum(per_class)]).astype(int)
    own = [slice(a, b) for a, b in zip(starts[:-1], starts[1:], strict=True)]
    sums: list[Array] = []
    votes = np.zeros((rows.shape[0], len(per_class)), np.int64)
    for i in range(len(own)):
        for j in range(i + 1, len(own)):
            made = rows[:, own[i]] @ table[j - 1, own[i]] + rows[:, own[j]] @ table[i, own[j]] + rho[len(sums)]
            votes[:, i] += made > 0
            votes[:, j] += made <= 0
            sums.append(made)
    return np.stack(sums, axis=1), votes


def _probabilities(wins: Array, classes: int) -> Array:
    """f64[N, C] from the probabilities f64[N, duels] that i beats j: the second method of Wu, Lin and Weng, "Probability
    estimates for multi-class classification by pairwise coupling", JMLR 5 (2004), with libsvm's stopping rule."""
    made = np.empty((wins.shape[0], classes))
    upper = np.triu_indices(classes, 1)
    for row, won in enumerate(wins):
        r = np.zeros((classes, classes))
        r[upper] = won
        r.T[upper] = 1 - won
        q = -r.T * r
        np.fill_diagonal(q, (r**2).sum(axis=0))
        made[row] = _coupled(q)
    return made


def _coupled(q: Array) -> Array:
    """The p that minimises p.Qp on the simplex, one coordinate after the other; at most 100 rounds (or one per class)."""
    classes = len(q)
    p = np.full(classes, 1 / classes)
    for _ in range(max(100, classes)):
        qp = q @ p
        total = p @ qp
        if np.abs(qp - total).max() < 0.005 / classes:
            break
        for t in range(classes):
            step = (total - qp[t]) / q[t, t]
            p[t] += step
            total = (total + step * (step * q[t, t] + 2 * qp[t])) / (1 + step) ** 2
            qp = (qp + step * q[t]) / (1 + step)
            p /= 1 + step
    return p
