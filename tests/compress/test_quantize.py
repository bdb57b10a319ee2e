"""The pass `quantize`: what its options make of a model, what it refuses, and that numbers stay where they were."""

from __future__ import annotations

import numpy as np
import pytest
from anyir.compress.data import open_data
from anyir.ir.builder import Builder
from anyir.ir.dims import sym
from anyir.ir.errors import InvalidData, UsageError
from anyir.ir.graph import Module, Value
from anyir.ir.types import F32, I64, TensorType
from anyir.ir.verify import verify
from anyir.kernels.run import run
from anyir.passes.manager import Context, run_pipeline

CHANNELS = 16


def net(act: str = "relu", scale: float = 1.0) -> Module:
    """Three convolutions, a skip, a pool and a dense layer."""
    rng = np.random.default_rng(11)
    module = Module()
    graph = module.add_graph("main")
    b = Builder(graph)
    x = graph.add_input(TensorType(F32, (sym("N"), 3, 12, 12)), "x")

    def conv(value: Value, key: str, inputs: int) -> Value:
        w = (rng.standard_normal((CHANNELS, inputs, 3, 3)) / np.sqrt(9 * inputs)).astype(np.float32)
        bias = rng.standard_normal(CHANNELS).astype(np.float32) / 4
        made = b.conv(
            value, b.const(w, key=key, role="param"), b.const(bias, key=f"{key}.bias", role="param"), pads=(1,) * 4
        )
        return b.call(act, (made,)).result

    first = conv(x, "first", 3)
    second = conv(first, "second", CHANNELS)
    third = conv(b.add(first, second), "third", CHANNELS)
    flat = b.reshape(b.global_average_pool(third), (-1, CHANNELS))
    w = rng.standard_normal((CHANNELS, 20)).astype(np.float32) * np.float32(scale)
    y = b.gemm(
        flat, b.const(w, key="dense", role="param"), b.const(np.ones(20, np.float32), key="dense.bias", role="param")
    )
    graph.set_outputs((y,))
    module.add_signature("s", graph, ["x"], ["y"])
    verify(module)
    return module


def images(count: int = 24, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3, 12, 12)).astype(np.float32)


def quantised(module: Module, data: np.ndarray | None = None, **options) -> tuple[Module, Context]:
    from anyir.passes.pipeline import Step

    made = module.clone()
    feeds = None if data is None else open_data({"x": data}, made)
    ctx = Context(data=feeds)
    run_pipeline(made, [Step("quantize", options)], ctx)
    verify(made)
    return made, ctx


def sqnr(module: Module, made: Module, data: np.ndarray) -> float:
    wanted, found = (run(m, {"x": data})["y"].astype(np.float64) for m in (module, made))
    return float(10 * np.log10((wanted**2).sum() / ((wanted - found) ** 2).sum()))


def weight_bytes(module: Module) -> int:
    return sum(w.nbytes for w in module.used_weights())


#: For uniform rounding errors about 6 dB a bit is lost to ranges, and noise adds up over layers: far below what is reached.
@pytest.mark.parametrize(
    ("options", "least"),
    [
        ({}, 30),
        ({"observer": "minmax"}, 28),
        ({"observer": "percentile"}, 25),
        ({"observer": "entropy"}, 20),
        ({"observer": "mse"}, 28),
        ({"activations": "uint8"}, 30),
        ({"symmetric": True}, 28),
        ({"per": "tensor"}, 28),
        ({"correct": False}, 28),
        ({"activations": "int16"}, 38),
        ({"activations": "dynamic"}, 28),
        ({"activations": "none"}, 38),
        ({"activations": "none", "weights": "int4", "per": "block:4"}, 15),
        ({"activations": "none", "weights": "float16"}, 60),
    ],
    ids=lambda item: ",".join(f"{k}={v}" for k, v in item.items()) if isinstance(item, dict) else "",
)
@pytest.mark.parametrize("act", ["relu", "hard_swish"])
def test_numbers_stay_close(options: dict, least: float, act: str) -> None:
    module = net(act)
    made, ctx = quantised(module, images(), **options)
    assert sqnr(module, made, images(16, seed=1)) > least
    assert [row["layer"] for row in ctx.records] == ["first", "second", "third", "dense"]
    assert all(row["bytes_after"] < row["bytes_before"] for row in ctx.records)


def test_every_product_is_in_integers_and_weights_take_a_quarter() -> None:
    module = net()
    made, _ = quantised(module, images())
    for node in made.main.nodes("conv", "gemm"):
        assert [v.node.operands[0].dtype.name for v in node.operands] == ["i8", "i8", "i32"]
    large = {w.key: w.nbytes for w in module.used_weights() if w.nbytes > 1000}
    assert all(made.weights[key].nbytes * 4 == size for key, size in large.items())


def test_the_same_twice() -> None:
    first, second = (quantised(net(), images())[0] for _ in range(2))
    assert str(first) == str(second)


@pytest.mark.parametrize("weights", ["float16", "int8", "int4"])
def test_folding_constants_does_not_undo_it(weights: str) -> None:
    made, _ = quantised(net(), activations="none", weights=weights)
    before = weight_bytes(made)
    run_pipeline(made, "fold,cse,dce,canonicalize")
    assert weight_bytes(made) == before


def test_blocks_run_along_the_summed_axis() -> None:
    made, _ = quantised(net(), activations="none", weights="int4", per="block:8")
    dense = next(iter(made.main.nodes("gemm"))).operands[1].node
    assert dense.operands[0].dtype.name == "i4"
    assert dense.operands[1].shape == (CHANNELS // 8, 20)
    conv = next(iter(made.main.nodes("conv"))).operands[1].node
    assert conv.operands[1].shape == (CHANNELS, 1, 1, 1)


def test_dynamic_activations_are_read_from_their_own_range() -> None:
    made, _ = quantised(net(), activations="dynamic")
    for node in made.main.nodes("conv", "gemm"):
        data = node.operands[0].node
        assert (data.name, data.operands[0].node.name) == ("dequantize", "dynamic_quantize")
    users = list(made.main.nodes("dynamic_quantize"))
    assert len({n.operands[0] for n in users}) == len(users)


def test_tables_and_recurrent_weights_are_stored_as_integers() -> None:
    rng = np.random.default_rng(0)
    module = Module()
    graph = module.add_graph("main")
    b = Builder(graph)
    ids = graph.add_input(TensorType(I64, (5, 2)), "x")
    table = b.const(rng.standard_normal((40, 16)).astype(np.float32), key="table", role="param")
    inner = {key: rng.standard_normal((1, 32, size)).astype(np.float32) / 4 for key, size in (("w", 16), ("r", 8))}
    w, r = (b.const(array, key=key, role="param") for key, array in inner.items())
    y, _, _ = b.lstm(b.gather(table, ids, axis=0), w, r, hidden_size=8)
    graph.set_outputs((y,))
    module.add_signature("s", graph, ["x"], ["y"])
    data = rng.integers(0, 40, (5, 2))
    made = module.clone()
    run_pipeline(made, "quantize", Context(data=Raw(data)))
    assert [str(made.weights[k].type.dtype) for k in ("table", "w", "r")] == ["i8"] * 3
    assert sqnr(module, made, data) > 25


def test_overrides_are_taken_in_order_the_last_first() -> None:
    rules = {"op=conv": "int16", "name=second": "float"}
    made, _ = quantised(net(), images(), overrides=rules)
    read = {}
    for node in made.main.nodes("conv", "gemm"):
        source = node.operands[1]
        read[(source if source.is_const else source.node.operands[0]).weight.wanted] = (
            None if source.is_const else str(node.operands[0].node.operands[0].dtype)
        )
    assert read == {"first": "i16", "second": None, "third": "i16", "dense": "i8"}
    text, _ = quantised(net(), images(), overrides="op=conv: int16; name=second: float")
    assert str(text) == str(made)


def test_where_leaves_the_others_in_floats() -> None:
    made, _ = quantised(net(), images(), where="name=third")
    kinds = [node.operands[1].is_const for node in made.main.nodes("conv", "gemm")]
    assert kinds == [True, True, False, True]


@pytest.mark.parametrize("keep_as", ["float", "int16"])
def test_the_worst_layers_are_kept(keep_as: str) -> None:
    module = net()
    weight = module.weights["second"]
    array = weight.tensor.numpy().copy()
    array[0] *= 300  # one channel that takes all of its layer's range
    module.set_weight(weight, array)
    plain, _ = quantised(module, images(), correct=False, observer="minmax")
    made, ctx = quantised(module, images(), keep=2, keep_as=keep_as, correct=False, observer="minmax")
    assert ctx.notes[0].startswith(f"quantize: kept in {keep_as}: ")
    assert sqnr(module, made, images(8, 1)) > sqnr(module, plain, images(8, 1)) + 1
    ranked = [row["sqnr"] for row in ctx.records if "sqnr" in row]
    assert ranked == sorted(ranked)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "int7"}, "weights is one of: int8, int4, float16"),
        ({"activations": "int4"}, "activations is one of"),
        ({"observer": "best"}, "observer is one of"),
        ({"per": "block:0"}, "per is channel, tensor, or block:32"),
        ({"weights": "float16"}, "float16 weights go with activations=none"),
        ({"weights": "int4"}, "go with activations=none or activations=dynamic"),
        ({"per": "block:8"}, "go with activations=none or activations=dynamic"),
        ({"keep": -1}, "expected 0 or more"),
        ({"io": "uint8"}, "io=uint8 goes with activations=uint8"),
        ({"overrides": {"op=conv": "int3"}}, "an override is one of"),
        ({"overrides": 3}, "expected expressions and precisions"),
        ({"where": "name=nobody"}, "fits no layer"),
        ({"overrides": {"nme=x": "float"}}, "expected a key"),
    ],
)
def test_options_that_make_no_sense(options: dict, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        quantised(net(), images(), **options)
    assert message in str(caught.value)


def test_data_is_asked_for() -> None:
    with pytest.raises(UsageError, match="needs calibration data") as caught:
        quantised(net())
    assert caught.value.code == "R024"
    assert "dynamic" in caught.value.hint


class Nothing:
    count = 0
    digest = ""

    def batches(self):
        return iter(())


def test_empty_data_is_refused() -> None:
    with pytest.raises(UsageError, match="the given data is empty"):
        run_pipeline(net(), "quantize", Context(data=Nothing()))


class Raw:
    """Arrays as they are: what a user's own feeds may give."""

    count = 4
    digest = "raw"

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def batches(self):
        yield {"x": self.array}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_data_that_is_not_finite_is_refused_by_the_value_it_reaches(bad: float) -> None:
    array = images(4)
    array[1, 2, 3, 4] = bad
    with pytest.raises(InvalidData, match="NaN or infinite") as caught:
        run_pipeline(net(), "quantize", Context(data=Raw(array)))
    assert "%x" in str(caught.value)


@pytest.mark.parametrize("shape", [(4, 2, 12, 12), (4, 3, 12)])
def test_data_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="the model wants"):
        run_pipeline(net(), "quantize", Context(data=Raw(np.zeros(shape, np.float32))))


def test_all_zero_data_gives_a_model_that_is_right_on_zeros() -> None:
    module = net()
    made, _ = quantised(module, np.zeros((4, 3, 12, 12), np.float32))
    assert np.isfinite(run(made, {"x": images(2)})["y"]).all()
    assert sqnr(module, made, np.zeros((2, 3, 12, 12), np.float32)) > 30


def test_dead_channels_keep_their_bias() -> None:
    """Channels of zero weights carry a constant: the bias must not be rounded with a step of 1."""
    module = net()
    for key in ("first", "second"):
        array = module.weights[key].tensor.numpy().copy()
        array[:5] = 0
        array[5] = 1e-12
        module.set_weight(module.weights[key], array)
    made, _ = quantised(module, images(), correct=False)
    assert sqnr(module, made, images(8, 1)) > 28


def test_nothing_of_a_reference_is_changed() -> None:
    module = net()
    before = str(module)
    quantised(module, images())
    assert str(module) == before


def test_products_in_regions_get_integer_weights() -> None:
    rng = np.random.default_rng(0)
    module = Module()
    graph = module.add_graph("main")
    b = Builder(graph)
    x = graph.add_input(TensorType(F32, (4, 24)), "x")
    regions = []
    for key in ("then", "else"):
        region = module.new_region(key)
        inner = region.add_input(TensorType(F32, (4, 24)), "v")
        w = b.const(rng.standard_normal((24, 24)).astype(np.float32), key=key, role="param")
        region.set_outputs((Builder(region).matmul(inner, w),))
        regions.append(region)
    condition = b.greater(b.reduce_sum(x, (0, 1), keepdims=False), np.float32(0))
    graph.set_outputs((b.call("if", (condition, x), regions=tuple(regions)).results[0],))
    module.add_signature("s", graph, ["x"], ["y"])
    verify(module)
    data = rng.standard_normal((4, 24)).astype(np.float32)
    made = module.clone()
    run_pipeline(made, "quantize", Context(data=Raw(data)))
    verify(made)
    assert [str(made.weights[key].type.dtype) for key in ("then", "else")] == ["i8", "i8"]
    assert sqnr(module, made, data) > 35
