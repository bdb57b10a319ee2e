"""Trained networks in int8 beside onnxruntime's own quantiser on the same calibration data: answers, bytes, CPU seconds.

    pytest benchmarks/test_compress_models.py -m slow -s     one row per model and target

Agreement is with the float model in onnxruntime, with its 95% interval; accuracy where there are labels. Layers in integers
are those of the IR, "fused" those that onnxruntime computes in integers on this processor.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from anyir.runtimes import onnxruntime as runtime
from anyir.tests.support.compress_metrics import CASES, Case, share
from anyir.tests.support.int8_files import by_onnxruntime, evaluation, in_float, judged, quantised

#: Points by which agreement may lie below the peer's: what chance makes of some hundred samples.
NOISE = 0.01


class Calibration:
    """What onnxruntime's quantiser reads samples from."""

    def __init__(self, case: Case) -> None:
        x = case.calibration().x
        self.batches: Iterator[dict[str, np.ndarray]] = ({case.input: x[i : i + 1]} for i in range(len(x)))

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.batches, None)


def by_peer(case: Case, folder: Path) -> tuple[Path, float]:
    """The QDQ file of `quantize_static` with its recommended preparation, per channel, and its CPU seconds."""
    quantization: Any = pytest.importorskip("onnxruntime.quantization")
    from onnxruntime.quantization.shape_inference import quant_pre_process

    began = time.process_time()
    ready, made = folder / "ready.onnx", folder / "peer.onnx"
    quant_pre_process(os.fspath(case.path()), os.fspath(ready), skip_symbolic_shape=True)
    quantization.quantize_static(os.fspath(ready), os.fspath(made), Calibration(case), per_channel=True)
    return made, time.process_time() - began


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_int8_beside_onnxruntime(name: str, tmp_path: Path) -> None:
    case, samples = CASES[name], evaluation(name)
    made = quantised(name, "onnx", tmp_path)
    ours = judged(made)[0]
    path, seconds = by_peer(case, tmp_path)
    theirs = case.answers(by_onnxruntime(case, path, samples.x)) == case.answers(in_float(name))
    integer, of = runtime.integer_layers(made.path)
    print(f"\n{name}: file {100 * made.file:.1f}%, weights {100 * made.weights:.1f}%; {made.seconds:.1f} CPU s")
    print(f"  {len(made.layers)} layers in integers, {integer} of {of} fused; {ours}")
    print(f"  onnxruntime's quantiser: agreement {share(theirs)}, file "
          f"{100 * path.stat().st_size / made.source_bytes:.1f}%; {seconds:.1f} CPU s")  # fmt: skip
    assert ours.agree.mean() >= theirs.mean() - NOISE
