"""Every ONNX model that the tests put through the whole house: two sizes of each of its dynamic dims, and inputs that mean
something to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from anyir.ir.graph import Module
from anyir.kernels.inputs import sample_inputs
from anyir.tests.support import exported_models, made_models
from anyir.tests.support.models import model_path

Sizes = dict[str, int]
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """`first` and `second` bind the symbols of the inputs, each of them differently; `slow` cases take more than a few CPU
    seconds. In a `quantised` model rounding decides quanta, and one moved quantum moves all that depends on it: the
    limits are then of the size of the quantisation's own error, and called ill-conditioned."""

    first: Sizes
    second: Sizes
    slow: bool = False
    quantised: bool = False

    def sizes(self, which: int) -> Sizes:
        return (self.first, self.second)[which]


def _sizes(names: str, first: tuple[int, ...], second: tuple[int, ...], **marks: bool) -> Case:
    keys = names.split()
    return Case(dict(zip(keys, first, strict=True)), dict(zip(keys, second, strict=True)), **marks)


_PADDLE = "p2o.DynamicDimension.0 p2o.DynamicDimension.1"
_PLAIN = "DynamicDimension.0 DynamicDimension.1"

#: The detectors' skip connections and YOLO's need sides that 32 divides. Anonymous dims are called after input and axis.
CASES: dict[str, Case] = {
    "ppocrv4-det": _sizes(f"{_PADDLE} p2o.DynamicDimension.2", (1, 64, 96), (2, 128, 64)),
    "ppocrv4-rec": _sizes(f"{_PADDLE} x_2", (1, 96, 48), (2, 64, 40)),
    "ppocr-cls": _sizes("x_0 x_2 x_3", (1, 48, 192), (2, 64, 128)),
    "ppocrv6-rec": _sizes(_PLAIN, (1, 96), (2, 64)),
    "ppocrv5-det": _sizes(f"{_PLAIN} DynamicDimension.2", (1, 64, 96), (2, 128, 64)),
    "ppocrv5-cls": _sizes("d0", (1,), (3,)),
    "layout-picodet": _sizes("", (), (), slow=True),
    "silero-vad": _sizes("input_0 input_1 state_1", (1, 576, 1), (2, 300, 2)),
    "silero-vad-ifless": _sizes("batch sequence", (1, 576), (2, 300)),
    "silero-vad-sequence": _sizes("sequence_length", (1,), (3,)),
    "magika": _sizes("unk__214", (1,), (3,)),
    "basic-pitch": _sizes("unk__749", (1,), (2,)),
    "ddddocr-common": _sizes("image_width", (64,), (100,)),
    "ddddocr-old-int8": _sizes("image_width", (64,), (100,), quantised=True),
    "nudenet-320n": _sizes("batch height width", (1, 64, 96), (2, 96, 64)),
    "mtcnn-pnet": _sizes("N M1 M2", (1, 24, 31), (2, 40, 25)),
    "mtcnn-onet": _sizes("N", (1,), (3,)),
    "open-nsfw": _sizes("unk__653", (1,), (2,)),
    "eeg-lstm": _sizes("batch time", (1, 40), (2, 25)),
    "dfn3-enc": _sizes("S", (4,), (9,)),
    "dfn3-df-dec": _sizes("S", (4,), (9,)),
    "smart-turn-qdq": _sizes("s6", (1,), (2,), slow=True, quantised=True),
    "surfaces-gbr": _sizes("input_0", (1,), (5,)),
    "tashkeel-bilstm": _sizes("batch seq_len", (1, 12), (2, 7), quantised=True),
    "t5-encoder-int8": _sizes("batch_size encoder_sequence_length", (1, 9), (2, 6), quantised=True),
    "minilm-l3": _sizes("batch_size sequence_length", (1, 9), (2, 6)),
    "romanizer-decoder": _sizes("batch tgt_len src_len", (1, 5, 7), (3, 4, 6)),
    "made-control-flow": _sizes("N C", (3, 4), (2, 5)),
    "made-detector": _sizes("A K", (30, 3), (17, 2)),
    "torch-cnn": _sizes("batch", (1,), (3,), slow=True),
    "torch-cnn-ts": _sizes("batch height", (1, 40), (3, 33)),
    "torch-encoder": _sizes("batch length", (1, 9), (2, 6), slow=True),
    "torch-decoder": _sizes("batch length", (1, 9), (2, 6), slow=True),
}

_MADE = {"made-control-flow": made_models.CONTROL_FLOW, "made-detector": made_models.DETECTOR}


def source(name: str, folder: Path) -> Path:
    """The model's file: from the cache of packaged models, else made and put into `folder`."""
    if not name.startswith(("made-", "torch-")):
        return model_path(name)
    path = folder / f"{name}.onnx"
    if not path.exists():
        path.write_bytes(made_models.from_text(_MADE[name]) if name in _MADE else exported_models.exported(name))
    return path


def _padding_mask(ragged: np.ndarray, keep: bool) -> np.ndarray:
    """Row i ends i places early: `keep` where data stands, else where padding does."""
    rows, length = ragged.shape
    inside = np.arange(length) < length - np.arange(rows)[:, None]
    return (inside if keep else ~inside).astype(ragged.dtype)


def _page(given: np.ndarray, which: int) -> np.ndarray:
    """Dark strokes in rows on white paper, normalised: on noise a text detector's map is zero but for rounding."""
    rng = np.random.default_rng(which)
    count, _, height, width = given.shape
    paper = np.ones((count, 1, height, width), np.float32)
    for image in paper[:, 0]:
        for top in range(10, height - 14, 24):
            for left in range(8, width - 12, 8):
                bar = top + rng.integers(0, 10)
                image[top : top + 12, left : left + rng.integers(2, 5)] = 0
                image[bar : bar + 2, left : left + 9] = 0
    return np.broadcast_to((paper - 0.5) / 0.25, given.shape).astype(np.float32)


#: Inputs that mean something, by name or by model and name: from the random array and the number of the run. A sampling rate
#: chooses a network.
MEANT: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "sr": lambda _, which: np.array((16000, 8000)[which], np.int64),
    "attention_mask": lambda given, _: _padding_mask(given, True),
    "mask": lambda given, _: _padding_mask(given, True),
    "src_mask": lambda given, _: _padding_mask(given, False),
    "ppocrv4-det:x": _page,
    "ppocrv5-det:x": _page,
    "steps": lambda _, which: np.array((3, 4)[which], np.int64),
}


def inputs_of(name: str, module: Module, which: int, sizes: tuple[Sizes, Sizes] | None = None) -> Arrays:
    """Seeded inputs of one run: random within the range that the model can index, or what MEANT says. `sizes` are those of a
    model that is not among CASES."""
    feeds = sample_inputs(module, seed=which, sizes=sizes[which] if sizes else CASES[name].sizes(which))
    meant = {key: MEANT.get(f"{name}:{key}") or MEANT.get(key) for key in feeds}
    return {key: maker(feeds[key], which) if maker else feeds[key] for key, maker in meant.items()}
