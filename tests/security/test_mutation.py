"""Truncations and flipped bits of one small good file per format: only our own errors come out of a reader."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import anyir
import pytest
from anyir.ir.errors import AnyIRError, InternalError
from anyir.ir.verify import verify
from anyir.tests.security import seeds
from anyir.tests.security.corpus_others import text

SEEDS: dict[str, Callable[[], bytes]] = {
    ".onnx": seeds.onnx_file,
    ".keras": seeds.keras_file,
    ".h5": seeds.h5_file,
    ".pt2": seeds.pt2_file,
    ".anyir": lambda: text(lambda t: t),
    ".tflite": lambda: list(seeds.written(".tflite").values())[-1],
    ".mindir": lambda: list(seeds.written(".mindir").values())[-1],
}
TRUNCATIONS, FLIPS = 60, 250


def mutations(data: bytes, seed: int) -> Iterator[tuple[str, bytes]]:
    """Prefixes of many lengths, then 1 to 32 flipped bits, then a run of bytes overwritten, doubled, or left out."""
    rng = random.Random(seed)
    for cut in sorted({0, 1, 4, len(data) - 1, *(rng.randrange(len(data)) for _ in range(TRUNCATIONS))}):
        yield f"the first {cut} bytes", data[:cut]
    for i in range(FLIPS):
        broken = bytearray(data)
        places = [rng.randrange(8 * len(data)) for _ in range(rng.choice((1, 1, 1, 2, 4, 32)))]
        for place in places:
            broken[place // 8] ^= 1 << place % 8
        yield f"flip {i}: bits {places[:4]}", bytes(broken)
    for i in range(FLIPS // 5):
        at, length = rng.randrange(len(data)), rng.choice((1, 2, 4, 8, 64))
        patch = rng.choice((b"\xff" * length, b"\0" * length, data[at : at + length] * 2, b""))
        yield f"patch {i} at {at}", data[:at] + patch + data[at + length :]


@pytest.mark.parametrize("suffix", SEEDS)
def test_only_our_errors_come_out(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(SEEDS[suffix]())
    verify(anyir.load(path))
    refused = 0
    for what, data in mutations(path.read_bytes(), seed=len(suffix)):
        path.write_bytes(data)
        try:
            verify(anyir.load(path))
        except AnyIRError as error:
            refused += 1
            assert not isinstance(error, InternalError), f"{what}: {error}"
            assert error.exit_code in (3, 4), f"{what}: {error}"
            assert len(str(error)) < 8192
        except Exception as error:
            pytest.fail(f"{what}: {type(error).__name__}: {error}")
    assert refused > TRUNCATIONS // 2


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SEEDS)
@pytest.mark.parametrize("seed", range(10))
def test_many_more(suffix: str, seed: int, tmp_path: Path) -> None:
    path = tmp_path / f"bad{suffix}"
    for what, data in mutations(SEEDS[suffix](), 100 + seed):
        path.write_bytes(data)
        try:
            verify(anyir.load(path))
        except AnyIRError as error:
            assert not isinstance(error, InternalError), f"{what}: {error}"
