"""The three trained networks of the road tests: a CNN, an MLP and a small transformer encoder, in Keras, PyTorch and ONNX.

All learn scikit-learn's digits (8 x 8 images, 10 classes) in seconds, seeded. Files are made once and kept in a cache
folder that is keyed by this file's text and the versions of the frameworks, so a change trains anew.

    network("cnn", "keras") -> Trained(path to .keras ...)     network("cnn", "onnx") -> exported from the torch twin
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")

import numpy as np

from .models import cache_dir

NAMES = ("cnn", "mlp", "transformer")
SOURCES = ("keras", "torch", "onnx")
SUFFIX = {"keras": ".keras", "torch": ".pt2", "onnx": ".onnx"}
SEED = 3


@dataclass(frozen=True)
class Trained:
    """A trained network as a file, with the test images in its own layout and what its framework says about them."""

    name: str
    source: str
    path: Path
    input: str
    x: np.ndarray
    y: np.ndarray
    expected: np.ndarray


@cache
def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Images [N, 8, 8] in 0..1 and labels: 1,437 to train, 360 to test."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    images, labels = (data.images / 16.0).astype("float32"), data.target.astype("int64")
    x, x_test, y, y_test = train_test_split(images, labels, test_size=360, random_state=SEED, stratify=labels)
    return x, y, x_test, y_test


def shaped(name: str, source: str, images: np.ndarray) -> np.ndarray:
    """Images in the layout that a network takes: CNN by channel order, MLP flat, transformer rows as tokens."""
    if name == "cnn":
        return images[..., None] if source == "keras" else images[:, None]
    return images.reshape(len(images), 64) if name == "mlp" else images


@cache
def network(name: str, source: str) -> Trained:
    """The network `name` in the form `source`; trained on first use, then from the cache."""
    folder = _folder()
    path = folder / f"{name}{SUFFIX[source]}"
    outputs = folder / f"{name}-{'keras' if source == 'keras' else 'torch'}.npy"
    if not path.is_file() or not outputs.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        (_make_keras if source == "keras" else _make_torch)(name, folder)
    _, _, images, labels = digits()
    return Trained(name, source, path, "image", shaped(name, source, images), labels, np.load(outputs))


def torch_module(name: str):
    """The trained torch twin as a live module in eval mode."""
    import torch

    module = _torch_network(name)
    network(name, "torch")
    module.load_state_dict(torch.load(_folder() / f"{name}.state.pt", weights_only=True))
    return module.eval()


def keras_model(name: str):
    """The trained Keras twin as a live model."""
    import keras

    return keras.saving.load_model(network(name, "keras").path, compile=False)


def _folder() -> Path:
    versions = [f"{p}={importlib.metadata.version(p)}" for p in ("keras", "torch", "onnx", "scikit-learn")]
    key = hashlib.sha256(Path(__file__).read_bytes() + " ".join(versions).encode()).hexdigest()[:16]
    return cache_dir() / "networks" / key


def _replace(folder: Path, name: str, write) -> None:
    """Write under a temporary name first: a test run that is cut off leaves no half file."""
    partial = folder / f".{os.getpid()}-{name}"
    write(partial)
    os.replace(partial, folder / name)


def _save_array(folder: Path, name: str, array: np.ndarray) -> None:
    def write(path: Path) -> None:
        with open(path, "wb") as file:
            np.save(file, array)

    _replace(folder, name, write)


# ---------------------------------------------------------------------------------------------------------------- Keras


def _keras_network(name: str):
    import keras
    from keras import layers

    if name == "mlp":
        x = keras.Input((64,), name="image")
        y = layers.Dense(48, activation="relu", name="hidden1")(x)
        y = layers.Dense(32, activation="tanh", name="hidden2")(y)
    elif name == "cnn":
        x = keras.Input((8, 8, 1), name="image")
        y = layers.Conv2D(12, 3, padding="same", use_bias=False, name="stem")(x)
        y = layers.ReLU(name="stem_relu")(layers.BatchNormalization(name="stem_norm")(y))
        z = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="depthwise")(y)
        z = layers.ReLU(name="depthwise_relu")(layers.BatchNormalization(name="depthwise_norm")(z))
        y = layers.Add(name="residual")([y, layers.Conv2D(12, 1, name="pointwise")(z)])
        y = layers.Conv2D(20, 3, strides=2, padding="same", activation="relu", name="down")(y)
        y = layers.GlobalAveragePooling2D(name="mean")(y)
    else:
        x = keras.Input((8, 8), name="image")
        y = layers.Dense(24, name="embed")(x)
        y = PositionEmbedding(8, 24)(y) if False else layers.Add(name="position")([y, _positions(layers, y)])
        for i in range(2):
            z = layers.LayerNormalization(epsilon=1e-5, name=f"norm{i}a")(y)
            y = layers.Add(name=f"add{i}a")([y, layers.MultiHeadAttention(3, 8, name=f"attention{i}")(z, z)])
            z = layers.LayerNormalization(epsilon=1e-5, name=f"norm{i}b")(y)
            z = layers.Dense(24, name=f"shrink{i}")(layers.Dense(48, activation="gelu", name=f"grow{i}")(z))
            y = layers.Add(name=f"add{i}b")([y, z])
        y = layers.GlobalAveragePooling1D(name="mean")(layers.LayerNormalization(epsilon=1e-5, name="norm")(y))
    return keras.Model(x, layers.Dense(10, activation="softmax", name="digit")(y), name=name)
