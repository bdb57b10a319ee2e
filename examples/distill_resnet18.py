"""A ResNet-18 teaches a smaller ResNet on CIFAR-shaped data that a torch DataLoader feeds, and the student leaves as ONNX.

    python examples/distill_resnet18.py student.onnx                     random images: shows the way
    python examples/distill_resnet18.py student.onnx --data cifar10.npz  `images` [N, 3, 32, 32] f32 and `labels` [N]

The teacher here has seeded random weights; load your own trained one in its place.
"""

from __future__ import annotations

import argparse

import anyir
import numpy as np
import torch
from anyir.compress.distill import KD, DistillReport, Hint, Labels
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Block(nn.Module):
    """Two 3x3 convolutions and a skip."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.skip = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.skip = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.skip(x))


class ResNet(nn.Module):
    """He et al. (1512.03385) for 32 x 32 images: `repeats` blocks in each of four stages, `width` channels in the first.
    ResNet-18 has (2, 2, 2, 2) and 64."""

    def __init__(self, repeats: tuple[int, ...], width: int, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        stages, inputs = [], width
        for stage, count in enumerate(repeats):
            outputs = width << stage
            stages.append(nn.Sequential(*(
                Block(inputs if i == 0 else outputs, outputs, 2 if stage and i == 0 else 1) for i in range(count)
            )))  # fmt: skip
            inputs = outputs
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(inputs, classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.stages(self.stem(image)).mean((2, 3)))


def images(path: str | None, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised images [N, 3, 32, 32] and labels: those of a file, or random ones."""
    if path is not None:
        with np.load(path) as stored:
            return torch.from_numpy(stored["images"]).float(), torch.from_numpy(stored["labels"]).long()
    drawn = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, 32, 32, generator=drawn), torch.randint(0, 10, (count,), generator=drawn)


def flipped(feeds: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Half of the images from right to left."""
    chosen = rng.random(len(feeds["image"])) < 0.5
    return {"image": np.where(chosen[:, None, None, None], feeds["image"][..., ::-1], feeds["image"])}


def main(output: str, data: str | None = None, samples: int = 512, epochs: int = 2, width: int = 64) -> DistillReport:
    torch.manual_seed(0)
    example = (torch.zeros(2, 3, 32, 32),)
    teacher = anyir.load(ResNet((2, 2, 2, 2), width).eval(), inputs=example)
    student = anyir.load(ResNet((1, 1, 1, 1), width // 2).eval(), inputs=example)
    x, y = images(data, samples)
    held = max(len(x) // 10, 1)
    loader = DataLoader(TensorDataset(x[held:], y[held:]), batch_size=64, shuffle=True)
    return anyir.distill(
        teacher,
        student,
        loader,
        output,
        eval_data={"image": x[:held].numpy(), "labels": y[:held].numpy()},
        losses=[KD(0.9, temperature=4.0), Labels(0.1), Hint(0.1, teacher="stages.3", student="stages.3")],
        epochs=epochs,
        batch=64,
        schedule="one-cycle",
        augment=flipped,
        progress=lambda stage, text: print(f"{stage:<9} {text}", flush=True),
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("output")
    parser.add_argument("--data")
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--width", type=int, default=64)
    report = main(**vars(parser.parse_args()))
    print(report)
    print(report.written)
