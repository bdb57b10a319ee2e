"""From two modules and a list of losses to what the loop trains: both modules with the values that losses compare as outputs,
and the student in its training form. Works on the IR alone; imports no framework.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from ...ir.errors import InvalidData, Unsupported, UsageError, clean
from ...ir.graph import Module, Value
from ...passes.manager import run_pipeline
from .interface import Pairing, find_value, is_classifier, logits_of, pair, tapped
from .options import DKD, KD, Hint, Labels, Loss, Match, parse_losses
from .quantised import TrainingForm, training_form


@dataclass(frozen=True)
class Term:
    """A loss with a name of its own, the student's output that it is of and the teacher's."""

    name: str
    loss: Loss
    student: str
    teacher: str


@dataclass(frozen=True)
class Setup:
    """`form.module` and `teacher` have further outputs for the terms; `shapes` are those of the terms' values in both."""

    teacher: Module
    form: TrainingForm
    pairing: Pairing
    terms: tuple[Term, ...]
    shapes: tuple[tuple[tuple, tuple], ...]

    @property
    def wants_labels(self) -> bool:
        return any(isinstance(term.loss, Labels) for term in self.terms)

    @property
    def wants_teacher(self) -> bool:
        return any(not isinstance(term.loss, Labels) for term in self.terms)

    @property
    def judged(self) -> Term | None:
        """The term whose outputs tell the class: of accuracy and agreement."""
        return next((term for term in self.terms if isinstance(term.loss, (KD, DKD, Labels))), None)


def prepare(teacher: Module, student: Module, losses: object, labelled: bool) -> Setup:
    """Raises UsageError where interfaces differ or losses name what is not there, Unsupported for a student that does not
    train, InvalidData where a loss wants labels and there are none."""
    pairing = pair(teacher, student)
    teacher, student = _fixed(teacher), _fixed(student)
    chosen = parse_losses(losses) if losses else default_losses(student, labelled)  # type: ignore[arg-type]
    if any(isinstance(loss, Labels) for loss in chosen) and not labelled:
        raise InvalidData("the loss `labels` wants labels, the data has none", hint="name them labels, or leave it out")
    pairs = [_values(loss, teacher, student, pairing) for loss in chosen]
    ours, our_names = tapped(student, [s for s, _ in pairs])
    theirs, their_names = tapped(teacher, [t for _, t in pairs])
    terms = tuple(map(Term, _names(chosen), chosen, our_names, their_names))
    shapes = tuple((s.shape or (), t.shape or ()) for s, t in pairs)
    form = training_form(ours)
    if not any(w.role == "param" and w.tensor.dtype.is_float for w in form.module.used_weights()):
        raise Unsupported("the student has no weights to train", hint="constants do not train, parameters do")
    return Setup(theirs, form, pairing, terms, shapes)


def _fixed(module: Module) -> Module:
    """Inputs that stand for a weight where they are not fed become that weight."""
    if not module.defaults():
        return module
    made = module.clone()
    run_pipeline(made, "fix-defaults")
    return made


def default_losses(student: Module, labelled: bool) -> tuple[Loss, ...]:
    """For a classifier kd, with a tenth of hard labels where there are some; for anything else mse of the outputs."""
    outputs = list(zip(student.signature.output_names(), student.signature.graph.outputs, strict=True))
    if is_classifier(outputs[0][1]):
        return (KD(0.9), Labels(0.1)) if labelled else (KD(),)
    return tuple(Match(output=name) for name, value in outputs if value.dtype is not None and value.dtype.is_float)


def _values(loss: Loss, teacher: Module, student: Module, pairing: Pairing) -> tuple[Value, Value]:
    """What a loss compares: the student's value and the teacher's."""
    if isinstance(loss, Hint):
        return find_value(student, loss.student), find_value(teacher, loss.teacher)
    names = student.signature.output_names()
    name = loss.output or names[0]
    if name not in names:
        raise UsageError(f"loss {loss.kind}: there is no output {clean(name)!r}", hint=f"outputs: {', '.join(names)}")
    ours = student.signature.graph.outputs[names.index(name)]
    theirs = teacher.signature.graph.outputs[teacher.signature.output_names().index(pairing.outputs[name])]
    if ours.dtype is None or not ours.dtype.is_float:
        raise UsageError(f"loss {loss.kind}: output {clean(name)!r} is {ours.type}, a loss compares floats")
    if isinstance(loss, Match):
        return ours, theirs
    if not ours.rank or ours.shape[-1] == 1:
        raise UsageError(
            f"loss {loss.kind}: output {clean(name)!r} is {ours.type}: no classes in its last axis", hint="use mse"
        )
    return logits_of(ours), logits_of(theirs)


def _names(losses: Sequence[Loss]) -> list[str]:
    """A column of its own for each loss: its kind, numbered where there are several."""
    made: list[str] = []
    for loss in losses:
        count = sum(name.partition("_")[0] == loss.kind for name in made)
        made.append(f"{loss.kind}_{count + 1}" if count else loss.kind)
    return made


def digest(module: Module) -> str:
    """Of operators, attributes and weights: equal for modules that compute the same in the same way."""
    state = hashlib.blake2b(digest_size=16)
    for node in module.all_nodes():
        state.update(f"{node.name}{sorted(node.attrs.plain.items(), key=lambda item: item[0])}".encode())
        state.update(
            "".join(v.weight.key if v is not None and v.weight is not None else "." for v in node.operands).encode()
        )
    for weight in module.used_weights():
        state.update(weight.key.encode() + weight.tensor.digest())
    return state.hexdigest()
