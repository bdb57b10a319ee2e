"""The examples in README and docs/ do what the text around them says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import anyir
import pytest
from anyir.driver.cli import VERBS, cli
from anyir.ir.storage import LIMITS
from anyir.tests.support.small_models import swish

ROOT = Path(anyir.__file__).parent
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


def blocks(name: str, kind: str) -> list[str]:
    """The fenced blocks of one language in a page."""
    return [body for language, body in BLOCK.findall((ROOT / name).read_text(encoding="utf-8")) if language == kind]


@pytest.fixture
def my_pass(tmp_path: Path) -> str:
    """The pass of docs/passes.md, in a file outside the package."""
    text = blocks("docs/passes.md", "python")[0]
    assert sum(bool(line.strip()) for line in text.splitlines()) <= 10
    (tmp_path / "mypass.py").write_text(text)
    swish(tmp_path / "model.onnx")
    return "mypass.py"


def test_the_ten_line_pass_runs_by_name(irc: Any, my_pass: str) -> None:
    commands = [line.split("#")[0].split() for line in blocks("docs/passes.md", "sh")[0].splitlines()]
    assert [command[:2] for command in commands] == [["irc", "opt"], ["irc", "explain"]]
    done = irc(*commands[0][1:])
    assert done.code == 0
    assert "silu(%x)" in done.out
    assert "IR after my-pass" in done.err
    why = irc(*commands[1][1:])
    assert why.code == 0
    assert why.out.startswith("to_silu: mul(x, sigmoid(x)) -> silu(x)\n  1 matches, 1 near misses\n")
    assert "x is two different values" in why.out and "onnx:scaled" in why.out


def test_a_loaded_pass_is_listed(irc: Any, my_pass: str) -> None:
    listed = irc("passes", "--load", my_pass, "--json").json["passes"]
    mine = next(row for row in listed if row["pass"] == "my-pass")
    assert (mine["from"], mine["numerics"]) == ("mypass", "ulp")


def test_the_graph_pass_has_its_option(irc: Any, tmp_path: Path) -> None:
    (tmp_path / "drop.py").write_text(blocks("docs/passes.md", "python")[1])
    swish(tmp_path / "model.onnx")
    assert irc("opt", "model.onnx", "--load", "drop.py", "--passes", "drop-identity{keep_named=true}").code == 0
    done = irc("opt", "model.onnx", "--load", "drop.py", "--passes", "drop-identity{keep_name=true}")
    assert "did you mean keep_named?" in done.err


def test_commands_in_the_docs_exist() -> None:
    """Every `irc ...` line in a fenced block names a verb and options that it has."""
    for page in ("README.md", "docs/usage.md", "docs/optimise.md", "docs/passes.md", "CONTRIBUTING.md"):
        for body in (b for kind in ("sh", "text", "") for b in blocks(page, kind)):
            for line in re.findall(r"(?:^|\$ |&& \S*/)irc ([^\n#]*)", body, re.MULTILINE):
                verb, *rest = line.split()
                assert verb in VERBS, line
                known = {o for p in cli.get_command(None, verb).params for o in p.opts}  # type: ignore[arg-type, union-attr]
                assert {word for word in rest if word.startswith("--")} <= known, line


def test_options_and_limits_are_documented() -> None:
    text = (ROOT / "docs/usage.md").read_text(encoding="utf-8")
    assert [name for name in LIMITS if f"`{name}`" not in text] == []
    command = cli.get_command(None, "compile")  # type: ignore[arg-type]
    options = {o for p in command.params for o in p.opts if o.startswith("--")}  # type: ignore[union-attr]
    assert sorted(option for option in options if option not in text) == []
