"""Least squares after pruning: the algebra beside numpy's own solver, and each kind of layer beside what must come back."""

from __future__ import annotations

import numpy as np
import pytest
from anyir.compress.data import open_data
from anyir.compress.recover import Sums, best_change, solve
from anyir.compress.rows import Singled, Thinned, first_half, sample_rows, sampled_layer
from anyir.compress.stages import Stage
from anyir.ir.builder import Builder
from anyir.ir.graph import Module, Value
from anyir.kernels.run import run
from anyir.passes.manager import Context, run_pipeline
from anyir.tests.support.text import module

RNG = np.random.default_rng(11)


def sums_of(x: np.ndarray, r: np.ndarray) -> Sums:
    ones = np.concatenate([x, np.ones((*x.shape[:2], 1))], axis=2)
    made = Sums.zeros(len(x), ones.shape[2], r.shape[2])
    half = x.shape[1] // 2
    made.add(ones[:, :half], r[:, :half])
    made.add(ones[:, half:], r[:, half:])
    return made


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("ridge", [1e-3, 1e-1])
def test_the_solution_is_that_of_the_stacked_system(groups: int, ridge: float) -> None:
    """Ridge regression as ordinary least squares with sqrt(lambda) rows below, intercept not damped."""
    x, r = RNG.normal(size=(groups, 60, 5)) + 2, RNG.normal(size=(groups, 60, 4))
    found = solve(sums_of(x, r), ridge)
    assert found is not None
    for g in range(groups):
        damping = np.sqrt(ridge * np.mean(np.diagonal(x[g].T @ x[g])))
        stacked = np.block([[x[g], np.ones((60, 1))], [damping * np.eye(5), np.zeros((5, 1))]])
        expected = np.linalg.lstsq(stacked, np.concatenate([r[g], np.zeros((5, 4))]), rcond=None)[0].T
        np.testing.assert_allclose(found[g], expected, atol=1e-6)


def test_loss_is_the_squared_error_that_is_left() -> None:
    x, r = RNG.normal(size=(2, 50, 4)), RNG.normal(size=(2, 50, 3))
    change = RNG.normal(size=(2, 3, 5))
    ones = np.concatenate([x, np.ones((2, 50, 1))], axis=2)
    expected = np.square(r - ones @ change.transpose(0, 2, 1)).sum()
    assert sums_of(x, r).loss(change) == pytest.approx(expected)


def test_equal_columns_are_no_obstacle() -> None:
    x = np.repeat(RNG.normal(size=(1, 40, 1)), 4, axis=2)
    found = solve(sums_of(x, x[:, :, :2] * 3), 1e-4)
    assert found is not None and np.isfinite(found).all()
    np.testing.assert_allclose(found[0, :, :4].sum(axis=1), 3, rtol=1e-2)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_data_that_are_no_numbers_change_nothing(bad: float) -> None:
    x, r = RNG.normal(size=(1, 30, 3)), RNG.normal(size=(1, 30, 2))
    x[0, 3, 1] = bad
    change, why = best_change((sums_of(x, r), sums_of(x, r)))
    assert change is None and "singular" in why


def test_what_does_not_generalise_is_not_done() -> None:
    """Residuals that have nothing to do with the inputs: every fit is worse on samples that it has not seen."""
    x, r = RNG.normal(size=(1, 24, 10)), RNG.normal(size=(1, 24, 30))
    r -= r.mean(axis=1, keepdims=True)
    change, why = best_change((sums_of(x[:, :12], r[:, :12]), sums_of(x[:, 12:], r[:, 12:])))
    assert change is None and "not seen" in why


def test_sums_after_a_change_are_those_of_the_new_residuals() -> None:
    x, r = RNG.normal(size=(2, 50, 4)), RNG.normal(size=(2, 50, 3))
    change = RNG.normal(size=(2, 3, 5))
    ones = np.concatenate([x, np.ones((2, 50, 1))], axis=2)
    found, expected = sums_of(x, r).after(change), sums_of(x, r - ones @ change.transpose(0, 2, 1))
    for name in ("xx", "rx", "rr", "rows"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=1e-10)


def test_clean_inputs_say_what_noisy_ones_cannot() -> None:
    """The pruned model's inputs are off by noise: fitted to many of them the weights are shrunk by it. Sixteen rows of them do
    not say that much, but what is left of the dense model's inputs has no noise."""
    x, w = RNG.normal(size=(1, 4000, 6)), RNG.normal(size=(1, 3, 6))
    noisy, r = x + 0.3 * RNG.normal(size=x.shape), x @ w.transpose(0, 2, 1)
    own = sums_of(noisy[:, :2000], r[:, :2000]), sums_of(noisy[:, 2000:], r[:, 2000:])
    left = sums_of(x[:, :2000], r[:, :2000]), sums_of(x[:, 2000:], r[:, 2000:])
    alone, _ = best_change(own)
    both, _ = best_change(own, left)
    assert alone is not None and both is not None
    np.testing.assert_allclose(alone[:, :, :-1], w / 1.09, atol=0.05)
    total = own[0] + own[1]
    assert total.loss(both) <= 1.01 * total.loss(alone)  # never worse on what the pruned model sees
    few = tuple(sums_of(noisy[:, at : at + 8], r[:, at : at + 8]) for at in (0, 8))
    found, _ = best_change(few, left)  # type: ignore[arg-type]
    lonely, _ = best_change(few)  # type: ignore[arg-type]
    assert found is not None
    assert total.loss(found) < 0.9 * (total.rr if lonely is None else total.loss(lonely))


# --------------------------------------------------------------------------------------------------------------- layers


def built(shape: str, make) -> tuple[Module, Builder]:
    made = module(f"(%x: f32[{shape}]) {{\n return(%x)\n}}")
    b = Builder(made.main, before=made.main.return_node)

    def weight(key: str, *dims: int, scale: float = 1.0) -> Value:
        array = (RNG.normal(size=dims) * scale).astype(np.float32)
        return made.add_weight(key, np.abs(array) if key.startswith("b") else array, "param")  # few units are dead

    made.main.set_outputs([make(b, made.main.inputs[0], weight)])
    made.signatures.clear()
    made.add_signature("serving_default", made.main, ["x"], ["y"])
    return made, b


def _linear(b, x, w):
    """Hidden units 0..3 twice over: half of them can go and nothing need be lost."""
    hidden = b.gemm(x, w("w1", 8, 6), w("b1", 8), transB=True)
    return b.gemm(b.relu(hidden), w("w2", 8, 3), w("b2", 3))


def _product(b, x, w):
    hidden = b.relu(b.matmul(x, w("w1", 6, 8)))
    return b.add(b.matmul(hidden, w("w2", 8, 3)), w("b2", 3))


def _conv(b, x, w):
    hidden = b.relu(b.conv(x, w("w1", 8, 3, 3, 3, scale=0.4), w("b1", 8), pads=(1, 1, 1, 1)))
    return b.conv(hidden, w("w2", 5, 8, 3, 3, scale=0.4), w("b2", 5), strides=(2, 2), auto_pad="same_upper")


def _residual(b, x, w):
    stem = b.conv(x, w("w0", 4, 3, 1, 1), w("b0", 4))
    hidden = b.relu(b.conv(stem, w("w1", 8, 4, 1, 1), w("b1", 8)))
    return b.add(stem, b.conv(hidden, w("w2", 4, 8, 1, 1), w("b2", 4)))


def _transposed(b, x, w):
    hidden = b.relu(b.conv_transpose(x, w("w1", 3, 8, 3, 3, scale=0.4), w("b1", 8), strides=(2, 2), pads=(1, 0, 1, 1)))
    return b.conv_transpose(hidden, w("w2", 8, 4, 2, 3, scale=0.4), w("b2", 4), strides=(1, 2), output_padding=(0, 1))


def _without_bias(b, x, w):
    hidden = b.relu(b.conv(x, w("w1", 8, 3, 1, 1), w("b1", 8)))
    return b.conv(hidden, w("w2", 4, 8, 1, 1))


NETS = {
    "gemm": ("N, 6", (6,), _linear),
    "matmul": ("N, T, 6", (5, 6), _product),
    "conv": ("N, 3, 9, 8", (3, 9, 8), _conv),
    "residual": ("N, 3, 5, 5", (3, 5, 5), _residual),
    "transposed": ("N, 3, 5, 4", (3, 5, 4), _transposed),
    "no bias": ("N, 3, 5, 5", (3, 5, 5), _without_bias),
}


def doubled(made: Module) -> None:
    """Hidden units 4..7 become copies of 0..3."""
    for key in ("w1", "b1"):
        if key in made.weights:
            weight = made.weights[key]
            array = weight.tensor.numpy().copy()
            axis = 1 if array.shape[:2] in ((6, 8), (3, 8)) else 0
            array = np.concatenate([np.split(array, 2, axis)[0]] * 2, axis)
            made.set_weight(weight, array)


def error(a: Module, b: Module, x: np.ndarray) -> float:
    ys = [run(m, {"x": x})["y"].astype(np.float64) for m in (a, b)]
    return float(np.square(ys[0] - ys[1]).sum() / np.square(ys[0] - ys[0].mean(axis=0)).sum())


@pytest.mark.parametrize("name", NETS)
def test_what_the_kept_units_can_express_comes_back(name: str) -> None:
    shape, sample, make = NETS[name]
    dense, _ = built(shape, make)
    doubled(dense)
    pruned, bare = dense.clone(), dense.clone()
    x, unseen = (RNG.normal(size=(300, *sample)).astype(np.float32) for _ in range(2))
    ctx = Context(data=open_data({"x": x}, dense))
    run_pipeline(bare, "prune{ratio=0.5,importance=obs,recover=false,where='weight=w1'}", ctx)
    run_pipeline(pruned, "prune{ratio=0.5,importance=obs,where='weight=w1'}", ctx)
    assert sorted(np.prod(w.tensor.shape) for w in pruned.used_weights()) != sorted(
        np.prod(w.tensor.shape) for w in dense.used_weights()
    )
    assert error(dense, pruned, unseen) < min(1e-5, 1e-2 * error(dense, bare, unseen))
    row = next(row for row in ctx.records if row["pass"] == "recover")
    assert row["error_after"] < 1e-3 * row["error_before"]


def test_a_branch_makes_good_for_its_skip() -> None:
    """The stem loses channels of its own input side only through w1; the branch's target is the sum, not the branch."""
    shape, sample, make = NETS["residual"]
    dense, _ = built(shape, make)
    pruned = dense.clone()
    shift = pruned.weights["b0"]
    pruned.set_weight(shift, shift.tensor.numpy() + np.float32(0.5))  # the skip is off by a constant already
    twin = pruned.clone()
    x = RNG.normal(size=(200, *sample)).astype(np.float32)
    from anyir.compress.recover import Origin, recover
    from anyir.passes.prune.groups import find_groups
    from anyir.passes.prune.remove import remove_units

    pairs = dict(zip(twin.all_nodes(), dense.all_nodes(), strict=True))
    group = next(g for g in find_groups(twin) if g.name == "w1")
    remove_units(twin, {group: np.array([0, 1])})
    before = error(dense, twin, x)
    live = {n: d for n, d in pairs.items() if n.graph is not None}
    recover(twin, Origin(dense, live), Context(data=open_data({"x": x}, dense)))
    mean = (run(dense, {"x": x})["y"] - run(twin, {"x": x})["y"]).mean(axis=(0, 2, 3))
    assert error(dense, twin, x) < before
    np.testing.assert_allclose(mean, 0, atol=1e-2)  # a fit of the branch alone would leave 0.5


def test_weights_that_several_layers_share_stay() -> None:
    def make(b, x, w):
        first, second = w("w1", 6, 6), w("w2", 6, 6)
        a = b.relu(b.gemm(x, first, transB=True))
        c = b.relu(b.gemm(b.gemm(a, second, transB=True), first, transB=True))
        return b.gemm(c, second, transB=True)

    made, _ = built("N, 6", make)
    ctx = Context(data=open_data({"x": RNG.normal(size=(64, 6)).astype(np.float32)}, made))
    run_pipeline(made, "prune{ratio=0.5}", ctx)
    assert any("serve several layers" in note for note in ctx.notes)


def test_a_recurrent_layer_is_named_that_keeps_its_weights() -> None:
    def make(b, x, w):
        hidden = b.relu(b.matmul(x, w("w1", 6, 8)))
        _, last, _ = b.lstm(hidden, w("w", 1, 20, 8), w("r", 1, 20, 5), hidden_size=5)
        return b.gemm(b.squeeze(last, (0,)), w("w2", 5, 3), w("b2", 3))

    made, _ = built("4, N, 6", make)
    ctx = Context(data=open_data({"x": RNG.normal(size=(4, 64, 6)).astype(np.float32)}, made))
    run_pipeline(made, "prune{ratio=0.5,where='weight=w1'}", ctx)
    assert any(note.startswith("recover: w keeps its weights") and "lstm" in note for note in ctx.notes), ctx.notes


# ---------------------------------------------------------------------------------------------------------- rows, stages


def test_rows_of_a_convolution_are_what_it_multiplies() -> None:
    def make(b, x, w):
        return b.conv(x, w("w", 6, 2, 3, 2), w("b", 6), strides=(2, 1), pads=(1, 0, 1, 1), dilations=(1, 2), groups=2)

    made, _ = built("N, 4, 7, 8", make)
    x = RNG.normal(size=(3, 4, 7, 8)).astype(np.float32)
    (node,) = made.main.nodes()
    layer = sampled_layer(node)
    y = run(made, {"x": x})["y"]
    rows, (outputs,) = sample_rows(layer, x, [y], 10**9, np.random.default_rng(0))
    matrix = layer.matrix(layer.array()).reshape(2, 3, -1).astype(np.float64)
    bias = made.weights["b"].tensor.numpy().reshape(2, 1, 3)
    np.testing.assert_allclose(rows @ matrix.transpose(0, 2, 1) + bias, outputs, atol=1e-5)
    some, _ = sample_rows(layer, x, [y], 12, np.random.default_rng(0))
    assert some.shape[1] == 12


TRANSPOSED = {
    "strides": {"strides": (2, 1), "pads": (1, 0, 1, 1), "dilations": (1, 2)},
    "more at the end": {"strides": (3, 2), "output_padding": (2, 1)},
    "same": {"strides": (2, 3), "auto_pad": "same_upper"},
    "a wanted size": {"strides": (2, 2), "output_shape": (13, 18)},
    "pads beyond the kernel": {"strides": (2, 1), "pads": (3, 3, 3, 2)},
    "channels last": {"strides": (2, 2), "channels_last": True},
}


@pytest.mark.parametrize("name", TRANSPOSED)
def test_rows_of_a_transposed_convolution_are_what_it_multiplies(name: str) -> None:
    options = TRANSPOSED[name]
    shape = (7, 8, 4) if "channels_last" in options else (4, 7, 8)

    def make(b, x, w):
        return b.conv_transpose(x, w("w", 4, 6, 3, 2), w("b", 6), **options)

    made, _ = built(f"N, {shape[0]}, {shape[1]}, {shape[2]}", make)
    x = RNG.normal(size=(3, *shape)).astype(np.float32)
    (node,) = made.main.nodes()
    layer = sampled_layer(node)
    rows, (outputs,) = sample_rows(layer, x, [run(made, {"x": x})["y"]], 10**9, np.random.default_rng(0))
    matrix = layer.matrix(layer.array()).astype(np.float64)
    rounding = matrix.shape[1] * np.finfo(np.float32).eps * (np.abs(rows[0]) @ np.abs(matrix).T).max()
    np.testing.assert_allclose(rows[0] @ matrix.T + made.weights["b"].tensor.numpy(), outputs[0], atol=rounding)


def test_stages_give_what_a_run_gives_and_keep_only_what_fits() -> None:
    shape, sample, make = NETS["residual"]
    made, _ = built(shape, make)
    data = open_data({"x": RNG.normal(size=(50, *sample)).astype(np.float32)}, made)
    nodes = list(made.main.nodes())
    seen: dict[Value, list[np.ndarray]] = {node.result: [] for node in nodes}
    for batch in data.batches():
        run(made, batch, taps={value: found.append for value, found in seen.items()})
    for room in (1 << 30, 0):
        stage = Stage(made, data, room)
        for node in nodes:
            for (found,), expected in zip(stage.values([node.result], end=node), seen[node.result], strict=True):
                np.testing.assert_array_equal(found, expected)
        assert (stage._kept is None) == (room == 0)


def test_thinned_data_are_whole_batches_of_one_half() -> None:
    made, _ = built("N, 6", _linear)
    data = open_data({"x": RNG.normal(size=(640, 6)).astype(np.float32)}, made)
    first, second, both = (Thinned(data, 100, half) for half in (0, 1, None))
    assert first.count == second.count == both.count == 128
    assert max(first.places) < 5 <= min(second.places)
    assert sum(len(b["x"]) for b in both.batches()) == both.count
    few = open_data({"x": RNG.normal(size=(4, 6)).astype(np.float32)}, made)
    assert Thinned(few, 8, 0).count == Thinned(few, 8, 1).count == 4  # one batch has no other half


@pytest.mark.parametrize("count", [1, 2, 7, 200])
def test_single_samples_come_from_one_half(count: int) -> None:
    made, _ = built("N, 6", _linear)
    x = RNG.normal(size=(count, 6)).astype(np.float32)
    data = open_data({"x": x}, made)
    for half in (0, 1):
        probes = Singled(data, 8, half)
        (batch,) = probes.batches()
        assert len(batch["x"]) == probes.count == len(set(probes.places)) and 1 <= probes.count <= 8
        np.testing.assert_array_equal(batch["x"], x[probes.places])
        middle = -(-count // 2)
        assert all((place < middle) == (half == 0) for place in probes.places) or count == 1


def test_single_samples_of_several_lengths_are_batches_of_one_length() -> None:
    class Feeds:
        count, digest = 4, "words"

        def batches(self):
            yield {"x": np.arange(6).reshape(2, 3)}
            yield {"x": np.arange(10).reshape(2, 5)}

    assert [b["x"].tolist() for b in Singled(Feeds(), 2, 1).batches()] == [[[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]]
    mixed = Singled(Feeds(), 2, 0)
    mixed.places = [0, 3]
    assert [b["x"].tolist() for b in mixed.batches()] == [[[0, 1, 2]], [[5, 6, 7, 8, 9]]]


def test_rows_of_a_batch_are_cut_where_the_samples_are() -> None:
    assert [first_half(30, 10, seen, 3) for seen in (0, 3, 6)] == [30, 20, 0]  # samples 3, 4 of 3..5
    assert first_half(10, 1, 0, 1) == 5  # a single sample is cut by its rows
