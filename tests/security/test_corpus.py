"""Each hostile file through `irc compile`: refused with the right exit code or compiled, and nothing else happens."""

from __future__ import annotations

import ast
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from anyir.driver.cli import run
from anyir.tests.security import corpus_beside, corpus_keras, corpus_onnx, corpus_operators, corpus_others
from anyir.tests.security.corpus import CASES, Case

SECONDS = 40
FORBIDDEN = {
    "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "subprocess.Popen", "socket.connect", "socket.bind",
    "socket.getaddrinfo", "pickle.find_class", "ctypes.dlopen", "webbrowser.open",
}  # fmt: skip


class Watch:
    """What Python's audit hook reports while a case runs: forbidden events, and opened paths below `outside`."""

    def __init__(self) -> None:
        self.on = False
        self.outside = ""
        self.events: list[str] = []

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event in FORBIDDEN and "onnxruntime" not in str(arguments):
            self.events.append(f"{event}{arguments}")
        elif event == "open" and isinstance(arguments[0], str) and self.outside in arguments[0]:
            self.events.append(f"open {arguments[0]}")


WATCH = Watch()
sys.addaudithook(WATCH)


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watch]:
    WATCH.events.clear()
    WATCH.outside = str(tmp_path / "outside")
    WATCH.on = True
    yield WATCH
    WATCH.on = False


@pytest.fixture(autouse=True)
def in_time() -> Iterator[None]:
    """A case that hangs fails."""

    def late(*_: object) -> None:
        raise TimeoutError(f"not done after {SECONDS} s")

    old = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, old)


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below a folder with size and modification time."""
    return {
        str(p.relative_to(folder)): (p.lstat().st_size, p.lstat().st_mtime_ns)
        for p in folder.rglob("*")
        if not p.is_dir()
    }


def check_message(text: str) -> None:
    assert "Traceback" not in text
    assert len(text.encode()) <= 8192
    assert all(c == "\n" or c.isprintable() for c in text), repr(text[:500])
    assert all(line.startswith(("irc: error[", " ", "note: ")) or i for i, line in enumerate(text.splitlines()))
    assert sum(line.startswith("irc: ") for line in text.splitlines()) == 1


#: What takes its whole budget.
LONG = {"200 reductions of 64 MiB"}


@pytest.mark.parametrize(
    "hostile", [pytest.param(c, marks=[pytest.mark.slow] if c.name in LONG else []) for c in CASES], ids=str
)
def test_hostile_file(
    hostile: Case, tmp_path: Path, watched: Watch, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    models, out = tmp_path / "model", tmp_path / "out"
    models.mkdir()
    out.mkdir()
    watched.on = False
    source = hostile.build(models)
    before = tree(tmp_path)
    monkeypatch.chdir(tmp_path)
    watched.on = True
    code = run(["compile", str(source), "-o", str(out / "out.onnx"), "--limit", "run-work=2000000000"])
    watched.on = False
    error = capsys.readouterr().err
    assert code in hostile.codes, error
    made = {name for name in tree(tmp_path) if name not in before}
    if code == 0:
        assert "out/out.onnx" in made and made <= {"out/out.onnx", "out/out.onnx.data"}
    else:
        assert made == set()
        check_message("".join(line for line in error.splitlines(True) if not line.startswith("  ") or "error[" in line))
    assert {name: stamp for name, stamp in tree(tmp_path).items() if name in before} == before
    assert watched.events == []


ACCEPTED = [
    pytest.param(c, marks=[pytest.mark.slow] if c.group in ("onnx operators", "onnx beside") else [])
    for c in CASES
    if c.expect != "error" and c.name not in ("chain of 20000 nodes", "huge repeated metadata")
]


@pytest.mark.parametrize("suffix", [".tflite", ".mindir", ".py", ".anyir"])
@pytest.mark.parametrize("hostile", ACCEPTED, ids=str)
def test_odd_models_to_every_target(
    hostile: Case, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models, out = tmp_path / "model", tmp_path / "out"
    models.mkdir()
    out.mkdir()
    code = run(["compile", str(hostile.build(models)), "-o", str(out / f"out{suffix}"), "--no-verify", "-q"])
    error = capsys.readouterr().err
    assert code in (0, 3), error
    assert bool(list(out.iterdir())) is (code == 0)
    if code:
        check_message(error)


def _shape_of_code(name: str, folder: Path) -> str:
    """The syntax tree of the module written for a model with this name everywhere, strings left out."""
    folder.mkdir()
    (folder / "net.onnx").write_bytes(corpus_onnx._named(name).SerializeToString())
    assert run(["compile", str(folder / "net.onnx"), "-o", str(folder / "net.py"), "--no-verify", "-q"]) == 0
    tree = ast.parse((folder / "net.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = ""
    return ast.dump(tree)


@pytest.mark.parametrize("name", corpus_onnx.NAMES, ids=range(len(corpus_onnx.NAMES)))
def test_names_stay_data_in_generated_python(name: str, tmp_path: Path) -> None:
    assert _shape_of_code(name, tmp_path / "bad") == _shape_of_code("good", tmp_path / "good")


SANDBOXED = [
    c
    for c in CASES
    if c.group in ("folding bombs", "onnx operators") or c.name in ("If nested 2000 deep", "length 2^31", "a FIFO")
]


def _sandboxed() -> list[Any]:
    """Three by default, the others when slow tests are asked for."""
    first = ("ConstantOfShape 2^34", "length 2^31", "If nested 2000 deep")
    return [pytest.param(c, marks=[] if c.name in first else pytest.mark.slow) for c in SANDBOXED]


@pytest.mark.parametrize("hostile", _sandboxed(), ids=str)
def test_memory_and_time_are_bounded(hostile: Case, tmp_path: Path) -> None:
    """The same in a process that may take 3 GB of address space and 20 s of CPU time."""
    models = tmp_path / "model"
    models.mkdir()
    source = hostile.build(models)

    def bounded() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))

    command = [
        sys.executable,
        "-c",
        "from anyir.driver.cli import main; main()",
        "compile",
        str(source),
        "-o",
        "out.onnx",
    ]
    done = subprocess.run(command, cwd=tmp_path, preexec_fn=bounded, capture_output=True, text=True, timeout=60)
    assert done.returncode in hostile.codes, done.stderr


def test_every_format_has_cases() -> None:
    assert all(module.__doc__ for module in (corpus_beside, corpus_keras, corpus_onnx, corpus_operators, corpus_others))
    counted = {group: sum(c.group == group for c in CASES) for group in {c.group for c in CASES}}
    assert set(counted) == {
        "onnx container", "onnx graph", "onnx tensors", "onnx operators", "onnx beside",
        "external data", "folding bombs", "injection", "files", "good",
        "keras", "h5", "pt2", "text", "tflite", "mindir",
    }  # fmt: skip
    assert sum(counted.values()) > 300
