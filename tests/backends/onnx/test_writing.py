"""What the writer makes: names, opsets, external data, bytes; and what it refuses."""

from __future__ import annotations

import gc
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
from anyir.backends import onnx as backend
from anyir.formats.onnx import stream
from anyir.frontends.onnx import read
from anyir.ir.builder import Builder
from anyir.ir.dims import sym
from anyir.ir.equality import first_difference
from anyir.ir.errors import InvalidModel, Unsupported, UsageError
from anyir.ir.graph import Module
from anyir.ir.tensor import PackedTensor, SplatTensor
from anyir.ir.types import BF16, BOOL, F8E4M3FN, F16, F32, F64, I4, I8, I64, STRING, TensorType
from anyir.kernels.compare import compare, limits_for
from anyir.kernels.run import run
from onnx import numpy_helper, parser

RNG = np.random.default_rng(0)


def module_of(build, *types: TensorType, names=None, outputs=None) -> Module:
    """A module whose main graph is `build(b, *inputs) -> outputs`."""
    m = Module("net")
    g = m.add_graph("main")
    xs = [g.add_input(t, f"x{i}") for i, t in enumerate(types)]
    made = build(Builder(g), *xs)
    made = made if isinstance(made, tuple | list) else [made]
    g.set_outputs(made)
    m.add_signature(
        "serving_default",
        g,
        names or [f"in{i}" for i in range(len(xs))],
        outputs or [f"out{i}" for i in range(len(made))],
    )
    return m


def ops(proto: onnx.ModelProto) -> list[str]:
    return [n.op_type for n in proto.graph.node]


IMAGE = TensorType(F32, (sym("N"), 4, 8, 8))


def small() -> Module:
    def build(b, x):
        w = b.const(RNG.standard_normal((6, 4, 3, 3)).astype(np.float32), key="conv.weight", role="param")
        return b.relu(b.conv(x, w, pads=(1, 1, 1, 1)))

    return module_of(build, IMAGE)


# ---------------------------------------------------------------------------------------------------- names


def test_interface_weights_and_dims_keep_their_names() -> None:
    proto = backend.to_model_proto(small())
    assert [i.name for i in proto.graph.input] == ["in0"]
    assert [o.name for o in proto.graph.output] == ["out0"]
    assert [w.name for w in proto.graph.initializer] == ["conv.weight"]
    assert proto.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "N"
    assert proto.producer_name == "anyir"


def test_awkward_interfaces() -> None:
    """An input returned as it is, a value returned twice, a constant returned, a weight called like an input."""

    def build(b, x):
        w = b.const(np.float32([1, 2]), key="in0", role="param")
        y = b.add(x, w)
        return x, y, y, w

    module = module_of(build, TensorType(F32, (2,)))
    proto = backend.to_model_proto(module)
    onnx.checker.check_model(proto, full_check=True)
    made = run(read(proto), {"in0": np.float32([1, 1])})
    assert {k: v.tolist() for k, v in made.items()} == {"out0": [1, 1], "out1": [2, 3], "out2": [2, 3], "out3": [1, 2]}
    same = module_of(lambda b, x: x, TensorType(F32, (2,)), names=["a"], outputs=["a"])
    assert ops(backend.to_model_proto(same)) == []
    clash = module_of(lambda b, x, y: b.relu(y), *[TensorType(F32, (2,))] * 2, names=["a", "b"], outputs=["a"])
    with pytest.raises(Unsupported, match="both called 'a'"):
        backend.to_model_proto(clash)


def test_two_signatures_need_a_choice() -> None:
    module = small()
    module.add_signature("other", module.main, ["p"], ["q"])
    with pytest.raises(Unsupported, match="one entry point"):
        backend.to_model_proto(module)
    assert backend.to_model_proto(module, signature="other").graph.input[0].name == "p"


# --------------------------------------------------------------------------------------------------- opsets


def opset(proto: onnx.ModelProto) -> int:
    return next(o.version for o in proto.opset_import if o.domain == "")


def test_the_opset_that_is_chosen() -> None:
    assert opset(backend.to_model_proto(small())) == 21
    model = parser.parse_model('<ir_version: 8, opset_import: ["" : 9]> g (float[2] x) => (float[2] y) { y = Relu(x) }')
    assert opset(backend.to_model_proto(read(model))) == 13
    model.opset_import[0].version = 17
    assert opset(backend.to_model_proto(read(model))) == 17
    newer = module_of(lambda b, x: b.bitcast(x, to=I64), TensorType(F64, (2,)))
    assert opset(backend.to_model_proto(newer)) == 26
    for bad in (12, 99):
        with pytest.raises(UsageError, match="cannot be written"):
            backend.to_model_proto(small(), opset=bad)


@pytest.mark.parametrize("level", [13, 17, 18, 21, 24, 28])
def test_ops_that_onnx_lacks_are_decomposed(level: int) -> None:
    def build(b, x):
        y = b.silu(b.rsqrt(b.add(b.square(x), 1.0)))
        return b.rms_norm(y, b.const(np.ones(8, np.float32)), axis=-1), b.relu6(b.floor_div(x, b.add(b.abs(x), 1.0)))

    module = module_of(build, IMAGE)
    proto = backend.to_model_proto(module, opset=level)
    onnx.checker.check_model(proto, full_check=True)
    x = RNG.standard_normal((2, 4, 8, 8)).astype(np.float32)
    report = compare(run(module, [x]), run(read(proto), [x]), limits_for(module, [x]))
    assert report.passed, str(report)
    assert len(module.main) == len(small().main) + 7  # the user's module is as it was


def test_a_refusal_names_all_offenders_and_the_opset_that_works() -> None:
    def build(b, x):
        return b.cast(x, to=F8E4M3FN), b.cumprod(x, 0)

    module = module_of(build, TensorType(F32, (4,)))
    with pytest.raises(Unsupported) as caught:
        backend.to_model_proto(module, opset=17)
    text = str(caught.value)
    assert "cast" in text and "cumprod" in text and "--opset 26" in text
    found = backend.offenders(module, opset=17)
    assert [(o.op, o.opset) for o in found] == [("cast", 19), ("cumprod", 26)]
    assert backend.offenders(module) == []


def test_operands_that_were_attributes_must_be_constant() -> None:
    module = module_of(lambda b, x, a: b.reduce_max(x, a), TensorType(F32, (2, 3)), TensorType(I64, (1,)))
    with pytest.raises(Unsupported, match="axes must be constant before opset 18"):
        backend.to_model_proto(module, opset=17)
    assert opset(backend.to_model_proto(module, opset=18)) == 18


# ------------------------------------------------------------------------------------------------ particular


@pytest.mark.parametrize(
    ("scale_shape", "axis", "block"),
    [((), None, None), ((1, 3, 1), 1, None), ((2, 3, 2), 2, 4), ((1, 1, 1), None, None)],
)
def test_grains_of_quantisation(scale_shape, axis, block) -> None:
    scale = RNG.uniform(0.1, 0.2, scale_shape).astype(np.float32)
    zero = np.full(scale_shape, 3, np.int8)

    def build(b, x):
        s, z = b.const(scale, key="scale"), b.const(zero, key="zero")
        return b.dequantize(b.quantize(x, s, z, to=I8), s, z, to=F32)

    module = module_of(build, TensorType(F32, (2, 3, 8)))
    proto = backend.to_model_proto(module)
    onnx.checker.check_model(proto, full_check=True)
    attrs = {a.name: a.i for a in proto.graph.node[0].attribute}
    assert (attrs.get("axis"), attrs.get("block_size")) == (axis, block)
    x = RNG.standard_normal((2, 3, 8)).astype(np.float32)
    assert np.array_equal(run(module, [x])["out0"], run(read(proto), [x])["out0"])


def test_weights_of_every_kind(tmp_path) -> None:
    four = np.arange(-3, 4).astype(I4.numpy)
    parts = {
        "i4": PackedTensor.pack(four, I4),
        "bf16": RNG.standard_normal(3).astype(BF16.numpy),
        "f8": RNG.standard_normal(3).astype(F8E4M3FN.numpy),
        "f16": RNG.standard_normal(3).astype(np.float16),
        "text": np.array(["a", "ü", ""], object),
        "flags": np.array([True, False, True]),
    }
    module = module_of(lambda b: [b.const(v, key=k) for k, v in parts.items()], outputs=list(parts))
    path = tmp_path / "w.onnx"
    backend.write(module, path)
    theirs = {i.name: i for i in onnx.load(path).graph.initializer}
    for value in read(path).main.outputs:
        wanted = parts[value.weight.key]
        wanted = four if value.dtype is I4 else np.asarray(wanted)
        assert value.array().tolist() == wanted.tolist()
        if value.dtype is not STRING:
            assert numpy_helper.to_array(theirs[value.weight.key]).tobytes() == wanted.tobytes()
    assert [v.dtype for v in read(path).main.outputs] == [I4, BF16, F8E4M3FN, F16, STRING, BOOL]


def test_unknown_operators_are_written_as_they_came() -> None:
    text = (
        '<ir_version: 8, opset_import: ["" : 17, "there" : 4]> g (float[2] x) => (float[2] y) '
        '{ y = there.Magic <strength: int = 3, how: string = "so", w: floats = [1.5]> (x, , x) }'
    )
    model = parser.parse_model(text)
    proto = backend.to_model_proto(read(model))
    (node,), (old,) = proto.graph.node, model.graph.node
    assert list(node.input) == ["x", "", "x"]
    assert {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute} == {
        a.name: onnx.helper.get_attribute_value(a) for a in old.attribute
    }
    assert {o.domain: o.version for o in proto.opset_import} == {"": 17, "there": 4}


def test_channels_last_is_never_written() -> None:
    module = module_of(lambda b, x: b.global_average_pool(x, channels_last=True), IMAGE)
    for node in backend.legalize(module).main.nodes():
        assert not node.attrs.get("channels_last")


# --------------------------------------------------------------------------------------------- bytes, files


def test_streaming_gives_the_bytes_that_protobuf_gives(tmp_path) -> None:
    module = small()
    backend.write(module, tmp_path / "a.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == backend.to_model_proto(module).SerializeToString(deterministic=True)


def test_the_collector_rests_while_a_model_is_written(tmp_path) -> None:
    """A collection would walk all nodes, again and again: time would grow faster than the model."""

    def build(b, x):
        for _ in range(500):
            x = b.relu(b.sub(1.0, x))
        return x

    module, seen = module_of(build, TensorType(F32, (3,))), []

    def count(phase: str, info: dict[str, int]) -> None:
        seen.append(info["generation"])

    backend.write(module, tmp_path / "m.onnx")  # loads what is imported when called
    gc.callbacks.append(count)
    try:
        backend.write(module, tmp_path / "m.onnx")
    finally:
        gc.callbacks.remove(count)
    assert not seen and gc.isenabled()
    assert ops(onnx.load(tmp_path / "m.onnx")) == ["Sub", "Relu"] * 500


def test_external_data(tmp_path) -> None:
    big = RNG.standard_normal((40, 40)).astype(np.float32)

    def build(b, x):
        first, twin = (b.const(big, key=k, role="param") for k in ("first", "twin"))
        return b.matmul(b.add(x, b.const(np.float32([1]), key="tiny", role="param")), b.add(first, twin))

    module = module_of(build, TensorType(F32, (sym("N"), 40)))
    files = backend.write(module, tmp_path / "m.onnx", external_data=True)
    assert [os.path.basename(f) for f in files] == ["m.onnx.data", "m.onnx"]
    proto = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    entries = {i.name: {e.key: e.value for e in i.external_data} for i in proto.graph.initializer}
    assert entries["tiny"] == {}
    assert entries["first"] == entries["twin"]  # equal bytes are stored once
    assert int(entries["first"]["offset"]) % stream.ALIGNMENT == 0
    onnx.checker.check_model(str(tmp_path / "m.onnx"), full_check=True)
    assert np.array_equal(numpy_helper.to_array(onnx.load(tmp_path / "m.onnx").graph.initializer[1]), big)
    again = read(tmp_path / "m.onnx")
    assert first_difference(again, module) is None
    assert len(again.files) == 1
    x = RNG.standard_normal((3, 40)).astype(np.float32)
    assert np.array_equal(run(again, [x])["out0"], run(module, [x])["out0"])


def test_data_of_another_run_is_noticed(tmp_path) -> None:
    def made(value: float) -> Module:
        return module_of(
            lambda b, x: b.add(x, b.const(np.full(2000, value, np.float32), key="w")), TensorType(F32, (2000,))
        )

    backend.write(made(1), tmp_path / "a.onnx", external_data=True)
    old = (tmp_path / "a.onnx.data").read_bytes()
    backend.write(made(2), tmp_path / "a.onnx", external_data=True)
    (tmp_path / "a.onnx.data").write_bytes(old)
    with pytest.raises(InvalidModel, match="another version"):
        read(tmp_path / "a.onnx")


def test_an_output_never_overwrites_what_it_is_read_from(tmp_path) -> None:
    big = module_of(lambda b, x: b.add(x, b.const(np.ones(2000, np.float32), key="w")), TensorType(F32, (2000,)))
    backend.write(big, tmp_path / "a.onnx", external_data=True)
    before = (tmp_path / "a.onnx.data").read_bytes()
    with pytest.raises(UsageError, match="overwrite"):
        backend.write(read(tmp_path / "a.onnx"), tmp_path / "a.onnx", external_data=True)
    assert (tmp_path / "a.onnx.data").read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["a.onnx", "a.onnx.data"]


def test_above_two_gigabytes_weights_go_beside_the_model(tmp_path) -> None:
    """Zeros written as holes: 12 GB that take no room and no memory."""

    def build(b, x):
        for i in range(3):
            w = b.const(SplatTensor(np.float32(0), F32, (1 << 15, 1 << 15)), key=f"w{i}", role="param")
            x = b.matmul(x, w)
        return x

    module = module_of(build, TensorType(F32, (1, 1 << 15)))
    files = backend.write(module, tmp_path / "huge.onnx")
    assert len(files) == 2
    info = os.stat(files[0])
    assert info.st_size > 1 << 32
    assert info.st_blocks * 512 < 1 << 20
    again = read(tmp_path / "huge.onnx")
    assert {w.tensor.nbytes for w in again.weights} == {1 << 32}


def test_bytes_do_not_depend_on_the_hash_seed(tmp_path) -> None:
    path = tmp_path / "in.onnx"
    backend.write(small(), path)
    code = (
        "import sys, hashlib\nfrom anyir.frontends.onnx import read\nfrom anyir.backends import onnx as b\n"
        "p = b.to_model_proto(read(sys.argv[1]), opset=18)\n"
        "print(hashlib.sha256(p.SerializeToString(deterministic=True)).hexdigest())"
    )
    made = {
        subprocess.run(
            [sys.executable, "-c", code, str(path)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("0", "7")
    }
    assert len(made) == 1
