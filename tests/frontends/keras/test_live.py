"""Live models: by config where every layer is known, by tracing where the user wrote code."""

from __future__ import annotations

import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import numpy as np
import pytest
from anyir.frontends.keras import read
from anyir.ir.errors import Unsupported, UsageError
from anyir.tests.support.keras_cases import CASES, IMG, SEQ, randomized
from anyir.tests.support.keras_check import check, check_on

keras = pytest.importorskip("keras")
L = keras.layers


@pytest.mark.parametrize(
    "name", ["dense", "conv2d-same", "states", "residual-shared-nested", "mha", "LSTM-bidirectional", "frozen-nested"]
)
def test_live_by_config(name):
    keras.utils.clear_session()
    model = randomized(CASES[name]())
    check(read(model), model)


class Scaled(L.Layer):
    """A custom layer with variables of its own, arithmetic in keras.ops and a known layer inside."""

    def build(self, shape):
        self.gain = self.add_weight(shape=(shape[-1],), name="gain")
        self.shift = self.add_weight(shape=(1,), name="shift", trainable=False)
        self.inner = L.Dense(shape[-1], activation="tanh", name="inner")
        self.inner.build(shape)

    def call(self, x):
        y = keras.ops.multiply(x, self.gain) + self.shift
        return keras.ops.concatenate([self.inner(y), keras.ops.mean(x, axis=-1, keepdims=True)], axis=-1)


class Net(keras.Model):
    def __init__(self):
        super().__init__()
        self.conv = L.Conv2D(4, 3, padding="same", activation="relu")
        self.norm = L.BatchNormalization()
        self.scaled = Scaled()
        self.head = L.Dense(3)

    def call(self, x):
        y = self.norm(self.conv(x))
        y = self.conv(keras.ops.concatenate([y[..., :2], x[..., :2]], axis=-1)) + y
        return {"logits": self.head(self.scaled(keras.ops.mean(y, axis=(1, 2)))), "features": y}


def test_subclassed_model_is_traced():
    net = Net()
    net(np.zeros((1, *IMG), "float32"))
    randomized(net)
    for given in (None, np.zeros((1, *IMG), "float32")):
        module = read(net, inputs=given)
        assert [slot.name for slot in module.signature.outputs] == ["features", "logits"]
        assert {weight.key for weight in module.weights if weight.key.endswith("gain")} != set()
        for batch in (2, 5):
            x = np.random.default_rng(batch).normal(size=(batch, *IMG)).astype("float32")
            check_on(module, net, [x])


def test_custom_layer_in_functional_model():
    x = keras.Input(SEQ, name="steps")
    model = keras.Model(x, L.Dense(2, name="out")(Scaled(name="custom")(L.LSTM(4, return_sequences=True)(x))))
    module = read(randomized(model))
    assert module.signature.input_names() == ["steps"] and module.signature.output_names() == ["out"]
    check(module, model)


def test_lambda_in_live_model_is_traced():
    x = keras.Input(SEQ)
    model = keras.Model(x, L.Lambda(lambda t: keras.ops.sin(t) * 2)(x))
    check(read(model), model)


def test_what_cannot_be_traced_is_refused():
    class Eager(L.Layer):
        def call(self, x):
            return x if float(keras.ops.convert_to_numpy(x).sum()) > 0 else -x

        def compute_output_shape(self, shape):
            return shape

    x = keras.Input((4,))
    model = keras.Model(x, Eager()(x))
    with pytest.raises(Unsupported, match="cannot be traced"):
        read(model)


def test_other_objects_are_refused():
    with pytest.raises(UsageError, match="expected a Keras model"):
        read(object())
