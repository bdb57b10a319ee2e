"""Trained models in integers: as good as in floats on data that calibration has not seen, by our kernels and in onnxruntime.

The fast test is an MNIST network; the others are slow: EfficientNet-Lite0 both ways between photos, the PP-OCR recogniser,
magika, basic-pitch and MTCNN.
"""

from __future__ import annotations

import sysconfig
from pathlib import Path

import anyir
import numpy as np
import pytest
from anyir.compress.data import open_data
from anyir.ir.graph import Module
from anyir.ir.verify import verify
from anyir.kernels.run import run
from anyir.passes.manager import Context, run_pipeline
from anyir.tests.support import datasets, trained
from anyir.tests.support.models import model_path

PRODUCTS = ("conv", "conv_transpose", "gemm", "matmul")


def loaded(path: Path) -> Module:
    return anyir.optimize(anyir.load(str(path)))


def in_integers(module: Module, data: np.ndarray, pipeline: str = "quantize") -> Module:
    """A quantised copy in which every product reads integers."""
    made = module.clone()
    (name,) = made.signature.input_names()
    run_pipeline(made, pipeline, Context(data=open_data({name: data}, made)))
    verify(made)
    for node in made.all_nodes(*PRODUCTS):
        assert all(v.node is not None and v.node.name == "dequantize" for v in node.operands[:2]), str(node)
    return made


def weights_left(module: Module, made: Module) -> float:
    """Bytes of all constants, scales and biases included, as a share of those in floats."""
    return sum(w.nbytes for w in made.used_weights()) / sum(w.nbytes for w in module.used_weights())


def in_onnxruntime(path: Path | str, data: np.ndarray, size: int = 25) -> list[np.ndarray]:
    ort = pytest.importorskip("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options)
    (given,) = session.get_inputs()
    batches = (np.ascontiguousarray(data[i : i + size]) for i in range(0, len(data), size))
    return [np.concatenate(parts) for parts in zip(*(session.run(None, {given.name: b}) for b in batches), strict=True)]


def by_kernels(module: Module, data: np.ndarray, size: int = 25) -> list[np.ndarray]:
    (name,) = module.signature.input_names()
    batches = (data[i : i + size] for i in range(0, len(data), size))
    return [np.concatenate(parts) for parts in zip(*(run(module, {name: b}).values() for b in batches), strict=True)]


def agreement(a: np.ndarray, b: np.ndarray) -> float:
    return float((a.argmax(-1) == b.argmax(-1)).mean())


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_mnist_loses_at_most_half_a_point(name: str, tmp_path: Path) -> None:
    digits = datasets.mnist5k()
    module = loaded(trained.mnist(name, "onnx"))
    made = in_integers(module, trained.mnist_images(name, digits.x[:100]))
    images, labels = trained.mnist_images(name, digits.x_test), digits.y_test
    path = tmp_path / "net.onnx"
    anyir.save(made, path)
    before, after = (float((by_kernels(m, images, 250)[0].argmax(1) == labels).mean()) for m in (module, made))
    peer = float((in_onnxruntime(path, images)[0].argmax(1) == labels).mean())
    assert min(after, peer) >= before - 0.005
    assert weights_left(module, made) <= 0.27


@pytest.mark.slow
@pytest.mark.parametrize("fold", [0, 1])
def test_efficientnet_lite0_agrees_with_itself(fold: int, tmp_path: Path) -> None:
    """Calibrated on crops of ten photos, judged on those of the other ten. No layer is left in floats or 16 bits."""
    path = trained.efficientnet_lite0()
    module = loaded(path)
    made = in_integers(module, datasets.imagenet_crops(fold)[::5], "quantize,fold-quantize")
    crops = datasets.imagenet_crops(1 - fold)
    written = tmp_path / "net.onnx"
    anyir.save(made, written)
    (expected,), (found,) = in_onnxruntime(path, crops), in_onnxruntime(written, crops)
    assert agreement(expected, found) >= 0.95
    some = slice(None, None, 5)
    assert agreement(expected[some], by_kernels(made, crops[some], 10)[0]) >= 0.95
    assert weights_left(module, made) <= 0.27
    assert written.stat().st_size <= 0.27 * path.stat().st_size


@pytest.mark.slow
def test_the_recogniser_reads_as_many_words(tmp_path: Path) -> None:
    """Words as people compare them, spaces around them left off."""
    import onnx

    path = model_path("ppocrv4-rec")
    entries = {p.key: p.value for p in onnx.load(path).metadata_props}
    letters = ["", *entries["character"].splitlines(), " "]

    def read(rows: np.ndarray) -> list[str]:
        best = rows.argmax(-1)
        kept = [[c for i, c in enumerate(row) if c and (i == 0 or c != row[i - 1])] for row in best]
        return ["".join(letters[c] for c in row).strip() for row in kept]

    module = loaded(path)
    made = in_integers(module, datasets.ocr_words(60, 0)[0])
    images, words = datasets.ocr_words(200, 1)
    written = tmp_path / "net.onnx"
    anyir.save(made, written)
    before, after = (read(in_onnxruntime(p, images, 10)[0]) for p in (path, written))
    right = [sum(a == b for a, b in zip(found, words, strict=True)) for found in (before, after)]
    assert right[1] >= right[0] - 0.005 * len(words)
    assert weights_left(module, made) <= 0.27


def files(count: int, seed: int) -> np.ndarray:
    """First and last kilobyte of files of the Python installation, as magika reads them: at most eight of each suffix."""
    by_suffix: dict[str, list[Path]] = {}
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*")):
        if path.suffix and path.is_file() and 200 < path.stat().st_size < 3_000_000:
            by_suffix.setdefault(path.suffix, []).append(path)
    rng = np.random.default_rng(seed)
    chosen = [group[i] for group in by_suffix.values() for i in rng.permutation(len(group))[:8]]
    rows = np.full((min(count, len(chosen)), 2048), 256, np.int32)
    for row, place in zip(rows, rng.permutation(len(chosen)), strict=False):
        data = np.frombuffer(chosen[place].read_bytes(), np.uint8)
        head, tail = data[:1024], data[-1024:]
        row[: len(head)], row[2048 - len(tail) :] = head, tail
    return rows


@pytest.mark.slow
def test_magika_names_the_same_types(tmp_path: Path) -> None:
    """Of files that the float model is sure of; the tool itself calls the others unknown."""
    path = model_path("magika")
    module = loaded(path)
    rows = files(300, 0)
    made = in_integers(module, rows[:80])
    written = tmp_path / "net.onnx"
    anyir.save(made, written)
    (expected,), (found,) = in_onnxruntime(path, rows[80:], 10), in_onnxruntime(written, rows[80:], 10)
    sure = expected.max(-1) > 0.5
    assert sure.sum() > 50
    assert agreement(expected[sure], found[sure]) >= 0.99
    assert weights_left(module, made) <= 0.27
    assert written.stat().st_size <= 0.27 * path.stat().st_size


def chords(count: int, seed: int) -> np.ndarray:
    """Two seconds of decaying notes with five partials each and a little noise, [count, 43844, 1]."""
    rng = np.random.default_rng(seed)
    time = np.arange(43844) / 22050
    made = np.zeros((count, len(time), 1), np.float32)
    for sound in made:
        for _ in range(rng.integers(2, 7)):
            pitch, start, length = 440 * 2 ** (rng.integers(-24, 24) / 12), rng.uniform(0, 1.2), rng.uniform(0.2, 0.9)
            shape = ((time >= start) & (time < start + length)) * np.exp(-3 * np.clip(time - start, 0, 9) / length)
            for partial in range(1, 6):
                sound[:, 0] += shape * np.sin(2 * np.pi * pitch * partial * time) / partial * rng.uniform(0.3, 1)
        sound += rng.normal(0, 0.003, sound.shape)
        sound *= rng.uniform(0.3, 0.9) / np.abs(sound).max()
    return made


@pytest.mark.slow
def test_basic_pitch_hears_the_same_notes(tmp_path: Path) -> None:
    """16-bit activations: what the first convolutions give goes through a logarithm, and 8 bits end at -48 dB."""
    path = model_path("basic-pitch")
    made = in_integers(loaded(path), chords(8, 0), "quantize{activations=int16}")
    written = tmp_path / "net.onnx"
    anyir.save(made, written)
    sounds = chords(12, 1)
    for expected, found in zip(in_onnxruntime(path, sounds, 4), in_onnxruntime(written, sounds, 4), strict=True):
        a, b = expected > 0.5, found > 0.5
        assert (a == b).mean() >= 0.99
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) >= 0.9  # silence is most of it, and does not count here


def faces(size: int, fold: int) -> np.ndarray:
    """Photos as the stages of MTCNN take them, [n, size, size, 3]: squares of all places and sizes."""
    crops = datasets.imagenet_crops(fold)[::2]
    rng = np.random.default_rng(fold)
    made = np.empty((len(crops), size, size, 3), np.float32)
    for row, crop in zip(made, crops, strict=True):
        y, x = rng.integers(0, 224 - 2 * size, 2)
        row[:] = crop[:, y : y + 2 * size : 2, x : x + 2 * size : 2].transpose(1, 2, 0) * np.float32(128 / 127.5)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mtcnn-pnet", "mtcnn-onet"])
def test_mtcnn_finds_the_same_faces(name: str, tmp_path: Path) -> None:
    path = model_path(name)
    module = loaded(path)
    made = in_integers(module, faces(48, 0))
    written = tmp_path / "net.onnx"
    anyir.save(made, written)
    images = faces(48, 1)
    before, after = (in_onnxruntime(p, images) for p in (path, written))
    assert agreement(before[-1], after[-1]) >= 0.99
    for a, b in zip(before[:-1], after[:-1], strict=True):  # boxes and landmarks, as parts of the window
        assert np.sqrt(((a - b) ** 2).mean()) < 0.02
    for node in made.main.nodes("conv", "gemm"):
        assert node.operands[1].node.operands[0].dtype.name == "i8"
