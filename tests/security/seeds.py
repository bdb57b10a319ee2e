"""One small good file of each format, from which the hostile ones are made. Needs h5py, and torch for `.pt2`."""

from __future__ import annotations

import functools
import io
import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import anyir
import h5py
import numpy as np
from anyir.tests.support.small_models import cnn

KERNEL, BIAS = "layers/dense/vars/0", "layers/dense/vars/1"
H5_KERNEL = "model_weights/first/first/kernel"


def packed(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip archive with fixed dates."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data, compression)
    return made.getvalue()


def members_of(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _tensor(shape: list[int | None], source: str) -> dict[str, Any]:
    config = {"shape": shape, "dtype": "float32", "keras_history": [source, 0, 0]}
    return {"args": [{"class_name": "__keras_tensor__", "config": config}], "kwargs": {}}


def _layer(class_name: str, name: str, inbound: list[dict[str, Any]], **config: Any) -> dict[str, Any]:
    body = {"name": name, "trainable": True, "dtype": "float32", **config}
    head = {"module": "keras.layers", "class_name": class_name, "config": body, "registered_name": None}
    return {**head, "name": name, "inbound_nodes": inbound}


def _input() -> dict[str, Any]:
    made = _layer("InputLayer", "x", [], batch_shape=[None, 4])
    del made["config"]["trainable"]
    return made


def keras_config() -> dict[str, Any]:
    """x [N, 4] -> first: Dense 3 relu -> act: tanh -> second: Dense 2."""
    layers = [
        _input(),
        _layer("Dense", "first", [_tensor([None, 4], "x")], units=3, activation="relu", use_bias=True),
        _layer("Activation", "act", [_tensor([None, 3], "first")], activation="tanh"),
        _layer("Dense", "second", [_tensor([None, 3], "act")], units=2, activation="linear", use_bias=True),
    ]
    ends = {"input_layers": [["x", 0, 0]], "output_layers": [["second", 0, 0]]}
    config = {"name": "small", "trainable": True, "layers": layers, **ends}
    return {
        "module": "keras.src.models.functional",
        "class_name": "Functional",
        "config": config,
        "registered_name": "Functional",
    }


def _arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"first/kernel": (4, 3), "first/bias": (3,), "second/kernel": (3, 2), "second/bias": (2,)}
    return {name: rng.uniform(0.1, 1, shape).astype(np.float32) for name, shape in shapes.items()}


@functools.cache
def weights_h5() -> bytes:
    """`model.weights.h5` of Keras 3."""
    made, arrays = io.BytesIO(), _arrays()
    with h5py.File(made, "w") as file:
        for group, layer in (("dense", "first"), ("dense_1", "second")):
            for index, part in enumerate(("kernel", "bias")):
                file[f"layers/{group}/vars/{index}"] = arrays[f"{layer}/{part}"]
        file.create_group("layers/activation/vars")
    return made.getvalue()


@functools.cache
def keras_file() -> bytes:
    members = {
        "metadata.json": b'{"keras_version": "3.5.0", "date_saved": "2024-01-01@00:00:00"}',
        "config.json": json.dumps(keras_config()).encode(),
        "model.weights.h5": weights_h5(),
    }
    return packed(members)


@functools.cache
def h5_file() -> bytes:
    """A whole model in the old format."""
    made, arrays = io.BytesIO(), _arrays()
    config = keras_config()
    with h5py.File(made, "w") as file:
        file.attrs["keras_version"] = "3.5.0"
        file.attrs["backend"] = "torch"
        file.attrs["model_config"] = json.dumps(config)
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = [b"x", b"first", b"act", b"second"]
        group.attrs["keras_version"], group.attrs["backend"] = "3.5.0", "torch"
        for layer in ("x", "first", "act", "second"):
            inner = group.create_group(layer)
            names = [name for name in arrays if name.startswith(f"{layer}/")]
            inner.attrs["weight_names"] = [name.encode() for name in names]
            for name in names:
                inner[name] = arrays[name]
    return made.getvalue()


@functools.cache
def pt2_file() -> bytes:
    """A two-layer perceptron with a dynamic batch."""
    import torch

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2)).eval()
    program = torch.export.export(net, (torch.randn(3, 4),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    made = io.BytesIO()
    torch.export.save(program, made)
    return made.getvalue()


@functools.cache
def written(suffix: str) -> dict[str, bytes]:
    """What we write ourselves of the small CNN: name of each file and its bytes, the model last."""
    with tempfile.TemporaryDirectory() as folder:
        module = anyir.optimize(anyir.load(cnn(Path(folder) / "net.onnx", batch=2)))
        names = [Path(path).name for path in anyir.save(module, Path(folder) / f"bad{suffix}")]
        return {name: (Path(folder) / name).read_bytes() for name in names}


@functools.cache
def onnx_file() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return cnn(Path(folder) / "net.onnx", batch=2).read_bytes()
