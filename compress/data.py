"""Samples for calibration, evaluation and training: opened from anywhere, bound to a module's inputs, streamed.

    data = open_data("photos/", module, preprocess="resize=256,crop=224,scale=1/128,shift=-127/128", seed=0)
    calibration, evaluation = data.split([128, 500], seed=0)
    for feeds in calibration.batches(): ...

A data set holds no samples: every pass reads them again, in the same order, and takes the memory of one batch. What a pass
meets is checked as it goes (shapes, dtypes, NaN), and that a source which cannot be looked into (a function, a DataLoader)
gives the same samples each time. Imports no framework.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from ..ir.errors import InvalidData, SystemFailure, UsageError, clean
from ..ir.graph import Module
from .binding import Arrays, Binding, Sample
from .preprocess import Preprocess, parse_preprocess
from .sources import Source, Stream, array_source, folder_source, npy_source, npz_source

#: A batch is as many samples as take about this many bytes, at most MOST_SAMPLES.
BATCH_BYTES, MOST_SAMPLES = 4 << 20, 64
_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


@dataclass(frozen=True)
class Batch:
    """What one run takes, the labels of its samples (None where there are none), and how many they are."""

    feeds: Arrays
    labels: np.ndarray | None
    count: int


class Dataset:
    """Samples of a source, all or some of them, always in the source's order. Made by `open_data`, `sample` and `split`.

    Meets `passes.manager.Feeds`. `digest` is of the samples' bytes and their order, not of names or labels. A module whose
    batch is fixed gets whole batches only; `left_out` samples at the end do not fill one.
    """

    def __init__(
        self, source: Source, places: Sequence[int] | np.ndarray | None = None, limit: int | None = None
    ) -> None:
        self.source, self.binding = source, source.binding
        self.classes = source.classes
        self._places = None if places is None else np.asarray(places, np.int64)
        self._limit = limit
        self._hashes: list[bytes] | None = None
        self._labels: list[Any] | None = None

    @functools.cached_property
    def available(self) -> int:
        """Samples that there are, whether they fill batches or not."""
        if self._places is not None:
            return len(self._places)
        found = self.source.count if self.source.count is not None else len(self.hashes)
        return found if self._limit is None else min(found, self._limit)

    @property
    def left_out(self) -> int:
        return self.available % (self.binding.batch or 1)

    @property
    def count(self) -> int:
        """Samples that `batches` gives. Raises InvalidData where they do not fill one batch."""
        if self.available == self.left_out:
            wanted = self.binding.batch or 1
            raise InvalidData(f"there are {self.available} samples, the model takes {wanted} at a time", code="F301")
        return self.available - self.left_out

    @property
    def hashes(self) -> list[bytes]:
        """A hash of each sample, in order; the first complete pass finds them."""
        if self._hashes is None:
            for _ in self.samples():
                pass
        assert self._hashes is not None
        return self._hashes

    @property
    def digest(self) -> str:
        state = hashlib.blake2b(digest_size=16)
        for item in self.hashes:
            state.update(item)
        return state.hexdigest()

    @property
    def labels(self) -> np.ndarray | None:
        """The label of every sample that `batches` gives, or None. The first time this is a pass of its own; an evaluation
        takes them from `labelled` instead."""
        if self._labels is None:
            self._labels = [sample.label for sample in self.samples()]
        return _stacked_labels(self._labels[: self.count])

    def samples(self) -> Iterator[Sample]:
        """Every sample in order. Raises InvalidData for one that is broken or does not fit, and where a source gives other
        samples than in an earlier pass."""
        known, hashes = self._hashes, []
        for i, sample in enumerate(islice(self.source.samples(self._wanted()), self._limit)):
            hashes.append(sample.digest())
            if known is not None and (i >= len(known) or known[i] != hashes[-1]):
                raise _changed(sample.where)
            yield sample
        if known is not None and len(hashes) != len(known):
            raise _changed(f"sample {len(hashes)}")
        if not hashes:
            raise InvalidData("there is no sample", hint="the source is empty")
        self._hashes = hashes

    def unchecked(self, places: Sequence[int] | None = None) -> Iterator[Sample]:
        """The samples at rising places (all of them for None), not compared with an earlier pass: for training, where a source
        may shuffle."""
        if places is None:
            return islice(self.source.samples(self._wanted()), self._limit)
        return self.source.samples([int(i) for i in (places if self._places is None else self._places[list(places)])])

    def _wanted(self) -> list[int] | None:
        return None if self._places is None else [int(i) for i in self._places]

    def labelled(self, size: int | None = None) -> Iterator[Batch]:
        """Batches of `size` samples (of about 4 MB where it is None; the module's own batch where that is fixed), with
        labels. Samples of different shapes never share a batch. Raises as `samples` does."""
        fixed = self.binding.batch
        if size is not None and size < 1:
            raise UsageError(f"a batch of {size} samples")
        held: list[Sample] = []
        given = 0
        for sample in self.samples():
            most = fixed or size or _batch_size(sample)
            if held and (len(held) >= most or _shapes(held[0]) != _shapes(sample)):
                _check_whole(held, fixed)
                yield self._batch(held)
                given += len(held)
                held = []
            held.append(sample)
        if fixed is None or len(held) == fixed:
            yield self._batch(held)
        elif not given:
            raise InvalidData(f"there are {len(held)} samples, the model takes {fixed} at a time", code="F301")

    def batches(self, size: int | None = None) -> Iterator[Arrays]:
        """Arrays by input name, as `labelled`."""
        for batch in self.labelled(size):
            yield batch.feeds

    def _batch(self, samples: Sequence[Sample]) -> Batch:
        return Batch(self.binding.feeds(samples), _stacked_labels([s.label for s in samples]), len(samples))

    def sample(self, count: int, seed: int = 0) -> Dataset:
        """`count` of the samples, drawn without replacement, in the source's order. UsageError where there are fewer."""
        self._check_enough(count, self.available)
        chosen = np.random.default_rng(seed).permutation(self.available)[:count]
        return self._part(np.sort(chosen))

    def split(self, counts: Sequence[int], seed: int = 0) -> list[Dataset]:
        """Parts that have no sample in common, whatever their number in the source: the seed and a sample's hash alone decide
        where it goes, and of equal samples only the first is used. UsageError where there are fewer different samples."""
        first = {item: place for place, item in reversed(list(enumerate(self.hashes)))}
        self._check_enough(sum(counts), len(first), " different")
        key = f"{seed}:".encode()
        order = sorted(first, key=lambda item: hashlib.blake2b(key + item, digest_size=16).digest())
        ends = np.cumsum([0, *counts])
        return [
            self._part(np.sort(np.array([first[item] for item in order[start:stop]], np.int64)))
            for start, stop in zip(ends[:-1], ends[1:], strict=True)
        ]

    def _check_enough(self, wanted: int, have: int, kind: str = "") -> None:
        if wanted < 1 or wanted > have:
            raise UsageError(f"{wanted} samples are asked for, there are {have}{kind} ones")

    def _part(self, places: np.ndarray) -> Dataset:
        made = Dataset(self.source, places if self._places is None else self._places[places])
        made._hashes = self._hashes and [self._hashes[i] for i in places]
        made._labels = self._labels and [self._labels[i] for i in places]
        return made


def check_disjoint(a: Dataset, b: Dataset) -> None:
    """UsageError where a sample of one is a sample of the other: figures measured on calibration data say nothing."""
    shared = set(a.hashes) & set(b.hashes)
    if shared:
        place = next(i for i, item in enumerate(b.hashes) if item in shared)
        raise UsageError(
            f"the data and the evaluation data have {len(shared)} samples in common (sample {place} of the latter, for one)",
            hint="split one data set, or give other files",
        )


def _changed(where: str) -> InvalidData:
    return InvalidData(
        "the source gives other samples than in an earlier pass",
        where=where,
        hint="no shuffling, no random augmentation",
    )


def _shapes(sample: Sample) -> list[tuple[int, ...]]:
    return [array.shape for array in sample.arrays.values()]


def _batch_size(sample: Sample) -> int:
    nbytes = max(sum(array.nbytes for array in sample.arrays.values()), 1)
    return max(1, min(MOST_SAMPLES, BATCH_BYTES // nbytes))


def _check_whole(held: Sequence[Sample], fixed: int | None) -> None:
    if fixed is not None and len(held) != fixed:
        raise InvalidData(
            f"samples of different shapes cannot fill a batch of {fixed}", code="F301", where=held[-1].where
        )


def _stacked_labels(labels: Sequence[Any]) -> np.ndarray | None:
    """Labels as an array; of different lengths they are an array of arrays."""
    if not labels or labels[0] is None:
        return None
    parts = [np.asarray(label) for label in labels]
    if len({part.shape for part in parts}) == 1:
        return np.stack(parts)
    made = np.empty(len(parts), object)
    made[:] = parts
    return made


# Opening.


def open_data(
    source: Any,
    module: Module,
    *,
    preprocess: str | Mapping[str, Any] | Preprocess | None = None,
    seed: int = 0,
    limit: int | None = None,
) -> Dataset:
    """The samples of `source` for the inputs of `module`.

    `source`: an .npz or .npy file; a folder of .npy files (for several inputs: one sub-folder each) or of images (class names
    as sub-folders); 'package.module:function' or a function that returns an iterable of samples or batches, called anew for
    each pass; arrays by input name; one array; a sequence or any other re-iterable (a torch DataLoader) of samples or
    batches; a Dataset. Arrays with one more axis than a sample hold many of them. Labels stand beside the inputs as
    `labels` or `y`, or as one more element of a tuple.

    `limit` takes that many samples: drawn with `seed` where the source knows its number, the first ones of a stream. Raises
    UsageError for a path or source that is not there, Unsupported for inputs that are not numeric tensors, InvalidData for
    data that cannot be read or does not fit.
    """
    if isinstance(source, Dataset):
        return source if limit is None or limit >= source.available else source.sample(limit, seed)
    binding = Binding(module, parse_preprocess(preprocess))
    if limit is not None and limit < 1:
        raise UsageError(f"a limit of {limit} samples")
    made = _opened(source, binding)
    if made.count is None:
        data = Dataset(made, limit=limit)
    else:
        whole = Dataset(made)
        data = whole if limit is None or limit >= made.count else whole.sample(limit, seed)
    next(data.source.samples(data._wanted()), None)  # what is wrong with the first sample shows now
    return data


def _opened(source: Any, binding: Binding) -> Source:
    if isinstance(source, str | os.PathLike):
        return _opened_path(os.fspath(source), binding)
    if isinstance(source, Mapping):
        return array_source(source, binding, "the arrays")
    if callable(source) and not isinstance(source, Iterable):
        return Stream(source, binding, clean(getattr(source, "__qualname__", type(source).__name__)))
    if hasattr(source, "shape"):
        return array_source({"arr_0": source}, binding, "the array")
    if isinstance(source, Iterator):
        raise UsageError(
            "an iterator can be walked through only once, and data is read several times",
            hint="give the function that makes it",
        )
    if isinstance(source, Iterable):
        return Stream(lambda: source, binding, type(source).__name__)
    raise UsageError(f"data cannot come from {type(source).__name__}", hint="a path, arrays by name, or a function")


def _opened_path(path: str, binding: Binding) -> Source:
    if not os.path.lexists(path):
        if _FUNCTION.fullmatch(path):
            return Stream(_function(path), binding, clean(path))
        raise UsageError(
            f"there is no file or folder {clean(path)!r}", hint="or name a function as package.module:name"
        )
    if os.path.isdir(path):
        return folder_source(path, binding)
    if path.lower().endswith(".npy"):
        return npy_source(path, binding)
    if path.lower().endswith(".npz"):
        return npz_source(path, binding)
    raise UsageError(f"data cannot come from {clean(path)!r}", hint="an .npz or .npy file, a folder, module:function")


def _function(text: str) -> Callable[[], Iterable[Any]]:
    """The function that 'package.module:name' says: the user's own code, run because the user named it."""
    module, _, path = text.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"there is no function {clean(text)!r}: {clean(error)}", hint="is its folder on PYTHONPATH?"
        ) from None
    except Exception as error:  # whatever the module does when it is imported
        raise SystemFailure(f"{clean(module)} cannot be imported: {type(error).__name__}: {clean(error)}") from error
    if not callable(found):
        raise UsageError(f"{clean(text)!r} is not a function but {type(found).__name__}")
    return found
