"""Whole networks: no transposes left, dynamic batch, interfaces, regions, quantised tensors, repeatable bytes."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from anyir.backends import tflite
from anyir.backends.tflite import selfcheck
from anyir.backends.tflite.writer import emit
from anyir.formats.tflite import parse
from anyir.formats.tflite_schema import OP_NAMES
from anyir.ir.builder import Builder
from anyir.ir.dims import Expr, sym
from anyir.ir.errors import InternalError, Unsupported, UsageError
from anyir.ir.graph import Module
from anyir.ir.storage import limits
from anyir.ir.types import BF16, BOOL, F16, F32, F64, I8, I64, STRING, TensorType
from anyir.kernels.run import run
from anyir.runtimes import litert
from anyir.tests.support.judge import assert_agrees

pytest.importorskip("ai_edge_litert")
N, M = sym("N"), sym("M")


class Net:
    """A graph under construction with random weights."""

    def __init__(self, *types):
        self.module = Module("net")
        self.graph = self.module.add_graph("main")
        self.b = Builder(self.graph)
        self.rng = np.random.default_rng(5)
        self.inputs = [self.graph.add_input(t if isinstance(t, TensorType) else TensorType(F32, t)) for t in types]

    def weight(self, *shape):
        return self.b.const((self.rng.normal(size=shape) / np.sqrt(max(1, np.prod(shape[1:])))).astype("f4"), key="w")

    def conv(self, x, out, kernel=3, **attrs):
        groups = attrs.get("groups", 1)
        w = self.weight(out, x.shape[1] // groups, kernel, kernel)
        return self.b.conv(x, w, self.weight(out), **{"pads": (kernel // 2,) * 4, **attrs})

    def done(self, *outputs, names=None):
        self.graph.set_outputs(outputs)
        inputs = [f"in {i}" for i in range(len(self.inputs))]
        self.module.add_signature(
            "serving_default", self.graph, inputs, names or [f"out/{i}" for i in range(len(outputs))]
        )
        return self.module


def check(module, path, sizes=(1, 3), **options):
    """LiteRT gives our numbers at every batch size; returns the builtins in the file."""
    tflite.write(module, path, **options)
    for n in sizes:
        rng = np.random.default_rng(n)
        inputs = {}
        for value, name in zip(module.main.inputs, module.signature.input_names(), strict=True):
            shape = [d if isinstance(d, int) else n for d in value.shape]
            inputs[name] = (rng.normal(size=shape) * 2).astype(value.dtype.numpy)
        assert_agrees(module, inputs, *(litert.run(path, inputs, xnnpack=xnnpack) for xnnpack in (True, False)))
    return builtins(path)


def builtins(path):
    record = parse(path.read_bytes())
    names = [OP_NAMES[code["builtin_code"]] for code in record["operator_codes"]]
    return [names[op["opcode_index"]] for graph in record["subgraphs"] for op in graph["operators"]]


def cnn(net, x):
    """Residual, depthwise, pooled, batch-normalised: [N, C, H, W] to probabilities."""
    b = net.b
    y = b.relu6(net.conv(x, 8, strides=(2, 2)))
    ones = [b.const(net.rng.uniform(0.5, 2, 8).astype("f4"), key="bn") for _ in range(4)]
    z = b.batch_norm(net.conv(net.conv(y, 8, groups=8), 8, kernel=1), *ones)
    y = b.relu(b.add(y, z))
    y = b.max_pool(y, kernel_shape=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1))
    y = b.flatten(b.global_average_pool(b.silu(net.conv(y, 12))), axis=1)
    return b.softmax(b.gemm(y, net.weight(12, 5), net.weight(5)), axis=1)


def test_a_keras_like_cnn_has_no_transpose(tmp_path):
    net = Net((N, 20, 18, 3))
    module = net.done(cnn(net, net.b.transpose(net.inputs[0], perm=(0, 3, 1, 2))))
    found = check(module, tmp_path / "m.tflite")
    assert "TRANSPOSE" not in found and found.count("CONV_2D") == 3


def test_a_torch_like_cnn_has_one_at_its_entry(tmp_path):
    net = Net((N, 3, 20, 18))
    found = check(net.done(cnn(net, net.inputs[0])), tmp_path / "m.tflite")
    assert found.count("TRANSPOSE") == 1 and found[0] == "TRANSPOSE"


def test_flatten_into_dense_moves_no_data(tmp_path):
    net = Net((N, 9, 7, 3))
    y = net.b.relu(net.conv(net.b.transpose(net.inputs[0], perm=(0, 3, 1, 2)), 4))
    module = net.done(net.b.gemm(net.b.reshape(y, (-1, 252)), net.weight(252, 5), net.weight(5)))
    assert check(module, tmp_path / "m.tflite") == ["CONV_2D", "RESHAPE", "FULLY_CONNECTED"]


@pytest.mark.parametrize("pads", [(0, 0, 0, 0), (1, 0, 0, 1)])
def test_sizes_that_are_rounded_down_are_read_from_the_tensor_at_hand(tmp_path, pads):
    """N // 2 cannot be worked out where N is not at hand, twice what stands there can."""
    net = Net((1, 3, N, 4))
    b = net.b
    rows = b.max_pool(net.inputs[0], kernel_shape=(2, 1), strides=(2, 1))
    assert rows.shape == (1, 3, N // 2, 4)
    module = net.done(b.conv_transpose(rows, net.weight(3, 5, 2, 2), net.weight(5), strides=(2, 2), pads=pads))
    assert "TRANSPOSE_CONV" in check(module, tmp_path / "m.tflite", sizes=(2, 5, 8))


def test_one_dim_that_cannot_be_worked_out_is_left_to_the_reshape(tmp_path):
    net = Net((N, 3, M, 2))
    b = net.b
    kept = b.slice(net.inputs[0], (0,), (2**31,), (2,), (3,))
    batch = b.shape(kept, start=0, end=1)
    module = net.done(b.reshape(kept, b.concat(batch, b.const(np.asarray([3, -1], "i8")), axis=0)))
    assert isinstance(module.main.outputs[0].shape[2], Expr)
    check(module, tmp_path / "m.tflite", sizes=(1, 5))


def test_activations_and_biases_are_fused(tmp_path):
    net = Net((N, 6))
    b = net.b
    y = b.relu(b.add(b.matmul(net.inputs[0], net.weight(6, 4)), net.weight(4)))
    module = net.done(b.relu6(b.mul(y, net.weight(4))))
    assert check(module, tmp_path / "m.tflite") == ["FULLY_CONNECTED", "MUL"]


def test_weights_outside_and_equal_weights_once(tmp_path):
    net = Net((N, 64))
    w = np.ones((64, 64), "f4") / 64
    b = net.b
    first, second = (b.const(w.copy(), key=name, role="param") for name in ("a", "b"))
    module = net.done(b.matmul(b.relu(b.matmul(net.inputs[0], first)), second))
    check(module, tmp_path / "m.tflite", external_data=True)
    assert (tmp_path / "m.tflite").stat().st_size < 1.5 * w.nbytes


def test_dtypes_of_the_interface_stay(tmp_path):
    types = [TensorType(t, (N, 4)) for t in (F16, F64, F32)]
    net = Net(*types)
    b = net.b
    outs = [b.exp(b.mul(v, b.const(np.asarray(0.5, v.dtype.numpy)))) for v in net.inputs]
    module = net.done(*outs)
    tflite.write(module, tmp_path / "m.tflite")
    inputs = {f"in {i}": np.ones((2, 4), t.dtype.numpy) for i, t in enumerate(types)}
    got, expected = litert.run(tmp_path / "m.tflite", inputs), run(module, inputs)
    for name, value in expected.items():
        assert got[name].dtype == value.dtype
        computed_in = np.float16 if value.dtype == np.float16 else np.float32  # LiteRT has no wider arithmetic
        np.testing.assert_allclose(got[name].astype("f8"), value.astype("f8"), rtol=np.finfo(computed_in).eps)


def test_an_input_as_output_a_constant_and_one_value_twice(tmp_path):
    net = Net((N, 3))
    y = net.b.relu(net.inputs[0])
    check(net.done(net.inputs[0], y, y, net.weight(2)), tmp_path / "m.tflite")


def test_quantised_tensors(tmp_path):
    net = Net((N, 5))
    b = net.b
    q = b.quantize(net.inputs[0], np.float32(0.05), np.int8(3), to=I8)
    y = b.dequantize(b.reshape(q, (-1, 5)), np.float32(0.05), np.int8(3), to=F32)
    w = b.const(net.rng.integers(-127, 128, (4, 5)).astype("i1"), key="w")
    scales = b.const(np.asarray([[0.1], [0.2], [0.3], [0.4]], "f4"))
    found = check(net.done(y, b.dequantize(w, scales, to=F32)), tmp_path / "m.tflite")
    assert found.count("QUANTIZE") == 1


def test_rows_of_a_table_with_a_scale_each(tmp_path):
    """The rows are looked up as integers, their scales beside them, for a batch of any size."""
    net = Net((N, 3))
    b = net.b
    places = b.clip(b.cast(net.inputs[0], to=I64), 0, 4)
    table = b.const(net.rng.integers(-127, 128, (5, 6)).astype("i1"), key="w")
    scales = b.gather(b.const(net.rng.uniform(0.01, 0.1, (5, 1)).astype("f4")), places)
    found = check(net.done(b.dequantize(b.gather(table, places), scales, to=F32)), tmp_path / "m.tflite")
    assert found.count("GATHER") == 2


def test_branches_and_loops(tmp_path):
    net = Net((N, 3), TensorType(I64, ()))
    b = net.b
    x, trip = net.inputs
    then, other, body = (net.module.new_region(name) for name in ("then", "else", "body"))
    for region, op in ((then, "relu"), (other, "neg")):
        value = region.add_input(x.type)
        region.set_outputs([Builder(region).call(op, (value,)).result])
    chosen = b.call("if", (b.greater(b.reduce_sum(x, keepdims=False), np.float32(0)), x), regions=(then, other)).result
    body.add_input(TensorType(I64, ()))
    going, state = body.add_input(TensorType(BOOL, ())), body.add_input(x.type)
    inner = Builder(body)
    following = inner.add(state, np.float32(1))
    body.set_outputs([going, following, inner.mul(following, following)])
    loop = b.call("loop", (b.abs(trip), None, chosen), {"carried": 1}, (body,)).results
    check(net.done(*loop), tmp_path / "m.tflite")


def test_a_long_recurrence_runs_as_a_loop_and_twice_alike(tmp_path):
    """No state may survive an inference."""
    net = Net((60, N, 3))
    b = net.b
    weights = [net.weight(1, 20, 3), net.weight(1, 20, 5), net.weight(1, 40)]
    y, _, _ = b.lstm(net.inputs[0], *weights, hidden_size=5)
    assert "WHILE" in check(net.done(b.squeeze(y, (1,))), tmp_path / "m.tflite")
    x = np.ones((60, 2, 3), "f4")
    script = """
        import sys, numpy as np
        from ai_edge_litert.interpreter import Interpreter
        run = Interpreter(sys.argv[1]).get_signature_runner("serving_default")
        x = np.ones((60, 2, 3), "f4")
        first = run(**{"in 0": x})["out/0"].copy()
        assert (run(**{"in 0": x})["out/0"] == first).all()
    """
    assert x.size
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), tmp_path / "m.tflite"], check=True, capture_output=True
    )


def test_several_signatures_share_their_weights(tmp_path):
    net = Net((N, 64))
    w = net.weight(64, 64)
    module = net.done(net.b.matmul(net.inputs[0], w))
    other = module.add_graph("other")
    x = other.add_input(TensorType(F32, (2, 64)))
    other.set_outputs([Builder(other).relu(Builder(other).matmul(x, w))])
    module.add_signature("second", other, ["x"], ["y"])
    path = tmp_path / "m.tflite"
    tflite.write(module, path)
    assert path.stat().st_size < 1.5 * 64 * 64 * 4
    x = np.random.default_rng(0).normal(size=(2, 64)).astype("f4")
    assert_agrees(module, {"x": x}, litert.run(path, {"x": x}, signature="second"), signature="second")
    tflite.write(module, path, signature="second")
    assert len(parse(path.read_bytes())["subgraphs"]) == 1
    with pytest.raises(UsageError):
        tflite.write(module, path, signature="third")


def test_a_loop_that_collects_too_much_is_named(tmp_path):
    """Its rule makes nodes before it finds out: what it takes back must not count as progress."""
    net = Net((2, 3))
    body = net.module.new_region("body")
    body.add_input(TensorType(I64, ()))
    body.set_outputs([body.add_input(TensorType(BOOL, ())), Builder(body).relu(net.inputs[0])])
    rows = net.b.call("loop", [net.b.const(np.asarray(1 << 40)), None], {"carried": 0}, [body]).results
    with pytest.raises(Unsupported, match=r"loop: .* above the limit"):
        tflite.write(net.done(*rows), tmp_path / "m.tflite")
    assert not any(tmp_path.iterdir())


def test_folding_stays_within_its_budget(tmp_path):
    """Sixty constants of 64 KiB, each made of the last: only as many are computed as the limits pay for."""
    net = Net((2, 3))
    large = net.b.expand(net.b.const(np.ones((1, 256), np.float32)), (64, 256))
    for _ in range(60):
        large = net.b.add(large, net.b.reduce_max(large, (0,)))
    module = net.done(net.b.add(net.inputs[0], net.b.reduce_sum(large, (0, 1))))
    with limits(fold_bytes=1 << 17, fold_total_bytes=1 << 19):
        made = tflite.legalize(module)
    assert 0 < sum(node.name == "add" for node in made.main.nodes()) < 61
    assert sum(weight.nbytes for weight in made.weights) < 1 << 21
    assert sum(node.name == "add" for node in tflite.legalize(module).main.nodes()) == 1


def test_all_offenders_are_named_at_once_and_nothing_is_written(tmp_path):
    net = Net((N, 4), TensorType(STRING, (2,)))
    b = net.b
    y = b.mod(net.inputs[0], net.inputs[0], fmod=True)
    module = net.done(y, b.pow(b.cast(y, to=I64), b.cast(y, to=I64)), net.inputs[1])
    found = {offender.op for offender in tflite.offenders(module)}
    assert found == {"mod", "pow", "input", "output"}
    with pytest.raises(Unsupported, match=r"4 parts.*mod.*pow"):
        tflite.write(module, tmp_path / "m.tflite")
    assert not (tmp_path / "m.tflite").exists()


def test_the_module_is_left_alone(tmp_path):
    net = Net((N, 3, 20, 18))
    module = net.done(cnn(net, net.inputs[0]))
    before = str(module)
    tflite.write(module, tmp_path / "m.tflite")
    assert str(module) == before


def test_bytes_do_not_depend_on_the_hash_seed(tmp_path):
    script = """
        import sys, numpy as np
        from anyir.backends import tflite
        from anyir.ir.builder import Builder
        from anyir.ir.dims import sym
        from anyir.ir.graph import Module
        from anyir.ir.types import F32, TensorType
        module = Module("m"); graph = module.add_graph("main"); b = Builder(graph)
        x = graph.add_input(TensorType(F32, (sym("N"), 3, 8, 8)))
        y = x
        for i in range(4):
            w = b.const(np.full((3, 3, 3, 3), 0.1 * i, "f4"), key="w")
            y = b.add(b.relu(b.conv(y, w, pads=(1, 1, 1, 1))), y)
        graph.set_outputs([b.softmax(y, axis=1)])
        module.add_signature("serving_default", graph, ["x"], ["y"])
        tflite.write(module, sys.argv[1])
    """
    files = []
    for seed in ("1", "2"):
        files.append(tmp_path / f"{seed}.tflite")
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", textwrap.dedent(script), files[-1]], check=True, env=environment)
    assert files[0].read_bytes() == files[1].read_bytes()


# ------------------------------------------------------------------------------------------- the emitter's self-check


def broken(change):
    net = Net((N, 3, 8, 8))
    legal = tflite.legalize(net.done(net.conv(net.inputs[0], 4)))
    model, payloads = emit(legal)
    change(model, model["subgraphs"][0])
    selfcheck.check(model, [0 if p is None else p.nbytes for p in payloads])


def drop_bias(model, graph):
    conv = next(op for op in graph["operators"] if op.get("builtin_options", {}) and len(op["inputs"]) == 3)
    conv["inputs"] = [*conv["inputs"][:2], -1]


CHANGES = {
    "has no bias": drop_bias,
    "before it is computed": lambda model, graph: graph["operators"].reverse(),
    "has no options": lambda model, graph: graph["operators"][-1].pop("builtin_options"),
    "bytes, its type needs": lambda model, graph: graph["tensors"][1].update(shape=[7, 7]),
    "the same name": lambda model, graph: graph["tensors"][1].update(name=graph["tensors"][0]["name"]),
    "does not fit shape": lambda model, graph: graph["tensors"][0].update(shape_signature=[-1, 3, 8, 9]),
    "reads tensor": lambda model, graph: graph["operators"][0].update(inputs=[99]),
    "are not the subgraph's": lambda model, graph: model["signature_defs"][0]["inputs"][0].update(tensor_index=1),
    "is never computed": lambda model, graph: graph["operators"].pop(),
    "disagree": lambda model, graph: model["operator_codes"][0].update(deprecated_builtin_code=5),
}


def test_nothing_is_wrong_with_what_is_emitted():
    broken(lambda model, graph: None)


@pytest.mark.parametrize("text", CHANGES)
def test_the_self_check_finds(text):
    with pytest.raises(InternalError, match=text):
        broken(CHANGES[text])


def test_support_and_bf16(tmp_path):
    assert [tflite.support(name) for name in ("add", "conv", "group_norm", "multinomial")] == [
        "direct", "decomposed", "decomposed", "-",
    ]  # fmt: skip
    net = Net(TensorType(BF16, (N, 4)))
    module = net.done(net.b.cast(net.b.relu(net.inputs[0]), to=F32))
    assert [n.name for n in tflite.legalize(module).main.nodes()] == ["cast", "relu"]
