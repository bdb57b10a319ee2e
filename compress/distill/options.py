"""What can be chosen in a distillation: losses and the options of the training loop, checked before anything is loaded.

    parse_losses("kd{temperature=4,weight=0.9},labels{weight=0.1}")
    Options(epochs=20, rate=1e-3, schedule="one-cycle")

Imports no framework.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ...ir.errors import UsageError
from ...passes.pipeline import Step, parse_pipeline


@dataclass(frozen=True)
class Loss:
    """A term of the total: `weight` times what `losses.py` computes for it. `output` is the student's output it is of, the
    first one where it is empty."""

    weight: float = 1.0
    output: str = ""
    kind: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for name in ("weight", "temperature"):
            value = getattr(self, name, 1.0)
            if not math.isfinite(value) or value <= 0:
                raise UsageError(f"loss {self.kind}: {name} is {value}, expected a positive number")

    def __str__(self) -> str:
        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if getattr(self, f.name) != f.default}
        return str(Step(self.kind, given))


@dataclass(frozen=True)
class KD(Loss):
    """T^2 KL(softmax(t / T) || softmax(s / T)) over the last axis (Hinton, 1503.02531). `standardize` z-scores the logits of
    each sample first (2403.01427), where a temperature of 2 is usual."""

    temperature: float = 4.0
    standardize: bool = False
    kind: ClassVar[str] = "kd"


@dataclass(frozen=True)
class DKD(Loss):
    """Decoupled distillation (2203.08679): alpha TCKD + beta NCKD, times T^2. The target class is the label, without labels
    what the teacher says. The weight rises from 0 during the first `warmup` epochs."""

    temperature: float = 4.0
    alpha: float = 1.0
    beta: float = 8.0
    warmup: float = 0.0
    kind: ClassVar[str] = "dkd"


@dataclass(frozen=True)
class Labels(Loss):
    """Cross entropy with hard labels."""

    smoothing: float = 0.0
    kind: ClassVar[str] = "labels"


@dataclass(frozen=True)
class Match(Loss):
    """Mean squared difference of an output: for what is no classifier."""

    kind: ClassVar[str] = "mse"


@dataclass(frozen=True)
class Hint(Loss):
    """Mean squared difference of two inner values (FitNets, 1412.6550), named as layers or values of their models; where
    their widths differ a 1x1 regressor on the student's side is trained along and dropped at the end."""

    teacher: str = ""
    student: str = ""
    kind: ClassVar[str] = "hint"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.teacher or not self.student:
            raise UsageError("a hint needs two values", hint="hint{teacher='layer3',student='layer2'}")


LOSSES: dict[str, type[Loss]] = {cls.kind: cls for cls in (KD, DKD, Labels, Match, Hint)}


def parse_losses(given: str | Loss | Sequence[str | Loss]) -> tuple[Loss, ...]:
    """Losses from text like a pipeline's, from objects, or from a mixture. Raises UsageError."""
    items: Sequence[str | Loss] = tuple(given) if isinstance(given, (list, tuple)) else (given,)  # type: ignore[assignment]
    made: list[Loss] = []
    for item in items:
        if isinstance(item, Loss):
            made.append(item)
            continue
        if not isinstance(item, str):
            raise UsageError(f"a {type(item).__name__} is no loss", hint=f"losses: {', '.join(LOSSES)}")
        steps = parse_pipeline(item)
        made += [_loss(step) for step in steps if isinstance(step, Step)]
        if not steps or not all(isinstance(step, Step) for step in steps):
            raise UsageError(f"{item!r} names no losses", hint=f"losses: {', '.join(LOSSES)}")
    return tuple(made)


def _loss(step: Step) -> Loss:
    found = LOSSES.get(step.name)
    if found is None:
        raise UsageError(f"there is no loss {step.name!r}", hint=_near(step.name, list(LOSSES)))
    known = {field.name: field for field in dataclasses.fields(found)}
    options: dict[str, Any] = {}
    for name, value in step.options.items():
        if name not in known:
            raise UsageError(f"loss {step.name} has no option {name!r}", hint=_near(name, list(known)))
        options[name] = _typed(f"loss {step.name}: {name}", value, known[name].default)
    return found(**options)


def _near(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f"did you mean {near[0]}?" if near else f"there are: {', '.join(known)}"


def _typed(what: str, value: Any, like: Any) -> Any:
    """`value` in the type of `like`: an int also stands for a float, and nothing else for anything else."""
    if type(like) is float and type(value) is int:
        return float(value)
    if type(value) is not type(like):
        raise UsageError(f"{what} is {value!r}, expected {type(like).__name__}")
    return value


OPTIMIZERS = ("adam", "adamw", "sgd")
SCHEDULES = ("constant", "cosine", "one-cycle")
DEVICES = ("cpu", "cuda", "auto")
METRICS = ("auto", "accuracy", "agreement", "loss")
NORMS = ("update", "freeze")


@dataclass(frozen=True)
class Options:
    """The options of the training loop. Two runs with equal options, models and data give the same weights.

    `rate` is the (highest) learning rate, `warmup` the share of the run in which it rises, `clip_norm` the largest norm of the
    gradient (0: any), `norms` whether batch norms of the student use and move their statistics in training.
    """

    epochs: int = 10
    batch: int = 64
    optimizer: str = "adam"
    rate: float = 1e-3
    weight_decay: float = 0.0
    momentum: float = 0.9
    schedule: str = "cosine"
    warmup: float = 0.0
    clip_norm: float = 0.0
    norms: str = "update"
    metric: str = "auto"
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = _typed(field.name, getattr(self, field.name), field.default)
            object.__setattr__(self, field.name, value)
        chosen = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES, "device": DEVICES, "metric": METRICS, "norms": NORMS}
        for name, known in chosen.items():
            if getattr(self, name) not in known:
                raise UsageError(f"{name} is {getattr(self, name)!r}", hint=_near(getattr(self, name), known))
        for name in ("epochs", "batch"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}, expected at least 1")
        if self.seed < 0:
            raise UsageError(f"seed is {self.seed}, expected at least 0")
        ranges = {"rate": (0, math.inf), "weight_decay": (0, math.inf), "momentum": (0, 1), "warmup": (0, 1)}
        for name, (low, high) in {**ranges, "clip_norm": (0, math.inf)}.items():
            value = getattr(self, name)
            if not low <= value < high or not math.isfinite(value):
                raise UsageError(f"{name} is {value}, expected a number from {low} to {high}")
        if self.rate == 0:
            raise UsageError("rate is 0: nothing would be learned")

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def factor(schedule: str, share: float, warmup: float) -> float:
    """What the learning rate is multiplied with when `share` of the run is done.

    one-cycle rises from 1/25 over the warm-up (0.3 of the run where none is given) and falls to nearly nothing (Smith,
    1708.07120, with cosines); the other two rise from 0 where a warm-up is given.
    """
    if schedule == "one-cycle":
        warmup = warmup or 0.3
        if share < warmup:
            return 1 + (1 / 25 - 1) * _cosine(share / warmup)
        return 1e-5 + (1 - 1e-5) * _cosine((share - warmup) / (1 - warmup))
    if share < warmup:
        return share / warmup
    return 1.0 if schedule == "constant" else _cosine((share - warmup) / (1 - warmup))


def _cosine(share: float) -> float:
    """From 1 to 0."""
    return (1 + math.cos(math.pi * min(max(share, 0.0), 1.0))) / 2
