"""Trained networks with data to quantise them by: calibration samples, others to judge by, and what counts as an answer.

An answer is what a user of the network acts on: a class, a word, a note that sounds or does not, a face or none. `labels`
are the right answers where there are any. Calibration and evaluation samples come from different sources (other words,
other files, other photos), never from one.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from anyir.compress.evaluate import wilson

from . import datasets
from .models import model_path
from .networks import digits, network, shaped
from .trained import mnist, mnist_images

Outputs = Mapping[str, np.ndarray]

#: Samples per second, samples of one window, and the lowest of the 88 notes of a piano, as basic-pitch takes them.
RATE, WINDOW, LOWEST_NOTE = 22050, 43844, 21
#: Thresholds at which the packages themselves call a frame a note, a beginning, and a window a face.
NOTE, ONSET, PNET_FACE, ONET_FACE = 0.3, 0.5, 0.6, 0.7
#: What magika reads of a file, at its beginning and at its end, and the token for "no byte".
END, NOTHING = 1024, 256
#: magika's classes of files by their extension, where that leaves no doubt.
EXTENSIONS = {
    ".py": 143, ".pyc": 144, ".wav": 195, ".pem": 129, ".txt": 186, ".zip": 212, ".toml": 181, ".json": 87, ".xml": 206,
    ".jpg": 86,
}  # fmt: skip
#: The label of a sample whose right answer is not known.
UNKNOWN = -1


@dataclass(frozen=True)
class Samples:
    """Inputs [N, ...], and the right answers where there are any, in the shape of `Case.answers`: UNKNOWN for some."""

    x: np.ndarray
    labels: np.ndarray | None = None


@dataclass(frozen=True)
class Case:
    """`answers` turns the outputs of one run into comparable elements; `values` are outputs that are numbers to the user,
    judged by their noise. `overrides` are layers that need more than 8 bits, as a recipe names them."""

    name: str
    path: Callable[[], Path]
    input: str
    calibration: Callable[[], Samples]
    evaluation: Callable[[], Samples]
    answers: Callable[[Outputs], np.ndarray]
    batch: int = 50
    values: Callable[[Outputs], np.ndarray] | None = None
    shapes: Mapping[str, tuple[int | str, ...]] | None = None
    overrides: Mapping[str, str] = field(default_factory=dict)


def classes(outputs: Outputs) -> np.ndarray:
    """The largest of the only output."""
    (scores,) = outputs.values()
    return scores.argmax(-1)


def share(hits: np.ndarray) -> str:
    """A share with its 95% interval, in percent."""
    low, high = wilson(int(np.count_nonzero(hits)), hits.size)
    return f"{100 * np.mean(hits):.2f} [{100 * low:.1f}, {100 * high:.1f}]"


# ------------------------------------------------------------------------------------------------------------ digits


def _digits(name: str, train: bool) -> Samples:
    x, y, x_test, y_test = digits()
    return Samples(shaped(name, "onnx", x[:256])) if train else Samples(shaped(name, "onnx", x_test), y_test)


def _mnist(name: str, train: bool) -> Samples:
    table = datasets.mnist5k()
    if train:
        return Samples(mnist_images(name, table.x[:256]))
    return Samples(mnist_images(name, table.x_test), table.y_test)


# ------------------------------------------------------------------------------------------------------------- words


@cache
def _charset() -> list[str]:
    import onnx

    metadata = onnx.load(model_path("ppocrv4-rec"), load_external_data=False).metadata_props
    characters = next(entry.value for entry in metadata if entry.key == "character")
    return ["", *characters.splitlines(), " "]


def _words(outputs: Outputs) -> np.ndarray:
    """Greedy CTC: equal neighbours are one character, class 0 is none; spaces at the ends are the margin of the picture."""
    known = _charset()
    found = []
    for row in classes(outputs):
        fresh = np.concatenate([[True], row[1:] != row[:-1]])
        found.append("".join(known[k] for k in row[fresh]).strip())
    return np.array(found)


def _rendered(count: int, seed: int) -> Samples:
    images, words = datasets.ocr_words(count, seed)
    return Samples(images, np.array(words))


def _unseen_words(count: int, seed: int, calibration: int) -> Samples:
    """Rendered words, those that `_rendered(calibration, 0)` has left out."""
    seen = set(_rendered(calibration, 0).labels)
    made = _rendered(count + calibration, seed)
    keep = np.array([word not in seen for word in made.labels])
    return Samples(made.x[keep][:count], made.labels[keep][:count])


# ------------------------------------------------------------------------------------------------------------- files


@cache
def _library(fold: int, most: int) -> Samples:
    """Files of Python's own library as magika reads them, as many kinds as there are; the folds share no folder."""
    root = Path(sysconfig.get_paths()["stdlib"])
    kinds: dict[str, list[Path]] = {}
    for path in sorted(root.rglob("*")):
        folder = path.relative_to(root).parts[0]
        if path.is_file() and not path.is_symlink() and sum(folder.encode()) % 2 == fold:
            kinds.setdefault(path.suffix, []).append(path)
    rng = np.random.default_rng(fold)
    for files in kinds.values():
        rng.shuffle(files)
    found: dict[bytes, tuple[np.ndarray, int]] = {}
    while len(found) < most and any(kinds.values()):
        for suffix, files in kinds.items():
            row = _ends(files.pop()) if files and len(found) < most else None
            if row is not None:
                found[row.tobytes()] = row, EXTENSIONS.get(suffix, UNKNOWN)
    rows, labels = zip(*found.values(), strict=True)
    return Samples(np.stack(rows), np.array(labels))


def _ends(path: Path) -> np.ndarray | None:
    """Both ends of a file's content without white space around, padded inwards; None for what magika would not look at."""
    content = path.read_bytes()
    if len(content) < 8 or len(content) > 4 << 20:
        return None
    row = np.full(2 * END, NOTHING, np.int32)
    head, tail = content[: 4 * END].lstrip()[:END], content[-4 * END :].rstrip()[-END:]
    row[: len(head)] = np.frombuffer(head, np.uint8)
    row[2 * END - len(tail) :] = np.frombuffer(tail, np.uint8)
    return row


# ------------------------------------------------------------------------------------------------------------- notes


def _sounds(count: int, seed: int) -> Samples:
    """Windows of a few synthesised notes each, decaying, with overtones and a little noise."""
    rng = np.random.default_rng(seed)
    t = np.arange(WINDOW) / RATE
    windows = np.zeros((count, WINDOW, 1), np.float32)
    for window in windows:
        for _ in range(rng.integers(2, 8)):
            pitch, start, length = 440 * 2 ** (rng.integers(-36, 30) / 12), rng.uniform(0, 1.4), rng.uniform(0.2, 1.2)
            sounding = ((t >= start) & (t < start + length)) * np.exp(-3 * np.clip(t - start, 0, None) / length)
            for k in range(1, int(min(8, RATE / 2 / pitch)) + 1):
                window[:, 0] += sounding * np.sin(2 * np.pi * pitch * k * t) * rng.uniform(0.3, 1) / k
        window += rng.normal(0, 0.002, window.shape)
        window *= rng.uniform(0.2, 0.9) / np.abs(window).max()
    return Samples(windows)


def _notes(outputs: Outputs) -> np.ndarray:
    """Notes that sound and notes that begin, [N, frames, 2 * 88]: of the outputs by the order in which they were trained."""
    notes, onsets = outputs["StatefulPartitionedCall:1"], outputs["StatefulPartitionedCall:2"]
    return np.concatenate([notes > NOTE, onsets > ONSET], -1)


# ------------------------------------------------------------------------------------------------------------- faces


@cache
def _photos(fold: int, size: int, per_photo: int) -> np.ndarray:
    """Crops of half of the photos, [N, size, size, 3], as MTCNN takes them."""
    from PIL import Image

    made = []
    for crop in datasets.imagenet_crops(fold, per_photo, seed=1):
        pixels = np.clip(crop.transpose(1, 2, 0) * 128 + 127, 0, 255).astype(np.uint8)
        small = np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR), np.float32)
        made.append((small - 127.5) / 128)
    return np.stack(made).astype(np.float32)


def _is_face(threshold: float, output: str) -> Callable[[Outputs], np.ndarray]:
    return lambda outputs: outputs[output][..., 1] > threshold


#: basic-pitch's first part is a spectrogram in decibels, of which a note may lie 80 below another: more than 8 bits hold.
SPECTROGRAM = {'weight~"const_fold_opt__(664|655|734)"': "int16", 'name~"cq_t|normalized_log"': "int16"}
#: magika's products feed GELU and layer norms in float; in 8 bits one answer in fifty changes, all of files that the float
#: model is unsure of.
BEFORE_GELU = {"op=conv": "int16", "op=gemm": "int16"}

#: Photos are folded by their own number, digits by their own split; words, files and notes by seed and folder.
CASES = {
    case.name: case
    for case in (
        *(
            Case(
                f"digits-{name}",
                lambda name=name: network(name, "onnx").path,
                "image",
                lambda name=name: _digits(name, True),
                lambda name=name: _digits(name, False),
                classes,
                batch=360,
            )
            for name in ("mlp", "cnn")
        ),
        *(
            Case(
                f"mnist-{name}",
                lambda name=name: mnist(name, "onnx"),
                "image",
                lambda name=name: _mnist(name, True),
                lambda name=name: _mnist(name, False),
                classes,
                batch=250,
            )
            for name in ("mlp", "cnn")
        ),
        Case(
            "ppocrv4-rec",
            lambda: model_path("ppocrv4-rec"),
            "x",
            lambda: _rendered(100, 0),
            lambda: _unseen_words(200, 1, 100),
            _words,
            batch=10,
            shapes={"x": ("N", 3, 48, 320)},
        ),
        Case(
            "magika",
            lambda: model_path("magika"),
            "bytes",
            lambda: _library(0, 200),
            lambda: _library(1, 500),
            classes,
            overrides=BEFORE_GELU,
        ),
        Case(
            "basic-pitch",
            lambda: model_path("basic-pitch"),
            "serving_default_input_2:0",
            lambda: _sounds(20, 0),
            lambda: _sounds(40, 1),
            _notes,
            batch=10,
            overrides=SPECTROGRAM,
        ),
        Case(
            "mtcnn-pnet",
            lambda: model_path("mtcnn-pnet"),
            "input_1",
            lambda: Samples(_photos(0, 96, 10)),
            lambda: Samples(_photos(1, 96, 20)),
            _is_face(PNET_FACE, "softmax"),
            values=lambda outputs: outputs["conv2d_4"],
            shapes={"input_1": ("N", 96, 96, 3)},
        ),
        Case(
            "mtcnn-onet",
            lambda: model_path("mtcnn-onet"),
            "input_3",
            lambda: Samples(_photos(0, 48, 20)),
            lambda: Samples(_photos(1, 48, 100)),
            _is_face(ONET_FACE, "softmax_2"),
            values=lambda outputs: outputs["dense_5"],
            batch=100,
        ),
    )
}
