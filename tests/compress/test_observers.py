"""Observers against whole-data numpy, brute force and a plain second implementation; merging in any way is the same."""

from __future__ import annotations

import functools
import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from anyir.compress import observers
from anyir.compress.observers import MSE, OBSERVERS, Entropy, Histogram, MinMax, MovingAverage, Percentile
from anyir.ir.errors import InvalidData, UsageError

MERGED = ("minmax", "percentile", "entropy", "mse")


def datasets() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    normal = rng.standard_normal(40_000)
    made = {
        "normal": normal,
        "relu": np.maximum(normal, 0),
        "relu6": np.clip(normal * 4, 0, 6),
        "heavy": rng.standard_t(2, 40_000),
        "swish": normal * 3 / (1 + np.exp(-3 * normal)),
        "shifted": normal * 0.1 + 5,
        "negative": -np.abs(normal) - 1,
        "tiny": normal * 1e-30,
        "huge": normal * 1e30,
        "few": np.array([0.5, -0.25, 3.0]),
        "one-sided": -np.maximum(normal, 0),
    }
    return {name: array.astype(np.float32) for name, array in made.items()}


DATA = datasets()


def pieces(x: np.ndarray, seed: int, count: int = 7) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    cuts = np.sort(rng.integers(0, len(x), count - 1))
    parts = np.split(x, cuts)
    rng.shuffle(parts)
    return parts


def shown(make: Any, *arrays: np.ndarray) -> Any:
    observer = make()
    for array in arrays:
        observer.update(array)
    return observer


def state(observer: MinMax) -> list[Any]:
    parts = [observer.lo, observer.hi, observer.seen, observer.nonfinite]
    if isinstance(observer, Histogram):
        parts += [observer.counts, observer.zeros, observer.exponents]
    return [None if part is None else np.asarray(part).tolist() for part in parts]


# What holds for all.


@pytest.mark.parametrize("kind", MERGED)
@pytest.mark.parametrize("name", ["normal", "heavy", "relu6", "few"])
def test_merging_in_any_order_and_division_is_the_same(kind: str, name: str) -> None:
    x = DATA[name] * np.float32(1.0)
    make = OBSERVERS[kind]
    whole = shown(make, x)
    for seed in range(3):
        parts = pieces(x, seed)
        assert state(shown(make, *parts)) == state(whole)
        left, right = shown(make, *parts[:3]), shown(make, *parts[3:5])
        last = shown(make, *parts[5:])
        left.merge(right)
        left.merge(last)  # (a + b) + c
        right.merge(last)
        first = shown(make, *parts[:3])
        right.merge(first)  # (b + c) + a
        assert state(left) == state(right) == state(whole)


@pytest.mark.parametrize("kind", OBSERVERS)
def test_ranges_contain_zero_and_stay_inside(kind: str) -> None:
    for x in DATA.values():
        observer = shown(OBSERVERS[kind], x)
        lo, hi = observer.range(-128, 127)
        assert min(float(x.min()), 0.0) <= lo <= 0.0 <= hi <= max(float(x.max()), 0.0)
        assert hi > lo
        low, high = observer.range(-127, 127, symmetric=True)
        assert low == -high and 0 < high <= float(np.abs(x).max())


@pytest.mark.parametrize("kind", OBSERVERS)
def test_along_an_axis_is_one_observer_per_channel(kind: str) -> None:
    x = (
        np.random.default_rng(1).standard_normal((4, 5, 60, 7)).astype(np.float32)
        * np.float32([1, 10, 0, -3, 0.01])[:, None, None]
    )
    for symmetric in (False, True):
        along = shown(functools.partial(OBSERVERS[kind], axis=1), x[:1], x[1:])
        lo, hi = along.range(-128, 127, symmetric)
        each = [shown(OBSERVERS[kind], x[:1, c], x[1:, c]).range(-128, 127, symmetric) for c in range(5)]
        assert [(a, b) for a, b in zip(lo.tolist(), hi.tolist(), strict=True)] == each
        assert each[2] == (0.0, 0.0)
    with pytest.raises(UsageError, match="an observer of 5 channels was shown 60"):
        along.update(x.swapaxes(1, 2))
    with pytest.raises(UsageError, match="axis 1 was shown an array of shape"):
        along.update(x[0, 0, 0])


@pytest.mark.parametrize("kind", OBSERVERS)
def test_constant_empty_and_nan(kind: str) -> None:
    make = OBSERVERS[kind]
    assert shown(make, np.zeros(9, np.float32)).range(-128, 127) == (0.0, 0.0)
    assert shown(make, np.full(900, 3.0, np.float32)).range(-128, 127) == (0.0, 3.0)
    assert shown(make, np.full(900, -3.0, np.float32)).range(-128, 127) == (-3.0, 0.0)
    assert shown(make, np.full(900, -3.0, np.float32)).range(-127, 127, symmetric=True) == (-3.0, 3.0)
    nothing = make()
    assert nothing.problem == "no element was seen"
    nothing.update(np.zeros((0, 3), np.float32))
    with pytest.raises(InvalidData, match="no element was seen"):
        nothing.range(-128, 127)
    for bad in (np.nan, np.inf, -np.inf):
        observer = shown(make, np.array([1.0, bad, -2.0], np.float32))
        assert observer.problem == "1 of 3 elements are NaN or infinite"
        with pytest.raises(InvalidData, match="NaN or infinite"):
            observer.range(-128, 127)
    observer = shown(make, np.full(4, np.nan, np.float32))
    assert observer.problem == "4 of 4 elements are NaN or infinite"


@pytest.mark.parametrize("kind", OBSERVERS)
def test_every_dtype_is_taken(kind: str) -> None:
    x = np.array([0.5, -0.25, 3.0, 2.0])
    expected = shown(OBSERVERS[kind], x).range(-128, 127)
    for dtype in (np.float16, np.float32, ml_dtypes.bfloat16):
        assert shown(OBSERVERS[kind], x.astype(dtype)).range(-128, 127) == expected
    whole = np.array([0, -2, 300])
    assert shown(OBSERVERS[kind], whole).range(-128, 127) == shown(OBSERVERS[kind], whole * 1.0).range(-128, 127)
    strided = np.stack([x, x * 100], axis=1)[:, 0]
    assert shown(OBSERVERS[kind], strided).range(-128, 127) == expected


def test_different_observers_do_not_merge() -> None:
    with pytest.raises(UsageError, match="cannot be merged"):
        MSE().merge(Percentile())
    with pytest.raises(UsageError, match="cannot be merged"):
        shown(functools.partial(MinMax, axis=0), np.ones(3)).merge(shown(functools.partial(MinMax, axis=0), np.ones(4)))
    with pytest.raises(UsageError, match="different numbers of bins"):
        Histogram(bins=64).merge(Histogram())
    with pytest.raises(UsageError, match="order of arrays"):
        MovingAverage().merge(MovingAverage())


# Against independent sources.


def test_compiled_and_plain_counting_agree() -> None:
    """Also on elements at the edges of bins, subnormal and negative ones."""
    edges = np.ldexp(1.0, np.arange(-40, 3))
    x = np.concatenate([edges, -edges, edges * 3, [0.0, -0.0, 1e-45, 8.0, -8.0]]).astype(np.float32).reshape(1, 1, -1)
    for exponent in (4, 10):
        scale = np.ldexp(float(observers.BINS), -np.array([exponent]))
        made = []
        for count in (observers._count.py_func, observers._count.compiled(), observers._count_small):
            counts, zeros = np.zeros((1, 2 * observers.BINS), np.int64), np.zeros(1, np.int64)
            count(x, scale, counts, zeros)
            made.append((counts.tolist(), zeros.tolist()))
        assert made[0] == made[1] == made[2]


@pytest.mark.parametrize("name", DATA)
def test_histogram_is_numpys(name: str) -> None:
    x = DATA[name].astype(np.float64)
    observer = shown(Histogram, *pieces(DATA[name], 2))
    width = observer.width()
    assert math.log2(width) == int(math.log2(width))
    assert np.abs(x).max() < width * observers.BINS <= 2 * np.abs(x).max() * (1 + 1e-12)
    edges = np.arange(-observers.BINS, observers.BINS + 1) * width
    expected, _ = np.histogram(x[x != 0], edges)
    np.testing.assert_array_equal(observer.counts[0], expected)
    assert observer.zeros[0] == (x == 0).sum()


@pytest.mark.parametrize("percent", [99.9, 99.0, 75.0, 100.0])
@pytest.mark.parametrize("name", DATA)
def test_percentile_is_numpys_within_a_bin(name: str, percent: float) -> None:
    x = DATA[name].astype(np.float64)
    observer = shown(functools.partial(Percentile, percent=percent), *pieces(DATA[name], 3))
    lo, hi = observer.range(-128, 127)
    wanted = min(np.percentile(x, 100 - percent), 0.0), max(np.percentile(x, percent), 0.0)
    gap = observer.width() if len(x) > 1000 else np.diff(np.sort(x)).max() + observer.width()
    assert abs(lo - wanted[0]) <= gap and abs(hi - wanted[1]) <= gap
    if percent == 100.0:
        assert (lo, hi) == (min(x.min(), 0.0), max(x.max(), 0.0))


def quantisation_error(x: np.ndarray, lo: float, hi: float, qmin: int, qmax: int, symmetric: bool) -> float:
    step = hi / qmax if symmetric else (hi - lo) / (qmax - qmin)
    zero = 0.0 if symmetric else np.rint(qmin - lo / step)
    return float(((x - step * (np.clip(np.rint(x / step) + zero, qmin, qmax) - zero)) ** 2).sum())


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", [name for name in DATA if name != "few"])
def test_mse_is_brute_force(name: str, bits: int) -> None:
    """No pair of ends on the grid has a squared error, on the data themselves, that is smaller by more than a percent; and the
    symmetric threshold likewise."""
    x = DATA[name].astype(np.float64)
    x = x / np.abs(x).max()
    qmin, qmax = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    observer = shown(MSE, x)
    shares = np.arange(1, 101) / 100
    found = observer.range(qmin, qmax, symmetric=True)
    best = min(quantisation_error(x, -t, t, qmin, qmax, True) for t in shares)
    assert quantisation_error(x, *found, qmin, qmax, True) <= best * 1.01
    found = observer.range(qmin, qmax)
    top, bottom = max(x.max(), 0.0), min(x.min(), 0.0)
    coarse = shares[4::5]
    pairs = [(a * bottom, b * top) for a in (coarse if bottom else [0.0]) for b in (coarse if top else [0.0])]
    best = min(quantisation_error(x, lo, hi, qmin, qmax, False) for lo, hi in pairs)
    assert quantisation_error(x, *found, qmin, qmax, False) <= best * 1.01


def test_mse_beats_minmax_on_heavy_tails_and_keeps_16_bits_whole() -> None:
    x = DATA["heavy"].astype(np.float64)
    lo, hi = shown(MSE, x).range(-8, 7)
    ours, minmax = (quantisation_error(x, a, b, -8, 7, False) for a, b in ((lo, hi), (x.min(), x.max())))
    assert ours < 0.9 * minmax
    x = DATA["normal"].astype(np.float64)
    lo, hi = shown(MSE, x).range(-32768, 32767)
    assert hi > 0.95 * x.max() and lo < 0.95 * x.min()


def plain_entropy(counts: np.ndarray, levels: int) -> int:
    """Bins to keep: the procedure as it is told, with arrays for P and Q."""
    best, best_divergence = len(counts), np.inf
    for kept in range(levels, len(counts) + 1):
        p = counts[:kept].copy()
        p[-1] += counts[kept:].sum()
        q = np.zeros(kept)
        for level in range(levels):
            part = slice(level * kept // levels, (level + 1) * kept // levels)
            alive = p[part] > 0
            if alive.any():
                q[part][alive] = counts[:kept][part].sum() / alive.sum()
        if q.sum() == 0:
            continue
        p, q = p / p.sum(), q / q.sum()
        with np.errstate(divide="ignore"):
            divergence = float((p[p > 0] * np.log(p[p > 0] / q[p > 0])).sum())
        if divergence < best_divergence * (1 - 1e-12):
            best, best_divergence = kept, divergence
    return best


@pytest.mark.parametrize("name", ["normal", "relu", "relu6", "heavy", "swish", "one-sided"])
def test_entropy_is_the_plain_procedure(name: str) -> None:
    x = DATA[name].astype(np.float64)
    observer = shown(functools.partial(Entropy, bins=512), *pieces(DATA[name], 4))
    width = observer.width()
    counts = np.bincount(np.minimum(np.floor(np.abs(x[x != 0]) / width), 511).astype(np.int64)).astype(float)
    np.testing.assert_array_equal(observer.magnitudes()[0], counts)
    threshold = plain_entropy(counts, 128) * width
    largest = float(np.abs(x).max())
    assert observer.range(-128, 127, symmetric=True) == (-min(threshold, largest), min(threshold, largest))
    one_sided = x.min() >= 0 or x.max() <= 0
    threshold = plain_entropy(counts, 256 if one_sided else 128) * width
    assert observer.range(-128, 127) == (max(-threshold, min(x.min(), 0.0)), min(threshold, max(x.max(), 0.0)))


def test_entropy_cuts_tails_and_leaves_uniform_data_whole() -> None:
    assert shown(Entropy, DATA["heavy"]).range(-127, 127, symmetric=True)[1] < 0.5 * np.abs(DATA["heavy"]).max()
    uniform = np.linspace(-1, 1, 40_001, dtype=np.float32)
    assert shown(Entropy, uniform).range(-127, 127, symmetric=True)[1] > 0.95
    assert shown(Entropy, DATA["normal"]).range(-32768, 32767)[1] == float(DATA["normal"].max())


def test_moving_average() -> None:
    observer = shown(functools.partial(MovingAverage, rate=0.25), np.array([-1.0, 3.0]), np.array([-2.0, 1.0]))
    assert observer.range(-128, 127) == (-1.25, 2.5)
    assert shown(MovingAverage, np.array([0.0]), np.array([-100.0])).range(-128, 127) == (-1.0, 0.0)


def test_extremes_of_float64() -> None:
    for x in ([5e-324, 1e-310], [1.7e308, -1.7e308], [5e-324, 1e300]):
        lo, hi = shown(Percentile, np.array(x)).range(-128, 127)
        assert math.isfinite(lo) and 0.0 < hi <= max(x)
