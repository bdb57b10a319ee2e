"""8 GB and 100 GB of external weights: loading, -O1 and export keep them out of memory and keep the holes of the file.

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

#: The ONNX model of 100 GB: 25 square matrices of 4 GB in two files.
SIDE, LAYERS, FILES = 32768, 25, 2
LAYER_BYTES = SIDE * SIDE * 4
PIECE = 512 << 10

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


def big_onnx(folder: Path) -> Path:
    """An ONNX model of 100 GB whose external data are holes but for the first and last bytes of each matrix."""
    from onnx import TensorProto, helper

    nodes, weights, at = [], [], dict.fromkeys(range(FILES), 0)
    for number in range(LAYERS):
        name = f"layer{number}.weight"
        offset = at[number % FILES]
        at[number % FILES] += LAYER_BYTES
        proto = TensorProto(
            name=name, data_type=TensorProto.FLOAT, dims=[SIDE, SIDE], data_location=TensorProto.EXTERNAL
        )
        location = f"data{number % FILES}.bin"
        for key, value in (("location", location), ("offset", str(offset)), ("length", str(LAYER_BYTES))):
            proto.external_data.add(key=key, value=value)
        weights.append(proto)
        nodes.append(helper.make_node("MatMul", [f"x{number}", name], [f"y{number}"]))
        nodes.append(helper.make_node("Relu", [f"y{number}"], [f"x{number + 1}"]))
        with (folder / location).open("r+b" if number >= FILES else "w+b") as file:
            file.truncate(offset + LAYER_BYTES)
            for place in (offset, offset + LAYER_BYTES - PIECE):
                file.seek(place)
                file.write(bytes([number + 1]) * PIECE)
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "big",
        [info("x0", TensorProto.FLOAT, ["N", SIDE])],
        [info(f"x{LAYERS}", TensorProto.FLOAT, ["N", SIDE])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    (folder / "huge.onnx").write_bytes(model.SerializeToString())
    return folder / "huge.onnx"


def check_pieces(folder: Path) -> None:
    """Every matrix of the written model begins and ends with its own bytes."""
    import onnx

    model = onnx.load(folder / "huge.onnx", load_external_data=False)
    assert len(model.graph.initializer) == LAYERS
    for number, proto in enumerate(model.graph.initializer):
        entries = {entry.key: entry.value for entry in proto.external_data}
        with (folder / entries["location"]).open("rb") as file:
            for place in (0, LAYER_BYTES - PIECE):
                file.seek(int(entries["offset"]) + place)
                assert file.read(PIECE) == bytes([number + 1]) * PIECE


def work(source: Path, target: Path, capsys: pytest.CaptureFixture, weights: int = COUNT * TENSOR_BYTES) -> None:
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
    assert figures["weights"] == weights
    assert figures["anonymous"] < ANONYMOUS_LIMIT
    assert apparent > weights and stored < STORED_LIMIT


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


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="anonymous memory is read from /proc")
def test_a_hundred_gigabytes(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "source").mkdir()
    model = big_onnx(tmp_path / "source")
    if stored_bytes(tmp_path / "source") > STORED_LIMIT:
        pytest.skip("this file system knows no holes")
    work(model, tmp_path / "made" / "huge.onnx", capsys, LAYERS * LAYER_BYTES)
    work(tmp_path / "made" / "huge.onnx", tmp_path / "again" / "huge.onnx", capsys, LAYERS * LAYER_BYTES)
    made, again = (tmp_path / name for name in ("made", "again"))
    check_pieces(made)
    assert (made / "huge.onnx").read_bytes() == (again / "huge.onnx").read_bytes()
    assert [path.stat().st_size for path in sorted(made.iterdir())] == [
        path.stat().st_size for path in sorted(again.iterdir())
    ]
