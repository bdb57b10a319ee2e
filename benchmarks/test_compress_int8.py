"""EfficientNet-Lite0 in 8 bits beside onnxruntime's own quantiser, from the same calibration images; and what calibration costs.

Run with: pytest benchmarks/test_compress_int8.py -s. Agreement with the float model is counted over 250 crops of ten photos,
calibration sees crops of the other ten, both ways; intervals are Wilson's at 95%.
"""

from __future__ import annotations

import time
from pathlib import Path

import anyir
import numpy as np
import pytest
from anyir.compress.data import open_data
from anyir.passes.manager import Context, run_pipeline
from anyir.tests.support import datasets, trained

CALIBRATION = slice(None, None, 5)


def session(path: Path):
    ort = pytest.importorskip("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(str(path), options)


def logits(path: Path, crops: np.ndarray) -> np.ndarray:
    model = session(path)
    parts = (np.ascontiguousarray(crops[i : i + 25]) for i in range(0, len(crops), 25))
    return np.concatenate([model.run(None, {"image": part})[0] for part in parts])


def wilson(hits: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """The 95% interval of a share (Wilson, 1927)."""
    share = hits / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * np.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return middle - half, middle + half


def ours(path: Path, crops: np.ndarray, target: Path) -> None:
    module = anyir.optimize(anyir.load(str(path)))
    run_pipeline(module, "quantize,fold-quantize", Context(data=open_data({"image": crops}, module)))
    anyir.save(module, target)


def theirs(path: Path, crops: np.ndarray, target: Path) -> None:
    """quantize_static as its documentation advises for CNNs: shape inference first, QDQ, per channel, min-max."""
    quantization = pytest.importorskip("onnxruntime.quantization")
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(crops[i : i + 10] for i in range(0, len(crops), 10))

        def get_next(self):
            part = next(self.left, None)
            return None if part is None else {"image": np.ascontiguousarray(part)}

    prepared = target.with_suffix(".prepared.onnx")
    quant_pre_process(str(path), str(prepared))
    quantization.quantize_static(str(prepared), str(target), Reader(), per_channel=True)


@pytest.mark.slow
@pytest.mark.parametrize("fold", [0, 1])
def test_agreement_beside_onnxruntime(fold: int, tmp_path: Path) -> None:
    path = trained.efficientnet_lite0()
    calibration, crops = datasets.imagenet_crops(fold)[CALIBRATION], datasets.imagenet_crops(1 - fold)
    expected = logits(path, crops)
    shares = {}
    for name, quantise in {"anyir": ours, "onnxruntime": theirs}.items():
        target = tmp_path / f"{name}.onnx"
        started = time.process_time()
        quantise(path, calibration, target)
        seconds = time.process_time() - started
        found = logits(target, crops)
        hits = int((found.argmax(1) == expected.argmax(1)).sum())
        noise = 10 * np.log10((expected**2).sum() / ((expected - found) ** 2).sum())
        low, high = wilson(hits, len(crops))
        shares[name] = hits / len(crops)
        size = target.stat().st_size / path.stat().st_size
        print(
            f"\n{name:12} calibrated on fold {fold}: {shares[name]:.1%} agree ({low:.1%} to {high:.1%}), "
            f"SQNR {noise:.1f} dB, file {size:.1%}, {seconds:.0f} CPU s"
        )
    assert shares["anyir"] >= 0.95
    assert shares["anyir"] >= shares["onnxruntime"]


@pytest.mark.slow
def test_calibration_of_200_images_takes_less_than_a_minute() -> None:
    module = anyir.optimize(anyir.load(str(trained.efficientnet_lite0())))
    data = open_data({"image": datasets.imagenet_crops(0)[:200]}, module)
    started = time.process_time()
    run_pipeline(module, "quantize", Context(data=data))
    seconds = time.process_time() - started
    print(f"\nquantize with 200 images: {seconds:.1f} CPU s")
    assert seconds < 60
