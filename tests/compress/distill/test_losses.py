"""Every loss against its formula in numpy, and how they are asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from anyir.compress.distill import DKD, KD, Hint, Labels, Match, Options
from anyir.compress.distill import losses as calculated
from anyir.compress.distill.options import SCHEDULES, factor, parse_losses
from anyir.ir.errors import UsageError


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return (p * np.log(p / q)).sum(-1)


@pytest.fixture
def logits() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    s, t = (torch.from_numpy(rng.standard_normal((6, 5)) * 3) for _ in range(2))
    return s.requires_grad_(), t, torch.from_numpy(rng.integers(0, 5, 6))


def test_kd(logits: tuple[torch.Tensor, ...]) -> None:
    s, t, _ = logits
    for temperature in (1.0, 4.0):
        found = calculated.kd(s, t, KD(temperature=temperature))
        p, q = (softmax(x.detach().numpy() / temperature) for x in (t, s))
        assert found.item() == pytest.approx(temperature**2 * kl(p, q).mean(), rel=1e-12)
    assert calculated.kd(t, t, KD()).item() == pytest.approx(0, abs=1e-12)


def test_kd_of_scores(logits: tuple[torch.Tensor, ...]) -> None:
    """Standardised logits: scale and shift of either side do not matter."""
    s, t, _ = logits
    how = KD(temperature=2.0, standardize=True)
    found = calculated.kd(s, t, how)
    z = [(x - x.mean(-1, keepdims=True)) / x.std(-1, ddof=1, keepdims=True) for x in (t.numpy(), s.detach().numpy())]
    p, q = (softmax(x / 2) for x in z)
    assert found.item() == pytest.approx(4 * kl(p, q).mean(), rel=1e-5)
    assert calculated.kd(3 * s + 7, t / 5 - 1, how).item() == pytest.approx(found.item(), rel=1e-5)


def test_a_teacher_may_rule_classes_out(logits: tuple[torch.Tensor, ...]) -> None:
    s, t, _ = logits
    t = t.clone()
    t[:, 2] = -torch.inf
    found = calculated.kd(s, t, KD(temperature=1.0))
    p, q = softmax(t.numpy()), softmax(s.detach().numpy())
    keep = [0, 1, 3, 4]
    assert found.item() == pytest.approx((p[:, keep] * np.log(p[:, keep] / q[:, keep])).sum(-1).mean(), rel=1e-12)
    found.backward()
    assert torch.isfinite(s.grad).all()


def test_dkd(logits: tuple[torch.Tensor, ...]) -> None:
    """Equations 5 to 7 of the paper, and that alpha = 1 with beta = 1 - p_target is plain KD."""
    s, t, y = logits
    temperature, rows = 4.0, np.arange(6)
    p, q = (softmax(x.detach().numpy() / temperature) for x in (t, s))
    own = [np.stack([x[rows, y], 1 - x[rows, y]], -1) for x in (p, q)]
    mask = np.ones((6, 5), bool)
    mask[rows, y] = False
    others = [x[mask].reshape(6, 4) / (1 - x[rows, y])[:, None] for x in (p, q)]
    target, rest = kl(*own), kl(*others)
    for alpha, beta in ((1.0, 8.0), (0.5, 2.0)):
        found = calculated.dkd(s, t, y, DKD(temperature=temperature, alpha=alpha, beta=beta)).item()
        assert found == pytest.approx(temperature**2 * (alpha * target + beta * rest).mean(), rel=1e-10)
    np.testing.assert_allclose(target + (1 - p[rows, y]) * rest, kl(p, q), rtol=1e-10)
    without = calculated.dkd(s, t, None, DKD()).item()
    assert without == pytest.approx(calculated.dkd(s, t, t.argmax(-1), DKD()).item())
    with pytest.raises(UsageError, match="2 classes"):
        calculated.dkd(s[:, :2], t[:, :2], y, DKD())


def test_cross_entropy_and_positions(logits: tuple[torch.Tensor, ...]) -> None:
    s, _, y = logits
    q = softmax(s.detach().numpy())
    assert calculated.cross_entropy(s, y, Labels()).item() == pytest.approx(-np.log(q[np.arange(6), y]).mean())
    spread = calculated.cross_entropy(s.reshape(2, 3, 5), y.reshape(2, 3), Labels())
    assert spread.item() == pytest.approx(calculated.cross_entropy(s, y, Labels()).item())


@pytest.mark.parametrize("axis", [1, 3])
def test_a_regressor_is_a_1x1_convolution(axis: int) -> None:
    shapes = [[2, 4, 4, 4], [2, 4, 4, 4]]
    shapes[0][axis], shapes[1][axis] = 3, 7
    through = calculated.regressor(tuple(shapes[0]), tuple(shapes[1]), "hint")
    assert through is not None
    x, y = torch.randn(shapes[0]), torch.randn(shapes[1])
    first = (x if axis == 1 else x.permute(0, 3, 1, 2)), through.linear.weight[:, :, None, None]
    made = torch.conv2d(*first, through.linear.bias)
    made = made if axis == 1 else made.permute(0, 2, 3, 1)
    assert calculated.hint(x, y, through).item() == pytest.approx((made - y).square().mean().item(), rel=1e-5)


def test_values_of_other_resolutions_have_no_regressor() -> None:
    assert calculated.regressor((2, 3), (2, 3), "hint") is None
    for ours, theirs in (((2, 3, 4, 4), (2, 5, 8, 8)), ((2, 3), (2, 3, 1)), ((2, 3), (4, 3))):
        with pytest.raises(UsageError, match="hint a : b"):
            calculated.regressor(ours, theirs, "hint a : b")


def test_losses_are_spoken_like_passes() -> None:
    made = parse_losses(["kd{temperature=2,weight=0.5},labels{smoothing=0.1}", Match(output="box")])
    assert made == (KD(0.5, temperature=2.0), Labels(smoothing=0.1), Match(output="box"))
    assert parse_losses([str(loss) for loss in made]) == made
    hint = parse_losses("hint{teacher='layer3.0',student='layer2.0'}")
    assert hint == (Hint(teacher="layer3.0", student="layer2.0"),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kdd", "did you mean kd"),
        ("kd{temprature=2}", "did you mean temperature"),
        ("kd{temperature=hot}", "expected float"),
        ("kd{temperature=0}", "expected a positive number"),
        ("labels{weight=-1}", "expected a positive number"),
        ("hint{teacher=a}", "two values"),
        ("fix(kd)", "names no losses"),
        ("", "names no losses"),
    ],
)
def test_mistakes_in_losses_are_named(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_losses(text)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"optimizer": "adamm"}, "did you mean adam"),
        ({"epochs": 0}, "at least 1"),
        ({"rate": -1.0}, "rate is -1.0"),
        ({"rate": 0}, "nothing would be learned"),
        ({"rate": "fast"}, "expected float"),
        ({"warmup": 1.0}, "warmup is 1.0"),
        ({"seed": -1}, "seed is -1"),
        ({"clip_norm": float("nan")}, "clip_norm is nan"),
    ],
)
def test_mistakes_in_options_are_named(choice: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Options(**choice)


def test_schedules() -> None:
    shares = np.linspace(0, 1, 101)
    curves = {name: np.array([factor(name, share, 0.0) for share in shares]) for name in SCHEDULES}
    assert (curves["constant"] == 1).all()
    np.testing.assert_allclose(curves["cosine"], (1 + np.cos(np.pi * shares)) / 2, atol=1e-12)
    assert curves["one-cycle"].argmax() == 30 and curves["one-cycle"][0] == pytest.approx(1 / 25)
    assert curves["one-cycle"][-1] < 1e-4 and (np.diff(curves["one-cycle"][:31]) > 0).all()
    assert factor("cosine", 0.05, 0.1) == pytest.approx(0.5) and factor("constant", 0.1, 0.1) == 1
