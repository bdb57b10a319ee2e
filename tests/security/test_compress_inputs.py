"""Hostile samples and recipes through `irc compress`: a clear error with the right exit code, nothing written, memory bounded.

All cases run one after the other in one child with little address space and CPU time; each test judges one of them.
"""

from __future__ import annotations

import io
import json
import os
import resource
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from anyir.tests.security.seeds import packed
from anyir.tests.support.compress_models import CLASSES, INPUTS, classifier
from anyir.tests.support.small_models import cnn

ADDRESS_SPACE, CPU_SECONDS = 3 << 30, 100
#: Exit codes: a wrong request, a file that cannot be used, a system that does not do its part.
USAGE, INPUT = 2, 3


@dataclass(frozen=True)
class Case:
    """`build` writes the hostile files into a folder and returns the options that name them. `says` stands in the message."""

    name: str
    build: Callable[[Path], list[str]]
    code: int
    says: str


CASES: list[Case] = []


def case(name: str, code: int, says: str) -> Callable[[Callable[[Path], list[str]]], None]:
    def register(build: Callable[[Path], list[str]]) -> None:
        assert name not in {c.name for c in CASES}
        CASES.append(Case(name, build, code, says))

    return register


# ------------------------------------------------------------------------------------------------------ arrays in files


def npy(header: str, body: bytes = b"", version: tuple[int, int] = (1, 0), size: int | None = None) -> bytes:
    """A .npy file with this header, whatever it says."""
    text = header.encode("latin1") + b"\n"
    length = struct.pack("<H" if version == (1, 0) else "<I", len(text) if size is None else size)
    return b"\x93NUMPY" + bytes(version) + length + text + body


def described(shape: str, kind: str = "'<f4'", more: str = "") -> str:
    return f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}{more}}}"


def stored(array: np.ndarray) -> bytes:
    made = io.BytesIO()
    np.lib.format.write_array(made, array, allow_pickle=array.dtype.hasobject)
    return made.getvalue()


#: What unpickled would make a file.
PICKLE = b"cbuiltins\nopen\n(S'ran'\nS'w'\ntR."

ROW = stored(np.zeros((64, INPUTS), np.float32))

#: Bytes of one .npy file that stands for the input x, alone, in a folder, and in an .npz.
ARRAYS: dict[str, tuple[bytes, str]] = {
    "pickle": (npy(described("(1,)", "'|O'"), PICKLE), "pickles are never read"),
    "objects inside a structure": (
        npy(described("(1,)", "[('a', '|O')]"), PICKLE),
        "not an array of numbers",
    ),
    "terabytes declared": (npy(described(f"(10000000000, {INPUTS})"), b"\0" * 4096), "there are 4096"),
    "more than 64 bits of elements": (npy(described("(18446744073709551616, 24)"), b"\0" * 64), "there are 64"),
    "overflowing product": (npy(described("(4294967296, 4294967296, 4)"), b"\0" * 64), "there are 64"),
    "negative size": (npy(described(f"(-1, {INPUTS})"), b"\0" * 4096), "no plain shape"),
    "size of no integer": (npy(described(f"(1.5, {INPUTS})"), b"\0" * 4096), "no plain shape"),
    "deeply nested header": (npy("(" * 20000 + ")" * 20000, version=(2, 0)), "malformed"),
    "header with a call": (npy(described("(__import__('os').getpid(),)"), b"\0" * 64), "no plain shape"),
    "a header of 2 GB": (npy(described("(1,)"), size=1 << 31, version=(2, 0)), "header is cut off"),
    "unknown version": (npy(described("(1,)"), version=(9, 9)), "not a .npy array"),
    "no header": (b"\x93NUMPY", "not a .npy array"),
    "truncated data": (ROW[:-50], "damaged"),
    "empty file": (b"", "not a .npy array"),
    "text": (stored(np.array([["a"] * INPUTS])), "not an array of numbers"),
    "no samples": (stored(np.zeros((0, INPUTS), np.float32)), "there is no sample"),
    "one sample": (stored(np.ones((1, INPUTS), np.float32)), "1 sample is not enough"),
    "NaN": (stored(np.full((64, INPUTS), np.nan, np.float32)), "NaN or infinity"),
    "infinite": (stored(np.full((64, INPUTS), np.inf, np.float32)), "NaN or infinity"),
    "wrong shape": (stored(np.zeros((64, INPUTS + 1), np.float32)), "a sample of input 'x' is [25]"),
    "too many dims": (stored(np.zeros((2,) * 20, np.float32)), "the model wants f32[N, 24]"),
    "complex": (stored(np.zeros((64, INPUTS), np.complex64)), "is complex64"),
}


def _arrays() -> None:
    for name, (data, says) in ARRAYS.items():
        code = USAGE if name == "one sample" else INPUT

        def alone(folder: Path, data: bytes = data) -> list[str]:
            (folder / "folder").mkdir()
            (folder / "folder" / "x.npy").write_bytes(data)
            return ["--data", str(folder / "folder")]

        def archived(folder: Path, data: bytes = data) -> list[str]:
            (folder / "data.npz").write_bytes(packed({"x.npy": data}))
            return ["--data", str(folder / "data.npz")]

        case(f"npy: {name}", code, says)(alone)
        case(f"npz: {name}", code, says)(archived)


_arrays()


# ------------------------------------------------------------------------------------------------------------- archives


def archive_case(name: str, code: int, says: str, make: Callable[[], bytes]) -> None:
    @case(f"npz: {name}", code, says)
    def build(folder: Path) -> list[str]:
        (folder / "data.npz").write_bytes(make())
        return ["--data", str(folder / "data.npz")]


def bomb() -> bytes:
    """Four gigabytes of zeros in four megabytes."""
    size = 4 << 30
    head = npy(described(f"({size // 4 // INPUTS}, {INPUTS})"))
    made = io.BytesIO()
    with (
        zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("x.npy", "w") as member,
    ):
        member.write(head)
        block = bytes(1 << 24)
        for _ in range((size >> 24) // 16):  # the rest is only declared
            member.write(block)
    return made.getvalue()


def doubled() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("x.npy", ROW)
        archive.filelist[0].filename = "y.npy"
        archive.writestr("x.npy", ROW)
        archive.filelist[0].filename = "x.npy"
        archive.NameToInfo.clear()
    return made.getvalue()


def lying() -> bytes:
    """A member that is longer than its directory entry says."""
    data = bytearray(packed({"x.npy": ROW}, zipfile.ZIP_DEFLATED))
    entry = data.index(b"PK\x01\x02")
    data[entry + 24 : entry + 28] = struct.pack("<I", 100)
    return bytes(data)


archive_case("zip bomb", INPUT, "--limit zip-ratio", bomb)
archive_case("duplicate members", INPUT, "the name comes twice", doubled)
archive_case("path traversal", INPUT, "not a plain relative path", lambda: packed({"../../x.npy": ROW}))
archive_case("member without a suffix", INPUT, "not a .npy array", lambda: packed({"x": b"hello"}))
archive_case("no members", INPUT, "the data has nothing", lambda: packed({}))
archive_case("truncated", INPUT, "broken zip", lambda: packed({"x.npy": ROW})[:-30])
archive_case("a size that lies", INPUT, "header is cut off", lying)
archive_case("100000 members", INPUT, "not a .npy array", lambda: packed({f"a{i}.npy": b"" for i in range(100_000)}))
archive_case("not a zip file", INPUT, "not a zip archive", lambda: b"PK" + bytes(100))
archive_case(
    "an unknown input", INPUT, "the data has nothing, more", lambda: packed({"nothing.npy": ROW, "more.npy": ROW})
)


@case("npz: labels of another length", INPUT, "63 labels for 64 samples")
def _(folder: Path) -> list[str]:
    np.savez(folder / "data.npz", x=np.zeros((64, INPUTS), np.float32), labels=np.zeros(63, np.int64))
    return ["--data", str(folder / "data.npz")]


@case("npz: labels beyond the classes", 0, "")
def _(folder: Path) -> list[str]:
    x = np.random.default_rng(0).standard_normal((64, INPUTS)).astype(np.float32)
    np.savez(folder / "data.npz", x=x, labels=np.full(64, CLASSES + 1000))
    return ["--data", str(folder / "data.npz")]


@case("npz: constant data", USAGE, "the same sample 64 times is not enough")
def _(folder: Path) -> list[str]:
    np.savez(folder / "data.npz", x=np.ones((64, INPUTS), np.float32))
    return ["--data", str(folder / "data.npz")]


@case("npz: constant channels", 0, "")
def _(folder: Path) -> list[str]:
    x = np.random.default_rng(0).standard_normal((64, INPUTS)).astype(np.float32)
    x[:, 1:] = 0
    np.savez(folder / "data.npz", x=x)
    return ["--data", str(folder / "data.npz")]


@case("npz: values that overflow inside", INPUT, "NaN or infinite")
def _(folder: Path) -> list[str]:
    x = np.random.default_rng(0).choice([-3e38, 3e38, 1e-38], (64, INPUTS)).astype(np.float32)
    np.savez(folder / "data.npz", x=x)
    return ["--data", str(folder / "data.npz")]


# --------------------------------------------------------------------------------------------------------- other sources


@case("data that is not there", USAGE, "there is no file or folder")
def _(folder: Path) -> list[str]:
    return ["--data", str(folder / "nowhere.npz")]


@case("an empty folder", INPUT, "no .npy file and no image")
def _(folder: Path) -> list[str]:
    (folder / "empty").mkdir()
    return ["--data", str(folder / "empty")]


@case("a FIFO", INPUT, "not a regular file")
def _(folder: Path) -> list[str]:
    os.mkfifo(folder / "data.npz")
    return ["--data", str(folder / "data.npz")]


@case("links out of the folder", INPUT, "symbolic link")
def _(folder: Path) -> list[str]:
    (folder / "outside.npy").write_bytes(ROW)
    (folder / "in").mkdir()
    (folder / "in" / "x.npy").symlink_to(folder / "outside.npy")
    return ["--data", str(folder / "in")]


@case("a folder that holds itself", INPUT, "symbolic link")
def _(folder: Path) -> list[str]:
    (folder / "in").mkdir()
    (folder / "in" / "again").symlink_to(folder / "in")
    return ["--data", str(folder / "in")]


def png(width: int, height: int, rows: bytes = b"") -> bytes:
    """A grey picture that declares this size, whatever it holds."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def _picture(side: int, seed: int) -> bytes:
    rows = np.random.default_rng(seed).integers(0, 256, (side, side + 1), np.uint8)
    rows[:, 0] = 0
    return png(side, side, rows.tobytes())


#: What lies in a folder of images beside sixteen good ones.
PICTURES: dict[str, tuple[bytes, int, str]] = {
    "none more": (_picture(8, 99), 0, ""),
    "declares 10 gigapixels": (png(100_000, 100_000), INPUT, "bad.png"),
    "declares 2^31 by 1": (png((1 << 31) - 1, 1), INPUT, "bad.png"),
    "declares no pixels": (png(0, 0), INPUT, "bad.png"),
    "is cut off": (_picture(8, 1)[:-40], INPUT, "bad.png"),
    "inflates to 256 MB": (png(16_000, 16_000, bytes(16_001 * 16_000)), INPUT, "bad.png"),
    "is text": (b"<svg onload=alert(1)>", INPUT, "bad.png"),
    "is empty": (b"", INPUT, "bad.png"),
}


def _pictures() -> None:
    for name, (data, code, says) in PICTURES.items():

        @case(f"image that {name}", code, says)
        def build(folder: Path, data: bytes = data) -> list[str]:
            (folder / "images").mkdir()
            for i in range(16):
                (folder / "images" / f"{i}.png").write_bytes(_picture(8, i))
            (folder / "images" / "bad.png").write_bytes(data)
            return ["--data", str(folder / "images"), "--preprocess", "resize=8,crop=8,scale=1/255"]


_pictures()


@case("a function that is not there", USAGE, "there is no function")
def _(folder: Path) -> list[str]:
    return ["--data", "no_such_module:samples"]


# --------------------------------------------------------------------------------------------------------------- recipes

STEPS = "steps: [{pass: quantize}]\n"

RECIPES: dict[str, tuple[str, int, str]] = {
    "aliases that double": (
        "schema: 1\na0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40)) + STEPS,
        INPUT,
        "more than 10000 values",
    ),
    "nested 50000 deep": ("schema: 1\nsteps: " + "[" * 50_000 + "]" * 50_000, INPUT, "nested more than 16 deep"),
    "mappings nested 5000 deep": (
        "schema: 1\nsteps: " + "{a: " * 5000 + "1" + "}" * 5000,
        INPUT,
        "nested more than 16",
    ),
    "python object": ("schema: 1\nsteps: !!python/object/apply:os.system ['touch ran']\n", USAGE, "is not allowed"),
    "python name": ("schema: 1\nsteps: !!python/name:os.system\n", USAGE, "is not allowed"),
    "an integer of 10000 digits": (f"schema: 1\ndata: {{seed: {'9' * 10_000}}}\n" + STEPS, USAGE, "data.seed"),
    "a negative count": ("schema: 1\ndata: {count: -5}\n" + STEPS, USAGE, "data.count"),
    "an infinite ratio": ("schema: 1\nsteps: [{pass: prune, ratio: .inf}]\n", USAGE, "steps[0].ratio"),
    "a ratio that is no number": ("schema: 1\nsteps: [{pass: prune, ratio: .nan}]\n", USAGE, "steps[0].ratio"),
    "unknown pass": ("schema: 1\nsteps: [{pass: rm -rf}]\n", USAGE, "there is no pass"),
    "unknown key": ("schema: 1\nexec: 'touch ran'\n" + STEPS, USAGE, "there is no such key"),
    "duplicate keys": ("schema: 1\n" + STEPS + "steps: [{pass: prune}]\n", USAGE, "given twice"),
    "a recursive alias": ("schema: 1\nsteps: &a [*a]\n", INPUT, "more than 10000 values or 16 levels"),
    "not text": ("\x00\x01\x02", USAGE, "not YAML"),
    "empty": ("", USAGE, "a recipe is a mapping"),
    "a list": ("- 1\n- 2\n", USAGE, "a recipe is a mapping"),
    "three million lines": ("schema: 1\n" + STEPS + "# x\n" * 3_000_000, INPUT, "at most 1048576 are read"),
    "an expression nested 20000 deep": (
        f"schema: 1\nsteps: [{{pass: quantize, where: '{'(' * 20_000}op=gemm{')' * 20_000}'}}]\n",
        USAGE,
        "at most 4096",
    ),
    "layers that are not there": ("schema: 1\nsteps: [{pass: quantize, where: name=head}]\n", USAGE, "fits no layer"),
    "extends itself": ("schema: 1\nextends: recipe.yaml\n" + STEPS, USAGE, "in a circle"),
    "extends upwards": ("schema: 1\nextends: ../../../../etc/passwd\n" + STEPS, USAGE, "there is no recipe or file"),
}


def _recipes() -> None:
    for name, (text, code, says) in RECIPES.items():

        @case(f"recipe: {name}", code, says)
        def build(folder: Path, text: str = text) -> list[str]:
            (folder / "recipe.yaml").write_bytes(text.encode("latin1"))
            return ["--recipe", str(folder / "recipe.yaml"), "--data", str(folder.parent / "net.npz")]


_recipes()

# ---------------------------------------------------------------------------------------------------------------- judging

CHILD = """
import contextlib, io, json, os, sys
import anyir
from anyir.driver.cli import run
work = sys.argv[1]
for line in sys.stdin:
    name, folder, options = json.loads(line)
    os.chdir(folder)
    told = io.StringIO()
    with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
        given = [] if "--recipe" in options else ["--quantize", "int8"]
        source = os.path.join(work, "pictures.onnx" if "--preprocess" in options else "net.onnx")
        code = run(["compress", source, "-o", "out.onnx", "--no-verify", *given, *options])
    os.chdir(work)
    with open("outcomes", "a") as file:
        file.write(json.dumps([name, code, told.getvalue()]) + chr(10))
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str, Path, set[str]]]:
    """Exit code, message, folder, and the names of files that were there before, of every case."""
    root = tmp_path_factory.mktemp("compress")
    classifier(root)
    cnn(root / "pictures.onnx")
    asked, before = [], {}
    for number, hostile in enumerate(CASES):
        folder = root / str(number)
        folder.mkdir()
        asked.append(json.dumps([hostile.name, str(folder), hostile.build(folder)]))
        before[hostile.name] = folder, _files(folder)

    def bounded() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))

    command = [sys.executable, "-c", CHILD, str(root)]
    threads = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    done = subprocess.run(
        command, input="\n".join(asked), preexec_fn=bounded, env=threads, capture_output=True, text=True, timeout=500
    )
    told = [json.loads(line) for line in (root / "outcomes").read_text().splitlines()]
    found = {name: (code, text, *before[name]) for name, code, text in told}
    missing = [hostile.name for hostile in CASES if hostile.name not in found]
    assert not missing, f"the process ended ({done.returncode}) at: {missing[0]}\n{done.stderr[-3000:]}"
    return found


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize("hostile", CASES, ids=lambda c: c.name)
def test_hostile_input(hostile: Case, outcomes: dict[str, tuple[int, str, Path, set[str]]]) -> None:
    code, text, folder, before = outcomes[hostile.name]
    assert code == hostile.code, text
    made = _files(folder) - before
    assert made == ({"out.onnx"} if code == 0 else set())
    if code:
        told = [line for line in text.splitlines() if line.startswith("irc: ")]
        assert len(told) == 1 and told[0].startswith("irc: error["), text
        assert "Traceback" not in text and len(text.encode()) <= 8192
        assert all(c == "\n" or c.isprintable() for c in text), repr(text[:500])
        assert hostile.says in text
