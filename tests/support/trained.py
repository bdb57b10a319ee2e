"""Networks for compression: an MLP and a CNN trained on MNIST-5k, EfficientNet-Lite0, a ResNet-50-shaped one.

Files are made once and kept in the cache folder, keyed by this file's text and torch's version.

    mnist("mlp", "onnx") -> path          mnist_module("mlp") -> the torch module in eval mode
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")

from .datasets import mnist5k
from .models import cache_dir, model_path

SUFFIX = {"torch": ".pt2", "onnx": ".onnx", "keras": ".keras"}
SEED = 0

#: Expansion, channels, kernel, stride and repeats of EfficientNet-Lite0's stages (Tan and Le, 1905.11946, table 1).
STAGES = (
    (1, 16, 3, 1, 1),
    (6, 24, 3, 2, 2),
    (6, 40, 5, 2, 2),
    (6, 80, 3, 2, 3),
    (6, 112, 5, 1, 3),
    (6, 192, 5, 2, 4),
    (6, 320, 3, 1, 1),
)


def mnist(name: str, source: str) -> Path:
    """The file of the MNIST network `name` (mlp or cnn) as .pt2, .onnx or .keras: the same weights in all three. Its input is
    "image" ([N, 784], or [N, 1, 28, 28], in Keras [N, 28, 28, 1]), its output are logits."""
    path = _folder() / f"mnist-{name}{SUFFIX[source]}"
    if not path.is_file():
        module = mnist_module(name)
        _write_keras(module, name, path) if source == "keras" else _write_torch(module, _mnist_sample(name), path)
    return path


def mnist_module(name: str):
    """The trained torch module in eval mode; trained on first use."""
    import torch

    module = {"mlp": _mlp, "cnn": _cnn}[name]()
    state = _folder() / f"mnist-{name}.state.pt"
    if not state.is_file():
        torch.manual_seed(SEED)
        module = {"mlp": _mlp, "cnn": _cnn}[name]()
        _train(module, mnist_images(name, mnist5k().x), mnist5k().y, epochs={"mlp": 40, "cnn": 8}[name])
        _replace(state, lambda path: torch.save(module.state_dict(), path))
    module.load_state_dict(torch.load(state, weights_only=True))
    return module.eval()


def mnist_images(name: str, rows, source: str = "torch"):
    """Rows of 784 pixels in the layout that a network takes."""
    if name == "mlp":
        return rows
    return rows.reshape(-1, 28, 28, 1) if source == "keras" else rows.reshape(-1, 1, 28, 28)


def efficientnet_lite0() -> Path:
    """The trained EfficientNet-Lite0 as ONNX: "image" [N, 3, 224, 224] -> "logits" [N, 1000]."""
    path = _folder() / "efficientnet-lite0.onnx"
    if not path.is_file():
        import torch

        _write_torch(efficientnet_lite0_module(), torch.zeros(2, 3, 224, 224), path, "logits")
    return path


def efficientnet_lite0_module():
    """The trained EfficientNet-Lite0 as a torch module in eval mode, rebuilt from its checkpoint."""
    import torch

    state = torch.load(model_path("efficientnet-lite0"), weights_only=True)
    module = _efficientnet_lite0()
    module.load_state_dict(state)
    return module.eval()


def resnet50_shaped() -> Path:
    """ResNet-50's graph with seeded random weights, as ONNX: "image" [N, 3, 224, 224] -> "logits" [N, 1000]."""
    path = _folder() / "resnet50-shaped.onnx"
    if not path.is_file():
        import torch

        torch.manual_seed(SEED)
        _write_torch(_resnet50().eval(), torch.zeros(2, 3, 224, 224), path, "logits")
    return path


# ------------------------------------------------------------------------------------------------------------- networks


def _mlp():
    from torch import nn

    return nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10))


def _cnn():
    from torch import nn

    def block(inputs: int, outputs: int, stride: int = 1):
        conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())

    return nn.Sequential(
        block(1, 32),
        block(32, 32, 2),
        block(32, 64),
        block(64, 64, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


def _efficientnet_lite0():
    import torch
    from torch import nn

    class Same(nn.Conv2d):
        """A convolution with TensorFlow's SAME padding, for the one input size that the network is exported with."""

        def forward(self, x):
            rows, columns = (
                max((-(-n // s) - 1) * s + k - n, 0)
                for n, s, k in zip(x.shape[2:], self.stride, self.kernel_size, strict=True)
            )
            edges = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
            return super().forward(nn.functional.pad(x, edges) if any(edges) else x)

    def norm(channels: int):
        return nn.BatchNorm2d(channels, eps=1e-3)

    class Block(nn.Module):
        """Expand, depthwise, project, with a skip where shapes allow it. Names are the checkpoint's."""

        def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int) -> None:
            super().__init__()
            wide = inputs * expansion
            self.skip = stride == 1 and inputs == outputs
            self.expands = expansion != 1
            if self.expands:
                self._expand_conv, self._bn0 = nn.Conv2d(inputs, wide, 1, bias=False), norm(wide)
            self._depthwise_conv, self._bn1 = Same(wide, wide, kernel, stride, groups=wide, bias=False), norm(wide)
            self._project_conv, self._bn2 = nn.Conv2d(wide, outputs, 1, bias=False), norm(outputs)

        def forward(self, x):
            y = nn.functional.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
            y = nn.functional.relu6(self._bn1(self._depthwise_conv(y)))
            y = self._bn2(self._project_conv(y))
            return x + y if self.skip else y

    class Lite0(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self._conv_stem, self._bn0 = Same(3, 32, 3, 2, bias=False), norm(32)
            blocks, inputs = [], 32
            for expansion, outputs, kernel, stride, repeats in STAGES:
                for i in range(repeats):
                    blocks.append(Block(inputs, outputs, expansion, kernel, stride if i == 0 else 1))
                    inputs = outputs
            self._blocks = nn.ModuleList(blocks)
            self._conv_head, self._bn1 = nn.Conv2d(inputs, 1280, 1, bias=False), norm(1280)
            self._fc = nn.Linear(1280, 1000)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            y = nn.functional.relu6(self._bn0(self._conv_stem(image)))
            for block in self._blocks:
                y = block(y)
            y = nn.functional.relu6(self._bn1(self._conv_head(y)))
            return self._fc(y.mean(dim=(2, 3)))

    return Lite0()


def _resnet50():
    from torch import nn

    class Bottleneck(nn.Module):
        def __init__(self, inputs: int, width: int, stride: int) -> None:
            super().__init__()
            outputs = 4 * width
            self.path = nn.Sequential(
                *_conv(inputs, width, 1), nn.ReLU(), *_conv(width, width, 3, stride), nn.ReLU(), *_conv(width, outputs, 1)
            )  # fmt: skip
            same = stride == 1 and inputs == outputs
            self.skip = nn.Identity() if same else nn.Sequential(*_conv(inputs, outputs, 1, stride))

        def forward(self, x):
            return nn.functional.relu(self.path(x) + self.skip(x))

    def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1):
        return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs)

    layers, inputs = [*_conv(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)], 64
    for width, repeats, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for i in range(repeats):
            layers.append(Bottleneck(inputs, width, stride if i == 0 else 1))
            inputs = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 1000))


# ---------------------------------------------------------------------------------------------------- training, writing


def _train(module, x, y, epochs: int) -> None:
    import torch

    data, labels = torch.from_numpy(x), torch.from_numpy(y)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    order = torch.Generator().manual_seed(SEED)
    module.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(data), generator=order).split(64):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(module(data[rows]), labels[rows]).backward()
            optimizer.step()


def _mnist_sample(name: str):
    import torch

    return torch.from_numpy(mnist_images(name, mnist5k().x[:4]))


def _write_torch(module, sample, path: Path, output: str = "digit") -> None:
    import torch

    shapes = ({0: torch.export.Dim("batch", min=1, max=4096)},)
    if path.suffix == ".pt2":
        program = torch.export.export(module, (sample,), dynamic_shapes=shapes)
        _replace(path, lambda partial: torch.export.save(program, partial))
        return
    options = {"input_names": ["image"], "output_names": [output], "dynamic_shapes": shapes}
    made = torch.onnx.export(module, (sample,), dynamo=True, external_data=False, verbose=False, **options)
    _replace(path, lambda partial: made.save(partial))


def _write_keras(module, name: str, path: Path) -> None:
    """The torch module's weights in a Keras model of the same layers."""
    import keras
    from keras import layers

    image = keras.Input((784,) if name == "mlp" else (28, 28, 1), name="image")
    y = image
    if name == "mlp":
        y = layers.Dense(256, activation="relu", name="hidden1")(y)
        y = layers.Dense(128, activation="relu", name="hidden2")(y)
    else:
        for i, (channels, stride) in enumerate(((32, 1), (32, 2), (64, 1), (64, 2))):
            y = layers.ZeroPadding2D(1, name=f"pad{i}")(y)
            y = layers.Conv2D(channels, 3, stride, use_bias=False, name=f"conv{i}")(y)
            y = layers.ReLU(name=f"relu{i}")(layers.BatchNormalization(epsilon=1e-5, name=f"norm{i}")(y))
        y = layers.GlobalAveragePooling2D(name="mean")(y)
    model = keras.Model(image, layers.Dense(10, name="digit")(y), name=f"mnist_{name}")
    state = [v.numpy() for key, v in module.state_dict().items() if not key.endswith("num_batches_tracked")]
    turned = {2: (1, 0), 4: (2, 3, 1, 0)}
    model.set_weights([v.transpose(turned[v.ndim]) if v.ndim in turned else v for v in state])
    _replace(path, model.save)


def _folder() -> Path:
    key = hashlib.sha256(Path(__file__).read_bytes() + importlib.metadata.version("torch").encode()).hexdigest()[:16]
    folder = cache_dir() / "networks" / key
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _replace(path: Path, write) -> None:
    """Write under a temporary name first: a test run that is cut off leaves no half file."""
    partial = path.with_name(f".{os.getpid()}-{path.name}")
    write(str(partial))
    os.replace(partial, path)
