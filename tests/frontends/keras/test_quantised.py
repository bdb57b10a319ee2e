"""Models after `model.quantize(...)`: the integers that Keras stored stay, the numbers are Keras' own."""

from __future__ import annotations

import gc
import json
import os
import zipfile
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")

import anyir
import keras
import numpy as np
import onnx
import pytest
from anyir.ir.errors import InvalidModel, Unsupported
from anyir.tests.support.judge import assert_agrees
from keras import layers
from keras.quantizers import AbsMaxQuantizer, Float8QuantizationConfig, Int4QuantizationConfig, Int8QuantizationConfig


def dense() -> keras.Model:
    x = keras.Input((12,), name="x")
    y = layers.Dense(16, activation="relu", name="a")(x)
    return keras.Model(x, layers.Dense(5, name="b", use_bias=False)(y))


def tokens() -> keras.Model:
    x = keras.Input((7,), dtype="int32", name="x")
    y = layers.Embedding(30, 8, name="table")(x)
    return keras.Model(x, layers.Dense(4, name="head")(y))


def einsums() -> keras.Model:
    """Heads apart and joined, and a kernel whose last axis is summed over."""
    x = keras.Input((6, 10), name="x")
    y = layers.EinsumDense("abc,cde->abed", output_shape=(None, 5, 3), bias_axes="ed", name="apart")(x)
    y = layers.EinsumDense("abed,edf->abf", output_shape=(None, 7), name="joined")(y)
    return keras.Model(x, layers.EinsumDense("abf,gf->abg", output_shape=(None, 9), bias_axes="g", name="turned")(y))


WAYS: dict[str, Any] = {
    "int8": Int8QuantizationConfig,
    "int8 weights": lambda: Int8QuantizationConfig(activation_quantizer=None),
    "int4": Int4QuantizationConfig,
    "int4 in groups of 4": lambda: Int4QuantizationConfig(block_size=4),
    "int4 per column": lambda: Int4QuantizationConfig(block_size=-1),
    "int4 and int8 inputs": lambda: Int4QuantizationConfig(
        block_size=-1, activation_quantizer=AbsMaxQuantizer(axis=-1)
    ),
    "float8": Float8QuantizationConfig,
}


def quantised(build, way: str = "int8") -> keras.Model:
    keras.utils.set_random_seed(0)
    model = build()
    gc.freeze()  # Keras collects garbage after each layer: what the session holds need not be looked through
    model.quantize(config=WAYS[way]())
    gc.unfreeze()
    for weight in model.weights:
        if weight.path.endswith(("inputs_scale", "kernel_scale")) and not weight.shape:  # as training would leave them
            weight.assign(0.01 if "inputs" in weight.path else 0.002)
    return model


def feeds(build) -> np.ndarray:
    rng = np.random.default_rng(1)
    if build is tokens:
        return rng.integers(0, 30, (6, 7), np.int32)
    return rng.standard_normal((6, 12) if build is dense else (2, 6, 10)).astype(np.float32)


def stored(model: keras.Model) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(w) for w in model.weights if w.dtype == "int8"]


def unpacked(model: keras.Model) -> list[np.ndarray]:
    """The 4-bit integers of all layers, by Keras' own function."""
    found = []
    for layer in model.layers:
        for held in (getattr(layer, "_kernel", None), getattr(layer, "_embeddings", None)):
            if held is not None and str(held.dtype) == "int8":
                count = getattr(layer, "_orig_output_dim", None) or layer._int4_unpacked_column_size
                found.append(keras.ops.convert_to_numpy(keras.quantizers.unpack_int4(held, count, axis=-1)))
    return found


@pytest.mark.parametrize(("build", "suffix"), [
    (dense, ".keras"), (dense, ".h5"), (dense, "live"), (tokens, ".keras"), (tokens, ".h5"), (einsums, ".keras"),
])  # fmt: skip
def test_files_and_live_models_give_keras_numbers_and_keep_its_integers(build, suffix, tmp_path: Path):
    model, x = quantised(build), feeds(build)
    if suffix == "live":
        module = anyir.load(model)
    else:
        model.save(tmp_path / f"m{suffix}")
        module = anyir.load(tmp_path / f"m{suffix}")
    (name,) = module.signature.output_names()
    assert_agrees(module, {module.signature.input_names()[0]: x}, {name: keras.ops.convert_to_numpy(model(x))})
    kept = [v.array() for v in module.constants() if v.dtype.name == "i8" and v.n_uses]
    for integers in stored(model):
        flat = np.sort(integers, axis=None)
        assert any(integers.size == array.size and np.array_equal(flat, np.sort(array, axis=None)) for array in kept)


@pytest.mark.parametrize(("way", "build"), [
    ("int8 weights", einsums), ("int4", dense), ("int4 in groups of 4", dense), ("int4 in groups of 4", tokens),
    ("int4 in groups of 4", einsums), ("int4 per column", tokens), ("int4 per column", einsums),
    ("int4 and int8 inputs", dense), ("int4 and int8 inputs", einsums), ("float8", dense), ("float8", einsums),
])  # fmt: skip
def test_every_way_to_quantize_gives_keras_numbers(way, build):
    model, x = quantised(build, way), feeds(build)
    if way == "int4 and int8 inputs" and build is einsums:
        with pytest.raises(Unsupported, match="summed axes are not its first ones"):
            anyir.load(model)
        return
    module = anyir.load(model)
    (name,) = module.signature.output_names()
    assert_agrees(module, {module.signature.input_names()[0]: x}, {name: keras.ops.convert_to_numpy(model(x))})
    if way.startswith("int4"):
        kept = [v.array() for v in module.constants() if v.dtype.name == "i4" and v.n_uses]
        for integers in unpacked(model):
            assert any(np.array_equal(integers, array) for array in kept)


@pytest.mark.parametrize(("way", "suffix"), [("int4 in groups of 4", ".keras"), ("int4", ".h5"), ("float8", ".keras")])
def test_files_hold_what_the_live_model_does(way, suffix, tmp_path: Path):
    model = quantised(einsums, way)
    model.save(tmp_path / f"m{suffix}")
    read, live = anyir.load(tmp_path / f"m{suffix}"), anyir.load(model)
    assert [node.name for node in read.all_nodes()] == [node.name for node in live.all_nodes()]
    for one, other in zip(read.used_weights(), live.used_weights(), strict=True):
        assert one.key == other.key and np.array_equal(one.tensor.numpy(), other.tensor.numpy())


def test_four_bit_models_leave_as_four_bits(tmp_path: Path):
    """In groups whose last one is shorter too: ONNX blocks, checked by its runtime."""
    quantised(dense, "int4 in groups of 4").save(tmp_path / "m.keras")
    assert anyir.compile(tmp_path / "m.keras", tmp_path / "m.onnx", opset=21).verified
    kinds = {i.data_type for i in onnx.load(tmp_path / "m.onnx").graph.initializer}
    assert onnx.TensorProto.INT4 in kinds


def test_other_policies_are_refused_with_a_remedy(tmp_path: Path):
    """Keras 3.15 leaves the zero points out of its GPTQ and AWQ files."""
    model = quantised(dense)
    model.save(tmp_path / "from.keras")
    with zipfile.ZipFile(tmp_path / "from.keras") as source:
        members = {name: source.read(name) for name in source.namelist()}
    config = json.loads(members["config.json"])
    for policy in ("GPTQDTypePolicy", "AWQDTypePolicy", "DTypePolicyMap"):
        config["config"]["layers"][1]["config"]["dtype"]["class_name"] = policy
        with zipfile.ZipFile(tmp_path / "m.keras", "w") as archive:
            for name, data in members.items():
                archive.writestr(name, json.dumps(config) if name == "config.json" else data)
        with pytest.raises(Unsupported, match=policy) as error:
            anyir.load(tmp_path / "m.keras")
        assert "quantize with anyir" in error.value.hint


def heads() -> keras.Model:
    x = keras.Input((6, 10), name="x")
    return keras.Model(x, layers.MultiHeadAttention(2, 5, name="att")(x, x))


@pytest.mark.parametrize(("way", "suffix"), [
    ("int8", ".keras"), ("int8", ".h5"), ("int8", "live"), ("int4", ".keras"), ("float8", ".h5"), ("float8", ".keras"),
])  # fmt: skip
def test_layers_inside_layers_are_refused_with_a_remedy(way, suffix, tmp_path: Path):
    """Keras keeps their integers, and nothing of how they were made: it cannot load the files itself."""
    source: Any = quantised(heads, way)
    if suffix != "live":
        source.save(tmp_path / f"m{suffix}")
        source = tmp_path / f"m{suffix}"
        with pytest.raises(ValueError):
            keras.models.load_model(source)
    with pytest.raises(Unsupported, match="Keras leaves out how layers inside another layer were quantized") as error:
        anyir.load(source)
    assert error.value.where.endswith("query_dense|_query_dense" if suffix == ".keras" else "att")
    assert "quantize with anyir" in error.value.hint


def broken(model: keras.Model, name: str, change) -> keras.Model:
    for weight in model.weights:
        if weight.path.endswith(name):
            weight.assign(change(keras.ops.convert_to_numpy(weight)))
    return model


@pytest.mark.parametrize(("way", "name", "change", "message"), [
    ("int8", "kernel_scale", lambda a: a * 0, "no scales"),
    ("int4 in groups of 4", "kernel_scale", lambda a: a * np.nan, "no scales"),
    ("int4 in groups of 4", "kernel_zero", lambda a: a * 0 + 9, "out of the range"),
    ("int4 in groups of 4", "g_idx", lambda a: a + 9, "groups beyond"),
    ("float8", "inputs_scale", lambda a: a - 1, "no scales"),
])  # fmt: skip
def test_parameters_that_make_no_sense_are_errors(way, name, change, message):
    with pytest.raises(InvalidModel, match=message):
        anyir.load(broken(quantised(dense, way), name, change))


def test_groups_in_another_order_are_followed():
    """g_idx says for each row which group it is in."""
    model = quantised(dense, "int4 in groups of 4")
    broken(model, "g_idx", lambda a: np.random.default_rng(0).permutation(a))
    assert_agrees(anyir.load(model), {"x": feeds(dense)}, {"b": keras.ops.convert_to_numpy(model(feeds(dense)))})


@pytest.mark.parametrize("build", [dense, tokens])
def test_integers_survive_into_onnx(build, tmp_path: Path):
    model = quantised(build)
    model.save(tmp_path / "m.keras")
    assert anyir.compile(tmp_path / "m.keras", tmp_path / "m.onnx").verified
    arrays = [onnx.numpy_helper.to_array(i) for i in onnx.load(tmp_path / "m.onnx").graph.initializer]
    for integers in stored(model):
        assert any(np.array_equal(integers, array) for array in arrays)
