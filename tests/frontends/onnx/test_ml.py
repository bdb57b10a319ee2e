"""ai.onnx.ml, features, labels and maps: onnxruntime is the judge, for the kernels and for what we write."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime")

from anyir.frontends import onnx as frontend
from anyir.ir.errors import InvalidModel
from anyir.kernels.run import run
from anyir.tests.support.ml_models import (
    F32,
    I64,
    STR,
    a_map,
    check_against,
    check_against_onnxruntime,
    maps_of,
    model,
    ours,
    tensor,
    texts,
)
from onnx import TensorProto

RNG = np.random.default_rng(3)
NAN, INF = np.nan, np.inf
FLOATS = np.array([[0.5, NAN, -1.5], [INF, -0.0, 2.0], [-INF, 1e30, 1e-40]], np.float32)
INTS = RNG.integers(-5, 6, (4, 3))


@pytest.mark.parametrize("x", [FLOATS, FLOATS.astype(np.float64), INTS, INTS.astype(np.int32), texts("a", "b", "c")])
def test_array_feature_extractor(x: np.ndarray) -> None:
    feeds = {"x": x, "y": np.array([2, 0, 2])}
    codes = {"f": F32, "d": TensorProto.DOUBLE, "l": I64, "i": TensorProto.INT32, "O": STR}
    check_against_onnxruntime(model("ArrayFeatureExtractor", feeds, [codes[x.dtype.char]], 1), feeds)


@pytest.mark.parametrize("threshold", [0.0, 0.5, -1.5, NAN])
def test_binarizer(threshold: float) -> None:
    """onnxruntime refuses NaN; it is above nothing."""
    x = np.nan_to_num(FLOATS, nan=1.0, posinf=INF, neginf=-INF)
    proto = model("Binarizer", {"x": x}, [F32], 1, threshold=threshold)
    check_against_onnxruntime(proto, {"x": x})
    assert ours(proto, {"x": FLOATS})[0][0, 1] == 0


@pytest.mark.parametrize("threshold", [0.0, 0.5, -0.5, 2.0, 1e30, -1e30, NAN, 2.0**31])
@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.float64])
def test_binarizer_of_other_types(threshold: float, dtype: Any) -> None:
    """onnxruntime has it for float32 only; numbers compare as numbers do."""
    x = np.concatenate([INTS, [[-(2**31), 2**31 - 1, 0]]]).astype(dtype)
    limit = float(np.float32(threshold))
    wanted = np.array([[float(int(v) > limit) for v in row] for row in x]).astype(dtype)
    code = {"i": TensorProto.INT32, "l": I64, "d": TensorProto.DOUBLE}[x.dtype.char]
    proto = model("Binarizer", {"x": x}, [code], 1, threshold=threshold)
    np.testing.assert_array_equal(ours(proto, {"x": x})[0], wanted)


@pytest.mark.parametrize("sizes", [None, [3, 2], [2, 4], [1, 1]])
def test_feature_vectorizer(sizes: list[int] | None) -> None:
    feeds = {"a": RNG.standard_normal((4, 3)).astype(np.float32), "b": RNG.standard_normal((4, 2)).astype(np.float32)}
    attrs = {} if sizes is None else {"inputdimensions": sizes}
    proto = model("FeatureVectorizer", feeds, [F32], 1, **attrs)
    if sizes is None:
        check_against(proto, feeds, {"o0": np.concatenate(list(feeds.values()), axis=1)})
    else:
        check_against_onnxruntime(proto, feeds)


def test_feature_vectorizer_of_integers_and_vectors() -> None:
    feeds = {"a": INTS, "b": INTS[:, :1]}
    check_against_onnxruntime(model("FeatureVectorizer", feeds, [F32], 1, inputdimensions=[3, 1]), feeds)
    row = {"a": np.array([1, 2]), "b": np.array([3])}
    made = ours(model("FeatureVectorizer", row, [F32], 1, inputdimensions=[2, 2]), row)
    np.testing.assert_array_equal(made[0], np.array([[1, 2, 3, 0]], np.float32))


@pytest.mark.parametrize("values", [[7.0], [7.0, 8.0, 9.0]])
@pytest.mark.parametrize("missing", [NAN, 0.0, 0.5, INF])
def test_imputer(values: list[float], missing: float) -> None:
    attrs = {"imputed_value_floats": values, "replaced_value_float": missing}
    check_against_onnxruntime(model("Imputer", {"x": FLOATS}, [F32], 1, **attrs), {"x": FLOATS})
    double = FLOATS.astype(np.float64)
    lost = np.isnan(double) if np.isnan(missing) else double == missing
    made = ours(model("Imputer", {"x": double}, [TensorProto.DOUBLE], 1, **attrs), {"x": double})
    np.testing.assert_array_equal(made[0], np.where(lost, values, double))


@pytest.mark.parametrize("values", [[7], [7, 8, 9]])
def test_imputer_of_integers(values: list[int]) -> None:
    attrs = {"imputed_value_int64s": values, "replaced_value_int64": -2}
    check_against_onnxruntime(model("Imputer", {"x": INTS}, [I64], 1, **attrs), {"x": INTS})
    small = INTS.astype(np.int32)
    made = ours(model("Imputer", {"x": small}, [TensorProto.INT32], 1, **attrs), {"x": small})
    np.testing.assert_array_equal(made[0], np.where(small == -2, values, small).astype(np.int32))


@pytest.mark.parametrize("norm", ["MAX", "L1", "L2"])
@pytest.mark.parametrize(
    "x",
    [
        np.array([[1, -2, 4], [0, 0, 0], [-3, -4, -1], [1e-20, 2e-20, 0]], np.float32),
        np.array([3.0, -4.0], np.float32),
        RNG.standard_normal((3, 2)),
        INTS,
        INTS.astype(np.int32),
    ],
)
def test_normalizer(norm: str, x: np.ndarray) -> None:
    if norm == "L2":
        x = np.where(np.abs(x) < 1e-10, 0, x).astype(x.dtype)  # onnxruntime's squares underflow
    check_against_onnxruntime(model("Normalizer", {"x": x}, [F32], 1, norm=norm), {"x": x})


def test_normalizer_of_missing_values() -> None:
    """The largest element is that of the numbers; a norm of NaN is NaN."""
    x = np.array([[1, NAN, 4]], np.float32)
    check_against_onnxruntime(model("Normalizer", {"x": x}, [F32], 1, norm="MAX"), {"x": x})
    check_against_onnxruntime(model("Normalizer", {"x": x}, [F32], 1, norm="L1"), {"x": x})


@pytest.mark.parametrize(
    "x", [FLOATS, FLOATS.astype(np.float64), np.arange(12).reshape(4, 3), np.ones((2, 3), np.int32)]
)
@pytest.mark.parametrize("size", [1, 3])
def test_scaler(x: np.ndarray, size: int) -> None:
    attrs = {"offset": [0.5, -1.0, 3.25][:size], "scale": [2.0, 0.1, -1.0][:size]}
    check_against_onnxruntime(model("Scaler", {"x": x}, [F32], 1, **attrs), {"x": x})


def test_a_scaler_with_one_attribute() -> None:
    made = ours(model("Scaler", {"x": INTS}, [F32], 1, scale=[2.0]), {"x": INTS})
    np.testing.assert_array_equal(made[0], (2 * INTS).astype(np.float32))
    with pytest.raises(InvalidModel, match="offset has 2 entries for 3 features"):
        frontend.read(model("Scaler", {"x": INTS}, [F32], 1, offset=[1.0, 2.0]))


# ---------------------------------------------------------------------------------------------------- categories


@pytest.mark.parametrize("zeros", [0, 1])
@pytest.mark.parametrize("x", [np.array([[4, -2], [7, 4]]), np.array([4.7, -2.9]), np.array([[7.5]], np.float32)])
def test_one_hot_encoder(x: np.ndarray, zeros: int) -> None:
    proto = model("OneHotEncoder", {"x": x}, [F32], 1, cats_int64s=[-2, 4, 7], zeros=zeros)
    check_against_onnxruntime(proto, {"x": x})


@pytest.mark.parametrize("zeros", [0, 1])
def test_one_hot_encoder_of_strings(zeros: int) -> None:
    x = texts("b", "a", "b")
    check_against_onnxruntime(
        model("OneHotEncoder", {"x": x}, [F32], 1, cats_strings=["a", "b", "c"], zeros=zeros), {"x": x}
    )


def test_one_hot_encoder_of_unknown_and_repeated_categories() -> None:
    x = np.array([4, 9])
    check_against_onnxruntime(model("OneHotEncoder", {"x": x}, [F32], 1, cats_int64s=[4, -2, 4]), {"x": x})
    strict = frontend.read(model("OneHotEncoder", {"x": x}, [F32], 1, cats_int64s=[4, 5], zeros=0))
    with pytest.raises(InvalidModel, match="9 is no category"):
        run(strict, {"x": x})


@pytest.mark.parametrize("x", [texts("b", "z", "a", ""), np.array([0, 1, 5, -1])])
@pytest.mark.parametrize("words", [["a", "b", "c"], ["a", "b", "a"]])
def test_label_encoder_of_version_1(x: np.ndarray, words: list[str]) -> None:
    """Of equal strings the last one counts."""
    code = I64 if x.dtype == object else STR
    proto = model("LabelEncoder", {"x": x}, [code], 1, classes_strings=words, default_int64=-7, default_string="?")
    check_against_onnxruntime(proto, {"x": x})


KEYS = {
    "strings": (["a", "b", "c"], texts("b", "z", "a", "")),
    "int64s": ([3, -4, 5], np.array([5, 3, 0, -4])),
    "floats": ([0.5, NAN, -1.0], np.array([NAN, 0.5, 2.0, -1.0], np.float32)),
}
VALUES = {"strings": (["x", "", "z"], STR), "int64s": ([7, -8, 9], I64), "floats": ([0.25, NAN, -3.0], F32)}


@pytest.mark.parametrize("version", [2, 4])
@pytest.mark.parametrize("keys", KEYS)
@pytest.mark.parametrize("values", VALUES)
def test_label_encoder(version: int, keys: str, values: str) -> None:
    names, x = KEYS[keys]
    made, code = VALUES[values]
    attrs = {
        f"keys_{keys}": names,
        f"values_{values}": made,
        "default_float": 1.5,
        "default_int64": -7,
        "default_string": "?",
    }
    proto = model("LabelEncoder", {"x": x}, [code], version, **attrs)
    if version == 2 and keys == "floats":
        x = x[1:]  # version 2 of onnxruntime does not find NaN, which its own specification asks for
    check_against_onnxruntime(proto, {"x": x})


TYPED = {
    np.float32: (F32, [0.5, NAN, -1.0]),
    np.float64: (TensorProto.DOUBLE, [0.5, NAN, -1.0]),
    np.int64: (I64, [3, -4, 5]),
    np.int32: (TensorProto.INT32, [3, -4, 5]),
    np.int16: (TensorProto.INT16, [3, -4, 5]),
}


@pytest.mark.parametrize("key", TYPED)
@pytest.mark.parametrize("value", TYPED)
@pytest.mark.parametrize("default", [True, False])
def test_label_encoder_of_tensors(key: Any, value: Any, default: bool) -> None:
    x = np.array([TYPED[key][1][i] for i in (2, 0, 1)] + [100], key)
    attrs = {
        "keys_tensor": tensor(np.array(TYPED[key][1], key)),
        "values_tensor": tensor(np.array(TYPED[value][1], value)),
    }
    if default:
        attrs["default_tensor"] = tensor(np.array([42], value))
    other = 42 if default else (-1 if np.dtype(value).kind == "i" else -0.0)
    wanted = np.array([TYPED[value][1][i] for i in (2, 0, 1)] + [other], value)
    proto = model("LabelEncoder", {"x": x}, [TYPED[value][0]], 4, **attrs)
    made = ours(proto, {"x": x})[0]
    np.testing.assert_array_equal(made, wanted)
    assert made.dtype == value and np.signbit(made[-1]) == np.signbit(wanted[-1])


def test_repeated_keys() -> None:
    """The last one takes precedence (LabelEncoder-4); so it does in what we write, which holds it once."""
    x = np.array([1.0, 2.0, -0.0], np.float32)
    attrs = {"keys_floats": [1.0, 0.0, 1.0, -0.0], "values_int64s": [5, 6, 7, 8]}
    proto = model("LabelEncoder", {"x": x}, [I64], 4, **attrs)
    check_against(proto, {"x": x}, {"o0": np.array([7, -1, 8])})


@pytest.mark.parametrize(
    ("attrs", "message"),
    [
        ({"keys_int64s": [1, 2], "values_int64s": [1]}, "2 keys for 1 values"),
        ({"keys_int64s": [1], "keys_floats": [1.0], "values_int64s": [1]}, "exactly one of keys_strings"),
        ({"keys_int64s": [1]}, "exactly one of values_strings"),
        ({"keys_strings": ["a"], "values_int64s": [1]}, "keys of str for elements of i64"),
        ({"keys_int64s": [1], "values_tensor": tensor([[1]])}, "values_tensor has rank 2"),
        (
            {"keys_int64s": [1], "values_tensor": tensor([1]), "default_tensor": tensor([1.0])},
            "default_tensor has 1 elements of float64",
        ),
        ({"keys_strings": [b"\xff"], "values_int64s": [1]}, "not UTF-8"),
    ],
)
def test_label_encoders_that_are_refused(attrs: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidModel, match=message):
        frontend.read(model("LabelEncoder", {"x": INTS}, [I64], 4, **attrs))


@pytest.mark.parametrize("x", [texts("b", "z", "a"), np.array([1, 3, 9])])
def test_category_mapper(x: np.ndarray) -> None:
    attrs = {"cats_strings": ["a", "b", "c"], "cats_int64s": [1, 2, 3], "default_int64": -5, "default_string": "none"}
    check_against_onnxruntime(
        model("CategoryMapper", {"x": x}, [I64 if x.dtype == object else STR], 1, **attrs), {"x": x}
    )


# ---------------------------------------------------------------------------------------------------------- maps


@pytest.mark.parametrize("keys", [{"classlabels_int64s": [9, -3, 4]}, {"classlabels_strings": ["b", "a", "é"]}])
@pytest.mark.parametrize("x", [FLOATS, FLOATS[0], FLOATS[:0]])
def test_zip_map(keys: dict[str, Any], x: np.ndarray) -> None:
    code = I64 if "classlabels_int64s" in keys else STR
    check_against_onnxruntime(model("ZipMap", {"x": x}, [maps_of(code)], 1, **keys), {"x": x})


@pytest.mark.parametrize("form", [{"map_form": "DENSE"}, {"map_form": "SPARSE", "max_map": 6}])
@pytest.mark.parametrize(("to", "code"), [("TO_FLOAT", F32), ("TO_INT64", I64), ("TO_STRING", STR)])
def test_cast_map(form: dict[str, Any], to: str, code: int) -> None:
    feeds = {"x": {4: 1.5, 0: -2.0, 3: 1e6}}
    check_against_onnxruntime(model("CastMap", {"x": a_map(I64, F32)}, [code], 1, cast_to=to, **form), feeds)


@pytest.mark.parametrize(
    ("to", "code", "dense", "sparse"),
    [
        ("TO_FLOAT", F32, np.array([[-12, 3, 7.5]], np.float32), np.array([[-12, 0, 0, 3, 7.5, 0]], np.float32)),
        ("TO_STRING", STR, texts("-12", "3", "7.5")[None], texts("-12", "0.f", "0.f", "3", "7.5", "0.f")[None]),
    ],
)
def test_cast_map_of_strings(to: str, code: int, dense: np.ndarray, sparse: np.ndarray) -> None:
    """The binding of onnxruntime cannot be fed such maps."""
    for form, wanted in (({"map_form": "DENSE"}, dense), ({"map_form": "SPARSE", "max_map": 6}, sparse)):
        proto = model("CastMap", {"x": a_map(I64, STR)}, [code], 1, cast_to=to, **form)
        made = ours(proto, {"x": {4: "7.5", 0: "-12", 3: "3"}})[0]
        assert made.dtype == wanted.dtype
        np.testing.assert_array_equal(made, wanted)


@pytest.mark.parametrize(
    ("item", "attrs", "message"),
    [
        ({0: "no number"}, {"cast_to": "TO_FLOAT"}, "is no number"),
        ({0: "1_0"}, {"cast_to": "TO_INT64"}, "is no number"),
        ({0: "99999999999999999999"}, {"cast_to": "TO_INT64"}, "is no number"),
        ({7: "1"}, {"map_form": "SPARSE", "max_map": 3}, "key 7 does not fit a row of 3"),
        ({-1: "1"}, {"map_form": "SPARSE", "max_map": 3}, "key -1 does not fit"),
    ],
)
def test_maps_that_cannot_be_cast(item: dict[int, str], attrs: dict[str, Any], message: str) -> None:
    module = frontend.read(model("CastMap", {"x": a_map(I64, STR)}, [I64 if "INT" in str(attrs) else F32], 1, **attrs))
    with pytest.raises(InvalidModel, match=message):
        run(module, {"x": item})


@pytest.mark.parametrize(
    ("key", "words", "item"), [(STR, ["a", "c", "b", "z"], {"a": 4.0, "c": 8.5}), (I64, [5, 3, 1], {3: 2.0, 5: -1.0})]
)
def test_dict_vectorizer(key: int, words: list, item: dict) -> None:
    attrs = {"string_vocabulary" if key == STR else "int64_vocabulary": words}
    check_against_onnxruntime(model("DictVectorizer", {"x": a_map(key, F32)}, [F32], 1, **attrs), {"x": item})


@pytest.mark.parametrize(
    ("key", "value", "words", "item", "wanted"),
    [
        (STR, I64, ["a", "c"], {"c": 8}, np.array([[0, 8]])),
        (STR, TensorProto.DOUBLE, ["a", "c"], {"c": 0.1}, np.array([[0, 0.1]])),
        (I64, STR, [5, 3], {3: "x"}, texts("", "x")[None]),
    ],
)
def test_dict_vectorizer_of_other_types(key: int, value: int, words: list, item: dict, wanted: np.ndarray) -> None:
    """The binding of onnxruntime cannot be fed such maps."""
    attrs = {"string_vocabulary" if key == STR else "int64_vocabulary": words}
    made = ours(model("DictVectorizer", {"x": a_map(key, value)}, [value], 1, **attrs), {"x": item})[0]
    assert made.dtype == wanted.dtype
    np.testing.assert_array_equal(made, wanted)


def test_a_key_outside_of_the_vocabulary() -> None:
    module = frontend.read(model("DictVectorizer", {"x": a_map(STR, F32)}, [F32], 1, string_vocabulary=["a"]))
    with pytest.raises(InvalidModel, match="'b' is not in the vocabulary"):
        run(module, {"x": {"b": 1.0}})
