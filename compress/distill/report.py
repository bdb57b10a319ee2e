"""What a distillation did: curves, figures, and the student's new weights. Text here is plain; `irc distill` draws tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...ir.errors import clean

if TYPE_CHECKING:
    from ...ir.graph import Module

BARS = "▁▂▃▄▅▆▇█"
#: Columns of a curve.
COLUMNS = 40


@dataclass
class DistillReport:
    """`module` is the student with its best weights.

    `curve` has a row of means for every few steps ({"step", "epoch", "loss", one column per loss, "rate"}), `epochs` one per
    epoch with the evaluation in it; row 0 is the student as it came. `best` is the epoch that the weights are from,
    `stopped` says why the run ended early ("" = it did not), `check` how far the module on the reference kernels is from
    what torch computed ({"max_abs", "limit", "passed"}), `written` how the file was written.
    """

    teacher: str
    student: str
    losses: list[str]
    options: dict[str, Any]
    metric: str = ""
    device: str = "cpu"
    samples: int = 0
    steps: int = 0
    trained: int = 0
    curve: list[dict[str, Any]] = field(default_factory=list)
    epochs: list[dict[str, Any]] = field(default_factory=list)
    best: int = 0
    stopped: str = ""
    resumed: int = 0
    quantised: bool = False
    check: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    files: list[str] = field(default_factory=list)
    written: Any = None
    module: Module | None = None

    @property
    def before(self) -> float | None:
        """The metric of the student as it came; None without evaluation data."""
        return self.epochs[0].get(self.metric) if self.epochs and self.metric else None

    @property
    def after(self) -> float | None:
        """The metric of the weights that came back."""
        row = next((row for row in self.epochs if row["epoch"] == self.best), {})
        return row.get(self.metric) if self.metric else None

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values; everything but the module and what became of the file."""
        names = [name for name in self.__dataclass_fields__ if name not in ("module", "written")]
        return {name: getattr(self, name) for name in names} | {"before": self.before, "after": self.after}

    def __str__(self) -> str:
        return "\n".join(clean(line, 400) for line in lines(self))


def lines(report: DistillReport) -> list[str]:
    """The short block after a run."""
    taught = f"{report.trained} weights, {report.samples} samples, {report.steps} steps on {report.device}"
    made = [f"{report.student} taught by {report.teacher}: {taught}"]
    for name in ("loss", *(curve_names(report) if len(report.losses) > 1 else ())):
        values = [row[name] for row in report.curve]
        if values:
            made.append(f"  {name:<9} {sparkline(values)}  {values[0]:.4g} -> {values[-1]:.4g}")
    if report.before is not None and report.after is not None:
        change = f"{shown(report.metric, report.before)} -> {shown(report.metric, report.after)}"
        made.append(f"  {report.metric:<9} {change} (weights of epoch {report.best})")
    if report.check:
        verdict = "" if report.check["limit"] is None else " ok" if report.check["passed"] else " DIFFERS"
        made.append(f"  forward   equals torch: max|d| {report.check['max_abs']:.1e}{verdict}")
    if report.stopped:
        made.append(f"  stopped   {report.stopped}")
    return made + [f"  note      {note}" for note in report.notes]


def epoch_table(report: DistillReport) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows: an epoch's losses in training, then what the evaluation data says. The best one is marked."""
    names = [name for name in report.epochs[-1] if name not in ("epoch", "train_rate")]
    columns = [
        "epoch",
        *(name.removeprefix("train_") if name.startswith("train_") else f"eval {name}" for name in names),
        "",
    ]
    rows = []
    for row in report.epochs:
        cells = [None if name not in row else _cell(name, row[name]) for name in names]
        rows.append([row["epoch"], *cells, "best" if row["epoch"] == report.best and report.metric else ""])
    return columns, rows


def _cell(name: str, value: float) -> str:
    return shown("loss" if name.startswith("train_") else name, value)


def curve_names(report: DistillReport) -> list[str]:
    fixed = ("step", "epoch", "steps", "loss", "rate")
    return [name for name in (report.curve[0] if report.curve else {}) if name not in fixed]


def shown(metric: str, value: float) -> str:
    return f"{value:.4g}" if metric == "loss" else f"{100 * value:.1f} %"


def sparkline(values: Sequence[float], columns: int = COLUMNS) -> str:
    """A curve as one line of blocks, from the smallest value to the largest; neighbours are averaged into `columns`."""
    finite = [v for v in values if math.isfinite(v)]
    if not finite:
        return ""
    columns = min(columns, len(finite))
    edges = [i * len(finite) // columns for i in range(columns + 1)]
    means = [sum(finite[a:b]) / (b - a) for a, b in zip(edges[:-1], edges[1:], strict=True)]
    low, width = min(means), max(means) - min(means)
    return "".join(BARS[int((v - low) / width * (len(BARS) - 1) + 0.5) if width else 0] for v in means)
