"""integer-ops: layers, sums, means and tables between D and Q in integers, at most one step beside the float meaning."""

from __future__ import annotations

import numpy as np
import pytest
from anyir.ir.errors import UsageError
from anyir.ir.graph import Module
from anyir.ir.types import F16, I4, I8, I16, U8
from anyir.kernels.run import run
from anyir.passes.manager import find_pass
from anyir.passes.quantize.integer import open_layer, qlinear_layer
from anyir.passes.rewrite import near_misses
from anyir.tests.support.quantised import Quantising, feeds, graph_of
from anyir.tests.support.text import ops, optimised

RNG = np.random.default_rng(5)
W = RNG.integers(-127, 128, (4, 3, 3, 3))
PER_CHANNEL = [0.01, 0.02, 0.03, 0.04]
IMAGE, MATRIX = (2, 3, 6, 6), (4, 6)
#: How many results may be neighbours: fixed point rounds ties away from zero, and products to 31 bits.
TIES = {"half_even": 0.01, "fixed_point": 0.05}


def steps_apart(before: Module, after: Module) -> tuple[int, float]:
    """The largest difference of integer outputs over three draws, and the part of elements that differ."""
    worst, differ, count = 0, 0, 0
    for seed in range(3):
        given = feeds(before, seed)
        wanted, found = run(before, given), run(after, given)
        for name, array in wanted.items():
            gap = np.abs(array.astype(np.int64) - found[name].astype(np.int64))
            worst, differ, count = max(worst, int(gap.max())), differ + int((gap > 0).sum()), count + gap.size
    return worst, differ / count


def integer(module: Module, options: str = "", rounding: str = "half_even") -> Module:
    """What integer-ops makes: no float arithmetic between the first Q and the last D, at most a step away on few elements."""
    made = optimised(module, f"integer-ops{{rounding={rounding}{options}}}")
    worst, part = steps_apart(module, made)
    assert worst <= 1 and part <= TIES[rounding], (worst, part)
    return made


def is_integer(made: Module) -> bool:
    """No dequantize is left: every value behind the first quantize is an integer."""
    return "dequantize" not in ops(made)


def reasons(module: Module, rule) -> str:
    return " | ".join(
        str(vars(trace) if hasattr(trace, "__dict__") else trace) for trace in near_misses(module.main, rule)
    )


def conv_net(*, bias=True, to=I8, zero=5, weight_zero=0, clamp=None, scale=None, out=(0.3, 7), **geometry) -> Module:
    def build(b: Quantising, x):
        stored = b.const(W.astype(np.int8), key="conv.weight", role="param")
        w = b.d(stored, PER_CHANNEL if scale is None else scale, weight_zero, axis=0)
        vector = b.const(np.asarray([0.5, -2, 1, 0], np.float32), key="conv.bias", role="param") if bias else None
        y = b.conv(b.qd(x, 0.05, zero, to), w, vector, **geometry)
        return b.q(y if clamp is None else clamp(b, y), *out, to)

    return graph_of(build, IMAGE)


ROUNDINGS = pytest.mark.parametrize("rounding", ["half_even", "fixed_point"])


# --------------------------------------------------------------------------------------------------------------- layers


@ROUNDINGS
@pytest.mark.parametrize(
    "form",
    [
        {},
        {"bias": False},
        {"pads": (1, 1, 1, 1)},
        {"strides": (2, 2), "auto_pad": "same_upper"},
        {"to": U8, "zero": 130, "out": (0.2, 100)},
        {"weight_zero": 3, "scale": 0.01},
        {"weight_zero": [1, -2, 3, 0]},
        {"clamp": lambda b, y: b.relu(y), "out": (0.2, -128)},
        {"clamp": lambda b, y: b.relu(y)},
        {"clamp": lambda b, y: b.clip(y, np.float32(-1), np.float32(2.5))},
    ],
    ids=[
        "plain",
        "no bias",
        "padded",
        "strided",
        "u8",
        "weights with a zero point",
        "one for each channel",
        "relu that goes",
        "relu",
        "clip",
    ],
)
def test_convolutions(form, rounding) -> None:
    made = integer(conv_net(**form), rounding=rounding)
    assert is_integer(made) and "conv_integer" in ops(made)
    assert made.weights["conv.weight"].tensor.dtype is I8
    for node in made.main.nodes("requantize"):
        assert node.attr("rounding") == rounding


def test_groups() -> None:
    def build(b: Quantising, x):
        w = b.weights(RNG.integers(-127, 128, (6, 1, 3, 3)), np.linspace(0.01, 0.03, 6))
        return b.q(b.conv(b.qd(x, 0.05, 3), w, groups=3, pads=(1, 1, 1, 1)), 0.2)

    assert is_integer(integer(graph_of(build, IMAGE)))


def dense(op="matmul", *, bias=True, turned=False, alpha=1.0, shape=MATRIX, scale=None, moved=False) -> Module:
    array = np.random.default_rng(6).integers(-127, 128, (5, 6) if turned else (6, 5))

    def build(b: Quantising, x):
        w = b.weights(
            array, np.linspace(0.01, 0.03, 5) if scale is None else scale, axis=0 if turned else 1, key="fc.weight"
        )
        data = b.qd(x, 0.05, 3)
        vector = b.const(np.linspace(-1, 1, 5).astype(np.float32), key="fc.bias", role="param")
        if op == "gemm":
            y = b.gemm(
                b.transpose(data, perm=(1, 0)) if moved else data,
                w,
                vector if bias else None,
                transB=turned,
                alpha=alpha,
            )
        else:
            y = b.matmul(data, w)
            y = b.add(y, vector) if bias else y
        return b.q(y, 0.2, -5)

    return graph_of(build, shape)


@ROUNDINGS
@pytest.mark.parametrize(
    "form",
    [
        {},
        {"bias": False},
        {"shape": (2, 4, 6)},
        {"scale": 0.02},
        {"op": "gemm"},
        {"op": "gemm", "turned": True},
        {"op": "gemm", "bias": False, "turned": True},
        {"op": "gemm", "alpha": 0.5},
    ],
    ids=["matmul and bias", "matmul", "batched", "one scale", "gemm", "turned", "no bias", "with a factor"],
)
def test_dense_layers(form, rounding) -> None:
    made = integer(dense(**form), rounding=rounding)
    assert is_integer(made) and "matmul_integer" in ops(made)
    assert made.weights["fc.weight"].tensor.dtype is I8


@ROUNDINGS
def test_products_of_two_activations(rounding) -> None:
    module = graph_of(lambda b, x, y: b.q(b.matmul(b.qd(x, 0.05, 3), b.qd(y, 0.04, -9)), 0.3, 4), (2, 4, 6), (2, 6, 3))
    assert is_integer(integer(module, rounding=rounding))


def test_the_bias_is_in_units_of_the_sum() -> None:
    made = integer(conv_net())
    (total,) = made.main.nodes("add")
    wanted = np.rint(np.asarray([0.5, -2, 1, 0]) / (np.float64(np.float32(0.05)) * np.float32(PER_CHANNEL)))
    np.testing.assert_array_equal(total.operands[1].array().reshape(-1), wanted)


def test_qlinear_form() -> None:
    made = optimised(conv_net(pads=(1, 1, 1, 1)), "integer-ops{form=qlinear}")
    assert ops(made) == ["quantize", "qlinear_conv"]
    assert steps_apart(conv_net(pads=(1, 1, 1, 1)), made)[0] <= 1
    made = optimised(dense(bias=False), "integer-ops{form=qlinear}")
    assert ops(made) == ["quantize", "qlinear_matmul"] and steps_apart(dense(bias=False), made)[0] <= 1
    kept = optimised(dense(), "integer-ops{form=qlinear}")
    assert "qlinear_matmul" not in ops(kept) and "takes no bias" in reasons(kept, qlinear_layer)


# ----------------------------------------------------------------------------------------------------------- near misses


def two_readers() -> Module:
    def build(b: Quantising, x):
        y = b.conv(b.qd(x, 0.05), b.weights(W, PER_CHANNEL))
        return [b.q(y, 0.3), b.neg(y)]

    return graph_of(build, IMAGE)


def along_inputs() -> Module:
    def build(b: Quantising, x):
        return b.q(b.conv(b.qd(x, 0.05), b.weights(W, [0.01, 0.02, 0.03], axis=1)), 0.3)

    return graph_of(build, IMAGE)


def half_floats() -> Module:
    def build(b: Quantising, x):
        data = b.d(b.q(x, 0.05), 0.05, to=F16)
        return b.q(b.conv(data, b.d(b.const(W.astype(np.int8)), PER_CHANNEL, axis=0, to=F16)), 0.3)

    return graph_of(build, IMAGE)


def wide(to) -> Module:
    return graph_of(lambda b, x: b.q(b.conv(b.qd(x, 0.05, 0, to), b.weights(W, PER_CHANNEL)), 0.3, 0, to), IMAGE)


def huge() -> Module:
    """70,000 products of 255 and 127 overflow 31 bits."""

    def build(b: Quantising, x):
        return b.q(b.matmul(b.qd(x, 0.05, -128), b.weights(np.full((70_000, 1), 127), 0.01, axis=1)), 0.3)

    return graph_of(build, (1, 70_000))


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (two_readers, "used elsewhere"),
        (along_inputs, "another axis"),
        (half_floats, ""),
        (lambda: wide(I16), "products of i16"),
        (huge, "overflow 32 bits"),
        (lambda: dense("gemm", alpha=1.0, scale=np.linspace(0.01, 0.02, 6).reshape(6, 1).repeat(5, 1)), "another axis"),
    ],
    ids=["two readers", "scales along the inputs", "half floats", "16 bits", "too deep", "scales of elements"],
)
def test_what_is_not_that_stays_as_it_is(module, reason) -> None:
    made = optimised(module(), "integer-ops{open_ends=false}")
    assert not {"conv_integer", "matmul_integer"} & set(ops(made))
    assert reason in reasons(made, qlinear_layer)


def test_a_vector_on_the_right_has_no_channels() -> None:
    """Scales along a vector lie along what is summed: no ratio for the sum."""

    def build(b: Quantising, x):
        return b.q(b.matmul(b.qd(x, 0.05), b.weights(RNG.integers(-127, 128, 6), np.linspace(0.01, 0.5, 6))), 0.3)

    made = optimised(graph_of(build, MATRIX), "integer-ops")
    assert "matmul_integer" not in ops(made) and "and channels" in reasons(made, qlinear_layer)


def test_weights_of_4_bits_are_no_8_bit_products() -> None:
    module = graph_of(
        lambda b, x: b.q(b.matmul(b.qd(x, 0.05), b.weights(RNG.integers(-7, 8, (6, 5)), 0.1, I4, 1)), 0.3), MATRIX
    )
    assert "matmul" in ops(optimised(module, "integer-ops"))


def test_options_are_checked() -> None:
    for option in ("rounding=up", "form=other"):
        with pytest.raises(UsageError, match="integer-ops"):
            optimised(conv_net(), f"integer-ops{{{option}}}")
    assert set(find_pass("integer-ops").options) == {"rounding", "form", "tables", "open_ends"}


# ------------------------------------------------------------------------------------------------------------ open ends


def test_a_layer_that_ends_in_floats() -> None:
    """One multiplication behind the integer product, and the bias."""
    module = graph_of(
        lambda b, x: b.conv(b.qd(x, 0.05, 3), b.weights(W, PER_CHANNEL), b.const(np.ones(4, np.float32))), IMAGE
    )
    made = optimised(module, "integer-ops")
    assert ops(made) == ["quantize", "conv_integer", "cast", "mul", "add"]
    given = feeds(module)
    np.testing.assert_allclose(run(made, given)["y0"], run(module, given)["y0"], rtol=1e-5, atol=1e-4)


def test_data_quantised_as_it_comes() -> None:
    """dynamic_quantize -> dequantize -> matmul: the scale of the data is computed, the product is of integers."""

    def build(b: Quantising, x):
        stored, scale, zero = b.dynamic_quantize(x)
        return b.matmul(
            b.dequantize(stored, scale, zero, to=x.dtype),
            b.weights(RNG.integers(-127, 128, (6, 5)), np.linspace(0.01, 0.03, 5), axis=1),
        )

    module = graph_of(build, MATRIX)
    made = optimised(module, "integer-ops")
    assert ops(made) == ["dynamic_quantize", "matmul_integer", "cast", "mul", "mul"]
    given = feeds(module)
    np.testing.assert_allclose(run(made, given)["y0"], run(module, given)["y0"], rtol=1e-5, atol=1e-3)
    assert near_misses(made.main, open_layer) == []


# ---------------------------------------------------------------------------------------------------------- elementwise

ELEMENTWISE = {
    "add": lambda b, x, y: b.add(b.qd(x, 0.05, 3), b.qd(y, 0.08, -20)),
    "sub": lambda b, x, y: b.sub(b.qd(x, 0.05, 3), b.qd(y, 0.08, -20)),
    "mul": lambda b, x, y: b.mul(b.qd(x, 0.05, 3), b.qd(y, 0.08, -20)),
    "broadcast": lambda b, x, y: b.add(b.qd(x, 0.05, 3), b.qd(b.slice(y, (0,), (1,), (1,)), 0.08, -20)),
    "global average": lambda b, x, y: b.global_average_pool(b.qd(x, 0.05, 3)),
    "mean": lambda b, x, y: b.reduce_mean(b.qd(x, 0.05, 3), (-1, 1), keepdims=False),
    "average pool": lambda b, x, y: b.average_pool(b.qd(x, 0.05, 3), kernel_shape=(2, 3), strides=(2, 1)),
    "counted padding": lambda b, x, y: b.average_pool(
        b.qd(x, 0.05, 3), kernel_shape=(3, 3), pads=(1, 1, 1, 1), count_include_pad=True
    ),
}


@ROUNDINGS
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_sums_products_and_means(name, rounding) -> None:
    module = graph_of(lambda b, x, y: b.q(ELEMENTWISE[name](b, x, y), 0.1137, 9), IMAGE, IMAGE)
    made = integer(module, ", tables=false", rounding)
    assert is_integer(made) and "requantize" in ops(made)


@pytest.mark.parametrize(
    "build",
    [
        lambda b, x: b.average_pool(b.qd(x, 0.05, 3), kernel_shape=(3, 3), pads=(1, 1, 1, 1)),
        lambda b, x: b.add(b.qd(x, 0.05, 3), b.qd(x, 1e-8)),
        lambda b, x: b.add(b.qd(x, 0.05, 3), b.neg(x)),
    ],
    ids=["uncounted padding", "scales far apart", "a float side"],
)
def test_what_integers_cannot_say_stays(build) -> None:
    made = optimised(graph_of(lambda b, x: b.q(build(b, x), 0.11, 9), IMAGE), "integer-ops{tables=false}")
    assert "dequantize" in ops(made)


FUNCTIONS = {
    "sigmoid": lambda b, x: b.sigmoid(x),
    "hard_swish": lambda b, x: b.hard_swish(x),
    "gelu": lambda b, x: b.gelu(x),
    "exp of a factor": lambda b, x: b.exp(b.mul(x, np.float32(0.3))),
    "leaky_relu": lambda b, x: b.leaky_relu(x, alpha=0.2),
    "nothing but other parameters": lambda b, x: x,
}


@pytest.mark.parametrize("to", [I8, U8])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_one_element_become_tables(name, to) -> None:
    """All 256 integers, to the last one."""
    module = graph_of(lambda b, x: b.q(FUNCTIONS[name](b, b.d(x, 0.05, 3)), 0.02, 7, to), (16, 16), dtype=to)
    made = optimised(module, "integer-ops")
    assert set(ops(made)) <= {"cast", "sub", "gather"}
    info = np.iinfo(to.numpy)
    every = np.arange(info.min, info.max + 1).reshape(16, 16).astype(to.numpy)
    np.testing.assert_array_equal(run(made, [every])["y0"], run(module, [every])["y0"])


def test_functions_of_more_than_one_element_make_no_table() -> None:
    for function in (
        lambda b, x: b.softmax(x, axis=1),
        lambda b, x: b.mul(x, x),
        lambda b, x: b.prelu(x, np.ones((16,), np.float32)),
    ):
        module = graph_of(lambda b, x, f=function: b.q(f(b, b.d(x, 0.05, 3)), 0.02, 7), (16, 16), dtype=I8)
        assert "gather" not in ops(optimised(module, "integer-ops"))
