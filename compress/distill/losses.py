"""The losses of `options.py` on torch tensors: a student's values first, the teacher's second. Imports torch at the top.

Means run over samples (and positions, where logits have more axes than two); classes are summed, as the papers have it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...ir.errors import UsageError
from .options import DKD, KD, Labels

#: In the denominator of a z-score (2403.01427's own code).
_EPSILON = 1e-7


def kd(student: Tensor, teacher: Tensor, how: KD) -> Tensor:
    """T^2 KL(softmax(t / T) || softmax(s / T)), also of z-scores."""
    if how.standardize:
        student, teacher = standardized(student), standardized(teacher)
    log_s = F.log_softmax(student / how.temperature, -1)
    log_t = F.log_softmax(teacher / how.temperature, -1)
    return how.temperature**2 * divergence(log_t, log_s).mean()


def standardized(logits: Tensor) -> Tensor:
    """Each sample's logits without their mean, in units of their standard deviation (2403.01427, equation 9)."""
    return (logits - logits.mean(-1, keepdim=True)) / (logits.std(-1, keepdim=True) + _EPSILON)


def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) over the last axis from logarithms; a class of probability 0 in p adds nothing."""
    terms = log_p.exp() * (log_p - log_q)
    return torch.where(log_p == -torch.inf, torch.zeros_like(terms), terms).sum(-1)


def dkd(student: Tensor, teacher: Tensor, labels: Tensor | None, how: DKD) -> Tensor:
    """T^2 (alpha TCKD + beta NCKD): how probable the target is, and how the others share the rest (2203.08679, section 3).

    The target's logit is left out of the second part, not pushed far down: that is what renormalising means.
    """
    classes = student.shape[-1]
    if classes < 3:
        raise UsageError(f"dkd tells the other classes apart, there are {classes} classes in all", hint="use kd")
    s, t = (x.reshape(-1, classes) / how.temperature for x in (student, teacher))
    target = t.argmax(-1) if labels is None else labels.reshape(-1)
    hit = F.one_hot(target, classes).bool()
    binary_s, binary_t = (_binary(x, hit) for x in (s, t))
    others_s, others_t = (F.log_softmax(x[~hit].reshape(-1, classes - 1), -1) for x in (s, t))
    total = how.alpha * divergence(binary_t, binary_s) + how.beta * divergence(others_t, others_s)
    return how.temperature**2 * total.mean()


def _binary(logits: Tensor, hit: Tensor) -> Tensor:
    """Logarithms of the probabilities of the target and of all others together, [samples, 2]."""
    own = logits[hit]
    others = torch.logsumexp(logits[~hit].reshape(len(logits), -1), -1)
    return F.log_softmax(torch.stack([own, others], -1), -1)


def cross_entropy(student: Tensor, labels: Tensor, how: Labels) -> Tensor:
    """With hard labels, of whatever shape the logits have before their last axis."""
    classes = student.shape[-1]
    return F.cross_entropy(student.reshape(-1, classes), labels.reshape(-1), label_smoothing=how.smoothing)


class Regressor(nn.Module):
    """A linear map of one axis, the 1x1 convolution of FitNets for channels wherever they stand."""

    def __init__(self, axis: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.axis = axis
        self.linear = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.movedim(self.axis, -1)).movedim(-1, self.axis)


def regressor(student: tuple, teacher: tuple, what: str) -> Regressor | None:
    """What brings a student's value of a static or symbolic shape to the teacher's; None where they are alike. Raises
    UsageError where they differ in more than one axis, or in one whose size is not fixed."""
    if len(student) != len(teacher):
        raise UsageError(f"{what}: the student's value has {len(student)} axes, the teacher's {len(teacher)}")
    both = [(i, a, b) for i, (a, b) in enumerate(zip(student, teacher, strict=True))]
    differ = [(i, a, b) for i, a, b in both if type(a) is int and type(b) is int and a != b]
    if not differ:
        return None
    if len(differ) > 1 or differ[0][0] == 0:
        shown = f"{list(map(str, student))} and {list(map(str, teacher))}".replace("'", "")
        raise UsageError(
            f"{what}: shapes {shown} differ in more than their width", hint="choose values of one resolution"
        )
    axis, inputs, outputs = differ[0]
    return Regressor(axis, inputs, outputs)


def hint(student: Tensor, teacher: Tensor, through: Regressor | None) -> Tensor:
    made = student if through is None else through(student)
    if made.shape != teacher.shape:
        raise UsageError(f"a hint compares {list(made.shape)} with {list(teacher.shape)}")
    return F.mse_loss(made, teacher)
