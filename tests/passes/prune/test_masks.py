"""Masks: exact counts, the same everywhere, and what each pattern promises of every row."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from anyir.ir.errors import UsageError
from anyir.passes.prune.masks import Pattern, keep_mask, keep_masks, parse_pattern, stored_sizes

SHAPES = [(1, 1), (10, 10), (7, 13), (5, 4), (3, 9), (16, 6)]


def scores(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape)


def test_half_of_a_hundred_weights_is_fifty() -> None:
    keep = keep_mask(scores((10, 10)), parse_pattern("none"), 0.5)
    assert np.count_nonzero(~keep) == 50


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.37, 0.5, 0.9])
def test_the_lowest_scores_go(shape: tuple[int, int], ratio: float) -> None:
    given = scores(shape)
    keep = keep_mask(given, Pattern("element"), ratio)
    count = int(np.floor(given.size * ratio + 0.5))
    expected = np.ones(given.size, bool)
    expected[sorted(range(given.size), key=lambda i: given.flat[i])[:count]] = False
    np.testing.assert_array_equal(keep.reshape(-1), expected)


def test_of_equal_scores_the_first_go() -> None:
    keep = keep_mask(np.ones((4, 5)), Pattern("element"), 0.3)
    assert keep.reshape(-1).tolist() == [False] * 6 + [True] * 14


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.61])
def test_rows_lose_the_same_share_and_the_total_is_exact(shape: tuple[int, int], ratio: float) -> None:
    gone = ~keep_mask(scores(shape), Pattern("element"), ratio, per_row=True)
    assert gone.sum() == np.floor(gone.size * ratio + 0.5)
    assert np.ptp(gone.sum(axis=1)) <= 1


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("text", ["2:4", "1:4", "3:8"])
def test_n_of_m(shape: tuple[int, int], text: str) -> None:
    pattern, given = parse_pattern(text), scores(shape, 1)
    keep = keep_mask(given, pattern, 0.0)
    for row, kept in zip(given, keep, strict=True):
        for start in range(0, len(row), pattern.b):
            run = slice(start, start + pattern.b)
            best = np.sort(row[run])[-pattern.a :]
            np.testing.assert_array_equal(np.sort(row[run][kept[run]]), best)


@pytest.mark.parametrize("shape", SHAPES)
def test_blocks_go_whole(shape: tuple[int, int]) -> None:
    pattern, given = parse_pattern("block:4x2"), scores(shape, 2)
    keep = keep_mask(given, pattern, 0.5)
    gone, means = [], []
    for r in range(0, shape[0], 4):
        for c in range(0, shape[1], 2):
            block = keep[r : r + 4, c : c + 2]
            assert block.all() or not block.any()
            gone.append(not block.all())
            means.append(given[r : r + 4, c : c + 2].mean())
    order = np.argsort(means)
    assert {int(i) for i in np.flatnonzero(gone)} == {int(i) for i in order[: int(np.floor(len(means) / 2 + 0.5))]}


def test_together_matrices_compete_and_none_is_emptied() -> None:
    given = [scores((4, 4)) + 10, scores((6, 5)) * 1e-3, np.zeros((2, 3))]
    masks = keep_masks(given, Pattern("element"), 0.6)
    assert sum(int((~m).sum()) for m in masks) == round(0.6 * (16 + 30 + 6))
    assert all(m.any() for m in masks)
    assert masks[0].sum() > 12


@pytest.mark.parametrize("text", ["", "2:2", "0:4", "4:2", "block:0x4", "block:4", "2:4:8", "channels"])
def test_other_structures_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="structure"):
        parse_pattern(text)


def test_sizes_are_what_the_encodings_take() -> None:
    array = np.random.default_rng(0).normal(size=(300, 1001)).astype(np.float32)
    array[np.abs(array) < 0.7] = 0
    sizes = stored_sizes(array)
    assert sizes["bytes"] == array.nbytes
    assert sizes["zipped"] == len(zlib.compress(array.tobytes(), 6))
    assert sizes["sparse"] == len(np.packbits(array != 0)) + array[array != 0].nbytes
