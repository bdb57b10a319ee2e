"""Observers: what is seen of a value's elements, in memory that does not grow, and the range to quantise them in.

    observer = Percentile()
    observer.update(array); ...
    lo, hi = observer.range(-128, 127, symmetric=False)

Histograms have a fixed number of bins on both sides of zero, of a width that is a power of two: when an element does not fit,
the width doubles and pairs of bins are added. Bins of all widths are aligned at zero, so that the histogram depends only on
the elements seen: their order, their division into arrays, and the order of merges do not show. Along an `axis` every index
has its own histogram and range. Formulas: facts on calibration, and what each class names. Imports no framework.
"""

from __future__ import annotations

import functools
from typing import Protocol

import numpy as np

from ..ir.errors import InvalidData, UsageError
from ..kernels.jit import jit

#: Bins on each side of zero: at least half of those on one side are in use.
BINS = 4096

Range = tuple[np.ndarray, np.ndarray]


class Observer(Protocol):
    """Anything that is shown arrays: `observe` needs no more than `update`."""

    def update(self, array: np.ndarray) -> None: ...


class MinMax:
    """The smallest and largest element, per tensor or along `axis`; the base of all others.

    NaN and infinities are counted and otherwise left out; `problem` says why there is no range to be trusted, "" when
    there is none.
    """

    def __init__(self, axis: int | None = None) -> None:
        self.axis = axis
        self.lo: np.ndarray | None = None  # f64 [channels]; [1] without an axis
        self.hi: np.ndarray | None = None
        self.seen = 0  # elements, those that are not finite included
        self.nonfinite = 0

    def update(self, array: np.ndarray) -> None:
        """Show it an array of any real dtype. Raises UsageError where the axis is missing or has another size than before."""
        parts = self._parts(array)
        self.seen += parts.size
        if not parts.size:
            return
        axes = (0, 2) if self.axis is not None else None
        lo, hi = np.atleast_1d(parts.min(axis=axes)), np.atleast_1d(parts.max(axis=axes))
        if not (np.isfinite(lo).all() and np.isfinite(hi).all()):
            finite = np.isfinite(parts)
            self.nonfinite += parts.size - int(finite.sum())
            lo = np.where(finite, parts, np.inf).min(axis=(0, 2))
            hi = np.where(finite, parts, -np.inf).max(axis=(0, 2))
        self._extend(parts, lo.astype(np.float64), hi.astype(np.float64))

    def _extend(self, parts: np.ndarray, lo: np.ndarray, hi: np.ndarray) -> None:
        """Take in elements [outer, channels, inner] whose finite extremes are known (inf, -inf where there are none)."""
        self.lo = lo if self.lo is None else np.minimum(self.lo, lo)
        self.hi = hi if self.hi is None else np.maximum(self.hi, hi)

    def _parts(self, array: np.ndarray) -> np.ndarray:
        """The elements as [outer, channels, inner] in f32 or f64."""
        made = np.asarray(array)
        if made.dtype not in (np.float32, np.float64):
            wide = made.dtype.kind in "iu" and made.dtype.itemsize > 2
            made = made.astype(np.float64 if wide else np.float32)
        if self.axis is None:
            return np.ascontiguousarray(made).reshape(1, 1, -1)
        if not -made.ndim <= self.axis < made.ndim:
            raise UsageError(f"an observer along axis {self.axis} was shown an array of shape {list(made.shape)}")
        axis = self.axis % made.ndim
        channels = made.shape[axis]
        if self.lo is not None and channels != len(self.lo):
            raise UsageError(f"an observer of {len(self.lo)} channels was shown {channels}")
        outer = int(np.prod(made.shape[:axis], dtype=np.int64))
        return np.ascontiguousarray(made).reshape(outer, channels, -1 if made.size else 0)

    def merge(self, other: MinMax) -> None:
        """Take in what another observer of the same kind has seen. Associative, and in any order. Raises UsageError."""
        self._check_alike(other)
        self.seen += other.seen
        self.nonfinite += other.nonfinite
        if other.lo is not None:
            self.lo = other.lo if self.lo is None else np.minimum(self.lo, other.lo)
            self.hi = other.hi if self.hi is None else np.maximum(self.hi, other.hi)

    def _check_alike(self, other: MinMax) -> None:
        channels = {len(o.lo) for o in (self, other) if o.lo is not None}
        if type(other) is not type(self) or other.axis != self.axis or len(channels) > 1:
            raise UsageError("observers of different kinds, axes or sizes cannot be merged")

    @property
    def problem(self) -> str:
        if self.nonfinite:
            return f"{self.nonfinite} of {self.seen} elements are NaN or infinite"
        if self.lo is None or not np.isfinite(self.lo).any():
            return "no element was seen"
        return ""

    def range(self, qmin: int, qmax: int, symmetric: bool = False) -> tuple[float, float] | Range:
        """lo <= 0 <= hi to map to qmin..qmax, floats or, along an axis, f64 arrays; -lo == hi where `symmetric`. All-zero and
        never seen channels are (0, 0). Raises InvalidData where `problem` says something."""
        if self.problem:
            raise InvalidData(f"no range can be found: {self.problem}", code="F302")
        lo, hi = np.minimum(self.lo, 0.0), np.maximum(self.hi, 0.0)  # +-inf of channels without elements: 0
        cut = np.array([self._cut(c, lo[c], hi[c], qmin, qmax, symmetric) for c in range(len(lo))])
        lo, hi = np.clip(cut[:, 0], lo, 0.0), np.clip(cut[:, 1], 0.0, hi)
        if symmetric:
            hi = np.maximum(-lo, hi)
            lo = -hi
        lo, hi = lo + 0.0, hi + 0.0
        return (float(lo[0]), float(hi[0])) if self.axis is None else (lo, hi)

    def _cut(self, channel: int, lo: float, hi: float, qmin: int, qmax: int, symmetric: bool) -> tuple[float, float]:
        """Where a channel's elements are cut off, within lo..hi, which contains 0."""
        return lo, hi


class MovingAverage(MinMax):
    """Extremes of each array, averaged exponentially: m <- (1 - rate) m + rate new (Jacob et al., 1712.05877, 3.1). Depends on
    the order of arrays and has no merge."""

    def __init__(self, axis: int | None = None, rate: float = 0.01) -> None:
        super().__init__(axis)
        self.rate = rate

    def _extend(self, parts: np.ndarray, lo: np.ndarray, hi: np.ndarray) -> None:
        if self.lo is None or not np.isfinite(lo).all():
            super()._extend(parts, lo, hi)
            return
        self.lo = (1 - self.rate) * self.lo + self.rate * lo
        self.hi = (1 - self.rate) * self.hi + self.rate * hi

    def merge(self, other: MinMax) -> None:
        raise UsageError("moving averages depend on the order of arrays and cannot be merged")


# Histograms.


@jit(lambda parts, scale, counts, zeros: parts.size)
def _count(parts, scale, counts, zeros):
    """Add elements [outer, channels, inner] to counts [channels, 2 BINS] of bins 1 / scale wide, exact zeros to `zeros`.

    Half of all elements are zeros behind a ReLU: they are counted with the others and taken out again, since a branch that
    goes either way takes longer."""
    half = counts.shape[1] // 2
    for o in range(parts.shape[0]):
        for c in range(parts.shape[1]):
            times, line = scale[c], counts[c]
            none = 0
            for i in range(parts.shape[2]):
                x = float(parts[o, c, i])
                if x - x == 0.0:
                    none += x == 0.0
                    line[int(np.floor(x * times)) + half] += 1
            line[half] -= none
            zeros[c] += none


def _count_small(parts: np.ndarray, scale: np.ndarray, counts: np.ndarray, zeros: np.ndarray) -> None:
    """As `_count`, for arrays that are not worth compiling for."""
    half = counts.shape[1] // 2
    for c in range(parts.shape[1]):
        x = parts[:, c].reshape(-1).astype(np.float64)
        x = x[np.isfinite(x)]
        zeros[c] += int((x == 0).sum())
        places = np.floor(x[x != 0] * scale[c]).astype(np.int64) + half
        counts[c] += np.bincount(places, minlength=2 * half)


class Histogram(MinMax):
    """Counts of the elements by value; exact zeros, a spike behind every ReLU, are counted apart."""

    def __init__(self, axis: int | None = None, bins: int = BINS) -> None:
        super().__init__(axis)
        self.bins = bins
        self.counts: np.ndarray | None = None  # i64 [channels, 2 bins]: bin k - bins is [k w, (k + 1) w)
        self.zeros: np.ndarray | None = None
        self.exponents: np.ndarray | None = None  # i64 [channels]: |x| < 2^e for all that were seen, w = 2^e / bins

    def _extend(self, parts: np.ndarray, lo: np.ndarray, hi: np.ndarray) -> None:
        super()._extend(parts, lo, hi)
        largest = np.maximum(np.abs(np.where(np.isfinite(lo), lo, 0.0)), np.abs(np.where(np.isfinite(hi), hi, 0.0)))
        exponents = np.maximum(np.frexp(largest)[1].astype(np.int64), _LEAST)
        self._widen(np.where(largest > 0, exponents, _NEVER))
        scale = np.ldexp(float(self.bins), -np.maximum(self.exponents, _LEAST))
        count = _count if _count.ready(parts, scale, self.counts, self.zeros) else _count_small
        count(parts, scale, self.counts, self.zeros)

    def _widen(self, exponents: np.ndarray) -> None:
        """Make room for elements below 2^exponents."""
        if self.counts is None:
            self.counts = np.zeros((len(exponents), 2 * self.bins), np.int64)
            self.zeros = np.zeros(len(exponents), np.int64)
            self.exponents = exponents.copy()
        for c in np.flatnonzero(exponents > self.exponents):
            if self.counts[c].any():
                self.counts[c] = _coarser(self.counts[c], int(exponents[c] - self.exponents[c]))
            self.exponents[c] = exponents[c]

    def merge(self, other: MinMax) -> None:
        super().merge(other)
        if not isinstance(other, Histogram) or other.counts is None:
            return
        self._widen(other.exponents)
        for c, exponent in enumerate(self.exponents):
            self.counts[c] += _coarser(other.counts[c], int(exponent - other.exponents[c]))
        self.zeros += other.zeros

    def _check_alike(self, other: MinMax) -> None:
        super()._check_alike(other)
        if isinstance(other, Histogram) and other.bins != self.bins:
            raise UsageError("histograms of different numbers of bins cannot be merged")

    def width(self, channel: int = 0) -> float:
        """How wide the bins of a channel are."""
        return float(np.ldexp(1.0 / self.bins, int(self.exponents[channel])))

    def _points(self, channel: int) -> tuple[np.ndarray, np.ndarray]:
        """(middles, counts) of the bins in use, zero among them; a middle is within the extremes that were seen."""
        used = np.flatnonzero(self.counts[channel])
        middles = (used - self.bins + 0.5) * self.width(channel)
        middles = np.clip(middles, self.lo[channel], self.hi[channel])
        counts = self.counts[channel][used]
        if self.zeros[channel]:
            middles, counts = np.append(middles, 0.0), np.append(counts, self.zeros[channel])
        return middles, counts


#: Exponent of a channel that has seen nothing but zeros, and the least one of others: smaller elements share its first bin.
_NEVER, _LEAST = -1000, -900


def _coarser(counts: np.ndarray, doublings: int) -> np.ndarray:
    """The counts for bins 2^doublings times as wide. Adding pairs keeps zero an edge: bin k goes to floor(k / 2)."""
    half = len(counts) // 2
    if doublings == 0:
        return counts
    used = np.flatnonzero(counts)
    places = ((used - half) >> min(doublings, 62)) + half
    made = np.zeros_like(counts)
    np.add.at(made, places, counts[used])
    return made


class Percentile(Histogram):
    """Cut off the same share of elements on either side: `percent` of them are below the upper end. Within a bin elements
    are taken to be evenly spread, so an end is within one bin of the exact percentile."""

    def __init__(self, axis: int | None = None, percent: float = 99.99, bins: int = BINS) -> None:
        super().__init__(axis, bins)
        if not 50.0 < percent <= 100.0:
            raise UsageError(f"percent is {percent}: more than 50 and at most 100")
        self.percent = percent

    def _cut(self, channel: int, lo: float, hi: float, qmin: int, qmax: int, symmetric: bool) -> tuple[float, float]:
        share = 1.0 - self.percent / 100.0
        return self._quantile(channel, share), self._quantile(channel, 1.0 - share)

    def _quantile(self, channel: int, share: float) -> float:
        """The value that `share` of the elements are below: linear between two of them, as numpy's percentile."""
        edges, heights = self._steps(channel)
        ends = np.cumsum(heights)
        rank = share * max(int(ends[-1]) - 1, 0)  # of the sorted elements, from 0
        first, last = (self._element(channel, int(place), edges, ends) for place in (np.floor(rank), np.ceil(rank)))
        part = rank - np.floor(rank)
        return first * (1.0 - part) + last * part

    def _element(self, channel: int, place: int, edges: np.ndarray, ends: np.ndarray) -> float:
        """The element with that many smaller ones, within one bin; the extremes exactly."""
        lo, hi = float(self.lo[channel]), float(self.hi[channel])
        if place in (0, ends[-1] - 1):
            return hi if place else lo
        at = int(np.searchsorted(ends, place, side="right"))
        start = int(ends[at - 1]) if at else 0
        first, last = edges[at]
        return min(max(first + (last - first) * (place - start + 0.5) / int(ends[at] - start), lo), hi)

    def _steps(self, channel: int) -> tuple[np.ndarray, np.ndarray]:
        """([lower, upper] edges, counts) of the bins in use in rising order, zero a bin of its own without a width."""
        used = np.flatnonzero(self.counts[channel])
        starts = (used - self.bins) * self.width(channel)
        edges = np.stack([starts, starts + self.width(channel)], axis=1)
        below = int(np.searchsorted(used, self.bins))
        edges = np.insert(edges, below, 0.0, axis=0)
        return edges, np.insert(self.counts[channel][used], below, self.zeros[channel])


class Entropy(Histogram):
    """The threshold on |x| whose clipped histogram loses least information when it is written in as many levels as the
    integers have on one side (Migacz, 8-bit inference with TensorRT, 2017): P are the first i bins with the tail added to
    the last of them, Q the first i bins merged into the levels and spread evenly over those that are not empty.

    Exact zeros are left out of both: behind a ReLU they are half of all and would outweigh the rest. Where there are fewer
    bins in use than levels (16 bits, few elements) nothing is cut off.
    """

    def _cut(self, channel: int, lo: float, hi: float, qmin: int, qmax: int, symmetric: bool) -> tuple[float, float]:
        one_sided = not symmetric and (lo == 0.0 or hi == 0.0)
        levels = (qmax - qmin + 1) if one_sided else (qmax - qmin + 1) // 2
        counts, width = self.magnitudes(channel)
        threshold = _best_cut(counts, levels) * width if len(counts) > levels else np.inf
        return -threshold, threshold

    def magnitudes(self, channel: int = 0) -> tuple[np.ndarray, float]:
        """f64 counts of |x| in at most 2048 bins, up to the last one in use, and their width. An element on the edge of two
        bins is in the one that its sign puts it in."""
        counts, width = self.counts[channel], self.width(channel)
        folded = counts[self.bins :] + counts[: self.bins][::-1]
        used = np.flatnonzero(folded)
        folded = folded[: used[-1] + 1 if len(used) else 0].astype(np.float64)
        while len(folded) > _ENTROPY_BINS:
            folded = np.append(folded, 0.0)[: len(folded) + len(folded) % 2].reshape(-1, 2).sum(axis=1)
            width *= 2
        return folded, width


#: Bins of TensorRT's procedure; its cost grows with the square.
_ENTROPY_BINS = 2048


def _best_cut(counts: np.ndarray, levels: int) -> int:
    """How many bins to keep, from `levels` to all of them: the first with the smallest divergence."""
    return int(_divergences(counts, levels).argmin()) + levels


@jit(lambda counts, levels: (len(counts) - levels + 1) * (len(counts) + levels) // 2)
def _divergences(counts, levels):
    """KL(P || Q) for every number of bins from `levels` to all."""
    made = np.empty(len(counts) - levels + 1)
    total = counts.sum()
    inside = counts[: levels - 1].sum()
    for kept in range(levels, len(counts) + 1):
        inside += counts[kept - 1]
        tail = total - inside
        divergence = 0.0
        for level in range(levels):
            start = level * kept // levels
            stop = (level + 1) * kept // levels
            mass = 0.0
            alive = 0
            for i in range(start, stop):
                mass += counts[i]
                p = counts[i] + (tail if i == kept - 1 else 0.0)
                if p > 0.0:
                    alive += 1
            for i in range(start, stop):
                p = counts[i] + (tail if i == kept - 1 else 0.0)
                if p > 0.0:
                    divergence += p / total * np.log(p / total * alive * inside / mass) if mass > 0.0 else np.inf
        made[kept - levels] = divergence if inside > 0.0 else np.inf
    return made


class MSE(Histogram):
    """The range with the smallest sum of squared errors of rounding and cutting off (Nagel et al., 2106.08295, 3.1.2): ends are
    tried on a grid of `steps` shares of the extremes, one after the other until neither moves.

    An element is taken to be in the middle of its bin; where the integers' step is narrower than a bin the error of rounding
    is step^2 / 12.
    """

    def __init__(self, axis: int | None = None, steps: int = 100, bins: int = BINS) -> None:
        super().__init__(axis, bins)
        self.steps = steps

    def _cut(self, channel: int, lo: float, hi: float, qmin: int, qmax: int, symmetric: bool) -> tuple[float, float]:
        points, counts = self._points(channel)
        shares = np.arange(self.steps, 0, -1) / self.steps
        error = functools.partial(_squared_error, points, counts, self.width(channel), qmin, qmax)
        if symmetric:
            best = _best_end(lambda ends: error(-ends, ends, symmetric=True), max(-lo, hi) * shares)
            return -best, best
        best_lo, best_hi = lo, hi
        for _ in range(_ROUNDS):
            before = best_lo, best_hi
            best_hi = _best_end(lambda ends, low=best_lo: error(np.full_like(ends, low), ends), hi * shares)
            best_lo = _best_end(lambda ends, high=best_hi: error(ends, np.full_like(ends, high)), lo * shares)
            if (best_lo, best_hi) == before:
                break
        return best_lo, best_hi


#: Turns of the search for two ends; it settles in two or three.
_ROUNDS = 6


def _best_end(error, ends: np.ndarray) -> float:
    return float(ends[int(np.argmin(error(ends)))]) if ends[0] != 0.0 else 0.0


def _squared_error(
    points: np.ndarray,
    counts: np.ndarray,
    width: float,
    qmin: int,
    qmax: int,
    lo: np.ndarray,
    hi: np.ndarray,
    symmetric: bool = False,
) -> np.ndarray:
    """Sum of squared errors of the points for each range lo..hi (vectors): q = clip(round(x / s) + z, qmin, qmax)."""
    step = hi / qmax if symmetric else (hi - lo) / (qmax - qmin)
    step = np.where(step > 0, step, 1.0)[:, None]
    zero = 0.0 if symmetric else np.rint(qmin - lo[:, None] / step)
    q = np.rint(points / step) + zero
    kept = np.clip(q, qmin, qmax)
    error = (points - step * (kept - zero)) ** 2
    error = np.where((step <= width) & (q == kept), step**2 / 12, error)
    return error @ counts.astype(np.float64)


OBSERVERS: dict[str, type[MinMax]] = {
    "minmax": MinMax,
    "moving-average": MovingAverage,
    "percentile": Percentile,
    "entropy": Entropy,
    "mse": MSE,
}
