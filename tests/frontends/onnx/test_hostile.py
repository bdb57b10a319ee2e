"""Broken and hostile ONNX files: each ends in one clear error that names the place, or in a model that verifies."""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from anyir.frontends.onnx import read
from anyir.ir.errors import AnyIRError, InternalError, InvalidModel, LimitExceeded, SystemFailure, Unsupported
from anyir.ir.verify import verify
from onnx import AttributeProto, TensorProto, helper, parser

REFUSALS = (InvalidModel, Unsupported, LimitExceeded, SystemFailure)
F32 = TensorProto.FLOAT


def parsed(text: str) -> onnx.ModelProto:
    return parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')


def model(nodes=(), initializers=(), inputs=None, outputs=None, opset: int = 17) -> onnx.ModelProto:
    inputs = inputs if inputs is not None else [helper.make_tensor_value_info("x", F32, [2, 3])]
    outputs = outputs if outputs is not None else [helper.make_tensor_value_info("y", F32, None)]
    graph = helper.make_graph(list(nodes), "g", inputs, outputs, initializer=list(initializers))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def refused(source, kinds=REFUSALS) -> str:
    """The message of the one error; it is short and carries no raw control characters."""
    with pytest.raises(kinds) as caught:
        read(source)
    text = str(caught.value)
    assert not isinstance(caught.value, InternalError)
    assert len(text) < 8192
    assert all(c == "\n" or c.isprintable() for c in text), repr(text)
    return text


def survived(source) -> None:
    """Refused with our own error, or read into something valid."""
    try:
        verify(read(source))
    except AnyIRError as error:
        assert not isinstance(error, InternalError), error


# ------------------------------------------------------------------------------------------------ container


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(range(256)) * 8,
        b"\x3a\xff\xff\xff\xff\x0f",
        b"\x3a\x80\x80\x80\x80\x08ab",
        b"\x3a" + b"\xff" * 9 + b"\x01",
    ],
    ids=["empty", "random", "length past the end", "length 2^31", "length 2^63"],
)
def test_container_that_is_none(data: bytes) -> None:
    assert "ONNX" in refused(data) or "empty" in refused(data)


@pytest.mark.parametrize(
    ("data", "word"),
    [(b"PK\x03\x04" + b"x" * 50, "zip"), (b"\x89HDF\r\n\x1a\n" + b"\0" * 50, "HDF5"), (b"\1\0\0\0TFL3aaa", "TFLite")],
)
def test_another_format_is_named(data: bytes, word: str) -> None:
    assert word in refused(data)


def test_no_graph() -> None:
    refused(helper.make_model(helper.make_graph([], "g", [], [])).SerializeToString()[:2])


def test_no_opset_and_undeclared_domain() -> None:
    made = parsed("g (float[2] x) => (float[2] y) { y = Relu(x) }")
    bare = onnx.ModelProto()
    bare.CopyFrom(made)
    del bare.opset_import[:]
    assert "opset_import" in refused(bare)
    made.graph.node[0].domain = "somewhere"
    assert "somewhere" in refused(made)


@pytest.mark.parametrize("version", [0, 99, -1])
def test_unknown_versions(version: int) -> None:
    made = parsed("g (float[2] x) => (float[2] y) { y = Relu(x) }")
    made.opset_import[0].version = version
    refused(made)
    made.opset_import[0].version = 17
    made.ir_version = version
    refused(made)


def nested_if(depth: int) -> bytes:
    """An If in an If in an If: built as bytes, deeper than protobuf's own parser goes."""

    def field(number: int, payload: bytes) -> bytes:
        size, made = len(payload), bytearray()
        while size > 127:
            made.append(size & 127 | 128)
            size >>= 7
        made.append(size)
        return bytes([number << 3 | 2]) + bytes(made) + payload

    graph = field(2, b"leaf")
    for _ in range(depth):
        branch = field(1, b"then_branch") + field(6, graph) + b"\xa0\x01\x05"
        node = field(1, b"c") + field(2, b"y") + field(4, b"If") + field(5, branch)
        graph = field(1, node) + field(2, b"g")
    return b"\x08\x08" + field(7, graph) + field(8, b"\x10\x11")


@pytest.mark.parametrize("depth", [40, 200, 2000])
def test_deeply_nested_subgraphs(depth: int) -> None:
    refused(nested_if(depth))


def test_truncation_and_flipped_bits() -> None:
    data = parsed(
        "g (float[N, 3] x) => (float[N, 4] y) <float[3, 4] w = {1,2,3,4,5,6,7,8,9,10,11,12}> "
        "{ a = MatMul(x, w) b = Relu(a) s = Shape(b) y = Reshape(b, s) }"
    ).SerializeToString()
    for end in range(len(data)):
        survived(data[:end])
    rng = random.Random(1)
    for _ in range(600):
        broken = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 8, 32))):
            broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
        survived(bytes(broken))


def test_repeated_and_huge_metadata() -> None:
    made = parsed("g (float[2] x) => (float[2] y) { y = Relu(x) }")
    for i in range(2000):
        entry = made.metadata_props.add()
        entry.key, entry.value = f"k{i % 7}", "v" * 500
    survived(made)


# ---------------------------------------------------------------------------------------------------- graph

RELU = helper.make_node("Relu", ["x"], ["y"])


@pytest.mark.parametrize(
    ("nodes", "word"),
    [
        ([helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Relu", ["a"], ["b"]), RELU], "cycle"),
        ([helper.make_node("Add", ["x", "y"], ["y"])], "cycle"),
        ([RELU, helper.make_node("Abs", ["x"], ["y"])], "twice"),
        ([helper.make_node("Abs", ["x"], ["x"]), RELU], "twice"),
        ([helper.make_node("TopK", ["x", "x"], ["y", "y"])], "twice"),
        ([helper.make_node("Relu", ["nowhere"], ["y"])], "nowhere"),
        ([helper.make_node("Relu", ["x"], ["z"])], "'y'"),
        ([helper.make_node("Frobnicate", ["x"], ["y"])], "Frobnicate"),
        ([helper.make_node("Concat", ["x", "x"], ["y"])], "axis"),
        ([helper.make_node("Cast", ["x"], ["y"], to=99)], "99"),
        ([helper.make_node("Relu", ["x", "x"], ["y"])], "inputs"),
        ([helper.make_node("Relu", ["x"], ["y", "z"])], "outputs"),
        ([helper.make_node("Add", ["x", ""], ["y"])], "missing"),
        ([helper.make_node("Relu", ["x"], ["y"], colour=3)], "colour"),
        ([helper.make_node("Softmax", ["x"], ["y"], axis=1.5)], "axis"),
        ([helper.make_node("Softmax", ["x"], ["y"], axis=7)], "axis"),
        ([helper.make_node("Transpose", ["x"], ["y"], perm=[0, 0])], "perm"),
        ([helper.make_node("Transpose", ["x"], ["y"], perm=[1, 0, 2])], "perm"),
        ([helper.make_node("MatMul", ["x", "x"], ["y"])], "MatMul"),
    ],
)
def test_broken_graphs(nodes, word: str) -> None:
    assert word in refused(model(nodes))


def test_all_unknown_operators_are_named_at_once() -> None:
    nodes = [
        helper.make_node("Foo", ["x"], ["a"]),
        helper.make_node("Bar", ["a"], ["b"]),
        helper.make_node("Relu", ["b"], ["y"]),
    ]
    text = refused(model(nodes))
    assert "Foo" in text and "Bar" in text


@pytest.mark.parametrize(
    "attrs",
    [
        {"strides": [0, 1]},
        {"strides": [-1, 1]},
        {"pads": [-9, 0, 0, 0]},
        {"pads": [0, 0]},
        {"group": 0},
        {"group": 3},
        {"dilations": [0, 0]},
        {"kernel_shape": [9, 9]},
        {"auto_pad": "SOMEHOW"},
        {"dilations": [1 << 62, 1]},
    ],
)
def test_absurd_convolutions(attrs) -> None:
    weight = helper.make_tensor("w", F32, [4, 2, 3, 3], np.zeros(72, np.float32))
    x = [helper.make_tensor_value_info("x", F32, [1, 2, 8, 8])]
    refused(model([helper.make_node("Conv", ["x", "w"], ["y"], **attrs)], [weight], x))


@pytest.mark.parametrize("attrs", [{"kernel_shape": [0, 2]}, {"kernel_shape": [99, 99]}, {"kernel_shape": [2]}])
def test_absurd_pools(attrs) -> None:
    x = [helper.make_tensor_value_info("x", F32, [1, 2, 8, 8])]
    refused(model([helper.make_node("MaxPool", ["x"], ["y"], **attrs)], (), x))


def test_branches_and_bodies_that_do_not_fit() -> None:
    refused(
        parsed(
            "g (bool c, float[2] x) => (float[2] y) { y = If(c) <then_branch = t () => (float[2] a) { a = Relu(x) }, "
            "else_branch = e () => (float[2] b, float[2] d) { b = Relu(x) d = Abs(x) }> }"
        )
    )
    refused(
        parsed(
            "g (int64 n, bool c, float[2] x) => (float[2] y) { y = Loop(n, c, x) "
            "<body = b (int64 i, bool ci) => (bool co, float[2] z) "
            "{ co = Identity(ci) z = Constant<value = float[2] {1,2}>() }> }"
        )
    )
    refused(
        parsed(
            "g (bool c, float[2] x) => (float[2] y) { z = Relu(x) y = If(c) <then_branch = t () => (float[2] z) "
            "{ z = Abs(x) }, else_branch = e () => (float[2] b) { b = Relu(x) }> }"
        )
    )


def test_cycle_through_a_subgraph_capture() -> None:
    then = helper.make_graph(
        [helper.make_node("Abs", ["y"], ["t"])], "t", [], [helper.make_tensor_value_info("t", F32, [2])]
    )
    other = helper.make_graph(
        [helper.make_node("Abs", ["x"], ["e"])], "e", [], [helper.make_tensor_value_info("e", F32, [2])]
    )
    node = helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other)
    inputs = [helper.make_tensor_value_info("c", TensorProto.BOOL, []), helper.make_tensor_value_info("x", F32, [2])]
    assert "cycle" in refused(model([node], (), inputs))


def test_unsorted_nodes_are_sorted() -> None:
    made = model(
        [
            helper.make_node("Relu", ["b"], ["y"]),
            helper.make_node("Abs", ["a"], ["b"]),
            helper.make_node("Neg", ["x"], ["a"]),
        ]
    )
    assert [n.name for n in read(made).main.nodes()] == ["neg", "abs", "relu"]


def test_a_chain_of_20000_nodes() -> None:
    nodes = [helper.make_node("Relu", [f"v{i}"], [f"v{i + 1}"]) for i in range(20_000)]
    nodes.append(helper.make_node("Abs", ["v20000"], ["y"]))
    x = [helper.make_tensor_value_info("v0", F32, ["N", 3])]
    assert len(read(model(nodes, (), x)).main) == 20_001
    assert len(read(model(nodes[::-1], (), x)).main) == 20_001


def functions(depth: int, calls: int) -> onnx.ModelProto:
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
    made = []
    for i in range(depth):
        names = ["a", *(f"t{k}" for k in range(calls - 1)), "r"]
        op, domain = ("Relu", "") if i + 1 == depth else (f"f{i + 1}", "f")
        body = [helper.make_node(op, [names[k]], [names[k + 1]], domain=domain) for k in range(calls)]
        made.append(helper.make_function("f", f"f{i}", ["a"], ["r"], body, imports))
    x, y = (helper.make_tensor_value_info(n, F32, [2]) for n in "xy")
    graph = helper.make_graph([helper.make_node("f0", ["x"], ["y"], domain="f")], "g", [x], [y])
    return helper.make_model(graph, functions=made, opset_imports=imports, ir_version=8)


def test_functions_are_bounded() -> None:
    assert len(read(functions(4, 3), functions="inline").main) == 3**4
    refused(functions(40, 2), (LimitExceeded,))
    refused(functions(30, 2), (LimitExceeded,))
    circular = functions(2, 1)
    circular.functions[1].node[0].op_type, circular.functions[1].node[0].domain = "f0", "f"
    assert "itself" in refused(circular)


@pytest.mark.parametrize("shape", [[-5, 3], [0, 3], [1 << 62, 3], [1] * 5000])
def test_odd_input_dims(shape) -> None:
    x = [helper.make_tensor_value_info("x", F32, shape)]
    survived(model([helper.make_node("Relu", ["x"], ["y"])], (), x))


# -------------------------------------------------------------------------------------------------- tensors


def tensor(**fields) -> TensorProto:
    made = TensorProto(name="w", data_type=F32)
    for name, value in fields.items():
        if isinstance(value, list):
            getattr(made, name).extend(value)
        else:
            setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    "fields",
    [
        {"dims": [2, 3], "raw_data": b"\0" * 20},
        {"dims": [2, 3], "raw_data": b"\0" * 28},
        {"dims": [2, 3], "raw_data": b"\0" * 23},
        {"dims": [2, 3], "raw_data": b""},
        {"dims": [2, 3]},
        {"dims": [-2, 3], "raw_data": b"\0" * 24},
        {"dims": [1 << 40, 1 << 40], "raw_data": b"\0" * 24},
        {"dims": [1 << 32, 1 << 32], "raw_data": b""},
        {"dims": [1 << 62], "float_data": [1.0]},
        {"dims": [2, 3], "raw_data": b"\0" * 24, "data_type": 77},
        {"dims": [2, 3], "raw_data": b"\0" * 24, "data_type": 0},
        {"dims": [6], "int32_data": [0] * 6},
        {"dims": [6], "float_data": [0.0] * 6, "raw_data": b"\0" * 24},
        {"dims": [6], "float_data": [0.0] * 5},
        {"dims": [3], "data_type": TensorProto.INT8, "int32_data": [1, 2, 300]},
        {"dims": [3], "data_type": TensorProto.BOOL, "raw_data": b"\0\1\2"},
        {"dims": [5], "data_type": TensorProto.INT4, "raw_data": b"\0\0"},
        {"dims": [5], "data_type": TensorProto.STRING, "raw_data": b"\0\0"},
        {"dims": [1] * 100, "float_data": [1.0]},
    ],
)
def test_tensors_that_lie(fields) -> None:
    text = refused(model([helper.make_node("Add", ["x", "w"], ["y"])], [tensor(**fields)]))
    assert "w" in text


def test_constants_are_checked_as_well() -> None:
    bad = tensor(dims=[2, 3], raw_data=b"\0")
    node = helper.make_node("Constant", [], ["w"], value=bad)
    refused(model([node, helper.make_node("Add", ["x", "w"], ["y"])]))


@pytest.mark.parametrize("indices", [[5, 1], [1, 1], [-1, 2], [2, 6]])
def test_sparse_indices(indices) -> None:
    values = helper.make_tensor("w", F32, [2], [1.0, 2.0])
    sparse = helper.make_sparse_tensor(values, helper.make_tensor("i", TensorProto.INT64, [2], indices), [2, 3])
    made = model([helper.make_node("Add", ["x", "w"], ["y"])])
    made.graph.sparse_initializer.append(sparse)
    refused(made)
    sparse.indices.CopyFrom(helper.make_tensor("i", TensorProto.INT64, [2], [1, 5]))
    made.graph.sparse_initializer[0].CopyFrom(sparse)
    (weight,) = read(made).weights
    assert weight.tensor.numpy().tolist() == [[0, 1, 0], [0, 0, 2]]


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf"), 1e-45])
def test_odd_scales_are_kept_with_a_note(scale: float) -> None:
    parts = [helper.make_tensor("s", F32, [], [scale]), helper.make_tensor("z", TensorProto.UINT8, [], [3])]
    out = [helper.make_tensor_value_info("y", TensorProto.UINT8, None)]
    made = read(model([helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"])], parts, None, out))
    assert bool(made.diagnostics) == (scale != 1e-45)


# -------------------------------------------------------------------------------------------- external data


def external(tmp_path, location: str | None, **keys) -> str:
    made = tensor(dims=[2, 3])
    made.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), *keys.items()):
        if value is not None:
            entry = made.external_data.add()
            entry.key, entry.value = key, str(value)
    path = tmp_path / "deep" / "m.onnx"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(model([helper.make_node("Add", ["x", "w"], ["y"])], [made]).SerializeToString())
    (path.parent / "w.bin").write_bytes(np.arange(6, dtype=np.float32).tobytes() + bytes(8))
    (path.parent / "sub").mkdir(exist_ok=True)
    (path.parent / "sub" / "w.bin").write_bytes(np.arange(6, dtype=np.float32).tobytes())
    (tmp_path / "secret.bin").write_bytes(bytes(64))
    if not (path.parent / "link.bin").exists():
        os.symlink(tmp_path / "secret.bin", path.parent / "link.bin")
        os.symlink(tmp_path, path.parent / "up")
        (path.parent / "hard.bin").write_bytes(bytes(64))
        os.link(path.parent / "hard.bin", path.parent / "hard2.bin")
    return str(path)


@pytest.mark.parametrize("location", ["w.bin", "sub/w.bin", "./w.bin"])
def test_external_data_in_the_folder(tmp_path, location: str) -> None:
    made = read(external(tmp_path, location, offset=0, length=24))
    (weight,) = made.weights
    assert weight.tensor.numpy().reshape(-1).tolist() == [0, 1, 2, 3, 4, 5]
    assert [os.path.basename(f.path) for f in made.files] == ["w.bin"]


@pytest.mark.parametrize(
    "location",
    [
        "../secret.bin",
        "sub/../../secret.bin",
        "sub/../w.bin",
        "/etc/passwd",
        "file:///etc/passwd",
        "link.bin",
        "up/secret.bin",
        "hard.bin",
        "",
        ".",
        "..",
        "w.bin\0",
        "a" * 5000,
        "missing.bin",
        "sub",
        None,
    ],
)
def test_external_locations_that_lead_elsewhere(tmp_path, location) -> None:
    assert "w" in refused(external(tmp_path, location))


@pytest.mark.parametrize(
    "keys",
    [
        {"offset": 12},
        {"offset": 1 << 50},
        {"length": 1 << 50},
        {"length": 20},
        {"length": 28},
        {"offset": -1},
        {"offset": "0x4"},
        {"offset": " 4"},
        {"offset": "٣"},
        {"length": "9" * 30},
    ],
)
def test_external_ranges_that_lie(tmp_path, keys) -> None:
    refused(external(tmp_path, "w.bin", **keys))


def test_external_data_without_a_file(tmp_path) -> None:
    path = external(tmp_path, "w.bin")
    proto = onnx.load(path, load_external_data=False)
    assert "folder" in refused(proto)
    assert len(read(proto, folder=os.path.dirname(path)).weights) == 1


# ------------------------------------------------------------------------------------- bombs and injection


@pytest.mark.parametrize("size", [1 << 30, 1 << 34, (1 << 63) - 1])
def test_huge_shapes_cost_nothing_to_read(size: int) -> None:
    shape = helper.make_tensor("s", TensorProto.INT64, [1], [size])
    survived(model([helper.make_node("ConstantOfShape", ["s"], ["y"])], [shape], []))
    survived(
        model([helper.make_node("Expand", ["x", "s"], ["y"])], [shape], [helper.make_tensor_value_info("x", F32, [1])])
    )


@pytest.mark.parametrize("delta", [1, 0, -1])
def test_huge_ranges(delta: int) -> None:
    parts = [helper.make_tensor(n, TensorProto.INT64, [], [v]) for n, v in (("a", 0), ("b", 1 << 40), ("d", delta))]
    out = [helper.make_tensor_value_info("y", TensorProto.INT64, None)]
    survived(model([helper.make_node("Range", ["a", "b", "d"], ["y"])], parts, [], out))


def test_doublings_and_nested_loops() -> None:
    nodes = [helper.make_node("Concat", [f"v{i}", f"v{i}"], [f"v{i + 1}"], axis=0) for i in range(34)]
    nodes.append(helper.make_node("Abs", ["v34"], ["y"]))
    survived(model(nodes, (), [helper.make_tensor_value_info("v0", F32, [2, 3])]))

    body: Callable[[int], str] = lambda depth: (  # noqa: E731
        f"b{depth} (int64 i{depth}, bool c{depth}, float[N] x{depth}) => (bool d{depth}, float[M] y{depth}) "
        f"{{ d{depth} = Identity(c{depth}) y{depth} = "
        + (f"Loop(n, c, x{depth}) <body = {body(depth - 1)}> }}" if depth else f"Concat<axis=0>(x{depth}, x{depth}) }}")
    )
    survived(parsed(f"g (int64 n, bool c, float[2] x) => (float[M] y) {{ y = Loop(n, c, x) <body = {body(8)}> }}"))


def test_reshapes_that_do_not_fit() -> None:
    for shape in ([5], [-1, 4], [-1, -1], [1 << 62, 1 << 62]):
        target = helper.make_tensor("s", TensorProto.INT64, [len(shape)], shape)
        refused(model([helper.make_node("Reshape", ["x", "s"], ["y"])], [target]))


NAMES = [
    "__import__('os').system('x')",
    "$(reboot)",
    "../../evil",
    "'; DROP TABLE x; --",
    '"',
    "日本語",
    "n" * 4096,
    "a\nb",
    "%s%n{0}",
]


@pytest.mark.parametrize("name", NAMES)
def test_odd_names_are_only_names(tmp_path, name: str) -> None:
    from anyir.backends import onnx as backend

    made = model([helper.make_node("Relu", ["x"], [name], name=name), helper.make_node("Abs", [name], ["y"])])
    module = read(made)
    backend.write(module, tmp_path / "out.onnx")
    assert os.listdir(tmp_path) == ["out.onnx"]
    onnx.checker.check_model(str(tmp_path / "out.onnx"), full_check=True)


def test_terminal_escapes_are_shown_escaped() -> None:
    text = refused(model([helper.make_node("Relu", ["\x1b[31mred\u202e"], ["y"])]))
    assert "\\x1b" in text and "\\u202e" in text


def test_files_that_are_none(tmp_path) -> None:
    refused(tmp_path, (InvalidModel, SystemFailure))
    os.symlink(tmp_path / "loop", tmp_path / "loop")
    refused(tmp_path / "loop", (InvalidModel, SystemFailure))
    refused(tmp_path / "absent.onnx", (InvalidModel, SystemFailure))


def test_attributes_of_old_files_without_a_type() -> None:
    made = model([helper.make_node("Softmax", ["x"], ["y"], axis=1)])
    made.graph.node[0].attribute[0].type = AttributeProto.UNDEFINED
    assert read(made).main.first.attr("axis") == 1
