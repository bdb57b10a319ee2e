"""The backend suite at every opset that is written: the file is valid, or the refusal names an opset that works; and what
is written does not depend on how often or in which process it is written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import anyir
import onnx
import pytest
from anyir.backends import onnx as backend
from anyir.backends.onnx.legalization import OLDEST, newest_opset
from anyir.frontends import onnx as frontend
from anyir.ir.errors import Unsupported
from anyir.ir.graph import Module
from anyir.tests.support import onnx_suite as suite

GROUPS = 16
#: Every n-th case of a group, unless slow tests are asked for.
EVERY = 12


def _valid(proto: onnx.ModelProto, source: onnx.ModelProto) -> bool:
    """The checker takes it, or does not even take what it was made from."""
    try:
        onnx.checker.check_model(proto, full_check=True)
    except Exception:
        try:
            onnx.checker.check_model(source, full_check=True)
        except Exception:
            return True
        return False
    return True


def _bytes(module: Module) -> bytes:
    return backend.to_model_proto(module).SerializeToString(deterministic=True)


@pytest.mark.parametrize("group", range(GROUPS))
def test_write_read_write_is_byte_identical_and_valid(group: int) -> None:
    changed = []
    for case in suite.sampled(GROUPS, group):
        first = _bytes(frontend.read(case.load()))
        if first != _bytes(frontend.read(first)) or not _valid(onnx.load_from_string(first), case.load()):
            changed.append(case.name)
    assert not changed


def _at_all_opsets(case: suite.Case) -> list[str]:
    """What is wrong with a case at any opset: an invalid file, or a refusal that does not name the lowest one that works."""
    module, found = frontend.read(case.load()), []
    works: dict[int, bool] = {}
    named: dict[int, int] = {}
    for opset in range(OLDEST, newest_opset() + 1):
        try:
            made = backend.to_model_proto(module, opset=opset)
        except Unsupported as refusal:
            works[opset] = False
            hint = re.fullmatch(r"--opset (\d+) works", refusal.hint)
            named[opset] = int(hint[1]) if hint else 0
            continue
        works[opset] = True
        version = next(o.version for o in made.opset_import if o.domain == "")
        if version != opset or not _valid(made, case.load()):
            found.append(f"{case.name} at {opset}: not a valid file of that opset")
    for opset, hint in named.items():
        lowest = next((o for o in range(opset, newest_opset() + 1) if works[o]), 0)
        if hint != lowest:
            found.append(f"{case.name} at {opset}: the refusal names {hint}, {lowest} is the lowest that works")
    return found


@pytest.mark.parametrize("group", range(GROUPS))
def test_every_opset_is_written_or_refused_with_one_that_works(group: int) -> None:
    assert not [text for case in suite.sampled(GROUPS * EVERY, group) for text in _at_all_opsets(case)]


@pytest.mark.slow
@pytest.mark.parametrize("group", range(GROUPS))
def test_every_opset_with_every_case(group: int) -> None:
    assert not [text for case in suite.sampled(GROUPS, group) for text in _at_all_opsets(case)]


DIGESTS = """
import hashlib, sys
from anyir.backends import onnx as backend
from anyir.frontends import onnx as frontend
from anyir.passes.manager import run_pipeline
from anyir.passes.presets import preset
for path in sys.argv[1:]:
    module = frontend.read(path)
    run_pipeline(module, preset(2))
    print(hashlib.sha256(backend.to_model_proto(module).SerializeToString(deterministic=True)).hexdigest())
"""


def test_two_processes_write_the_same(tmp_path: Path) -> None:
    """Whatever the seed of Python's hashes."""
    paths = []
    for case in suite.sampled(23, 4):
        paths.append(str(tmp_path / f"{case.name}.onnx"))
        Path(paths[-1]).write_bytes(case.load().SerializeToString())
    runs = []
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", DIGESTS, *paths],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=Path(anyir.__file__).parent.parent,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        runs.append(done.stdout.split())
    assert len(runs[0]) == len(paths)
    assert runs[0] == runs[1]
    assert len(set(runs[0])) > len(paths) // 2
