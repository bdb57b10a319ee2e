"""Every core op, with each of its samples: written at several opsets, run by onnxruntime, equal to the reference kernels."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

pytest.importorskip("onnxruntime")

from anyir.backends import onnx as backend
from anyir.frontends import onnx as frontend
from anyir.ir.errors import SystemFailure, Unsupported
from anyir.ir.opdef import RANDOM
from anyir.ir.ops import FAMILIES, load_families
from anyir.kernels.compare import compare, limits_for
from anyir.kernels.run import run
from anyir.runtimes import onnxruntime as ort
from anyir.tests.support.ops import call, samples_of

OPSETS = (13, 17, 21, 26)
NAMES = sorted(
    op.name
    for op in load_families().values()
    if type(op).__module__.rpartition(".")[2] in FAMILIES
    and op.name not in ("return", "opaque", "call", "if", "loop", "scan")
    and RANDOM not in op.traits
)

#: Where onnxruntime itself is wrong or differs by choice.
PEER_DIFFERS = {
    **dict.fromkeys(("blackman_window", "hamming_window"), "has its weights in float32 for float64 windows"),
    "dft": "has the factors of float64 transforms in float32",
    "max_unpool": "ignores the strides between given output_shape and its own",
    "quantize": "divides float16 in float32",
    "resize": "cuts interpolated integers off, as its own choice; ONNX's reference rounds",
    "shrink": "computes float64 in float32",
}
#: Valid ONNX that onnxruntime refuses when it runs.
NOT_RUN = {
    "matmul_integer": "zero points per row",
    "conv_integer": "zero points of w must be equal",
    "stft": "frames as long as the signal",
}


@pytest.mark.parametrize("name", NAMES)
def test_written_ops_compute_the_same(name: str) -> None:
    for index, sample in enumerate(samples_of(name)):
        node, arrays = call(name, sample)
        graph = node.graph
        graph.set_outputs(node.results)
        names = [v.hint for v in graph.inputs]
        module = graph.module
        module.add_signature("serving_default", graph, names, [f"y{i}" for i in range(len(node.results))])
        feeds = {name: arrays[int(name[1:])] for name in names}
        truth = run(module, feeds)
        limits = limits_for(module, feeds, exact=truth, runs=8)
        for opset in OPSETS:
            if backend.offenders(module, opset=opset):
                continue
            proto = backend.to_model_proto(module, opset=opset)
            onnx.checker.check_model(proto, full_check=True)
            again = run(frontend.read(proto), feeds)
            assert compare(truth, again, limits).passed, f"sample {index} at opset {opset}: read back"
            try:
                found = ort.run(proto.SerializeToString(), feeds)
            except Unsupported:  # it has no kernel for these types
                continue
            except SystemFailure:
                assert name in NOT_RUN
                continue
            found = {k: v if isinstance(v, list) else np.asarray(v) for k, v in found.items()}
            report = compare(truth, found, limits)
            assert report.passed or name in PEER_DIFFERS, f"sample {index} at opset {opset}: {report}"
