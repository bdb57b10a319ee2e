"""Dead weights on generated networks: slices of their weights are made zero, equal or tiny at random; what the pass proves must
hold for the numbers that flow, and what it removes must change none.

The oracle is the reference kernels on the network as it was: taps check every span, equality and gain against what is there.
"""

from __future__ import annotations

from collections import Counter
from functools import partial

import numpy as np
import pytest
from anyir.ir.graph import Module, Value
from anyir.ir.tensor import ArrayTensor
from anyir.ir.types import F32
from anyir.ir.verify import verify
from anyir.kernels.jit import interpreted
from anyir.kernels.run import run
from anyir.passes.dead.gains import Gains
from anyir.passes.dead.labels import Equalities
from anyir.passes.dead.layers import layers
from anyir.passes.dead.near_twins import NearTwins
from anyir.passes.dead.products import Products
from anyir.passes.dead.spans import Spans
from anyir.passes.manager import Context, run_pipeline
from anyir.tests.support.random_nets import Net, random_net
from anyir.tests.support.text import assert_same_numbers

SEEDS = range(24)
MANY = range(1000, 1600)


def planted(seed: int, *, tiny: float = 0.0, whole: bool = False) -> Net:
    """A random network, about half of whose tensors have slices that are zero, equal to others or a power of two times others;
    with `tiny`, nearly zero or nearly any number times others; `whole` makes all numbers small integers."""
    net, rng = random_net(seed), np.random.default_rng(seed + 7)
    for weight in list(net.module.weights):
        array = np.array(weight.tensor.numpy())
        if weight.role != "param" or array.dtype != np.float32:
            continue
        if whole:
            array = np.clip(np.rint(array * 4), -2, 2)
        if array.ndim == 1 and rng.random() < 0.5:
            array[rng.random(array.size) < 0.5] = 0
        for axis in range(min(2, array.ndim) if array.ndim > 1 else 0):
            slices = np.moveaxis(array, axis, 0)
            chosen = np.flatnonzero(rng.random(len(slices)) < 0.3)
            if rng.random() < 0.6 and len(chosen):
                factors = rng.choice([(0.0,), (1.0,), (1.0, 2.0, -0.5)][rng.integers(3)], len(chosen))
                if tiny and rng.random() < 0.5:
                    slices[chosen] *= tiny
                else:
                    factors = rng.uniform(-3, 3, len(chosen)) if tiny else factors
                    slices[chosen] = np.multiply.outer(factors, slices[chosen[0]])
                    slices[chosen] *= 1 + tiny * rng.uniform(-1, 1, slices[chosen].shape)
        net.module.set_weight(weight, ArrayTensor(array.astype(np.float32)))
    return net


def feeds(net: Net, *, whole: bool = False) -> dict[str, np.ndarray]:
    return {k: np.rint(v * 2).astype(np.float32) if whole else v for k, v in net.feeds.items()}


def check_same(seed: int) -> Counter[str]:
    net = planted(seed)
    made, ctx = net.module.clone(), Context()
    run_pipeline(made, "dead-weights", ctx)
    verify(made)
    if ctx.stats:
        assert_same_numbers(net.module, made, inputs=net.feeds)
    version = made.version
    run_pipeline(made, "dead-weights", again := Context())
    assert made.version == version and not again.stats, "a second run finds nothing"
    assert sum(row["count"] for row in ctx.records) == sum(n for k, n in ctx.stats.items() if not _settled(k))
    return ctx.stats


def _settled(kind: str) -> bool:
    return kind in ("needless-clamp", "constant-value")


@pytest.mark.parametrize("seed", SEEDS)
def test_removal_changes_no_numbers(seed: int) -> None:
    check_same(seed)


def test_every_kind_of_removal_occurs() -> None:
    found: Counter[str] = Counter()
    for seed in range(40):
        ctx = Context()
        run_pipeline(planted(seed).module, "dead-weights", ctx)
        found.update(ctx.stats)
    assert {
        "zero-channel",
        "unread-channel",
        "constant-channel",
        "duplicate-channel",
        "merged-constant",
        "scaled-channel",
    } <= set(found)


@pytest.mark.slow
def test_removal_changes_no_numbers_on_many_networks() -> None:
    total: Counter[str] = Counter()
    for seed in MANY:
        try:
            total.update(check_same(seed))
        except Exception as error:
            raise AssertionError(f"seed {seed}") from error
    assert sum(total.values()) > 1000


@pytest.mark.parametrize("seed", range(1, 16, 2))
def test_integers_stay_exact(seed: int) -> None:
    """Sums of small whole numbers have no rounding in which a wrong removal could hide."""
    net = planted(seed, whole=True)
    made = net.module.clone()
    run_pipeline(made, "dead-weights", Context())
    given = feeds(net, whole=True)
    with interpreted(), np.errstate(all="ignore"):
        wanted, found = run(net.module, given), run(made, given)
    sure = _is_whole(net.module)
    for name, array in wanted.items():
        assert np.array_equal(array, found[name]) or not sure, name


def _is_whole(module: Module) -> bool:
    """Only ops that keep whole numbers whole."""
    keep = {"conv", "conv_transpose", "matmul", "gemm", "add", "sub", "mul", "relu", "abs", "neg", "max", "concat", "slice",
            "gather", "split", "transpose", "reshape", "flatten", "pad", "tile", "max_pool", "depth_to_space"}  # fmt: skip
    return {node.name for node in module.all_nodes()} <= keep


# ------------------------------------------------------------------------------------- what is proven holds of what flows


def real(module: Module) -> list[Value]:
    """Computed values of the main graph that taps can see."""
    return [v for node in module.main.nodes() for v in node.results if v.dtype is F32 and v.shape is not None]


def looked_at(net: Net, check) -> None:
    values = {v: partial(check, v) for v in real(net.module)}
    with interpreted(), np.errstate(all="ignore"):
        run(net.module, net.feeds, taps=values)


def sides(array: np.ndarray, axis: int) -> np.ndarray:
    return np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1).astype(np.float64)


@pytest.mark.parametrize("seed", range(30))
def test_spans_hold_every_element(seed: int) -> None:
    net = planted(seed)
    spans = Spans(net.module, layers(net.module, Products()), lambda p, x: True)
    seen: list[int] = []

    def check(value: Value, array: np.ndarray) -> None:
        if not array.size or not np.isfinite(array).all():
            return
        hull = spans.hull(value)
        near = 1e-5 * (1 + np.abs(array).max())
        assert hull.lo[0] - near <= array.min() and array.max() <= hull.hi[0] + near, value
        for axis, span in spans.along.get(value, {}).items():
            rows = sides(array, axis)
            seen.append(int(span.constant.sum()))
            assert (rows.min(axis=1) >= span.lo - near).all() and (rows.max(axis=1) <= span.hi + near).all(), (
                value,
                axis,
            )

    looked_at(net, check)
    if seed == 3:
        assert sum(seen) > 0, "some channels are known to be constant"


@pytest.mark.parametrize("seed", range(30))
def test_equal_channels_are_equal(seed: int) -> None:
    net = planted(seed)
    equal = Equalities(net.module, layers(net.module, Products()))

    def check(value: Value, array: np.ndarray) -> None:
        for axis, twins in equal.along.get(value, {}).items():
            rows = sides(array, axis)
            for name in np.unique(twins.ids):
                own = twins.ids == name
                same, factor = rows[own], twins.factor[own, None]
                first = (factor != 0).argmax()
                base = same[first] / (factor[first] or 1.0)
                assert np.allclose(same, factor * base, rtol=1e-4, atol=1e-5), (value, axis)

    looked_at(net, check)


@pytest.mark.parametrize("seed", range(1, 31))
def test_no_channel_leaves_its_gain(seed: int) -> None:
    """|x - mid| <= radius + gain * sup|source|, with the source's own numbers."""
    net = planted(seed, tiny=1e-6)
    known = layers(net.module, Products())
    gains = Gains(net.module, known, Spans(net.module, known, lambda p, x: True))
    sizes = {v: float(np.abs(net.feeds[name]).max()) for v, name in zip(net.module.main.inputs, net.feeds, strict=True)}

    def check(value: Value, array: np.ndarray) -> None:
        sizes[value] = float(np.abs(array).max()) if array.size else 0.0
        for (other, axis), gain in gains.along.items():
            if other is value and gain.source in sizes and array.size and np.isfinite(array).all():
                rows = sides(array, axis)
                allowed = gain.radius + np.where(gain.gain > 0, gain.gain * sizes[gain.source], 0.0)
                far = np.abs(rows - gain.mid[:, None]).max(axis=1)
                assert (far <= allowed + 1e-5 * (1 + np.abs(array).max())).all(), (value, axis)

    looked_at(net, check)


@pytest.mark.parametrize("seed", range(1, 31))
def test_no_twin_is_further_away_than_is_said(seed: int) -> None:
    net = planted(seed, tiny=1e-6)
    known = layers(net.module, Products())
    near = NearTwins(net.module, known, Spans(net.module, known, lambda p, x: True), 1e-5)
    sizes = {v: float(np.abs(net.feeds[name]).max()) for v, name in zip(net.module.main.inputs, net.feeds, strict=True)}

    def check(value: Value, array: np.ndarray) -> None:
        sizes[value] = float(np.abs(array).max()) if array.size else 0.0
        for axis in range(array.ndim):
            found = near.at(value, axis)
            if found is None or found.source not in sizes or not array.size or not np.isfinite(array).all():
                continue
            rows, distance = sides(array, axis), found.radius + found.gain * sizes[found.source]
            for name in np.unique(found.ids):
                first, *others = np.flatnonzero(found.ids == name).tolist()
                for i in others:
                    number = found.factor[i] / found.factor[first]
                    allowed = distance[i] + abs(number) * distance[first]
                    assert (np.abs(rows[i] - number * rows[first]) <= allowed + 1e-5 * (1 + np.abs(array).max())).all()

    looked_at(net, check)
    if seed == 16:
        assert near.along, "some channels are near another"


# ------------------------------------------------------------------------------------------------ within a stated bound


@pytest.mark.parametrize("seed", SEEDS)
def test_near_dead_channels_stay_within_their_certificates(seed: int) -> None:
    """What is dropped is compared, layer by layer, on a network that ends behind the first layer with a certificate."""
    net = planted(seed, tiny=1e-7)
    made, ctx = net.module.clone(), Context(level=3)
    run_pipeline(made, "dead-weights{bound=1e-4}", ctx)
    verify(made)
    told = [row for row in ctx.records if row["kind"] == "certificate"]
    for row in told:
        assert 0 <= row["error"] <= row["bound"] * row["reach"]
    with interpreted(), np.errstate(all="ignore"):
        wanted, found = run(net.module, net.feeds), run(made, net.feeds)
    for name, array in wanted.items():
        if np.isfinite(array).all():
            assert np.allclose(array, found[name], rtol=1e-2, atol=1e-2 * (1 + np.abs(array).max())), name
