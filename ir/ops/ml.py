"""Classical machine learning (ai.onnx.ml): label lookup, maps and dictionaries, support vector machines.

What is plain arithmetic there (scaling, normalising, linear models ...) has no op here: it is lowered to arithmetic.
"""

from __future__ import annotations

import numpy as np

from ..dims import Expr
from ..errors import TypeInferError
from ..opdef import PURE, Axis, AxisMap, DtypeVar, OpDef, Sample, Typed, attr, ints, op, operand, optional
from ..types import F32, F64, I16, I32, I64, STRING, DType, MapType, SequenceType, TensorType
from .rules import agree, passing, ranked
from .sampling import draw, i64

LABELS = frozenset({F32, F64, I16, I32, I64, STRING})
KEYS = frozenset({I64, STRING})
FLOAT = frozenset({F32})
K, V = DtypeVar("K", LABELS), DtypeVar("V", LABELS)
C = DtypeVar("C", KEYS)

KERNELS = ("LINEAR", "POLY", "RBF", "SIGMOID")


def strings(*items: str) -> np.ndarray:
    """A vector of strings."""
    made = np.empty(len(items), object)
    made[:] = items
    return made


@op
class LabelEncoder(OpDef):
    """`values[i]` for the last i with `keys[i]` equal to the element, `default` where there is none. A NaN equals any NaN.

    x K[*s], keys K[n], values V[n], default V[] -> V[*s]
    """

    x = operand(K)
    keys = operand(K)
    values = operand(V)
    default = operand(V)
    traits = PURE

    def infer(self, x, keys, values, default):
        first, second = ranked(keys, "keys", 1), ranked(values, "values", 1)
        if first is not None and second is not None:
            agree(first[0], second[0], "numbers of keys and values")
        ranked(default, "default", 0)
        return TensorType(values.dtype, x.shape)

    def axes(self, x, keys, values, default):
        return None if x.rank is None else AxisMap((passing(x.rank), (None,), (None,), ()), (passing(x.rank),))

    def samples(self, rng):
        x = strings("a", "c", "b", "z", "a", "").reshape(2, 3)
        names = ("keys", "values", "default")
        yield Sample((x, strings("a", "b", "c"), i64(5, -6, 7), np.asarray(-1, np.int64)), {}, names)
        nan = np.array([1.5, np.nan, -0.0, 3.0], np.float32)
        keys = np.array([np.nan, 0.0, 1.5, 1.5], np.float32)
        yield Sample((nan, keys, draw(rng, (4,)), np.asarray(0.5, np.float32)), {}, names)
        yield Sample((i64(3, 9), i64(3, 4), strings("x", "y"), np.array("?", object)), {}, names)


@op
class OneHotEncoder(OpDef):
    """A new last axis: 1 at the category that the element equals, 0 elsewhere; an element that is none is an error.

    x K[*s], cats K[n] -> f32[*s, n]
    """

    x = operand(C)
    cats = operand(C)
    traits = PURE

    def infer(self, x, cats):
        size = ranked(cats, "cats", 1)
        if x.shape is None or size is None:
            return TensorType(F32, None)
        return TensorType(F32, (*x.shape, size[0]))

    def axes(self, x, cats):
        return None if x.rank is None else AxisMap((passing(x.rank), (None,)), ((*passing(x.rank), None),))

    def samples(self, rng):
        yield Sample((i64(4, -2, 4), i64(-2, 4, 7)), {}, ("cats",))
        yield Sample((strings("b", "a"), strings("a", "b", "c")), {}, ("cats",))


@op
class ZipMap(OpDef):
    """One dictionary per row: from each key to the element in the key's column.

    x f32[N, C] or f32[C] (one row), keys K[C] -> seq<map<K, f32[]>>
    """

    x = operand(FLOAT)
    keys = operand(KEYS)
    traits = PURE

    def infer(self, x, keys):
        shape, count = ranked(x, "x", 1, 2), ranked(keys, "keys", 1)
        if shape is not None and count is not None:
            agree(shape[-1], count[0], f"{shape[-1]} columns for {count[0]} keys")
        return SequenceType(MapType(keys.dtype or I64, TensorType(F32, ())))

    def samples(self, rng):
        yield Sample((draw(rng, (2, 3)), i64(7, -1, 3)), {}, ("keys",))
        yield Sample((draw(rng, (2,)), strings("b", "a")), {}, ("keys",))


def _map_type(value: object, what: str) -> tuple[DType, DType | None]:
    """Dtypes of a map's keys and values. Raises TypeInferError for anything else."""
    type_ = getattr(value, "type", None)
    if not isinstance(type_, MapType) or not isinstance(type_.elem, TensorType):
        raise TypeInferError(f"{what} is {type_}, expected a map to numbers or strings")
    return type_.key, type_.elem.dtype


@op
class CastMap(OpDef):
    """The values of a map, cast, in a row: those there are in the order of their keys, or (`size` given) each at its key.

    x map<i64, V> -> to[1, count] or to[1, size]. A place without a key holds 0, in a row of strings "0.f".
    """

    x = operand()
    to = attr(DType)
    size = attr(int, None)
    traits = PURE

    def infer(self, x, *, to, size):
        key, value = _map_type(x, "x")
        if key is not I64 or value not in (F32, STRING, None):
            raise TypeInferError(f"x is {x.type}, expected a map from i64 to f32 or str")
        if to not in (F32, I64, STRING):
            raise TypeInferError(f"a map cannot be cast to {to}")
        if size is not None and size < 0:
            raise TypeInferError(f"size is {size}")
        return TensorType(to, (1, Expr.fresh() if size is None else size))

    def samples(self, rng):
        item = Typed({4: 1.5, 0: -2.0, 3: 7.0}, MapType(I64, TensorType(F32, ())))
        for to in (F32, I64, STRING):
            yield Sample((item,), {"to": to})
            yield Sample((item,), {"to": to, "size": 6})


@op
class DictVectorizer(OpDef):
    """The values of a map in the order of the vocabulary; 0 (or an empty string) for a word that is no key.

    x map<K, V>, vocabulary K[n] -> to[1, n], `to` being V. A key outside of the vocabulary is an error.
    """

    x = operand()
    vocabulary = operand(KEYS)
    to = attr(DType)
    traits = PURE

    def infer(self, x, vocabulary, *, to):
        key, value = _map_type(x, "x")
        if value not in (None, to):
            raise TypeInferError(f"x is {x.type}, to is {to}")
        if vocabulary.dtype not in (None, key):
            raise TypeInferError(f"the vocabulary is {vocabulary.dtype}, the keys are {key}")
        size = ranked(vocabulary, "vocabulary", 1)
        return TensorType(to, None if size is None else (1, size[0]))

    def samples(self, rng):
        number = TensorType(F32, ())
        words = strings("a", "c", "b")
        yield Sample((Typed({"c": 2.5, "a": 1.0}, MapType(STRING, number)), words), {"to": F32}, ("vocabulary",))
        yield Sample((Typed({3: 2.5}, MapType(I64, number)), i64(5, 3)), {"to": F32}, ("vocabulary",))


class _Machine(OpDef):
    """Base of the support vector machines. Without support vectors the coefficients are those of a linear model.

    Kernels of x and v: LINEAR x.v, POLY (gamma x.v + coef0)**degree, RBF exp(-gamma |x - v|**2), SIGMOID
    tanh(gamma x.v + coef0), as in libsvm (Chang and Lin, 2011).
    """

    x = operand(FLOAT)
    support_vectors = optional(FLOAT)
    coefficients = operand(FLOAT)
    rho = operand(FLOAT)


def _check_features(x: object, vectors: object, features: int | None = None) -> None:
    shape, known = ranked(x, "x", 2), ranked(vectors, "support_vectors", 2)  # type: ignore[arg-type]
    if shape is not None and known is not None:
        agree(shape[1], known[1], f"{shape[1]} features for support vectors of {known[1]}")
    if shape is not None and features is not None:
        agree(shape[1], features, f"{shape[1]} features for {features} coefficients")


@op
class SvmRegressor(_Machine):
    """sum_i coefficients[i] kernel(x, support_vectors[i]) + rho; its sign (1 or -1) when `one_class`.

    x f32[N, F], support_vectors f32[V, F], coefficients f32[V] (linear: f32[F]), rho f32[1] -> f32[N, 1]
    """

    kernel_type = attr(str, "LINEAR", choices=KERNELS)
    gamma = attr(float, 0.0)
    coef0 = attr(float, 0.0)
    degree = attr(float, 0.0)
    one_class = attr(bool, False)
    traits = PURE

    def infer(self, x, support_vectors, coefficients, rho, *, kernel_type, gamma, coef0, degree, one_class):
        count, vectors = ranked(coefficients, "coefficients", 1), ranked(support_vectors, "support_vectors", 2)
        ranked(rho, "rho", 1)
        _check_features(x, support_vectors)
        if vectors is not None and count is not None:
            agree(vectors[0], count[0], f"{count[0]} coefficients for {vectors[0]} support vectors")
        elif support_vectors is None and count is not None and x.rank == 2:
            agree(x.shape[1], count[0], f"{x.shape[1]} features for {count[0]} coefficients")
            if kernel_type != "LINEAR":
                raise TypeInferError(f"a {kernel_type} kernel without support vectors")
        return TensorType(F32, None if x.shape is None else (x.shape[0], 1))

    def axes(self, x, support_vectors, coefficients, rho, **attrs):
        return None if x.rank is None else _row_map(x, support_vectors, coefficients, rho, results=1)

    def samples(self, rng):
        vectors, x = draw(rng, (4, 3), low=-1, high=1), draw(rng, (5, 3), low=-1, high=1)
        for kernel in KERNELS:
            attrs = {"kernel_type": kernel, "gamma": 0.5, "coef0": 0.25, "degree": 3.0}
            yield Sample((x, vectors, draw(rng, (4,)), draw(rng, (1,))), attrs, _MODEL)
        yield Sample((x, vectors, draw(rng, (4,)), draw(rng, (1,))), {"one_class": True}, _MODEL)
        yield Sample((x, None, draw(rng, (3,)), draw(rng, (1,))), {}, _MODEL)


_MODEL = ("support_vectors", "coefficients", "rho", "labels", "prob_a", "prob_b")


def _row_map(x: object, *others: object, results: int) -> AxisMap:
    pinned = tuple(None if v is None else (None,) * (v.rank or 0) for v in others)  # type: ignore[attr-defined]
    rows: tuple = ((Axis("n"), None),) if results == 1 else ((Axis("n"),), (Axis("n"), None))
    return AxisMap(((Axis("n"), None), *pinned), rows)


@op
class SvmClassifier(_Machine):
    """The class that wins most of the duels between two classes, and the scores, as libsvm decides them.

    Class c owns `vectors_per_class[c]` support vectors, in order. The duel of i < j is won by i where

        sum over i's vectors coefficients[j - 1, v] k(x, v) + sum over j's vectors coefficients[i, v] k(x, v) + rho[d]

    is positive (d counts the duels). Scores: with `prob_a` and `prob_b` the probabilities of the classes, else the duels'
    sums, and for two classes the sum s as [-s, s]. Without support vectors, per class a linear model with the common
    rho[0], and the highest wins; of two classes the second, once the highest is positive (with no negative coefficient:
    0.5 or more).

    x f32[N, F], support_vectors f32[V, F], coefficients f32[C - 1, V] (linear: f32[C, F]), rho f32[duels], labels L[C],
    prob_a and prob_b f32[duels] -> L[N], f32[N, C or duels]
    """

    labels = operand(KEYS)
    prob_a = optional(FLOAT)
    prob_b = optional(FLOAT)
    kernel_type = attr(str, "LINEAR", choices=KERNELS)
    gamma = attr(float, 0.0)
    coef0 = attr(float, 0.0)
    degree = attr(float, 0.0)
    vectors_per_class = attr(ints, ())
    traits = PURE
    results = ("label", "scores")

    def infer(self, x, support_vectors, coefficients, rho, labels, prob_a, prob_b, **attrs):
        shape, known = ranked(x, "x", 2), ranked(labels, "labels", 1)
        table = ranked(coefficients, "coefficients", 2)
        ranked(rho, "rho", 1)
        _check_features(x, support_vectors)
        if (prob_a is None) != (prob_b is None):
            raise TypeInferError("prob_a and prob_b go together")
        classes = known[0] if known is not None else None
        rows = None if shape is None else shape[0]
        if type(classes) is not int or rows is None:
            return TensorType(labels.dtype, None), TensorType(F32, None)
        duels = classes * (classes - 1) // 2
        if support_vectors is None:
            if table is not None:
                agree(table[0], classes, f"{table[0]} linear models for {classes} classes")
            if attrs["kernel_type"] != "LINEAR" or attrs["vectors_per_class"] or prob_a is not None:
                raise TypeInferError("kernels and probabilities need support vectors")
            scores = classes
        else:
            _check_duels(support_vectors, table, classes, attrs["vectors_per_class"])
            scores = classes if prob_a is not None or classes == 2 else duels
        for value, what, least in (
            (rho, "rho", duels if support_vectors is not None else 1),
            (prob_a, "prob_a", duels),
        ):
            size = ranked(value, what, 1)
            if size is not None and type(size[0]) is int and size[0] < least:
                raise TypeInferError(f"{what} has {size[0]} entries, expected {least}")
        return TensorType(labels.dtype, (rows,)), TensorType(F32, (rows, scores))

    def axes(self, x, *others, **attrs):
        return None if x.rank is None else _row_map(x, *others, results=2)

    def samples(self, rng):
        x, rho = draw(rng, (5, 3), low=-1, high=1), draw(rng, (3,), low=-0.2, high=0.2)
        vectors = draw(rng, (6, 3), low=-1, high=1)
        for kernel in KERNELS:
            attrs = {
                "kernel_type": kernel, "gamma": 0.5, "coef0": 0.25, "degree": 2.0, "vectors_per_class": (2, 1, 3),
            }  # fmt: skip
            yield Sample((x, vectors, draw(rng, (2, 6)), rho, i64(7, -3, 5)), attrs, _MODEL)
        attrs = {"kernel_type": "RBF", "gamma": 0.5, "vectors_per_class": (2, 1, 3)}
        slopes, shifts = draw(rng, (3,), low=-2, high=-1), draw(rng, (3,), low=-0.1, high=0.1)
        yield Sample((x, vectors, draw(rng, (2, 6)), rho, strings("a", "b", "c"), slopes, shifts), attrs, _MODEL)
        pair = {"kernel_type": "RBF", "gamma": 1.0, "vectors_per_class": (3, 3)}
        yield Sample((x, vectors, draw(rng, (1, 6)), rho[:1], i64(0, 1)), pair, _MODEL)
        yield Sample((x, None, draw(rng, (3, 3)), rho[:1], i64(0, 1, 2)), {}, _MODEL)


def _check_duels(vectors, table, classes: int, per_class: tuple[int, ...]) -> None:
    """Every class has its support vectors and every vector a coefficient against each other class."""
    if classes < 2 or len(per_class) != classes or any(n < 0 for n in per_class):
        raise TypeInferError(f"vectors_per_class {per_class} for {classes} classes")
    shape = ranked(vectors, "support_vectors", 2)
    if shape is not None:
        agree(shape[0], sum(per_class), f"{shape[0]} support vectors, vectors_per_class says {sum(per_class)}")
    if table is not None:
        agree(table[0], classes - 1, f"{table[0]} rows of coefficients for {classes} classes")
        agree(table[1], sum(per_class), f"{table[1]} coefficients in a row for {sum(per_class)} support vectors")
