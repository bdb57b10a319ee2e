"""Every op of the core, on every sample that it declares, written as TFLite: LiteRT and our reader give our numbers.

Three forms of each sample: all operands are inputs; all but the first are constants; the first dim of the first operand
is dynamic. What TFLite cannot express is listed by op with the reason, so that nothing is refused unnoticed.
"""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from anyir.backends import tflite
from anyir.ir.builder import Builder
from anyir.ir.dims import sym
from anyir.ir.graph import Module
from anyir.ir.opdef import Sample, Typed
from anyir.ir.ops import get_op, load_families
from anyir.ir.types import DType, TensorType
from anyir.tests.support.litert import Bench
from anyir.tests.support.ops import samples_of

pytest.importorskip("ai_edge_litert")

FORMS = ("inputs", "constants", "dynamic")
# Ops some of whose samples TFLite cannot express, with a part of each reason.
REFUSED = {
    "bernoulli": ("no such operator",),
    "bit_shift": ("unsigned shifts by constants",),
    "bitcast": ("no f64 kernel",),
    "conv_transpose": ("computed filter", "no such operator"),
    "cumprod": ("no such operator", "unknown length"),
    "dequantize": ("i4", "u4", "i2", "u2", "f8", "not known"),
    "einsum": ("diagonal of unknown size",),
    "gemm": ("i64",),
    "label_encoder": ("no tensors of str",),
    "matmul": ("i32",),
    "max_pool_with_indices": ("indices of the maxima",),
    "mod": ("float remainder",),
    "multinomial": ("no such operator",),
    "pow": ("exponent may be negative",),
    "quantize": ("i4", "u4", "i2", "u2", "f8", "not known"),
    "reduce_l2": ("integer sum",),
    "reduce_mean": ("means of integers", "computed number"),
    "requantize": ("fixed-point",),
    "resize": ("aspect ratio", "interpolated integers"),
    "scatter_elements": ("reduces by",),
    "scatter_nd": ("reduces by",),
    "svm_classifier": ("no tensors of str", "found by iteration"),
    "tree_ensemble": ("membership of a set",),
}
# Runtime behaviour that differs and that no file can change.
PLAIN_KERNELS_LACK_INFINITY = {"reduce_max", "reduce_min", "reduce_log_sum_exp"}
INT4_HAS_NO_NUMPY_FORM = "int4"


def build(name: str, sample: Sample, form: str) -> tuple[Module, dict[str, np.ndarray]] | None:
    """A module of one node, and its inputs; None when no input is left, or for sequences and optionals, which TFLite has not."""
    if any(isinstance(o, Typed) for o in sample.operands):
        return None
    module = Module(name)
    graph = module.add_graph("main")
    b = Builder(graph)
    op, values, inputs = get_op(name), [], {}
    flat = [None if a is None else np.asarray(a) for o in sample.operands for a in (o if isinstance(o, list) else [o])]
    for index, array in enumerate(flat):
        declared = op.operands[min(index, len(op.operands) - 1)].name
        if array is None:
            values.append(None)
        elif declared in sample.const or (form == "constants" and index):
            values.append(b.const(array, key=f"c{index}"))
        else:
            dynamic = form == "dynamic" and not index and array.ndim and array.shape[0] > 1 and array.size
            shape = (sym("N"), *array.shape[1:]) if dynamic else array.shape
            values.append(graph.add_input(TensorType(DType.of(array.dtype), shape), f"x{index}"))
            inputs[f"x{index}"] = array
    node = b.call(name, values, sample.attrs)
    graph.set_outputs(node.results)
    module.add_signature("serving_default", graph, list(inputs), [f"y{i}" for i in range(len(node.results))])
    return (module, inputs) if inputs else None


def names() -> list[str]:
    return sorted(name for name in load_families() if "." not in name and samples_of(name))


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    made = Bench(tmp_path_factory.mktemp("ops"))
    for name in names():
        for number, sample in enumerate(samples_of(name)):
            forms = FORMS if zlib.crc32(f"{name}{number}".encode()) % 2 else FORMS[:1]
            for form in forms:
                case = build(name, sample, form)
                if case is not None:
                    made.add(f"{name} {number} {form}", *case)
    return made.run()


def quirk(outcome, name: str) -> bool:
    arrays = (*outcome.inputs.values(), *outcome.expected.values())
    if any(str(a.dtype) == INT4_HAS_NO_NUMPY_FORM for a in arrays):
        return True
    empty_at_run_time = any(a.size == 0 for a in arrays)
    infinite = any(a.dtype.kind == "f" and np.isinf(a).any() for a in outcome.expected.values())
    rounds_half_floats = name in ("quantize", "dequantize") and any(a.dtype == np.float16 for a in arrays)
    return empty_at_run_time or rounds_half_floats or (infinite and name in PLAIN_KERNELS_LACK_INFINITY)


@pytest.mark.parametrize("name", names())
def test_op(bench, name):
    for key, error in bench.refused.items():
        if key.split()[0] == name:
            reasons = REFUSED.get(name, () if tflite.support(name) != "-" else ("no such operator",))
            assert any(part in str(error) for part in reasons), f"{key}: {error}"
    for key, outcome in bench.outcomes.items():
        if key.split()[0] == name and not quirk(outcome, name):
            outcome.check()


def test_every_listed_refusal_still_happens(bench):
    refused = {key.split()[0] for key in bench.refused}
    assert sorted(set(REFUSED) - refused) == []
