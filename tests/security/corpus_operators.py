"""Hostile ONNX files of operators whose cost is not that of their results. Each is small; what it asks for is not."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
import onnx
from anyir.tests.security.corpus import bytes_case
from anyir.tests.security.corpus_onnx import F32, I64, N, Nodes, const, info
from onnx import TensorProto, helper

STRING, U8, BOOL = TensorProto.STRING, TensorProto.UINT8, TensorProto.BOOL
HUGE = 1 << 40
Weights = list[TensorProto]


def net(
    nodes: Nodes,
    weights: Weights | tuple[TensorProto, ...] = (),
    inputs: list[onnx.ValueInfoProto] | None = None,
    outputs: list[onnx.ValueInfoProto] | None = None,
    **domains: int,
) -> onnx.ModelProto:
    """y of the newest opset that all of them are in, and of other domains: `ml=4` is ai.onnx.ml 4."""
    known = {"ml": "ai.onnx.ml", "training": "ai.onnx.preview.training", "ms": "com.microsoft", "mine": "mine"}
    opsets = [helper.make_opsetid("", domains.pop("opset", 22))]
    opsets += [helper.make_opsetid(known[name], version) for name, version in domains.items()]
    inputs = [info("x", [2, 3])] if inputs is None else inputs
    graph = helper.make_graph(nodes, "g", inputs, outputs or [info("y", None)], list(weights))
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def words(name: str, value: list[str | bytes]) -> TensorProto:
    data = [item if isinstance(item, bytes) else item.encode() for item in value]
    return TensorProto(name=name, data_type=STRING, dims=[len(value)], string_data=data)


def f32(name: str, value: object) -> TensorProto:
    return const(name, value, np.float32)


# --------------------------------------------------------------------------------------------------- operators


def _nms(boxes: int) -> onnx.ModelProto:
    """All boxes lie apart and all are wanted: boxes^2 comparisons per class."""
    nodes = [N("Range", ["zero", "n", "one"], ["at"]), N("Reshape", ["at", "rows"], ["column"])]
    nodes += [N("Mul", ["column", "apart"], ["start"]), N("Add", ["start", "one"], ["end"])]
    nodes += [N("Concat", ["start", "start", "end", "end"], ["flat"], axis=1), N("Unsqueeze", ["flat", "axis"], ["b"])]
    nodes += [N("Reshape", ["at", "scores"], ["s"]), N("NonMaxSuppression", ["b", "s", "most"], ["y"])]
    weights = [f32("zero", 0.0), f32("n", float(boxes)), f32("one", 1.0), f32("apart", 3.0), const("rows", [-1, 1])]
    weights += [const("axis", [0]), const("scores", [1, 1, -1]), const("most", [1 << 62])]
    return net(nodes, weights, [], [info("y", None, I64)])


def _scalars(op: str, values: list[object], kind: int = F32, **attributes: object) -> onnx.ModelProto:
    """An operator of constants alone."""
    weights = [const(f"v{i}", v, np.float32 if isinstance(v, float) else np.int64) for i, v in enumerate(values)]
    return net([N(op, [w.name for w in weights], ["y"], **attributes)], weights, [], [info("y", None, kind)])


def _dft(length: int) -> onnx.ModelProto:
    return net([N("DFT", ["x", "n"], ["y"])], [const("n", length)], [info("x", [1, 8, 1])])


def _col2im(image: list[int], block: list[int], places: int) -> onnx.ModelProto:
    nodes = [N("Col2Im", ["x", "image", "block"], ["y"])]
    taps = block[0] * block[1]
    return net(nodes, [const("image", image), const("block", block)], [info("x", [1, taps, places])])


def _roi(op: str, regions: int, side: int, **attributes: object) -> onnx.ModelProto:
    """The same region over and over of a large image, both made from next to nothing."""
    nodes = [N("Expand", ["pixel", "image"], ["x"]), N("Expand", ["region", "many"], ["r"])]
    nodes += [N("ConstantOfShape", ["count"], ["at"], value=const("", [0]))] if op == "RoiAlign" else []
    nodes += [N(op, ["x", "r", *(["at"] if op == "RoiAlign" else [])], ["y"], **attributes)]
    region = [0.0, 0.0, side - 1.0, side - 1.0] if op == "RoiAlign" else [0.0, 0.0, 0.0, side - 1.0, side - 1.0]
    weights = [f32("pixel", [[[[1.0]]]]), const("image", [1, 8, side, side]), f32("region", [region])]
    weights += [const("many", [regions, 1]), const("count", [regions])]
    return net(nodes, weights, [])


def _deform(groups: int, side: int) -> onnx.ModelProto:
    inputs = [info("x", [1, groups, side, side]), info("w", [1, groups, 64, 64])]
    inputs += [info("o", [1, groups * 2 * 64 * 64, side - 63, side - 63])]
    return net([N("DeformConv", ["x", "w", "o"], ["y"], offset_group=groups)], (), inputs)


def _unique(count: int) -> onnx.ModelProto:
    nodes = [N("RandomUniform", [], ["r"], shape=[count], seed=1.0), N("Unique", ["r"], ["y", "", "", ""])]
    return net(nodes, (), [])


def _splits(count: int) -> onnx.ModelProto:
    """One row of many words makes every other row as long."""
    rows: list[str | bytes] = ["a " * count, *["b"] * count]
    nodes = [N("StringSplit", ["w"], ["y", "n"])]
    return net(nodes, [words("w", rows)], [], [info("y", None, STRING)])


def _regex(pattern: str, text: str) -> onnx.ModelProto:
    return net([N("RegexFullMatch", ["w"], ["y"], pattern=pattern)], [words("w", [text])], [], [info("y", None, BOOL)])


def _tfidf(length: int, skips: int, tokens: int, index: int = 0) -> onnx.ModelProto:
    pool = [1] * length
    attributes = {"ngram_counts": [0] * length, "ngram_indexes": [index], "pool_int64s": pool, "mode": "TF"}
    attributes |= {"min_gram_length": length, "max_gram_length": length, "max_skip_count": skips}
    nodes = [N("ConstantOfShape", ["n"], ["t"], value=const("", [1])), N("TfIdfVectorizer", ["t"], ["y"], **attributes)]
    return net(nodes, [const("n", [tokens])], [])


def _png(width: int, height: int) -> bytes:
    """A picture of one colour: a row deflates to next to nothing. No more rows are stored than 64."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    rows = zlib.compress(bytes((3 * width + 1) * min(height, 64)), 9) if width < 1 << 20 else b""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def _tiff(width: int, height: int) -> bytes:
    """One strip that claims everything."""
    entries = [
        (256, 4, width),
        (257, 4, height),
        (258, 3, 8),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 8),
        (279, 4, HUGE - 1),
    ]
    body = b"".join(
        tag.to_bytes(2, "little") + kind.to_bytes(2, "little") + (1).to_bytes(4, "little")
        + (value & 0xFFFFFFFF).to_bytes(4, "little")
        for tag, kind, value in entries
    )  # fmt: skip
    return b"II*\0" + (8).to_bytes(4, "little") + len(entries).to_bytes(2, "little") + body + bytes(4)


def _decoded(data: bytes) -> onnx.ModelProto:
    raw = helper.make_tensor("d", U8, [len(data)], data, raw=True)
    return net([N("ImageDecoder", ["d"], ["y"])], [raw], [], [info("y", None, U8)])


def _body(nodes: Nodes, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]) -> onnx.GraphProto:
    head = [info("i", [], I64), info("c", [], BOOL)]
    return helper.make_graph(
        [N("Identity", ["c"], ["k"]), *nodes], "body", [*head, *inputs], [info("k", [], BOOL), *outputs]
    )


def _growing(trips: int) -> onnx.ModelProto:
    """A sequence that gets what it holds already, over and over: elements double, and are joined in the end."""
    seq = helper.make_tensor_sequence_value_info
    body = _body(
        [N("ConcatFromSequence", ["s"], ["all"], axis=0), N("SequenceInsert", ["s", "all"], ["t"])],
        [seq("s", F32, None)],
        [seq("t", F32, None)],
    )
    nodes = [N("SequenceConstruct", ["x"], ["s0"]), N("Loop", ["n", "", "s0"], ["s1"], body=body)]
    nodes += [N("ConcatFromSequence", ["s1"], ["y"], axis=0)]
    return net(nodes, [const("n", trips)])


def _long_sequence(trips: int) -> onnx.ModelProto:
    """Every insertion copies the list."""
    seq = helper.make_tensor_sequence_value_info
    body = _body([N("SequenceInsert", ["s", "x"], ["t"])], [seq("s", F32, None)], [seq("t", F32, None)])
    nodes = [N("SequenceEmpty", [], ["s0"]), N("Loop", ["n", "", "s0"], ["s1"], body=body)]
    return net([*nodes, N("SequenceLength", ["s1"], ["y"])], [const("n", trips)], None, [info("y", [], I64)])


def _string_doublings(count: int) -> onnx.ModelProto:
    nodes = [N("StringConcat", [f"s{i}", f"s{i}"], [f"s{i + 1}"]) for i in range(count)]
    nodes += [N("StringSplit", [f"s{count}"], ["parts", "y"], delimiter="a")]
    return net(nodes, [words("s0", ["aaaaaaaaaaaaaaaa"])], [], [info("y", None, I64)])


def _mapped(count: int, inner: int) -> onnx.ModelProto:
    body = helper.make_graph([N("Expand", ["e", "big"], ["f"])], "body", [info("e", None)], [info("f", None)])
    nodes = [N("Expand", ["x", "many"], ["m"]), N("SplitToSequence", ["m"], ["s"], axis=0)]
    nodes += [N("SequenceMap", ["s"], ["t"], body=body), N("ConcatFromSequence", ["t"], ["y"], axis=0)]
    return net(nodes, [const("many", [count, 1]), const("big", [1, inner])], [info("x", [1, 1])])


def _trees(**changes: object) -> onnx.ModelProto:
    """Two nodes of one tree; `changes` break it."""
    attributes: dict[str, object] = {
        "nodes_featureids": [0, 0], "nodes_modes": helper.make_tensor("", U8, [2], [0, 0]),
        "nodes_splits": helper.make_tensor("", F32, [2], [0.5, 0.5]), "nodes_truenodeids": [1, 0],
        "nodes_falsenodeids": [0, 1], "nodes_trueleafs": [0, 1], "nodes_falseleafs": [1, 1], "tree_roots": [0],
        "leaf_targetids": [0, 0], "leaf_weights": helper.make_tensor("", F32, [2], [1.0, 2.0]),
        "n_targets": 1, "aggregate_function": 1,
    }  # fmt: skip
    node = N("TreeEnsemble", ["x"], ["y"], domain="ai.onnx.ml", **{**attributes, **changes})
    return net([node], (), None, None, ml=5)


def _old_trees(**changes: object) -> onnx.ModelProto:
    attributes: dict[str, object] = {
        "nodes_treeids": [0, 0, 0], "nodes_nodeids": [0, 1, 2], "nodes_featureids": [0, 0, 0],
        "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"], "nodes_values": [0.5, 0.0, 0.0], "nodes_truenodeids": [1, 0, 0],
        "nodes_falsenodeids": [2, 0, 0], "target_treeids": [0, 0], "target_nodeids": [1, 2], "target_ids": [0, 0],
        "target_weights": [1.0, 2.0], "n_targets": 1,
    }  # fmt: skip
    node = N("TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", **{**attributes, **changes})
    return net([node], (), None, None, ml=3)


def _gradients(count: int) -> onnx.ModelProto:
    """Gradients of gradients: each could be several times as large as the last."""
    nodes = [N("Mul", ["x", "x"], ["x0"]), N("Tanh", ["x0"], ["y0"])]
    for i in range(count):
        nodes.append(N("Gradient", ["x"], [f"y{i + 1}"], domain="ai.onnx.preview.training", xs=["x"], y=f"y{i}"))
    nodes[-1].output[0] = "y"
    return net(nodes, (), None, None, training=1)


def _svm(vectors: int) -> onnx.ModelProto:
    attributes = {"kernel_type": "RBF", "kernel_params": [1.0, 0.0, 3.0], "n_supports": vectors, "rho": [0.0]}
    attributes |= {"support_vectors": [1.0] * vectors, "coefficients": [1.0] * vectors}
    node = N("SVMRegressor", ["m"], ["y"], domain="ai.onnx.ml", **attributes)
    return net([N("Expand", ["x", "many"], ["m"]), node], [const("many", [10**6, 1])], [info("x", [1, 1])], ml=1)


def _reductions(count: int) -> onnx.ModelProto:
    """Each fold is allowed; together they take for ever."""
    shapes = [const(f"d{i}", [4 << 4 * i, 1 << 14]) for i in range(3)]
    nodes = [
        N("Expand", ["pixel", "d0"], ["e0"]),
        N("Tile", ["e0", "times"], ["e1"]),
        N("Tile", ["e1", "times"], ["e"]),
    ]
    nodes += [N("ReduceLogSumExp", ["e", "axis"], ["r0"], keepdims=0)]
    for i in range(count):
        nodes += [N("Concat", [f"r{i}"] * 1, [f"q{i}"], axis=0), N("Add", ["e", f"q{i}"], [f"a{i}"])]
        nodes += [N("ReduceLogSumExp", [f"a{i}", "axis"], [f"r{i + 1}"], keepdims=0)]
    nodes += [N("ReduceSum", [f"r{count}"], ["f"], keepdims=0), N("Add", ["x", "f"], ["y"])]
    weights = [f32("pixel", [[1.0]]), *shapes, const("times", [16, 1]), const("axis", [0])]
    return net(nodes, weights, opset=18)


def _einsum(labels: int, size: int) -> onnx.ModelProto:
    """Labels of each operand alone: the product of all of them, summed away."""
    letters = "abcdefghijklmnopqrstuvwxyz"[:labels]
    inputs = [info(f"x{i}", [size]) for i in range(labels)]
    return net([N("Einsum", [i.name for i in inputs], ["y"], equation=",".join(letters) + "->")], (), inputs)


def _many_results(op: str, count: int) -> onnx.ModelProto:
    return net([N(op, ["x"], ["y"])], (), [info("x", [count])], [info("y", None, I64)])


OPERATORS: dict[str, Callable[[], onnx.ModelProto]] = {
    "NonMaxSuppression of 10^6 boxes apart": lambda: _nms(10**6),
    "DFT of length 2^40": lambda: _dft(HUGE),
    "DFT of length -1": lambda: _dft(-1),
    "HannWindow of 2^40": lambda: _scalars("HannWindow", [HUGE]),
    "BlackmanWindow of -3": lambda: _scalars("BlackmanWindow", [-3]),
    "MelWeightMatrix of 2^40": lambda: _scalars("MelWeightMatrix", [HUGE, HUGE, 16000, 0.0, 8000.0]),
    "MelWeightMatrix of 2^26 bins": lambda: _scalars("MelWeightMatrix", [1 << 26, 1, 16000, 0.0, 0.0]),
    "Col2Im of 2^40 pixels": lambda: _col2im([1 << 20, 1 << 20], [1, 1], HUGE),
    "Col2Im of a block of 2^40": lambda: _col2im([1 << 20, 1 << 20], [1 << 20, 1 << 20], 1),
    "Col2Im of negative blocks": lambda: _col2im([8, 8], [-2, -2], 4),
    "RoiAlign of 10^5 regions": lambda: _roi("RoiAlign", 10**5, 1000, output_height=1, output_width=1),
    "RoiAlign of 2^40 samples": lambda: _roi("RoiAlign", 1, 8, sampling_ratio=HUGE),
    "RoiAlign of the largest of 1000 samples": lambda: _roi("RoiAlign", 100, 100, mode="max", sampling_ratio=1000),
    "RoiAlign with an output of 2^40": lambda: _roi("RoiAlign", 1, 8, output_height=HUGE, output_width=1),
    "MaxRoiPool of 10^5 regions": lambda: _roi("MaxRoiPool", 10**5, 1000, pooled_shape=[1, 1]),
    "MaxRoiPool with an output of 2^40": lambda: _roi("MaxRoiPool", 1, 8, pooled_shape=[1 << 20, 1 << 20]),
    "DeformConv with a kernel of 64": lambda: _deform(64, 100),
    "Unique of 2^27": lambda: _unique(1 << 27),
    "StringSplit of one long row": lambda: _splits(20_000),
    "RegexFullMatch of nested repeats": lambda: _regex("(a*)*(a*)*(a|a)*b", "a" * 100_000),
    "RegexFullMatch of counted repeats": lambda: _regex("((((a{1,1000}){1,1000}){1,1000}){1,1000}){1,1000}", "a"),
    "RegexFullMatch of 100000 brackets": lambda: _regex("(" * 100_000 + ")" * 100_000, "a"),
    "TfIdfVectorizer of long n-grams": lambda: _tfidf(1000, 10_000, 10**6),
    "TfIdfVectorizer with an index of 2^40": lambda: _tfidf(1, 0, 3, HUGE),
    "TfIdfVectorizer with skips of 2^40": lambda: _tfidf(2, HUGE, 10**5),
    "ImageDecoder of 2^31 columns": lambda: _decoded(_png((1 << 31) - 1, (1 << 31) - 1)),
    "ImageDecoder of 30000 x 30000": lambda: _decoded(_png(30_000, 30_000)),
    "ImageDecoder of a TIFF that lies": lambda: _decoded(_tiff(1 << 15, 1 << 15)),
    "ImageDecoder of PostScript": lambda: _decoded(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
    "ImageDecoder of nothing": lambda: _decoded(b""),
    "a sequence that doubles 60 times": lambda: _growing(60),
    "a sequence of 2^40": lambda: _long_sequence(HUGE),
    "strings that double 40 times": lambda: _string_doublings(40),
    "8 million strings, 100 times": lambda: net(
        [N("Expand", ["w", "n"], ["s0"])]
        + [N("StringConcat", [f"s{i}", "w"], [f"s{i + 1}"]) for i in range(100)]
        + [N("Shape", ["s100"], ["y"])],
        [words("w", ["a"]), const("n", [1 << 22])], [], [info("y", None, I64)],
    ),
    "strings read as numbers, 100 times": lambda: net(
        [N("Expand", ["w", "n"], ["s"])]
        + [N("Cast", ["s"], [f"f{i}"], to=F32) for i in range(100)]
        + [N("Sum", [f"f{i}" for i in range(100)], ["y"])],
        [words("w", ["1e5"]), const("n", [1 << 20])], [],
    ),
    "Scan of 2^31 steps": lambda: net(
        [N("Scan", ["x"], ["y"], num_scan_inputs=1, body=helper.make_graph(
            [N("Relu", ["a"], ["b"])], "body", [info("a", [])], [info("b", [])]))],
        (), [info("x", [1 << 31])],
    ),
    "Loop with an output of each turn, 2^40": lambda: net(
        [N("Loop", ["n", "", "x"], ["last", "y"], body=_body(
            [N("Identity", ["a"], ["b"]), N("Identity", ["a"], ["out"])], [info("a", [2, 3])],
            [info("b", [2, 3]), info("out", [2, 3])]))],
        [const("n", HUGE)],
    ),
    "LSTM of 2^31 steps": lambda: net(
        [N("LSTM", ["x", "w", "r"], ["y"], hidden_size=1)],
        [f32("w", np.ones((1, 4, 1))), f32("r", np.ones((1, 4, 1)))], [info("x", [1 << 31, 1, 1])],
    ),
    "Attention of 2^20 tokens": lambda: net(
        [N("Attention", ["x", "x", "x"], ["y"], is_causal=1)], (), [info("x", [1, 1, 1 << 20, 8])], opset=23
    ),
    "GatherND of much": lambda: net(
        [N("Expand", ["i", "n"], ["j"]), N("Gather", ["x", "j"], ["y"])],
        [const("i", [0]), const("n", [1 << 26])], [info("x", [2, 1 << 20])],
    ),
    "Multinomial of 2^30 draws of 2^20 classes": lambda: net(
        [N("Multinomial", ["x"], ["y"], sample_size=1 << 30)], (), [info("x", [1, 1 << 20])], [info("y", None, 6)]
    ),
    "MaxPool of a window of 2^12": lambda: net(
        [N("MaxPool", ["x"], ["y"], kernel_shape=[4096, 4096])], (), [info("x", [1, 1, 8191, 8191])]
    ),
    "ReverseSequence, TopK and CumSum of 2^33": lambda: net(
        [N("CumSum", ["x", "zero"], ["a"]), N("TopK", ["a", "k"], ["y", "i"])],
        [const("zero", 0), const("k", [5])], [info("x", [1 << 33])],
    ),
    "LRN of 2^62 channels": lambda: net([N("LRN", ["x"], ["y"], size=1 << 62)], (), [info("x", [1, 4, 3, 3])]),
    "Trilu of no rows of 2^40": lambda: net([N("Trilu", ["x"], ["y"])], (), [info("x", [0, HUGE])]),
    "Attention of no batch of 2^20 tokens": lambda: net(
        [N("Attention", ["x", "x", "x"], ["y"], is_causal=1)], (), [info("x", [0, 1, 1 << 20, 8])], opset=23
    ),
    "MaxPool of no batch and a window of 2^40": lambda: net(
        [N("MaxPool", ["x"], ["y"], kernel_shape=[HUGE, 1])], (), [info("x", [0, 1, HUGE, 1])]
    ),
    "SequenceMap of much": lambda: _mapped(10**5, 10**6),
    "Gradient of a Gradient, 12 times": lambda: _gradients(12),
    "SVM with 10^4 vectors of 10^6 rows": lambda: _svm(10_000),
    "200 reductions of 64 MiB": lambda: _reductions(200),
    "Einsum of 20 vectors": lambda: _einsum(20, 100),
    "Einsum of 26 labels of 2^20": lambda: _einsum(26, 1 << 20),
    "NonZero of 2^40": lambda: _many_results("NonZero", HUGE),
    "RandomNormal of 2^40": lambda: net([N("RandomNormal", [], ["y"], shape=[HUGE])], (), []),
    "EyeLike of 2^20": lambda: net([N("EyeLike", ["x"], ["y"])], (), [info("x", [1 << 20, 1 << 20])]),
    "OneHot of depth 2^40": lambda: net(
        [N("OneHot", ["i", "d", "v"], ["y"])], [const("d", HUGE), f32("v", [0.0, 1.0])], [info("i", [2], I64)]
    ),
    "CenterCropPad to 2^40": lambda: net([N("CenterCropPad", ["x", "s"], ["y"])], [const("s", [HUGE, HUGE])]),
    "Pad by 2^40": lambda: net([N("Pad", ["x", "p"], ["y"])], [const("p", [HUGE] * 4)]),
    "Resize to 2^40": lambda: net([N("Resize", ["x", "", "", "s"], ["y"])], [const("s", [HUGE, HUGE])]),
    "Upsample by 1e30": lambda: net([N("Upsample", ["x", "s"], ["y"])], [f32("s", [1e30, 1e30])], opset=9),
    "AffineGrid of 2^40": lambda: net(
        [N("AffineGrid", ["x", "s"], ["y"])], [const("s", [1, 1, HUGE, HUGE])], [info("x", [1, 2, 3])]
    ),
    "STFT of 2^31 samples": lambda: net(
        [N("STFT", ["x", "one", "", "n"], ["y"])], [const("one", 1), const("n", 1 << 30)], [info("x", [1, 1 << 31, 1])]
    ),
}  # fmt: skip
for _name, _make in OPERATORS.items():
    bytes_case("onnx operators", _name, ".onnx", lambda make=_make: make().SerializeToString(), "either")

BROKEN_OPERATORS: dict[str, Callable[[], onnx.ModelProto]] = {
    "a tree that is a cycle": lambda: _trees(nodes_trueleafs=[0, 0]),
    "a tree whose child is not there": lambda: _trees(nodes_truenodeids=[77, 0]),
    "a tree whose child is -1": lambda: _trees(nodes_truenodeids=[-1, 0]),
    "a tree whose root is not there": lambda: _trees(tree_roots=[9]),
    "a tree with a target of 2^62": lambda: _trees(leaf_targetids=[1 << 62, 0]),
    "a tree with a mode of 99": lambda: _trees(nodes_modes=helper.make_tensor("", U8, [2], [99, 0])),
    "a tree with arrays of other lengths": lambda: _trees(nodes_splits=helper.make_tensor("", F32, [1], [0.5])),
    "an old tree that is a cycle": lambda: _old_trees(nodes_modes=["BRANCH_LEQ"] * 3),
    "an old tree with a node twice": lambda: _old_trees(nodes_nodeids=[0, 1, 1]),
    "an old tree with a vote of no node": lambda: _old_trees(target_nodeids=[1, 9]),
    "a tree of negative targets": lambda: _old_trees(n_targets=-1),
}
for _name, _make in BROKEN_OPERATORS.items():
    bytes_case("onnx operators", _name, ".onnx", lambda make=_make: make().SerializeToString())
