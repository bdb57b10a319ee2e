"""Dead weights: what contributes nothing goes, with its partners everywhere, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from anyir.ir.builder import Builder
from anyir.ir.dims import sym
from anyir.ir.graph import Module, Value
from anyir.ir.types import F32, TensorType
from anyir.ir.verify import verify
from anyir.passes.manager import Context, run_pipeline
from anyir.tests.support.text import assert_same_numbers, optimised

RNG = np.random.default_rng(5)


class Net:
    """A module being built, with weights that have chosen slices zeroed."""

    def __init__(self, *shape: object) -> None:
        self.module = Module()
        graph = self.module.add_graph("main")
        self.b = Builder(graph)
        self.x = graph.add_input(TensorType(F32, (sym("N"), *shape)), "x")  # type: ignore[arg-type]

    def weight(self, key: str, *shape: int, zero: dict[int, list[int]] | None = None) -> Value:
        """Random elements; `zero` names slices by axis."""
        data = np.random.default_rng(len(key) + sum(shape)).standard_normal(shape).astype(np.float32)
        for axis, indices in (zero or {}).items():
            data[(slice(None),) * axis + (indices,)] = 0
        return self.b.const(data, key=key, role="param")

    def done(self, *outputs: Value) -> Module:
        self.b.graph.set_outputs(outputs)
        self.module.add_signature("s", self.b.graph, ["x"], [f"y{i}" for i in range(len(outputs))])
        verify(self.module)
        return self.module


def shapes(module: Module) -> dict[str, tuple[int, ...]]:
    return {w.wanted: w.type.shape for w in module.weights}  # type: ignore[misc]


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
    assert ctx.stats["dead-weights"] == 100 and "100 channels removed in @main" in " ".join(ctx.notes)


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
        lambda net, h: net.b.concat(net.b.slice(h, (3,), (6,), (1,)), net.b.slice(h, (0,), (3,), (1,)), axis=1),
        lambda net, h: net.b.gather(h, (5, 4, 3, 2, 1, 0), axis=1),
        lambda net, h: net.b.reshape(net.b.reshape(h, (-1, 2, 3)), (-1, 6)),
        lambda net, h: net.b.cumsum(h, 1),
        lambda net, h: net.b.add(h, 1.0),
        lambda net, h: net.b.reverse(h, axes=(1,)),
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
    ],
)
def test_what_works_element_by_element_and_keeps_zero_is_followed(build: Callable[[Net, Value], Value]) -> None:
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


def test_a_bound_takes_what_is_almost_zero_and_says_so() -> None:
    net = Net(4)
    w1 = net.weight("w1", 4, 6).array().copy()
    w1[:, 2] = 1e-7
    h = net.b.relu(net.b.matmul(net.x, net.b.const(w1, key="near", role="param")))
    module = net.done(net.b.matmul(h, net.weight("w2", 6, 2)))
    assert shapes(optimised(module, "dead-weights"))["near"] == (4, 6)
    ctx, made = Context(level=3), module.clone()
    run_pipeline(made, "dead-weights{bound=1e-5}", ctx)
    verify(made)
    assert shapes(made)["near"] == (4, 5) and "(|w| <= 1e-05 taken as zero)" in ctx.notes[0]


def test_large_models_without_zeros_cost_next_to_nothing() -> None:
    net = Net(4)
    h = net.x
    for i in range(300):
        h = net.b.relu(net.b.matmul(h, net.weight(f"w{i}", 4, 4)))
    version = net.done(h).version
    run_pipeline(net.module, "dead-weights")
    assert net.module.version == version
