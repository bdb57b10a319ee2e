"""What the shape rules of conv, pool, matmul, norm, resize, recurrent, attention, quant refuse, and in what words."""

from __future__ import annotations

import numpy as np
import pytest
from anyir.ir.builder import Builder
from anyir.ir.errors import TypeInferError
from anyir.ir.graph import Module
from anyir.ir.ops.matmul import parse_equation
from anyir.ir.types import BOOL, F16, F32, I8, I32, I64, U8, TensorType


def _of(shape, dtype=F32):
    return TensorType(dtype, shape)


#: op, operands (a type, a constant or nothing), attributes, part of the message.
CASES = {
    "conv channels": ("conv", [_of((1, 3, 8, 8)), _of((4, 5, 3, 3))], {}, "channels"),
    "conv rank": ("conv", [_of((1, 3, 8)), _of((4, 3, 3, 3))], {}, "rank"),
    "conv kernel": ("conv", [_of((1, 3, 2, 8)), _of((4, 3, 3, 3))], {}, "larger than the padded input"),
    "conv bias": ("conv", [_of((1, 3, 8, 8)), _of((4, 3, 3, 3)), _of((3,))], {}, "b has 3 elements for 4 channels"),
    "conv dtypes": ("conv", [_of((1, 3, 8, 8)), _of((4, 3, 3, 3), F16)], {}, "must agree"),
    "transpose output_padding": (
        "conv_transpose",
        [_of((1, 3, 4, 4)), _of((3, 2, 2, 2))],
        {"strides": (2, 2), "output_padding": (2, 0)},
        "output_padding 2 must be smaller",
    ),
    "pool pads": (
        "max_pool",
        [_of((1, 3, 4, 4))],
        {"kernel_shape": (2, 2), "pads": (2, 0, 0, 0)},
        "smaller than the window",
    ),
    "pool rank": ("average_pool", [_of((1, 3, 4))], {"kernel_shape": (2, 2)}, "expected rank 4"),
    "pool kernel": ("average_pool", [_of((1, 3, 4, 1))], {"kernel_shape": (2, 2)}, "larger than the padded input"),
    "adaptive": ("adaptive_average_pool", [_of((1, 3, 4, 4))], {"output_size": (0, 2)}, "output_size"),
    "matmul inner": ("matmul", [_of((2, 3)), _of((4, 5))], {}, "inner dims"),
    "matmul batch": ("matmul", [_of((2, 3, 4)), _of((5, 4, 2))], {}, "broadcast"),
    "matmul scalar": ("matmul", [_of(()), _of((4, 5))], {}, "no scalars"),
    "gemm addend": ("gemm", [_of((2, 3)), _of((3, 4)), _of((3,))], {}, "does not broadcast"),
    "einsum rank": ("einsum", [_of((2, 3)), _of((3,))], {"equation": "ij,jk->ik"}, "does not fit"),
    "einsum dims": ("einsum", [_of((2, 3)), _of((4, 5))], {"equation": "ij,jk->ik"}, "broadcast"),
    "einsum count": ("einsum", [_of((2, 3))], {"equation": "ij,jk->ik"}, "2 operands, got 1"),
    "integer zero point": ("matmul_integer", [_of((2, 3), U8), _of((3, 4), I8), _of((), I8)], {}, "a_zp has dtype"),
    "batch_norm": ("batch_norm", [_of((1, 3, 4, 4)), *[_of((4,))] * 4], {}, "for 3 channels"),
    "group_norm": ("group_norm", [_of((1, 5, 4)), _of((5,)), _of((5,))], {"num_groups": 2}, "does not divide"),
    "layer_norm": ("layer_norm", [_of((2, 5)), _of((4,))], {}, "does not broadcast"),
    "lp axis": ("lp_normalization", [_of((2, 5))], {"axis": 2}, "out of range"),
    "resize nothing": ("resize", [_of((1, 2, 4, 4))], {}, "either scales or sizes"),
    "resize count": ("resize", [_of((1, 2, 4, 4)), None, None, np.array([3, 4])], {}, "2 scales or sizes for 4 axes"),
    "resize antialias": (
        "resize",
        [_of((1, 2, 4, 4)), None, None, np.array([1, 2, 3, 4])],
        {"antialias": True},
        "mode linear or cubic",
    ),
    "resize roi": (
        "resize",
        [_of((1, 2, 4, 4)), None, None, np.array([1, 2, 3, 4])],
        {"coordinate_transformation_mode": "tf_crop_and_resize"},
        "roi",
    ),
    "grid": ("grid_sample", [_of((1, 2, 4, 4)), _of((1, 3, 3, 3))], {}, "last dim of grid"),
    "lstm hidden": ("lstm", [_of((4, 1, 2)), _of((1, 16, 2)), _of((1, 16, 5))], {"hidden_size": 4}, "r has shape"),
    "gru activations": (
        "gru",
        [_of((4, 1, 2)), _of((1, 12, 2)), _of((1, 12, 4))],
        {"hidden_size": 4, "activations": ("Tanh",)},
        "1 activations, expected 2",
    ),
    "rnn activation": (
        "rnn",
        [_of((4, 1, 2)), _of((1, 4, 2)), _of((1, 4, 4))],
        {"hidden_size": 4, "activations": ("Sine",)},
        "unknown gate activation 'Sine'",
    ),
    "attention heads": ("attention", [_of((1, 3, 2, 4)), _of((1, 2, 2, 4)), _of((1, 2, 2, 4))], {}, "evenly"),
    "attention past": ("attention", [*[_of((1, 2, 2, 4))] * 3, None, _of((1, 2, 3, 4))], {}, "come together"),
    "attention rank 3": ("attention", [_of((1, 2, 8))] * 3, {}, "number of its heads"),
    "attention mask": ("attention", [*[_of((1, 2, 3, 4))] * 3, _of((2, 3), BOOL)], {}, "does not broadcast"),
    "attention mask dtype": ("attention", [*[_of((1, 2, 3, 4))] * 3, _of((3, 3), I32)], {}, "expected bool or f32"),
    "rotary": ("rotary_embedding", [_of((1, 2, 3, 8)), _of((1, 3, 3)), _of((1, 3, 4))], {}, "cos_cache"),
    "quantize scale": ("quantize", [_of((4, 6)), _of((4,))], {"to": I8}, "neither rank 0 nor"),
    "quantize blocks": ("quantize", [_of((4, 6)), _of((4, 4))], {"to": I8}, "into blocks"),
    "quantize to": ("quantize", [_of((4, 6)), _of(())], {"to": I64}, "no quantised type"),
    "quantize zero point": ("quantize", [_of((4, 6)), _of(()), _of((), U8)], {"to": I8}, "must agree"),
}


@pytest.mark.parametrize("case", CASES)
def test_refused(case):
    name, operands, attrs, words = CASES[case]
    graph = Module().add_graph("main")
    builder = Builder(graph)
    values = []
    for index, item in enumerate(operands):
        if isinstance(item, np.ndarray):
            values.append(builder.const(item, key=f"c{index}"))
        else:
            values.append(None if item is None else graph.add_input(item, f"x{index}"))
    with pytest.raises(TypeInferError, match=words):
        builder.call(name, values, attrs)


@pytest.mark.parametrize("equation", ["i1,j->ij", "ij->iij", "ij->ik", "i....j->i", "ij->jj", "a;b"])
def test_malformed_equations(equation):
    with pytest.raises(TypeInferError, match="einsum"):
        parse_equation(equation)


def test_implicit_results_are_sorted_labels_used_once():
    assert parse_equation("ba,ca").result == "bc"
    assert parse_equation("b...a, ...c").result == ".abc"
    assert parse_equation("ii").result == ""
