"""The same input gives the same bytes: with another hash seed, in another folder, and again in one process."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import anyir
import numpy as np
import pytest
from anyir.tests.support.small_models import cnn, save
from onnx import helper, numpy_helper

SUFFIXES = (".onnx", ".anyir", ".py", ".tflite", ".mindir")
ROOT = Path(anyir.__file__).parent

SCRIPT = """
import hashlib, json, sys
from pathlib import Path
import anyir

folder, told = Path(sys.argv[1]), {}
for source in sys.argv[3:]:
    for suffix in sys.argv[2].split(","):
        out = folder / "out"
        out.mkdir()
        try:
            anyir.compile(source, out / ("net" + suffix), verify=False)
            made = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(out.iterdir())}
        except anyir.ir.errors.Unsupported as error:
            made = str(error).replace(source, "SOURCE")
        told[Path(source).name + suffix] = made
        for path in out.iterdir():
            path.unlink()
        out.rmdir()
print(json.dumps(told))
"""


def anonymous(path: Path) -> Path:
    """Dims that the file leaves open and computed ones: symbols without a name of their own."""
    nodes = [
        helper.make_node("Add", ["a", "b"], ["s"], "sum"),
        helper.make_node("NonZero", ["s"], ["where"], "places"),
        helper.make_node("Cast", ["where"], ["f"], "cast", to=1),
        helper.make_node("Concat", ["f", "f", "f"], ["c"], "join", axis=1),
        helper.make_node("ReduceSum", ["c", "one"], ["r"], "total"),
        helper.make_node("Mul", ["s", "s"], ["q"], "square"),
    ]
    one = numpy_helper.from_array(np.array([1], np.int64), "one")
    return save(path, nodes, [one], {"a": ["", "", 3], "b": ["", 5, 3]}, {"r": [3, 1], "q": ["", 5, 3], "c": [3, ""]})


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("sources")
    return [str(cnn(folder / "cnn.onnx")), str(anonymous(folder / "open.onnx")), str(ROOT / "examples/digits.keras")]


def compiled(folder: Path, seed: str, sources: list[str], **variables: str) -> dict[str, object]:
    """Digests of everything that a fresh process writes."""
    environment = {**os.environ, "PYTHONHASHSEED": seed, **variables}
    command = [sys.executable, "-c", SCRIPT, str(folder), ",".join(SUFFIXES), *sources]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_hash_seed_folder_and_locale_do_not_show(tmp_path: Path, sources: list[str]) -> None:
    one, two = tmp_path / "one", tmp_path / "another folder"
    one.mkdir()
    two.mkdir()
    first = compiled(one, "1", sources, TZ="UTC", OMP_NUM_THREADS="1")
    second = compiled(two, "2", [*sources, *sources[1:2]], TZ="Asia/Tokyo", LC_ALL="C", USER="nobody", HOME=str(two))
    assert first == second
    assert all(isinstance(first[f"cnn.onnx{suffix}"], dict) for suffix in SUFFIXES)
    assert isinstance(first["open.onnx.onnx"], dict) and isinstance(first["open.onnx.anyir"], dict)


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".pt2"])
def test_twice_in_one_process(tmp_path: Path, sources: list[str], suffix: str) -> None:
    digests = []
    for turn in ("a", "b"):
        folder = tmp_path / turn
        folder.mkdir()
        for source in sources[:2]:
            try:
                anyir.compile(source, folder / (Path(source).stem + suffix), verify=False)
            except anyir.ir.errors.Unsupported as error:
                digests.append(str(error))
        digests.append([hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())])
    assert digests[: len(digests) // 2] == digests[len(digests) // 2 :]


def test_text_numbers_anonymous_symbols_per_module(sources: list[str]) -> None:
    first, second = anyir.load(sources[1]), anyir.load(sources[1])
    assert str(first) == str(second)
    assert first == second
    assert "f32[_0, " in str(second)
    assert str(second.clone()) == str(second)


def test_no_path_of_this_machine_is_written(tmp_path: Path, sources: list[str]) -> None:
    for suffix in (*SUFFIXES, ".pt2"):
        anyir.compile(sources[0], tmp_path / f"net{suffix}", verify=False)
    for path in tmp_path.iterdir():
        data = path.read_bytes()
        for place in (sources[0], tmp_path, ROOT, Path.home() / ".", sys.prefix):
            assert os.fsencode(place) + b"/" not in data, (path.name, place)
