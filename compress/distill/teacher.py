"""The teacher's outputs for a batch: from torch, frozen, or from the reference kernels where torch cannot express it.

The kernels run sample by sample, so that what they say does not depend on a batch, and keep the answers on the disk.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...backends.torch import to_torch
from ...ir.errors import Unsupported
from ...ir.graph import Module
from ...kernels.run import run

#: What the kernels' answers may take on the disk.
CACHE_BYTES = 1 << 30


class TorchTeacher:
    """A live module that never changes. `names` lead from the student's input names to the teacher's."""

    def __init__(self, module: Module, names: Mapping[str, str], device: torch.device) -> None:
        self.net = to_torch(module).to(device).requires_grad_(False)
        self.inputs, self.outputs = _order(module, names), module.signature.output_names()

    @torch.no_grad()
    def __call__(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = self.net.outputs([feeds[name] for name in self.inputs])
        return dict(zip(self.outputs, found, strict=True))


class KernelTeacher:
    """The reference kernels, and what they said about the samples of this run so far."""

    def __init__(
        self, module: Module, names: Mapping[str, str], device: torch.device, cache_bytes: int = CACHE_BYTES
    ) -> None:
        self.module, self.device = module, device
        self.inputs, self.outputs = _order(module, names), module.signature.output_names()
        self.batched = _batched(module)
        self._cache = Cache(cache_bytes)

    def __call__(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        arrays = [feeds[name].cpu().numpy() for name in self.inputs]
        if not self.batched:
            return self._tensors([self._answer(arrays)])
        count = len(arrays[0])
        return self._tensors([self._answer([array[i : i + 1] for array in arrays]) for i in range(count)])

    def _answer(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        key = Cache.key(arrays)
        found = self._cache.get(key)
        if found is None:
            made = run(self.module, arrays)
            found = [np.asarray(made[name]) for name in self.outputs]
            self._cache.put(key, found)
        return found

    def _tensors(self, answers: Sequence[Sequence[np.ndarray]]) -> dict[str, Tensor]:
        columns = zip(self.outputs, zip(*answers, strict=True), strict=True)
        return {
            name: torch.from_numpy(np.ascontiguousarray(np.concatenate(parts) if len(parts) > 1 else parts[0])).to(
                self.device
            )
            for name, parts in columns
        }


def _order(module: Module, names: Mapping[str, str]) -> list[str]:
    """The student's input names in the order of the teacher's inputs."""
    back = {theirs: ours for ours, theirs in names.items()}
    return [back[name] for name in module.signature.input_names()]


def _batched(module: Module) -> bool:
    """Every input and output begins with a batch of any size, so that samples can be asked for one at a time."""
    graph = module.signature.graph
    shapes = [value.shape for value in (*graph.inputs, *graph.outputs)]
    return all(shape and (type(shape[0]) is not int or shape[0] == 1) for shape in shapes)


class Cache:
    """Answers by the bytes of their question, in a file without a name that ends with the process. A full one takes no
    more."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the cache is used
        self._places: dict[bytes, tuple[int, list[tuple[Any, tuple[int, ...]]]]] = {}
        self._end = 0

    @staticmethod
    def key(arrays: Sequence[np.ndarray]) -> bytes:
        import hashlib

        state = hashlib.blake2b(digest_size=16)
        for array in arrays:
            state.update(f"{array.dtype}{array.shape}".encode())
            state.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        return state.digest()

    def get(self, key: bytes) -> list[np.ndarray] | None:
        if key not in self._places:
            return None
        start, forms = self._places[key]
        self._file.seek(start)
        made = []
        for dtype, shape in forms:
            count = int(np.prod(shape, dtype=np.int64))
            data = self._file.read(count * dtype.itemsize)
            made.append(np.frombuffer(bytearray(data), dtype, count).reshape(shape))
        return made

    def put(self, key: bytes, arrays: Sequence[np.ndarray]) -> None:
        size = sum(array.nbytes for array in arrays)
        if self._end + size > self.most:
            return
        self._file.seek(self._end)
        for array in arrays:
            self._file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        self._places[key] = self._end, [(array.dtype, array.shape) for array in arrays]
        self._end += size


def teacher_for(module: Module, names: Mapping[str, str], device: torch.device, notes: list[str]) -> Any:
    """The teacher in torch, or on the kernels with a note that says why."""
    try:
        return TorchTeacher(module, names, device)
    except Unsupported as error:
        notes.append(f"the teacher runs on the reference kernels: {error.message[:300]}")
        return KernelTeacher(module, names, device)
