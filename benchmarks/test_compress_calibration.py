"""Calibration of EfficientNet-Lite0: CPU seconds for 200 images with each observer, and memory from 10 to 1,000 samples.

    pytest benchmarks/test_compress_calibration.py -m slow -s     the figures

Each case runs in a process of its own, on one core, and observes every float value of the network.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from anyir.tests.support import datasets, trained

IMAGES, MOST_SECONDS = 200, 60.0
FEW, MANY, MOST_GROWTH = 10, 1000, 1.10

WORK = """
import json, sys, threading, time
model, source, kind, count = sys.argv[1:5]

import anyir
import numpy as np
from anyir.compress.calibrate import observe
from anyir.compress.data import open_data
from anyir.compress.observers import OBSERVERS

peak, done = [0], threading.Event()

def anonymous():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("RssAnon"))

def watch():
    while not done.wait(0.005):
        peak[0] = max(peak[0], anonymous())

def noise():
    rng = np.random.default_rng(0)
    return (rng.standard_normal((3, 224, 224)).astype(np.float32) for _ in range(int(count)))

module = anyir.optimize(anyir.load(model)) or module
data = open_data(noise if source == "noise" else source, module)
graph = module.signature.graph
values = [*graph.inputs, *(v for node in graph.nodes() for v in node.results if v.dtype and v.dtype.is_float)]
threading.Thread(target=watch, daemon=True).start()
began = time.process_time()
seen = observe(module, values, data, lambda value: OBSERVERS[kind]())
passed = time.process_time()
ranges = [seen[value].range(-128, 127) for value in values]
done.set()
seconds = {"pass": round(passed - began, 1), "ranges": round(time.process_time() - passed, 1)}
print(json.dumps({"values": len(values), "seconds": seconds, "anonymous": peak[0], "samples": data.count}))
"""


def figures(source: str, kind: str, count: int) -> dict[str, Any]:
    one_core = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    command = [sys.executable, "-c", WORK, str(trained.efficientnet_lite0()), source, kind, str(count)]
    done = subprocess.run(command, env=one_core, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("crops") / "crops.npz"
    np.savez(path, image=datasets.imagenet_crops(0)[:IMAGES])
    return path


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["minmax", "percentile", "entropy", "mse"])
def test_200_images_take_less_than_a_minute(kind: str, crops: Path) -> None:
    found = figures(str(crops), kind, IMAGES)
    seconds = found["seconds"]
    print(f"\n{kind}: {found['values']} values, {found['samples']} images, CPU seconds {seconds}; "
          f"{found['anonymous'] >> 20} MB anonymous at most")  # fmt: skip
    assert found["samples"] == IMAGES
    assert sum(seconds.values()) < MOST_SECONDS


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="anonymous memory is read from /proc")
def test_memory_does_not_grow_with_samples() -> None:
    few, many = (figures("noise", "percentile", count) for count in (FEW, MANY))
    print(f"\nanonymous memory at most: {few['anonymous'] >> 20} MB for {FEW}, {many['anonymous'] >> 20} MB for {MANY}")
    assert (few["samples"], many["samples"]) == (FEW, MANY)
    assert many["anonymous"] < MOST_GROWTH * few["anonymous"]
