"""8 GB of external weights: loading, -O1 and export keep them out of memory and keep the holes of the file.

Each case runs in a process of its own, which samples its anonymous memory while it works and prints a line of figures.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import anyir
import pytest

ROWS, COLUMNS = 8192, 16384
COUNT = 16
TENSOR_BYTES = ROWS * COLUMNS * 4
ANONYMOUS_LIMIT = 500 << 20
#: A hole takes no blocks; the ends of each tensor hold data.
STORED_LIMIT = 64 << 20

WORK = """
import json, sys, threading, time
source, target = sys.argv[1:3]

peak, done = [0], threading.Event()

def anonymous():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("RssAnon"))

def watch():
    while not done.wait(0.005):
        peak[0] = max(peak[0], anonymous())

threading.Thread(target=watch, daemon=True).start()
seconds = {}

def timed(name, function, *args, **options):
    began = time.process_time()
    made = function(*args, **options)
    seconds[name] = round(time.process_time() - began, 2)
    return made

import anyir
module = timed("load", anyir.load, source)
timed("O1", anyir.optimize, module, 1)
options = {"external_data": True} if target.endswith(".onnx") else {}
timed("export", anyir.save, module, target, **options)
done.set()
print(json.dumps({"anonymous": peak[0], "seconds": seconds, "weights": sum(w.nbytes for w in module.weights)}))
"""


def big_module(folder: Path) -> Path:
    """IR text with a weight file of 8 GB, nearly all of it holes."""
    from anyir.ir.builder import Builder
    from anyir.ir.dims import sym
    from anyir.ir.graph import Module
    from anyir.ir.storage import map_file
    from anyir.ir.tensor import MappedTensor
    from anyir.ir.textfile import write_text
    from anyir.ir.types import F32, TensorType

    raw = folder / "raw.bin"
    with raw.open("wb") as file:
        file.truncate(COUNT * TENSOR_BYTES)
        for number in range(COUNT):
            for place in (number * TENSOR_BYTES, (number + 1) * TENSOR_BYTES - 4096):
                file.seek(place)
                file.write(bytes([number + 1]) * 4096)
    module = Module("big")
    graph = module.add_graph("main")
    mapped = map_file(raw)
    module.files.append(mapped)
    x = graph.add_input(TensorType(F32, (sym("N"), ROWS)), "x")
    b = Builder(graph)
    for number in range(COUNT):
        shape = (ROWS, COLUMNS) if number % 2 == 0 else (COLUMNS, ROWS)
        tensor = MappedTensor(mapped, number * TENSOR_BYTES, TENSOR_BYTES, F32, shape)
        x = b.relu(b.matmul(x, b.const(tensor, key=f"layer{number}.weight", role="param")))
    graph.set_outputs([x])
    module.add_signature("serving_default", graph, ["x"], ["y"])
    write_text(module, folder / "big.anyir")
    return folder / "big.anyir"


def stored_bytes(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.iterdir())


def work(source: Path, target: Path, capsys: pytest.CaptureFixture) -> None:
    target.parent.mkdir()
    command = [sys.executable, "-c", WORK, str(source), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(anyir.__file__).parent.parent, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    figures = json.loads(done.stdout.splitlines()[-1])
    apparent = sum(path.stat().st_size for path in target.parent.iterdir())
    stored = stored_bytes(target.parent)
    with capsys.disabled():
        shown = ", ".join(f"{name} {seconds} s" for name, seconds in figures["seconds"].items())
        print(
            f"\n{source.suffix} -> {target.suffix}: {shown}; {figures['anonymous'] >> 20} MB anonymous at most; "
            f"{apparent >> 20} MB written, {stored >> 20} MB stored"
        )
    assert figures["weights"] == COUNT * TENSOR_BYTES
    assert figures["anonymous"] < ANONYMOUS_LIMIT
    assert apparent > COUNT * TENSOR_BYTES and stored < STORED_LIMIT


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="anonymous memory is read from /proc")
def test_eight_gigabytes(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "source").mkdir()
    text = big_module(tmp_path / "source")
    if stored_bytes(tmp_path / "source") > 2 * STORED_LIMIT:
        pytest.skip("this file system knows no holes")
    work(text, tmp_path / "text" / "big.anyir", capsys)
    work(text, tmp_path / "onnx" / "big.onnx", capsys)
    work(tmp_path / "onnx" / "big.onnx", tmp_path / "again" / "big.onnx", capsys)
    first, second = ((tmp_path / name / "big.onnx").read_bytes() for name in ("onnx", "again"))
    assert len(first) == len(second)
