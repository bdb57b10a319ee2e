"""`irc passes new`: what it writes runs as it is, passes its own test, and is clean."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from anyir.tests.support.small_models import swish


def test_what_is_written_runs_and_passes_its_own_test(irc: Any, tmp_path: Path) -> None:
    done = irc("passes", "new", "fuse-mine", "--json")
    assert done.json["files"] == ["fuse_mine.py", "test_fuse_mine.py"]
    swish(tmp_path / "model.onnx")
    ran = irc("opt", "model.onnx", "--load", "fuse_mine.py", "--passes", "fuse-mine", "--check-numerics")
    assert ran.code == 0 and "silu(%x)" in ran.out
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_fuse_mine.py"]
    tested = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ""})
    assert tested.returncode == 0 and "2 passed" in tested.stdout, tested.stdout


@pytest.mark.parametrize(("name", "message"), [
    ("Fuse", "no name of a pass"),
    ("../x", "no name of a pass"),
    ("fold", "there is a pass 'fold' already"),
    ("", "one name of a pass is wanted"),
])  # fmt: skip
def test_names_that_cannot_be(irc: Any, tmp_path: Path, name: str, message: str) -> None:
    done = irc("passes", "new", name)
    assert done.code == 2 and message in done.err and not list(tmp_path.iterdir())


def test_files_are_never_replaced(irc: Any, tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text("mine")
    done = irc("passes", "new", "mine")
    assert done.code == 2 and "such a file already" in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["test_mine.py"]
    assert irc("passes", "fold", "cse").code == 2
