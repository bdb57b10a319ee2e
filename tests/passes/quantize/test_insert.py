"""Where quantize and dequantize stand: what is decided for small graphs, and the laws that every inserted graph keeps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from anyir.ir.builder import Builder
from anyir.ir.graph import Module, Node, Value
from anyir.ir.types import F32, TensorType
from anyir.ir.verify import verify
from anyir.kernels.run import run
from anyir.passes.quantize.insert import Inserter, WeightStyle
from anyir.passes.quantize.interface import integer_interface
from anyir.passes.quantize.params import ACTIVATIONS, WEIGHTS
from anyir.passes.quantize.plan import Layout, Plan, make_plan
from anyir.tests.support.text import main_text

STYLE = WeightStyle(WEIGHTS["int8"])


def names(plan: Plan) -> list[str]:
    """The ops that compute on integers, in order."""
    return [node.name for node in plan.graph.nodes() if node in plan.nodes]


def seen(plan: Plan, seed: int = 0) -> dict[Value, tuple[float, float]]:
    """Ranges of the plan's values on random inputs."""
    found: dict[Value, tuple[float, float]] = {}
    taps = {v: lambda a, v=v: found.__setitem__(v, (float(a.min()), float(a.max()))) for v in plan.observed()}
    run(plan.graph.module, inputs(plan.graph.module, seed), taps=taps)
    return found


def inputs(made: Module, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    values = zip(made.signature.input_names(), made.main.inputs, strict=True)
    return {name: rng.standard_normal([int(d) for d in v.shape]).astype(np.float32) for name, v in values}


def build(make: Callable) -> Module:
    """A module from a function of a builder and an input [2, 4, 6, 6] that returns the output."""
    made = Module()
    graph = made.add_graph("main")
    x = graph.add_input(TensorType(F32, (2, 4, 6, 6)), "x")
    b = Builder(graph)
    b.rng = np.random.default_rng(7)
    y = make(b, x)
    graph.set_outputs(y if isinstance(y, tuple) else (y,))
    made.add_signature("s", graph, ["x"], [f"y{i}" for i in range(len(graph.outputs))])
    verify(made)
    return made


def conv(b, x, key: str, outputs: int = 4, bias: bool = True, **attrs) -> Value:
    inputs_ = x.shape[1] // attrs.get("groups", 1)
    w = b.const(b.rng.standard_normal((outputs, inputs_, 1, 1)).astype(np.float32), key=key, role="param")
    c = b.const(b.rng.standard_normal(outputs).astype(np.float32), key=f"{key}.b", role="param") if bias else None
    return b.conv(x, w, c, **attrs)


def of(make: Callable, wanted: Callable[[Node], str] = lambda node: "int8", **options: bool) -> Plan:
    return make_plan(build(make).main, wanted, **options)


def made_of(
    make: Callable, wanted: Callable[[Node], str] = lambda node: "int8", **options: bool
) -> tuple[Module, Layout]:
    plan = of(make, wanted, **options)
    layout = Layout(plan, seen(plan), ACTIVATIONS)
    Inserter(plan, layout, STYLE).run()
    made = plan.graph.module
    made.drop_unused_weights()
    verify(made)
    return made, layout


def test_the_whole_of_a_small_graph() -> None:
    made, _ = made_of(lambda b, x: b.relu(conv(b, x, "w")))
    assert [node.name for node in made.main.nodes()] == [
        "quantize", "dequantize", "dequantize", "dequantize", "conv", "relu", "quantize", "dequantize",
    ]  # fmt: skip
    types = {w.key: str(w.type) for w in made.used_weights() if w.role == "param"}
    assert types == {"w": "i8[4, 4, 1, 1]", "w.b": "i32[4]"}
    node = next(iter(made.main.nodes("conv")))
    x, w, bias = (v.node for v in node.operands)
    assert w.operands[1].shape == (4, 1, 1, 1)
    product = x.operands[1].array() * w.operands[1].array().reshape(-1)
    np.testing.assert_array_equal(bias.operands[1].array(), product)


def test_only_what_stands_between_products_joins_them() -> None:
    """The exp in front, the softmax behind and what a float op cuts off stay floats."""

    def make(b, x):
        y = conv(b, b.exp(x), "a")
        y = b.max_pool(b.add(y, b.relu(conv(b, y, "c"))), kernel_shape=(2, 2))
        return b.softmax(conv(b, b.hard_swish(conv(b, y, "d")), "e"), axis=1)

    assert names(of(make)) == ["conv", "conv", "relu", "add", "max_pool", "conv", "hard_swish", "conv"]


def test_layer_norm_written_out_stays_float_and_so_does_what_depends_on_it() -> None:
    def make(b, x):
        y = conv(b, x, "a")
        centred = b.sub(y, b.reduce_mean(y, (1,)))
        normal = b.div(centred, b.sqrt(b.reduce_mean(b.mul(centred, centred), (1,))))
        return conv(b, b.mul(normal, b.const(np.float32(2.0))), "c")

    assert names(of(make)) == ["conv", "conv"]


def test_a_polynomial_stays_float_and_a_gate_does_not() -> None:
    assert names(of(lambda b, x: conv(b, b.mul(y := conv(b, x, "a"), b.add(y, 1.0)), "c"))) == ["conv", "conv"]
    gate = of(lambda b, x: conv(b, b.mul(y := conv(b, x, "a"), b.sigmoid(conv(b, y, "g"))), "c"))
    assert names(gate) == ["conv", "conv", "sigmoid", "mul", "conv"]


def test_the_bias_of_a_matmul_is_added_in_32_bits() -> None:
    def make(b, x):
        flat = b.reshape(x, (2, 4, 36))
        w = b.const(b.rng.standard_normal((36, 5)).astype(np.float32), key="w", role="param")
        bias = b.const(b.rng.standard_normal(5).astype(np.float32), key="b", role="param")
        return b.relu(b.add(b.matmul(flat, w), bias))

    made, _ = made_of(make)
    assert str(made.weights["b"].type) == "i32[5]"
    add = next(iter(made.main.nodes("add")))
    assert add.operands[0].node.name == "matmul"
    assert add.result.users[0].name == "relu"


def test_matmuls_of_data_are_integers_too() -> None:
    def make(b, x):
        flat = b.reshape(x, (2, 4, 36))
        scores = b.softmax(b.matmul(flat, b.transpose(flat, perm=(0, 2, 1))), axis=-1)
        return b.matmul(scores, flat)

    made, _ = made_of(make)
    for node in made.main.nodes("matmul"):
        assert [v.node.name for v in node.operands] == ["dequantize", "dequantize"]
    second = list(made.main.nodes("matmul"))[1]
    assert second.operands[0].node.operands[1].scalar() == 1 / 256


def test_concat_pushes_one_grid_back_to_what_only_it_takes() -> None:
    made, layout = made_of(lambda b, x: conv(b, b.concat(conv(b, x, "a"), conv(b, x, "c", 2), axis=1), "d"))
    concat = next(iter(made.main.nodes("concat")))
    scales = {v.node.operands[1] for v in (*concat.operands, concat.result.users[0].result.users[0].result)}
    assert len(scales) == 1


def test_a_fixed_grid_is_laid_anew_for_a_concat() -> None:
    made, _ = made_of(lambda b, x: conv(b, b.concat(b.sigmoid(conv(b, x, "a")), conv(b, x, "c"), axis=1), "d"))
    concat = next(iter(made.main.nodes("concat")))
    again = concat.operands[0].node
    assert again.operands[0].node.operands[0].node.name == "dequantize"
    assert again.operands[1] is concat.operands[1].node.operands[1]


def test_numbers_times_and_plus_data_keep_the_integers() -> None:
    """hard-swish, times a number, plus a number: three ops and one rounding."""

    def make(b, x):
        y = b.hard_swish(conv(b, x, "a"))
        return conv(b, b.add(b.mul(y, b.const(np.float32(0.37))), b.const(np.float32(0.1))), "c")

    plan = of(make)
    layout = Layout(plan, seen(plan), ACTIVATIONS)
    values = [node.result for node in plan.graph.nodes("hard_swish", "mul", "add")]
    taken: dict[str, np.ndarray] = {}
    Inserter(plan, layout, STYLE).run()
    made = plan.graph.module
    taps = {v.users[0].result: lambda a, v=v: taken.__setitem__(v.node.name, a.copy()) for v in values}
    run(made, inputs(made), taps=taps)
    moved = taken["add"].astype(int) - taken["mul"].astype(int)
    np.testing.assert_array_equal(taken["hard_swish"], taken["mul"])
    assert moved.min() == moved.max() == 0
    grids = [v.users[0].operands for v in values]
    assert grids[0][2].scalar() != grids[2][2].scalar()


def test_a_number_too_small_for_a_step_or_too_large_for_the_grid_gets_a_grid_of_its_own() -> None:
    def make(b, x, shift):
        y = b.hard_swish(conv(b, x, "a"))
        return conv(b, b.add(y, b.const(np.float32(shift))), "c")

    for shift in (0.01, 100.0):
        plan = of(lambda b, x, shift=shift: make(b, x, shift))
        layout = Layout(plan, ranges := seen(plan), ACTIVATIONS)
        add = next(iter(plan.graph.nodes("add"))).result
        low, high = ranges[add]
        expected = (max(high, 0) - min(low, 0)) / 255
        assert float(layout.at(add, "int8").scale) == pytest.approx(expected, rel=1e-6)


def test_data_that_a_concat_takes_too_keeps_the_step_that_an_addition_counts_in() -> None:
    def make(b, x):
        y = b.hard_swish(conv(b, x, "a"))
        moved = conv(b, b.add(y, b.const(np.float32(0.1))), "c")
        wide = b.mul(conv(b, x, "w"), b.const(np.float32(40.0)))
        return b.add(moved, conv(b, b.concat(y, wide, axis=1), "d"))

    plan = of(make)
    layout = Layout(plan, ranges := seen(plan), ACTIVATIONS)
    value = next(node for node in plan.graph.nodes("add")).result
    params = layout.at(value, "int8")
    low, high = (float(params.scale) * (end - int(params.zero)) for end in (-128, 127))
    assert low <= ranges[value][0] + params.scale / 2
    assert high >= ranges[value][1] - params.scale / 2


def test_a_value_is_quantised_once_for_all_that_take_it() -> None:
    made, _ = made_of(lambda b, x: b.add(conv(b, y := b.relu(conv(b, x, "a")), "c"), conv(b, y, "d")))
    assert (
        len(
            [
                n
                for n in made.main.nodes("quantize")
                if n.operands[0].node is not None and n.operands[0].node.name == "relu"
            ]
        )
        == 1
    )


def test_float_users_see_integers_of_an_integer_layer_and_floats_of_a_float_one() -> None:
    made, _ = made_of(lambda b, x: (b.exp(y := conv(b, b.cos(x), "a")), b.sin(x), y))
    exp, sin = (next(iter(made.main.nodes(name))) for name in ("exp", "sin"))
    assert exp.operands[0].node.name == "dequantize"
    assert sin.operands[0] is made.main.inputs[0]


def test_shared_weights_are_stored_once_unless_their_biases_ask_for_other_scales() -> None:
    def make(b, x):
        w = b.const(b.rng.standard_normal((4, 4, 1, 1)).astype(np.float32), key="w", role="param")
        return b.conv(b.relu(b.conv(x, w)), w)

    made, _ = made_of(make)
    stored = {node.operands[1].node.operands[0] for node in made.main.nodes("conv")}
    assert len(stored) == 1


def test_16_bit_layers_among_8_bit_ones_read_and_give_16_bits() -> None:
    wanted = lambda node: "int16" if node.operands[1].hint == "c" else "int8"  # noqa: E731

    def make(b, x):
        return conv(b, conv(b, conv(b, x, "a"), "c"), "d")

    made, _ = made_of(make, lambda n: wanted(n) if n.name == "conv" else "int8")
    first, second, third = made.main.nodes("conv")
    read = [str(node.operands[0].node.operands[0].dtype) for node in (first, second, third)]
    assert read == ["i8", "i16", "i8"]
    assert str(second.result.users[0].result.dtype) == "i16"


def test_what_arrives_quantised_keeps_its_integers() -> None:
    made, _ = made_of(lambda b, x: conv(b, conv(b, x, "a"), "c"))
    before = main_text(made)
    plan = make_plan(made.main, lambda node: "int8")
    assert not plan.nodes
    assert set(plan.skipped.values()) == {"its operands or results are quantised already"}
    assert main_text(made) == before


def test_constants_that_are_not_finite_leave_their_layer_in_floats() -> None:
    def make(b, x):
        w = np.ones((4, 4, 1, 1), np.float32)
        w[0] = np.nan
        return conv(b, b.conv(x, b.const(w, key="w", role="param")), "c")

    plan = of(make)
    assert names(plan) == ["conv"]
    assert list(plan.skipped.values()) == ["constant 'w' holds NaN or infinity"]


@pytest.mark.parametrize("op", ["reshape", "transpose", "slice", "max_pool", "average_pool", "pad", "resize"])
def test_ops_that_move_or_average_share_their_operands_grid(op: str) -> None:
    moves = {
        "reshape": lambda b, y: b.reshape(y, (2, 4, 6, 6)),
        "transpose": lambda b, y: b.transpose(y, perm=(0, 1, 3, 2)),
        "slice": lambda b, y: b.slice(y, (0,), (3,), (2,)),
        "max_pool": lambda b, y: b.max_pool(y, kernel_shape=(2, 2)),
        "average_pool": lambda b, y: b.average_pool(y, kernel_shape=(2, 2)),
        "pad": lambda b, y: b.pad(y, (0, 0, 1, 1, 0, 0, 1, 1)),
        "resize": lambda b, y: b.resize(y, None, (1.0, 1.0, 2.0, 2.0), mode="nearest"),
    }
    plan = of(lambda b, x: conv(b, moves[op](b, conv(b, x, "a")), "c"))
    layout = Layout(plan, seen(plan), ACTIVATIONS)
    node = next(iter(plan.graph.nodes(op)))
    before, after = layout.at(node.operands[0], "int8"), layout.at(node.result, "int8")
    assert (before.scale, before.zero) == (after.scale, after.zero)
    assert node.result not in plan.observed()


def test_integer_inputs_and_outputs() -> None:
    made, _ = made_of(lambda b, x: (conv(b, x, "a"), b.exp(x)), integer_ends=True)
    assert integer_interface(made) == [
        "input 'x' stays f32: it is not only read as integers on one grid", "output 'y1' stays f32: integers do not reach it",
    ]  # fmt: skip
    made, _ = made_of(lambda b, x: b.softmax(conv(b, x, "a"), axis=1), integer_ends=True)
    expected = run(made, feeds := inputs(made))["y0"]
    assert integer_interface(made) == []
    verify(made)
    source, target = made.signature.inputs[0].quant, made.signature.outputs[0].quant
    assert (str(made.main.inputs[0].dtype), str(made.main.outputs[0].dtype)) == ("i8", "i8")
    integers = np.clip(np.rint(feeds["x"] / np.float32(source[0])) + source[1], -128, 127).astype(np.int8)
    found = run(made, {"x": integers})["y0"]
    np.testing.assert_array_equal(((found.astype(np.float32) - target[1]) * np.float32(target[0])), expected)
