"""fold-quantize rule by rule: where it applies, where it just does not, and that the numbers are the same."""

from __future__ import annotations

import numpy as np
import pytest
from anyir.ir.graph import Module
from anyir.ir.types import BF16, F16, I4, I8, I16, I32, I64, U8
from anyir.kernels.run import run
from anyir.passes.manager import Context, run_pipeline
from anyir.passes.quantize.fold import RULES
from anyir.passes.rewrite import near_misses
from anyir.tests.support.quantised import Quantising, feeds, graph_of
from anyir.tests.support.text import ops, optimised, same_bits

IMAGE = (2, 3, 4, 4)
MATRIX = (4, 6)


def folded(module: Module, *, exact: bool = True, options: str = "") -> Module:
    """What fold-quantize makes of it; every bit of the outputs is kept on three draws of inputs."""
    made = optimised(module, f"fold-quantize{options}")
    for seed in range(3):
        given = feeds(module, seed)
        wanted, found = run(module, given), run(made, given)
        if exact:
            assert all(same_bits(wanted[name], found[name]) for name in wanted), made
    assert str(optimised(made, f"fold-quantize{options}")) == str(made), "a second run goes on"
    return made


def reasons(module: Module, name: str) -> str:
    """Why a rule did not apply, everywhere it was tried."""
    (rule,) = [r for r in RULES if r.name == name]
    return " | ".join(
        str(vars(trace) if hasattr(trace, "__dict__") else trace) for trace in near_misses(module.main, rule)
    )


# ------------------------------------------------------------------------------------------------------ pairs that meet


@pytest.mark.parametrize("to", [I8, U8, I16, I4])
@pytest.mark.parametrize("scale", [0.1, 0.5, 1 / 255, 3e-30, 1e30])
def test_a_pair_that_gives_every_integer_back_goes(to, scale) -> None:
    zero = 0 if to is I16 else 3
    made = folded(graph_of(lambda b, x: b.q(b.d(x, scale, zero), scale, zero, to), MATRIX, dtype=to))
    assert ops(made) == []


def test_scales_that_differ_by_rounding_alone_make_a_pair_too() -> None:
    near = float(np.nextafter(np.float32(0.1), np.float32(1)))
    assert ops(folded(graph_of(lambda b, x: b.q(b.d(x, 0.1, 3), near, 3), MATRIX, dtype=I8))) == []


def test_half_floats_give_8_bits_back() -> None:
    """Tried out on all 256: bfloat16 keeps 8 bits of every product."""
    assert ops(folded(graph_of(lambda b, x: b.q(b.d(x, 0.1, 3, BF16), 0.1, 3), MATRIX, dtype=I8))) == []


def test_parameters_along_an_axis_make_a_pair() -> None:
    scales = [0.1, 0.2, 0.3]
    made = folded(graph_of(lambda b, x: b.q(b.d(x, scales), scales), IMAGE, dtype=I8))
    assert ops(made) == []


@pytest.mark.parametrize(
    "build",
    [
        lambda b, x: b.q(b.d(x, 0.1, 3), 0.1, 4),
        lambda b, x: b.q(b.d(x, 0.1), 0.11),
        lambda b, x: b.q(b.d(x, 0.1, 3), 0.1, 3, U8),
        lambda b, x: b.q(b.d(x, 1000.0, to=F16), 1000.0),
        lambda b, x: b.q(b.d(x, 1e-42), 1e-42),
        lambda b, x: b.q(b.d(x, [0.1, 0.2, 0.3]), 0.1),
    ],
    ids=["zero", "scale", "dtype", "f16 overflows", "subnormal scale", "axis"],
)
def test_a_pair_that_changes_an_integer_stays(build) -> None:
    assert ops(folded(graph_of(build, (2, 3, 4), dtype=I8))) == ["dequantize", "quantize"]


def test_dequantize_of_quantize_rounds_and_stays() -> None:
    assert ops(folded(graph_of(lambda b, x: b.qd(x, 0.1), MATRIX))) == ["quantize", "dequantize"]


def test_computed_parameters_are_left_alone() -> None:
    def build(b: Quantising, x, s):
        scale = b.reshape(s, ())
        return b.quantize(b.dequantize(x, scale, None, to=s.dtype), scale, None, to=I8)

    module = graph_of(lambda b, x, s: build(b, b.cast(x, to=I8), s), MATRIX, (1,))
    assert ops(optimised(module, "fold-quantize"))[-2:] == ["dequantize", "quantize"]


def test_a_finer_pair_in_the_middle_goes() -> None:
    """Grid 0.5 holds grid 1: going through it rounds nothing, to floats and to integers."""
    module = graph_of(lambda b, x: b.qd(b.d(x, 1.0), 0.5, 0, I16), MATRIX, dtype=I8)
    assert ops(folded(module)) == ["dequantize"]
    module = graph_of(lambda b, x: b.q(b.qd(b.d(x, 1.0), 0.5, 0, I16), 2.0), MATRIX, dtype=I8)
    assert ops(folded(module)) == ["dequantize", "quantize"]


def test_a_coarser_pair_in_the_middle_stays() -> None:
    module = graph_of(lambda b, x: b.q(b.qd(b.d(x, 0.5), 1.0), 0.25), MATRIX, dtype=I8)
    assert ops(folded(module)).count("quantize") == 2


def test_requantising_is_merged_within_one_step() -> None:
    module = graph_of(lambda b, x: b.q(b.qd(x, 0.02, 0, I16), 0.1, 5), (40, 50))
    assert ops(folded(module, options="{exact=true}")) == ["quantize", "dequantize", "quantize"]
    made = folded(module, exact=False)
    assert ops(made) == ["quantize"]
    given = feeds(module)
    gap = run(module, given)["y0"].astype(int) - run(made, given)["y0"]
    assert np.abs(gap).max() <= 1


@pytest.mark.parametrize(("first", "then"), [((0.1, 0), (0.02, 0)), ((0.02, 0), (0.1, 0))], ids=["coarse", "narrow"])
def test_requantising_that_would_differ_by_more_stays(first, then) -> None:
    """The first grid is coarser, or saturates where the second one does not: a clamp would be lost."""
    module = graph_of(lambda b, x: b.q(b.qd(x, *first), *then), MATRIX)
    assert ops(folded(module)) == ["quantize", "dequantize", "quantize"]


def test_one_value_is_quantised_once() -> None:
    def build(b: Quantising, x):
        return [b.neg(b.qd(x, 0.1, 3)), b.exp(b.qd(x, 0.1, 3)), b.qd(x, 0.2, 3)]

    made = ops(folded(graph_of(build, MATRIX)))
    assert made.count("quantize") == 2 and made.count("dequantize") == 2


def test_a_quantised_constant_is_stored_as_integers() -> None:
    def build(b: Quantising, x):
        w = b.const(np.linspace(-1, 1, 24, dtype=np.float32).reshape(6, 4), key="fc.weight", role="param")
        return b.matmul(x, b.qd(w, 0.01))

    made = folded(graph_of(build, MATRIX))
    assert ops(made) == ["dequantize", "matmul"]
    (weight,) = [w for w in made.weights if w.key == "fc.weight"]
    assert weight.tensor.dtype is I8 and weight.role == "param"


# --------------------------------------------------------------------------------------------------- movement: D sinks


def moved(move, shape=IMAGE, **build):
    """A quantised value moved and quantised again: only the move is left where D and Q meet."""
    return graph_of(lambda b, x: b.q(move(b, b.d(x, 0.1, 3)), 0.1, 3), shape, dtype=I8)


MOVES = {
    "transpose": lambda b, x: b.transpose(x, perm=(0, 2, 3, 1)),
    "reshape": lambda b, x: b.reshape(x, (2, -1)),
    "flatten": lambda b, x: b.flatten(x, axis=1),
    "unsqueeze": lambda b, x: b.unsqueeze(x, (1,)),
    "slice": lambda b, x: b.slice(x, (1,), (3,), (2,)),
    "gather": lambda b, x: b.gather(x, np.asarray([2, 0, 1, 1]), axis=1),
    "expand": lambda b, x: b.expand(b.slice(x, (0,), (1,), (1,)), (2, 5, 4, 4)),
    "tile": lambda b, x: b.tile(x, (1, 2, 1, 1)),
    "depth_to_space": lambda b, x: b.depth_to_space(b.tile(x, (1, 4, 1, 1)), blocksize=2),
    "space_to_depth": lambda b, x: b.space_to_depth(x, blocksize=2),
    "reverse": lambda b, x: b.reverse(x, axes=(2,)),
    "max_pool": lambda b, x: b.max_pool(x, kernel_shape=(3, 3), pads=(1, 1, 1, 1), strides=(2, 2)),
    "resize": lambda b, x: b.resize(x, None, None, (2, 3, 8, 6), mode="nearest"),
    "pad": lambda b, x: b.pad(x, (0, 0, 1, 2, 0, 0, 3, 1)),
    "pad with a number": lambda b, x: b.pad(x, (0, 0, 1, 2, 0, 0, 3, 1), np.float32(-1.7)),
    "reflecting pad": lambda b, x: b.pad(x, (0, 0, 1, 2, 0, 0, 3, 1), mode="reflect"),
    "split": lambda b, x: b.split(x, axis=3, num_outputs=2)[1],
    "concat": lambda b, x: b.concat(x, x, axis=1),
    "max": lambda b, x: b.max(x, b.slice(x, (0,), (1,), (0,))),
}


@pytest.mark.parametrize("name", MOVES)
def test_moves_become_moves_of_integers(name) -> None:
    made = folded(moved(MOVES[name]))
    assert not {"quantize", "dequantize"} & set(ops(made)), made
    assert made.main.outputs[0].dtype is I8


STAY = {
    "linear resize": lambda b, x: b.resize(x, None, None, (2, 3, 8, 6), mode="linear"),
    "average_pool": lambda b, x: b.average_pool(x, kernel_shape=(2, 2)),
    "windows beyond the image": lambda b, x: b.max_pool(x, kernel_shape=(2, 2), dilations=(3, 3), pads=(2, 2, 2, 2)),
}


@pytest.mark.parametrize("name", STAY)
def test_what_computes_stays_float(name) -> None:
    module = graph_of(lambda b, x: STAY[name](b, b.d(x, 0.1, 3)), IMAGE, dtype=I8)
    assert ops(folded(module))[0] == "dequantize"


def test_padding_that_no_integer_stands_for_stays_below_dequantize() -> None:
    module = graph_of(lambda b, x: b.pad(b.d(x, 0.1, 3), (0, 1, 0, 1), np.float32(0.05)), MATRIX, dtype=I8)
    made = folded(module)
    assert ops(made) == ["dequantize", "pad"]
    assert "no number that the integers stand for" in reasons(made, "sink_dequantize")


def test_operands_quantised_differently_are_not_joined() -> None:
    module = graph_of(lambda b, x, y: b.concat(b.d(x, 0.1), b.d(y, 0.2), axis=1), MATRIX, MATRIX, dtype=I8)
    assert ops(folded(module)) == ["dequantize", "dequantize", "concat"]


def test_a_concat_is_requantised_on_the_side_that_differs() -> None:
    module = graph_of(lambda b, x, y: b.q(b.concat(b.d(x, 0.1), b.d(y, 0.2), axis=1), 0.2), MATRIX, MATRIX, dtype=I8)
    made = folded(module)
    assert ops(made) == ["dequantize", "quantize", "concat"]


def test_where_moves_integers() -> None:
    def build(b: Quantising, x, y):
        return b.q(b.where(b.greater(x, np.float32(0)), b.qd(x, 0.1, 3), b.qd(y, 0.1, 3)), 0.1, 3)

    made = folded(graph_of(build, MATRIX, MATRIX))
    assert ops(made).count("quantize") == 2 and "dequantize" not in ops(made)


def test_packed_integers_are_not_sliced() -> None:
    module = graph_of(lambda b, x: b.slice(b.d(x, 0.1), (0,), (2,), (1,)), MATRIX, dtype=I4)
    assert ops(folded(module)) == ["dequantize", "slice"]
    module = graph_of(lambda b, x: b.transpose(b.d(x, 0.1), perm=(1, 0)), MATRIX, dtype=I4)
    assert ops(folded(module)) == ["transpose", "dequantize"]


# ------------------------------------------------------------------------------- movement of parameters along an axis

SCALES = (0.1, 0.25, 0.4)


@pytest.mark.parametrize(
    ("move", "shape"),
    [
        (lambda b, x: b.transpose(x, perm=(1, 0, 3, 2)), (3, 1, 1, 1)),
        (lambda b, x: b.transpose(x, perm=(0, 2, 3, 1)), (1, 1, 1, 3)),
        (lambda b, x: b.reshape(x, (2, 3, 16)), (1, 3, 1)),
        (lambda b, x: b.reshape(x, (1, 2, 3, 4, 4)), (1, 1, 3, 1, 1)),
        (lambda b, x: b.unsqueeze(x, (0, 3)), (1, 1, 3, 1, 1, 1)),
        (lambda b, x: b.slice(x, (0,), (2,), (3,)), (1, 3, 1, 1)),
        (lambda b, x: b.gather(x, np.asarray([[1, 0]]), axis=2), (1, 3, 1, 1, 1)),
        (lambda b, x: b.gather(x, np.asarray([2, 0]), axis=1), (1, 2, 1, 1)),
        (lambda b, x: b.split(x, axis=0, num_outputs=2)[0], (1, 3, 1, 1)),
        (lambda b, x: b.max_pool(x, kernel_shape=(2, 2)), (1, 3, 1, 1)),
    ],
    ids=[
        "transpose",
        "to last",
        "merge",
        "split a dim",
        "unsqueeze",
        "slice",
        "gather",
        "gather rows",
        "split",
        "pool",
    ],
)
def test_scales_along_an_axis_move_along(move, shape) -> None:
    made = folded(graph_of(lambda b, x: move(b, b.d(x, SCALES)), IMAGE, dtype=I8))
    last = made.main.outputs[0].node
    assert last.name == "dequantize" and last.operands[1].shape == shape


@pytest.mark.parametrize(
    "move",
    [
        lambda b, x: b.reshape(x, (6, 16)),
        lambda b, x: b.slice(x, (1,), (3,), (1,)),
        lambda b, x: b.concat(x, x, axis=1),
        lambda b, x: b.tile(x, (1, 2, 1, 1)),
        lambda b, x: b.reverse(x, axes=(1,)),
        lambda b, x: b.resize(x, None, None, (2, 3, 8, 6), mode="nearest"),
    ],
    ids=["reshape", "slice", "concat", "tile", "reverse", "resize"],
)
def test_scales_that_cannot_follow_stop_the_move(move) -> None:
    assert ops(folded(graph_of(lambda b, x: move(b, b.d(x, SCALES)), IMAGE, dtype=I8)))[0] == "dequantize"


def test_embeddings_stay_integers_row_by_row() -> None:
    """Gather(D(E), i) -> D(Gather(E, i)), the scales of the rows gathered too."""
    rng = np.random.default_rng(0)
    table, scales = rng.integers(-127, 128, (10, 8)), rng.uniform(0.01, 0.1, 10)

    def build(b: Quantising, ids):
        return b.gather(b.weights(table, scales, axis=0), ids, axis=0)

    module = graph_of(build, (2, 5), dtype=I64)
    made = optimised(module, "fold-quantize")
    assert ops(made) == ["gather", "gather", "dequantize"]
    given = {"x0": rng.integers(0, 10, (2, 5))}
    assert same_bits(run(module, given)["y0"], run(made, given)["y0"])


# --------------------------------------------------------------------------------------------------------------- clamps


@pytest.mark.parametrize(
    ("clamp", "zero", "goes"),
    [
        (lambda b, x: b.relu(x), -128, True),
        (lambda b, x: b.relu(x), -127, False),
        (lambda b, x: b.clip(x, np.float32(0), np.float32(6)), -128, True),
        (lambda b, x: b.clip(x, np.float32(0), np.float32(5)), -128, False),
        (lambda b, x: b.relu6(x), -128, True),
        (lambda b, x: b.clip(x, None, np.float32(7)), 0, True),
    ],
    ids=["relu", "relu above the lowest", "relu6", "clip inside", "relu6 op", "open below"],
)
def test_clamps_go_where_the_integers_end(clamp, zero, goes) -> None:
    """Scale 6/255: the range of zero point -128 is 0 to 6, that of 0 is -3 to 3."""
    made = folded(graph_of(lambda b, x: b.q(clamp(b, x), 6 / 255, zero), MATRIX))
    assert (ops(made) == ["quantize"]) is goes


def test_clamps_of_integers_become_clips_of_integers() -> None:
    module = graph_of(lambda b, x: b.q(b.relu(b.d(x, 0.1, 3)), 0.1, 3), MATRIX, dtype=I8)
    assert ops(folded(module)) == ["clip"]


def test_clamps_that_clamp_nothing_go() -> None:
    module = graph_of(lambda b, x: b.relu(b.d(x, 0.1, -128)), MATRIX, dtype=I8)
    assert ops(folded(module)) == ["dequantize"]
    module = graph_of(lambda b, x: b.relu(b.d(x, 0.1, -127)), MATRIX, dtype=I8)
    assert ops(folded(module)) == ["dequantize", "relu"]


def test_integers_that_are_clamped_before_quantize_stay() -> None:
    module = graph_of(lambda b, x: b.q(b.relu(b.cast(x, to=I32)), 0.5, -128), MATRIX, dtype=I8)
    assert ops(folded(module)) == ["cast", "relu", "quantize"]


def test_a_clamp_that_others_read_stays() -> None:
    def build(b: Quantising, x):
        y = b.relu(x)
        return [b.q(y, 0.1, -128), y]

    assert ops(folded(graph_of(build, MATRIX))) == ["relu", "quantize"]


# ---------------------------------------------------------------------------------------------------- scales and biases


@pytest.mark.parametrize("name", ["mul", "div"])
@pytest.mark.parametrize("factor", [0.5, [[2.0], [4.0], [0.25], [8.0]]], ids=["one", "rows"])
def test_factors_go_into_the_scales_of_weights(name, factor) -> None:
    """Powers of two: even the bits are the same."""

    def build(b: Quantising, x):
        w = b.weights(np.arange(24).reshape(4, 6) - 12, [0.1, 0.2, 0.3, 0.4])
        return b.add(x, b.call(name, (w, b.const(np.asarray(factor, np.float32)))).result)

    assert ops(folded(graph_of(build, MATRIX))) == ["dequantize", "add"]


@pytest.mark.parametrize(
    "factor", [-0.5, 0.0, np.inf, [[1.0, 2, 3, 4, 5, 6]]], ids=["negative", "zero", "infinite", "another axis"]
)
def test_other_factors_stay(factor) -> None:
    def build(b: Quantising, x):
        w = b.weights(np.arange(24).reshape(4, 6) - 12, [0.1, 0.2, 0.3, 0.4])
        return b.add(x, b.mul(w, b.const(np.asarray(factor, np.float32))))

    made = optimised(graph_of(build, MATRIX), "fold-quantize")
    assert "mul" in ops(made)


def test_factors_on_data_stay() -> None:
    """The integers of one value have one meaning: Q and D with different scales would give them two."""
    made = folded(graph_of(lambda b, x: b.mul(b.qd(x, 0.1), np.float32(2)), MATRIX))
    assert ops(made) == ["quantize", "dequantize", "mul"]


def conv_with(bias, data_scale=0.05):
    def build(b: Quantising, x):
        w = b.weights(np.random.default_rng(1).integers(-127, 128, (4, 3, 3, 3)), [0.01, 0.02, 0.03, 0.04])
        return b.q(b.conv(b.qd(x, data_scale, 5), w, bias(b), pads=(1, 1, 1, 1)), 0.3)

    return graph_of(build, IMAGE)


@pytest.mark.parametrize(
    "bias",
    [
        lambda b: b.const(np.asarray([0.5, -0.25, 1.5, 7.0], np.float32), key="conv.bias", role="param"),
        lambda b: b.weights([50, -25, 150, 70], 0.01, I16, key="conv.bias"),
    ],
    ids=["float", "other scale"],
)
def test_biases_are_stored_in_the_unit_of_the_sum(bias) -> None:
    module = conv_with(bias)
    made = folded(module, exact=False)
    node = next(made.main.nodes("conv")).operands[2].node
    assert node.name == "dequantize" and node.operands[0].dtype.name == "i32"
    np.testing.assert_allclose(
        node.operands[1].array(), np.float32(0.05) * np.float32([0.01, 0.02, 0.03, 0.04]), rtol=1e-7
    )
    assert made.weights["conv.bias"].tensor.dtype.name == "i32"
    given = feeds(module)
    assert np.abs(run(module, given)["y0"].astype(int) - run(made, given)["y0"]).max() <= 1


def test_a_bias_that_does_not_fit_32_bits_stays_float() -> None:
    made = folded(conv_with(lambda b: b.const(np.asarray([1e9, 0, 0, 0], np.float32)), 1e-5))
    assert next(made.main.nodes("conv")).operands[2].is_const
    assert "too large" in reasons(made, "settle_bias")


def test_a_settled_bias_is_left_alone() -> None:
    scales = np.float32(0.05) * np.float32([0.01, 0.02, 0.03, 0.04])
    module = conv_with(lambda b: b.d(b.const(np.asarray([1, 2, 3, 4], np.int32)), scales, axis=0))
    before = str(module)
    made = folded(module)
    assert "settle_bias" not in str(made) and ops(made) == ops(module), before


# --------------------------------------------------------------------------------------------------------- whole graphs


def test_everything_between_layers_becomes_integer() -> None:
    """conv, relu, pool, reshape, concat: only layers keep D and Q around them."""

    def build(b: Quantising, x):
        x = b.qd(x, 0.05, 3)
        w = b.weights(np.random.default_rng(2).integers(-127, 128, (4, 3, 3, 3)), [0.01, 0.02, 0.03, 0.04])
        y = b.qd(b.relu(b.conv(x, w, pads=(1, 1, 1, 1))), 0.1, -128)
        z = b.qd(
            b.concat(b.max_pool(y, kernel_shape=(2, 2), strides=(2, 2)), b.slice(y, (0, 0), (2, 2), (2, 3)), axis=1),
            0.1,
            -128,
        )
        fc = b.weights(np.random.default_rng(3).integers(-127, 128, (32, 5)), 0.01, axis=1, key="fc")
        return b.matmul(b.qd(b.reshape(z, (2, 32)), 0.1, -128), fc)

    made = folded(graph_of(build, IMAGE))
    assert ops(made).count("quantize") == 2 and "relu" not in ops(made)
    layers = [made.main.nodes("conv"), made.main.nodes("matmul")]
    assert all(v.node.name == "dequantize" for nodes in layers for n in nodes for v in n.operands[:2])


def test_folding_twice_changes_nothing_and_levels_keep_integers() -> None:
    def build(b: Quantising, x):
        w = b.weights(
            np.random.default_rng(3).integers(-127, 128, (6, 64)), np.linspace(0.01, 0.02, 64), axis=1, key="fc.weight"
        )
        return b.matmul(x, w)

    module = graph_of(build, MATRIX)
    for level in (
        "fold",
        "canonicalize,fold,fix(canonicalize,cse,dce),fold-batch-norm,fuse-activations,fold,dead-weights",
    ):
        made = optimised(module, level)
        assert made.weights["fc.weight"].tensor.dtype is I8


SCALE_CHOICES = (0.1, 0.1, 0.25, 0.5, 1 / 32)
ZEROS = (-128, -128, 0, 3)
SAME_SHAPE = (
    lambda b, x: b.relu(x),
    lambda b, x: b.relu6(x),
    lambda b, x: b.clip(x, np.float32(-2), np.float32(9.7)),
    lambda b, x: b.transpose(b.transpose(x, perm=(0, 2, 3, 1)), perm=(0, 3, 1, 2)),
    lambda b, x: b.reshape(b.reshape(x, (2, -1)), IMAGE),
    lambda b, x: b.reshape(b.transpose(b.reshape(x, (2, 3, 16)), perm=(0, 2, 1)), IMAGE),
    lambda b, x: b.max_pool(x, kernel_shape=(3, 3), pads=(1, 1, 1, 1)),
    lambda b, x: b.slice(b.pad(x, (0, 0, 1, 1, 0, 0, 0, 0)), (0, 0), (4, 4), (2, 3)),
    lambda b, x: b.concat(b.slice(x, (1,), (3,), (1,)), b.slice(x, (0,), (1,), (1,)), axis=1),
    lambda b, x: b.where(b.greater(x, np.float32(0.3)), x, b.reverse(x, axes=(3,))),
    lambda b, x: b.max(x, b.reverse(x, axes=(2,))),
    lambda b, x: b.sigmoid(x),
    lambda b, x: b.add(x, b.reverse(x, axes=(2,))),
)


def chain_of(b: Quantising, x, rng: np.random.Generator):
    """Q and D with few parameters, so that they meet often, between moves, clamps and functions; values are read again."""
    values = [x]
    for _ in range(14):
        value = values[int(rng.integers(max(0, len(values) - 3), len(values)))]
        kind = rng.integers(4)
        if kind == 0:
            value = b.qd(value, SCALE_CHOICES[rng.integers(5)], ZEROS[rng.integers(4)])
        elif kind == 1:
            value = b.qd(value, np.asarray(SCALE_CHOICES)[rng.integers(5, size=3)], 0)
        else:
            value = SAME_SHAPE[rng.integers(len(SAME_SHAPE))](b, value)
        values.append(value)
    return [values[-1], b.q(values[-2], 0.1, 3)]


@pytest.mark.parametrize("seed", range(40))
def test_random_chains_keep_every_bit(seed) -> None:
    rng = np.random.default_rng(seed)
    folded(graph_of(lambda b, x: chain_of(b, x, rng), IMAGE), options="{exact=true}")


def test_random_chains_use_every_rule() -> None:
    """What the chains above are for: no rule is idle in them."""
    used: set[str] = set()
    for seed in range(40):
        rng = np.random.default_rng(seed)
        module = graph_of(lambda b, x, rng=rng: chain_of(b, x, rng), IMAGE)
        ctx = Context(level=3)
        run_pipeline(module, "fold-quantize", ctx)
        used |= set(ctx.stats)
    assert {"drop_pair", "sink_dequantize", "sink_together", "raise_quantize", "absorb_clamp", "share_equal"} <= used
