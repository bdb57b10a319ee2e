"""Samples for training: shuffled by seed and epoch, in batches, so that any batch of any epoch can be made again.

Data sets that fit into HELD_BYTES are kept in memory after one pass; larger ones are read by place; a source that only
streams (a DataLoader, a function) shuffles itself, under a seed that we set for each epoch. Imports no framework.
"""

from __future__ import annotations

import functools
import itertools
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from ...ir.errors import AnyIRError, InvalidData, UsageError
from ..binding import Arrays, Sample
from ..data import Batch, Dataset
from ..sources import Stream

HELD_BYTES = 512 << 20
Augment = Callable[[Arrays, np.random.Generator], Arrays]


class Feed:
    """Batches of a data set, in an order of their own in each epoch."""

    def __init__(self, data: Dataset, size: int, seed: int, augment: Augment | None = None, origin: Any = None) -> None:
        """`origin` is what the data came from: a DataLoader's own generator is seeded along."""
        self.data, self.seed, self.augment, self.origin = data, seed, augment, origin
        self.size = data.binding.batch or size
        self.streams = isinstance(data.source, Stream)
        self._held: list[Sample] | None = None

    @functools.cached_property
    def count(self) -> int:
        """Samples in an epoch. A stream is walked through once to find out. Raises InvalidData where there are too few."""
        if self.streams:
            with seeded((self.seed, 0), self.origin):
                found = sum(1 for _ in self.data.unchecked())
        else:
            found = len(self._hold()) if self._fits() else self.data.available
        fixed = self.data.binding.batch
        if not found:
            raise InvalidData("there is no sample", hint="the source is empty")
        if fixed is not None and found < fixed:
            raise InvalidData(f"there are {found} samples, the model takes {fixed} at a time", code="F301")
        return found

    @functools.cached_property
    def digest(self) -> str:
        """Of the samples, where a pass does not change them; of a stream only how many they are."""
        return f"{self.count} samples of a stream" if self.streams else self.data.digest

    def steps(self) -> int:
        """Batches of an epoch, at least: samples of several shapes need more."""
        return max(1, self.count // self.size if self._drops_rest() else -(-self.count // self.size))

    def _drops_rest(self) -> bool:
        """A model of a fixed batch takes whole ones only; and one sample alone has no batch statistics."""
        return self.data.binding.batch is not None or (self.count > self.size and self.count % self.size == 1)

    def epoch(self, number: int, skip: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from the `skip`-th on; the same ones for the same seed and number."""
        with seeded((self.seed, number), self.origin):
            made = self._streamed() if self.streams else self._shuffled(number)
            for step, samples in enumerate(made):
                if step >= skip:
                    yield self._batch(samples, (self.seed, number, step))

    def _shuffled(self, number: int) -> Iterator[list[Sample]]:
        order = np.random.default_rng((self.seed, number)).permutation(self.count)
        end = self.count - self.count % self.size if self._drops_rest() else self.count
        for start in range(0, end, self.size):
            yield from self._alike(self._read(order[start : min(start + self.size, end)]))

    def _read(self, places: np.ndarray) -> list[Sample]:
        if self._fits():
            held = self._hold()
            return [held[i] for i in places]
        return list(self.data.unchecked(sorted(int(i) for i in places)))

    def _fits(self) -> bool:
        """Whether all samples together take little memory, judged by the first."""
        if self._held is not None:
            return True
        first = next(self.data.unchecked([0]), None)
        each = sum(array.nbytes for array in first.arrays.values()) if first is not None else 0
        return each * self.data.available <= HELD_BYTES

    def _hold(self) -> list[Sample]:
        if self._held is None:
            self._held = list(self.data.samples())
        return self._held

    def _streamed(self) -> Iterator[list[Sample]]:
        held: list[Sample] = []
        for sample in self.data.unchecked():
            held.append(sample)
            if len(held) == self.size:
                yield from self._alike(held)
                held = []
        if held and not self._drops_rest():
            yield from self._alike(held)

    def _alike(self, samples: Sequence[Sample]) -> Iterator[list[Sample]]:
        """Samples of different shapes never share a batch."""
        groups: dict[Any, list[Sample]] = {}
        for sample in samples:
            groups.setdefault(tuple(array.shape for array in sample.arrays.values()), []).append(sample)
        if len(groups) > 1 and self.data.binding.batch not in (None, 1):
            raise InvalidData("samples of different shapes cannot fill a fixed batch", code="F301")
        yield from groups.values()

    def _batch(self, samples: Sequence[Sample], key: Sequence[int]) -> Batch:
        feeds = self.data.binding.feeds(samples)
        if self.augment is not None:
            feeds = _augmented(self.augment, feeds, np.random.default_rng(key))
        return Batch(feeds, _labels(samples), len(samples))

    def in_order(self, size: int | None = None) -> Iterator[Batch]:
        """All samples once, in the source's order, as they are: for an evaluation."""
        fixed = self.data.binding.batch
        with seeded((self.seed, 0), self.origin):
            source = self.data.unchecked() if self.streams else self._hold() if self._fits() else self.data.samples()
            samples = iter(source)
            while part := list(itertools.islice(samples, fixed or size or self.size)):
                if fixed is not None and len(part) < fixed:
                    return
                for group in self._alike(part):
                    yield Batch(self.data.binding.feeds(group), _labels(group), len(group))

    def first(self) -> Batch:
        """The first samples, to see what the data is like. Raises InvalidData where there are too few."""
        found = next(self.in_order(1), None)
        if found is None:
            raise InvalidData(f"{self.count} samples make no batch")  # `count` says more
        return found


def _augmented(augment: Augment, feeds: Arrays, rng: np.random.Generator) -> Arrays:
    """What the user's hook makes of a batch: the same inputs with the same dtypes and batch. Raises UsageError."""
    try:
        made = augment(dict(feeds), rng)
    except AnyIRError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise UsageError(f"augment raised {type(error).__name__}: {error}") from error
    if not isinstance(made, dict) or set(made) != set(feeds):
        raise UsageError("augment must return a dict of the inputs that it was given", hint=f"{', '.join(feeds)}")
    for name, before in feeds.items():
        after = made[name] = np.ascontiguousarray(made[name])
        if after.dtype != before.dtype or after.shape[:1] != before.shape[:1]:
            found = f"{after.dtype}{list(after.shape)} for {before.dtype}{list(before.shape)}"
            raise UsageError(f"augment gave {found} as {name!r}")
    return made


def _labels(samples: Sequence[Sample]) -> np.ndarray | None:
    """The labels of a batch as i64, None where there are none. Raises InvalidData."""
    if any(sample.label is None for sample in samples):
        return None
    parts = [np.asarray(sample.label) for sample in samples]
    if len({part.shape for part in parts}) > 1 or parts[0].dtype.kind not in "biu":
        raise InvalidData("labels must be whole numbers, the same count for each sample", code="F301")
    return np.stack(parts).astype(np.int64)


@contextmanager
def seeded(key: Sequence[int], origin: Any = None) -> Iterator[None]:
    """The global generators of Python, numpy and (where it is loaded) torch seeded from `key`, which sources may draw from, and
    those of a DataLoader; the global ones go on afterwards as if nothing had been."""
    torch = sys.modules.get("torch")
    words = [int(word) for word in np.random.SeedSequence(list(key)).generate_state(3)]
    before = random.getstate(), np.random.get_state(), torch.get_rng_state() if torch else None
    random.seed(words[0])
    np.random.seed(words[1])
    if torch:
        torch.manual_seed(words[2])
        for part in (origin, getattr(origin, "sampler", None)):
            if isinstance(generator := getattr(part, "generator", None), torch.Generator):
                generator.manual_seed(words[2])
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        if torch:
            torch.set_rng_state(before[2])
