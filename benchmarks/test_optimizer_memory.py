"""The optimiser on gigabytes of weights in external data: memory and CPU seconds at -O1 and -O2, beside onnx_ir's plain
load and save of the same model.

    pytest benchmarks/test_optimizer_memory.py -m slow -s

The weights are random numbers, so nothing is saved by holes or equal bytes; those of the 8 GB model overlap in their file,
which is a quarter as long, so that source and result fit onto a small disk. Each run is a process of its own, which has
done the same to a small model before (so that all modules are loaded), and samples its anonymous memory: pages of mapped files
do not count, they are the system's to drop.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyir
import numpy as np
import pytest

SIDE, SMALL_SIDE = 4096, 64
TENSOR_BYTES = SIDE * SIDE * 4
ROUNDS = 3
#: Anonymous memory above start-up and the largest tensor, CPU seconds over onnx_ir's, bytes of weights per CPU second.
ANONYMOUS, OVER_PLAIN, RATE = 200 << 20, 1.5, 1e9

WATCH = """
import json, sys, threading, time
def anonymous():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("RssAnon"))
parts = {{}}
def lap(name, since):
    parts[name] = round(time.process_time() - since, 2)
    return time.process_time()
{work}
small, source, target, level = sys.argv[1:5]
work(small, small + ".out.onnx", int(level))
start, peak, done = anonymous(), [0], threading.Event()
def watch():
    while not done.wait(0.005):
        peak[0] = max(peak[0], anonymous())
threading.Thread(target=watch, daemon=True).start()
began = time.process_time()
work(source, target, int(level))
done.set()
print(json.dumps({{"seconds": time.process_time() - began, "anonymous": peak[0] - start, "parts": parts}}))
"""
OURS = WATCH.format(
    work="""
import anyir
def work(source, target, level):
    at = time.process_time()
    module = anyir.load(source); at = lap("load", at)
    anyir.optimize(module, level); at = lap("optimize", at)
    anyir.save(module, target, external_data=True); lap("save", at)
"""
)
PLAIN = WATCH.format(
    work="""
import onnx_ir
def work(source, target, level):
    onnx_ir.save(onnx_ir.load(source), target, external_data="plain.data")
"""
)


def large_onnx(folder: Path, tensors: int, stored: int, side: int = SIDE) -> Path:
    """Blocks of four products of one input and two behind each other, with nodes to remove; `tensors` square matrices.
    `stored` of them lie side by side, the next ones in the same bytes one row further, and so on: no two are equal."""
    from onnx import TensorProto, helper

    folder.mkdir()
    rng, nodes, weights = np.random.default_rng(0), [], []
    with (folder / "large.data").open("wb") as file:
        for rows in [side] * stored + [tensors // stored]:
            file.write(rng.random(rows * side, dtype=np.float32).data)
    for number in range(tensors):
        lap, place = divmod(number, stored)
        proto = TensorProto(name=f"w{number}", data_type=1, dims=[side, side], data_location=TensorProto.EXTERNAL)
        offset, length = 4 * side * (place * side + lap), 4 * side * side
        for key, value in (("location", "large.data"), ("offset", offset), ("length", length)):
            proto.external_data.add(key=key, value=str(value))
        weights.append(proto)

    def op(kind: str, *inputs: str, **attrs: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [f"v{len(nodes)}"], **attrs))
        return str(nodes[-1].output[0])

    x = "x"
    for number in range(0, tensors - 3, 4):
        q, k, v = (op("MatMul", x, f"w{number + i}") for i in range(3))
        y = op("Identity", op("Relu", op("Add", op("Mul", q, k), v)))
        x = op("Add", x, op("MatMul", op("Neg", op("Neg", y)), f"w{number + 3}"))
    info = helper.make_tensor_value_info
    ends = [info(name, TensorProto.FLOAT, ["N", side]) for name in ("x", x)]
    graph = helper.make_graph(nodes, "large", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    (folder / "large.onnx").write_bytes(model.SerializeToString())
    return folder / "large.onnx"


def child(code: str, small: Path, source: Path, target: Path, level: int) -> dict[str, Any]:
    target.mkdir()
    command = [sys.executable, "-c", code, str(small), str(source), str(target / "out.onnx"), str(level)]
    cache = str(source.parent / "pyc")  # compiled modules are kept, as they are where the package is installed
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": cache}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=Path(anyir.__file__).parent.parent, check=False, env=env
    )
    assert done.returncode == 0, done.stderr[-3000:]
    written = sum(path.stat().st_size for path in target.iterdir())
    shutil.rmtree(target)
    return {**json.loads(done.stdout.splitlines()[-1]), "written": written}


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="anonymous memory is read from /proc")
@pytest.mark.parametrize(("tensors", "stored"), [(40, 40), (128, 32)], ids=["2.5GB", "8GB"])
def test_large_weights(tensors: int, stored: int, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("onnx_ir")
    weights = tensors * TENSOR_BYTES
    needed = (tensors + stored) * TENSOR_BYTES + (1 << 30)
    if shutil.disk_usage(tmp_path).free < needed:
        pytest.skip(f"needs {needed >> 30} GB on the disk")
    small = large_onnx(tmp_path / "small", 4, 4, SMALL_SIDE)
    source = large_onnx(tmp_path / "large", tensors, stored)
    runs = {"onnx_ir": (PLAIN, 0), "-O1": (OURS, 1), "-O2": (OURS, 2)}
    found: dict[str, dict[str, Any]] = {}
    for _ in range(ROUNDS):  # in turn, so that a busy machine slows all alike; the fastest counts
        for name, (code, level) in runs.items():
            made = child(code, small, source, tmp_path / name, level)
            found[name] = min(found.get(name, made), made, key=lambda row: row["seconds"])
    with capsys.disabled():
        for name, row in found.items():
            print(
                f"\n{weights / 1e9:.1f} GB {name:8}{row['seconds']:7.2f} CPU s {row['parts']}, "
                f"{row['anonymous'] >> 20} MB anonymous above start-up, {row['written'] / weights:.3f} of the size",
                end="",
            )
    for level in ("-O1", "-O2"):
        assert found[level]["anonymous"] <= ANONYMOUS + TENSOR_BYTES
        assert found[level]["written"] <= 1.001 * weights + (1 << 20)
    assert found["-O1"]["seconds"] <= OVER_PLAIN * found["onnx_ir"]["seconds"]
    assert weights / found["-O2"]["seconds"] >= RATE


def large_lstm(folder: Path, units: int) -> Path:
    """One LSTM as wide as its input, a unit of which stays zero."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    folder.mkdir()
    rng = np.random.default_rng(0)
    w, r = (rng.standard_normal((1, 4 * units, units), dtype=np.float32) for _ in range(2))
    b, p = rng.standard_normal((1, 8 * units), dtype=np.float32), rng.standard_normal((units, 64), dtype=np.float32)
    writer = 3 * units + units // 2
    w[0, writer] = r[0, writer] = b[0, writer] = b[0, writer + 4 * units] = 0
    weights = [numpy_helper.from_array(array, name) for array, name in ((w, "w"), (r, "r"), (b, "b"), (p, "p"))]
    nodes = [
        helper.make_node("LSTM", ["x", "w", "r", "b"], ["", "h"], hidden_size=units),
        helper.make_node("MatMul", ["h", "p"], ["y"]),
    ]
    info = helper.make_tensor_value_info
    ends = [info("x", TensorProto.FLOAT, ["T", 1, units])], [info("y", TensorProto.FLOAT, [1, 1, 64])]
    graph = helper.make_graph(nodes, "large", *ends, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, folder / "large.onnx", save_as_external_data=True, location="large.data")
    return folder / "large.onnx"


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="anonymous memory is read from /proc")
def test_dead_unit_of_a_large_recurrence(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The unit is found and cut out of both matrices, which never stand in memory as a whole."""
    units = 4400
    weights = 8 * units * units * 4
    small, source = large_lstm(tmp_path / "small", 64), large_lstm(tmp_path / "large", units)
    runs = [child(OURS, small, source, tmp_path / "out", 2) for _ in range(ROUNDS)]
    best = min(runs, key=lambda row: row["seconds"])
    with capsys.disabled():
        print(
            f"\n{weights / 1e9:.1f} GB {best['seconds']:.2f} CPU s {best['parts']}, {best['anonymous'] >> 20} MB anonymous"
        )
    assert best["written"] < source.with_suffix(".data").stat().st_size
    assert best["anonymous"] <= ANONYMOUS
    assert weights / best["seconds"] >= RATE
