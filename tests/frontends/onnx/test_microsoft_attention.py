"""com.microsoft: Attention, MultiHeadAttention and GroupQueryAttention, judged by onnxruntime running the original.

What onnxruntime's CPU kernels lack (packed forms, norms of queries and keys) is judged by the same operator on operands
that are taken apart, or treated, by numpy.
"""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnxruntime")

from anyir.frontends import onnx as frontend
from anyir.ir.errors import InvalidModel
from anyir.kernels.run import run
from anyir.runtimes import onnxruntime as ort
from anyir.tests.support.onnx_nodes import FLOAT, carried, explained, judge, one_node

RNG = np.random.default_rng(11)
DYNAMIC = pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
CAUSAL = pytest.mark.parametrize("causal", [0, 1])
B, S, N, H = 2, 4, 3, 8
D = N * H


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def integers(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def padding(*shape: int) -> np.ndarray:
    """A mask that leaves every sample, and every query, a key it may see."""
    mask = (RNG.random(shape) > 0.3).astype(np.int32)
    mask[..., 0] = 1
    return mask


#: What comes behind input, weights and bias: mask, past, attention_bias; and attributes.
ATTENTION = {
    "plain": ({}, {}),
    "keys": ({"mask": padding(B, S)}, {}),
    "left padding": ({"mask": np.array([[0, 0, 1, 1], [1, 1, 1, 1]], np.int32)}, {}),
    "keys of queries": ({"mask": padding(B, S, S)}, {}),
    "ends": ({"mask": integers(3, 2)}, {}),
    "ends and starts": ({"mask": integers(4, 3, 1, 0)}, {}),
    "bias": ({"mask": None, "past": None, "added": normal(1, N, S, S)}, {}),
    "mask and bias": ({"mask": padding(B, S), "past": None, "added": normal(B, 1, S, S)}, {}),
    "past": ({"mask": None, "past": normal(2, B, N, 5, H)}, {}),
    "past and mask": ({"mask": padding(B, S + 5), "past": normal(2, B, N, 5, H)}, {}),
    "scale": ({}, {"scale": 0.2}),
    "soft mask": ({"mask": padding(B, S)}, {"mask_filter_value": -2.0}),
}


@DYNAMIC
@CAUSAL
@pytest.mark.parametrize("case", ATTENTION)
def test_attention(case, causal, dynamic) -> None:
    more, attributes = ATTENTION[case]
    inputs = {"x": normal(B, S, 10), "w": normal(10, 3 * D), "b": normal(3 * D), **more}
    outputs = {"Y": FLOAT, "present": FLOAT if "past" in case or case == "plain" else None}
    judge(
        *one_node(
            "Attention",
            inputs,
            outputs,
            const=("w", "b"),
            dynamic=dynamic,
            num_heads=N,
            unidirectional=causal,
            **attributes,
        )
    )


def test_attention_with_values_of_another_size() -> None:
    inputs = {"x": normal(B, S, 10), "w": normal(10, 2 * D + N * 5), "b": normal(2 * D + N * 5)}
    judge(*one_node("Attention", inputs, {"Y": FLOAT}, num_heads=N, qkv_hidden_sizes=[D, D, N * 5]))


#: Queries, keys, values; what comes behind them; attributes. Keys may be more than queries.
MULTI_HEAD = {
    "cross": ((B, S, D), (B, 6, D), (B, 6, N * 5), {}),
    "one query": ((B, 1, D), (B, 6, D), (B, 6, N * 5), {}),
    "biases": ((B, S, D), (B, 6, D), (B, 6, N * 5), {"bias": normal(2 * D + N * 5)}),
    "keys": ((B, S, D), (B, 6, D), (B, 6, D), {"bias": None, "mask": padding(B, 6)}),
    "ends": ((B, S, D), (B, 6, D), (B, 6, D), {"bias": None, "mask": integers(3, 6)}),
    "ends and offsets": ((B, S, D), (B, 6, D), (B, 6, D), {"bias": None, "mask": integers(3, 6, 0, 4, 8, 0, 6, 12)}),
    "keys of queries": ((B, S, D), (B, 6, D), (B, 6, D), {"bias": None, "mask": padding(B, S, 6)}),
    "added": ((B, S, D), (B, 6, D), (B, 6, D), {"bias": None, "mask": integers(3, 6), "added": normal(1, N, S, 6)}),
    "past": (
        (B, S, D),
        (B, S, D),
        (B, S, D),
        {
            "bias": normal(3 * D),
            "mask": None,
            "added": None,
            "past_k": normal(B, N, 3, H),
            "past_v": normal(B, N, 3, H),
        },
    ),
    "past and mask": (
        (B, S, D),
        (B, S, D),
        (B, S, D),
        {
            "bias": None,
            "mask": padding(B, S + 3),
            "added": None,
            "past_k": normal(B, N, 3, H),
            "past_v": normal(B, N, 3, H),
        },
    ),
    "heads of keys": ((B, S, D), (B, N, 7, H), (B, N, 7, H), {}),
}


@DYNAMIC
@CAUSAL
@pytest.mark.parametrize("case", MULTI_HEAD)
def test_multi_head_attention(case, causal, dynamic) -> None:
    """A bias says how wide queries, keys and values are; without one nobody needs to know."""
    q, k, v, more = MULTI_HEAD[case]
    inputs = {"q": normal(*q), "k": normal(*k), "v": normal(*v), **more}
    outputs = {"Y": FLOAT, "present_k": None, "present_v": None}
    if "past" in case or case == "biases":  # onnxruntime leaves the past out where nobody wants the present
        outputs = dict.fromkeys(outputs, FLOAT)
    attributes = {"num_heads": N, "unidirectional": causal, "scale": 0.3}
    judge(*one_node("MultiHeadAttention", inputs, outputs, dynamic=dynamic and more.get("bias") is None, **attributes))


@CAUSAL
def test_scores_as_an_output(causal) -> None:
    inputs = {"q": normal(B, S, D), "k": normal(B, 6, D), "v": normal(B, 6, D), "b": None, "mask": integers(3, 6)}
    outputs = {"Y": FLOAT, "present_k": None, "present_v": None, "qk": FLOAT}
    judge(*one_node("MultiHeadAttention", inputs, outputs, num_heads=N, unidirectional=causal))


@pytest.mark.parametrize("packed", [2, 3])
def test_packed_operands(packed) -> None:
    """onnxruntime's CPU kernel refuses packed operands; unpacked ones it takes."""
    q, k, v = (normal(B, S, N, H) for _ in range(3))
    flat = [t.reshape(B, S, D) for t in (q, k, v)]
    whole = np.stack((q, k, v)[3 - packed :], axis=3)
    inputs = {"q": whole} if packed == 3 else {"q": flat[0], "k": whole}
    model, feeds = one_node("MultiHeadAttention", inputs, {"Y": FLOAT}, num_heads=N)
    plain, operands = one_node("MultiHeadAttention", dict(zip("qkv", flat, strict=True)), {"Y": FLOAT}, num_heads=N)
    module = frontend.read(model)
    found = run(module, feeds)
    explained(module, feeds, found)(ort.run(plain.SerializeToString(), operands), found)


HEADS, SHARED, SIZE = 4, 2, 16
TABLE = RNG.uniform(0, 6, (32, SIZE // 2)).astype(np.float32)


def group_query(queries: int, past: int | None, lens: tuple[int, ...], total: int, **options) -> tuple:
    """The operands of one call; `options` are attributes, and packed, rotary, added, sink."""
    batch = len(lens)
    widths = (HEADS * SIZE, SHARED * SIZE, SHARED * SIZE)
    parts = [normal(batch, queries, w) for w in widths]
    if options.pop("packed", False):
        parts = [np.concatenate(parts, axis=2), None, None]
    inputs = dict(zip(("query", "key", "value"), parts, strict=True))
    for name in ("past_key", "past_value"):
        inputs[name] = None if past is None else normal(batch, SHARED, past, SIZE)
    inputs |= {"seqlens": integers(*(n - 1 for n in lens)), "total": np.array(total, np.int32)}
    rotary = options.pop("rotary", False)
    inputs |= {"cos": np.cos(TABLE) if rotary else None, "sin": np.sin(TABLE) if rotary else None, "ids": None}
    inputs |= {"added": options.pop("added", None), "sink": normal(HEADS) if options.pop("sink", False) else None}
    attributes = {"num_heads": HEADS, "kv_num_heads": SHARED, **options} | ({"do_rotary": 1} if rotary else {})
    return inputs, attributes


#: Queries, size of the cache, valid keys per sample, total length, options.
GROUP_QUERY = {
    "prompt": (5, None, (5, 5), 5, {}),
    "padded prompt": (5, None, (5, 3), 5, {"rotary": True}),
    "empty cache": (5, 0, (5, 5), 5, {}),
    "prompt into a buffer": (5, 8, (5, 4), 5, {"rotary": True}),
    "token": (1, 6, (7, 7), 7, {"rotary": True}),
    "tokens at different places": (1, 6, (7, 4), 7, {"rotary": True}),
    "token into a buffer": (1, 9, (7, 4), 7, {"rotary": True}),
    "chunk": (3, 6, (9,), 9, {"rotary": True}),
    "packed": (5, 0, (5, 5), 5, {"packed": True, "rotary": True}),
    "packed, interleaved": (1, 6, (7, 5), 7, {"packed": True, "rotary": True, "rotary_interleaved": 1}),
    "window": (5, 6, (11,), 11, {"local_window_size": 3}),
    "window over a padded prompt": (6, None, (6, 4), 6, {"local_window_size": 2}),
    "softcap": (5, 6, (11,), 11, {"softcap": 1.5, "scale": 0.3}),
    "bias": (5, 6, (11,), 11, {"added": normal(1, HEADS, 5, 11)}),
    "bias for a token in a buffer": (1, 9, (7, 5), 7, {"added": normal(2, 1, 1, 7)}),
    "smooth softmax": (5, 6, (11,), 11, {"smooth_softmax": 1}),
    "smooth softmax under a cap": (5, 6, (11,), 11, {"smooth_softmax": 1, "softcap": 1.5}),
    "sink": (5, 6, (11,), 11, {"sink": True}),
    "sink, bias and window": (5, 6, (11,), 11, {"sink": True, "added": normal(1, 1, 5, 11), "local_window_size": 4}),
}


@pytest.mark.parametrize(
    ("case", "dynamic"),
    [(case, dynamic) for case in GROUP_QUERY for dynamic in (False, True) if not (dynamic and "packed" in case)],
)
def test_group_query_attention(case, dynamic) -> None:
    """To take a packed query apart its width must be known."""
    queries, past, lens, total, options = GROUP_QUERY[case]
    inputs, attributes = group_query(queries, past, lens, total, **options)
    outputs = dict.fromkeys(("Y", "present_key", "present_value"), FLOAT)
    judge(
        *one_node(
            "GroupQueryAttention",
            inputs,
            outputs,
            const=("cos", "sin", "sink"),
            dynamic=dynamic,
            opset=21,
            **attributes,
        )
    )


def test_norms_of_queries_and_keys() -> None:
    """Each head is normalised before it is rotated; onnxruntime gets heads that numpy normalised."""
    inputs, attributes = group_query(5, 6, (11,), 11, rotary=True)
    weights = {"k_scale": None, "v_scale": None, "q_norm": normal(SIZE), "k_norm": normal(SIZE)}
    attributes |= {"qk_norm_epsilon": 1e-3}
    model, feeds = one_node("GroupQueryAttention", inputs | weights, {"Y": FLOAT}, **attributes)
    module = frontend.read(model)
    found = run(module, feeds)
    treated = dict(inputs)
    for name, weight in (("query", weights["q_norm"]), ("key", weights["k_norm"])):
        heads = inputs[name].astype(np.float64).reshape(1, 5, -1, SIZE)
        size = np.sqrt((heads**2).mean(axis=-1, keepdims=True) + np.float64(np.float32(1e-3)))
        treated[name] = (heads / size * weight).reshape(inputs[name].shape).astype(np.float32)
    del attributes["qk_norm_epsilon"]
    plain, operands = one_node("GroupQueryAttention", treated, {"Y": FLOAT, "k": FLOAT, "v": FLOAT}, **attributes)
    wanted = ort.run(plain.SerializeToString(), operands)
    explained(module, feeds, found)({"Y": wanted["Y"]}, found)


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"k_quant_type": "PER_TENSOR"}, "k_quant_type = PER_TENSOR .a quantised cache"),
        ({"sliding_window_cache": 1}, "sliding_window_cache = 1"),
        ({"causal": 0}, "causal = 0"),
        ({"qk_output": 1}, "qk_output = 1"),
    ],
)
def test_what_group_query_attention_carries_through(attributes, reason) -> None:
    inputs, own = group_query(1, 6, (7,), 7)
    model, _ = one_node("GroupQueryAttention", inputs, {"Y": FLOAT}, **own, **attributes)
    carried(model, reason)


def test_what_attention_carries_through() -> None:
    inputs = {"x": normal(B, S, 10), "w": normal(10, 3 * D)}
    for name in ("do_rotary", "past_present_share_buffer"):
        model, _ = one_node("Attention", inputs, {"Y": FLOAT}, num_heads=N, attributes={name: 1})
        carried(model, f"{name} = 1")
    mask = {"bias": None, "mask": np.ones((B, 1, S, S), np.int32)}
    carried(one_node("Attention", inputs | mask, {"Y": FLOAT}, num_heads=N)[0], "rank 4")
    with pytest.raises(InvalidModel, match="qkv_hidden_sizes"):
        frontend.read(one_node("Attention", inputs, {"Y": FLOAT}, num_heads=N, qkv_hidden_sizes=[D, 2 * D, D])[0])
    model, _ = one_node("MultiHeadAttention", {"q": normal(B, S, D)}, {"Y": FLOAT}, num_heads=N)
    carried(model, "must be packed")
