"""Tensors: however the data is stored, contents, blocks, bytes and digests agree."""

from __future__ import annotations

import io
import os
import pickle  # noqa: TID251  (our own objects travel between processes)
import resource
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from anyir.ir import types
from anyir.ir.errors import AnyIRError, InternalError, InvalidModel, LimitExceeded, SystemFailure, Unsupported
from anyir.ir.lazy import _evaluators, register_evaluator
from anyir.ir.storage import atomic_write, map_file
from anyir.ir.tensor import (
    ArrayTensor,
    LazyTensor,
    MappedTensor,
    PackedTensor,
    SplatTensor,
    StringTensor,
    as_tensor,
    checked_shape,
    pack,
    row_major_boxes,
    unpack,
)
from anyir.ir.types import BF16, BOOL, F32, F64, I4, I8, I32, I64, STRING, U2, U4, U8
from hypothesis import given, settings
from hypothesis import strategies as st

DTYPES = sorted((t for t in types.ALL if t is not STRING), key=lambda t: t.name)
shapes = st.lists(st.integers(0, 5), max_size=4).map(tuple)


def sample(dtype, shape, seed=0):
    """Every bit pattern of a small type, random ones of a large one."""
    count = int(np.prod(shape, dtype=object)) if shape else 1
    rng = np.random.default_rng(seed)
    if dtype is BOOL:
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.bits < 8:
        return rng.integers(0, 1 << dtype.bits, shape).astype(np.uint8).view(dtype.numpy)
    return rng.integers(0, 256, count * dtype.numpy.itemsize).astype(np.uint8).view(dtype.numpy).reshape(shape)


def raw(tensor):
    out = io.BytesIO()
    tensor.write(out)
    return out.getvalue()


def same_bits(a, b):
    return (
        a.dtype == b.dtype
        and a.shape == b.shape
        and np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes()
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (7,), (3, 5), (2, 0, 3), (2, 3, 5)])
def test_all_storages_agree(tmp_path, dtype, shape):
    array = sample(dtype, shape)
    memory = ArrayTensor(array.copy(), dtype)
    data = raw(memory)
    assert len(data) == memory.nbytes == dtype.nbytes(array.size)
    (tmp_path / "f").write_bytes(b"\xaa" * 3 + data)  # unaligned on purpose
    mapped = MappedTensor(map_file(tmp_path / "f"), 3, len(data), dtype, shape)
    canonical = memory.numpy()
    for tensor in (
        memory,
        mapped,
        PackedTensor(data, dtype, shape),
        pickle.loads(pickle.dumps(mapped)),
        as_tensor(array, dtype),
    ):
        assert tensor.dtype is dtype and tensor.shape == shape and tensor.nbytes == len(data)
        assert same_bits(tensor.numpy().astype(canonical.dtype), canonical) or dtype.is_packed
        assert np.array_equal(_codes(tensor.numpy(), dtype), _codes(canonical, dtype))
        assert raw(tensor) == data and tensor.digest() == memory.digest()
        assert not tensor.numpy().flags.writeable and tensor.numpy().flags.aligned
        for limit in (1, 8, 1 << 20):
            blocks = list(tensor.blocks(limit))
            assert all(block.ndim == 1 and (block.nbytes <= limit or len(block) <= 8) for block in blocks)
            joined = np.concatenate([np.zeros(0, dtype.numpy), *blocks])
            assert np.array_equal(_codes(joined, dtype), _codes(canonical.reshape(-1), dtype))


def _codes(array, dtype):
    """Bit patterns, without the bits of a byte that a sub-byte type does not use."""
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return flat & ((1 << dtype.bits) - 1) if dtype.bits < 8 else flat


def test_digests_tell_dtype_shape_and_content_apart():
    zeros = np.zeros(8, np.int8)
    tensors = [
        as_tensor(zeros),
        as_tensor(zeros.reshape(2, 4)),
        as_tensor(zeros.view(np.uint8)),
        as_tensor(zeros.view(bool)),
    ]
    tensors += [as_tensor(zeros.view(np.int32)), as_tensor(np.float32([0, 0])), as_tensor(np.float32([0, -0.0]))]
    assert len({tensor.digest() for tensor in tensors}) == len(tensors)


def test_packing_puts_the_first_element_in_the_lowest_bits():
    assert pack(np.array([1, 2, 3], ml_dtypes.uint4), 4).tolist() == [0x21, 0x03]
    assert pack(np.array([-1, 1], ml_dtypes.int4), 4).tolist() == [0x1F]
    assert pack(np.array([1, 2, 3, 0, 1], ml_dtypes.uint2), 2).tolist() == [0b00111001, 1]
    assert unpack(b"\x8f", I4, 2).astype(int).tolist() == [-1, -8]
    assert unpack(b"\x8f", U4, 2).astype(int).tolist() == [15, 8]
    assert unpack(b"\x39", U2, 3).astype(int).tolist() == [1, 2, 3]


def test_unused_bits_of_the_last_byte_do_not_count():
    tensors = [PackedTensor(bytes([0x21, high << 4 | 3]), U4, (3,)) for high in (0, 15)]
    assert tensors[0].digest() == tensors[1].digest() and raw(tensors[1]) == b"\x21\x03"


@settings(max_examples=200)
@given(shapes, st.integers(1, 64))
def test_boxes_are_contiguous_and_complete(shape, most):
    index = np.arange(int(np.prod(shape))).reshape(shape)
    parts = [index[tuple(map(slice, begin, end))].reshape(-1) for begin, end in row_major_boxes(shape, 4, most)]
    assert np.array_equal(np.concatenate([np.zeros(0, int), *parts]), index.reshape(-1))
    assert all(part.size * 4 <= max(most, 4) for part in parts)


# ---------------------------------------------------------------------------------------------------- hostile


@pytest.mark.parametrize(
    ("offset", "length", "dtype", "shape"),
    [
        (0, 8, F32, (3,)), (0, 101, U8, (101,)), (-1, 4, F32, (1,)), (98, 4, F32, (1,)), (2**63, 4, F32, (1,)),
        (0, 4, F32, (-1,)), (0, 2, I4, (5,)), (0, 100, BOOL, (100,)), (0, 0, F32, (2**40, 2**40)), (0, 4, STRING, (1,)),
        (0, 4, F32, (2**64,)), (0, 1, U8, (1,) * 65),
    ],
)  # fmt: skip
def test_mapped_data_must_be_there(tmp_path, offset, length, dtype, shape):
    (tmp_path / "f").write_bytes(bytes(range(100)))
    with pytest.raises((InvalidModel, LimitExceeded)):
        MappedTensor(map_file(tmp_path / "f"), offset, length, dtype, shape)


def test_a_changed_file_is_not_exported(tmp_path):
    (tmp_path / "f").write_bytes(bytes(16))
    tensor = MappedTensor(map_file(tmp_path / "f"), 0, 16, F32, (4,))
    os.utime(tmp_path / "f", ns=(1, 1))
    with pytest.raises(SystemFailure, match="changed"):
        raw(tensor)


def test_shapes_are_checked_in_python_ints():
    assert checked_shape([np.int64(3), 2]) == (3, 2)
    for wrong in ([-1], [2**63], [1] * 65, [2**32, 2**32]):
        with pytest.raises((InvalidModel, LimitExceeded)):
            checked_shape(wrong)


# ------------------------------------------------------------------------------------------------- conversion


def test_as_tensor():
    assert (as_tensor(3).dtype, as_tensor(2.5).dtype, as_tensor(True).dtype) == (I64, F64, BOOL)
    assert as_tensor(2.5, F32).numpy() == np.float32(2.5) and as_tensor(2.5, F32).shape == ()
    assert as_tensor([[1, 2], [3, 4]], U4).numpy().astype(int).tolist() == [[1, 2], [3, 4]]
    assert as_tensor(np.arange(3, dtype=">i4")).numpy().tolist() == [0, 1, 2]
    tensor = as_tensor([1, 2], I32)
    assert as_tensor(tensor) is tensor and as_tensor(tensor, I32) is tensor
    assert as_tensor(tensor, F32).dtype is F32
    for values, dtype in [(300, U8), (-1, U8), (2.5, I32), (9, U2), ([1e30], I64), (float("nan"), I8), (2, BOOL)]:
        with pytest.raises(InvalidModel, match="fit"):
            as_tensor(values, dtype)


def test_a_callers_array_cannot_change_a_tensor():
    array = np.ones(4, np.float32)
    tensor = as_tensor(array)
    array[0] = 7
    assert tensor.numpy()[0] == 1
    with pytest.raises(ValueError, match="read-only"):
        tensor.numpy()[0] = 2
    assert array.flags.writeable


def test_strings():
    tensor = as_tensor([["a", "ü"], ["", "d"]])
    assert isinstance(tensor, StringTensor) and tensor.shape == (2, 2) and tensor.nbytes == 4
    assert tensor.numpy()[0, 1] == "ü"
    assert StringTensor(["ab", "c"]).digest() != StringTensor(["a", "bc"]).digest()
    assert pickle.loads(pickle.dumps(tensor)).digest() == tensor.digest()
    assert as_tensor("abc").shape == () and StringTensor([b"\xff"]).nbytes == 1
    with pytest.raises(Unsupported):
        raw(tensor)
    with pytest.raises(InvalidModel):
        StringTensor([1, 2])
    assert [block.tolist() for block in tensor.blocks(16)] == [["a", "ü"], ["", "d"]]


# ------------------------------------------------------------------------------------------------ splat, lazy


def test_splat():
    splat = SplatTensor(1.5, BF16, (3, 4))
    full = as_tensor(np.full((3, 4), 1.5, ml_dtypes.bfloat16))
    assert same_bits(splat.numpy(), full.numpy()) and splat.digest() == full.digest() and raw(splat) == raw(full)
    assert (
        pickle.loads(pickle.dumps(splat)).structure() == splat.structure() != SplatTensor(2, BF16, (3, 4)).structure()
    )
    assert raw(SplatTensor(-3, I4, (3,))) == b"\xdd\x0d"


def test_a_huge_splat_costs_no_memory(tmp_path):
    huge = SplatTensor(0.0, F32, (1 << 30,))
    assert huge.nbytes == 4 << 30 and huge.numpy().shape == (1 << 30,)
    with atomic_write(tmp_path / "f") as file:
        huge.write(file)
    assert os.stat(tmp_path / "f").st_blocks * 512 < 1 << 20
    assert SplatTensor(-0.0, F32, (4,)).digest() != SplatTensor(0.0, F32, (4,)).digest()


@settings(max_examples=150)
@given(st.data())
def test_lazy_tensors_are_what_numpy_computes(data):
    shape = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple))
    array = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    tensor, expected = as_tensor(array), array
    for op in data.draw(
        st.lists(st.sampled_from(["transpose", "slice", "concat", "take", "mul", "cast", "neg"]), max_size=5)
    ):
        tensor, expected = _step(data, op, tensor, expected)
    assert same_bits(tensor.numpy(), expected)
    assert raw(tensor) == np.ascontiguousarray(expected).tobytes()
    assert np.array_equal(np.concatenate([expected.reshape(-1)[:0], *tensor.blocks(12)]), expected.reshape(-1))
    assert tensor.digest() == as_tensor(expected).digest()
    again = pickle.loads(pickle.dumps(tensor))
    assert again.structure() == tensor.structure() and again.digest() == tensor.digest()


def _step(data, op, tensor, array):
    """One lazy op on top of `tensor`, and the same by numpy."""
    rank = array.ndim
    axis = data.draw(st.integers(0, rank - 1))
    if op == "transpose":
        perm = tuple(data.draw(st.permutations(range(rank))))
        return LazyTensor(op, [tensor], {"perm": perm}), array.transpose(perm)
    if op == "slice":
        cuts = [sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n)))) for n in array.shape]
        steps = tuple(data.draw(st.integers(1, 3)) for _ in array.shape)
        starts, stops = (tuple(cut[i] for cut in cuts) for i in (0, 1))
        lazy = LazyTensor(op, [tensor], {"starts": starts, "stops": stops, "steps": steps})
        return lazy, array[tuple(map(slice, starts, stops, steps))]
    if op == "concat":
        return LazyTensor(op, [tensor, tensor], {"axis": axis}), np.concatenate([array, array], axis)
    if op == "take":
        size = array.shape[axis]
        indices = tuple(data.draw(st.lists(st.integers(0, size - 1), max_size=4))) if size else ()
        return LazyTensor(op, [tensor], {"axis": axis, "indices": indices}), array.take(indices, axis).astype(
            array.dtype
        )
    if op == "mul":
        factor = np.arange(array.shape[-1], dtype=array.dtype)
        return LazyTensor(op, [tensor, as_tensor(factor)]), array * factor
    if op == "cast":
        target = data.draw(st.sampled_from([F32, F64, BF16]))
        return LazyTensor(op, [tensor], {"to": target}), array.astype(target.numpy)
    return LazyTensor(op, [tensor]), -array


@pytest.mark.parametrize("gone", [(), (0,), (7, 8, 39), tuple(range(0, 40, 2))], ids=str)
def test_what_stays_of_an_axis_is_read_by_runs_and_by_boxes(gone: tuple[int, ...]) -> None:
    array = np.arange(3 * 40 * 2, dtype=np.float32).reshape(3, 40, 2)
    kept = tuple(i for i in range(40) if i not in gone)
    tensor = LazyTensor("take", [as_tensor(array)], {"axis": 1, "indices": kept})
    assert same_bits(tensor.numpy(), array[:, list(kept)])
    assert same_bits(tensor.region((1, 3, 0), (2, 17, 2)), array[1:2, list(kept)[3:17]])


@pytest.mark.parametrize(
    ("op", "attrs"),
    [
        ("transpose", {"perm": (0, 0)}), ("slice", {"starts": (0, 0), "stops": (9, 1), "steps": (1, 1)}),
        ("take", {"axis": 0, "indices": (5,)}), ("concat", {"axis": 2}), ("cast", {"to": I8}), ("frobnicate", {}),
    ],
)  # fmt: skip
def test_lazy_ops_that_do_not_fit(op, attrs):
    with pytest.raises(InvalidModel):
        LazyTensor(op, [as_tensor(np.ones((2, 3), np.float32))], attrs)


def test_registered_evaluators():
    lazy = LazyTensor("test_cube", [as_tensor(np.float32([1, 2, 3]))], {"times": 2}, F32, (3,))
    if "*" not in _evaluators:
        with pytest.raises(Unsupported):
            lazy.numpy()
    register_evaluator("test_cube", lambda x, times: x**3 * np.float32(times))
    assert lazy.numpy().tolist() == [2, 16, 54]
    assert [block.tolist() for block in lazy.blocks(8)] == [[2, 16], [54]]
    assert LazyTensor("test_cube", lazy.operands, {"times": 3}, F32, (3,)).structure() != lazy.structure()
    with pytest.raises(InternalError):
        LazyTensor("test_cube", lazy.operands, {"times": 3}, F64, (3,)).numpy()


def test_long_lazy_chains_do_not_recurse():
    tensor = as_tensor(np.float32([1]))
    for _ in range(3000):
        tensor = LazyTensor("neg", [tensor])
    assert tensor.numpy().tolist() == [1] and tensor.depth <= LazyTensor.MAX_DEPTH


def test_large_lazy_exports_stay_small(tmp_path):
    """2 GB of mapped holes, scaled and written through blocks, in less than 300 MB of address space more."""
    code = (
        "import os, sys, resource\n"
        "import numpy as np\n"
        "from anyir.ir.storage import atomic_write, map_file\n"
        "from anyir.ir.tensor import LazyTensor, MappedTensor, as_tensor\n"
        "from anyir.ir.types import F32\n"
        "source, target = sys.argv[1:]\n"
        "with open(source, 'wb') as f: f.truncate(2 << 30)\n"
        "tensor = MappedTensor(map_file(source), 0, 2 << 30, F32, (512, 1 << 20))\n"
        "def anonymous():\n"
        "    rows = dict(line.split(':') for line in open('/proc/self/status') if ':' in line)\n"
        "    return int(rows['RssAnon'].split()[0]) >> 10\n"
        "before = anonymous()\n"
        "with atomic_write(target) as file: tensor.write(file)\n"
        "lazy = LazyTensor('mul', [LazyTensor('transpose', [tensor], {'perm': (1, 0)}), as_tensor(np.float32(2))])\n"
        "most = 0\n"
        "for i, block in enumerate(lazy.blocks()):\n"
        "    most = max(most, anonymous() - before)\n"
        "    if i == 20: break\n"
        "print(most, os.stat(target).st_size, os.stat(target).st_blocks)\n"
    )
    run = [sys.executable, "-c", code, tmp_path / "a", tmp_path / "b"]
    most, size, blocks = map(int, subprocess.run(run, capture_output=True, text=True, check=True).stdout.split())
    assert most < 300 and size == 2 << 30 and blocks * 512 < 1 << 20


def test_many_mapped_files_raise_the_soft_limit(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for i in range(60):
        (tmp_path / str(i)).write_bytes(b"abcd")
    few = len(os.listdir("/proc/self/fd")) + 40
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (few, hard))
        tensors = [MappedTensor(map_file(tmp_path / str(i)), 0, 4, F32, (1,)) for i in range(60)]
        assert len({tensor.digest() for tensor in tensors}) == 1
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > few
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_errors_are_ours(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    with pytest.raises(AnyIRError) as error:
        MappedTensor(map_file(tmp_path / "f"), 0, 3, F32, (1,))
    assert "3 bytes of data for f32[1] (expected 4)" in str(error.value)
