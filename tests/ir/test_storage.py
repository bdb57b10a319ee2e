"""The guarded door: limits, contained paths, maps, whole-or-nothing writes."""

from __future__ import annotations

import gc
import os
import pickle  # noqa: TID251  (our own objects travel between processes)
import signal
import struct
import subprocess
import sys
import zipfile

import pytest
from anyir.ir import storage
from anyir.ir.errors import AnyIRError, InvalidModel, LimitExceeded, SystemFailure, UsageError
from anyir.ir.storage import (
    LIMITS,
    OutputSet,
    atomic_write,
    checked_range,
    limit,
    limits,
    map_file,
    open_beside,
    parse_count,
    read_bytes,
    scratch_folder,
    sniff,
)
from anyir.tests.support.processes import default_signals
from hypothesis import given, settings
from hypothesis import strategies as st


@pytest.fixture
def model(tmp_path):
    """A model file in a folder of its own, a data file beside it and one below, and a secret outside."""
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "net.onnx").write_bytes(b"model")
    (folder / "net.data").write_bytes(bytes(range(100)))
    (folder / "sub" / "w").write_bytes(b"below")
    (tmp_path / "secret").write_bytes(b"secret")
    return folder / "net.onnx"


# --------------------------------------------------------------------------------------------------- limits


def test_limits_are_overridden_in_a_context_only():
    with limits(rank=3, nesting=1):
        with limits(rank=4):
            assert (limit("rank"), limit("nesting")) == (4, 1)
        assert limit("rank") == 3
    assert limit("rank") == LIMITS["rank"]
    for wrong in ({"rnak": 3}, {"rank": -1}, {"rank": True}):
        with pytest.raises(UsageError), limits(**wrong):
            pass


def test_an_exceeded_limit_names_itself_and_its_option():
    with pytest.raises(LimitExceeded, match=r"--limit zip-ratio=N raises it") as error:
        storage.check_limit("zip_ratio", 10**9, "ratio")
    assert error.value.exit_code == 3 and "200" in str(error.value)


@pytest.mark.parametrize(("offset", "length"), [(-1, 2), (0, 11), (10, 1), (2**63, 1), (1, 2**64), (0, -1)])
def test_a_range_outside_is_refused(offset, length):
    with pytest.raises(InvalidModel):
        checked_range(offset, length, 10)


def test_a_range_inside():
    assert checked_range(10, 0, 10) == range(10, 10)
    assert checked_range(0, 10, 10) == range(10)


@pytest.mark.parametrize("text", ["", "-1", "+1", " 1", "1 ", "1_0", "0x1", "1e3", "１", "1" * 20, "1.0", None, 3])
def test_numbers_in_text_fields_are_plain_digits(text):
    with pytest.raises(InvalidModel):
        parse_count(text)
    assert parse_count("0123") == 123


# -------------------------------------------------------------------------------------------------- reading


def test_read_bytes(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"abc")
    assert read_bytes(path) == b"abc"
    (tmp_path / "empty").write_bytes(b"")
    assert read_bytes(tmp_path / "empty") == b""
    with pytest.raises(LimitExceeded):
        read_bytes(path, 2)
    with limits(json_bytes=2), pytest.raises(LimitExceeded, match="--limit json-bytes=N"):
        read_bytes(path, "json_bytes")


def test_a_huge_sparse_file_is_refused_before_reading(tmp_path):
    path = tmp_path / "f"
    with open(path, "wb") as file:
        file.truncate(1 << 42)
    with pytest.raises(LimitExceeded):
        read_bytes(path)


@pytest.mark.parametrize("door", [read_bytes, map_file, sniff])
def test_only_regular_files(tmp_path, door):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    for name, kind in [("fifo", InvalidModel), (".", InvalidModel), ("absent", SystemFailure), ("loop", SystemFailure)]:
        with pytest.raises(kind):
            door(tmp_path / name)
    for odd in ("a\0b", "\ud800x"):
        with pytest.raises(AnyIRError):
            door(odd)
    with pytest.raises(InvalidModel):
        door("/dev/null")


def test_a_map_is_shared_read_only_and_pickles_as_its_place(model):
    file = map_file(model.with_name("net.data"))
    assert map_file(model.with_name("net.data")) is file
    assert bytes(file.view(10, 5)) == bytes(range(10, 15)) and file.view().readonly
    assert pickle.loads(pickle.dumps(file)) is file
    with pytest.raises(InvalidModel):
        file.view(90, 11)
    with pytest.raises(InvalidModel):
        file.view(200)
    assert bytes(map_file(model.with_name("net.data")).view(100, 0)) == b""


def test_an_empty_file_maps(tmp_path):
    (tmp_path / "e").write_bytes(b"")
    file = map_file(tmp_path / "e")
    assert file.size == 0 and bytes(file.view()) == b""


def test_a_changed_file_is_seen(model):
    file = map_file(model)
    stored = pickle.dumps(file)
    file.recheck()
    model.write_bytes(b"other!")
    with pytest.raises(SystemFailure, match="changed"):
        file.recheck()
    with pytest.raises(SystemFailure, match="changed"):
        pickle.loads(stored)


def test_holes_are_found(tmp_path):
    with open(tmp_path / "f", "wb") as file:
        file.truncate(8 << 20)
        file.seek(4 << 20)
        file.write(b"x" * 4096)
    mapped = map_file(tmp_path / "f")
    parts = list(mapped.segments(0, mapped.size))
    assert sum(length for _, _, length in parts) == mapped.size
    assert [start for _, start, _ in parts] == [0, *(s + n for _, s, n in parts)][:-1]
    for is_data, start, length in parts:
        assert is_data or not any(mapped.view(start, length))


# ------------------------------------------------------------------------------------------- contained paths


def test_files_beside_and_below(model):
    assert bytes(open_beside(model, "net.data").view(0, 3)) == b"\0\1\2"
    assert bytes(open_beside(model, "./sub//w").view()) == b"below"
    file = open_beside(model, "sub/w")
    assert pickle.loads(pickle.dumps(file)) is file


@pytest.mark.parametrize(
    "location",
    [
        "", ".", "/", "..", "../secret", "sub/../../secret", "sub/../net.data", "/etc/passwd", "file:///etc/passwd",
        "a\0b", "\0", "x" * 5000, "absent", "sub", "sub/", "net.data/x", "sub/w/y", "x" * 300, "\ud800", "~", "$HOME/x",
    ],
)  # fmt: skip
def test_locations_that_are_refused(model, location):
    with pytest.raises(InvalidModel) as error:
        open_beside(model, location)
    assert "\0" not in str(error.value) and len(str(error.value)) < 8192


def test_links_are_refused_wherever_they_are(model):
    folder = model.parent
    (folder / "out").symlink_to("../secret")
    (folder / "in").symlink_to("net.data")
    (folder / "dir").symlink_to("sub")
    (folder / "up").symlink_to("..")
    (folder / "loop").symlink_to("loop")
    for location in ("out", "in", "dir/w", "up/secret", "loop", "loop/x"):
        with pytest.raises(InvalidModel, match="symbolic link"):
            open_beside(model, location)
    os.link(model.parent.parent / "secret", folder / "hard")
    with pytest.raises(InvalidModel, match="2 hard links"):
        open_beside(model, "hard")


def test_a_fifo_beside_does_not_hang(model):
    os.mkfifo(model.with_name("fifo"))
    with pytest.raises(InvalidModel):
        open_beside(model, "fifo")


def test_descriptors_do_not_leak(model):
    before = len(os.listdir("/proc/self/fd"))
    for location in ("../secret", "absent", "sub", "sub/absent"):
        with pytest.raises(InvalidModel):
            open_beside(model, location)
    file = open_beside(model, "sub/w")
    del file
    with pytest.raises(InvalidModel):
        map_file(model.parent)
    assert len(os.listdir("/proc/self/fd")) == before


# -------------------------------------------------------------------------------------------------- sniffing


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "empty"),
        (b"PK\x03\x04rest", "zip"),
        (b"\x89HDF\r\n\x1a\n....", "hdf5"),
        (b"x" * 1024 + b"\x89HDF\r\n\x1a\n", "hdf5"),
        (b"\x1c\0\0\0TFL3", "tflite"),
        (b"\x08\x08\x12\x04test\x3a\x02\x0a\x00", "protobuf"),
        (b"\x0a\x050.1.0\x12\x09MindSpore", "protobuf"),
        (struct.pack("<Q", 2) + b"{}", "safetensors"),
        (b"\x80\x02}q\x00.", "pickle"),
        (b"anyir 1\nmodule @m {}", "anyir"),
        (b"// saved\n\nanyir 1\n", "anyir"),
        (b'  {"a": 1}', "json"),
        ("grüße".encode() * 2000, "text"),
        (b"\xff\xfe\xfd" * 9, "unknown"),
        (b"\x1f\x8b\x08\x00", "gzip"),
    ],
)
def test_sniff_goes_by_content(tmp_path, data, kind):
    (tmp_path / "model.onnx").write_bytes(data)
    assert sniff(tmp_path / "model.onnx") == kind


@settings(max_examples=200)
@given(data=st.binary(max_size=300))
def test_sniff_takes_anything(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(data)
    assert isinstance(sniff(path), str)


# -------------------------------------------------------------------------------------------------- writing


def stray(folder):
    return [name for name in os.listdir(folder) if name.startswith(".anyir-")]


def test_a_write_is_whole_or_nothing(tmp_path):
    target = tmp_path / "out"
    target.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), atomic_write(target) as file:
        file.write(b"new")
        raise ZeroDivisionError
    assert target.read_bytes() == b"old" and not stray(tmp_path)
    with atomic_write(target) as file:
        file.write(b"new")
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new" and not stray(tmp_path)
    assert target.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_holes_are_written(tmp_path):
    with atomic_write(tmp_path / "f") as file:
        file.write(b"a")
        file.skip(32 << 20)
        file.write(b"b")
        file.skip(32 << 20)
    info = os.stat(tmp_path / "f")
    assert info.st_size == (64 << 20) + 2 and info.st_blocks * 512 < 4 << 20
    assert bytes(map_file(tmp_path / "f").view(32 << 20, 3)) == b"\0b\0"


def test_inputs_are_not_overwritten(model, tmp_path):
    data = model.with_name("net.data")
    (tmp_path / "alias").symlink_to(data)
    for target in (model, data, tmp_path / "alias", model.parent / "sub" / ".." / "net.onnx"):
        with pytest.raises(UsageError, match="overwrite an input"), atomic_write(target, protect=[model, data]):
            pass
    assert model.read_bytes() == b"model"


def test_odd_targets(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for target in (tmp_path, tmp_path / "fifo", "/dev/null"):
        with pytest.raises(UsageError), atomic_write(target):
            pass
    with pytest.raises(SystemFailure), atomic_write(tmp_path / "no" / "where"):
        pass
    with pytest.raises(UsageError), atomic_write("a\0b"):
        pass


def test_a_link_is_replaced_not_followed(tmp_path):
    (tmp_path / "victim").write_bytes(b"keep")
    (tmp_path / "out").symlink_to("victim")
    with atomic_write(tmp_path / "out") as file:
        file.write(b"new")
    assert (tmp_path / "victim").read_bytes() == b"keep" and not (tmp_path / "out").is_symlink()


def test_a_set_appears_together_model_last(tmp_path, monkeypatch):
    order = []
    rename = os.rename
    monkeypatch.setattr(os, "rename", lambda a, b: (order.append(os.path.basename(b)), rename(a, b)))
    with OutputSet() as out:
        out.open(tmp_path / "net.onnx", main=True).write(b"m")
        out.open(tmp_path / "net.data").write(b"d")
        with pytest.raises(UsageError, match="same name"):
            out.open(tmp_path / "net.data")
    assert order == ["net.data", "net.onnx"]
    assert sorted(os.listdir(tmp_path)) == ["net.data", "net.onnx"]


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("call", ["open", "fsync", "rename"])
def test_a_fault_anywhere_leaves_the_old_files(tmp_path, monkeypatch, call, old):
    """Fail the N-th system call for N = 1, 2, 3 ... until a run passes without a fault."""
    targets = [tmp_path / "net.data", tmp_path / "net.onnx"]
    real, passed = getattr(os, call), False
    for n in range(1, 20):
        for target in targets:
            target.unlink(missing_ok=True)
            if old:
                target.write_bytes(b"old")
        left = [n]

        def faulty(*args, _left=left, **kwargs):
            _left[0] -= 1
            if _left[0] == 0:
                raise OSError(28, "No space left on device")
            return real(*args, **kwargs)

        monkeypatch.setattr(os, call, faulty)
        try:
            with OutputSet() as out:
                out.open(targets[0]).write(b"new")
                out.open(targets[1], main=True).write(b"new")
            passed = left[0] > 0
        except SystemFailure as error:
            assert error.exit_code == 4 and "No space left" in str(error)
        finally:
            monkeypatch.setattr(os, call, real)
        assert not stray(tmp_path)
        if passed:
            break
        contents = [target.read_bytes() if target.exists() else None for target in targets]
        assert contents in ([b"old" if old else None] * 2, [b"new"] * 2)
    assert passed


def test_a_full_disk(tmp_path):
    code = (
        "import resource, sys\n"
        "from anyir.ir.storage import atomic_write\n"
        "from anyir.ir.errors import SystemFailure\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "try:\n"
        "    with atomic_write(sys.argv[1]) as file:\n"
        "        for _ in range(8): file.write(b'x' * (1 << 20))\n"
        "except SystemFailure as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "out"], capture_output=True, text=True, check=True)
    assert "cannot write: File too large" in done.stdout and not os.listdir(tmp_path)


def test_what_was_buffered_never_reaches_another_file(tmp_path):
    with pytest.raises(ZeroDivisionError), atomic_write(tmp_path / "out") as file:
        file.write(b"secret")
        fd = file.fileno()
        raise ZeroDivisionError
    with open(tmp_path / "other", "wb") as other:
        assert other.fileno() == fd
        del file
        gc.collect()
    assert (tmp_path / "other").read_bytes() == b""


def test_a_writer_may_close_its_file(tmp_path):
    with OutputSet() as out:
        with out.open(tmp_path / "a") as file:
            file.write(b"x")
        zipfile.ZipFile(out.open(tmp_path / "b", main=True), "w").close()
    assert (tmp_path / "a").read_bytes() == b"x" and zipfile.is_zipfile(tmp_path / "b")


CHILD = """
import sys
from anyir.ir.storage import atomic_write
with atomic_write(sys.argv[1]) as file:
    file.write(b"half"); file.flush()
    print("ready", flush=True)
    sys.stdin.read()
"""


FOLDER_CHILD = """
import sys
from anyir.ir.storage import scratch_folder
with scratch_folder(sys.argv[1]) as folder:
    open(folder + "/part", "wb").close()
    print("ready", flush=True)
    sys.stdin.read()
"""


def start_writer(tmp_path, code=CHILD):
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    child = subprocess.Popen([sys.executable, "-c", code, tmp_path / "out"], preexec_fn=default_signals, **pipes)
    assert child.stdout.readline() == b"ready\n"
    return child


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signals_leave_nothing_behind(tmp_path, number):
    (tmp_path / "out").write_bytes(b"old")
    child = start_writer(tmp_path)
    child.send_signal(number)
    child.communicate()
    assert child.returncode == -number
    assert os.listdir(tmp_path) == ["out"] and (tmp_path / "out").read_bytes() == b"old"


def test_leftovers_of_the_dead_are_removed_and_of_the_living_kept(tmp_path):
    living = start_writer(tmp_path)
    dead = start_writer(tmp_path)
    dead.kill()
    dead.communicate()
    assert len(stray(tmp_path)) == 2
    with atomic_write(tmp_path / "other") as file:
        file.write(b"x")
    assert len(stray(tmp_path)) == 1
    living.communicate()
    assert (tmp_path / "out").read_bytes() == b"half" and not stray(tmp_path)


def test_a_scratch_folder_goes_whatever_happens(tmp_path):
    with scratch_folder(tmp_path / "out") as folder, OutputSet() as out:
        with open(os.path.join(folder, "made"), "wb") as file:
            file.write(b"checked")
        out.adopt(os.path.join(folder, "made"), tmp_path / "out", main=True)
    assert os.listdir(tmp_path) == ["out"] and (tmp_path / "out").read_bytes() == b"checked"
    child = start_writer(tmp_path, FOLDER_CHILD)
    child.terminate()
    child.communicate()
    assert child.returncode == -signal.SIGTERM and os.listdir(tmp_path) == ["out"]
    child = start_writer(tmp_path, FOLDER_CHILD)
    with scratch_folder(tmp_path / "out"):
        assert len(stray(tmp_path)) == 2
    child.kill()
    child.communicate()
    with scratch_folder(tmp_path / "out"):
        assert len(stray(tmp_path)) == 1
    assert os.listdir(tmp_path) == ["out"]
    with pytest.raises(SystemFailure), scratch_folder(tmp_path / "no" / "out"):
        pass
