"""What pruning gains and costs: latency in onnxruntime and LiteRT at half of the MACs, agreement and cost of pruning with
recovery.

Run with: pytest benchmarks/test_compress_pruning.py -m slow -s. One thread, the two files in turn, medians; quiet machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import anyir
import numpy as np
import pytest
from anyir.compress.data import open_data
from anyir.ir.cost import macs
from anyir.ir.graph import Module
from anyir.passes.manager import Context, run_pipeline
from anyir.tests.support import datasets, trained

ROUNDS = 15

pytestmark = pytest.mark.slow


def in_onnxruntime(path: Path, image: np.ndarray) -> Callable[[], object]:
    ort = pytest.importorskip("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options)
    return lambda: session.run(None, {"image": image})


def in_litert(path: Path, image: np.ndarray) -> Callable[[], object]:
    litert = pytest.importorskip("ai_edge_litert.interpreter")
    interpreter = litert.Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
    return interpreter.invoke


def medians(*runs: Callable[[], object]) -> list[float]:
    """Seconds of each, in turn so that all see the same weather."""
    for run in runs:
        run()
    taken = np.empty((ROUNDS, len(runs)))
    for row in taken:
        for i, run in enumerate(runs):
            start = time.perf_counter()
            run()
            row[i] = time.perf_counter() - start
    return [float(v) for v in np.median(taken, axis=0)]


def total_macs(module: Module) -> int:
    return sum(macs(node, {}) or 0 for node in module.all_nodes())


@pytest.mark.parametrize("suffix", [".onnx", ".tflite"])
@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet50_shaped"])
def test_speed_at_half_of_the_macs(name: str, suffix: str, tmp_path: Path) -> None:
    """Channels in multiples of 16, the blocks in which the runtimes' kernels work; weights do not matter for speed."""
    dense = anyir.optimize(anyir.load(str(getattr(trained, name)()), shapes={"image": (1, 3, 224, 224)}))
    small = dense.clone()
    run_pipeline(small, "prune{macs=0.5,multiple=16,recover=false}", Context())
    image = np.ascontiguousarray(datasets.imagenet_crops(0)[:1])
    files = [tmp_path / f"{kind}{suffix}" for kind in ("dense", "small")]
    for module, file in zip((dense, small), files, strict=True):
        anyir.save(module, file)
    runner = {".onnx": in_onnxruntime, ".tflite": in_litert}[suffix]
    before, after = medians(*(runner(file, image) for file in files))
    ratio = total_macs(dense) / total_macs(small)
    print(
        f"\n{name}{suffix}: MACs / {ratio:.2f}, {1e3 * before:.1f} -> {1e3 * after:.1f} ms, "
        f"{before / after:.2f} times faster, {before / after / ratio:.2f} of the ratio"
    )


@pytest.mark.parametrize("fold", [0, 1])
def test_agreement_and_cost_at_four_fifths_of_the_macs(fold: int, tmp_path: Path) -> None:
    """EfficientNet-Lite0 with recovery from 200 crops of ten photos, judged on 250 of the other ten."""
    dense = anyir.optimize(anyir.load(str(trained.efficientnet_lite0())))
    small = dense.clone()
    crops = datasets.imagenet_crops(fold)
    data = open_data({"image": crops[np.arange(len(crops)) % 5 != 0]}, dense)
    start = time.process_time()
    ctx = run_pipeline(small, "prune{macs=0.8,ranking=global,importance=obs,augment=true}", Context(data=data))
    spent = time.process_time() - start
    peak = next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
    answers = []
    for kind, module in (("dense", dense), ("small", small)):
        anyir.save(module, tmp_path / f"{kind}.onnx")
        unseen = datasets.imagenet_crops(1 - fold)
        (logits,) = in_onnxruntime(tmp_path / f"{kind}.onnx", unseen)()  # type: ignore[misc]
        answers.append(logits.argmax(axis=1))
    print(
        f"\nfold {fold}: agreement {np.mean(answers[0] == answers[1]):.3f} {ctx.notes[0]}; "
        f"{spent:.1f} CPU s, peak {int(peak) >> 10} MiB"
    )
