"""Raised opsets: the lowest at which the file is shortest, asked for in Python, by option, or by -O3."""

from __future__ import annotations

from pathlib import Path

import anyir
import numpy as np
import onnx
import pytest
from anyir.backends import onnx as backend
from anyir.driver.compile import command
from anyir.frontends.onnx import read
from anyir.ir.errors import UsageError
from anyir.ir.graph import Module
from anyir.kernels.compare import compare, limits_for
from anyir.kernels.run import run
from click.testing import CliRunner
from onnx import parser

WRITTEN_OUT = """
<ir_version: 7, opset_import: ["" : OPSET]>
net (float[N, 8] x) => (float[N, 8] y)
<float root = {1.4142135}, float one = {1.0}, float half = {0.5}, float three = {3.0}, float zero = {0.0}, float six = {6.0}>
{
    BODY
}
"""
GELU = "a = Div (x, root) b = Erf (a) c = Add (b, one) d = Mul (x, c) y = Mul (d, half)"
HARD_SWISH = "a = Add (x, three) b = Clip (a, zero, six) c = Mul (x, b) y = Div (c, six)"
SILU = "a = Sigmoid (x) y = Mul (x, a)"
SILU_GELU = (
    "g = Sigmoid (x) h = Mul (x, g) a = Div (h, root) b = Erf (a) c = Add (b, one) d = Mul (h, c) y = Mul (d, half)"
)
NEGATION = "y = Neg (x)"


def model(body: str, opset: int) -> onnx.ModelProto:
    made = parser.parse_model(WRITTEN_OUT.replace("OPSET", str(opset)).replace("BODY", body))
    used = {name for node in made.graph.node for name in node.input}
    kept = [i for i in made.graph.initializer if i.name in used]
    del made.graph.initializer[:]
    made.graph.initializer.extend(kept)
    return made


def optimised(body: str, opset: int) -> Module:
    return anyir.optimize(read(model(body, opset)))


def shown(proto: onnx.ModelProto) -> tuple[int, str]:
    return next(o.version for o in proto.opset_import if o.domain == ""), " ".join(n.op_type for n in proto.graph.node)


@pytest.mark.parametrize(
    ("body", "opset", "raised"),
    [
        (GELU, 13, (20, "Gelu")),
        (GELU, 21, (21, "Gelu")),
        (HARD_SWISH, 13, (14, "HardSwish")),
        (SILU, 17, (17, "Sigmoid Mul")),
        (SILU, 25, (25, "Sigmoid Mul")),
        (NEGATION, 13, (13, "Neg")),
        (SILU, 24, (24, "Swish")),
        (SILU_GELU, 13, (20, "Sigmoid Mul Gelu")),
    ],
)
def test_the_lowest_opset_with_the_fewest_nodes(body: str, opset: int, raised: tuple[int, str]) -> None:
    module = optimised(body, opset)
    assert shown(backend.to_model_proto(module, raise_opset=True)) == raised
    assert shown(backend.to_model_proto(module))[0] == opset
    assert not backend.offenders(module, raise_opset=True)


def test_what_runtimes_take_apart_is_decomposed_where_another_op_raises() -> None:
    """Two RMS norms are worth opset 23; the silu beside them is not worth 24, nor the group norm 21."""
    text = """
    <ir_version: 10, opset_import: ["" : 23]>
    net (float[2, 4, 8] x, float[4] s, float[4] t, float[8] r) => (float[2, 4, 8] y)
    {
        a = Sigmoid (x)  b = Mul (x, a)
        c = RMSNormalization (b, r)  d = Exp (c)  e = RMSNormalization (d, r)  f = Exp (e)  g = RMSNormalization (f, r)
        y = GroupNormalization <num_groups = 2> (g, s, t)
    }
    """
    module = read(parser.parse_model(text))
    anyir.optimize(module)
    module.metadata["opset."] = "20"
    opset, operators = shown(backend.to_model_proto(module, raise_opset=True))
    assert opset == 23
    assert operators.startswith("Sigmoid Mul RMSNormalization Exp RMSNormalization Exp RMSNormalization")
    assert "GroupNormalization" not in operators
    module.metadata["opset."] = "21"
    assert shown(backend.to_model_proto(module, raise_opset=True))[1].endswith("GroupNormalization")


def test_an_opset_that_is_asked_for_is_not_raised() -> None:
    with pytest.raises(UsageError, match="opset 17 is asked for, and to raise it"):
        backend.to_model_proto(optimised(GELU, 13), opset=17, raise_opset=True)


def test_a_raised_file_computes_the_same(tmp_path: Path) -> None:
    module = optimised(GELU, 13)
    anyir.save(module, tmp_path / "raised.onnx", raise_opset=True)
    onnx.checker.check_model(str(tmp_path / "raised.onnx"), full_check=True)
    feeds = {"x": np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)}
    truth = run(module, feeds)
    assert compare(truth, anyir.run(tmp_path / "raised.onnx", feeds), limits_for(module, feeds, exact=truth)).passed


@pytest.mark.parametrize(
    ("options", "opset"),
    [
        (["-O3"], 20),
        (["-O3", "--keep-opset"], 13),
        (["-O3", "--opset", "17"], 17),
        (["-O2"], 13),
        (["-O2", "--raise-opset"], 20),
    ],
)
def test_levels_and_options(options: list[str], opset: int, tmp_path: Path) -> None:
    source, target = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save(model(GELU, 13), source)
    done = CliRunner().invoke(command, [str(source), "-o", str(target), "--no-verify", "-q", *options])
    assert done.exit_code == 0, done.output
    assert shown(onnx.load(target))[0] == opset
