"""Attention as torch's exporters write it out, against onnxruntime on the file as it came: one operator each at a raised opset,
also for a sample that the mask hides as a whole."""

from __future__ import annotations

from collections import Counter

import anyir
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

from anyir.backends import onnx as backend
from anyir.frontends.onnx import read
from anyir.kernels.compare import compare, limits_for
from anyir.runtimes import onnxruntime as ort
from anyir.tests.support.attention_spellings import SPELLINGS, exported, inputs

ROADS = [
    pytest.param(name, exporter, id=f"{name}, {exporter}", marks=() if exporter == "open" else pytest.mark.slow)
    for exporter in ("open", "script", "dynamo")
    for name in SPELLINGS
    if (name, exporter) != ("heads picked", "dynamo")  # a gather_nd of transposed heads stays
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "exporter"), ROADS)
def test_it_is_one_operator(name: str, exporter: str) -> None:
    make, masked, wanted = SPELLINGS[name]
    given = inputs(module := make(), masked)
    data = exported(module, given, exporter)
    before = read(data)
    proto = backend.to_model_proto(anyir.optimize(read(data), 2), raise_opset=True)
    found = Counter(node.op_type for node in proto.graph.node)
    assert (found["Attention"], found["RotaryEmbedding"]) == wanted, found
    feeds = dict(zip(before.signatures["serving_default"].input_names(), (v.numpy() for v in given), strict=True))
    hidden = {n: np.where(np.arange(len(v))[:, None] > 0, 0, v) if v.ndim == 2 else v for n, v in feeds.items()}
    for data_in in (feeds, hidden)[: 2 if masked else 1]:
        truth = ort.run(data, data_in)
        made = dict(zip(truth, ort.run(proto.SerializeToString(), data_in).values(), strict=True))
        report = compare(truth, made, limits_for(before, data_in))
        assert report.passed, str(report)
