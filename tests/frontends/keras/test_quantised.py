"""Models after `model.quantize("int8")`: the integers that Keras stored stay, the numbers are Keras' own."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")

import anyir
import keras
import numpy as np
import onnx
import pytest
from anyir.ir.errors import Unsupported
from anyir.tests.support.judge import assert_agrees
from keras import layers


def dense() -> keras.Model:
    x = keras.Input((12,), name="x")
    y = layers.Dense(16, activation="relu", name="a")(x)
    return keras.Model(x, layers.Dense(5, name="b", use_bias=False)(y))


def tokens() -> keras.Model:
    x = keras.Input((7,), dtype="int32", name="x")
    y = layers.Embedding(30, 8, name="table")(x)
    return keras.Model(x, layers.Dense(4, name="head")(y))


def quantised(build) -> keras.Model:
    keras.utils.set_random_seed(0)
    model = build()
    model.quantize("int8")
    return model


def feeds(build) -> np.ndarray:
    rng = np.random.default_rng(1)
    return rng.standard_normal((6, 12)).astype(np.float32) if build is dense else rng.integers(0, 30, (6, 7), np.int32)


def stored(model: keras.Model) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(w) for w in model.weights if w.dtype == "int8"]


@pytest.mark.parametrize("suffix", [".keras", ".h5", "live"])
@pytest.mark.parametrize("build", [dense, tokens])
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
        assert any(np.array_equal(integers, array) for array in kept)


@pytest.mark.parametrize("build", [dense, tokens])
def test_integers_survive_into_onnx(build, tmp_path: Path):
    model = quantised(build)
    model.save(tmp_path / "m.keras")
    assert anyir.compile(tmp_path / "m.keras", tmp_path / "m.onnx").verified
    arrays = [onnx.numpy_helper.to_array(i) for i in onnx.load(tmp_path / "m.onnx").graph.initializer]
    for integers in stored(model):
        assert any(np.array_equal(integers, array) for array in arrays)


def test_four_bit_kernels_are_refused_with_a_remedy(tmp_path: Path):
    model = dense()
    model.quantize("int4")
    model.save(tmp_path / "m.keras")
    with pytest.raises(Unsupported, match="Int4DTypePolicy") as error:
        anyir.load(tmp_path / "m.keras")
    assert "quantize with anyir" in error.value.hint
