"""ONNX models made by hand: a note at every place that has one, operators of unknown domains, functions."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper, parser

HEAD = '<ir_version: {ir}, opset_import: ["" : {opset}{more}]> '


def parsed(text: str, *, ir: int = 10, opset: int = 21, more: str = "") -> onnx.ModelProto:
    """A model in ONNX's own text; `more` are further imports, with a comma in front."""
    return parser.parse_model(HEAD.format(ir=ir, opset=opset, more=more) + text)


def rich() -> onnx.ModelProto:
    """A model with a note at every place that has one."""
    model = parsed(
        """net (float["batch", 2] x, float[2] w) => (float["batch", 2] y)
        <float[2] s = {0.5, 0.25}, int64[2] unused_scale = {1, 2}>
        { a = Mul(x, w) b = Add(a, s)
          c = Constant <value = bool {1}> ()
          y = If(c) <then_branch = t () => (float["batch", 2] p) { p = Neg(b) },
                     else_branch = e () => (float["batch", 2] q) { q = Abs(b) }> }"""
    )
    model.producer_name, model.producer_version, model.domain, model.model_version = "maker", "2.1", "org.me", 7
    model.doc_string, model.graph.doc_string = "the model", "the graph"
    graph = model.graph
    branch = graph.node[-1].attribute[0].g
    branch.doc_string = "the branch"
    for number, holder in enumerate(
        (
            model,
            graph,
            graph.node[0],
            graph.node[1],
            graph.input[0],
            graph.output[0],
            graph.initializer[0],
            branch,
            branch.node[0],
        )
    ):
        for key in ("first", "second"):
            entry = holder.metadata_props.add()
            entry.key, entry.value = key, f"{key} of {number}"
    for number, holder in enumerate((graph.node[0], graph.input[1], graph.output[0], graph.initializer[0])):
        holder.doc_string = f"documentation {number}"
    graph.value_info.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, ["batch", 2], doc_string="inner"))
    graph.input[0].type.denotation = "TENSOR"
    graph.input[0].type.tensor_type.shape.dim[0].denotation = "DATA_BATCH"
    annotation = graph.quantization_annotation.add()
    annotation.tensor_name = "a"
    entry = annotation.quant_parameter_tensor_names.add()
    entry.key, entry.value = "SCALE_TENSOR", "unused_scale"
    return model


def opaque_model() -> onnx.ModelProto:
    model = parsed(
        """g (float[2] x, float[N] u) => (float[2] y, float[K] z) <float[K] m, float[2] k = {5, 6}> {
            a = Relu(x)
            t, , m = their.Thing:special <
                number = 3, ratio = 0.5, word = "abc", list = [1, 2, 3], ratios = [1.0, 2.5], words = ["p", "q"],
                domain = "mine", types = 4,
                body = inner (float[2] e) => (float[2] r) { r = Add(e, a) },
                bodies = [one () => (float[2] r1) { r1 = Mul(a, k) }, two (float s) => (float q2) { q2 = Neg(s) }]
            > (a, , u, )
            y = Add(t, x)
            z = Neg(m)
        }""".replace(
            "bodies = [one () => (float[2] r1) { r1 = Mul(a, k) }, two (float s) => (float q2) { q2 = Neg(s) }]",
            "flag = 1",
        ),
        more=', "their" : 7',
    )
    node = model.graph.node[1]
    graphs = node.attribute.add()
    graphs.name, graphs.type = "bodies", onnx.AttributeProto.GRAPHS
    graphs.graphs.append(parser.parse_graph("one () => (float[2] r1) { r1 = Mul(a, k) }"))
    graphs.graphs.append(parser.parse_graph("two (float[N] s) => (float[N] q2) { q2 = Neg(s) }"))
    dense = helper.make_tensor("dense", TensorProto.FLOAT16, [2], [1, 2])
    sparse = helper.make_sparse_tensor(
        helper.make_tensor("v", TensorProto.FLOAT, [1], [5]), helper.make_tensor("i", TensorProto.INT64, [1], [1]), [3]
    )
    type_ = helper.make_tensor_type_proto(TensorProto.FLOAT, ["N", 2])
    for name, value in (
        ("dense", dense),
        ("sparse", sparse),
        ("type", type_),
        ("types_", [type_]),
        ("tensors", [dense, dense]),
    ):
        node.attribute.append(helper.make_attribute(name, value))
    for name, kind in (("no_floats", onnx.AttributeProto.FLOATS), ("no_strings", onnx.AttributeProto.STRINGS)):
        empty = node.attribute.add()
        empty.name, empty.type = name, kind
    model.graph.value_info.append(helper.make_tensor_value_info("t", TensorProto.FLOAT, [2]))
    return model


def functions() -> onnx.ModelProto:
    """Functions in functions, in a subgraph, with attributes, constants and several types."""
    model = parsed(
        """g (bool c, float[2] x) => (float[2] y, int64[2] z) {
            i = Cast <to = 7> (x)
            z = my.twice(i)
            y = If(c) <then_branch = t () => (float[2] p) { p = my.outer <slope = 0.5> (x) },
                       else_branch = e () => (float[2] q) { q = my.outer <slope = 0.25> (x) }>
        }
        <domain: "my", opset_import: ["" : 21, "my" : 1]> outer <slope> (a) => (b) {
            k = Constant <value_floats = [1.0, 2.0]> ()
            s = my.twice(a)
            r = LeakyRelu <alpha: float = @slope> (s)
            b = Add(r, k)
        }
        <domain: "my", opset_import: ["" : 21]> twice (a) => (b) { b = Add(a, a) }""",
        more=', "my" : 1',
    )
    model.functions[0].doc_string = "outer"
    model.functions[0].metadata_props.add(key="a", value="b")
    model.functions[0].value_info.append(helper.make_tensor_value_info("s", TensorProto.FLOAT, [2]))
    return model


def everything() -> list[onnx.ModelProto]:
    """All of the above, and an input with a default, a sparse tensor, device configurations."""
    more = parsed(
        "g (float[2] x, float[2] w) => (float[2] y, float[2] w) <float[2] w = {3, 4}> { a = Mul(x, w) y = Add(a, s) }",
        ir=11,
        opset=23,
    )
    values = helper.make_tensor("s", TensorProto.FLOAT, [1], [5])
    at = helper.make_tensor("s_at", TensorProto.INT64, [1], [1])
    more.graph.sparse_initializer.append(helper.make_sparse_tensor(values, at, [2]))
    more.configuration.add(name="pair", num_devices=2, device=["cpu:0", "cpu:1"])
    device = more.graph.node[0].device_configurations.add(configuration_id="pair", pipeline_stage=1)
    device.sharding_spec.add(tensor_name="a", device=[0, 1])
    return [rich(), opaque_model(), functions(), more]
