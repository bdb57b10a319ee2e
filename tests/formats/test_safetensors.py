"""safetensors against its own package as the oracle, and hostile files."""

from __future__ import annotations

import contextlib
import json
import os
import struct

import ml_dtypes
import numpy as np
import pytest
from anyir.formats import safetensors as ours
from anyir.ir.errors import AnyIRError, InvalidModel, LimitExceeded, Unsupported, UsageError
from anyir.ir.storage import limits
from anyir.ir.tensor import SplatTensor, StringTensor, as_tensor
from anyir.ir.types import BF16, F32, I4
from safetensors.numpy import load_file, save_file

DTYPES = [
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
]
EXOTIC = {"F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2, "BF16": ml_dtypes.bfloat16}


def arrays():
    rng = np.random.default_rng(0)
    made = {f"layer.{name}": (rng.standard_normal((3, 5)) * 9).astype(name) for name in DTYPES}
    return made | {
        "scalar": np.array(2.5, np.float32),
        "empty": np.zeros((2, 0), np.int16),
        "ü ": np.ones(1, np.int8),
    }


def test_reads_what_the_package_writes(tmp_path):
    save_file(arrays(), tmp_path / "f", metadata={"format": "pt"})
    tensors, metadata = ours.read(tmp_path / "f")
    assert metadata == {"format": "pt"} and set(tensors) == set(arrays())
    for name, array in arrays().items():
        assert tensors[name].numpy().dtype == array.dtype and np.array_equal(tensors[name].numpy(), array)
        assert tensors[name].shape == array.shape


def test_the_package_reads_what_we_write(tmp_path):
    tensors = {name: as_tensor(array) for name, array in arrays().items()}
    ours.write(tmp_path / "f", tensors, {"b": "2", "a": "1"})
    found = load_file(tmp_path / "f")
    assert set(found) == set(tensors)
    for name, array in arrays().items():
        assert found[name].dtype == array.dtype and np.array_equal(found[name], array)
    again, metadata = ours.read(tmp_path / "f")
    assert metadata == {"a": "1", "b": "2"}
    assert {name: tensor.digest() for name, tensor in again.items()} == {n: t.digest() for n, t in tensors.items()}


@pytest.mark.parametrize("code", EXOTIC)
def test_exotic_floats(tmp_path, code):
    from safetensors import safe_open

    array = np.arange(256, dtype=np.uint8).view(EXOTIC[code])
    ours.write(tmp_path / "f", {"x": as_tensor(array)})
    tensors, _ = ours.read(tmp_path / "f")
    assert tensors["x"].numpy().tobytes() == array.tobytes() and tensors["x"].numpy().dtype == array.dtype
    with safe_open(tmp_path / "f", "np") as file:
        assert file.get_slice("x").get_dtype() == code


def test_the_output_is_deterministic_and_aligned(tmp_path):
    tensors = {name: as_tensor(array) for name, array in arrays().items()}
    ours.write(tmp_path / "a", tensors)
    ours.write(tmp_path / "b", dict(reversed(tensors.items())))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    for tensor in ours.read(tmp_path / "a")[0].values():
        assert tensor.offset % tensor.dtype.numpy.itemsize == 0


def test_streams_a_huge_splat(tmp_path):
    ours.write(tmp_path / "f", {"zeros": SplatTensor(0, BF16, (1 << 30,)), "one": as_tensor(np.float32([1]))})
    assert os.stat(tmp_path / "f").st_blocks * 512 < 1 << 20
    assert ours.read(tmp_path / "f")[0]["one"].numpy().tolist() == [1]


def test_what_cannot_be_written_is_refused(tmp_path):
    for tensor in (StringTensor(["a"]), as_tensor([1, 2], I4), as_tensor(np.complex128([1]))):
        with pytest.raises(Unsupported):
            ours.write(tmp_path / "f", {"x": tensor})
    with pytest.raises(Unsupported):
        ours.write(tmp_path / "f", {"__metadata__": as_tensor(1.0, F32)})
    assert not os.listdir(tmp_path)
    ours.write(tmp_path / "f", {"x": as_tensor(1.0, F32)})
    with pytest.raises(UsageError):
        ours.write(tmp_path / "f", {}, protect=[tmp_path / "f"])


# -------------------------------------------------------------------------------------------------- hostile


def entry(dtype="F32", shape=(1,), offsets=(0, 4), **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets), **more}


def build(path, header, data=b"\0" * 4):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


@pytest.mark.parametrize(
    "header",
    [
        {"a": entry(), "b": entry()},  # overlap
        {"a": entry(offsets=(0, 4)), "b": entry(offsets=(2, 6))},
        {"a": entry(offsets=(4, 8))},  # past the end, and a gap
        {"a": entry("U8", (2,), (0, 2))},  # trailing bytes
        {"a": entry("U8", (2,), (0, 2)), "b": entry("U8", (1,), (3, 4))},  # a gap
        {"a": entry(shape=(2,))}, {"a": entry(shape=(-1,))}, {"a": entry(shape=(2**62, 4))}, {"a": entry(shape=(1.0,))},
        {"a": entry(shape=(True,))}, {"a": entry(offsets=(4, 0))}, {"a": entry(offsets=(0,))},
        {"a": entry(offsets=(-4, 0))},
        {"a": entry(shape=(0, 2**63), offsets=(0, 0))}, {"a": entry("F31")}, {"a": entry("f32")}, {"a": entry(None)},
        {"a": entry(extra=1)}, {"a": None}, {"a": []}, {"a": {"dtype": "F32"}}, [], None, 3, {},
        {"__metadata__": {"a": 1}, "a": entry()}, {"__metadata__": [], "a": entry()},
        {"a": entry("BOOL", (4,), (0, 4))} | {"b": entry("U8", (0,), (5, 5))},
        b'{"a": {}, "a": {}}', b"{", b"\xff\xfe", b'{"a": NaN}', b"",
        {"a": {"dtype": "F32", "shape": [1] * 70, "data_offsets": [0, 4]}},
    ],
)  # fmt: skip
def test_bad_headers(tmp_path, header):
    with pytest.raises((InvalidModel, Unsupported, LimitExceeded)) as error:
        ours.read(build(tmp_path / "f", header))
    assert len(str(error.value)) < 8192


def test_bad_lengths(tmp_path):
    path = tmp_path / "f"
    for data in (b"", b"\0" * 7, b"\0" * 8, struct.pack("<Q", 2**63) + b"{}", struct.pack("<Q", 9) + b"{}"):
        path.write_bytes(data)
        with pytest.raises(InvalidModel):
            ours.read(path)
    build(path, {"a": entry()})
    with limits(header_bytes=10), pytest.raises(LimitExceeded, match="--limit header-bytes=N"):
        ours.read(path)
    build(path, b"[" * 1000 + b"]" * 1000)
    with pytest.raises(LimitExceeded):
        ours.read(path)


def test_a_bool_must_be_a_bool(tmp_path):
    build(tmp_path / "f", {"a": entry("BOOL", (4,))}, b"\0\1\2\1")
    with pytest.raises(InvalidModel, match="neither 0 nor 1"):
        ours.read(tmp_path / "f")


def test_every_prefix_and_flipped_bit_is_safe(tmp_path):
    path = tmp_path / "f"
    ours.write(path, {"w": as_tensor(np.arange(3, dtype=np.int16)), "b": as_tensor(True)}, {"k": "v"})
    good = path.read_bytes()
    for n in range(len(good)):
        path.write_bytes(good[:n])
        with pytest.raises(InvalidModel):
            ours.read(path)
    for bit in range(len(good) * 8):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        with contextlib.suppress(AnyIRError):
            ours.read(path)
