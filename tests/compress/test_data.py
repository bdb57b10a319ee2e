"""Data sets: every kind of source gives the same samples, streams them, and says what is wrong with bad ones."""

from __future__ import annotations

import itertools
import struct
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from anyir.compress.data import Dataset, check_disjoint, open_data
from anyir.ir.builder import Builder
from anyir.ir.dims import sym
from anyir.ir.errors import AnyIRError, InvalidData, LimitExceeded, SystemFailure, Unsupported, UsageError
from anyir.ir.graph import Module
from anyir.ir.signature import Slot
from anyir.ir.storage import limits
from anyir.ir.types import F32, I8, I32, I64, STRING, TensorType

DTYPES = {"f32": F32, "i8": I8, "i32": I32, "i64": I64}
RNG = np.random.default_rng(0)
X = RNG.standard_normal((12, 4)).astype(np.float32)
Y = np.arange(12) % 3


def module(shape: str = "N, 4", dtype: str = "f32", inputs: tuple[str, ...] = ("x",)) -> Module:
    """Outputs are the inputs, negated; `shape` is one for all, or one per input after ';'."""
    shapes = (shape.split(";") * len(inputs))[: len(inputs)]
    made = Module("m")
    graph = made.add_graph("main")
    b = Builder(graph)
    values = [graph.add_input(TensorType(DTYPES[dtype], dims(s)), n) for n, s in zip(inputs, shapes, strict=True)]
    graph.set_outputs([b.neg(value) for value in values])
    made.add_signature("serving_default", graph, list(inputs), [f"out_{name}" for name in inputs])
    return made


def dims(text: str) -> tuple[Any, ...]:
    return tuple(int(part) if part.strip().isdigit() else sym(part.strip()) for part in text.split(","))


def rows(data: Dataset, name: str = "x", size: int | None = None) -> np.ndarray:
    return np.concatenate([feeds[name] for feeds in data.batches(size)])


class Loader:
    """What a torch DataLoader is to us: an iterable of batches that can be walked through again."""

    def __init__(self, batch: int, labels: bool = True) -> None:
        self.batch, self.labels = batch, labels

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, len(X), self.batch):
            part = slice(start, start + self.batch)
            yield (X[part], Y[part]) if self.labels else X[part]


def stream() -> Iterator[Any]:
    yield from zip(X, Y, strict=True)


def saved(folder: Path, kind: str) -> Any:
    """X and Y as a source of that kind."""
    if kind in ("npz", "npz-deflated"):
        path = folder / "data.npz"
        (np.savez if kind == "npz" else np.savez_compressed)(path, x=X, labels=Y)
        return path
    if kind == "npz-fortran":
        np.savez_compressed(folder / "f.npz", x=np.asfortranarray(X), y=Y)
        return folder / "f.npz"
    if kind == "npz-position":
        np.savez(folder / "p.npz", X)
        return folder / "p.npz"
    if kind == "npy-samples":
        for i, x in enumerate(X):
            np.save(folder / f"{i:02}.npy", x)
        np.save(folder / "labels.npy", Y)
        return folder
    if kind == "npy-batches":
        for i in range(3):
            np.save(folder / f"{i}.npy", X[4 * i : 4 * i + 4])
        return folder
    if kind == "npy-columns":
        for name, part in (("x", X), ("labels", Y)):
            (folder / name).mkdir()
            for i in range(3):
                np.save(folder / name / f"{i}.npy", part[4 * i : 4 * i + 4])
        return folder
    np.save(folder / "all.npy", X)
    return folder / "all.npy"


SOURCES = {
    "mapping": {"x": X, "labels": Y},
    "array": X,
    "list": list(X),
    "dicts": [{"x": x, "y": y} for x, y in zip(X, Y, strict=True)],
    "function": stream,
    "loader": Loader(5),
    "loader-of-one": Loader(1),
    "loader-unlabelled": Loader(5, labels=False),
}
FILES = ("npz", "npz-deflated", "npz-fortran", "npz-position", "npy-samples", "npy-batches", "npy-columns", "npy")
UNLABELLED = ("array", "list", "loader-unlabelled", "npz-position", "npy-batches", "npy")


@pytest.mark.parametrize("kind", [*SOURCES, *FILES])
def test_every_source_gives_the_same_samples(kind: str, tmp_path: Path) -> None:
    source = SOURCES[kind] if kind in SOURCES else saved(tmp_path, kind)
    data = open_data(source, module())
    np.testing.assert_array_equal(rows(data, size=5), X)
    np.testing.assert_array_equal(rows(data, size=1), X)
    assert data.count == 12
    assert data.digest == open_data(X, module()).digest
    if kind in UNLABELLED:
        assert data.labels is None
    else:
        np.testing.assert_array_equal(data.labels, Y)
    part = data.sample(5, seed=3)
    chosen = [int(np.flatnonzero((x == X).all(axis=1))[0]) for x in rows(part)]
    assert chosen == sorted(set(chosen)) and len(chosen) == 5
    if part.labels is not None:
        np.testing.assert_array_equal(part.labels, Y[chosen])
    np.testing.assert_array_equal(rows(open_data(X, module()).sample(5, seed=3)), X[chosen])


def test_torch_data_loader() -> None:
    torch = pytest.importorskip("torch")
    dataset = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y))
    data = open_data(torch.utils.data.DataLoader(dataset, batch_size=5), module())
    np.testing.assert_array_equal(rows(data), X)
    np.testing.assert_array_equal(data.labels, Y)
    shuffled = open_data(torch.utils.data.DataLoader(dataset, batch_size=5, shuffle=True), module())
    rows(shuffled)
    with pytest.raises(InvalidData, match="other samples than in an earlier pass"):
        rows(shuffled)


def test_function_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_calibration_data.py").write_text(
        "def rows():\n    return [[float(i), 0, 0, 0] for i in range(7)]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        data = open_data("my_calibration_data:rows", module())
        assert rows(data)[:, 0].tolist() == list(range(7))
        with pytest.raises(UsageError, match="has no attribute 'nothing'"):
            open_data("my_calibration_data:nothing", module())
    finally:
        sys.modules.pop("my_calibration_data", None)
    with pytest.raises(UsageError, match="No module named"):
        open_data("my_absent_module:rows", module())


# Binding to inputs.


def test_batches_follow_the_module() -> None:
    fixed = open_data(X, module("5, 4"))
    assert [len(f["x"]) for f in fixed.batches(2)] == [5, 5]
    assert (fixed.count, fixed.left_out) == (10, 2)
    assert len(open_data({"x": X, "y": Y}, module("5, 4")).labels) == 10
    assert [f["x"].shape for f in open_data(X, module("1, 4")).batches()] == [(1, 4)] * 12
    assert [f["x"].shape for f in open_data(X[:, None], module("1, 4")).batches()] == [(1, 4)] * 12
    with pytest.raises(InvalidData, match="there are 4 samples, the model takes 5 at a time"):
        list(open_data(X[:4], module("5, 4")).batches())


def test_model_without_a_batch_axis() -> None:
    """A static leading dim that no output begins with is not a batch: rows of it never mix."""
    made = Module("m")
    graph = made.add_graph("main")
    x = graph.add_input(TensorType(F32, (3, 4)), "x")
    graph.set_outputs([Builder(graph).reduce_sum(x, [0], keepdims=False)])
    made.add_signature("serving_default", graph, ["x"], ["y"])
    data = RNG.standard_normal((6, 3, 4)).astype(np.float32)
    opened = open_data(data, made)
    assert opened.count == 6
    np.testing.assert_array_equal(np.stack([f["x"] for f in opened.batches(4)]), data)
    assert open_data(data[0], made).count == 1
    with pytest.raises(InvalidData, match=r"\[12, 4\], the model wants f32\[3, 4\]"):
        open_data(X, made)


def test_shared_and_whole_inputs_stand_beside_rows() -> None:
    """A state of two layers and a scalar have no batch: one for all samples, or one per sample."""
    made = module("1, 4; 2, 1, 3", inputs=("x", "state"))
    state = np.ones((2, 1, 3), np.float32)
    feeds = list(open_data({"x": X, "state": state}, made).batches())
    assert len(feeds) == 12 and all(np.array_equal(f["state"], state) for f in feeds)
    own = RNG.standard_normal((12, 2, 1, 3)).astype(np.float32)
    feeds = list(open_data({"x": X, "state": own}, made).batches(8))
    np.testing.assert_array_equal(np.stack([f["state"] for f in feeds]), own)
    with pytest.raises(InvalidData, match="different numbers of samples: 'x' has 12, 'state' has 5"):
        open_data({"x": X, "state": own[:5]}, made)


def test_samples_of_different_lengths_do_not_share_a_batch() -> None:
    texts = [np.arange(n, dtype=np.int64) for n in (3, 3, 5, 3, 3)]
    shapes = [f["x"].shape for f in open_data(texts, module("N, T", "i64")).batches(4)]
    assert shapes == [(2, 3), (1, 5), (2, 3)]


def test_several_inputs_by_name_and_position() -> None:
    made = module("N, 4; N", inputs=("a", "b"))
    b = Y.astype(np.float32)
    for source in (
        {"b": b, "a": X, "labels": Y},
        [(x, v, y) for x, v, y in zip(X, b, Y, strict=True)],
        [({"a": x, "b": v}, y) for x, v, y in zip(X, b, Y, strict=True)],
        {"arr_0": X, "arr_1": b},
    ):
        data = open_data(source, made)
        np.testing.assert_array_equal(rows(data, "a"), X)
        np.testing.assert_array_equal(rows(data, "b"), b)
    with pytest.raises(InvalidData, match="the data has a; the model's inputs are a f32.*, b f32"):
        open_data({"a": X}, made)


def test_a_list_of_two_numbers_is_no_sample_and_label() -> None:
    pairs = [[np.float32(a), np.float32(b)] for a, b in X[:, :2]]
    data = open_data(pairs, module("N, 2"))
    np.testing.assert_array_equal(rows(data), X[:, :2])
    assert data.labels is None


def test_dtypes_are_cast_only_where_nothing_is_lost() -> None:
    np.testing.assert_array_equal(rows(open_data(X.astype(np.float64), module())), X)
    bytes_ = RNG.integers(0, 255, (3, 4)).astype(np.uint8)
    np.testing.assert_array_equal(rows(open_data(bytes_, module())), bytes_.astype(np.float32))
    with pytest.raises(InvalidData, match="is float32, the model wants i32"):
        open_data(X, module(dtype="i32"))
    with pytest.raises(InvalidData, match="values that do not fit i8"):
        open_data(np.full((2, 4), 300), module(dtype="i8"))
    with pytest.raises(InvalidData, match="NaN or infinity"):
        open_data(np.full((2, 4), 1e60), module())


# Selection.


def test_split_is_disjoint_and_seeded() -> None:
    data = open_data(np.concatenate([X, X[:6]]), module())
    a, b = data.split([4, 8], seed=1)
    assert not {x.tobytes() for x in rows(a)} & {x.tobytes() for x in rows(b)}
    assert len({x.tobytes() for x in (*rows(a), *rows(b))}) == 12
    check_disjoint(a, b)
    turned = open_data(np.concatenate([X[:6], X[::-1]]), module()).split([4, 8], seed=1)
    assert {x.tobytes() for x in rows(turned[0])} == {x.tobytes() for x in rows(a)}
    assert {x.tobytes() for x in rows(data.split([4, 8], seed=2)[0])} != {x.tobytes() for x in rows(a)}
    inner = a.split([2, 2], seed=5)
    assert {x.tobytes() for part in inner for x in rows(part)} == {x.tobytes() for x in rows(a)}
    with pytest.raises(UsageError, match="13 samples are asked for, there are 12 different ones"):
        data.split([4, 9])


def test_shared_samples_are_found() -> None:
    with pytest.raises(UsageError, match="2 samples in common"):
        check_disjoint(open_data(X[:7], module()), open_data(X[5:], module()))


def test_limit() -> None:
    assert open_data(X, module(), limit=5).count == 5
    assert open_data(X, module(), limit=50).count == 12
    drawn = rows(open_data(X, module(), limit=5, seed=1))
    assert not np.array_equal(drawn, X[:5])
    np.testing.assert_array_equal(drawn, rows(open_data(X, module()).sample(5, seed=1)))
    endless = open_data(lambda: ([0.0, 0, 0, float(i)] for i in itertools.count()), module(), limit=9)
    assert (endless.count, rows(endless)[:, 3].tolist()) == (9, list(range(9)))


def test_too_few_samples() -> None:
    with pytest.raises(UsageError, match="13 samples are asked for, there are 12"):
        open_data(X, module()).sample(13)
    with pytest.raises(InvalidData, match="there is no sample"):
        open_data([], module()).digest  # noqa: B018


def test_a_shrinking_stream_is_noticed() -> None:
    sizes = iter((12, 12, 7))
    data = open_data(lambda: X[: next(sizes)], module())
    assert data.count == 12
    with pytest.raises(InvalidData, match="other samples than in an earlier pass"):
        rows(data)


# Bad data.


def bad_sources(folder: Path) -> dict[str, tuple[Any, str, str]]:
    """name -> (source, error class, pattern)"""
    np.savez(folder / "object.npz", x=np.array([{}, []], object))
    np.save(folder / "object.npy", np.array([{}, []], object))
    np.savez(folder / "text.npz", x=np.array(["a", "b"]))
    np.savez(folder / "records.npz", x=np.zeros(3, [("a", "f4")]))
    np.savez(folder / "wrong.npz", x=X[:, :3])
    np.savez(folder / "names.npz", a=X, b=X)
    np.savez(folder / "labels.npz", x=X, labels=Y[:5])
    (folder / "cut.npy").write_bytes((folder / "object.npy").read_bytes()[:40])
    np.save(folder / "whole.npy", X)
    (folder / "short.npy").write_bytes((folder / "whole.npy").read_bytes()[:-8])
    (folder / "no.npz").write_bytes(b"not a zip archive")
    (folder / "empty").mkdir()
    (folder / "data.txt").write_text("1,2,3")
    nan = X.copy()
    nan[7, 2] = np.nan
    np.savez(folder / "nan.npz", x=nan)
    with zipfile.ZipFile(folder / "other.npz", "w") as archive:
        archive.writestr("x.txt", "hello")
    return {
        "missing": (folder / "nothing.npz", "UsageError", "there is no file or folder"),
        "kind": (folder / "data.txt", "UsageError", "data cannot come from"),
        "empty folder": (folder / "empty", "InvalidData", "no .npy file and no image"),
        "pickle npz": (folder / "object.npz", "InvalidData", "Python objects: pickles are never read"),
        "pickle npy": (folder / "object.npy", "InvalidData", "Python objects: pickles are never read"),
        "text": (folder / "text.npz", "InvalidData", "not an array of numbers but of '<U1'"),
        "records": (folder / "records.npz", "InvalidData", "not an array of numbers"),
        "cut header": (folder / "cut.npy", "InvalidData", "header is cut off"),
        "cut data": (folder / "short.npy", "InvalidData", r"declares \[12, 4\] of float32, 192 bytes; there are 184"),
        "no zip": (folder / "no.npz", "InvalidModel", "not a zip archive"),
        "no array": (folder / "other.npz", "InvalidData", "not a .npy array"),
        "shape": (folder / "wrong.npz", "InvalidData", r"\[3\], the model wants f32\[N, 4\]"),
        "names": (folder / "names.npz", "InvalidData", "the data has a, b; the model's inputs are x"),
        "labels": (folder / "labels.npz", "InvalidData", "5 labels for 12 samples"),
        "nan": (folder / "nan.npz", "InvalidData", r"sample 7: input 'x' has NaN or infinity"),
        "rank": (np.zeros((2, 3, 4, 5)), "InvalidData", r"\[2, 3, 4, 5\], the model wants f32\[N, 4\]"),
        "objects": ({"x": [{}, {}]}, "InvalidData", "numbers are expected"),
        "iterator": (iter(list(X)), "UsageError", "an iterator can be walked through only once"),
        "number": (lambda: 7, "UsageError", "an iterable of samples is expected"),
        "raises": (lambda: 1 / 0, "UsageError", "it raised ZeroDivisionError"),
        "none": (3, "UsageError", "data cannot come from int"),
        "ragged": ([[[1, 2], [3]]], "InvalidData", "not an array"),
    }


BAD = ("missing", "kind", "empty folder", "pickle npz", "pickle npy", "text", "records", "cut header", "cut data", "no zip",
       "no array", "shape", "names", "labels", "nan", "rank", "objects", "iterator", "number", "raises", "none",
       "ragged")  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_data_is_named(name: str, tmp_path: Path) -> None:
    source, kind, pattern = bad_sources(tmp_path)[name]
    with pytest.raises(AnyIRError, match=pattern) as caught:
        rows(open_data(source, module()))
    assert type(caught.value).__name__ == kind
    assert caught.value.code[0] in "RF"


def test_bad_files_of_a_folder_are_named(tmp_path: Path) -> None:
    for i in range(8):
        np.save(tmp_path / f"{i}.npy", X[i, :3] if i % 2 else X[i])
    (tmp_path / "0.npy").write_bytes(b"nothing")
    with pytest.raises(InvalidData) as caught:
        rows(open_data(tmp_path, module("N, 4")))
    assert "0.npy" in str(caught.value)
    (tmp_path / "2.npy").write_bytes(b"")
    (tmp_path / "4.npy").write_bytes(b"")
    (tmp_path / "6.npy").write_bytes(b"")
    with pytest.raises(InvalidData) as caught:
        open_data(tmp_path, module("N, 4"))
    assert [f"{i}.npy" in str(caught.value) for i in (0, 2, 4, 6)] == [True, True, True, False]


@pytest.mark.parametrize("name", ["npy", "npz", "npz-deflated"])
def test_damaged_files_raise_nothing_else(name: str, tmp_path: Path) -> None:
    """Any byte of a file may be another, and its end may be missing."""
    path = saved(tmp_path, name)
    raw, rng = path.read_bytes(), np.random.default_rng(1)
    refused = 0
    for _ in range(120):
        broken = bytearray(raw)
        for at in rng.integers(0, len(raw), 2):
            broken[at] = rng.integers(0, 256)
        path.write_bytes(broken[: rng.integers(len(raw) // 2, 2 * len(raw))])
        try:
            made = rows(open_data(path, module()))
        except AnyIRError:
            refused += 1
        else:
            assert made.shape[1:] == (4,) and np.isfinite(made).all()
    assert refused > 30


def test_links_out_of_a_folder_are_not_followed(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    np.save(tmp_path / "secret.npy", X[0])
    np.save(folder / "0.npy", X[0])
    (folder / "1.npy").symlink_to(tmp_path / "secret.npy")
    with pytest.raises(InvalidData, match="symbolic link"):
        open_data(folder, module())
    (folder / "1.npy").unlink()
    (folder / "deep").symlink_to(tmp_path)
    with pytest.raises(AnyIRError, match="deep"):
        open_data(folder, module())


def test_declared_sizes_take_no_memory(tmp_path: Path) -> None:
    """A header of terabytes, and a member that inflates without end, are refused before anything is taken."""
    head = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000, 4), }"
    (tmp_path / "big.npy").write_bytes(b"\x93NUMPY\1\0" + struct.pack("<H", len(head)) + head + bytes(64))
    with pytest.raises(InvalidData, match="16000000000 bytes; there are 64"):
        open_data(tmp_path / "big.npy", module())
    np.savez_compressed(tmp_path / "bomb.npz", x=np.zeros((200_000, 4), np.float32))
    with limits(zip_free_bytes=1000, zip_ratio=10), pytest.raises(LimitExceeded, match="inflate to"):
        open_data(tmp_path / "bomb.npz", module())


def test_damaged_archive_is_noticed(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=X)
    raw = bytearray((tmp_path / "d.npz").read_bytes())
    at = raw.index(X.tobytes())
    raw[at + 1] ^= 1
    (tmp_path / "d.npz").write_bytes(raw)
    with pytest.raises(InvalidData, match="the checksum differs"):
        rows(open_data(tmp_path / "d.npz", module()))


def test_folders_of_many_files_keep_none_open(tmp_path: Path) -> None:
    for i in range(100):
        np.save(tmp_path / f"{i:03}.npy", X[i % 12])
    before = len(list(Path("/proc/self/fd").iterdir()))
    data = open_data(tmp_path, module())
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert data.count == 100
    np.save(tmp_path / "050.npy", X[:2])
    with pytest.raises(SystemFailure, match=r"050\.npy: the file changed while it was in use"):
        rows(data)


def test_inputs_with_a_default_are_left_to_it() -> None:
    made = module("N, 4; 3", inputs=("x", "rate"))
    weight = made.add_weight("rate", np.ones(3, np.float32)).weight
    made.signature.inputs[1] = Slot("rate", default=weight)
    data = open_data(X, made)
    assert [list(feeds) for feeds in data.batches()] == [["x"]]
    with pytest.raises(InvalidData, match="the data has x, rate; the model's inputs are x f32"):
        open_data({"x": X, "rate": np.ones(3, np.float32)}, made)


def test_inputs_that_samples_cannot_feed() -> None:
    made = Module("m")
    graph = made.add_graph("main")
    graph.set_outputs([graph.add_input(TensorType(STRING, (sym("N"),)), "words")])
    made.add_signature("serving_default", graph, ["words"], ["y"])
    with pytest.raises(Unsupported, match=r"input 'words' is str\[N\]: samples are numeric tensors"):
        open_data([["a"]], made)


def test_memory_is_that_of_a_batch(tmp_path: Path) -> None:
    """An .npz of 6 MB is read, stored or deflated, in 2 MB."""
    import tracemalloc

    big = np.tile(RNG.standard_normal((60, 1000)).astype(np.float32), (25, 1))
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "big.npz", x=big)
        data = open_data(tmp_path / "big.npz", module("N, 1000"))
        tracemalloc.start()
        total = sum(float(f["x"].sum(dtype=np.float64)) for f in data.batches(16))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert total == pytest.approx(float(big.sum(dtype=np.float64)), abs=1e-6)
        assert peak < 2 << 20
