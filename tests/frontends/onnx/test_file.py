"""What a file may hold besides operators: IR versions, domains, sparse and external tensors, notes, unknown parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyir
import numpy as np
import onnx
import pytest
from anyir.frontends.onnx import read
from anyir.ir.errors import InvalidModel, LimitExceeded, Unsupported
from anyir.ir.graph import Module
from anyir.ir.loc import Loc
from anyir.ir.parser import parse_module
from anyir.ir.tensor import MappedTensor
from anyir.kernels.run import run
from onnx import TensorProto, helper, numpy_helper, parser

F = TensorProto.FLOAT
X = np.float32([1, -2])


def parsed(text: str, *, ir: int = 10, imports: str = '"" : 21') -> onnx.ModelProto:
    return parser.parse_model(f"<ir_version: {ir}, opset_import: [{imports}]> {text}")


def outputs(module: Module, *feeds: Any) -> list[list]:
    return [value.tolist() for value in run(module, feeds).values()]


RELU = "g (float[2] x) => (float[2] y) { y = Relu(x) }"

# ---------------------------------------------------------------------------------------- versions and domains


@pytest.mark.parametrize("ir", range(1, onnx.IR_VERSION + 1))
def test_every_ir_version(ir: int) -> None:
    model = parsed(RELU, ir=ir, imports='"" : 1' if ir < 3 else '"" : 6' if ir < 10 else '"" : 21')
    if ir < 3:
        del model.opset_import[:]
    onnx.checker.check_model(model)
    assert outputs(read(model), X) == [[1, 0]]


def test_an_unknown_ir_version_is_refused() -> None:
    model = parsed(RELU)
    for ir in (0, onnx.IR_VERSION + 1):
        model.ir_version = ir
        with pytest.raises(InvalidModel, match="ir_version"):
            read(model)


def test_files_of_ir_version_one_state_no_types_of_attributes() -> None:
    model = parsed("g (float[2] x) => (float[2] y) { y = LeakyRelu <alpha = 0.5> (x) }", ir=1, imports='"" : 1')
    del model.opset_import[:]
    model.graph.node[0].attribute[0].ClearField("type")
    assert outputs(read(model), X) == [[1, -1]]


def test_no_default_domain() -> None:
    model = parsed(
        "g (float[2] x) => (float[2] y) { y = ai.onnx.ml.Scaler <offset = [1.0], scale = [2.0]> (x) }",
        imports='"ai.onnx.ml" : 3',
    )
    onnx.checker.check_model(model, full_check=True)
    assert outputs(read(model), X) == [[0, -6]]


def test_the_default_domain_spelled_out() -> None:
    model = parsed(RELU, imports='"ai.onnx" : 21')
    model.graph.node[0].domain = "ai.onnx"
    assert outputs(read(model), X) == [[1, 0]]


def test_imports_that_come_twice() -> None:
    model = parsed(RELU, imports='"" : 21, "ai.onnx" : 21')
    assert outputs(read(model), X) == [[1, 0]]
    model.opset_import[1].version = 13
    with pytest.raises(InvalidModel, match="imported twice"):
        read(model)


def test_imports_of_domains_that_nobody_knows() -> None:
    model = parsed(RELU, imports='"" : 21, "never.used" : 99, "unversioned" : 0')
    assert outputs(read(model), X) == [[1, 0]]
    model.opset_import[0].version = 99
    with pytest.raises(Unsupported, match="opset 99"):
        read(model)


def test_an_empty_graph_and_one_without_inputs() -> None:
    assert outputs(read(parsed("g (float[2] x) => (float[2] x) { }")), X) == [[1, -2]]
    made = read(parsed("g () => (float[2] y) <float[2] w = {1, 2}> { y = Neg(w) }"))
    assert outputs(made) == [[-1, -2]]
    nothing = read(parsed("g () => () { }"))
    assert outputs(nothing) == []


# ------------------------------------------------------------------------------------------------------- notes


def test_notes_travel_with_origins() -> None:
    model = parsed("g (float[2] x) => (float[2] y) { [first] a = Relu(x) [second] y = Neg(a) }")
    for node in model.graph.node:
        node.doc_string = f"doc of {node.name}"
        entry = node.metadata_props.add()
        entry.key, entry.value = "scope", f'a "quoted" {node.name}\n'
    module = read(model)
    locs = [node.loc for node in module.main.nodes()]
    assert [dict(loc.notes) for loc in locs] == [
        {"doc_string": f"doc of {name}", "prop.scope": f'a "quoted" {name}\n'} for name in ("first", "second")
    ]
    again = parse_module(str(module))
    assert [node.loc for node in again.main.nodes()] == locs
    assert [node.loc for node in module.clone().main.nodes()] == locs
    fused = Loc.fuse(locs, "tag")
    assert [leaf.notes for leaf in fused.fused] == [loc.notes for loc in locs]
    assert Loc.fuse([locs[0].tagged("one"), locs[0]]).notes == locs[0].notes


def test_names_that_are_not_text_are_refused_in_notes_too() -> None:
    data = parsed(RELU)
    data.graph.node[0].doc_string = "MARK"
    raw = data.SerializeToString().replace(b"MARK", b"\xff\xfe\xfd\xfc")
    with pytest.raises(InvalidModel):
        read(raw)


# ---------------------------------------------------------------------------------------------- sparse tensors


def sparse(indices: Any, dims: list[int], values: Any = (5.0, 6.0), name: str = "s") -> onnx.SparseTensorProto:
    at = np.asarray(indices, np.int64)
    return helper.make_sparse_tensor(
        helper.make_tensor(name, F, [len(values)], values),
        helper.make_tensor(f"{name}_at", TensorProto.INT64, at.shape, at.reshape(-1)),
        dims,
    )


@pytest.mark.parametrize("indices", [[1, 5], [[0, 1], [1, 2]]], ids=["linear", "coordinates"])
def test_sparse_initializers_and_constants(indices: list) -> None:
    wanted = [[0, 5, 0], [0, 0, 6]]
    model = parsed("g (float[2, 3] x) => (float[2, 3] y) { y = Add(x, s) }")
    model.graph.sparse_initializer.append(sparse(indices, [2, 3]))
    onnx.checker.check_model(model)
    assert outputs(read(model), np.zeros((2, 3), np.float32)) == [wanted]
    constant = helper.make_node("Constant", [], ["s"], sparse_value=sparse(indices, [2, 3]))
    model.graph.ClearField("sparse_initializer")
    model.graph.node.insert(0, constant)
    assert outputs(read(model), np.zeros((2, 3), np.float32)) == [wanted]


def test_a_sparse_default() -> None:
    model = parsed("g (float[2] x, float[2] s) => (float[2] y) { y = Add(x, s) }")
    model.graph.sparse_initializer.append(sparse([1], [2], [7.0]))
    module = read(model)
    assert module.signature.input_names() == ["x", "s"]
    assert outputs(module, X) == [[1, 5]]
    assert outputs(module, X, X) == [[2, -4]]


@pytest.mark.parametrize(
    ("attribute", "value", "wanted"),
    [
        ("value_float", 2.5, 2.5),
        ("value_floats", [1.0, 2.0], [1, 2]),
        ("value_int", 7, 7),
        ("value_ints", [7, 8], [7, 8]),
        ("value_string", "a", b"a"),
        ("value_strings", ["a", "b"], [b"a", b"b"]),
    ],
)
def test_all_forms_of_constants(attribute: str, value: Any, wanted: Any) -> None:
    kind = F if "float" in attribute else TensorProto.INT64 if "int" in attribute else TensorProto.STRING
    graph = helper.make_graph(
        [helper.make_node("Constant", [], ["c"], **{attribute: value}), helper.make_node("Identity", ["c"], ["y"])],
        "g",
        [],
        [helper.make_tensor_value_info("y", kind, [len(value)] if attribute.endswith("s") else [])],
    )
    (made,) = outputs(read(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)))
    as_bytes = [v.encode() if isinstance(v, str) else v for v in (made if isinstance(made, list) else [made])]
    assert as_bytes == (wanted if isinstance(wanted, list) else [wanted])


# ----------------------------------------------------------------------------------------------- external data


def external(
    name: str, array: np.ndarray, folder: Path, location: str, *, offset: int | None = None, **more: str
) -> TensorProto:
    """A TensorProto whose data lie in a file, at `offset` (None: at its beginning, and nothing is said of it)."""
    proto = numpy_helper.from_array(array, name)
    proto.ClearField("raw_data")
    proto.data_location = TensorProto.EXTERNAL
    entries = {"location": location, **({} if offset is None else {"offset": str(offset)}), **more}
    for key, value in entries.items():
        proto.external_data.add(key=key, value=value)
    path = folder / location
    path.parent.mkdir(exist_ok=True)
    with path.open("r+b" if path.exists() else "w+b") as file:
        file.seek(offset or 0)
        file.write(array.tobytes())
    return proto


def test_external_data_of_many_files_in_every_place(tmp_path: Path) -> None:
    """Initializers, attributes, subgraphs, functions, sparse parts; with and without offset, length and checksum."""
    model = parsed(
        """g (bool c, float[2] x) => (float[2] y) {
            t = Add(x, a) u = Add(t, b) v = Add(u, k) s_ = Add(v, s)
            w = If(c) <then_branch = one () => (float[2] p) { p = Add(s_, inner) },
                       else_branch = two () => (float[2] q) { q = Neg(s_) }>
            y = my.f(w)
        }
        <domain: "my", opset_import: ["" : 21]> f (a) => (b) { m = Constant <value = float[2] {0, 0}> () b = Add(a, m) }""",
        imports='"" : 21, "my" : 1',
    )
    ones = np.ones(2, np.float32)
    graph = model.graph
    graph.initializer.append(external("a", ones, tmp_path, "one.bin", checksum="not looked at"))
    graph.initializer.append(external("b", 2 * ones, tmp_path, "folder/two.bin", offset=4096, length="8"))
    constant = helper.make_node("Constant", [], ["k"])
    constant.attribute.append(helper.make_attribute("value", external("", 3 * ones, tmp_path, "two.bin", offset=64)))
    graph.node.insert(2, constant)
    values = external("s", np.float32([4]), tmp_path, "sparse.bin", offset=0)
    at = external("s_at", np.int64([1]), tmp_path, "sparse.bin", offset=8)
    graph.sparse_initializer.append(onnx.SparseTensorProto(values=values, indices=at, dims=[2]))
    branch = next(n for n in graph.node if n.op_type == "If").attribute[0].g
    branch.initializer.append(external("inner", 5 * ones, tmp_path, "one.bin", offset=8))
    model.functions[0].node[0].attribute[0].t.CopyFrom(external("", 6 * ones, tmp_path, "three.bin"))
    onnx.save(model, tmp_path / "m.onnx")
    wanted = [[1 + 1 + 2 + 3 + 5 + 6, -2 + 1 + 2 + 3 + 4 + 5 + 6]]
    for options in ({}, {"functions": "inline"}):
        module = read(tmp_path / "m.onnx", **options)
        assert outputs(module, True, X) == wanted
        assert len({file.path for file in module.files}) >= 4
        assert sum(isinstance(weight.tensor, MappedTensor) for weight in module.weights) >= 3
        (tmp_path / "out").mkdir(exist_ok=True)
        anyir.save(module, tmp_path / "out" / "m.onnx", external_data=True)
        onnx.checker.check_model(tmp_path / "out" / "m.onnx", full_check=True)
        assert outputs(anyir.load(tmp_path / "out" / "m.onnx"), True, X) == wanted


def test_large_weights_are_written_once_and_aligned(tmp_path: Path) -> None:
    model = parsed("g (float[N, 32] x) => (float[N, 32] y) { a = MatMul(x, w) b = MatMul(a, v) y = MatMul(b, u) }")
    weights = np.arange(1024, dtype=np.float32).reshape(32, 32) / 1024
    for name, array in (("w", weights), ("v", weights), ("u", weights.T.copy())):
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    onnx.save(model, tmp_path / "m.onnx")
    anyir.save(anyir.load(tmp_path / "m.onnx"), tmp_path / "n.onnx", external_data=True)
    made = onnx.load(tmp_path / "n.onnx", load_external_data=False)
    places = [{e.key: e.value for e in t.external_data} for t in made.graph.initializer]
    assert {p["location"] for p in places} == {"n.onnx.data"}
    offsets = [int(p["offset"]) for p in places]
    assert offsets[0] == offsets[1] != offsets[2]
    assert all(at % 4096 == 0 for at in offsets)
    feeds = np.ones((1, 32), np.float32)
    assert outputs(anyir.load(tmp_path / "n.onnx"), feeds) == outputs(anyir.load(tmp_path / "m.onnx"), feeds)


def test_a_constant_of_a_function_is_one_weight_for_all_calls() -> None:
    calls = " ".join(f"x{n + 1} = my.f(x{n})" for n in range(5))
    numbers = ", ".join(["1.5"] * 300)
    model = parsed(
        f"""g (float[300] x0) => (float[300] x5) {{ {calls} }}
        <domain: "my", opset_import: ["" : 21]> f (a) => (b) {{ m = Constant <value_floats = [{numbers}]> () b = Mul(a, m) }}""",
        imports='"" : 21, "my" : 1',
    )
    for kind in ("keep", "inline"):
        assert len(list(read(model, functions=kind).weights)) == 1


def test_the_limit_on_dense_forms_of_sparse_tensors() -> None:
    model = parsed("g () => (float[N] y) { y = Identity(s) }")
    model.graph.sparse_initializer.append(sparse([1, 5], [1 << 40]))
    with pytest.raises(LimitExceeded):
        read(model)
