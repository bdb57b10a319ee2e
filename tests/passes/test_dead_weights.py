"""Dead weights: what contributes nothing goes, with its partners everywhere, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from anyir.ir.graph import Module, Value
from anyir.ir.types import F16, F32
from anyir.passes.manager import Context, run_pipeline
from anyir.tests.support.layers import Net, shapes
from anyir.tests.support.text import assert_same_numbers, optimised

RNG = np.random.default_rng(5)


def check(module: Module, expected: dict[str, tuple[int, ...]], options: str = "") -> Module:
    made = optimised(module, f"dead-weights{options}")
    found = shapes(made)
    assert {key: found.get(key) for key in expected} == expected
    for n in (1, 3):
        inputs = {"x": RNG.standard_normal((n, *module.main.inputs[0].shape[1:])).astype(np.float32)}
        assert_same_numbers(module, made, inputs=inputs)
    again = made.clone()
    run_pipeline(again, "dead-weights")
    assert again == made
    return made


def test_a_100_by_100_matrix_with_50_dead_rows_and_50_dead_columns_becomes_50_by_50() -> None:
    rows, columns = list(range(0, 100, 2)), list(range(50, 100))
    net = Net(7)
    b = net.b
    h = b.relu(b.add(b.matmul(net.x, net.weight("w0", 7, 100)), net.weight("b0", 100)))
    h = b.matmul(h, net.weight("w1", 100, 100, zero={0: rows, 1: columns}))
    y = b.matmul(b.relu(h), net.weight("w2", 100, 3))
    check(net.done(y), {"w0": (7, 50), "b0": (50,), "w1": (50, 50), "w2": (50, 3)})
    ctx = Context()
    run_pipeline(net.module.clone(), "dead-weights", ctx)
    assert sum(ctx.stats.values()) == 100 and "100 channels removed" in " ".join(ctx.notes)
    assert sum(row["count"] for row in ctx.records) == 100


def test_a_bias_keeps_a_channel_alive() -> None:
    """Columns of zeros with a bias are constants, not zeros."""
    net = Net(4)
    b = net.b
    h = b.gemm(
        net.x,
        net.weight("w1", 4, 6, zero={1: [0, 1]}),
        b.const(np.array([1, 0, 1, 1, 1, 1], np.float32), key="b1", role="param"),
    )
    y = b.matmul(b.tanh(h), net.weight("w2", 6, 2))
    check(net.done(y), {"w1": (4, 5), "b1": (5,), "w2": (5, 2)})


def test_an_activation_that_moves_zero_keeps_a_channel_alive() -> None:
    for name, width in (("sigmoid", 6), ("tanh", 5), ("exp", 6), ("gelu", 5), ("cos", 6)):
        net = Net(4)
        h = net.b.matmul(net.x, net.weight("w1", 4, 6, zero={1: [3]}))
        y = net.b.matmul(getattr(net.b, name)(h), net.weight("w2", 6, 2))
        check(net.done(y), {"w1": (4, width), "w2": (width, 2)})


def test_inputs_and_outputs_are_never_cut() -> None:
    net = Net(4)
    y = net.b.matmul(net.x, net.weight("w", 4, 4, zero={0: [1, 2], 1: [0]}))
    check(net.done(y), {"w": (4, 4)})


def test_a_second_output_pins_a_hidden_layer() -> None:
    net = Net(4)
    h = net.b.relu(net.b.matmul(net.x, net.weight("w1", 4, 6)))
    y = net.b.matmul(h, net.weight("w2", 6, 2, zero={0: [1, 2]}))
    check(net.done(y, h), {"w1": (4, 6), "w2": (6, 2)})


def test_both_sides_of_a_residual_must_agree() -> None:
    def build(first: list[int], second: list[int], reader: list[int]) -> Module:
        net = Net(4)
        b = net.b
        stem = b.matmul(net.x, net.weight("stem", 4, 6, zero={1: first}))
        branch = b.matmul(b.relu(b.matmul(stem, net.weight("in", 6, 5))), net.weight("out", 5, 6, zero={1: second}))
        return net.done(b.matmul(b.add(stem, branch), net.weight("head", 6, 2, zero={0: reader})))

    check(build([1, 3], [1, 3], []), {"stem": (4, 4), "in": (4, 5), "out": (5, 4), "head": (4, 2)})
    check(build([1, 3], [1], []), {"stem": (4, 5), "in": (5, 5), "out": (5, 5), "head": (5, 2)})
    check(build([], [2], []), {"stem": (4, 6), "in": (6, 5), "out": (5, 6), "head": (6, 2)})
    check(build([], [], [0, 5]), {"stem": (4, 6), "head": (6, 2)})


def test_convolutions_with_norm_and_depthwise_partners() -> None:
    net = Net(3, 8, 8)
    b = net.b
    h = b.conv(net.x, net.weight("c1", 6, 3, 3, 3), pads=(1, 1, 1, 1))
    params = [np.abs(net.weight(f"bn{i}", 6).array()) for i in range(4)]
    h = b.batch_norm(h, *[b.const(p, key=f"norm.{i}", role="param") for i, p in enumerate(params)])
    h = b.conv(b.relu(h), net.weight("dw", 6, 1, 3, 3), groups=6)
    h = b.max_pool(h, kernel_shape=(2, 2), strides=(2, 2))
    h = b.conv(h, net.weight("c2", 4, 6, 1, 1, zero={1: [0, 4]}), net.weight("b2", 4))
    made = check(
        net.done(b.global_average_pool(h)),
        {"c1": (4, 3, 3, 3), "norm.0": (4,), "norm.3": (4,), "dw": (4, 1, 3, 3), "c2": (4, 4, 1, 1), "b2": (4,)},
    )
    (depthwise,) = [n for n in made.main.nodes("conv") if n.attr("groups") > 1]
    assert depthwise.attr("groups") == 4


def test_grouped_convolutions_that_are_not_depthwise_are_left_alone_or_stay_right() -> None:
    net = Net(4, 5, 5)
    b = net.b
    h = b.conv(net.x, net.weight("c1", 4, 4, 1, 1))
    h = b.conv(b.relu(h), net.weight("g", 6, 2, 3, 3, zero={1: [0]}), groups=2)
    y = b.conv(h, net.weight("c2", 2, 6, 1, 1, zero={1: [1, 2]}))
    check(net.done(y), {})


def test_depthwise_with_a_multiplier_stays_right() -> None:
    net = Net(3, 5, 5)
    b = net.b
    h = b.conv(net.x, net.weight("c1", 3, 3, 1, 1))
    h = b.conv(h, net.weight("dw", 6, 1, 3, 3), groups=3)
    y = b.conv(h, net.weight("c2", 2, 6, 1, 1, zero={1: [0, 1, 4]}))
    check(net.done(y), {})


def test_transposed_convolutions() -> None:
    net = Net(3, 4, 4)
    b = net.b
    h = b.conv(net.x, net.weight("c1", 5, 3, 1, 1, zero={0: [2]}))
    h = b.conv_transpose(b.relu(h), net.weight("t", 5, 4, 2, 2, zero={1: [0]}), strides=(2, 2))
    y = b.conv(h, net.weight("c2", 2, 4, 1, 1))
    check(net.done(y), {"c1": (4, 3, 1, 1), "t": (4, 3, 2, 2), "c2": (2, 3, 1, 1)})


def test_axes_are_followed_through_transposes_and_reductions() -> None:
    net = Net(3, 4, 4)
    b = net.b
    h = b.conv(net.x, net.weight("c1", 5, 3, 1, 1, zero={0: [1, 3]}))
    h = b.transpose(b.relu(h), perm=(0, 2, 3, 1))
    h = b.reduce_mean(h, (1, 2), keepdims=False)
    y = b.matmul(h, net.weight("w", 5, 2))
    check(net.done(y), {"c1": (3, 3, 1, 1), "w": (3, 2)})


def cut_by(build: Callable[[Net, Value], Value]) -> Module:
    """A hidden layer of six with a dead neuron, something in between, and a reader."""
    net = Net(4)
    h = net.b.matmul(net.x, net.weight("w1", 4, 6, zero={1: [2]}))
    h = build(net, net.b.relu(h))
    return net.done(net.b.matmul(h, net.weight("w2", 6, 2)))


@pytest.mark.parametrize(
    "build",
    [
        lambda net, h: net.b.softmax(h, axis=1),
        lambda net, h: net.b.layer_norm(h, axis=1),
        lambda net, h: net.b.reshape(net.b.reshape(h, (-1, 2, 3)), (-1, 6)),
        lambda net, h: net.b.cumsum(h, 1),
        lambda net, h: net.b.add(h, 1.0),
    ],
)
def test_what_looks_at_positions_or_neighbours_pins(build: Callable[[Net, Value], Value]) -> None:
    check(cut_by(build), {"w1": (4, 6), "w2": (6, 2)})


@pytest.mark.parametrize(
    "build",
    [
        lambda net, h: net.b.mul(h, 3.0),
        lambda net, h: net.b.mul(h, net.weight("scale", 6)),
        lambda net, h: net.b.add(h, net.b.const(np.array([1, 2, 0, 4, 5, 6], np.float32))),
        lambda net, h: net.b.sub(h, h),
        lambda net, h: net.b.mul(h, net.b.sigmoid(h)),
        lambda net, h: net.b.leaky_relu(h, alpha=0.3),
        lambda net, h: net.b.prelu(h, net.weight("slope", 6)),
        lambda net, h: net.b.concat(net.b.slice(h, (3,), (6,), (1,)), net.b.slice(h, (0,), (3,), (1,)), axis=1),
        lambda net, h: net.b.gather(h, (5, 4, 3, 2, 1, 0), axis=1),
        lambda net, h: net.b.reverse(h, axes=(1,)),
    ],
)
def test_what_keeps_zero_is_followed(build: Callable[[Net, Value], Value]) -> None:
    check(cut_by(build), {"w1": (4, 5), "w2": (5, 2)})


def test_attributes_that_make_something_of_nothing_pin() -> None:
    check(cut_by(lambda net, h: net.b.shrink(h, lambd=0.5, bias=0.1)), {"w1": (4, 5)})
    check(cut_by(lambda net, h: net.b.shrink(h, lambd=-1.0, bias=0.5)), {"w1": (4, 6)})
    crop = {"coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 7.0}
    for attrs, width in (({}, 4), (crop, 5)):
        net = Net(3, 4, 4)
        b = net.b
        h = b.conv(net.x, net.weight("c1", 5, 3, 1, 1, zero={0: [1]}))
        h = b.resize(h, np.array([-0.5, -0.5, 1.5, 1.5], np.float32), None, (8, 8), mode="linear", axes=(2, 3), **attrs)
        check(net.done(b.conv(h, net.weight("c2", 2, 5, 1, 1))), {"c1": (width, 3, 1, 1), "c2": (2, width, 1, 1)})


def test_a_shared_weight_is_cut_only_where_all_its_users_agree() -> None:
    net = Net(4)
    b = net.b
    w = net.weight("w", 4, 4, zero={0: [1], 1: [1]})
    h = b.matmul(b.relu(b.matmul(net.x, net.weight("in", 4, 4))), w)
    y = b.matmul(b.matmul(b.relu(h), w), net.weight("out", 4, 2))
    check(net.done(y), {"w": (3, 3), "in": (4, 3), "out": (3, 2)})
    net = Net(4)
    w = net.weight("w", 4, 4, zero={0: [1], 1: [1]})
    y = net.b.matmul(net.b.relu(net.b.matmul(net.x, w)), w)
    check(net.done(y), {"w": (4, 4)})


def test_what_dies_only_after_a_first_round_goes_too() -> None:
    """A neuron that only fed a dead one is dead as well."""
    net = Net(4)
    b = net.b
    w2 = net.weight("w2", 6, 5)
    array = w2.array().copy()
    array[3] = 0
    array[3, 2] = 1.0
    w2 = b.const(array, key="w2b", role="param")
    h = b.relu(b.matmul(b.relu(b.matmul(net.x, net.weight("w1", 4, 6))), w2))
    y = b.matmul(h, net.weight("w3", 5, 2, zero={0: [2]}))
    check(net.done(y), {"w1": (4, 5), "w2b": (5, 4), "w3": (4, 2)})


def test_a_layer_that_is_dead_altogether_keeps_one_channel() -> None:
    net = Net(4)
    h = net.b.matmul(net.x, net.weight("w1", 4, 6, zero={1: [0, 1, 2, 3, 4, 5]}))
    check(net.done(net.b.matmul(h, net.weight("w2", 6, 2))), {"w1": (4, 1), "w2": (1, 2)})


def test_large_models_without_zeros_cost_next_to_nothing() -> None:
    net = Net(4)
    h = net.x
    for i in range(300):
        h = net.b.relu(net.b.matmul(h, net.weight(f"w{i}", 4, 4)))
    version = net.done(h).version
    run_pipeline(net.module, "dead-weights")
    assert net.module.version == version


# ------------------------------------------------------------------------------------------------------------ constants


def image(*, pads: int, zeros: list[int], bias: float = 0.5) -> Module:
    """Two convolutions with an activation that is not zero at zero between; rows `zeros` of the first have no weights."""
    net = Net(2, 5, 5)
    b = net.b
    h = b.conv(
        net.x,
        net.weight("c1", 5, 2, 3, 3, zero={0: zeros}),
        b.const(np.full(5, bias, np.float32), key="b1", role="param"),
    )
    y = b.conv(b.sigmoid(h), net.weight("c2", 3, 5, 3, 3), net.weight("b2", 3), pads=(pads,) * 4)
    return net.done(y)


def test_constants_become_bias_where_every_position_sees_them() -> None:
    check(image(pads=0, zeros=[1, 3]), {"c1": (3, 2, 3, 3), "b1": (3,), "c2": (3, 3, 3, 3), "b2": (3,)})


def test_beside_padding_constants_are_merged_into_one() -> None:
    check(image(pads=1, zeros=[1, 3, 4]), {"c1": (3, 2, 3, 3), "c2": (3, 3, 3, 3)})
    check(image(pads=1, zeros=[1]), {"c1": (5, 2, 3, 3), "c2": (3, 5, 3, 3)})


def test_a_layer_without_bias_gets_one_and_a_matmul_uses_the_add_behind_it() -> None:
    net = Net(3)
    b = net.b
    bias = b.const(np.array([1, -1, 2, 0.5], np.float32), key="b1", role="param")
    h = b.exp(b.gemm(net.x, net.weight("w1", 3, 4, zero={1: [0, 3]}), bias))
    y = b.add(b.matmul(h, net.weight("w2", 4, 2)), net.weight("b2", 2))
    made = check(net.done(y), {"w1": (3, 2), "w2": (2, 2), "b2": (2,)})
    assert [n.name for n in made.main.nodes()] == ["gemm", "exp", "matmul", "add"], "no node more than before"
    net = Net(3, 4, 4)
    b = net.b
    bias = b.const(np.array([1, -1, 2, 0.5], np.float32), key="b1", role="param")
    y = b.conv(b.exp(b.conv(net.x, net.weight("w1", 4, 3, 1, 1, zero={0: [0, 3]}), bias)), net.weight("w2", 2, 4, 1, 1))
    check(net.done(y), {"w1": (2, 3, 1, 1), "w2": (2, 2, 1, 1), "w2.bias": (2,)})


def test_a_constant_meets_a_residual_and_stays() -> None:
    """It is one summand of a channel that others write to as well."""
    net = Net(4)
    b = net.b
    bias = b.const(np.ones(4, np.float32), key="b1", role="param")
    h = b.add(net.x, b.gemm(net.x, net.weight("w1", 4, 4, zero={1: [2]}), bias))
    check(net.done(b.matmul(h, net.weight("w2", 4, 2))), {"w1": (4, 4), "w2": (4, 2)})


def test_saturated_and_silent_activations_are_constants() -> None:
    """relu6 between -1 and 1 in front; one row can only be above 6 behind it, another only below 0."""
    net = Net(2)
    b = net.b
    h = b.relu6(b.matmul(net.x, net.weight("w0", 2, 3)))
    bias = np.array([100, -100, 0, 0.5], np.float32)
    h = b.relu6(b.gemm(h, net.weight("w1", 3, 4), b.const(bias, key="b1", role="param")))
    y = b.gemm(h, net.weight("w2", 4, 2), net.weight("b2", 2))
    check(net.done(y), {"w1": (3, 2), "b1": (2,), "w2": (2, 2)})


def test_unbounded_data_proves_nothing_of_a_clamp() -> None:
    net = Net(2)
    b = net.b
    bias = np.array([100, -100, 0, 0.5], np.float32)
    h = b.relu6(b.gemm(net.x, net.weight("w1", 2, 4), b.const(bias, key="b1", role="param")))
    check(net.done(b.gemm(h, net.weight("w2", 4, 2), net.weight("b2", 2))), {"w1": (2, 4), "w2": (4, 2)})


# ----------------------------------------------------------------------------------------------------------- duplicates


def test_equal_neurons_become_one() -> None:
    net = Net(4)
    b = net.b
    w1, b1 = net.weight("w1", 4, 6).array().copy(), net.weight("b1", 6).array().copy()
    w1[:, 4], b1[4] = w1[:, 1], b1[1]
    w1[:, 5] = w1[:, 0]  # with another bias: not equal
    h = b.silu(b.gemm(net.x, b.const(w1, key="w", role="param"), b.const(b1, key="b", role="param")))
    y = b.matmul(h, net.weight("w2", 6, 2))
    check(net.done(y), {"w": (4, 5), "b": (5,), "w2": (5, 2)})


def test_a_shared_matrix_is_not_edited_for_one_of_its_readers() -> None:
    net = Net(4)
    b = net.b
    w1 = net.weight("w1", 4, 4).array().copy()
    w1[:, 2] = w1[:, 1]
    w2 = net.weight("w2", 4, 4)
    h = b.matmul(b.tanh(b.matmul(net.x, b.const(w1, key="w", role="param"))), w2)
    check(net.done(b.matmul(b.tanh(h), w2)), {"w": (4, 4), "w2": (4, 4)})


# ------------------------------------------------------------------------------------------ heads, hidden units, norms


def test_heads_without_values_go_altogether() -> None:
    net = Net(6, 8)
    b = net.b
    q, k = b.matmul(net.x, net.weight("q", 8, 8)), b.matmul(net.x, net.weight("k", 8, 8))
    v = b.matmul(net.x, net.weight("v", 8, 8, zero={1: [4, 5, 6, 7]}))
    y, *_ = b.attention(q, k, v, q_num_heads=2, kv_num_heads=2)
    made = check(net.done(b.matmul(y, net.weight("o", 8, 3))), {"q": (8, 4), "k": (8, 4), "v": (8, 4), "o": (4, 3)})
    (node,) = made.main.nodes("attention")
    assert node.attr("q_num_heads") == node.attr("kv_num_heads") == 1


def test_hidden_units_that_nothing_reads_or_remembers_go() -> None:
    net = Net(4)
    b = net.b
    x = b.unsqueeze(net.x, (1,))
    r = net.weight("r", 1, 20, 5).array().copy()
    r[:, [c for c in range(20) if c % 5 != 3], 3] = 0  # unit 3 remembers itself alone
    lstm = b.call("lstm", (x, net.weight("w", 1, 20, 4), b.const(r, key="rr", role="param")), {"hidden_size": 5})
    y = b.matmul(b.squeeze(lstm.results[0], (1,)), net.weight("o", 5, 2, zero={0: [3]}))
    made = check(net.done(y), {"w": (1, 16, 4), "rr": (1, 16, 4), "o": (4, 2)})
    assert next(iter(made.main.nodes("lstm"))).attr("hidden_size") == 4


def test_a_layer_norm_holds_its_channels_and_an_rms_norm_lets_zeros_go() -> None:
    for norm, width in (("layer_norm", 6), ("rms_norm", 5)):
        net = Net(4)
        b = net.b
        h = b.matmul(net.x, net.weight("w1", 4, 6, zero={1: [3]}))
        scale = net.weight("scale", 6)
        h = b.layer_norm(h, scale, net.weight("shift", 6)) if norm == "layer_norm" else b.rms_norm(h, scale)
        check(net.done(b.matmul(h, net.weight("w2", 6, 2))), {"w1": (4, width), "w2": (width, 2)})


# --------------------------------------------------------------------------------------- dtypes, quantised, strange weights


def test_rows_of_integers_at_their_zero_point_stay() -> None:
    """A model that arrives quantised keeps its integers as they are."""
    net = Net(4)
    b = net.b
    q = np.random.default_rng(3).integers(1, 127, (4, 6)).astype(np.int8)
    q[:, [1, 4]] = 0
    parts = [b.const(q, key="q", role="param"), b.const(np.full((1, 6), 0.1, np.float32), key="scale", role="param")]
    h = b.relu(b.matmul(net.x, b.dequantize(*parts, to=F32)))
    module = net.done(b.matmul(h, net.weight("w2", 6, 2)))
    run_pipeline(module, "dead-weights", Context())
    assert shapes(module) == {"q": (4, 6), "scale": (1, 6), "w2": (6, 2)}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_layer_with_weights_that_are_no_numbers_is_left_alone(bad: float) -> None:
    net = Net(4)
    w2 = net.weight("w2", 6, 2, zero={0: [1]}).array().copy()
    w2[3, 0] = bad
    h = net.b.relu(net.b.matmul(net.x, net.weight("w1", 4, 6)))
    module = net.done(net.b.matmul(h, net.b.const(w2, key="strange", role="param")))
    ctx = Context()
    run_pipeline(module, "dead-weights", ctx)
    assert shapes(module)["strange"] == (6, 2) and "strange has NaN or infinite weights" in ctx.notes[0]


def test_negative_zero_is_zero() -> None:
    net = Net(4)
    w1 = net.weight("w1", 4, 6).array().copy()
    w1[:, 2] = -0.0
    h = net.b.relu(net.b.matmul(net.x, net.b.const(w1, key="w", role="param")))
    check(net.done(net.b.matmul(h, net.weight("w2", 6, 2))), {"w": (4, 5), "w2": (5, 2)})


# ------------------------------------------------------------------------------------------------- proofs, bounds, cost


def test_every_removal_leaves_its_proof() -> None:
    ctx, made = Context(level=3), image(pads=0, zeros=[1, 3])
    run_pipeline(made, "dead-weights", ctx)
    assert ctx.records == [
        {"pass": "dead-weights", "layer": "c1", "kind": "constant-channel", "count": 2, "bound": 0.0,
         "proof": "the same number at every position; what readers made of it went into their biases"}
    ]  # fmt: skip
    assert ctx.notes == ["dead-weights: 2 channels removed: 2 constant-channel"]


def test_weights_that_their_type_could_not_hold_stay_apart() -> None:
    """Equal neurons, of which the readers' weights add up to more than half precision has."""
    for size, width in ((10.0, 3), (4e4, 4)):
        net = Net(4)
        w1 = net.weight("w1", 4, 4).array().astype(np.float16)
        w1[:, 2] = w1[:, 1]
        x = net.b.cast(net.x, to=F16)
        h = net.b.relu(net.b.matmul(x, net.b.const(w1, key="half", role="param")))
        y = net.b.matmul(h, net.b.const(np.full((4, 2), size, np.float16), key="large", role="param"))
        assert shapes(optimised(net.done(y), "dead-weights"))["half"] == (4, width)


def test_large_weights_are_looked_at_in_blocks() -> None:
    """A megabyte at a time: what a look costs in memory does not grow with the matrix."""
    from anyir.ir.tensor import Tensor
    from anyir.ir.types import F32 as DTYPE
    from anyir.passes.dead.scan import BLOCK, scan

    class Watched(Tensor):
        largest = 0

        def numpy(self) -> np.ndarray:
            raise AssertionError("the whole was asked for")

        def region(self, begin: tuple[int, ...], end: tuple[int, ...]) -> np.ndarray:
            shape = [e - s for s, e in zip(begin, end, strict=True)]
            Watched.largest = max(Watched.largest, 4 * int(np.prod(shape)))
            return np.ones(shape, np.float32)

    for axis in (0, 1):
        found = scan(Watched(DTYPE, (3000, 1000)), axis)
        assert not found.zero[0].any() and len(found.equal) == (3000, 1000)[axis]
    assert Watched.largest <= BLOCK
