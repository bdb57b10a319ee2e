"""What a file holds beside its operators comes back: functions, metadata, defaults, opaque operators, IR versions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyir
import numpy as np
import onnx
import pytest
from anyir.backends import onnx as backend
from anyir.frontends.onnx import read
from anyir.ir.errors import InvalidModel, Unsupported, UsageError
from anyir.ir.graph import Module
from anyir.ir.parser import parse_module
from anyir.kernels.run import run
from anyir.passes.manager import run_pipeline
from anyir.tests.support.judge import assert_agrees
from anyir.tests.support.onnx_files import opaque_model, parsed, rich
from onnx import TensorProto, helper

X = np.float32([1, -2])


def written(module: Module, **options: Any) -> onnx.ModelProto:
    """The file of a module: valid, and the same again when it is read and written once more."""
    proto = backend.to_model_proto(module, **options)
    onnx.checker.check_model(proto, full_check=True)
    first = proto.SerializeToString(deterministic=True)
    again = backend.to_model_proto(read(first), **options)
    assert again.SerializeToString(deterministic=True) == first
    return proto


def round_trip(model: onnx.ModelProto, feeds: dict[str, Any] | None = None, **options: Any) -> onnx.ModelProto:
    """A valid file goes in, through text, and comes out; with `feeds` runtime and kernels agree on all of them."""
    onnx.checker.check_model(model, full_check=True)
    module = read(model, **options)
    assert parse_module(str(module), weights={w.tensor.digest(): w.tensor for w in module.weights}) == module
    assert module.clone() == module
    made = written(module)
    if feeds is not None:
        ort = pytest.importorskip("onnxruntime")
        (wanted, found) = (
            ort.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)
            for m in (model, made)
        )
        for a, b in zip(wanted, found, strict=True):
            np.testing.assert_array_equal(b, a)
        assert_agrees(module, feeds, dict(zip(module.signature.output_names(), wanted, strict=True)))
    return made


def saved(text: str, folder: Path, more: str = "") -> Path:
    onnx.save(parsed(text, more=more), folder / "m.onnx")
    return folder / "m.onnx"


def ops(proto: onnx.ModelProto) -> list[str]:
    return [n.op_type for n in proto.graph.node]


# --------------------------------------------------------------------------------------------------- functions

CALLS = "g (float[2] x) => (float[2] y) { a = my.twice(x) y = my.twice(a) }"
TWICE = '<domain: "my", opset_import: ["" : 21]> twice (a) => (b) { b = Add(a, a) }'
SLOPE = '<domain: "my", opset_import: ["" : 21]> slope <alpha> (a) => (b) { b = LeakyRelu <alpha: float = @alpha> (a) }'


def keys(proto: onnx.ModelProto) -> list[tuple[str, str, str]]:
    return [(f.domain, f.name, f.overload) for f in proto.functions]


def test_a_function_of_several_types_is_one() -> None:
    model = parsed(
        "g (float[2] x) => (float[2] y, int64[2] z) { y = my.twice(x) i = Cast<to = 7>(x) z = my.twice(i) }" + TWICE,
        more=', "my" : 3',
    )
    made = round_trip(model, {"x": X})
    assert keys(made) == [("my", "twice", "")]
    assert [n.domain for n in made.graph.node] == ["my", "", "my"]
    assert {o.domain: o.version for o in made.opset_import} == {"": 21, "my": 3}


@pytest.mark.parametrize(
    ("ir", "opset", "second"),
    [(10, 21, ("my", "slope", "1")), (8, 17, ("my", "slope_1", ""))],
    ids=["overload", "name"],
)
def test_calls_with_other_attributes_are_other_functions(ir: int, opset: int, second: tuple) -> None:
    text = """g (float[2] x) => (float[2] y)
        { a = my.slope<alpha = 0.5>(x) b = my.slope<alpha = 0.25>(a) y = my.slope<alpha = 0.5>(b) }"""
    made = round_trip(parsed(text + SLOPE.replace("21", str(opset)), ir=ir, opset=opset, more=', "my" : 1'), {"x": X})
    assert keys(made) == [("my", "slope", ""), second]
    assert [(n.op_type, n.overload) for n in made.graph.node] == [
        ("slope", ""), second[1:], ("slope", ""),
    ]  # fmt: skip
    assert made.ir_version == ir


def test_one_instance_that_a_pass_changed_becomes_a_function_of_its_own() -> None:
    module = read(parsed(CALLS + TWICE, more=', "my" : 1'))
    first = next(module.all_nodes("call"))
    (add,) = first.regions[0].nodes()
    from anyir.ir.builder import Builder

    add.replace(Builder(first.regions[0], before=add).mul(add.operands[0], 2.0))
    made = written(module)
    assert keys(made) == [("my", "twice", ""), ("my", "twice", "1")]
    assert [[n.op_type for n in f.node] for f in made.functions] == [["Constant", "Mul"], ["Add"]]


def test_functions_in_functions_in_subgraphs_with_everything_beside() -> None:
    model = parsed(
        """g (bool c, float[2] x) => (float[2] y) {
            y = If(c) <then_branch = t () => (float[2] p) { p, u = my.outer(x) },
                       else_branch = e () => (float[2] q) { q = Neg(x) }>
        }
        <domain: "my", opset_import: ["" : 21, "my" : 1]> outer (a) => (b, unused) {
            k = Constant <value_floats = [1.0, 2.0]> ()
            s = my.twice(a)
            b = Add(s, k)
            unused = Neg(b)
        }"""
        + TWICE,
        more=', "my" : 1',
    )
    outer = model.functions[0]
    outer.doc_string = "adds and doubles"
    entry = outer.metadata_props.add()
    entry.key, entry.value = "source", "outer.py:3"
    outer.node[1].doc_string = "inner call"
    outer.value_info.append(helper.make_tensor_value_info("s", TensorProto.FLOAT, [2]))
    made = round_trip(model, {"c": np.array(True), "x": X})
    again = next(f for f in made.functions if f.name == "outer")
    assert again.doc_string == "adds and doubles"
    assert [(e.key, e.value) for e in again.metadata_props] == [("source", "outer.py:3")]
    assert [info.name for info in again.value_info] == ["s"]
    assert [n.doc_string for n in again.node if n.op_type == "twice"] == ["inner call"]


def test_absent_operands_and_defaults_of_attributes() -> None:
    text = """g (float[2] x) => (float[2] y, float[2] z) { y = my.f(x) z = my.f<low = -1.0>(x, x) }
        <domain: "my", opset_import: ["" : 21, "my" : 1]> f <low: float = 0.0> (a, high) => (b) {
            l = Constant <value_float: float = @low> ()
            b = Clip(a, l, h)
            h = Identity(high)
        }"""
    text = text.replace("b = Clip(a, l, h)\n            h = Identity(high)", "b = my.g(a, l, high)")
    text += """<domain: "my", opset_import: ["" : 21]> g (a, l, high) => (b) { m = Max(a, l) b = Sum(m) }"""
    model = parsed(text, more=', "my" : 1')
    made = round_trip(model)
    assert sorted({k[1] for k in keys(made)}) == ["f", "g"]
    assert run(read(made), [X])["y"].tolist() == [1, 0]
    assert run(read(made), [X])["z"].tolist() == [1, -1]


def test_what_is_known_of_an_operand_is_known_in_the_body() -> None:
    """Elements of integers at once, contents of floats when the body is in the place of the call."""
    model = parsed(
        """g (float[2] x) => (float[2] y, float[K] z) <int64[1] k = {1}> { y = my.both(x, k) z = my.both(y, k) }
        <domain: "my", opset_import: ["" : 21]> both (a, depth) => (b) { t, i = TopK(a, depth) b = Concat <axis = 0> (t, t) }"""
    )
    model.opset_import.add(domain="my", version=1)
    kept = read(model)
    assert len(list(kept.all_nodes("call"))) == 2
    assert [str(v.type) for v in kept.main.outputs] == ["f32[2]", "f32[2]"]
    values = """g (float[1, 1, 2, 2] x) => (float[1, 1, 4, 4] y) <float[4] s = {1, 1, 2, 2}> { y = my.grow(x, s) }
        <domain: "my", opset_import: ["" : 21]> grow (a, scales) => (b) { b = Resize(a, , scales) }"""
    resized = parsed(values, more=', "my" : 1')
    feeds = {"x": np.arange(4, dtype=np.float32).reshape(1, 1, 2, 2)}
    round_trip(resized, feeds)
    module = anyir.optimize(read(resized), 1)
    assert str(module.main.outputs[0].type) == "f32[1, 1, 4, 4]"


def test_overloads_are_read_and_kept() -> None:
    model = parsed(
        """g (float[2] x) => (float[2] y) { a = my.f:one(x) y = my.f:two(a) }
        <domain: "my", overload: "one", opset_import: ["" : 21]> f (a) => (b) { b = Relu(a) }
        <domain: "my", overload: "two", opset_import: ["" : 21]> f (a) => (b) { b = Neg(a) }""",
        more=', "my" : 1',
    )
    made = round_trip(model, {"x": X})
    assert keys(made) == [("my", "f", "one"), ("my", "f", "two")]
    assert [n.overload for n in made.graph.node] == ["one", "two"]


def test_graphs_that_are_handed_to_functions() -> None:
    text = """g (bool c, float[2] x) => (float[2] y) { k = Neg(x) y = my.choose(c, k) }
        <domain: "my", opset_import: ["" : 21]> choose <body> (c, a) => (b) {
            b = If(c) <then_branch: graph = @body, else_branch: graph = @body>
        }"""
    for graph, reason in (
        ("t () => (float[2] p) <float[2] w = {1, 2}> { p = Neg(w) }", ""),
        ("t () => (float[2] p) { p = Neg(k) }", "from the caller"),
    ):
        model = parsed(text, more=', "my" : 1')
        model.graph.node[1].attribute.append(helper.make_attribute("body", onnx.parser.parse_graph(graph)))
        if reason:
            with pytest.raises(Unsupported, match=reason):
                read(model)
            continue
        assert run(read(model), [True, X])["y"].tolist() == [-1, -2]
        assert run(read(written(read(model))), [True, X])["y"].tolist() == [-1, -2]


def test_functions_are_inlined_on_demand() -> None:
    model = parsed(CALLS + TWICE, more=', "my" : 1')
    model.graph.node[0].name = "first"
    inlined = read(model, functions="inline")
    assert not list(inlined.all_nodes("call"))
    by_pass = read(model)
    run_pipeline(by_pass, "inline")
    assert by_pass == inlined
    assert [n.loc.scope for n in by_pass.main.nodes()] == [n.loc.scope for n in inlined.main.nodes()] == [
        "first",
        "twice",
    ] or [n.loc.scope for n in by_pass.main.nodes()]
    for made in (written(inlined), written(by_pass)):
        assert ops(made) == ["Add", "Add"]
        assert not made.functions
    with pytest.raises(UsageError, match="functions is 'drop'"):
        read(model, functions="drop")


def test_the_level_decides_and_functions_keep_overrules_it(tmp_path: Path) -> None:
    source = saved(CALLS + TWICE, tmp_path, ', "my" : 1')
    for name, options, count in (
        ("o0", {"level": 0}, 1),
        ("o2", {"level": 2}, 0),
        ("kept", {"level": 2, "functions": "keep"}, 1),
        ("inlined", {"level": 0, "functions": "inline"}, 0),
    ):
        report = anyir.compile(source, tmp_path / f"{name}.onnx", **options)
        assert report.verified
        assert len(onnx.load(tmp_path / f"{name}.onnx").functions) == count, name


def test_other_targets_inline_functions(tmp_path: Path) -> None:
    source = saved(CALLS + TWICE, tmp_path, ', "my" : 1')
    for suffix in ("tflite", "mindir", "py"):
        anyir.save(anyir.load(source), tmp_path / f"m.{suffix}")
        made = anyir.load(tmp_path / f"m.{suffix}")
        (y,) = run(made, [X]).values()
        assert y.tolist() == (4 * X).tolist()


def test_a_function_in_the_place_of_a_standard_operator_is_inlined() -> None:
    """Were it kept, it would catch the standard operators that we write."""
    model = parsed(
        """g (float[2] x) => (float[2] y) { y = Relu(x) }
        <domain: "", opset_import: ["" : 21]> Relu (a) => (b) { b = Neg(a) }"""
    )
    made = backend.to_model_proto(read(model))
    assert ops(made) == ["Neg"]
    assert not made.functions


# ---------------------------------------------------------------------------------------------------- metadata


def test_metadata_comes_back_everywhere() -> None:
    model = rich()
    module = read(model)
    assert [w.key for w in module.weights][:1] == ["s"]
    made = round_trip(model, {"x": np.float32([[1, -2]]), "w": X})
    wanted = onnx.ModelProto()
    wanted.CopyFrom(model)
    graph, other = wanted.graph, made.graph
    for field in ("producer_name", "producer_version", "domain", "model_version", "doc_string", "metadata_props"):
        assert getattr(made, field) == getattr(wanted, field), field
    for field in ("name", "doc_string", "metadata_props", "input", "output", "quantization_annotation"):
        assert getattr(other, field) == getattr(graph, field), field
    assert [v.name for v in other.value_info] == ["b"]
    assert other.value_info[0].doc_string == "inner"
    tensors = {t.name: t for t in other.initializer}
    assert tensors["s"].doc_string == "documentation 3"
    assert tensors["s"].metadata_props == graph.initializer[0].metadata_props
    assert "unused_scale" in tensors
    nodes = {n.op_type: n for n in other.node}
    assert nodes["Mul"].doc_string == "documentation 0"
    assert [(e.key, e.value) for e in nodes["Add"].metadata_props] == [
        ("first", "first of 3"),
        ("second", "second of 3"),
    ]


def test_notes_on_graphs_that_are_attributes() -> None:
    model = rich()
    model.graph.node[2].CopyFrom(helper.make_node("Identity", ["flag"], ["c"]))
    model.graph.input.append(helper.make_tensor_value_info("flag", TensorProto.BOOL, []))
    made = round_trip(model, {"x": np.float32([[1, -2]]), "w": X, "flag": np.array(False)})
    node = next(n for n in made.graph.node if n.op_type == "If")
    branch = next(a.g for a in node.attribute if a.name == "then_branch")
    assert branch.doc_string == "the branch"
    assert [e.value for e in branch.metadata_props] == ["first of 7", "second of 7"]
    assert [e.value for e in branch.node[0].metadata_props] == ["first of 8", "second of 8"]


def test_types_that_the_source_states_stay_while_its_values_do() -> None:
    model = parsed("g (float[N] x) => (float[N] y) { a = Relu(x) b = Identity(a) c = Abs(b) y = Neg(c) }")
    for name in "abc":
        model.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N"]))
    made = round_trip(model, {"x": X})
    assert [info.name for info in made.graph.value_info] == ["a", "b", "c"]
    shorter = written(anyir.optimize(read(model), 1)).graph
    assert len(shorter.node) < 4 and not shorter.value_info


def test_metadata_needs_its_ir_version_and_survives_optimisation() -> None:
    model = rich()
    model.opset_import[0].version = 17
    made = round_trip(model)
    assert (made.ir_version, made.opset_import[0].version) == (10, 17)
    module = anyir.optimize(read(model), 2)
    made = written(module)
    assert made.graph.doc_string == "the graph"
    assert made.graph.input[0].metadata_props == model.graph.input[0].metadata_props


def test_plain_files_keep_a_low_ir_version() -> None:
    assert round_trip(parsed("g (float[2] x) => (float[2] y) { y = Relu(x) }", ir=10, opset=13)).ir_version == 7


def test_device_configurations() -> None:
    model = parsed("g (float[2] x) => (float[2] y) { a = Relu(x) y = Neg(a) }", ir=11, opset=23)
    configuration = model.configuration.add()
    configuration.name, configuration.num_devices = "pair", 2
    configuration.device.extend(["cpu:0", "cpu:1"])
    node = model.graph.node[0].device_configurations.add()
    node.configuration_id, node.pipeline_stage = "pair", 1
    spec = node.sharding_spec.add()
    spec.tensor_name = "a"
    spec.device.extend([0, 1])
    made = round_trip(model, {"x": X})
    assert made.configuration == model.configuration
    assert made.graph.node[0].device_configurations == model.graph.node[0].device_configurations
    assert made.ir_version == 11


def test_training_info_is_left_out_and_said() -> None:
    model = parsed("g (float[2] x) => (float[2] y) { y = Relu(x) }")
    model.training_info.add().initialization.name = "start"
    module = read(model)
    assert any("training_info" in text for text in module.diagnostics)
    assert not written(module).training_info


def test_malformed_metadata_of_a_text_is_refused() -> None:
    for key, value in (
        ("onnx.values", "[1]"),
        ("onnx.values", '{"x":3}'),
        ("onnx.values", '{"x":{"metadata_props":[1]}}'),
        ("onnx.value_info", "{"),
        ("onnx.configuration", "[[1]]"),
        ("onnx.quantization", '{"x":{"S":["a"]}}'),
        ("onnx.quantization", '{"x":{"S":["a","zz"]}}'),
    ):
        module = read(parsed("g (float[2] x) => (float[2] y) { y = Relu(x) }"))
        module.metadata[key] = value
        with pytest.raises(InvalidModel):
            backend.to_model_proto(module)


# --------------------------------------------------------------------------- initializers, inputs and outputs


DEFAULT = "g (float[2] x, float[2] w) => (float[2] y) <float[2] w = {3, 4}> { y = Mul(x, w) }"


def test_an_input_with_a_default_stays_one() -> None:
    model = parsed(DEFAULT)
    made = round_trip(model, {"x": X})
    assert [i.name for i in made.graph.input] == ["x", "w"]
    assert [t.name for t in made.graph.initializer] == ["w"]
    module = read(made)
    assert run(module, [X])["y"].tolist() == [3, -8]
    assert run(module, {"x": X, "w": np.float32([1, 2])})["y"].tolist() == [1, -4]
    assert run(anyir.optimize(module, 2), [X, np.float32([1, 2])])["y"].tolist() == [1, -4]


def test_a_default_can_be_fixed() -> None:
    fixed = read(parsed(DEFAULT), defaults="fix")
    assert "fixed" in fixed.diagnostics[0]
    by_pass = read(parsed(DEFAULT))
    run_pipeline(by_pass, "fix-defaults")
    assert by_pass == fixed
    made = written(by_pass)
    assert [i.name for i in made.graph.input] == ["x"]
    assert [i.name for i in round_trip(parsed(DEFAULT, ir=3), {"x": X}).graph.input] == ["x"]


def test_targets_without_defaults_get_constants(tmp_path: Path) -> None:
    onnx.save(parsed(DEFAULT), tmp_path / "m.onnx")
    anyir.save(anyir.load(tmp_path / "m.onnx"), tmp_path / "m.tflite")
    assert anyir.load(tmp_path / "m.tflite").signature.input_names() == ["x"]
    assert anyir.compile(tmp_path / "m.onnx", tmp_path / "n.tflite").verified
    assert anyir.compile(tmp_path / "m.onnx", tmp_path / "n.onnx").verified
    assert [i.name for i in onnx.load(tmp_path / "n.onnx").graph.input] == ["x", "w"]
    assert anyir.compile(tmp_path / "m.onnx", tmp_path / "f.onnx", defaults="fix").verified
    assert [i.name for i in onnx.load(tmp_path / "f.onnx").graph.input] == ["x"]


@pytest.mark.parametrize(
    "text",
    [
        "g (float[2] x) => (float[2] x) { }",
        "g (float[2] x) => (float[2] w) <float[2] w = {1, 2}> { }",
        "g (float[2] x, float[2] w) => (float[2] w) <float[2] w = {1, 2}> { }",
        "g (float[2] x) => (float[2] y, float[2] x, float[2] w) <float[2] w = {1, 2}> { y = Add(x, w) }",
        "g (float[2] x) => (float[2] y, float[2] z) { y = Relu(x) z = Identity(y) }",
        "g (float[2] x) => (float[2] y, float[2] z) { y = Identity(x) z = Identity(x) }",
    ],
    ids=["input", "weight", "default", "both", "twice", "copies"],
)
def test_outputs_of_all_kinds(text: str) -> None:
    model = parsed(text)
    made = round_trip(model, {"x": X})
    assert [o.name for o in made.graph.output] == [o.name for o in model.graph.output]
    assert [i.name for i in made.graph.input] == [i.name for i in model.graph.input]


def test_an_output_that_is_listed_twice_gets_a_second_name() -> None:
    model = parsed("g (float[2] x) => (float[2] y, float[2] y) { y = Relu(x) }")
    onnx.checker.check_model(model, full_check=True)
    module = read(model)
    assert module.signature.output_names() == ["y", "y_1"]
    assert "listed twice" in module.diagnostics[0]
    assert [o.name for o in written(module).graph.output] == ["y", "y_1"]


# ------------------------------------------------------------------------------------------- opaque operators


def by_name(node: onnx.NodeProto) -> dict[str, bytes]:
    made = {}
    for a in node.attribute:
        if a.name in ("dense", "tensors"):  # their data may move from a typed field into raw_data
            tensors = [a.t] if a.name == "dense" else a.tensors
            made[a.name] = b"".join(onnx.numpy_helper.to_array(t).tobytes() for t in tensors)
        elif a.name not in ("body", "bodies"):
            made[a.name] = a.SerializeToString(deterministic=True)
    return made


def test_operators_of_unknown_domains_come_back_untouched() -> None:
    model = opaque_model()
    made = round_trip(model)
    before, after = (next(n for n in m.graph.node if n.domain == "their") for m in (model, made))
    assert (after.op_type, after.overload, after.domain) == (before.op_type, "special", "their")
    assert list(after.input) == list(before.input)
    assert list(after.output) == list(before.output)
    assert by_name(after) == by_name(before)
    graphs = {a.name: a for a in after.attribute}
    assert [n.op_type for n in graphs["body"].g.node] == ["Add"]
    assert list(graphs["body"].g.node[0].input)[1] == "a"
    assert [[n.op_type for n in g.node] for g in graphs["bodies"].graphs] == [["Mul"], ["Neg"]]
    assert list(graphs["bodies"].graphs[0].node[0].input) == ["a", "k"]
    assert [i.name for i in graphs["bodies"].graphs[1].input] == ["s"]
    assert {o.domain: o.version for o in made.opset_import}["their"] == 7


def test_opaque_operators_survive_every_level_and_other_opsets() -> None:
    for level in range(4):
        made = written(anyir.optimize(read(opaque_model()), level), opset=25)
        assert [n.op_type for n in made.graph.node if n.domain] == ["Thing"]


def test_opaque_operators_in_subgraphs_and_functions() -> None:
    text = """g (bool c, float[2] x) => (float[2] y) {
            y = If(c) <then_branch = t () => (float[2] p) { p = their.Op <alpha = 2> (x) },
                       else_branch = e () => (float[2] q) { q = my.f <n = 4> (x) }>
        }
        <domain: "my", opset_import: ["" : 21, "their" : 9]> f <n> (a) => (b) { b = their.Op <alpha: int = @n> (a) }"""
    made = round_trip(parsed(text, more=', "their" : 7, "my" : 1'))
    branch = made.graph.node[0].attribute
    assert [(n.domain, n.attribute[0].i) for a in branch for n in a.g.node if n.op_type == "Op"] == [("their", 2)]
    (function,) = made.functions
    assert function.node[0].attribute[0].i == 4
    assert {o.domain: o.version for o in function.opset_import} == {"": 21, "their": 9}
    with pytest.raises(InvalidModel, match="versions"):
        backend.to_model_proto(read(parsed(text, more=', "their" : 7, "my" : 1'), functions="inline"))


# ------------------------------------------------------------------------------------------------------- opsets


def test_a_refusal_names_the_lowest_opset_that_works() -> None:
    model = parsed(
        "g (float[2] x) => (uint8[8] y) { b = BitCast <to = 12> (x) y = BitCast <to = 2> (b) }", ir=13, opset=26
    )
    model.graph.ClearField("node")
    model.graph.node.extend([helper.make_node("BitCast", ["x"], ["y"], to=TensorProto.UINT32)])
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.UINT32, [2]))
    module = read(model)
    with pytest.raises(Unsupported, match="bitcast") as caught:
        backend.to_model_proto(module, opset=13)
    assert caught.value.hint == "--opset 26 works"
    assert written(module, opset=26).opset_import[0].version == 26
    assert written(module).opset_import[0].version == 26
