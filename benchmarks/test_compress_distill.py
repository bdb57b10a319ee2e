"""What distillation costs: its loop against a plain torch loop over the same steps, and the memory of a run.

    pytest benchmarks/test_compress_distill.py -m slow -s     the figures

Both loops run on one core and are measured in CPU seconds of the process, the best of several runs in turns.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import anyir
import numpy as np
import pytest
from anyir.compress.distill import KD, distill
from anyir.compress.distill.losses import kd
from anyir.tests.support import trained
from anyir.tests.support.datasets import mnist5k

torch = pytest.importorskip("torch")

#: Our loop's time over that of the plain one may be at most this.
MOST_TIMES = 2.0
EPOCHS, BATCH, ROUNDS = 3, 64, 3
#: Peak memory of the whole process after a run on MNIST-5k, torch and the data among it.
MOST_BYTES = 1 << 30


def plain(teacher, student, x) -> None:
    """What anybody would write: shuffled batches, KD, Adam."""
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-3, foreach=False)
    for epoch in range(EPOCHS):
        for rows in torch.randperm(len(x), generator=torch.Generator().manual_seed(epoch)).split(BATCH):
            optimizer.zero_grad()
            with torch.no_grad():
                theirs = teacher(x[rows])
            kd(student(x[rows]), theirs, KD()).backward()
            optimizer.step()


def seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_the_loop_costs_little_more_than_a_plain_one(name: str) -> None:
    count = 4000 if name == "mlp" else 512
    torch.set_num_threads(1)
    x = trained.mnist_images(name, mnist5k().x)[:count]
    module, live = anyir.load(str(trained.mnist(name, "torch"))), trained.mnist_module(name)
    ours, theirs = [], []
    for _ in range(ROUNDS):
        ours.append(seconds(lambda: distill(module, module, x, losses="kd", epochs=EPOCHS, batch=BATCH)))
        student = trained.mnist_module(name).train()
        theirs.append(seconds(lambda s=student: plain(live, s, torch.from_numpy(x))))
    print(f"{name}: {min(ours):.2f} s, a plain loop {min(theirs):.2f} s, ratio {min(ours) / min(theirs):.2f}")
    assert min(ours) <= MOST_TIMES * min(theirs)


@pytest.mark.slow
def test_memory(tmp_path: Path) -> None:
    data = tmp_path / "mnist.npz"
    np.savez(data, image=mnist5k().x, labels=mnist5k().y)
    code = (
        "import re, sys, anyir\n"
        "from anyir.compress.distill import distill\n"
        "module = anyir.load(sys.argv[1])\n"
        "distill(module, module, sys.argv[2], epochs=1)\n"
        "print(int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) * 1024)\n"
    )
    command = [sys.executable, "-c", code, str(trained.mnist("mlp", "torch")), str(data)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    peak = int(done.stdout.split()[-1])
    print(f"peak {peak / 1e6:.0f} MB")
    assert peak < MOST_BYTES
