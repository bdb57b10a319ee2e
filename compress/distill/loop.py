"""The training loop in torch: batches, losses, optimiser, evaluation, checkpoints. Imports torch at the top.

A run is a function of its setup, data and options. Nothing is drawn from a generator that goes on from step to step: the
order of the data comes from seed and epoch, so that a run which was killed goes on from its checkpoint to the same bits.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...backends.torch import to_torch
from ...backends.torch.live import to_tensor
from ...formats.torch_state import array_of
from ...ir.errors import InvalidData, Unsupported, UsageError
from ...ir.graph import Module
from ...ir.types import DType
from ...kernels.compare import compare, limits_for
from ...kernels.run import run
from ..data import Batch
from . import checkpoint, losses
from .feeding import Feed, seeded
from .options import DKD, KD, Hint, Labels, Options, factor
from .setup import Setup, Term
from .teacher import teacher_for

#: Rows of the curve that an epoch gives.
WINDOWS = 20
#: Samples on which the result is checked.
CHECKED = 2
Progress = Callable[[str, str], None]


class Diverged(Exception):
    """A loss or gradient is not finite: where, in words."""


@dataclass
class Saving:
    """Where checkpoints go and how often; no path: nowhere."""

    path: str | os.PathLike[str] | None = None
    seconds: float = 60.0
    resume: bool = False
    identity: dict[str, Any] = field(default_factory=dict)
    last: float = field(default_factory=time.monotonic)

    def due(self) -> bool:
        return self.path is not None and time.monotonic() - self.last >= self.seconds


class Trainer:
    """One run. `train` ends it; then `best` are the weights that come back, by key."""

    def __init__(self, setup: Setup, feed: Feed, judge: Feed | None, options: Options, notes: list[str]) -> None:
        self.setup, self.feed, self.judge, self.options = setup, feed, judge, options
        self.device = device_of(options.device)
        self.net = to_torch(setup.form.module).to(self.device)
        self.inputs = setup.form.module.signature.input_names()
        self.outputs = setup.form.module.signature.output_names()
        names = setup.pairing.inputs
        self.teacher = teacher_for(setup.teacher, names, self.device, notes) if setup.wants_teacher else None
        self.regressors = _regressors(setup, options.seed).to(self.device)
        self.parameters = [*self.net.parameters(), *self.regressors.parameters()]
        self.optimizer = _optimizer(self.parameters, options)
        self.total = options.epochs * feed.steps()
        self.metric = self._metric() if judge is not None else ""
        self.epoch = self.step = self.done = self.best_epoch = 0
        self.best = self.state()
        self.curve: list[dict[str, Any]] = []
        self.epochs: list[dict[str, Any]] = []
        self.window: dict[str, float] = {}
        self.resumed = 0
        self.stopped = ""

    # Running.

    def train(self, saving: Saving, progress: Progress) -> None:
        """Run to the end, or to the first loss that is not finite (`stopped` then says where)."""
        with _deterministic():
            if saving.resume and saving.path is not None and os.path.exists(saving.path):
                self.restore(checkpoint.load(saving.path, saving.identity))
                progress("resume", f"epoch {self.epoch + 1}, step {self.step} of it")
            if not self.epochs:
                self._close_epoch(0, progress)
            try:
                while self.epoch < self.options.epochs and not self.stopped:
                    self._run_epoch(saving)
                    self.epoch, self.step = self.epoch + 1, 0
                    self._close_epoch(self.epoch, progress)
                    self._save(saving)
            except Diverged as error:
                self.stopped = str(error)
                progress("stop", self.stopped)
                self._save(saving)

    def _run_epoch(self, saving: Saving) -> None:
        rows = max(1, self.feed.steps() // WINDOWS)
        for batch in self.feed.epoch(self.epoch, self.step):
            self._learn(batch)
            self.step += 1
            self.done += 1
            if self.window["steps"] >= rows:
                self._close_window()
            if saving.due():
                self._save(saving)
        if self.window:
            self._close_window()

    def _learn(self, batch: Batch) -> None:
        """One step of the optimiser. Raises Diverged before anything has changed."""
        self.net.train(self.options.norms == "update")
        rate = self.options.rate * factor(self.options.schedule, (self.done + 0.5) / self.total, self.options.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        found = self.losses(batch)
        total = self.weighted(found)
        values = {"loss": total.item(), **{name: value.item() for name, value in found.items()}}
        self._check(values)
        if not total.requires_grad:
            raise Unsupported("the losses do not depend on any weight of the student")
        total.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, self.options.clip_norm or math.inf, foreach=False)
        self._check({"gradient": norm.item()})
        self.optimizer.step()
        for name, value in {**values, "rate": rate, "steps": 1}.items():
            self.window[name] = self.window.get(name, 0) + value

    def _check(self, values: dict[str, float]) -> None:
        if not all(map(math.isfinite, values.values())):
            bad = ", ".join(f"{name} is {value}" for name, value in values.items() if not math.isfinite(value))
            why = (
                ""
                if self.done
                else "; nothing was trained yet: teacher or student gives no finite numbers for this data"
            )
            raise Diverged(f"epoch {self.epoch + 1}, step {self.step + 1}: {bad}{why}")

    # Losses.

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Every term on its own, unweighted."""
        feeds = {name: self._tensor(array) for name, array in batch.feeds.items()}
        labels = None if batch.labels is None else torch.from_numpy(batch.labels).to(self.device)
        theirs = self.teacher(feeds) if self.teacher is not None else {}
        ours = self._student(feeds)
        return {
            term.name: self._loss(term, ours[term.student], theirs.get(term.teacher), labels)
            for term in self.setup.terms
        }

    def _student(self, feeds: dict[str, Tensor]) -> dict[str, Tensor]:
        found = self.net.outputs([feeds[name] for name in self.inputs])
        return dict(zip(self.outputs, found, strict=True))

    def _loss(self, term: Term, ours: Tensor, theirs: Tensor | None, labels: Tensor | None) -> Tensor:
        how = term.loss
        if isinstance(how, (Labels, DKD)) and labels is not None:
            _check_labels(labels, ours)
        if isinstance(how, Labels):
            if labels is None:
                raise InvalidData("a batch has no labels")
            return losses.cross_entropy(ours, labels, how)
        assert theirs is not None
        if isinstance(how, KD):
            return losses.kd(ours, theirs, how)
        if isinstance(how, DKD):
            return losses.dkd(ours, theirs, labels, how)
        through = self.regressors[term.name] if isinstance(how, Hint) and term.name in self.regressors else None
        return losses.hint(ours, theirs, through)  # type: ignore[arg-type]  # what ModuleDict says it holds

    def weighted(self, found: dict[str, Tensor]) -> Tensor:
        epochs = self.done / max(1, self.feed.steps())
        parts = [found[term.name] * (term.loss.weight * _warmed(term, epochs)) for term in self.setup.terms]
        return torch.stack(parts).sum()

    def _tensor(self, array: np.ndarray) -> Tensor:
        return to_tensor(array, DType.of(array.dtype)).to(self.device)

    # Judging.

    def _metric(self) -> str:
        assert self.judge is not None
        labelled = self.judge.first().labels is not None
        wanted, term = self.options.metric, self.setup.judged
        if wanted == "auto":
            if term is None:
                return "loss"
            return "accuracy" if labelled else "agreement" if self.teacher is not None else "loss"
        if wanted != "loss" and term is None:
            raise UsageError(f"metric {wanted} wants a loss of classes", hint="kd, dkd or labels")
        if wanted == "accuracy" and not labelled:
            raise UsageError("metric accuracy wants labels in the evaluation data", hint="metric agreement needs none")
        if wanted == "agreement" and self.teacher is None:
            raise UsageError("metric agreement wants a loss that asks the teacher", hint="metric accuracy does not")
        return wanted

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Means over the evaluation data: the loss, and accuracy or agreement."""
        assert self.judge is not None
        self.net.eval()
        total, right, asked, count = 0.0, 0, 0, 0
        for batch in self.judge.in_order():
            feeds = {name: self._tensor(array) for name, array in batch.feeds.items()}
            labels = None if batch.labels is None else torch.from_numpy(batch.labels).to(self.device)
            theirs = self.teacher(feeds) if self.teacher is not None else {}
            ours = self._student(feeds)
            for term in self.setup.terms:
                if not isinstance(term.loss, Labels) or labels is not None:
                    value = self._loss(term, ours[term.student], theirs.get(term.teacher), labels)
                    total += value.item() * term.loss.weight * batch.count
            count += batch.count
            if self.metric != "loss" and self.setup.judged is not None:
                said = ours[self.setup.judged.student].argmax(-1)
                wanted = labels if self.metric == "accuracy" else theirs[self.setup.judged.teacher].argmax(-1)
                if wanted is None:
                    raise InvalidData("some of the evaluation data has no labels")
                right, asked = right + int((said == wanted).sum()), asked + said.numel()
        found = {"loss": total / max(count, 1)}
        return {**found, self.metric: right / max(asked, 1)} if self.metric != "loss" else found

    def _close_window(self) -> None:
        steps = self.window.pop("steps")
        means = {name: value / steps for name, value in self.window.items()}
        self.curve.append({"step": self.done, "epoch": self.epoch + 1, **means, "steps": steps})
        self.window = {}

    def _close_epoch(self, number: int, progress: Progress) -> None:
        """A row of means, the evaluation, and whether these are the best weights so far."""
        rows = [row for row in self.curve if row["epoch"] == number]
        steps = sum(row["steps"] for row in rows)
        names = [name for name in (rows[0] if rows else {}) if name not in ("step", "epoch", "steps")]
        row = {"epoch": number} | {f"train_{n}": sum(r[n] * r["steps"] for r in rows) / steps for n in names}
        if self.judge is not None:
            row |= self.evaluate()
        self.epochs.append(row)
        if self.judge is None or number == 0 or self._is_better(row):
            self.best, self.best_epoch = self.state(), number
        if number or self.judge is not None:
            progress(f"epoch {number}", self._told(row))

    def _is_better(self, row: dict[str, Any]) -> bool:
        """A better metric, or the same and a lower loss."""
        best = next(r for r in self.epochs if r["epoch"] == self.best_epoch)
        if not math.isfinite(row["loss"]):
            return False
        keys = [(r["loss"],) if self.metric == "loss" else (-r[self.metric], r["loss"]) for r in (row, best)]
        return keys[0] < keys[1]

    def _told(self, row: dict[str, Any]) -> str:
        parts = [f"loss {row['train_loss']:.4g}"] if "train_loss" in row else []
        if len(self.setup.terms) > 1 and parts:
            inner = ", ".join(f"{term.name} {row[f'train_{term.name}']:.4g}" for term in self.setup.terms)
            parts[0] += f" ({inner})"
        if "loss" in row:
            parts.append(f"on evaluation data {row['loss']:.4g}")
        if self.metric not in ("", "loss"):
            parts.append(f"{self.metric} {100 * row[self.metric]:.1f} %")
        return "   ".join(parts)

    def check(self, module: Module, quantised: bool) -> dict[str, Any]:
        """How far `module` (the student with the best weights) on the reference kernels is from the net in torch, on the first
        samples. Where integers are rounded one ULP may move an output by whole steps: there is no limit for that."""
        batch = next(iter((self.judge or self.feed).in_order(CHECKED)))
        self.net.load_state_dict(_tensors(self.best))
        self.net.eval()
        with torch.no_grad():
            ours = self._student({name: self._tensor(array) for name, array in batch.feeds.items()})
        wanted = run(module, batch.feeds)
        found = {name: array_of(ours[name]) for name in wanted}
        if quantised or self.device.type != "cpu":
            worst = max(float(np.abs(found[n].astype(np.float64) - wanted[n]).max(initial=0)) for n in wanted)
            return {"max_abs": worst, "limit": None, "passed": True}
        report = compare(wanted, found, limits_for(module, batch.feeds, runs=2, exact=wanted))
        worst_row = max(report.rows, key=lambda row: row.max_abs)
        return {"max_abs": worst_row.max_abs, "limit": worst_row.limit, "passed": report.passed}

    # State.

    def state(self) -> dict[str, np.ndarray]:
        """The student's parameters and buffers by key, as arrays of their own."""
        return _arrays(self.net.state_dict())

    def _save(self, saving: Saving) -> None:
        if saving.path is None:
            return
        moments = self.optimizer.state_dict()["state"]
        tensors = {f"net/{key}": array for key, array in self.state().items()}
        tensors |= {f"best/{key}": array for key, array in self.best.items()}
        tensors |= {f"regressors/{key}": array for key, array in _arrays(self.regressors.state_dict()).items()}
        for index, parts in moments.items():
            tensors |= {f"optimizer/{index}/{n}": a for n, a in _arrays(parts).items()}
        facts = {name: getattr(self, name) for name in _FACTS}
        checkpoint.save(saving.path, saving.identity, checkpoint.State(tensors, facts))
        saving.last = time.monotonic()

    def restore(self, state: checkpoint.State) -> None:
        """Go on from a checkpoint."""
        for name in _FACTS:
            setattr(self, name, state.facts[name])
        parts: dict[str, dict[str, np.ndarray]] = {"net": {}, "best": {}, "regressors": {}, "optimizer": {}}
        for name, array in state.tensors.items():
            head, _, tail = name.partition("/")
            parts[head][tail] = array
        self.best = {key: np.array(array) for key, array in parts["best"].items()}
        self.net.load_state_dict(_tensors(parts["net"]))
        self.regressors.load_state_dict(_tensors(parts["regressors"]))
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _tensors(parts["optimizer"]).items():
            index, _, part = name.partition("/")
            moments.setdefault(int(index), {})[part] = tensor
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        self.resumed = self.done


_FACTS = ("epoch", "step", "done", "best_epoch", "curve", "epochs", "window", "stopped")


def _arrays(tensors: dict[str, Any]) -> dict[str, np.ndarray]:
    return {key: np.array(array_of(tensor)) for key, tensor in tensors.items() if tensor is not None}


def _tensors(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {key: to_tensor(array, DType.of(array.dtype)) for key, array in arrays.items()}


def device_of(name: str) -> torch.device:
    """`cpu`, `cuda` (UsageError where there is none), or `auto`: a GPU where there is one."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("device cuda: torch sees no GPU", hint="device auto takes one where there is one")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _regressors(setup: Setup, seed: int) -> nn.ModuleDict:
    made: dict[str, nn.Module] = {}
    with seeded((seed, len(setup.terms))):
        for term, (ours, theirs) in zip(setup.terms, setup.shapes, strict=True):
            if isinstance(term.loss, Hint):
                what = f"hint {term.loss.teacher} : {term.loss.student}"
                found = losses.regressor(ours, theirs, what)
                made |= {} if found is None else {term.name: found}
    return nn.ModuleDict(made)


def _optimizer(parameters: list[nn.Parameter], options: Options) -> torch.optim.Optimizer:
    common: dict[str, Any] = {"lr": options.rate, "weight_decay": options.weight_decay, "foreach": False}
    if options.optimizer == "sgd":
        return torch.optim.SGD(parameters, momentum=options.momentum, **common)
    return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[options.optimizer](parameters, **common)


def _warmed(term: Term, epochs: float) -> float:
    warmup = term.loss.warmup if isinstance(term.loss, DKD) else 0.0
    return min(1.0, epochs / warmup) if warmup else 1.0


def _check_labels(labels: Tensor, logits: Tensor) -> None:
    if labels.shape != logits.shape[:-1]:
        raise InvalidData(f"labels {list(labels.shape)} for logits {list(logits.shape)}", code="F301")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= logits.shape[-1]:
        raise InvalidData(f"labels from {low} to {high} for {logits.shape[-1]} classes", code="F301")


@contextmanager
def _deterministic() -> Iterator[None]:
    """Algorithms that give the same bits each time, where torch has them."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
