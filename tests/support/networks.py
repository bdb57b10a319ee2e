"""The three trained networks of the road tests: a CNN, an MLP and a small transformer encoder, in Keras, PyTorch and
ONNX.

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
        y = layers.ReLU(name="stem_relu")(layers.BatchNormalization(momentum=0.9, name="stem_norm")(y))
        z = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="depthwise")(y)
        z = layers.ReLU(name="depthwise_relu")(layers.BatchNormalization(momentum=0.9, name="depthwise_norm")(z))
        y = layers.Add(name="residual")([y, layers.Conv2D(12, 1, name="pointwise")(z)])
        y = layers.Conv2D(20, 3, strides=2, padding="same", activation="relu", name="down")(y)
        y = layers.GlobalAveragePooling2D(name="mean")(y)
    else:
        x = keras.Input((8, 8), name="image")
        y = layers.EinsumDense("btc,cd->btd", output_shape=(8, 24), bias_axes="td", name="embed")(
            x
        )  # learns positions too
        for i in range(2):
            z = layers.LayerNormalization(epsilon=1e-5, name=f"norm{i}a")(y)
            y = layers.Add(name=f"add{i}a")([y, layers.MultiHeadAttention(3, 8, name=f"attention{i}")(z, z)])
            z = layers.LayerNormalization(epsilon=1e-5, name=f"norm{i}b")(y)
            z = layers.Dense(24, name=f"shrink{i}")(layers.Dense(48, activation="gelu", name=f"grow{i}")(z))
            y = layers.Add(name=f"add{i}b")([y, z])
        y = layers.GlobalAveragePooling1D(name="mean")(layers.LayerNormalization(epsilon=1e-5, name="norm")(y))
    return keras.Model(x, layers.Dense(10, activation="softmax", name="digit")(y), name=name)


def _make_keras(name: str, folder: Path) -> None:
    import keras

    x, y, x_test, _ = digits()
    keras.utils.set_random_seed(SEED)
    model = _keras_network(name)
    model.compile(optimizer=keras.optimizers.Adam(3e-3), loss="sparse_categorical_crossentropy")
    model.fit(shaped(name, "keras", x), y, batch_size=64, epochs=12, verbose=0)
    _save_array(folder, f"{name}-keras.npy", model.predict(shaped(name, "keras", x_test), verbose=0))
    partial = folder / f".{os.getpid()}-{name}.keras"
    keras.Model(model.input, model.output, name=name).save(partial)
    os.replace(partial, folder / f"{name}.keras")


# ---------------------------------------------------------------------------------------------------------------- torch


def _torch_network(name: str):
    return {"mlp": _mlp, "cnn": _cnn, "transformer": _transformer}[name]()


def _mlp():
    from torch import nn

    return nn.Sequential(
        nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 32), nn.Tanh(), nn.Linear(32, 10), nn.Softmax(dim=-1)
    )


def _cnn():
    import torch
    from torch import nn

    class Cnn(nn.Module):
        """Stem, a depthwise residual block, a strided convolution, a mean over the image."""

        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU())
            self.block = nn.Sequential(
                nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False),
                nn.BatchNorm2d(12),
                nn.ReLU(),
                nn.Conv2d(12, 12, 1),
            )
            self.down = nn.Sequential(nn.Conv2d(12, 20, 3, stride=2, padding=1), nn.ReLU())
            self.head = nn.Linear(20, 10)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            y = self.stem(image)
            y = self.down(y + self.block(y))
            return torch.softmax(self.head(y.mean(dim=(2, 3))), dim=-1)

    return Cnn()


def _transformer():
    import torch
    from torch import nn

    class Block(nn.Module):
        """Pre-norm self-attention and feed-forward with residuals."""

        def __init__(self, width: int, heads: int) -> None:
            super().__init__()
            self.heads = heads
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.grow, self.shrink = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            batch, time, width = x.shape
            qkv = self.qkv(self.norm1(x)).reshape(batch, time, 3, self.heads, width // self.heads)
            q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
            y = nn.functional.scaled_dot_product_attention(q, k, v)
            x = x + self.out(y.transpose(1, 2).reshape(batch, time, width))
            return x + self.shrink(nn.functional.gelu(self.grow(self.norm2(x))))

    class Encoder(nn.Module):
        """The rows of an image as tokens."""

        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(8, 24)
            self.position = nn.Parameter(torch.zeros(8, 24))
            self.blocks = nn.Sequential(Block(24, 3), Block(24, 3))
            self.norm, self.head = nn.LayerNorm(24), nn.Linear(24, 10)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            y = self.blocks(self.embed(image) + self.position)
            return torch.softmax(self.head(self.norm(y).mean(dim=1)), dim=-1)

    return Encoder()


def _make_torch(name: str, folder: Path) -> None:
    """Train the torch twin and write its state, its exported program, its ONNX form and its answers."""
    import torch

    torch.manual_seed(SEED)
    module = _train(_torch_network(name), name)
    x = torch.from_numpy(shaped(name, "torch", digits()[2]))
    with torch.no_grad():
        _save_array(folder, f"{name}-torch.npy", module(x).numpy())
    _replace(folder, f"{name}.state.pt", lambda path: torch.save(module.state_dict(), path))
    batch = {"image": {0: torch.export.Dim("batch", min=1, max=4096)}}
    shapes = tuple(batch.values())
    program = torch.export.export(module, (x[:4],), dynamic_shapes=shapes)
    _replace(folder, f"{name}.pt2", lambda path: _saved_program(program, path))
    _replace(folder, f"{name}.onnx", lambda path: _exported(module, x[:4], shapes, path))


def _train(module, name: str):
    import torch

    x, y, _, _ = digits()
    data, labels = torch.from_numpy(shaped(name, "torch", x)), torch.from_numpy(y)
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
    order = torch.Generator().manual_seed(SEED)
    module.train()
    for _ in range(20):
        for rows in torch.randperm(len(data), generator=order).split(64):
            optimizer.zero_grad()
            torch.nn.functional.nll_loss(torch.log(module(data[rows]) + 1e-7), labels[rows]).backward()
            optimizer.step()
    return module.eval()


def _saved_program(program, path: Path) -> None:
    import torch

    with open(path, "wb") as file:
        torch.export.save(program, file)


def _exported(module, x, shapes, path: Path) -> None:
    import torch

    torch.onnx.export(
        module,
        (x,),
        path,
        input_names=["image"],
        output_names=["digit"],
        dynamic_shapes=shapes,
        dynamo=True,
        external_data=False,
        verbose=False,
    )
