"""Images among the samples, and other views of them: shifted, turned, mirrored, recoloured. Knows arrays and feeds only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import permutations

import numpy as np

from ..passes.manager import Feeds

#: Images with fewer places on a side are left as they are.
SMALLEST = 16
#: The seven symmetries of a square beside the identity, as (upside down, left to right, transposed).
SYMMETRIES = tuple((bool(way & 1), bool(way & 2), bool(way & 4)) for way in range(1, 8))
#: The orders of three colours beside their own.
COLOURS = tuple(permutations(range(3)))[1:]
VIEWS = len(SYMMETRIES) * len(COLOURS)


def image_axis(array: np.ndarray) -> int:
    """The first of the two axes of places of images (of 1, 3 or 4 channels); 0 where there are none."""
    for axis, channels in ((2, 1), (1, 3)):
        if array.ndim == 4 and array.shape[channels] in (1, 3, 4) and min(array.shape[axis : axis + 2]) >= SMALLEST:
            return axis
    return 0


def shifted(array: np.ndarray, first: int, ways: np.ndarray) -> np.ndarray:
    """Each part of the images moved one of the `ways`, edges repeated; what are no images stays."""
    parts = np.array_split(array, len(ways))
    for place, way in enumerate(ways):
        for axis, by in enumerate(way if first else (), first):
            size = array.shape[axis]
            parts[place] = np.take(parts[place], np.clip(np.arange(size) - by, 0, size - 1), axis=axis)
    return np.concatenate(parts)


def turned(image: np.ndarray, first: int, number: int) -> np.ndarray:
    """One image [1, ...] in the symmetry and in the order of colours that `number` picks; one that is not square is not
    transposed, one without three colours keeps them."""
    over, across, transposed = SYMMETRIES[number % len(SYMMETRIES)]
    for axis in (first,) * over + (first + 1,) * across:
        image = np.flip(image, axis)
    if transposed and image.shape[first] == image.shape[first + 1]:
        image = image.swapaxes(first, first + 1)
    channels = 3 if first == 1 else 1
    return image if image.shape[channels] != 3 else np.take(image, COLOURS[number % len(COLOURS)], axis=channels)


class Turned:
    """Samples of which half, by lot, have their images turned: other views stand for pictures that there are none of. Meets
    `Feeds`."""

    def __init__(self, feeds: Feeds, seed: int) -> None:
        self.feeds, self.count = feeds, feeds.count
        self.digest = f"{feeds.digest}/turned {seed}"
        rng = np.random.default_rng(seed)
        self.numbers = np.where(rng.random(feeds.count) < 0.5, rng.integers(0, VIEWS, feeds.count), -1)

    def batches(self) -> Iterator[Mapping[str, np.ndarray]]:
        seen = 0
        for batch in self.feeds.batches():
            size = max(len(array) for array in batch.values())
            numbers = self.numbers[seen : seen + size]
            yield {name: self._turned(array, numbers) for name, array in batch.items()}
            seen += size

    @staticmethod
    def _turned(array: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        first = image_axis(array)
        if not first:
            return array
        return np.concatenate(
            [
                array[i : i + 1] if number < 0 else turned(array[i : i + 1], first, number)
                for i, number in enumerate(numbers)
            ]
        )
