"""Hostile ONNX files: container, graph, tensors, external data, folding bombs, names, and things that are no files."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from anyir.tests.security.corpus import bytes_case, case
from onnx import TensorProto, helper, numpy_helper

F32, I64 = TensorProto.FLOAT, TensorProto.INT64
Nodes = list[onnx.NodeProto]


def info(name: str, dims: list[int | str | None] | None, kind: int = F32) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, dims)


def model(
    nodes: Nodes,
    weights: list[TensorProto] | tuple[TensorProto, ...] = (),
    inputs: list[onnx.ValueInfoProto] | None = None,
    outputs: list[onnx.ValueInfoProto] | None = None,
    **options: object,
) -> onnx.ModelProto:
    """x [2, 3] to y unless said otherwise; opset 17."""
    inputs = [info("x", [2, 3])] if inputs is None else inputs
    outputs = [info("y", None)] if outputs is None else outputs
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(weights))
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, **options)


def relu() -> onnx.ModelProto:
    return model([helper.make_node("Relu", ["x"], ["y"])])


def const(name: str, value: object, dtype: type = np.int64) -> TensorProto:
    return numpy_helper.from_array(np.array(value, dtype), name)


def varint(value: int) -> bytes:
    made = bytearray()
    while value > 127:
        made.append(value & 127 | 128)
        value >>= 7
    made.append(value)
    return bytes(made)


def field(number: int, payload: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def nested_ifs(depth: int) -> bytes:
    """`depth` If nodes inside each other, put together by hand: protobuf itself refuses to build them."""
    graph = field(2, b"deep")
    for _ in range(depth):
        attribute = field(1, b"then_branch") + field(6, graph) + varint(20 << 3) + varint(5)
        graph = field(1, field(4, b"If") + field(1, b"c") + field(2, b"y") + field(5, attribute)) + field(2, b"g")
    return varint(1 << 3) + varint(8) + field(7, graph) + field(8, varint(2 << 3) + varint(17))


# -------------------------------------------------------------------------------------------------- container

for _name, _data in {
    "empty": b"",
    "random bytes": bytes(random.Random(0).randrange(256) for _ in range(3000)),
    "length past the end": b"\x3a" + varint(10**6) + b"abc",
    "length 2^31": b"\x3a" + varint(1 << 31) + b"abc",
    "length 2^63": b"\x3a" + varint(1 << 63) + b"abc",
    "a zip archive": b"PK\x03\x04" + bytes(100),
    "a pickle": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x8c\x06system\x93\x8c\x01a\x85R.",
}.items():
    bytes_case("onnx container", _name, ".onnx", lambda data=_data: data)
for _depth in (200, 2000):
    bytes_case("onnx container", f"If nested {_depth} deep", ".onnx", lambda depth=_depth: nested_ifs(depth))


def _edited(change: Callable[[onnx.ModelProto], object]) -> Callable[[], bytes]:
    def make() -> bytes:
        made = relu()
        change(made)
        return made.SerializeToString()

    return make


bytes_case("onnx container", "no graph", ".onnx", _edited(lambda m: m.ClearField("graph")))
bytes_case("onnx container", "no opset", ".onnx", _edited(lambda m: m.ClearField("opset_import")))
bytes_case(
    "onnx container", "opset of the future", ".onnx", _edited(lambda m: setattr(m.opset_import[0], "version", 999))
)
bytes_case(
    "onnx container", "undeclared domain", ".onnx", _edited(lambda m: setattr(m.graph.node[0], "domain", "some.where"))
)
bytes_case("onnx container", "IR version of the future", ".onnx", _edited(lambda m: setattr(m, "ir_version", 10**6)))
bytes_case(
    "onnx container",
    "huge repeated metadata",
    ".onnx",
    _edited(lambda m: m.metadata_props.extend([onnx.StringStringEntryProto(key="k", value="v" * 1000)] * 5000)),
    "either",
)

# ------------------------------------------------------------------------------------------------------ graph

N = helper.make_node


def _branches(*outputs: str) -> list[onnx.GraphProto]:
    return [helper.make_graph([N("Relu", ["x"], [o])], f"b{i}", [], [info(o, [2, 3])]) for i, o in enumerate(outputs)]


def _if(then: onnx.GraphProto, other: onnx.GraphProto) -> Nodes:
    condition = N("Constant", [], ["c"], value=const("", True, bool))
    return [condition, N("If", ["c"], ["y"], then_branch=then, else_branch=other)]


def _two_outputs() -> Nodes:
    other = helper.make_graph(
        [N("Relu", ["x"], ["p"]), N("Abs", ["x"], ["q"])], "b", [], [info("p", [2, 3]), info("q", [2, 3])]
    )
    return _if(_branches("t")[0], other)


def _loop_arity() -> Nodes:
    body = helper.make_graph([N("Relu", ["a"], ["b"])], "body", [info("a", [2, 3])], [info("b", [2, 3])])
    return [N("Loop", ["", "", "x"], ["y"], body=body)]


def _conv(**attributes: object) -> onnx.ModelProto:
    w = const("w", np.ones((2, 3, 3, 3)), np.float32)
    return model([N("Conv", ["x", "w"], ["y"], **attributes)], [w], [info("x", [1, 3, 8, 8])])


GRAPHS: dict[str, Callable[[], onnx.ModelProto]] = {
    "cycle": lambda: model([N("Relu", ["b"], ["a"]), N("Relu", ["a"], ["b"]), N("Add", ["a", "x"], ["y"])]),
    "node that feeds itself": lambda: model([N("Add", ["x", "y"], ["y"])]),
    "two definitions": lambda: model([N("Relu", ["x"], ["y"]), N("Abs", ["x"], ["y"])]),
    "two definitions in one node": lambda: model([N("Split", ["x"], ["y", "y"], axis=0)]),
    "definition of an input": lambda: model([N("Relu", ["x"], ["x"]), N("Relu", ["x"], ["y"])]),
    "dangling input": lambda: model([N("Add", ["x", "ghost"], ["y"])]),
    "missing output": lambda: model([N("Relu", ["x"], ["z"])]),
    "unknown op": lambda: model([N("Rleu", ["x"], ["y"])]),
    "branches of different outputs": lambda: model(_two_outputs()),
    "Loop body of wrong arity": lambda: model(_loop_arity()),
    "required attribute missing": lambda: model([N("Cast", ["x"], ["y"])]),
    "Cast to type 99": lambda: model([N("Cast", ["x"], ["y"], to=99)]),
    "Softmax axis 9": lambda: model([N("Softmax", ["x"], ["y"], axis=9)]),
    "Transpose by no permutation": lambda: model([N("Transpose", ["x"], ["y"], perm=[0, 0])]),
    "Transpose of wrong rank": lambda: model([N("Transpose", ["x"], ["y"], perm=[0, 1, 2])]),
    "Conv stride 0": lambda: _conv(strides=[0, 0]),
    "Conv dilation -1": lambda: _conv(dilations=[-1, -1]),
    "Conv pads 2^60": lambda: _conv(pads=[1 << 60] * 4),
    "Conv group 0": lambda: _conv(group=0),
    "Conv group 2 of 3 channels": lambda: _conv(group=2),
    "Conv kernel_shape that lies": lambda: _conv(kernel_shape=[5, 5]),
    "attribute of another type": lambda: model([N("Softmax", ["x"], ["y"], axis="one")]),
    "shapes that do not fit": lambda: model(
        [N("MatMul", ["x", "w"], ["y"])], [const("w", np.ones((5, 2)), np.float32)]
    ),
    "dtypes that do not fit": lambda: model([N("Add", ["x", "w"], ["y"])], [const("w", [1, 2, 3])]),
    "too many inputs": lambda: model([N("Relu", ["x", "x", "x"], ["y"])]),
}
for _name, _make in GRAPHS.items():
    bytes_case("onnx graph", _name, ".onnx", lambda make=_make: make().SerializeToString())


def _calls(depth: int) -> onnx.ModelProto:
    """Function i calls function i + 1 twice."""
    made = model([N("f0", ["x"], ["y"], domain="mine")])
    made.opset_import.append(helper.make_opsetid("mine", 1))
    opsets = list(made.opset_import)
    for i in range(depth):
        last = i + 1 == depth
        inner = [
            N("Relu" if last else f"f{i + 1}", [a], [b], domain="" if last else "mine")
            for a, b in (("a", "b"), ("b", "c"))
        ]
        made.functions.append(helper.make_function("mine", f"f{i}", ["a"], ["c"], inner, opsets))
    return made


def _self_call() -> onnx.ModelProto:
    made = _calls(1)
    made.functions[0].node[0].op_type, made.functions[0].node[0].domain = "f0", "mine"
    return made


EITHER: dict[str, Callable[[], onnx.ModelProto]] = {
    "unsorted nodes": lambda: model([N("Relu", ["a"], ["y"]), N("Abs", ["x"], ["a"])]),
    "functions that call the next twice, 40 levels": lambda: _calls(40),
    "function that calls itself": _self_call,
    "input dim -5": lambda: model([N("Relu", ["x"], ["y"])], inputs=[info("x", [-5, 3])]),
    "input dim 0": lambda: model([N("Relu", ["x"], ["y"])], inputs=[info("x", [0, 3])]),
    "input dim 2^62": lambda: model([N("Flatten", ["x"], ["y"])], inputs=[info("x", [1 << 62, 8])]),
    "input of rank 5000": lambda: model([N("Relu", ["x"], ["y"])], inputs=[info("x", [1] * 5000)]),
}
for _name, _make in EITHER.items():
    bytes_case("onnx graph", _name, ".onnx", lambda make=_make: make().SerializeToString(), "either")

# ---------------------------------------------------------------------------------------------------- tensors


def _weight(**fields: object) -> onnx.ModelProto:
    w = TensorProto(name="w", data_type=F32, dims=[3])
    for name, value in fields.items():
        if name in ("dims", "float_data", "int32_data", "int64_data"):
            w.ClearField(name)
            getattr(w, name).extend(value)  # type: ignore[arg-type]
        else:
            setattr(w, name, value)
    return model([N("Add", ["x", "w"], ["y"])], [w])


for _name, _fields in {
    "raw data short": {"raw_data": bytes(8)},
    "raw data long": {"raw_data": bytes(16)},
    "raw data odd": {"raw_data": bytes(11)},
    "raw data empty": {"raw_data": b""},
    "no data": {},
    "negative dim": {"dims": [-3], "raw_data": bytes(12)},
    "dims whose product overflows": {"dims": [1 << 32, 1 << 32, 3], "raw_data": bytes(12)},
    "dims whose product is 0 only in 64 bits": {"dims": [1 << 62, 4], "raw_data": b""},
    "unknown type": {"data_type": 77, "raw_data": bytes(12)},
    "no type": {"data_type": 0, "raw_data": bytes(12)},
    "data in the wrong field": {"int64_data": [1, 2, 3]},
    "data in two fields": {"raw_data": bytes(12), "float_data": [1.0, 2.0, 3.0]},
    "too many values": {"float_data": [1.0] * 5},
    "a string that is a float": {"data_type": TensorProto.STRING, "raw_data": bytes(12)},
}.items():
    bytes_case("onnx tensors", _name, ".onnx", lambda fields=_fields: _weight(**fields).SerializeToString())


def _quantised(scale: float) -> onnx.ModelProto:
    nodes = [N("QuantizeLinear", ["x", "s", "z"], ["q"]), N("DequantizeLinear", ["q", "s", "z"], ["y"])]
    return model(nodes, [const("s", scale, np.float32), const("z", 0, np.int8)])


for _scale in (0.0, -1.0, float("nan"), float("inf"), 1e-45):
    bytes_case("onnx tensors", f"scale {_scale}", ".onnx", lambda s=_scale: _quantised(s).SerializeToString(), "either")

# ---------------------------------------------------------------------------------------------- external data


def external(folder: Path, entries: dict[str, str]) -> Path:
    made = _weight()
    made.graph.initializer[0].data_location = TensorProto.EXTERNAL
    made.graph.initializer[0].external_data.extend(
        onnx.StringStringEntryProto(key=k, value=v) for k, v in entries.items()
    )
    path = folder / "model.onnx"
    path.write_bytes(made.SerializeToString())
    return path


_SECRET = "../outside/secret.bin"
for _name, _entries in {
    "a path with ..": {"location": _SECRET},
    "a path with .. inside": {"location": f"sub/../{_SECRET}"},
    "an absolute path": {"location": "/etc/passwd"},
    "file://": {"location": "file:///etc/passwd"},
    "a link that leads out": {"location": "link.bin"},
    "a folder that is a link": {"location": "linked/secret.bin"},
    "a hard link": {"location": "hard.bin"},
    "a FIFO": {"location": "fifo"},
    "offset past the end": {"location": "data.bin", "offset": "4096"},
    "offset and length past the end": {"location": "data.bin", "offset": "20", "length": "12"},
    "offset negative": {"location": "data.bin", "offset": "-4"},
    "offset in Arabic digits": {"location": "data.bin", "offset": "\u0661"},
    "length 2^50": {"location": "data.bin", "length": str(1 << 50)},
    "length of 30 digits": {"location": "data.bin", "length": "9" * 30},
    "length not the shape's": {"location": "data.bin", "length": "16"},
    "no location": {"offset": "0"},
    "location empty": {"location": ""},
    "location .": {"location": "."},
    "location with NUL": {"location": "data.bin\0.txt"},
    "location of 5000 characters": {"location": "a" * 5000},
    "location absent": {"location": "nothing.bin"},
    "location a folder": {"location": "sub"},
    "no entries": {},
}.items():

    @case("external data", _name)
    def _external(folder: Path, entries: dict[str, str] = _entries) -> Path:
        outside = folder.parent / "outside"
        outside.mkdir(exist_ok=True)
        (outside / "secret.bin").write_bytes(bytes(32))
        (folder / "sub").mkdir()
        (folder / "data.bin").write_bytes(bytes(24))
        os.symlink(outside / "secret.bin", folder / "link.bin")
        os.symlink(outside, folder / "linked")
        os.link(outside / "secret.bin", folder / "hard.bin")
        os.mkfifo(folder / "fifo")
        return external(folder, entries)


@case("external data", "in a subfolder", "ok")
def _external_below(folder: Path) -> Path:
    (folder / "sub").mkdir()
    (folder / "sub" / "data.bin").write_bytes(bytes(24))
    return external(folder, {"location": "sub/data.bin", "offset": "12", "length": "12"})


# ---------------------------------------------------------------------------------------------- folding bombs


def _folded(nodes: Nodes, weights: list[TensorProto], last: str) -> onnx.ModelProto:
    """y = x + a number made of `last`."""
    tail = [N("Size", [last], ["n"]), N("Cast", ["n"], ["f"], to=F32), N("Add", ["x", "f"], ["y"])]
    return model([*nodes, *tail], weights)


def _doublings(count: int) -> onnx.ModelProto:
    nodes = [N("Concat", [f"v{i}", f"v{i}"], [f"v{i + 1}"], axis=0) for i in range(count)]
    return _folded(nodes, [const("v0", np.ones(16), np.float32)], f"v{count}")


def _loops(trips: int, depth: int) -> onnx.ModelProto:
    """`depth` loops inside each other that add 1 to a number."""
    one, limit = const("one", 1.0, np.float32), const("trips", trips)
    body: Nodes = [N("Add", ["a0", "one"], ["b0"])]
    for level in range(depth):
        head = [info(f"i{level}", [], I64), info(f"c{level}", [], TensorProto.BOOL), info(f"a{level}", [])]
        keep = N("Identity", [f"c{level}"], [f"k{level}"])
        graph = helper.make_graph(
            [keep, *body], f"body{level}", head, [info(f"k{level}", [], TensorProto.BOOL), info(f"b{level}", [])]
        )
        start = f"a{level + 1}" if level + 1 < depth else "zero"
        body = [N("Loop", ["trips", "", start], [f"b{level + 1}"], body=graph)]
    nodes = [*body, N("Add", ["x", f"b{depth}"], ["y"])]
    return model(nodes, [one, limit, const("zero", 0.0, np.float32)])


BOMBS: dict[str, Callable[[], onnx.ModelProto]] = {
    **{
        f"ConstantOfShape {name}": lambda dims=dims: _folded(
            [N("ConstantOfShape", ["d"], ["v"])], [const("d", dims)], "v"
        )
        for name, dims in (("2^30", [1 << 30]), ("2^34", [1 << 17, 1 << 17]), ("2^62", [1 << 31, 1 << 31]))
    },
    **{
        f"Range {name}": lambda limits=limits, kind=kind: _folded(
            [N("Range", ["a", "b", "c"], ["v"])], [const(n, v, kind) for n, v in zip("abc", limits, strict=True)], "v"
        )
        for name, limits, kind in (
            ("2^40", (0, 1 << 40, 1), np.int64),
            ("delta 0", (0, 5, 0), np.int64),
            ("NaN", (0.0, float("nan"), 1.0), np.float32),
        )
    },
    "Expand": lambda: _folded(
        [N("Expand", ["v0", "d"], ["v"])], [const("v0", [1.0], np.float32), const("d", [1 << 40])], "v"
    ),
    "Tile": lambda: _folded(
        [N("Tile", ["v0", "d"], ["v"])], [const("v0", [1.0], np.float32), const("d", [1 << 40])], "v"
    ),
    "34 doublings": lambda: _doublings(34),
    "Loop of 2^40": lambda: _loops(1 << 40, 1),
    "three nested Loops of 2000": lambda: _loops(2000, 3),
    "Gather out of range": lambda: model(
        [N("Gather", ["v", "i"], ["g"]), N("Add", ["x", "g"], ["y"])],
        [const("v", [1.0, 2.0], np.float32), const("i", 7)],
    ),
    "Scatter out of range": lambda: model(
        [N("ScatterElements", ["v", "i", "v"], ["g"]), N("Add", ["x", "g"], ["y"])],
        [const("v", [1.0, 2.0, 3.0], np.float32), const("i", [0, 1, 99])],
    ),
}
for _name, _make in BOMBS.items():
    bytes_case("folding bombs", _name, ".onnx", lambda make=_make: make().SerializeToString(), "either")


def _reshaped(shape: list[int]) -> onnx.ModelProto:
    return model([N("Reshape", ["x", "s"], ["y"])], [const("s", shape)])


for _name, _shape in {"that does not fit": [7], "that overflows": [1 << 40, 1 << 40], "to -2": [-2, 3]}.items():
    bytes_case("folding bombs", f"Reshape {_name}", ".onnx", lambda s=_shape: _reshaped(s).SerializeToString())

# -------------------------------------------------------------------------------------------------- injection

NAMES = (
    "__import__('os').system('touch CANARY')",
    "$(touch CANARY)`touch CANARY`; touch CANARY",
    '"; import os #',
    "'''\"\"\"\\",
    "../../../outside/written",
    "{0.__class__}%s%n",
    "\u202eevil\u2066",
    "a\nimport os\nos.system('touch CANARY')\n#\r\x0c\x85\u2028import os",
    "a" * 4096,
    "na\u00efve \u6a21\u578b \U0001f600",
)


def _named(name: str) -> onnx.ModelProto:
    nodes = [
        N("Add", ["in " + name, "w " + name], ["t " + name], name),
        N("Relu", ["t " + name], ["out " + name], name),
    ]
    made = model(
        nodes,
        [const("w " + name, [1.0, 2.0, 3.0], np.float32)],
        [info("in " + name, [name[:200], 3])],
        [info("out " + name, None)],
    )
    made.graph.name = made.producer_name = made.doc_string = name
    return made


for _i, _name in enumerate(NAMES):
    bytes_case("injection", f"name {_i}", ".onnx", lambda n=_name: _named(n).SerializeToString(), "either")
for _i, _name in enumerate(
    ("\x1b[2J\x1b[31mowned\x07", "line\nirc: verified\r", "\x9b31m\u202e", "\x1b]0;title\x07" * 3000)
):
    bytes_case(
        "injection", f"escape {_i}", ".onnx", lambda n=_name: model([N("Rleu", [n], ["y"], n)]).SerializeToString()
    )

# ------------------------------------------------------------------------------------------------------ files


@case("files", "a folder")
def _folder(folder: Path) -> Path:
    (folder / "bad.onnx").mkdir()
    return folder / "bad.onnx"


@case("files", "a symlink loop", codes=(4,))
def _symlink_loop(folder: Path) -> Path:
    os.symlink("bad.onnx", folder / "bad.onnx")
    return folder / "bad.onnx"


@case("files", "absent", codes=(4,))
def _absent(folder: Path) -> Path:
    return folder / "bad.onnx"


@case("files", "a FIFO")
def _fifo(folder: Path) -> Path:
    os.mkfifo(folder / "bad.onnx")
    return folder / "bad.onnx"


@case("files", "a device")
def _device(folder: Path) -> Path:
    os.symlink("/dev/zero", folder / "bad.onnx")
    return folder / "bad.onnx"


# -------------------------------------------------------------------------------------------------------- good


@case("good", "chain of 20000 nodes", "ok")
def _chain(folder: Path) -> Path:
    nodes = [N("Relu" if i % 2 else "Neg", [f"v{i}" if i else "x"], [f"v{i + 1}"]) for i in range(20000)]
    nodes[-1].output[0] = "y"
    path = folder / "chain.onnx"
    path.write_bytes(model(nodes).SerializeToString())
    return path


bytes_case("good", "MLP", ".onnx", lambda: relu().SerializeToString(), "ok")
bytes_case("good", "unicode and a name of 4 kB", ".onnx", lambda: _named("\u00fc" * 2048).SerializeToString(), "ok")
