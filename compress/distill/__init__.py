"""Distillation: a student module learns from a teacher, in torch, and comes back into the IR.

    report = distill(teacher, student, {"image": x, "labels": y}, eval_data="test.npz", epochs=10)
    report.module                      # the student with its best weights, for any backend

The student may be pruned, quantised (QDQ: straight-through training with its own scales) or any other model of the same
interface. `anyir.distill` takes whatever `anyir.load` takes and writes the result too. Importing this package imports no
framework.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...ir.errors import MissingPackage, UsageError
from ...ir.graph import Module
from .options import DKD, KD, Hint, Labels, Loss, Match, Options
from .report import DistillReport

if TYPE_CHECKING:
    from ..data import Dataset
    from .feeding import Augment, Feed
    from .loop import Trainer
    from .setup import Setup

__all__ = ["DKD", "KD", "DistillReport", "Hint", "Labels", "Loss", "Match", "Options", "distill"]

Progress = Callable[[str, str], None]


def _silent(stage: str, text: str) -> None:
    """The progress of a library call: none."""


def distill(
    teacher: Module,
    student: Module,
    data: Any,
    *,
    eval_data: Any = None,
    losses: str | Loss | Sequence[str | Loss] = (),
    preprocess: Any = None,
    augment: Augment | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_seconds: float = 60.0,
    resume: bool = False,
    progress: Progress = _silent,
    options: Options | None = None,
    **choices: Any,
) -> DistillReport:
    """Train `student` on `data` to say what `teacher` says. Both are left as they are; `report.module` is the result.

    `data` and `eval_data`: all that `compress.data.open_data` takes, a torch DataLoader among it; labels stand beside the
    inputs. A number as `eval_data` is that many samples of `data`, which are then not learnt from. `losses`: text such as
    "kd{temperature=4},labels{weight=0.1}" or objects; by default kd for classifiers, with a tenth of hard labels where there
    are some, and mse for other models. `choices` are the fields of `Options` (epochs, batch, optimizer, rate, schedule, seed,
    device ...). `augment(feeds, rng)` changes the arrays of a batch. The best weights on `eval_data` come back (the metric,
    then the loss), without it the last ones.

    With `checkpoint` the state is written there as a whole, every `checkpoint_seconds` and after each epoch; `resume` goes on
    from it, and ends with the weights that an undisturbed run gives. A loss that is not finite ends the run
    (`report.stopped`), the best weights so far come back. Raises UsageError (also for interfaces that differ), InvalidData
    for empty or misshapen data, Unsupported for a student that cannot be trained, MissingPackage without torch.
    """
    _need_torch()
    started = time.perf_counter()
    chosen = _options(options, choices)
    _check_checkpoint(checkpoint, resume)
    from .loop import Saving, Trainer
    from .setup import prepare

    feed, judge = _feeds(student, data, eval_data, preprocess, augment, chosen)
    labelled = feed.first().labels is not None
    setup = prepare(teacher, student, losses, labelled)
    if feed.size != chosen.batch:
        chosen = replace(chosen, batch=feed.size)
    notes: list[str] = list(setup.form.notes)
    trainer = Trainer(setup, feed, judge, chosen, notes)
    identity = _identity(teacher, student, setup, feed, judge, chosen) if checkpoint is not None else {}
    progress("distill", f"{feed.count} samples, {trainer.total} steps, {', '.join(str(t.loss) for t in setup.terms)}")
    trainer.train(Saving(checkpoint, checkpoint_seconds, resume, identity), progress)
    report = _report(teacher, student, setup, trainer, notes)
    report.module = _result(student, setup, trainer, report)
    report.seconds = time.perf_counter() - started
    return report


def _need_torch() -> None:
    try:
        import torch  # noqa: F401
    except ModuleNotFoundError as exc:
        raise MissingPackage("distillation trains in torch", hint="pip install anyir[torch]") from exc


def _options(options: Options | None, choices: Mapping[str, Any]) -> Options:
    from .options import _near

    known = Options.__dataclass_fields__
    for name in choices:
        if name not in known:
            raise UsageError(f"distill has no option {name!r}", hint=_near(name, list(known)))
    return replace(options, **choices) if options is not None else Options(**choices)


def _check_checkpoint(path: str | os.PathLike[str] | None, resume: bool) -> None:
    if resume and path is None:
        raise UsageError("resume needs the checkpoint to go on from")
    if path is not None and not resume and os.path.exists(path):
        raise UsageError(
            "there is a checkpoint of an earlier run",
            where=os.fspath(path),
            hint="resume it, or remove the file to start anew",
        )


def _feeds(
    student: Module, data: Any, eval_data: Any, preprocess: Any, augment: Augment | None, options: Options
) -> tuple[Feed, Feed | None]:
    """Training and evaluation data; no sample may be in both."""
    from ..data import check_disjoint, open_data
    from .feeding import Feed, seeded

    with seeded((options.seed, 0), data):
        opened = open_data(data, student, preprocess=preprocess)
        if isinstance(eval_data, int):
            opened, eval_data = _parted(opened, eval_data, options.seed)
    feed = Feed(opened, options.batch, options.seed, augment, data)
    if eval_data is None:
        return feed, None
    with seeded((options.seed, 0), eval_data):
        judged = open_data(eval_data, student, preprocess=preprocess)
    judge = Feed(judged, options.batch, options.seed, None, eval_data)
    if not feed.streams and not judge.streams:
        check_disjoint(feed.data, judge.data)
    return feed, judge


def _parted(data: Dataset, count: int, seed: int) -> tuple[Dataset, Dataset]:
    """The data without `count` samples, and these, drawn by seed."""
    different = len(set(data.hashes))
    if not 0 < count < different:
        raise UsageError(f"{count} of {different} different samples are asked for to evaluate on")
    learn, judge = data.split([different - count, count], seed)
    return learn, judge


def _identity(
    teacher: Module, student: Module, setup: Setup, feed: Feed, judge: Feed | None, options: Options
) -> dict[str, Any]:
    """What a run is a function of."""
    from .setup import digest

    made: dict[str, Any] = {"teacher": digest(teacher), "student": digest(student), "data": feed.digest}
    made |= {"eval_data": judge.digest if judge is not None else "", "augment": feed.augment is not None}
    return {**made, "losses": [str(term.loss) for term in setup.terms], **options.as_dict()}


def _report(teacher: Module, student: Module, setup: Setup, trainer: Trainer, notes: list[str]) -> DistillReport:
    trained = sum(p.numel() for p in trainer.net.parameters())
    return DistillReport(
        teacher=teacher.name,
        student=student.name,
        losses=[str(term.loss) for term in setup.terms],
        options=trainer.options.as_dict(),
        metric=trainer.metric,
        device=str(trainer.device),
        samples=trainer.feed.count,
        steps=trainer.done,
        trained=trained,
        curve=trainer.curve,
        epochs=trainer.epochs,
        best=trainer.best_epoch,
        stopped=trainer.stopped,
        resumed=trainer.resumed,
        quantised=setup.form.quantised,
        notes=notes,
    )


def _result(student: Module, setup: Setup, trainer: Trainer, report: DistillReport) -> Module:
    """A clone of the student with the best weights, checked on the reference kernels against torch."""
    made = student.clone()
    setup.form.bring_back(made, {key: array for key, array in trainer.best.items() if key in made.weights})
    report.check = trainer.check(made, report.quantised)
    if report.check and not report.check["passed"]:
        report.notes.append("on the reference kernels the result differs from what torch computed: do not trust it")
    return made
