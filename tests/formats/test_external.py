"""The digest of an external data file: one for one content, however it is written, and another one for any small change."""

from __future__ import annotations

import io
from collections.abc import Iterable

import numpy as np
import pytest
from anyir.formats.onnx.external import Sink

MIB = 1 << 20


class _File(io.BytesIO):
    def skip(self, count: int) -> None:
        self.write(bytes(count))


def _digest(parts: Iterable[bytes]) -> str:
    sink = Sink(_File())
    for part in parts:
        sink.write(part)
    return sink.digest()


@pytest.fixture(scope="module")
def data() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, 2 * MIB + 1237, np.uint8)


def test_the_digest_knows_nothing_of_writes_and_holes(data: np.ndarray) -> None:
    whole = _digest([data.tobytes()])
    assert whole == _digest([data[:5].tobytes(), data[5 : MIB + 3].tobytes(), data[MIB + 3 :].tobytes()])
    sink = Sink(_File())
    sink.write(data.tobytes())
    sink.skip(3 * MIB)
    assert sink.digest() == _digest([data.tobytes(), bytes(3 * MIB)]) != whole


def test_what_begins_after_a_hole_is_hashed_alike_in_pieces(data: np.ndarray) -> None:
    digests = set()
    for cuts in ([], [5], [MIB - 4096, MIB], [MIB + 3, 2 * MIB]):
        sink = Sink(file := _File())
        sink.begin(4096)
        sink.write(b"first")
        sink.begin(8192)
        for part in np.split(data, cuts):
            sink.write(part.tobytes())
        digests.add(sink.digest())
        assert file.getvalue() == bytes(4096) + b"first" + bytes(4091) + data.tobytes()
    assert len(digests) == 1


@pytest.mark.parametrize("at", [0, 77, MIB - 1, MIB, 2 * MIB + 1236])
def test_one_bit_is_seen(data: np.ndarray, at: int) -> None:
    other = data.copy()
    other[at] ^= 128
    assert _digest([other.tobytes()]) != _digest([data.tobytes()])


@pytest.mark.parametrize("distance", [8, 1000 * 8, 1024 * 8, 1025 * 8, MIB])
def test_words_that_change_places_or_signs_are_seen(data: np.ndarray, distance: int) -> None:
    for edit in ("swap", "signs"):
        other = data.copy()
        one, two = slice(4096, 4104), slice(4096 + distance, 4104 + distance)
        if edit == "swap":
            other[one], other[two] = data[two], data[one]
        else:
            other[4103] ^= 128
            other[4103 + distance] ^= 128
        assert _digest([other.tobytes()]) != _digest([data.tobytes()])
