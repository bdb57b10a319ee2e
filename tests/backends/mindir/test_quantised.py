"""Quantised modules as MindIR: integers stay integers in the file, layers compute in integers, MindSpore agrees."""

from __future__ import annotations

from pathlib import Path

import anyir
import numpy as np
import pytest
from anyir.backends import mindir as backend
from anyir.formats import mindir as fmt
from anyir.ir.graph import Module
from anyir.ir.parser import parse_module
from anyir.kernels.run import run

INT8 = """anyir 1
module "q"
graph @main(%x: f32[2, 3, 5, 5]) {
  const %step = 0.03125 : f32[]
  const %zero = 3 : i8[]
  %0 = quantize(%x, %step, %zero) {to = i8} : i8[2, 3, 5, 5]
  %1 = dequantize(%0, %step, %zero) {to = f32} : f32[2, 3, 5, 5]
  const %w = [5, -7, 127, -127, 1, 0] : i8[2, 3, 1, 1]
  const %steps = [0.5, 0.25] : f32[2, 1, 1, 1]
  %2 = dequantize(%w, %steps) {to = f32} : f32[2, 3, 1, 1]
  %3 = conv(%1, %2) : f32[2, 2, 5, 5]
  %4 = relu(%3) : f32[2, 2, 5, 5]
  const %out = 2.0 : f32[]
  const %low = -128 : i8[]
  %5 = quantize(%4, %out, %low) {to = i8} : i8[2, 2, 5, 5]
  %6 = dequantize(%5, %out, %low) {to = f32} : f32[2, 2, 5, 5]
  return(%6)
}
signature "serving_default" = @main("x" = 0) -> ("y" = 0)
"""

INT4 = """anyir 1
module "q4"
graph @main(%x: f32[3, 64]) {{
  const %w = [{values}] : i4[64, 128]
  const %steps = [{steps}] : f32[2, 128]
  %0 = dequantize(%w, %steps) {{to = f32}} : f32[64, 128]
  %1 = matmul(%x, %0) : f32[3, 128]
  return(%1)
}}
signature "serving_default" = @main("x" = 0) -> ("y" = 0)
"""


def int8() -> Module:
    """With weights large enough to be parameters, not constants."""
    text = INT8.replace("3, 1, 1]", "3, 31, 31]").replace("5, 5]", "31, 31]").replace("2, 2, 31, 31", "2, 2, 1, 1")
    values = np.random.default_rng(0).integers(-127, 128, 2 * 3 * 31 * 31)
    return parse_module(text.replace("5, -7, 127, -127, 1, 0", ", ".join(map(str, values))))


def int4() -> Module:
    rng = np.random.default_rng(0)
    values, steps = rng.integers(-8, 8, 64 * 128), rng.uniform(0.1, 1, 256).astype(np.float32)
    text = INT4.format(values=", ".join(map(str, values)), steps=", ".join(map(repr, map(float, steps))))
    return parse_module(text)


def feeds(module: Module) -> dict[str, np.ndarray]:
    shape = module.main.inputs[0].shape
    return {"x": np.random.default_rng(1).standard_normal(shape).astype(np.float32)}


@pytest.mark.parametrize("made", [int8, int4])
def test_mindspore_computes_what_the_module_says(made, tmp_path: Path):
    report = anyir.compile(made(), tmp_path / "q.mindir", level=0)
    assert report.verified, str(report)


def test_a_layer_between_dequantize_and_quantize_computes_in_integers():
    module = parse_module(INT8)
    legal = backend.legalize(module)
    sums = [node for node in legal.all_nodes("cast") if node.operands[0].node and node.operands[0].node.name == "conv"]
    assert [node.attr("to").name for node in sums] == ["i32"]
    want, found = run(module, feeds(module))["y"], run(legal, feeds(module))["y"]
    step = 2.0
    assert np.max(np.abs(want - found)) <= step and np.mean(want == found) >= 0.99


def test_the_file_stores_bytes_and_says_what_they_stand_for(tmp_path: Path):
    module = int8()
    anyir.save(module, tmp_path / "q.mindir")
    (parameter,) = fmt.read(tmp_path / "q.mindir").record.graph.parameter
    assert fmt.dtype_of_code(parameter.data_type).name == "i8"
    stored = np.frombuffer(bytes(parameter.raw_data), np.int8)
    np.testing.assert_array_equal(
        stored, next(v for v in module.constants() if v.dtype.name == "i8" and v.rank == 4).array().ravel()
    )
    (note,) = parameter.quant_params
    said = {a.name: [fmt.decode_value(item) for item in a.values] for a in note.attribute}
    assert note.quant_algo_name == "linear_quant_algo"
    assert said == {"quant_scale": [0.5, 0.25], "quant_zero_point": [0, 0], "num_bits": [8], "channel_axis": [0]}


def test_four_bits_become_bytes_not_floats(tmp_path: Path):
    anyir.save(int4(), tmp_path / "q.mindir")
    kinds = [fmt.dtype_of_code(p.data_type).name for p in fmt.read(tmp_path / "q.mindir").record.graph.parameter]
    assert kinds == ["i8"]


def test_the_module_is_left_as_it_was():
    module = parse_module(INT8)
    before = str(module)
    backend.legalize(module)
    assert str(module) == before
