"""Attention that a model wrote out, in files of a raised opset: one operator a layer, its mask made whole once."""

from __future__ import annotations

from collections import Counter

import numpy as np
from anyir.backends.onnx.legalization import legalize
from anyir.kernels.compare import compare, limits_for
from anyir.kernels.inputs import sample_inputs
from anyir.kernels.run import run
from anyir.tests.support.text import module, ops

LAYERS = """(%x: f32[N, S, 8], %seen: bool[N, 1, 1, S]) {
  const %zero = 0.0 : f32[]
  const %low = -10000.0 : f32[]
  const %half = 0.5 : f32[]
  const %cut = [0, 0, 2, 4] : i64[4]
  const %joined = [0, 0, 8] : i64[3]
  %mask = where(%seen, %zero, %low) : f32[N, 1, 1, S]
  %a0 = reshape(%x, %cut) : f32[N, S, 2, 4]
  %a1 = transpose(%a0) {perm = [0, 2, 1, 3]} : f32[N, 2, S, 4]
  %a2 = transpose(%a0) {perm = [0, 2, 3, 1]} : f32[N, 2, 4, S]
  %a3 = matmul(%a1, %a2) : f32[N, 2, S, S]
  %a4 = mul(%a3, %half) : f32[N, 2, S, S]
  %a5 = add(%a4, %mask) : f32[N, 2, S, S]
  %a6 = softmax(%a5) : f32[N, 2, S, S]
  %a7 = matmul(%a6, %a1) : f32[N, 2, S, 4]
  %a8 = transpose(%a7) {perm = [0, 2, 1, 3]} : f32[N, S, 2, 4]
  %a9 = reshape(%a8, %joined) : f32[N, S, 8]
  %b0 = reshape(%a9, %cut) : f32[N, S, 2, 4]
  %b1 = transpose(%b0) {perm = [0, 2, 1, 3]} : f32[N, 2, S, 4]
  %b2 = transpose(%b0) {perm = [0, 2, 3, 1]} : f32[N, 2, 4, S]
  %b3 = matmul(%b1, %b2) : f32[N, 2, S, S]
  %b4 = mul(%b3, %half) : f32[N, 2, S, S]
  %b5 = add(%b4, %mask) : f32[N, 2, S, S]
  %b6 = softmax(%b5) : f32[N, 2, S, S]
  %b7 = matmul(%b6, %b1) : f32[N, 2, S, 4]
  %b8 = transpose(%b7) {perm = [0, 2, 1, 3]} : f32[N, S, 2, 4]
  %b9 = reshape(%b8, %joined) : f32[N, S, 8]
  return(%b9)
}"""


def test_two_layers_share_a_whole_mask() -> None:
    """A runtime repeats the rows of a mask over queries wrongly: it is made whole, for both layers in one place."""
    before = module(LAYERS)
    raised = legalize(before, raise_opset=True)
    assert raised.metadata["opset."] == "23"
    found = Counter(ops(raised))
    assert (found["attention"], found["expand"], found["softmax"], found["transpose"]) == (2, 1, 0, 0), found
    for sizes in ({"N": 2, "S": 3}, {"N": 1, "S": 1}):
        feeds = sample_inputs(before, sizes=sizes)
        feeds["seen"] = np.arange(feeds["seen"].size).reshape(feeds["seen"].shape) % 3 != 1
        report = compare(run(before, feeds), run(raised, feeds), limits_for(before, feeds))
        assert report.passed, str(report)


def test_an_older_opset_keeps_what_was_written_out() -> None:
    found = Counter(ops(legalize(module(LAYERS), opset=17)))
    assert (found["attention"], found["softmax"]) == (0, 2), found
