"""The frame around all verbs: help, usage errors, exit codes, what gets imported, and the shape of messages."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from anyir.driver import cli
from anyir.ir.errors import LimitExceeded, MissingPackage, NumericsError, SystemFailure

HEAVY = [
    "numpy",
    "torch",
    "tensorflow",
    "keras",
    "onnxruntime",
    "onnx",
    "numba",
    "networkx",
    "pandas",
    "matplotlib",
    "pydantic",
    "rich",
    "h5py",
    "scipy",
]
SHAPE = re.compile(r"irc: error\[[A-Z]\d{3}\]: .+\n\Z", re.DOTALL)


def heavy_after(code: str) -> list[str]:
    """The heavy packages that a fresh interpreter has loaded after `code`."""
    probe = f"import sys\n{code}\nprint(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1].split()


def test_help_and_import_load_nothing_heavier_than_click() -> None:
    assert heavy_after("import anyir") == []
    assert heavy_after("from anyir.driver.cli import run; run(['--help'])") == []
    assert heavy_after("from anyir.driver.cli import run; run(['--version'])") == []


@pytest.mark.parametrize("verb", list(cli.VERBS))
def test_every_verb_has_help(irc: Any, verb: str) -> None:
    done = irc(verb, "--help")
    assert done.code == 0
    assert done.out.startswith(f"Usage: irc {verb}")
    assert {"--json", "-q, --quiet", "-v, --verbose"} <= set(re.findall(r"--json|-q, --quiet|-v, --verbose", done.out))


def test_help_of_verbs_loads_no_model_code() -> None:
    code = "from anyir.driver.cli import run, VERBS\nfor verb in VERBS: run([verb, '--help'])"
    assert heavy_after(code) == []


def test_no_arguments_show_help_and_are_an_error(irc: Any) -> None:
    done = irc()
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("Usage: irc")


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["compil"], "did you mean compile?"),
        (["compile", "a.onnx", "-o", "b.onnx", "--optset", "17"], "--opset"),
        (["compile", "a.onnx", "-o", "b.tflit"], "did you mean .tflite?"),
        (["compile", "a.onx", "-o", "b.tflite"], "did you mean .onnx?"),
        (["compile", "a.onnx", "-o", "b.onnx", "--to", "tflit"], "did you mean tflite?"),
        (["compile", "a.onnx", "-o", "b.onnx", "--passes", "canonicalise"], "did you mean canonicalize?"),
        (["compile", "a.onnx", "-o", "b.onnx", "--passes", "fold{max_byte=1}"], "did you mean max_bytes?"),
        (["compile", "a.onnx", "-o", "b.onnx", "--stop-after", "folds"], "did you mean fold?"),
        (["compile", "a.onnx", "-o", "b.onnx", "--print-ir-after", "chnged"], "did you mean changed?"),
        (["compile", "a.onnx", "-o", "b.onnx", "--limit", "nestin=3"], "did you mean nesting?"),
        (["compile", "a.onnx", "-o", "b.onnx", "--limit", "nesting=x"], "--limit nesting=64"),
        (["passes", "canonicalise"], "did you mean canonicalize?"),
        (["passes", "--level", "O9"], "O0 to O3"),
        (["ops", "--to", "mindr"], "did you mean mindir?"),
        (["explain", "F0002"], "did you mean F002?"),
        (["compile", "a.onnx", "-o", "b.onnx", "-O", "7"], "see irc compile --help"),
        (["compile", "a.onnx"], "Missing option '-o'"),
        (["compile", "a.onnx", "-o", "b.onnx", "--load", "nothere.py"], "there is no such file"),
    ],
)
def test_usage_errors_name_the_near_match(irc: Any, arguments: list[str], hint: str, tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"")
    done = irc(*arguments)
    assert done.code == 2
    assert SHAPE.match(done.err), done.err
    assert hint in done.err
    assert done.out == ""
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.onnx"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NumericsError("off"), 1),
        (LimitExceeded("too deep"), 3),
        (SystemFailure("disk full"), 4),
        (OSError(28, "No space left on device"), 4),
        (MemoryError(), 4),
        (MissingPackage("needs torch"), 5),
        (KeyError("a bug"), 70),
        (RecursionError("a bug"), 70),
    ],
)
def test_errors_have_their_exit_codes(
    irc: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception, code: int
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("anyir.passes.manager.all_pass_names", fail)
    done = irc("passes")
    assert done.code == code
    assert SHAPE.match(done.err), done.err
    assert "Traceback" not in done.err
    if code == 70:
        report = next(tmp_path.glob("irc-crash-*/report.txt")).read_text()
        assert "Traceback" in report and "irc passes" in report
        assert str(tmp_path) in done.err


def test_debug_shows_the_traceback(irc: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IRC_DEBUG", "1")
    assert "Traceback" in irc("passes", "nothing").err


def test_messages_are_short_and_harmless(irc: Any) -> None:
    name = "x\x1b[31m\u202e\n" + "\U0001f600" * 9000
    done = irc("passes", name)
    assert done.code == 2
    assert "\x1b" not in done.err and "\u202e" not in done.err
    assert r"\x1b[31m" in done.err
    assert len(done.err.encode()) <= 8192


@pytest.mark.parametrize(
    ("variables", "plain"),
    [({}, False), ({"NO_COLOR": "1"}, True), ({"CI": "true"}, True), ({"TERM": "dumb"}, True)],
    ids=["terminal", "NO_COLOR", "CI", "dumb"],
)
def test_a_terminal_gets_colour_unless_asked_not_to(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], plain: bool
) -> None:
    from anyir.driver.screen import is_plain

    class Terminal:
        def isatty(self) -> bool:
            return True

    for name in ("NO_COLOR", "FORCE_COLOR", "CI", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert is_plain(Terminal()) is plain  # type: ignore[arg-type]
    with open("/dev/null", "w") as file:
        assert is_plain(file)


def test_rich_draws_where_colour_is_forced(irc: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    done = irc("passes", "--level", "O1")
    assert done.code == 0
    assert "\x1b[" in done.out or "─" in done.out


def test_tables_keep_to_eighty_columns() -> None:
    from anyir.driver.screen import plain_table

    text = plain_table(("name", "count", "what"), [("a", 5, "word " * 40), ("bb", 100, "short")])
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1].startswith("  a         5  word word")
    assert lines[-1] == "  bb      100  short"
    assert lines[2].startswith(" " * 15 + "word")


def test_json_has_no_nan() -> None:
    from anyir.driver.screen import _finite

    assert _finite({"a": [float("nan"), float("inf"), 1.5]}) == {"a": ["nan", "inf", 1.5]}
