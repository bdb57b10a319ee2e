"""Weights that are mostly zero, stored without the zeros: smaller files, the same bits in LiteRT, read back as they were."""

from __future__ import annotations

import itertools
from pathlib import Path

import anyir
import numpy as np
import pytest
from anyir.backends import tflite
from anyir.formats import tflite_sparse
from anyir.formats.tflite import Record, parse
from anyir.formats.tflite_schema import OP_NAMES
from anyir.formats.tflite_sparse import COMPRESSED, DENSE, decode, encode
from anyir.frontends.tflite import read
from anyir.ir.builder import Builder
from anyir.ir.errors import InvalidModel, LimitExceeded, Unsupported
from anyir.ir.graph import Module
from anyir.ir.storage import limits
from anyir.ir.types import F16, F32, I8, TensorType
from anyir.kernels.compare import compare, limits_for
from anyir.kernels.run import run

RNG = np.random.default_rng(6)
KERNELS = ({}, {"xnnpack": False}, {"xnnpack": False, "reference": True})


def thinned(array: np.ndarray, share: float = 0.9) -> np.ndarray:
    return np.where(RNG.random(array.shape) < share, 0, array).astype(array.dtype)


def net(kind: str, share: float = 0.9) -> Module:
    """Three kinds of convolution and a matrix; `kind` is how the weights are stored and what the data are."""
    module = Module("sparse")
    graph = module.add_graph("main")
    b = Builder(graph)
    x = graph.add_input(TensorType(F32, (1, 8, 6, 6)), "x")
    rng, stored = np.random.default_rng(3), {"float": F32, "half": F16}.get(kind, I8)

    def point(value):
        parts = b.const(np.float32(0.05)), b.const(np.int8(3))
        return b.dequantize(b.quantize(value, *parts, to=I8), *parts, to=F32) if kind == "integer" else value

    def weight(key: str, *shape: int):
        array = rng.normal(size=shape)
        if stored is I8:
            array = np.clip(np.rint(array * 40), -127, 127)
        value = b.const(thinned(array, share).astype(stored.numpy), key=key, role="param")
        if stored is F16:
            return b.cast(value, to=F32)
        return b.dequantize(value, b.const(np.float32(0.01)), to=F32) if stored is I8 else value

    y = point(b.relu(b.conv(point(x), weight("c", 32, 8, 3, 3), pads=(1, 1, 1, 1))))
    y = point(b.conv(y, weight("p", 64, 32, 1, 1)))
    y = point(b.relu(b.conv(y, weight("d", 64, 1, 3, 3), groups=64)))
    y = point(b.matmul(b.reshape(y, (1, -1)), weight("f", 1024, 40)))
    graph.set_outputs([y])
    module.add_signature("serving_default", graph, ["x"], ["y"])
    return module


def operators(path: Path) -> list[str]:
    model = parse(path.read_bytes())
    names = [OP_NAMES[code["builtin_code"]] for code in model["operator_codes"]]
    return [names[op["opcode_index"]] for op in model["subgraphs"][0]["operators"]]


@pytest.mark.parametrize("kind", ["float", "half", "weights", "integer"])
def test_the_same_bits_from_a_smaller_file(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("ai_edge_litert")
    from anyir.runtimes import litert

    module = net(kind)
    whole, small = tmp_path / "whole.tflite", tmp_path / "small.tflite"
    anyir.save(module, whole)
    anyir.save(module, small, sparse=True)
    assert "DENSIFY" not in operators(whole)
    # 576 bytes of depthwise filters are not worth a record; XNNPACK fails on integers for FULLY_CONNECTED that are computed
    assert operators(small).count("DENSIFY") == {"float": 4, "half": 4, "weights": 3, "integer": 2}[kind]
    assert small.stat().st_size < {"float": 0.25, "integer": 1.0}.get(kind, 0.5) * whole.stat().st_size
    x = {"x": RNG.normal(size=(1, 8, 6, 6)).astype(np.float32)}
    jobs = [litert.Job(str(path), x, **kernels) for path in (whole, small) for kernels in KERNELS]
    found = litert.run_many(jobs)
    for before, after in zip(found[: len(KERNELS)], found[len(KERNELS) :], strict=True):
        np.testing.assert_array_equal(before["y"], after["y"])
    np.testing.assert_array_equal(run(read(small), x)["y"], run(read(whole), x)["y"])


def test_what_would_not_be_smaller_stays_as_it_is(tmp_path: Path) -> None:
    """Four bytes of a number against five, with its index in the row: below a fifth of zeros nothing is gained."""
    for share, wanted in ((0.0, 0), (0.15, 0), (0.6, 4)):
        tflite.write(net("float", share), tmp_path / "m.tflite", sparse=True)
        assert operators(tmp_path / "m.tflite").count("DENSIFY") == wanted


def test_products_of_float_data_with_integers_keep_their_constants(tmp_path: Path) -> None:
    """XNNPACK refuses a file where such weights are computed."""
    tflite.write(net("weights"), tmp_path / "m.tflite", sparse=True, hybrid=True)
    assert "DENSIFY" not in operators(tmp_path / "m.tflite")


def test_a_weight_of_two_readers_is_stored_once(tmp_path: Path) -> None:
    module = Module("shared")
    graph = module.add_graph("main")
    b = Builder(graph)
    x = graph.add_input(TensorType(F32, (4, 64)), "x")
    w = b.const(thinned(RNG.normal(size=(64, 64)).astype(np.float32)), key="w", role="param")
    graph.set_outputs([b.matmul(b.relu(b.matmul(x, w)), w)])
    module.add_signature("serving_default", graph, ["x"], ["y"])
    tflite.write(module, tmp_path / "m.tflite", sparse=True)
    given = {"x": RNG.normal(size=(4, 64)).astype(np.float32)}
    report = compare(run(module, given), run(read(tmp_path / "m.tflite"), given), limits_for(module, given))
    assert report.passed, str(report)


# ----------------------------------------------------------------------------------------------------------- the format


def levels_of(array: np.ndarray, order: tuple[int, ...], packed: tuple[bool, ...]) -> tuple[np.ndarray, Record]:
    """Elements and record for any order of axes with any of them compressed, element by element: an independent writer."""
    paths: list[tuple[int, ...]] = [()]
    made = []
    for depth, axis in enumerate(order):
        size, longer, ends, indices = array.shape[axis], [], [0], []
        for path in paths:
            for place in range(size):
                where = [slice(None)] * array.ndim
                for known, at in zip(order, (*path, place), strict=False):
                    where[known] = slice(at, at + 1)
                if not packed[depth] or array[tuple(where)].any():
                    longer.append((*path, place))
                    indices.append(place)
            ends.append(len(indices))
        level = Record("DimensionMetadata", format=COMPRESSED if packed[depth] else DENSE, dense_size=size)
        if packed[depth]:
            level["array_segments"] = Record("Int32Vector", {"values": np.array(ends, np.int32)})
            level["array_indices"] = Record("Int32Vector", {"values": np.array(indices, np.int32)})
        made.append(level)
        paths = longer
    elements = [array[tuple(path[order.index(axis)] for axis in range(array.ndim))] for path in paths]
    slots = {"traversal_order": np.array(order, np.int32), "dim_metadata": made, "block_map": None}
    return np.array(elements, array.dtype), Record("SparsityParameters", slots)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_any_order_of_axes_and_any_compression_is_read(order: tuple[int, ...]) -> None:
    array = thinned(RNG.integers(-9, 10, (3, 4, 5)).astype(np.float32), 0.7)
    for packed in itertools.product((False, True), repeat=3):
        values, record = levels_of(array, order, packed)
        np.testing.assert_array_equal(decode(record, values, array.shape), array)


def full(record: Record) -> Record:
    """With the slots that a parsed record has."""
    blank = {"array_segments": None, "array_indices": None}
    levels = [Record("DimensionMetadata", {**blank, **level}) for level in record["dim_metadata"]]
    return Record("SparsityParameters", {"block_map": None, **record, "dim_metadata": levels})


@pytest.mark.parametrize("width", [40, 300, 70_000])
def test_indices_take_the_narrowest_type(width: int) -> None:
    array = thinned(RNG.normal(size=(9, width)).astype(np.float32))
    array[0, -1] = 1.0
    values, record = encode(array)  # type: ignore[misc]
    indices = record["dim_metadata"][-1]["array_indices"]
    assert indices.table == {40: "Uint8Vector", 300: "Uint16Vector", 70_000: "Int32Vector"}[width]
    np.testing.assert_array_equal(decode(full(record), values, array.shape), array)


def test_negative_zeros_and_nan_are_elements() -> None:
    array = np.zeros((40, 40), np.float32)
    array[3, 4], array[7, 7], array[8, 1] = -0.0, np.nan, np.inf
    values, record = encode(array)  # type: ignore[misc]
    found = decode(full(record), values, array.shape)
    np.testing.assert_array_equal(found.view(np.uint32), array.view(np.uint32))


def test_nothing_but_zeros_and_vectors_are_left_alone() -> None:
    assert encode(np.zeros((50, 50), np.float32)) is None
    assert encode(np.zeros((0, 50), np.float32)) is None
    assert encode(np.array([1.0] + [0.0] * 5000, np.float32)) is None


SPOILED = {
    "elements": lambda r, v: (r, v[:-1]),
    "levels": lambda r, v: (r["dim_metadata"].pop() and r, v),
    "order": lambda r, v: (r.update(traversal_order=np.array([0, 0], np.int32)) or r, v),
    "size": lambda r, v: (r["dim_metadata"][0].update(dense_size=7) or r, v),
    "outside": lambda r, v: (_indices(r).__setitem__(0, 39) or r, v),
    "twice": lambda r, v: (_indices(r).__setitem__(slice(0, 2), 3) or r, v),
    "rows": lambda r, v: (r["dim_metadata"][-1]["array_segments"]["values"].__setitem__(2, 200) or r, v),
    "none": lambda r, v: (r["dim_metadata"][-1].update(array_indices=None) or r, v),
}


def _indices(record: Record) -> np.ndarray:
    return record["dim_metadata"][-1]["array_indices"]["values"]


@pytest.mark.parametrize("name", SPOILED)
def test_records_that_do_not_fit_together_are_refused(name: str) -> None:
    array = np.zeros((60, 30), np.float32)
    array[:, 5:8] = 1.0
    values, record = encode(array)  # type: ignore[misc]
    record, values = SPOILED[name](full(record), values)
    with pytest.raises(InvalidModel):
        decode(record, values, array.shape, "w")


def test_blocks_and_huge_shapes_are_refused_before_anything_is_made() -> None:
    values, record = encode(thinned(RNG.normal(size=(60, 60)).astype(np.float32)))  # type: ignore[misc]
    with pytest.raises(Unsupported, match="blocks"):
        decode(Record("SparsityParameters", {**full(record), "block_map": np.array([0], np.int32)}), values, (60, 60))
    with limits(fold_total_bytes=1000), pytest.raises(LimitExceeded):
        decode(full(record), values, (60, 60))
    assert tflite_sparse.OVERHEAD > 0
