"""Files as a whole: names and nesting, Keras 2, TensorFlow operations, dtypes, frameworks that stay unloaded."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys

os.environ.setdefault("KERAS_BACKEND", "torch")

import numpy as np
import pytest
from anyir.formats.hdf5 import H5File
from anyir.formats.keras_config import parse_model
from anyir.formats.keras_h5 import KerasFile, NamedWeights
from anyir.frontends.keras import read
from anyir.frontends.keras.reader import build
from anyir.ir.errors import Unsupported
from anyir.ir.verify import verify
from anyir.kernels.run import run
from anyir.tests.support.keras_cases import IMG, SEQ, randomized
from anyir.tests.support.keras_check import check, check_on, keras_outputs
from anyir.tests.support.models import model_path
from anyir.tests.support.networks import NAMES, network

keras = pytest.importorskip("keras")
L = keras.layers


def saved(model, tmp_path, suffix=".keras"):
    path = tmp_path / f"model{suffix}"
    model.save(path)
    return path


def test_reading_needs_no_framework():
    """Neither Keras nor torch, h5py or numba is loaded by reading a file."""
    path = network("mlp", "keras").path
    code = (
        "import sys; from anyir.frontends.keras import read; read(sys.argv[1]); "
        "print([m for m in ('keras', 'torch', 'tensorflow', 'h5py', 'numba', 'onnx') if m in sys.modules])"
    )
    made = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert made.stdout.strip() == "[]"


@pytest.mark.parametrize("name", NAMES)
def test_trained_networks(name):
    net = network(name, "keras")
    module = read(net.path)
    verify(module)
    probabilities = run(module, {"image": net.x})["digit"]
    assert np.array_equal(probabilities.argmax(axis=1), net.expected.argmax(axis=1))
    assert module.main.inputs[0].shape[0] == module.main.outputs[0].shape[0] != 360


def test_names_order_and_nesting(tmp_path):
    a, b = keras.Input((3,), name="left"), keras.Input((3,), name="right")
    y, z = L.Dense(2, name="one")(a), L.Dense(2, name="two")(b)
    model = keras.Model({"right": b, "left": a}, {"scores": [y, z], "sum": L.Add(name="added")([y, z])})
    signature = read(saved(model, tmp_path)).signature
    assert [(s.name, s.path) for s in signature.inputs] == [("left", ("left",)), ("right", ("right",))]
    wanted = [("one", ("scores", 0)), ("two", ("scores", 1)), ("sum", ("sum",))]
    assert [(s.name, s.path) for s in signature.outputs] == wanted


def test_weight_keys_are_the_names_in_keras(tmp_path):
    x = keras.Input(IMG)
    inner = keras.Sequential(
        [L.Input(IMG), L.Conv2D(3, 3, name="conv"), L.BatchNormalization(name="norm")], name="inner"
    )
    model = keras.Model(x, L.Dense(2, name="head")(L.GlobalAveragePooling2D()(inner(x))))
    roles = {weight.key: weight.role for weight in read(saved(model, tmp_path)).weights if weight.role != "const"}
    assert roles["inner/conv/kernel"] == "param" and roles["head/bias"] == "param"
    assert roles["inner/norm/moving_variance"] == "buffer" and len(roles) == 8


def test_layers_that_are_called_several_times_share_their_weight(tmp_path):
    x, shared = keras.Input((4,)), L.Dense(4, name="shared")
    module = read(saved(keras.Model(x, shared(shared(x))), tmp_path))
    assert len(list(module.main.nodes("gemm"))) == 2
    assert [weight.key for weight in module.weights] == ["shared/kernel", "shared/bias"]


def test_large_kernels_stay_lazy(tmp_path):
    from anyir.ir.tensor import LazyTensor

    model = randomized(keras.Sequential([keras.Input((6, 6, 128)), L.Conv2D(256, 3, name="big")]))
    module = read(saved(model, tmp_path, ".h5"))
    assert isinstance(module.weights["big/kernel"].tensor, LazyTensor)
    check(module, model, (1,))


def test_long_chain(tmp_path):
    """2,000 layers in a row: no recursion on the depth of the graph."""
    layers = [
        {
            "class_name": "InputLayer",
            "name": "x",
            "config": {"batch_input_shape": [None, 2], "name": "x"},
            "inbound_nodes": [],
        }
    ]
    before = "x"
    for i in range(2000):
        config = {"name": f"l{i}", "trainable": True, "activation": "relu"}
        layers.append(
            {"class_name": "Activation", "name": f"l{i}", "config": config, "inbound_nodes": [[[before, 0, 0, {}]]]}
        )
        before = f"l{i}"
    config = {"name": "m", "layers": layers, "input_layers": [["x", 0, 0]], "output_layers": [[before, 0, 0]]}
    module = build(KerasFile(parse_model({"class_name": "Model", "config": config}), NamedWeights({}, "none"), "2.9.0"))
    assert len(list(module.main.nodes("relu"))) == 2000


# -------------------------------------------------------------------------------------------------------------- Keras 2


def test_fer_emotion_model():
    """A real Keras 2.0.5 file: separable convolutions, batch normalization, residual adds."""
    path = model_path("fer")
    module = read(path)
    assert module.signature.inputs[0].path == () and module.signature.output_names() == ["predictions"]
    model = keras.saving.load_model(path, compile=False)
    check(module, model, (1, 2))


def keras2(layers, outputs, version="2.9.0", weights=()):
    """A module from the config of a functional Keras 2 model with one input `x` of shape (batch, 4)."""
    head = {
        "class_name": "InputLayer",
        "name": "x",
        "inbound_nodes": [],
        "config": {"batch_input_shape": [None, 4], "name": "x"},
    }
    config = {"name": "m", "layers": [head, *layers], "input_layers": [["x", 0, 0]], "output_layers": outputs}
    return build(
        KerasFile(
            parse_model({"class_name": "Functional", "config": config}), NamedWeights(dict(weights), "w"), version
        )
    )


def tf_op(name, function, *nodes):
    config = {"name": name, "trainable": True, "dtype": "float32", "function": function}
    return {"class_name": "TFOpLambda", "name": name, "config": config, "inbound_nodes": list(nodes)}


ALL = {"start": None, "stop": None, "step": None}
X = np.linspace(-2, 2, 12, dtype="float32").reshape(3, 4)


@pytest.mark.parametrize(
    ("function", "node", "formula"),
    [
        ("math.multiply", ["x", 0, 0, {"y": 0.5, "name": None}], lambda x: x * 0.5),
        ("__operators__.add", ["x", 0, 0, {"y": ["x", 0, 0]}], lambda x: x + x),
        ("math.subtract", ["_CONSTANT_VALUE", -1, 1.0, {"y": ["x", 0, 0]}], lambda x: 1 - x),
        ("math.reduce_mean", ["x", 0, 0, {"axis": -1, "keepdims": True}], lambda x: x.mean(-1, keepdims=True)),
        ("reshape", ["x", 0, 0, {"shape": [-1, 2, 2]}], lambda x: x.reshape(-1, 2, 2)),
        ("concat", [["x", 0, 0, {"axis": 1}], ["x", 0, 0, {"axis": 1}]], lambda x: np.concatenate([x, x], 1)),
        ("clip_by_value", ["x", 0, 0, {"clip_value_min": -1.0, "clip_value_max": 1.0}], lambda x: x.clip(-1, 1)),
        ("nn.relu6", ["x", 0, 0, {}], lambda x: x.clip(0, 6)),
        ("__operators__.getitem", ["x", 0, 0, {"slice_spec": [ALL, {"start": 1, "stop": 3}]}], lambda x: x[:, 1:3]),
        ("gather", ["x", 0, 0, {"indices": [0, 2], "axis": 1}], lambda x: x[:, [0, 2]]),
        ("linalg.matmul", ["x", 0, 0, {"b": ["x", 0, 0], "transpose_b": True}], lambda x: x @ x.T),
    ],
)
def test_tensorflow_operations(function, node, formula):
    module = keras2([tf_op("op", function, node)], [["op", 0, 0]])
    np.testing.assert_allclose(run(module, {"x": X})["op"], formula(X), rtol=1e-6, atol=1e-6)


def test_unknown_tensorflow_operation_is_refused():
    with pytest.raises(Unsupported, match=r"py_function"):
        keras2([tf_op("op", "py_function", ["x", 0, 0, {}])], [["op", 0, 0]])


def test_hard_sigmoid_means_another_function_in_keras_2():
    config = {"name": "h", "trainable": True, "activation": "hard_sigmoid"}
    layer = {"class_name": "Activation", "name": "h", "config": config, "inbound_nodes": [[["x", 0, 0, {}]]]}
    for version, slope in (("2.9.0", 0.2), ("3.1.0", 1 / 6)):
        made = run(keras2([layer], [["h", 0, 0]], version), {"x": X})["h"]
        np.testing.assert_allclose(made, np.clip(slope * X + 0.5, 0, 1), rtol=1e-6)


# ---------------------------------------------------------------------------------------------------- dtypes and masks


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "float64", "float16"])
def test_dtype_policies(policy, tmp_path):
    x = keras.Input((6,), dtype="float32")
    y = L.Dense(5, activation="relu", dtype=policy)(x)
    model = randomized(keras.Model(x, L.Dense(3, dtype="float32")(L.LayerNormalization(dtype=policy)(y))))
    module = read(saved(model, tmp_path))
    computed = {"mixed_bfloat16": "bf16", "mixed_float16": "f16", "float64": "f64", "float16": "f16"}[policy]
    assert [str(node.result.dtype) for node in module.main.nodes("relu")] == [computed]
    xs = [np.random.default_rng(0).normal(size=(3, 6)).astype("float32")]
    got, wanted = run(module, {module.signature.input_names()[0]: xs[0]}), keras_outputs(model, xs)
    step = {"mixed_bfloat16": 2**-6, "mixed_float16": 2**-9, "float64": 1e-6, "float16": 2**-9}[policy]
    assert np.abs(next(iter(got.values())) - wanted[0]).max() < step * np.abs(wanted[0]).max()


def test_a_mask_that_a_recurrent_layer_would_use_is_refused(tmp_path):
    x = keras.Input((5,), dtype="int32")
    model = keras.Model(x, L.LSTM(3)(L.Embedding(10, 4, mask_zero=True)(x)))
    with pytest.raises(Unsupported, match="mask"):
        read(saved(model, tmp_path))


def test_a_mask_that_nothing_uses_is_harmless(tmp_path):
    x = keras.Input(SEQ)
    model = randomized(keras.Model(x, L.Conv1D(3, 2)(L.Masking()(x))))
    check_on(read(saved(model, tmp_path)), model, [np.zeros((2, *SEQ), "float32")])


def test_uneven_average_padding_follows_the_definition(tmp_path):
    """Keras on torch repeats the edge there; TensorFlow and JAX average over what is inside, and so do we, with a
    note.
    """
    model = keras.Sequential([keras.Input((4, 4, 1)), L.AveragePooling2D(3, strides=2, padding="same")])
    module = read(saved(model, tmp_path, ".h5"))
    image = np.arange(16, dtype="float32").reshape(1, 4, 4, 1)
    made = next(iter(run(module, {module.signature.input_names()[0]: image}).values()))
    plain = image[0, :, :, 0]
    wanted = [[plain[r : r + 3, c : c + 3].mean() for c in (0, 2)] for r in (0, 2)]
    np.testing.assert_allclose(made[0, :, :, 0], wanted, rtol=1e-6)
    assert "repeats edge pixels" in module.diagnostics[0]


# ----------------------------------------------------------------------------------------------------------------- HDF5


@pytest.mark.parametrize(
    "options", [{}, {"compression": "gzip"}, {"chunks": (3, 2), "compression": "gzip", "shuffle": True}]
)
def test_hdf5_layouts_against_h5py(options):
    h5py = pytest.importorskip("h5py")
    rng, made = np.random.default_rng(1), io.BytesIO()
    arrays = {
        f"g{i}/d{i}": (rng.normal(size=(7, 5)) * 10).astype(dtype)
        for i, dtype in enumerate(["f2", "f4", "f8", "i1", "i4", "i8", "u2", ">f4"])
    }
    with h5py.File(made, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, **options)
        file["scalar"] = np.float32(2.5)
        file["empty"] = np.zeros((0, 3), "f4")
        file.attrs["text"] = "h\u00e9llo"
        file["g0"].attrs["names"] = ["a", "bc", ""]
    read_back = H5File(made.getvalue()).root
    for name, array in arrays.items():
        found = read_back.get(name).read()
        assert found.dtype == array.dtype and np.array_equal(found, array)
    assert read_back.get("scalar").read() == 2.5 and read_back.get("empty").read().shape == (0, 3)
    assert read_back.attrs.get("text") == "h\u00e9llo" and read_back.get("g0").attrs.get("names") == ["a", "bc", ""]


def test_json_round_trip_of_a_config_is_the_same_model(tmp_path):
    x = keras.Input(SEQ, name="x")
    model = keras.Model(x, L.GRU(3, name="gru")(x))
    once = parse_model(json.loads(model.to_json()))
    assert [layer.class_name for layer in once.layers] == ["InputLayer", "GRU"]
