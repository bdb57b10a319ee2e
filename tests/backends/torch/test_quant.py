"""Quantised modules as PyTorch: quantized_decomposed operators in the file, the same integers, the same numbers."""

import anyir
import numpy as np
import pytest
import torch
import torch.ao.quantization.fx._decomposed  # registers the operators
from anyir.ir.parser import parse_module

TEXT = """anyir 1
module "q"
graph @main(%x: f32[N, 3, 5, 5]) {
  const %step = 0.03125 : f32[]
  const %zero = 3 : i8[]
  %0 = quantize(%x, %step, %zero) {to = i8} : i8[N, 3, 5, 5]
  %1 = dequantize(%0, %step, %zero) {to = f32} : f32[N, 3, 5, 5]
  const %w = [5, -7, 127, -127, 1, 0] : i8[2, 3, 1, 1]
  const %steps = [0.5, 0.25] : f32[2, 1, 1, 1]
  %2 = dequantize(%w, %steps) {to = f32} : f32[2, 3, 1, 1]
  %3 = conv(%1, %2) : f32[N, 2, 5, 5]
  return(%3)
}
signature "serving_default" = @main("x" = 0) -> ("y" = 0)
"""


@pytest.fixture
def module():
    return parse_module(TEXT)


@pytest.mark.parametrize("suffix", [".pt2", ".py"])
def test_files_run_in_torch_and_come_back_as_they_were(module, tmp_path, suffix):
    report = anyir.compile(module, tmp_path / f"q{suffix}", level=0)
    assert report.verified
    back = anyir.optimize(anyir.load(tmp_path / f"q{suffix}"), 1)
    assert sorted(n.name for n in back.all_nodes()) == sorted(n.name for n in anyir.optimize(module, 1).all_nodes())


def test_a_pt2_has_the_operators_that_torch_s_compilers_know(module, tmp_path):
    anyir.save(module, tmp_path / "q.pt2")
    program = torch.export.load(tmp_path / "q.pt2")
    targets = [str(n.target) for n in program.graph.nodes if n.op == "call_function"]
    assert "quantized_decomposed.quantize_per_tensor.default" in targets
    assert "quantized_decomposed.dequantize_per_channel.default" in targets
    stored = [v for v in (*program.state_dict.values(), *program.constants.values()) if v.dtype == torch.int8]
    assert any(np.array_equal(v.numpy().ravel(), [5, -7, 127, -127, 1, 0]) for v in stored)


def test_blocks_and_computed_scales_stay_arithmetic(tmp_path):
    text = TEXT.replace("graph @main(%x: f32[N, 3, 5, 5])", "graph @main(%x: f32[N, 3, 5, 5], %step: f32[])")
    text = text.replace("  const %step = 0.03125 : f32[]\n", "").replace('("x" = 0)', '("x" = 0, "step" = 1)')
    module = parse_module(text)
    report = anyir.compile(module, tmp_path / "q.pt2", level=0)
    assert report.verified
    program = torch.export.load(tmp_path / "q.pt2")
    targets = [str(n.target) for n in program.graph.nodes if n.op == "call_function"]
    assert "quantized_decomposed.quantize_per_tensor.default" not in targets


def test_four_bits_are_stored_as_bytes_not_floats(tmp_path):
    module = parse_module(TEXT.replace("[5, -7, 127, -127, 1, 0] : i8", "[5, -7, 7, -8, 1, 0] : i4"))
    assert anyir.compile(module, tmp_path / "q.pt2", level=0).verified
    program = torch.export.load(tmp_path / "q.pt2")
    stored = [v for v in (*program.state_dict.values(), *program.constants.values()) if v.dtype == torch.int8]
    assert any(np.array_equal(v.numpy().ravel(), [5, -7, 7, -8, 1, 0]) for v in stored)
