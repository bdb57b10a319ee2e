"""A compile that is interrupted, or whose output cannot be written, leaves the folder as it was."""

from __future__ import annotations

import functools
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from anyir.tests.support.processes import default_signals
from anyir.tests.support.small_models import cnn

#: Says that the output is written and waits in the check.
SLOW_CHECK = """
import sys, time
import anyir.driver.check as check

def wait(*_, **options):
    print("checking", file=sys.stderr, flush=True)
    time.sleep(60)

check.check_file = wait
"""

IRC = [sys.executable, "-c", "from anyir.driver.cli import main; main()"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    cnn(tmp_path / "net.onnx")
    (tmp_path / "slow.py").write_text(SLOW_CHECK)
    (tmp_path / "out.onnx").write_bytes(b"the old one")
    return tmp_path


def start(folder: Path, *arguments: str, **options: object) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    options = {"cwd": folder, "stdout": pipe, "stderr": pipe, "preexec_fn": default_signals} | options
    return subprocess.Popen([*IRC, *arguments], **options)  # type: ignore[call-overload]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "__pycache__")


def test_nohup_is_respected(folder: Path) -> None:
    ignore = functools.partial(signal.signal, signal.SIGHUP, signal.SIG_IGN)
    process = start(folder, "compile", "net.onnx", "-o", "out.onnx", "--load", "slow.py", preexec_fn=ignore)
    assert process.stderr is not None
    while b"checking" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == -signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda n: n.name)
def test_a_signal_leaves_nothing_behind(folder: Path, number: signal.Signals) -> None:
    process = start(folder, "compile", "net.onnx", "-o", "out.onnx", "--load", "slow.py")
    assert process.stderr is not None
    while b"checking" not in process.stderr.readline():
        assert process.poll() is None
    assert len(names(folder)) == 4  # the hidden folder is there
    process.send_signal(number)
    _, error = process.communicate(timeout=20)
    assert process.returncode == -number
    assert b"Traceback" not in error
    assert names(folder) == ["net.onnx", "out.onnx", "slow.py"]
    assert (folder / "out.onnx").read_bytes() == b"the old one"


def test_kill_leaves_only_what_the_next_run_removes(folder: Path) -> None:
    process = start(folder, "compile", "net.onnx", "-o", "out.onnx", "--load", "slow.py")
    assert process.stderr is not None
    while b"checking" not in process.stderr.readline():
        assert process.poll() is None
    process.kill()
    process.communicate(timeout=20)
    assert (folder / "out.onnx").read_bytes() == b"the old one"
    assert len(names(folder)) == 4
    done = start(folder, "compile", "net.onnx", "-o", "out.onnx", "--no-verify")
    done.communicate(timeout=60)
    assert done.returncode == 0
    assert names(folder) == ["net.onnx", "out.onnx", "slow.py"]


def test_a_reader_that_goes_away(folder: Path) -> None:
    process = start(folder, "passes")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    error = process.stderr.read()
    assert process.wait(timeout=20) == -signal.SIGPIPE
    assert error == b""


def test_a_full_disk(folder: Path) -> None:
    def small_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))

    process = start(folder, "compile", "net.onnx", "-o", "out.onnx", "--no-verify", preexec_fn=small_files)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 4
    assert b"error[F100]" in error and b"Traceback" not in error
    assert names(folder) == ["net.onnx", "out.onnx", "slow.py"]
    assert (folder / "out.onnx").read_bytes() == b"the old one"


def test_stdout_that_is_full(folder: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*IRC, "passes", "--level", "O1"], stdout=full, stderr=subprocess.PIPE, timeout=60)
    assert done.returncode == 4
    assert b"irc: error[F100]: No space left on device" in done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(folder: Path) -> None:
    locked = folder / "locked"
    locked.mkdir(mode=0o500)
    process = start(folder, "compile", "net.onnx", "-o", "locked/out.onnx", "--no-verify")
    _, error = process.communicate(timeout=60)
    assert (process.returncode, names(locked)) == (4, [])
    assert b"Permission denied" in error


def test_two_compiles_into_one_folder(folder: Path) -> None:
    runs = [start(folder, "compile", "net.onnx", "-o", f"out{i}.onnx", "--no-verify") for i in range(3)]
    for process in runs:
        process.communicate(timeout=60)
    assert [process.returncode for process in runs] == [0, 0, 0]
    assert names(folder) == ["net.onnx", "out.onnx", "out0.onnx", "out1.onnx", "out2.onnx", "slow.py"]
    assert time.time() - (folder / "out0.onnx").stat().st_mtime < 60
