"""com.microsoft: fused products, GELU variants, norms and embeddings, judged by onnxruntime running the original."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnxruntime")

from anyir.formats.onnx import microsoft
from anyir.frontends import onnx as frontend
from anyir.ir.errors import InvalidModel
from anyir.kernels.run import run
from anyir.tests.support.onnx_nodes import FLOAT, HALF, INT32, carried, judge, one_node

RNG = np.random.default_rng(5)
DYNAMIC = pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def half(*shape: int) -> np.ndarray:
    return normal(*shape).astype(np.float16)


def test_the_table_says_what_onnxruntime_says() -> None:
    """Every record against the schema that the installed onnxruntime registers."""
    import onnx
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    codes = {"FLOAT": 1, "INT": 2, "STRING": 3, "FLOATS": 6, "INTS": 7, "STRINGS": 8}
    theirs = {(s.domain, s.name): s for s in state.get_all_operator_schema() if s.since_version == 1}
    compared = 0
    for key, ours in microsoft.table().items():
        if key not in theirs:
            continue
        schema = theirs[key]
        allowed = {c.type_param_str: frozenset(c.allowed_type_strs) for c in schema.type_constraints}
        for formals, records in ((schema.inputs, ours.inputs), (schema.outputs, ours.outputs)):
            for formal, record in zip(formals, records, strict=True):
                option = str(formal.option).rpartition(".")[2]
                assert record.types == allowed.get(formal.typeStr, frozenset({formal.typeStr})), (key, formal.name)
                assert (record.optional, record.variadic) == (option == "Optional", option == "Variadic")
        bounds = (schema.min_input, schema.max_input, schema.min_output, schema.max_output)
        assert bounds == (*ours.arity, *ours.results), key
        assert set(schema.attributes) == set(ours.attributes), key
        for name, attribute in schema.attributes.items():
            record = ours.attributes[name]
            assert (codes[str(attribute.type).rpartition(".")[2]], attribute.required) == (record.type, record.required)
            proto = onnx.AttributeProto.FromString(attribute._default_value)
            default = onnx.helper.get_attribute_value(proto) if proto.type else None
            assert (default.decode() if isinstance(default, bytes) else default) == record.default, (key, name)
        compared += 1
    assert compared == len(microsoft.table()) - 1  # theirs has SimplifiedLayerNormalization in the default domain only


@DYNAMIC
@pytest.mark.parametrize(
    ("activation", "params"),
    [
        ("", ()),
        ("Relu", ()),
        ("Sigmoid", ()),
        ("Tanh", ()),
        ("LeakyRelu", (0.2,)),
        ("Clip", (-0.5, 0.7)),
        ("HardSigmoid", (0.3, 0.4)),
    ],
)
def test_fused_conv(activation, params, dynamic) -> None:
    inputs = {"X": normal(2, 4, 7, 6), "W": normal(6, 2, 3, 3), "B": normal(6), "Z": normal(2, 6, 7, 6)}
    attributes = {"group": 2, "pads": [1, 1, 1, 1]} | ({"activation": activation} if activation else {})
    attributes |= {"activation_params": params} if params else {}
    judge(*one_node("FusedConv", inputs, {"Y": FLOAT}, const=("W", "B"), dynamic=dynamic, **attributes))


def test_fused_conv_without_bias_or_sum() -> None:
    inputs = {"X": normal(1, 3, 8), "W": normal(2, 3, 3)}
    judge(*one_node("FusedConv", inputs, {"Y": FLOAT}, activation="Relu", auto_pad="SAME_UPPER", strides=[2]))


@pytest.mark.parametrize(
    ("activation", "params"),
    [
        ("Relu", {}),
        ("Sigmoid", {}),
        ("Tanh", {}),
        ("Softplus", {}),
        ("Softsign", {}),
        ("LeakyRelu", {"alpha": 0.2}),
        ("Elu", {"alpha": 0.7}),
        ("Celu", {"alpha": 1.3}),
        ("Selu", {"alpha": 1.5, "gamma": 1.1}),
        ("ThresholdedRelu", {"alpha": 0.7}),
        ("HardSigmoid", {"alpha": 0.3, "beta": 0.4}),
    ],
)
def test_fused_gemm(activation, params) -> None:
    inputs = {"A": normal(4, 3), "B": normal(5, 4), "C": normal(5)}
    attributes = {f"activation_{key}": value for key, value in params.items()}
    attributes |= {"activation": activation, "alpha": 0.7, "beta": 1.3, "transA": 1, "transB": 1}
    judge(*one_node("FusedGemm", inputs, {"Y": FLOAT}, **attributes))


@DYNAMIC
@pytest.mark.parametrize("flags", range(16))
def test_fused_matmul(flags: int, dynamic: bool) -> None:
    """All combinations of the four transpositions; the operands say [2, 3, 4, 5] times [2, 3, 5, 6]."""
    names = ("transA", "transB", "transBatchA", "transBatchB")
    chosen = {name: flags >> i & 1 for i, name in enumerate(names)}
    operands = {}
    for letter, array in (("A", normal(2, 3, 4, 5)), ("B", normal(2, 3, 5, 6))):
        stored = array.swapaxes(-1, -2) if chosen[f"trans{letter}"] else array
        stored = np.moveaxis(stored, -2, 0) if chosen[f"transBatch{letter}"] else stored
        operands[letter] = np.ascontiguousarray(stored)
    judge(*one_node("FusedMatMul", operands, {"Y": FLOAT}, dynamic=dynamic, alpha=0.5, **chosen))


def test_fused_matmul_of_a_vector() -> None:
    judge(*one_node("FusedMatMul", {"A": normal(4), "B": normal(4, 5)}, {"Y": FLOAT}, transA=1))


@DYNAMIC
@pytest.mark.parametrize(
    ("op_type", "inputs", "attributes"),
    [
        ("Gelu", (normal(3, 40),), {}),
        ("BiasGelu", (normal(2, 3, 4), normal(4)), {}),
        ("FastGelu", (normal(3, 40),), {}),
        ("FastGelu", (normal(2, 3, 4), normal(4)), {}),
        ("QuickGelu", (normal(3, 40),), {}),
        ("QuickGelu", (normal(3, 40),), {"alpha": 0.9}),
    ],
)
def test_gelu_variants(op_type, inputs, attributes, dynamic) -> None:
    named = dict(zip("XB", inputs, strict=False))
    judge(*one_node(op_type, named, {"Y": FLOAT}, dynamic=dynamic, **attributes))


@DYNAMIC
@pytest.mark.parametrize("skip", [(2, 3, 8), (1, 3, 8), (3, 8)])
@pytest.mark.parametrize("op_type", ["SkipLayerNormalization", "SkipSimplifiedLayerNormalization"])
def test_skip_norms(op_type, skip, dynamic) -> None:
    inputs = {"input": normal(2, 3, 8), "skip": normal(*skip), "gamma": normal(8)}
    inputs |= {"beta": normal(8)} if op_type == "SkipLayerNormalization" else {}
    outputs = {"Y": FLOAT, "mean": None, "deviation": None, "sum": FLOAT}
    judge(*one_node(op_type, inputs | {"bias": normal(8)}, outputs, dynamic=dynamic, epsilon=1e-5))


def test_skip_norms_of_halves_and_bare() -> None:
    halves = {"input": half(2, 3, 8), "skip": half(2, 3, 8), "gamma": half(8), "beta": half(8)}
    judge(*one_node("SkipLayerNormalization", halves, {"Y": HALF}))
    judge(*one_node("SkipSimplifiedLayerNormalization", dict(list(halves.items())[:3]), {"Y": HALF}))


def test_training_outputs_are_carried_through() -> None:
    inputs = {"input": normal(2, 3, 8), "skip": normal(2, 3, 8), "gamma": normal(8)}
    model, _ = one_node("SkipLayerNormalization", inputs, {"Y": FLOAT, "mean": FLOAT})
    carried(model, "mean")


@DYNAMIC
@pytest.mark.parametrize("kind", ["float", "half", "mixed"])
def test_simplified_layer_normalization(kind, dynamic) -> None:
    """In the default domain, where onnxruntime's optimiser puts it, though no opset of ONNX has it."""
    x = normal(2, 3, 8) if kind == "float" else half(2, 3, 8)
    scale = half(8) if kind == "half" else normal(8)
    outputs = {"Y": HALF if kind == "half" else FLOAT} | ({"inverse": FLOAT} if kind == "float" else {})
    judge(*one_node("SimplifiedLayerNormalization", {"X": x, "S": scale}, outputs, domain="", dynamic=dynamic))


def test_layer_normalization_before_opset_17() -> None:
    inputs = {"X": normal(2, 3, 8), "S": normal(8), "B": normal(8)}
    judge(*one_node("LayerNormalization", inputs, {"Y": FLOAT}, domain="", opset=13))


@pytest.mark.parametrize("kind", ["all", "bare", "positions", "half"])
def test_embed_layer_normalization(kind) -> None:
    make = half if kind == "half" else normal
    ids, segments = (RNG.integers(0, high, (2, 5)).astype(np.int32) for high in (9, 2))
    inputs = {"ids": ids, "segments": None, "words": make(9, 8), "places": make(6, 8), "table": None}
    inputs |= {"gamma": make(8), "beta": make(8), "mask": None}
    if kind in ("all", "half"):
        inputs |= {"segments": segments, "table": make(2, 8), "mask": (RNG.random((2, 5)) > 0.3).astype(np.int32)}
    if kind == "positions":
        inputs |= {"position_ids": RNG.integers(0, 6, (1, 5)).astype(np.int32)}
    code = HALF if kind == "half" else FLOAT
    outputs = {"Y": code, "count": INT32} | ({"sum": code} if kind == "all" else {})
    judge(*one_node("EmbedLayerNormalization", inputs, outputs))


ANGLES = RNG.uniform(0, 6, (12, 4)).astype(np.float32)


@DYNAMIC
@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize(
    ("shape", "places", "attributes"),
    [
        ((2, 3, 24), (2, 3), {}),
        ((2, 3, 24), 4, {}),
        ((2, 3, 5, 8), (2, 5), {}),
        ((2, 3, 36), (2, 3), {"num_heads": 3, "rotary_embedding_dim": 8}),
    ],
)
def test_rotary_embedding(shape, places, attributes, interleaved, dynamic) -> None:
    ids = np.array([places]) if isinstance(places, int) else RNG.integers(0, 12, places)
    inputs = {"x": normal(*shape), "ids": ids, "cos": np.cos(ANGLES), "sin": np.sin(ANGLES)}
    if dynamic and len(shape) == 3:
        attributes = {"num_heads": 3, "rotary_embedding_dim": 8} if shape[2] == 36 else {"num_heads": 3}
    model, feeds = one_node(
        "RotaryEmbedding",
        inputs,
        {"Y": FLOAT},
        const=("cos", "sin"),
        dynamic=dynamic,
        interleaved=interleaved,
        **attributes,
    )
    judge(model, feeds)


def test_what_a_table_does_not_hold_stays_opaque() -> None:
    """Other operators of the domain, and operators of it in domains of one's own, go through untouched."""
    model, _ = one_node("Inverse", {"X": normal(3, 3)}, {"Y": FLOAT})
    module = frontend.read(model)
    (node,) = module.signature.graph.nodes("opaque")
    assert (node.attr("domain"), node.attr("op_type")) == ("com.microsoft", "Inverse")


@pytest.mark.parametrize(
    ("op_type", "inputs", "attributes", "reason"),
    [
        ("FusedMatMul", {"A": normal(2, 2)}, {}, "1 inputs .com.microsoft::FusedMatMul-1 takes 2 to 2"),
        ("Gelu", {"A": normal(2, 2)}, {"approximate": "tanh"}, "has no attribute 'approximate'"),
        ("QuickGelu", {"A": normal(2, 2)}, {"alpha": 1}, "attribute 'alpha' is of type 'i', expected 'f'"),
        (
            "QLinearConcat",
            {"A": normal(), "B": np.uint8(1), "C": np.ones(2, np.uint8)},
            {},
            "required attribute 'axis'",
        ),
        ("FusedConv", {"X": normal(1, 1, 3), "W": normal(1, 1, 1)}, {"activation": "LeakyRelu"}, "activation_params"),
        ("FusedGemm", {"A": normal(2, 2), "B": normal(2, 2)}, {"activation": "Elu"}, "no parameter alpha"),
    ],
)
def test_what_the_table_refuses(op_type, inputs, attributes, reason) -> None:
    model, _ = one_node(op_type, inputs, {"Y": FLOAT}, **attributes)
    with pytest.raises(InvalidModel, match=reason):
        frontend.read(model)


@pytest.mark.parametrize(
    ("op_type", "inputs", "attributes", "reason"),
    [
        ("FusedGemm", {"A": normal(2, 2), "B": normal(2, 2)}, {"activation": "Gelu"}, "activation 'Gelu' is not known"),
        (
            "RotaryEmbedding",
            {"x": normal(1, 2, 4), "p": np.array([0]), "c": normal(3, 2), "s": normal(3, 2)},
            {"is_packed_batching": 1},
            "is_packed_batching",
        ),
        (
            "RotaryEmbedding",
            {"x": normal(1, 2, 4), "p": np.array([0]), "c": normal(3, 2), "s": normal(3, 2)},
            {"scale": 2.0},
            "scale = 2.0",
        ),
    ],
)
def test_what_is_carried_through_with_a_reason(op_type, inputs, attributes, reason) -> None:
    model, _ = one_node(op_type, inputs, {"Y": FLOAT}, **attributes)
    carried(model, reason)


def test_half_gelu_runs() -> None:
    """onnxruntime's CPU has few half kernels of the domain; the formula in float64 is the judge."""
    x = half(3, 40)
    model, feeds = one_node("QuickGelu", {"X": x}, {"Y": HALF})
    (found,) = run(frontend.read(model), feeds).values()
    wide = x.astype(np.float64)
    np.testing.assert_array_equal(
        found, (wide / (1 + np.exp(-np.float64(np.float32(1.702)) * wide))).astype(np.float16)
    )
