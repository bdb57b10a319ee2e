"""`irc` in this process: exit code, stdout and stderr of one command line, in a folder of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from anyir.driver.cli import run
from anyir.tests.support.small_models import cnn


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Irc = Callable[..., Result]


@pytest.fixture
def irc(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Irc:
    for name in ("NO_COLOR", "FORCE_COLOR", "CI", "IRC_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Result:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        return Result(code, *capsys.readouterr())

    return call


@pytest.fixture
def net(tmp_path: Path) -> str:
    """A small CNN in the current folder."""
    return cnn(tmp_path / "net.onnx").name


def settled(text: str) -> str:
    """A screen without what differs between two runs or machines: seconds, memory, versions, last digits of errors."""
    text = re.sub(r"\d+\.\d+ s \([^)]*\), peak memory .*", "SECONDS, peak memory SIZE", text)
    text = re.sub(r"\d\.\d+e[+-]\d\d", "#.#e-##", text)
    return re.sub(r"(onnxruntime) \d+\.\d+\.\d+", r"\1 #.##.#", text)


def broken_pass(folder: Path) -> str:
    """A file with the pass `drop-relu`, which changes the numbers."""
    (folder / "broken.py").write_text(
        "from anyir.passes import graph_pass\n\n\n"
        '@graph_pass("drop-relu")\n'
        "def drop_relu(graph, ctx):\n"
        '    """relu(x) -> x, which is wrong."""\n'
        '    for node in graph.nodes("relu"):\n'
        "        node.replace(node.operands[0])\n",
        encoding="utf-8",
    )
    return "broken.py"
