"""The side file of IR text: magic, version, length, then tensors at 64-byte boundaries.

    0   8 bytes   b"ANYIRWT1"
    8   u64       length of the whole file (little endian)
    64  tensors, each padded to 64 bytes

Offsets, sizes and digests stand in the text. Each reference is checked when it is read.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

from .errors import InvalidModel
from .storage import MappedFile
from .tensor import MappedTensor, Tensor
from .weights import Weight

MAGIC = b"ANYIRWT1"
ALIGN = 64


def place(weights: list[Weight]) -> tuple[dict[Weight, tuple[int, int]], int]:
    """Offsets and sizes for these weights, equal contents once; and the length of the file."""
    placed: dict[Weight, tuple[int, int]] = {}
    by_content: dict[tuple, tuple[int, int]] = {}
    end = ALIGN
    for weight in weights:
        key = (weight.tensor.dtype, weight.nbytes, weight.tensor.digest())
        at = by_content.get(key)
        if at is None:
            at = by_content[key] = (end, weight.nbytes)
            end += -(-weight.nbytes // ALIGN) * ALIGN
        placed[weight] = at
    return placed, end


def write(file: BinaryIO, placed: dict[Weight, tuple[int, int]], length: int) -> None:
    """Stream the tensors one at a time."""
    file.write(MAGIC + struct.pack("<Q", length))
    position = len(MAGIC) + 8
    for weight, (offset, nbytes) in sorted(placed.items(), key=lambda item: item[1]):
        if offset < position:
            continue
        file.write(b"\0" * (offset - position))
        weight.tensor.write(file)
        position = offset + nbytes
    file.write(b"\0" * (length - position))


def open_tensor(file: MappedFile, offset: int, nbytes: int, like: tuple, digest: bytes) -> Tensor:
    """The mapped tensor at `offset`, checked against the file's length and its digest; `like` is (dtype, shape).
    Raises InvalidModel."""
    dtype, shape = like
    tensor = MappedTensor(file, offset, nbytes, dtype, shape)
    if tensor.digest() != digest:
        raise InvalidModel("the weight file does not hold what the text says (digest differs)")
    return tensor


def check_header(file: MappedFile, where: str) -> None:
    head = bytes(file.view(0, 16)) if file.size >= 16 else b""
    if head[:8] != MAGIC:
        raise InvalidModel("not a weight file of anyir", where=where)
    if struct.unpack("<Q", head[8:])[0] != file.size:
        raise InvalidModel(
            f"weight file has {file.size} bytes, its header says {struct.unpack('<Q', head[8:])[0]}", where=where
        )
