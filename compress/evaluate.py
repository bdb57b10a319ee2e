"""What a compressed model loses, measured on samples that no pass has seen: both models on the reference kernels.

Per output: signal to noise, cosine, largest difference, and for outputs that rank classes (the last axis of [N, C] and
[N, T, C]) how often both say the same, and how often each is right where there are labels. Shares come with their 95%
Wilson interval (Wilson 1927; the figures of a hundred samples are worth +-5 points). One batch is in memory at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..ir.graph import Module
from ..kernels.budget import Budget, spending
from ..kernels.run import run
from .layers import Noise

#: The 97.5% point of the normal distribution: 95% intervals.
Z = 1.959963984540054


def wilson(hits: int, count: int) -> tuple[float, float]:
    """The interval of a share, (0, 1) where nothing was counted."""
    if not count:
        return 0.0, 1.0
    p, z2 = hits / count, Z * Z
    middle = (p + z2 / (2 * count)) / (1 + z2 / count)
    half = Z / (1 + z2 / count) * math.sqrt(p * (1 - p) / count + z2 / (4 * count * count))
    return max(0.0, middle - half), min(1.0, middle + half)


@dataclass
class Share:
    """`hits` of `count`."""

    hits: int = 0
    count: int = 0

    def add(self, hit: np.ndarray) -> None:
        self.hits += int(np.count_nonzero(hit))
        self.count += int(hit.size)

    @property
    def value(self) -> float:
        return self.hits / self.count if self.count else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.hits, self.count)


@dataclass
class OutputLoss:
    """One output. `agreement` counts rows with the same largest element (equal elements where it holds integers); `right`
    the labelled samples that the source and the compressed model name correctly."""

    name: str
    noise: Noise = field(default_factory=Noise)
    max_abs: float = 0.0
    dot: float = 0.0
    power: float = 0.0
    broken: int = 0
    agreement: Share | None = None
    right: tuple[Share, Share] | None = None

    @property
    def cosine(self) -> float:
        norm = math.sqrt(self.noise.signal * self.power)
        return self.dot / norm if norm else 1.0 if self.noise.signal == self.power else 0.0

    @property
    def sqnr(self) -> float | None:
        return self.noise.db

    def add(self, wanted: np.ndarray, found: np.ndarray) -> None:
        if wanted.dtype.kind in "biu" or wanted.dtype.kind in "OSU":
            self.agreement = self.agreement or Share()
            self.agreement.add(np.asarray(wanted == found))
            return
        a, b = wanted.astype(np.float64), found.astype(np.float64)
        finite = np.isfinite(a) & np.isfinite(b)
        self.broken += int(np.count_nonzero(np.isfinite(a) & ~np.isfinite(b)))
        if not finite.all():
            a, b = np.where(finite, a, 0), np.where(finite, b, 0)
        self.noise.add(a, b)
        self.max_abs = max(self.max_abs, float(np.abs(a - b).max(initial=0.0)))
        self.dot += float((a * b).sum())
        self.power += float(np.square(b).sum())
        if wanted.ndim in (2, 3) and wanted.shape[-1] > 1:
            self.agreement = self.agreement or Share()
            self.agreement.add(a.argmax(-1) == b.argmax(-1))

    def judge(self, labels: np.ndarray, wanted: np.ndarray, found: np.ndarray) -> None:
        """Count right answers; `labels` are one class number for each row of [N, C]."""
        self.right = self.right or (Share(), Share())
        for share, array in zip(self.right, (wanted, found), strict=True):
            share.add(array.argmax(-1) == labels)


@dataclass
class Loss:
    """All outputs; `on` says what they were measured on."""

    on: str
    samples: int = 0
    digest: str = ""
    outputs: list[OutputLoss] = field(default_factory=list)
    labelled: bool = False
    given: bool = True

    @property
    def judged(self) -> OutputLoss | None:
        """The output that accuracy is told of: one with labels, else the first that ranks classes."""
        with_labels = (o for o in self.outputs if o.right is not None)
        return next(with_labels, None) or next((o for o in self.outputs if o.agreement is not None), None)

    @property
    def drop(self) -> float | None:
        """Percentage points of accuracy lost, or of answers that are not the source's where there are no labels; None where
        no output ranks classes."""
        output = self.judged
        if output is None:
            return None
        if output.right is not None:
            return 100 * (output.right[0].value - output.right[1].value)
        return 100 * (1 - output.agreement.value)  # type: ignore[union-attr]

    @property
    def cosine(self) -> float:
        return min((o.cosine for o in self.outputs), default=1.0)

    @property
    def max_abs(self) -> float:
        return max((o.max_abs for o in self.outputs), default=0.0)

    @property
    def sqnr(self) -> float | None:
        return min((o.sqnr for o in self.outputs if o.sqnr is not None), default=None)


@dataclass(frozen=True)
class Labelled:
    """One batch: feeds by input name, and a class for each of its `count` samples where there are labels."""

    feeds: Mapping[str, np.ndarray]
    labels: np.ndarray | None = None
    count: int = 1


def measure(
    source: Module,
    compressed: Module,
    batches: Iterable[Any],
    on: str,
    told: Callable[[int], None] = lambda done: None,
) -> Loss:
    """Run both on every batch (an object with `feeds`, `labels` and `count`); `told` hears how many samples are done."""
    loss = Loss(on)
    by_name: dict[str, OutputLoss] = {}
    for batch in batches:
        with spending(Budget.for_models(source, compressed)):
            wanted = run(source, batch.feeds)
            found = run(compressed, batch.feeds)
        for name, array in wanted.items():
            if isinstance(array, np.ndarray) and found[name].shape == array.shape:
                output = by_name.setdefault(name, OutputLoss(name))
                output.add(array, found[name])
                if _fits(batch.labels, array):
                    output.judge(np.asarray(batch.labels).reshape(-1), array, found[name])
        loss.samples += batch.count
        told(loss.samples)
    loss.outputs = list(by_name.values())
    loss.labelled = any(o.right is not None for o in loss.outputs)
    return loss


def _fits(labels: np.ndarray | None, array: np.ndarray) -> bool:
    """Labels are class numbers of the rows of a float [N, C]."""
    if labels is None or array.ndim != 2 or array.dtype.kind in "biuOSU":
        return False
    classes = np.asarray(labels)
    one_each = classes.dtype.kind in "iu" and classes.size == array.shape[0]
    return one_each and array.shape[1] > 1 and bool(np.all((classes >= 0) & (classes < array.shape[1])))


def worst_first(outputs: Sequence[OutputLoss]) -> list[OutputLoss]:
    return sorted(outputs, key=lambda o: (o.sqnr is None, o.sqnr if o.sqnr is not None else 0.0))
