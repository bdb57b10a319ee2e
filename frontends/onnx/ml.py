"""ai.onnx.ml: features, labels and maps. What is arithmetic is lowered to it, in the dtypes that the operators state."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...ir.graph import Value
from ...ir.types import F32, I64, STRING, DType, MapType, TensorType
from .importer import Call, Importer, known_dtype, rank_of
from .registry import handles

DOMAIN = "ai.onnx.ml"

#: The kinds that label attributes come in: the suffix of keys and values, that of the default, and the dtype.
KINDS = (("strings", "string", STRING), ("int64s", "int64", I64), ("floats", "float", F32))
CASTS = {"TO_FLOAT": F32, "TO_INT64": I64, "TO_STRING": STRING}


# ---------------------------------------------------------------------------------------- what the operators share


def vector(n: Call, items: Sequence[Any], dtype: DType) -> np.ndarray:
    """An attribute's entries as a vector. Raises InvalidModel for text that is not UTF-8."""
    if dtype is not STRING:
        return np.asarray(items, dtype.numpy)
    if not all(isinstance(item, str) for item in items):
        raise n.invalid("a string attribute is not UTF-8")
    made = np.empty(len(items), object)
    made[:] = items
    return made


def only(n: Call, *names: str) -> str:
    """The one attribute of these that is given. Raises InvalidModel for none and for several."""
    given = [name for name in names if has(n, name)]
    if len(given) != 1:
        raise n.invalid(f"exactly one of {', '.join(names)} is expected, there are {len(given)}")
    return given[0]


def has(n: Call, name: str) -> bool:
    """An attribute is there and holds something."""
    value = n.attr(name)
    return value is not None and not (isinstance(value, tuple) and not value)


def labels_of(c: Importer, n: Call, ints: str = "classlabels_int64s") -> tuple[Value, int]:
    """The class labels, i64[C] or str[C], and their number."""
    name = only(n, "classlabels_strings", ints)
    items = n.attr(name)
    return c.const(vector(n, items, STRING if name == "classlabels_strings" else I64)), len(items)


def as_f32(c: Importer, x: Value) -> Value:
    return x if x.dtype is F32 else c.b.cast(x, to=F32)


def as_rows(c: Importer, n: Call, x: Value) -> Value:
    """A batch of rows [N, F]; one row [F] is a batch of one."""
    rank = rank_of(x, n)
    if rank not in (1, 2):
        raise n.invalid(f"the input has rank {rank} ([N, F] or [F] expected)")
    return c.b.unsqueeze(x, (0,)) if rank == 1 else x


def per_feature(n: Call, x: Value, items: Sequence[Any], what: str) -> Sequence[Any]:
    """An attribute with one entry, or one for each element of the last axis. Raises InvalidModel."""
    last = x.shape[-1] if x.shape else 1
    if len(items) != 1 and isinstance(last, int) and len(items) != last:
        raise n.invalid(f"{what} has {len(items)} entries for {last} features")
    return items


# -------------------------------------------------------------------------------------------------------- features


@handles("ArrayFeatureExtractor", domain=DOMAIN)
def array_feature_extractor(c: Importer, n: Call) -> Any:
    """The elements of the last axis at the indices; a vector counts as one row."""
    x = c.b.unsqueeze(n.x, (0,)) if rank_of(n.x, n) == 1 else n.x
    return c.b.gather(x, c.b.reshape(n.inputs[1], (-1,)), axis=-1)


@handles("Binarizer", domain=DOMAIN)
def binarizer(c: Importer, n: Call) -> Any:
    """1 above the threshold, else 0. An integer is above t exactly when it is above floor(t)."""
    dtype, threshold = known_dtype(n.x), n.attr("threshold", 0.0)
    if dtype.is_int:
        limits = np.iinfo(dtype.numpy)
        if math.isnan(threshold) or threshold >= limits.max:
            return c.b.mul(n.x, c.scalar(0, n.x))
        if threshold < limits.min:
            return c.b.add(c.b.mul(n.x, c.scalar(0, n.x)), c.scalar(1, n.x))
        threshold = math.floor(threshold)
    return c.b.cast(c.b.greater(n.x, c.scalar(threshold, n.x)), to=dtype)


@handles("FeatureVectorizer", domain=DOMAIN)
def feature_vectorizer(c: Importer, n: Call) -> Any:
    """Inputs side by side as f32, each cut off or filled with zeros to its size in `inputdimensions`."""
    sizes = n.attr("inputdimensions") or (None,) * len(n.inputs)
    if len(sizes) != len(n.inputs):
        raise n.invalid(f"inputdimensions has {len(sizes)} entries for {len(n.inputs)} inputs")
    return c.b.concat(*(_feature(c, n, x, size) for x, size in zip(n.inputs, sizes, strict=True)), axis=1)


def _feature(c: Importer, n: Call, x: Any, size: int | None) -> Value:
    rank = rank_of(x, n)
    made = as_f32(c, c.b.unsqueeze(x, (0,)) if rank == 1 else x if rank == 2 else c.b.flatten(x, axis=1))
    if size is None or made.shape[1] == size:
        return made
    if size < 0:
        raise n.invalid(f"inputdimensions holds {size}")
    return c.b.slice(c.b.pad(made, (0, 0, 0, size)), (0,), (size,), (1,))


@handles("Imputer", domain=DOMAIN)
def imputer(c: Importer, n: Call) -> Any:
    """Another value in place of the one that stands for "missing"; that may be NaN."""
    kind = "int64" if known_dtype(n.x).is_int else "float"
    values, missing = n.attr(f"imputed_value_{kind}s") or (), n.attr(f"replaced_value_{kind}")
    if not values:
        raise n.invalid(f"imputed_value_{kind}s is missing for {n.x.dtype}")
    numbers = per_feature(n, n.x, values, f"imputed_value_{kind}s")
    limits = np.iinfo(n.x.dtype.numpy) if kind == "int64" else None  # type: ignore[union-attr]
    if limits is not None and not all(limits.min <= v <= limits.max for v in numbers):
        raise n.invalid(f"an imputed value does not fit {n.x.dtype}")
    if limits is not None and not limits.min <= missing <= limits.max:
        return c.b.identity(n.x)
    lost = c.b.is_nan(n.x) if kind == "float" and math.isnan(missing) else c.b.equal(n.x, c.scalar(missing, n.x))
    return c.b.where(lost, c.const(np.asarray(numbers, n.x.dtype.numpy)), n.x)  # type: ignore[union-attr]


@handles("Normalizer", domain=DOMAIN)
def normalizer(c: Importer, n: Call) -> Any:
    """Rows over their maximum (NaN aside) or norm, as f32; a row whose divisor is 0 stays as it is."""
    x, norm = as_f32(c, n.x), n.attr("norm", "MAX")
    if norm in ("L1", "L2"):
        return c.b.lp_normalization(x, axis=-1, p=int(norm[1]))
    if norm != "MAX":
        raise n.invalid(f"norm is {norm!r} (MAX, L1 or L2 expected)")
    present = c.b.where(c.b.is_nan(x), c.scalar(-math.inf, x), x)
    largest = c.b.reduce_max(present, (-1,), keepdims=True)
    return c.b.div(x, c.b.where(c.b.equal(largest, c.scalar(0, x)), c.scalar(1, x), largest))


@handles("Scaler", domain=DOMAIN)
def scaler(c: Importer, n: Call) -> Any:
    """(x - offset) * scale in f32."""
    made = as_f32(c, n.x)
    for name, combine in (("offset", c.b.sub), ("scale", c.b.mul)):
        if has(n, name):
            items = per_feature(n, n.x, n.attr(name), name)
            made = combine(made, c.const(np.asarray(items, np.float32)))
    return c.b.identity(made) if made is n.x else made


@handles("OneHotEncoder", domain=DOMAIN)
def one_hot_encoder(c: Importer, n: Call) -> Any:
    """A new last axis of categories. Numbers are cut to integers first. Of equal categories the last one counts."""
    x, texts = n.x, known_dtype(n.x) is STRING
    name = only(n, "cats_int64s", "cats_strings")
    if texts != (name == "cats_strings"):
        raise n.invalid(f"{name} for elements of {x.dtype}")
    cats = vector(n, n.attr(name), STRING if texts else I64)
    x = x if texts or x.dtype is I64 else c.b.cast(x, to=I64)
    last = {item: i for i, item in enumerate(cats.tolist())}
    if not n.attr("zeros", 1):
        if len(last) < len(cats):
            raise n.refuse("categories occur twice where an unknown one is an error")
        return c.b.one_hot_encoder(x, c.const(cats))
    made = c.b.cast(c.b.equal(c.b.unsqueeze(x, (-1,)), c.const(cats)), to=F32)
    if len(last) == len(cats):
        return made
    counts = [float(last[item] == i) for i, item in enumerate(cats.tolist())]
    return c.b.mul(made, c.const(np.asarray(counts, np.float32)))


# ------------------------------------------------------------------------------------------------- labels and maps


@handles("LabelEncoder", domain=DOMAIN)
def label_encoder_by_index(c: Importer, n: Call) -> Any:
    """Version 1: strings to their positions in `classes_strings`, or positions to strings."""
    words = vector(n, n.attr("classes_strings") or (), STRING)
    places = np.arange(len(words), dtype=np.int64)
    return _lookup(c, n, words, places)


@handles("CategoryMapper", domain=DOMAIN)
def category_mapper(c: Importer, n: Call) -> Any:
    words = vector(n, n.attr("cats_strings") or (), STRING)
    numbers = vector(n, n.attr("cats_int64s") or (), I64)
    if len(words) != len(numbers):
        raise n.invalid(f"{len(words)} strings for {len(numbers)} integers")
    return _lookup(c, n, words, numbers)


def _lookup(c: Importer, n: Call, words: np.ndarray, numbers: np.ndarray) -> Value:
    """Strings to integers or back, whichever the input asks for."""
    if known_dtype(n.x) is STRING:
        return c.b.label_encoder(n.x, c.const(words), c.const(numbers), c.const(np.int64(n.attr("default_int64", -1))))
    default = vector(n, [n.attr("default_string", "_Unused")], STRING).reshape(())
    return c.b.label_encoder(n.x, c.const(numbers), c.const(words), c.const(default))


@handles("LabelEncoder", since=2, domain=DOMAIN)
def label_encoder(c: Importer, n: Call) -> Any:
    keys, _ = _labels(c, n, "keys")
    values, kind = _labels(c, n, "values")
    if len(keys) != len(values):
        raise n.invalid(f"{len(keys)} keys for {len(values)} values")
    if n.x.dtype is not None and DType.of(keys.dtype) is not n.x.dtype:
        raise n.invalid(f"keys of {DType.of(keys.dtype)} for elements of {n.x.dtype}")
    return c.b.label_encoder(n.x, c.const(keys), c.const(values), c.const(_default(c, n, values, kind)))


def _labels(c: Importer, n: Call, which: str) -> tuple[np.ndarray, str]:
    """The keys or values, and the kind of the default that goes with them."""
    name = only(n, *(f"{which}_{suffix}" for suffix, _, _ in KINDS), f"{which}_tensor")
    for suffix, kind, dtype in KINDS:
        if name == f"{which}_{suffix}":
            return vector(n, n.attr(name), dtype), kind
    array = c.tensor(n.attr(name), n.label).numpy()
    if array.ndim != 1:
        raise n.invalid(f"{name} has rank {array.ndim} (1 expected)")
    return array, "tensor"


def _default(c: Importer, n: Call, values: np.ndarray, kind: str) -> np.ndarray:
    if kind != "tensor":
        fallback = {"string": "_Unused", "int64": -1, "float": -0.0}[kind]
        return vector(n, [n.attr(f"default_{kind}", fallback)], DType.of(values.dtype)).reshape(())
    if n.attr("default_tensor") is None:
        fallback = "_Unused" if values.dtype == object else -0.0 if values.dtype.kind == "f" else -1
        return np.array(fallback, values.dtype)
    array = c.tensor(n.attr("default_tensor"), n.label).numpy()
    if array.size != 1 or array.dtype != values.dtype:
        raise n.invalid(f"default_tensor has {array.size} elements of {array.dtype}, the values are {values.dtype}")
    return array.reshape(())


@handles("ZipMap", domain=DOMAIN)
def zip_map(c: Importer, n: Call) -> Any:
    keys, _ = labels_of(c, n)
    return c.b.zip_map(n.x, keys)


@handles("CastMap", domain=DOMAIN)
def cast_map(c: Importer, n: Call) -> Any:
    to, form = CASTS.get(n.attr("cast_to", "TO_FLOAT")), n.attr("map_form", "DENSE")
    if to is None or form not in ("DENSE", "SPARSE"):
        raise n.invalid(f"cast_to is {n.attr('cast_to')!r} and map_form {form!r}")
    if form == "SPARSE" and n.attr("max_map", 1) < 0:
        raise n.invalid(f"max_map is {n.attr('max_map')}")
    return c.b.cast_map(n.x, to=to, size=n.attr("max_map", 1) if form == "SPARSE" else None)


@handles("DictVectorizer", domain=DOMAIN)
def dict_vectorizer(c: Importer, n: Call) -> Any:
    name = only(n, "int64_vocabulary", "string_vocabulary")
    type_ = n.x.type
    if not (isinstance(type_, MapType) and isinstance(type_.elem, TensorType) and type_.elem.dtype is not None):
        raise n.invalid(f"the input is {type_}, a map is expected")
    words = vector(n, n.attr(name), STRING if name == "string_vocabulary" else I64)
    if len(set(words.tolist())) < len(words):
        raise n.invalid("a word occurs twice in the vocabulary")
    return c.b.dict_vectorizer(n.x, c.const(words), to=type_.elem.dtype)
