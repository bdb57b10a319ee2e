"""What the reader makes of names, dims, initializers, functions, control flow, and of operators as old opsets had them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from anyir.frontends.onnx import read
from anyir.ir.errors import UsageError
from anyir.ir.types import BOOL, F32, I64
from anyir.kernels.run import run
from onnx import TensorProto, helper, numpy_helper, parser
from onnx.reference import ReferenceEvaluator

F = TensorProto.FLOAT


def parsed(text: str, opset: int = 17, ir: int = 8, extra: str = "") -> onnx.ModelProto:
    return parser.parse_model(f'<ir_version: {ir}, opset_import: ["" : {opset}{extra}]> {text}')


def node_model(op: str, arrays, outputs: int = 1, opset: int = 13, consts=(), **attrs) -> onnx.ModelProto:
    """One node; arrays named in `consts` become initializers."""
    names = [f"i{k}" if a is not None else "" for k, a in enumerate(arrays)]
    dtype = helper.np_dtype_to_tensor_dtype
    inputs = [
        helper.make_tensor_value_info(n, dtype(a.dtype), a.shape)
        for k, (n, a) in enumerate(zip(names, arrays, strict=True))
        if a is not None and k not in consts
    ]
    results = [f"o{k}" for k in range(outputs)]
    node = helper.make_node(op, names, results, **attrs)
    graph = helper.make_graph(
        [node],
        "g",
        inputs,
        [helper.make_tensor_value_info(r, F, None) for r in results],
        [numpy_helper.from_array(arrays[k], names[k]) for k in consts],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def lowered(op: str, arrays, **options) -> list[np.ndarray]:
    model = node_model(op, arrays, **options)
    module = read(model)
    feeds = {f"i{k}": a for k, a in enumerate(arrays) if a is not None and k not in options.get("consts", ())}
    return list(run(module, feeds).values())


X = np.arange(24, dtype=np.float32).reshape(2, 3, 4) - 7
ROW = np.array([1, 2, 3], np.float32)


# ------------------------------------------------------------------------------------ names, dims, metadata


def test_names_dims_and_metadata_survive() -> None:
    model = parsed("net (float[N, 3, H] image, float[N] t) => (float[N, 3, H] out) { a = Relu(image) out = Abs(a) }")
    model.producer_name, model.producer_version, model.doc_string = "maker", "2", "words"
    entry = model.metadata_props.add()
    entry.key, entry.value = "license", "MIT"
    model.graph.node[0].name = "block/relu"
    module = read(model)
    assert module.signature.input_names() == ["image", "t"]
    assert [str(v.type) for v in module.main.inputs] == ["f32[N, 3, H]", "f32[N]"]
    assert module.metadata["producer"] == "maker 2"
    assert module.metadata["user.license"] == "MIT"
    assert module.metadata["onnx.doc_string"] == "words"
    assert module.metadata["opset."] == "17"
    assert module.main.first.loc.scope == "block/relu"
    assert module.main.first.result.hint == "a"


def test_unknown_dims_get_names_that_do_not_depend_on_the_process() -> None:
    info = helper.make_tensor_value_info("in:0", F, [None, 3, -1])
    graph = helper.make_graph(
        [helper.make_node("Relu", ["in:0"], ["y"])], "g", [info], [helper.make_tensor_value_info("y", F, None)]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert [str(read(model).main.inputs[0].type) for _ in range(2)] == ["f32[in_0_0, 3, in_0_2]"] * 2


def test_a_formula_is_read_only_where_its_names_stand_alone() -> None:
    def shape(first: str, second: str) -> list[str]:
        infos = [helper.make_tensor_value_info(n, F, [d]) for n, d in (("a", first), ("b", second))]
        graph = helper.make_graph(
            [helper.make_node("Relu", ["b"], ["y"])], "g", infos, [helper.make_tensor_value_info("y", F, None)]
        )
        module = read(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
        return [str(v.shape[0]) for v in module.main.inputs]

    assert shape("past", "past + 1") == ["past", "past + 1"]
    assert shape("N", "batch-size") == ["N", '"batch-size"']


def test_shapes_can_be_given() -> None:
    model = parsed("g (float[N, 3] x) => (float[N, 3] y) { y = Relu(x) }")
    assert read(model, shapes={"x": (5, 3)}).main.outputs[0].shape == (5, 3)
    with pytest.raises(UsageError, match="no input is called"):
        read(model, shapes={"z": (5, 3)})


def test_initializers() -> None:
    model = parsed(
        "g (float[2] x, float[2] w) => (float[2] y, float[2] w) "
        "<float[2] w = {1, 2}, float[2] unused = {3, 4}> { y = Add(x, w) }",
        ir=3,
    )
    module = read(model)
    assert module.signature.input_names() == ["x"]
    assert [w.key for w in module.weights] == ["w"]
    assert module.diagnostics == []
    assert run(module, [np.float32([1, 1])])["w"].tolist() == [1, 2]
    model.ir_version = 8
    assert "default value" in read(model).diagnostics[0]


def test_a_wrong_declaration_is_a_note() -> None:
    model = parsed("g (float[2, 3] x) => (float[3, 2] y) <float[7] a> { a = Relu(x) y = Abs(a) }")
    module = read(model)
    assert module.main.outputs[0].shape == (2, 3)
    assert len(module.diagnostics) == 2


# ------------------------------------------------------------------------- functions, opaque, control flow


def test_functions_are_inlined_with_their_attributes() -> None:
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17, "f" : 1]> g (float[2] x) => (float[2] y) '
        "{ y = f.scaled <by: float = 3.0> (x) } "
        '<domain: "f", opset_import: ["" : 17]> scaled <by> (a) => (b) '
        "{ c = Constant <value_float: float = @by> () b = Mul(a, c) }"
    )
    assert run(read(model), [np.float32([1, 2])])["y"].tolist() == [3, 6]


def test_an_unknown_domain_is_carried_through() -> None:
    model = parsed("g (float[2] x) => (float[2] y) { y = there.Magic <strength: int = 3> (x) }", extra=', "there" : 4')
    module = read(model)
    (node,) = module.main.nodes()
    assert node.name == "opaque"
    assert (node.attr("domain"), node.attr("op_type"), node.attr("version")) == ("there", "Magic", 4)
    assert node.attrs["strength"] == 3
    assert module.main.outputs[0].dtype is F32


def reference(model: onnx.ModelProto, feeds: dict) -> list:
    return ReferenceEvaluator(model).run(None, feeds)


CONTROL = {
    "if": "g (bool c, float[2] x) => (float[2] y) { w = Abs(x) y = If(c) <then_branch = t () => (float[2] a) { a = Neg(w) }, "
    "else_branch = e () => (float[2] b) { b = Add(w, x) }> }",
    "loop": "g (int64 n, float[2] x) => (float[2] y, float[K, 2] ys) { c = Constant <value = bool {1}> () y, ys = Loop(n, c, x) "
    "<body = b (int64 i, bool ci, float[2] s) => (bool co, float[2] z, float[2] out) "
    "{ co = Identity(ci) z = Add(s, x) out = Neg(z) }> }",
    "growing": "g (int64 n, float[2] x) => (float[M] y) { c = Constant <value = bool {1}> () y = Loop(n, c, x) "
    "<body = b (int64 i, bool ci, float[M] s) => (bool co, float[M2] z) "
    "{ co = Identity(ci) z = Concat <axis = 0> (s, x) }> }",
    "early": "g (int64 n, float[2] x) => (float[2] y) { c = Constant <value = bool {1}> () "
    "four = Constant <value = float {4}> () y = Loop(n, c, x) <body = b (int64 i, bool ci, float[2] s) => (bool co, float[2] z) "
    "{ z = Add(s, x) m = ReduceMax <keepdims = 0> (z) co = Less(m, four) }> }",
}


@pytest.mark.parametrize("name", CONTROL)
@pytest.mark.parametrize("count", [0, 1, 5])
def test_control_flow(name: str, count: int) -> None:
    model = parsed(CONTROL[name])
    feeds = {"x": np.float32([1, -2])}
    feeds |= {"c": np.array(bool(count))} if name == "if" else {"n": np.array(count, np.int64)}
    found = run(read(model), feeds)
    expected = reference(model, feeds) if count or name == "if" else [feeds["x"], np.zeros((0, 2), np.float32)]
    for made, wanted in zip(found.values(), expected, strict=False):
        assert np.array_equal(made, wanted)


@pytest.mark.parametrize("backward", [0, 1])
@pytest.mark.parametrize("axis", [0, 1])
def test_scan(backward: int, axis: int) -> None:
    body = parser.parse_graph("b (float[4] s, float[4] v) => (float[4] z, float[4] o) { z = Add(s, v) o = Mul(z, v) }")
    state, data = np.zeros(4, np.float32), X.transpose(1, 0, 2)[:, 0] if axis == 0 else X[0].T.copy()
    attrs = {"num_scan_inputs": 1, "scan_input_axes": [axis], "scan_input_directions": [backward]}
    attrs |= {"scan_output_directions": [backward]}
    length = data.shape[axis]
    body.input[0].type.tensor_type.shape.dim[0].dim_value = data.size // length
    model = node_model("Scan", [state[: data.size // length], data], outputs=2, opset=17, body=body, **attrs)
    feeds = {"i0": state[: data.size // length], "i1": data}
    steps = np.moveaxis(data, axis, 0)[:: -1 if backward else 1]
    sums = np.cumsum(steps, axis=0)
    outs = (sums * steps)[:: -1 if backward else 1]
    made = list(run(read(model), feeds).values())
    assert np.allclose(made[0], sums[-1]) and np.allclose(made[1], outs)


# ----------------------------------------------------------------------------------------------- old opsets


def test_broadcast_attributes_of_opset_6() -> None:
    (made,) = lowered("Add", [X, ROW], opset=6, broadcast=1, axis=1)
    assert np.array_equal(made, X + ROW[:, None])
    (made,) = lowered("Mul", [X, ROW[:2]], opset=6, broadcast=1, axis=0)
    assert np.array_equal(made, X * ROW[:2, None, None])
    (made,) = lowered("Sub", [X, X[0, 0]], opset=6, broadcast=1)
    assert np.array_equal(made, X - X[0, 0])


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
def test_softmax_flattens_before_opset_13(op: str, axis: int) -> None:
    rows = X.reshape(int(np.prod(X.shape[: axis % 3])), -1).astype(np.float64) / 8
    powers = np.exp(rows - rows.max(1, keepdims=True))
    soft = powers / powers.sum(1, keepdims=True)
    hard = (np.arange(rows.shape[1]) == rows.argmax(1)[:, None]).astype(np.float64)
    wanted = {"Softmax": soft, "LogSoftmax": np.log(soft), "Hardmax": hard}[op].reshape(X.shape)
    (made,) = lowered(op, [X / 8], opset=11, axis=axis)
    assert np.allclose(made, wanted, rtol=1e-6, atol=1e-6)


def test_attributes_that_became_operands() -> None:
    assert np.array_equal(lowered("Clip", [X], opset=6, min=-1.0, max=2.0)[0], X.clip(-1, 2))
    assert np.array_equal(lowered("Clip", [X], opset=6)[0], X)
    padded = np.pad(X, ((0, 0), (1, 2), (0, 1)), constant_values=3)
    assert np.array_equal(lowered("Pad", [X], opset=2, pads=[0, 1, 0, 0, 2, 1], value=3.0)[0], padded)
    assert np.array_equal(lowered("Pad", [X], opset=1, paddings=[0, 1, 0, 0, 2, 1], value=3.0)[0], padded)
    assert np.array_equal(lowered("Slice", [X], opset=9, starts=[0, -2], ends=[1, 9], axes=[0, 2])[0], X[0:1, :, -2:])
    assert np.array_equal(lowered("Squeeze", [X[:1]], opset=11, axes=[0])[0], X[0])
    assert lowered("Unsqueeze", [X], opset=11, axes=[0, 4])[0].shape == (1, 2, 3, 4, 1)
    assert np.array_equal(lowered("ReduceSum", [X], opset=11, axes=[1], keepdims=0)[0], X.sum(1))
    assert np.allclose(lowered("ReduceMean", [X], opset=13, axes=[0, -1])[0], X.mean((0, 2), keepdims=True))
    assert np.array_equal(lowered("Reshape", [X], opset=1, shape=[4, -1])[0], X.reshape(4, 6))
    values, places = lowered("TopK", [X], outputs=2, opset=1, k=2, axis=1)
    assert np.array_equal(values, X[:, :0:-1]) and places.dtype == np.int64
    first, second = lowered("Split", [X], outputs=2, opset=11, axis=2, split=[1, 3])
    assert np.array_equal(first, X[..., :1]) and np.array_equal(second, X[..., 1:])
    sizes = np.array([3, 1], np.float32)
    assert lowered("Split", [X, sizes.astype(np.float32)], outputs=2, opset=1, axis=2, split=[3, 1])[0].shape == (
        2,
        3,
        3,
    )


def test_operators_of_opset_1() -> None:
    tiles, axis = np.array(2, np.float32), np.array(1, np.float32)  # floats, as the operator then had them
    assert np.array_equal(lowered("Tile", [X, tiles, axis], opset=1, consts=(1, 2))[0], np.tile(X, (1, 2, 1)[: X.ndim]))
    assert lowered("Concat", [X, X], opset=1)[0].shape == (2, 6, 4)
    assert np.array_equal(lowered("Cast", [X], opset=1, to="INT32")[0], X.astype(np.int32))
    assert np.array_equal(lowered("Sum", [X, X, X], opset=6)[0], 3 * X)
    assert np.allclose(lowered("Mean", [X, 2 * X], opset=8)[0], 1.5 * X)
    assert np.array_equal(lowered("Max", [X, -X], opset=6)[0], np.abs(X))


def test_batch_normalization_through_the_ages() -> None:
    scale, bias, mean, var = (np.float32([1, 2, 3]) * k for k in (0.5, 1, 0.1, 2))
    shaped = [v[:, None] for v in (scale, bias, mean, var)]
    wanted = (X - shaped[2]) / np.sqrt(shaped[3] + 1e-5) * shaped[0] + shaped[1]
    for opset, attrs in (
        (1, {"consumed_inputs": [0, 0, 0, 1, 1], "is_test": 1}),
        (6, {"is_test": 1}),
        (7, {}),
        (9, {}),
        (15, {}),
    ):
        (made,) = lowered("BatchNormalization", [X, scale, bias, mean, var], opset=opset, **attrs)
        assert np.allclose(made, wanted, atol=1e-5), opset
    each = [np.broadcast_to(v, (3, 4)).copy() for v in shaped]
    (made,) = lowered("BatchNormalization", [X, *each], opset=7, spatial=0)
    assert np.allclose(made, wanted, atol=1e-5)
    trained, *_ = lowered("BatchNormalization", [X, scale, bias, mean, var], outputs=5, opset=7)
    own_mean, own_var = X.mean((0, 2), keepdims=True)[0], X.var((0, 2), keepdims=True)[0]
    assert np.allclose(trained, (X - own_mean) / np.sqrt(own_var + 1e-5) * shaped[0] + shaped[1], atol=1e-5)


def test_dropout_is_the_identity() -> None:
    for opset, attrs in ((1, {"is_test": 1}), (6, {"is_test": 1}), (7, {}), (10, {}), (13, {})):
        made, mask = lowered("Dropout", [X], outputs=2, opset=opset, **attrs)
        assert np.array_equal(made, X) and mask.all()
        assert mask.dtype == (np.bool_ if opset >= 10 else np.float32)
    assert "inference" in read(node_model("Dropout", [X], opset=6)).diagnostics[0]


@pytest.mark.parametrize(("op", "opset"), [("Upsample", 7), ("Upsample", 9), ("Resize", 10)])
def test_upsampling_before_opset_11(op: str, opset: int) -> None:
    image = X[None]
    scales = np.float32([1, 1, 2, 3])
    wanted = image.repeat(2, 2).repeat(3, 3)
    if opset == 7:
        (made,) = lowered(op, [image], opset=opset, scales=scales.tolist(), mode="nearest")
    else:
        (made,) = lowered(op, [image, scales], opset=opset, consts=(1,), mode="nearest")
    assert np.array_equal(made, wanted)


def test_constants_in_all_forms() -> None:
    sparse = helper.make_sparse_tensor(
        helper.make_tensor("v", F, [2], [5.0, 6.0]),
        helper.make_tensor("i", TensorProto.INT64, [2, 2], [0, 1, 1, 2]),
        [2, 3],
    )
    cases = [
        ({"value": numpy_helper.from_array(X)}, X),
        ({"value_float": 1.5}, np.float32(1.5)),
        ({"value_floats": [1.5, 2.5]}, np.float32([1.5, 2.5])),
        ({"value_int": 7}, np.int64(7)),
        ({"value_ints": [7, 8]}, np.int64([7, 8])),
        ({"sparse_value": sparse}, np.float32([[0, 5, 0], [0, 0, 6]])),
    ]
    for attrs, wanted in cases:
        graph = helper.make_graph(
            [helper.make_node("Constant", [], ["c"], **attrs)], "g", [], [helper.make_tensor_value_info("c", F, None)]
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        (made,) = run(read(model), []).values()
        assert np.array_equal(made, wanted) and made.dtype == wanted.dtype and made.shape == wanted.shape


def test_batch_first_lstm() -> None:
    rng = np.random.default_rng(0)
    x, w, r = (rng.standard_normal(s).astype(np.float32) for s in ((5, 2, 3), (1, 16, 3), (1, 16, 4)))
    plain = lowered("LSTM", [x, w, r], outputs=3, opset=14, hidden_size=4)
    swapped = lowered("LSTM", [x.swapaxes(0, 1).copy(), w, r], outputs=3, opset=14, hidden_size=4, layout=1)
    assert np.allclose(swapped[0], plain[0].transpose(2, 0, 1, 3))
    assert np.allclose(swapped[1], plain[1].swapaxes(0, 1)) and np.allclose(swapped[2], plain[2].swapaxes(0, 1))


def test_group_normalization_18_has_a_scale_per_group() -> None:
    x = np.random.default_rng(0).standard_normal((2, 4, 5)).astype(np.float32)
    scale, bias = np.float32([2, 3]), np.float32([0.5, -1])
    (made,) = lowered("GroupNormalization", [x, scale, bias], opset=18, num_groups=2)
    (newer,) = lowered("GroupNormalization", [x, scale.repeat(2), bias.repeat(2)], opset=21, num_groups=2)
    assert np.array_equal(made, newer)


@pytest.mark.parametrize(
    "dtype",
    [TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT8E4M3FN, TensorProto.BFLOAT16, TensorProto.FLOAT4E2M1],
)
def test_both_forms_of_exotic_tensors(dtype: int) -> None:
    values = np.array([0, 1, 1.5, 2, 3], np.float32)
    typed = helper.make_tensor("w", dtype, [5], values)
    raw = numpy_helper.from_array(numpy_helper.to_array(typed), "w")
    made = []
    for proto in (typed, raw):
        graph = helper.make_graph([], "g", [], [helper.make_tensor_value_info("w", dtype, [5])], [proto])
        (weight,) = read(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=12)).weights
        made.append(weight.tensor.numpy())
    assert made[0].tobytes() == made[1].tobytes() == numpy_helper.to_array(typed).tobytes()


def test_shape_arithmetic_stays_symbolic() -> None:
    model = parsed(
        "g (float[N, 3, H] x) => (float[A, B] y) { s = Shape(x) i = Constant <value_ints = [0]> () n = Gather(s, i) "
        "m = Constant <value_ints = [-1]> () t = Concat <axis = 0> (n, m) y = Reshape(x, t) }"
    )
    assert [str(d) for d in read(model).main.outputs[0].shape] == ["N", "3*H"]


def test_types_of_the_interface() -> None:
    module = read(parsed("g (int64[2] a, bool[2] b) => (bool[2] y) { z = Cast <to = 9> (a) y = And(z, b) }"))
    assert [v.dtype for v in module.main.inputs] == [I64, BOOL]
