"""Hostile ONNX files in what they hold beside plain nodes: notes, texts, functions, types, sparse and external tensors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
from anyir.tests.security.corpus import bytes_case, case
from anyir.tests.security.corpus_onnx import F32, I64, N, Nodes, field, info, varint
from anyir.tests.security.corpus_operators import BOOL, HUGE, f32, net
from onnx import TensorProto, helper


def _relu(**options: object) -> onnx.ModelProto:
    return net([N("Relu", ["x"], ["y"])], **options)  # type: ignore[arg-type]


def _edited(change: Callable[[onnx.ModelProto], object]) -> Callable[[], onnx.ModelProto]:
    def make() -> onnx.ModelProto:
        made = net([N("Relu", ["x"], ["a"], "n"), N("Add", ["a", "w"], ["y"])], [f32("w", [1.0, 2.0, 3.0])])
        change(made)
        return made

    return make


def entry(key: str, value: str) -> onnx.StringStringEntryProto:
    return onnx.StringStringEntryProto(key=key, value=value)


ODD = "\x1b[2J\x00\u202e\ud7ff\r\n" + "z" * 3000


def _props(count: int) -> Callable[[], onnx.ModelProto]:
    def change(made: onnx.ModelProto) -> None:
        for target in (made, made.graph, made.graph.node[0]):
            target.metadata_props.extend(entry(f"key {i}", "v") for i in range(count))

    return _edited(change)


def _configured(nodes: int, axis: int) -> Callable[[], onnx.ModelProto]:
    """Devices and shardings of odd numbers."""

    def change(made: onnx.ModelProto) -> None:
        made.ir_version = 11
        made.configuration.add(name="c" + ODD, num_devices=nodes, device=["d"] * 3)
        spec = made.graph.node[0].device_configurations.add(configuration_id="not there", pipeline_stage=nodes)
        sharding = spec.sharding_spec.add(tensor_name="not there", device=[axis, -axis])
        sharding.sharded_dim.add(axis=axis).simple_sharding.add(dim_value=axis, num_shards=axis)

    return _edited(change)


def _annotated(made: onnx.ModelProto) -> None:
    for name in ("not there", "a", "a", ""):
        note = made.graph.quantization_annotation.add(tensor_name=name)
        note.quant_parameter_tensor_names.extend([entry("SCALE_TENSOR", "nor there"), entry("SCALE_TENSOR", "w")])


def _training(made: onnx.ModelProto) -> None:
    info_ = made.training_info.add()
    info_.algorithm.node.append(N("Nonsense", ["ghost"], ["w"]))
    info_.algorithm.initializer.append(TensorProto(name="t", data_type=77, dims=[-1, 1 << 62]))
    info_.update_binding.append(entry("ghost", "spook"))


def _defaults(made: onnx.ModelProto) -> None:
    made.graph.input.append(info("w", [1 << 62, 3]))


def _texts(made: onnx.ModelProto) -> None:
    made.producer_name = made.producer_version = made.domain = made.doc_string = ODD
    made.graph.doc_string = made.graph.name = made.graph.node[0].doc_string = made.graph.node[0].name = ODD
    made.graph.initializer[0].doc_string = made.graph.input[0].doc_string = ODD
    made.graph.input[0].type.denotation = made.graph.input[0].type.tensor_type.shape.dim[0].denotation = ODD
    made.graph.input[0].type.tensor_type.shape.dim[0].dim_param = ODD


def _opaque(depth: int) -> bytes:
    """Graphs in attributes of an unknown operator, by hand: protobuf itself refuses to build them."""
    graph = field(2, b"deep")
    for _ in range(depth):
        attribute = field(1, b"body") + field(6, graph) + varint(20 << 3) + varint(5)
        graph = field(1, field(4, b"Odd") + field(7, b"mine") + field(2, b"y") + field(5, attribute)) + field(2, b"g")
    opsets = field(8, varint(2 << 3) + varint(17)) + field(8, field(1, b"mine") + varint(2 << 3) + varint(1))
    return varint(1 << 3) + varint(8) + field(7, graph) + opsets


def _types(depth: int) -> bytes:
    """sequence(sequence(... float)) as the type of an input."""
    kind = field(1, varint(1 << 3) + varint(1))
    for _ in range(depth):
        kind = field(4, field(1, kind))
    node = field(1, b"x") + field(2, b"y") + field(4, b"Identity")
    graph = field(1, node) + field(2, b"g") + field(11, field(1, b"x") + field(2, kind)) + field(12, field(1, b"y"))
    return varint(1 << 3) + varint(8) + field(7, graph) + field(8, varint(2 << 3) + varint(17))


def _sparse(indices: list[int], dims: list[int], shape: list[int] | None = None) -> Callable[[], onnx.ModelProto]:
    def change(made: onnx.ModelProto) -> None:
        values = helper.make_tensor("s", F32, [2], [1.0, 2.0])
        where = helper.make_tensor("", I64, shape or [len(indices)], indices)
        made.graph.sparse_initializer.append(onnx.SparseTensorProto(values=values, indices=where, dims=dims))
        made.graph.node.append(N("Add", ["y0", "s"], ["y"]))
        made.graph.node[1].output[0] = "y0"

    return _edited(change)


def _functions(depth: int, calls: int, *, circle: bool = False, nested: bool = False) -> onnx.ModelProto:
    """Functions in a row, each calling the next; `nested` calls stand in the branch of an If."""
    opsets = [helper.make_opsetid("", 22), helper.make_opsetid("mine", 1)]
    made = net([N("f0", ["x"], ["y"], domain="mine")], mine=1)
    for i in range(depth):
        last = i + 1 == depth
        target = (
            N("Relu", ["a"], ["b0"]) if last and not circle else N(f"f{(i + 1) % depth}", ["a"], ["b0"], domain="mine")
        )
        nodes = [target, *(N(target.op_type, [f"b{k}"], [f"b{k + 1}"], domain=target.domain) for k in range(calls - 1))]
        end = f"b{calls - 1}"
        if nested:
            then = helper.make_graph(nodes, "then", [], [info(end, None)])
            other = helper.make_graph([N("Identity", ["a"], ["e"])], "else", [], [info("e", None)])
            nodes = [
                N("ReduceSum", ["a"], ["sum"], keepdims=0), N("Cast", ["sum"], ["c"], to=BOOL),
                N("If", ["c"], ["out"], then_branch=then, else_branch=other),
            ]  # fmt: skip
            end = "out"
        made.functions.append(helper.make_function("mine", f"f{i}", ["a"], [end], nodes, opsets))
    return made


def _function_twice() -> onnx.ModelProto:
    made = _functions(1, 1)
    made.functions.append(made.functions[0])
    return made


def _raw_text(where: bytes) -> bytes:
    """A Relu with bytes that are not UTF-8 as one of its texts, told by a field number of the node."""
    node = field(1, b"x") + field(2, b"y") + field(4, b"Relu") + where
    kind = field(1, varint(1 << 3) + varint(1) + field(2, field(1, varint(1 << 3) + varint(3))))
    graph = field(1, node) + field(2, b"g") + field(11, field(1, b"x") + field(2, kind)) + field(12, field(1, b"y"))
    return varint(1 << 3) + varint(8) + field(7, graph) + field(8, varint(2 << 3) + varint(17))


BESIDE: dict[str, Callable[[], onnx.ModelProto | bytes]] = {
    "100000 properties three times": _props(100_000),
    "the same property twice": _edited(lambda m: m.metadata_props.extend([entry("k", "a"), entry("k", "b")])),
    "devices of odd numbers": _configured(-5, 1 << 40),
    "devices of numbers that are too large": _configured((1 << 31) - 1, (1 << 63) - 1),
    "annotations of tensors that are not there": _edited(_annotated),
    "training_info of nonsense": _edited(_training),
    "a default of another shape": _edited(_defaults),
    "texts of control characters": _edited(_texts),
    "functions in a row, 30 levels": lambda: _functions(30, 1),
    "functions of twice the next, 10 levels": lambda: _functions(10, 2),
    "functions in branches, 20 levels": lambda: _functions(20, 1, nested=True),
    "value_info of names that are not there": _edited(lambda m: m.graph.value_info.extend([info("ghost", [1])] * 1000)),
    "opaque graphs nested 20 deep": lambda: _opaque(20),
    "types nested 20 deep": lambda: _types(20),
    **{f"a text that is not UTF-8 in field {n}": lambda n=n: _raw_text(field(n, b"\xff\xfe\x80")) for n in (3, 6, 8)},
}
BROKEN: dict[str, Callable[[], onnx.ModelProto | bytes]] = {
    "opaque graphs nested 70 deep": lambda: _opaque(70),
    "opaque graphs nested 2000 deep": lambda: _opaque(2000),
    "types nested 2000 deep": lambda: _types(2000),
    "a sparse index outside": _sparse([1, 9], [2, 3]),
    "a sparse index twice": _sparse([1, 1], [2, 3]),
    "sparse indices unsorted": _sparse([4, 1], [2, 3]),
    "a sparse index below 0": _sparse([-1, 1], [2, 3]),
    "sparse pairs of another rank": _sparse([0, 1, 0, 2], [2, 3, 1], [2, 2]),
    "a sparse tensor of negative dims": _sparse([0, 1], [-2, -3]),
    "functions of twice the next, 31 levels": lambda: _functions(31, 2),
    "functions in a row, 33 levels": lambda: _functions(33, 1),
    "functions in a circle": lambda: _functions(3, 1, circle=True),
    "functions in a circle of branches": lambda: _functions(3, 1, circle=True, nested=True),
    "a function defined twice": _function_twice,
    "an operator that is not UTF-8": lambda: _raw_text(field(4, b"Relu\xff")),
    "an input that is not UTF-8": lambda: _raw_text(field(1, b"\xff")),
    "an initializer defined twice": _edited(lambda m: m.graph.initializer.append(f32("w", [1.0, 2.0, 4.0]))),
    "an attribute twice": lambda: net(
        [
            onnx.NodeProto(
                op_type="Softmax", input=["x"], output=["y"],
                attribute=[helper.make_attribute("axis", a) for a in (0, 1)],
            )
        ]
    ),
    "an input twice": _edited(lambda m: m.graph.input.append(m.graph.input[0])),
    "a domain twice": _edited(lambda m: m.opset_import.append(helper.make_opsetid("", 7))),
}  # fmt: skip


def _bytes(made: onnx.ModelProto | bytes) -> bytes:
    return made if isinstance(made, bytes) else made.SerializeToString()


for _name, _beside in BESIDE.items():
    bytes_case("onnx beside", _name, ".onnx", lambda make=_beside: _bytes(make()), "either")
for _name, _beside in BROKEN.items():
    bytes_case("onnx beside", _name, ".onnx", lambda make=_beside: _bytes(make()))


@case("onnx beside", "external data of overlapping ranges", "either")
def _overlapping(folder: Path) -> Path:
    """Many tensors that are the same bytes of one file."""
    (folder / "data.bin").write_bytes(bytes(1 << 20))
    weights, last = [], "x"
    nodes: Nodes = []
    for i in range(200):
        w = TensorProto(name=f"w{i}", data_type=F32, dims=[1 << 17], data_location=TensorProto.EXTERNAL)
        w.external_data.extend(
            [entry("location", "data.bin"), entry("offset", str(4 * i)), entry("length", str(1 << 19))]
        )
        weights.append(w)
        nodes.append(N("Add", [last, w.name], [f"v{i}"]))
        last = f"v{i}"
    nodes[-1].output[0] = "y"
    (folder / "bad.onnx").write_bytes(net(nodes, weights, [info("x", [1 << 17])]).SerializeToString())
    return folder / "bad.onnx"


bytes_case(
    "onnx beside", "a sparse tensor of 2^80", ".onnx", lambda: _sparse([0, 1], [HUGE, HUGE])().SerializeToString()
)
bytes_case(
    "onnx beside",
    "a sparse tensor of 2^40",
    ".onnx",
    lambda: _sparse([0, 1], [1 << 20, 1 << 20])().SerializeToString(),
    "either",
)
