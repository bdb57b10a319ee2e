"""conv, pool, matmul, norm, resize, recurrent, attention, quant: inference and axis maps agree with the kernels.

Each op's samples run with static dims, then with one symbol per size, then with ranks unknown.
"""

from __future__ import annotations

import pytest
from anyir.ir import opdef
from anyir.ir.ops import load_families
from anyir.ir.types import TensorType
from anyir.tests.support.ops import call, check_axes, check_types, ids_of, results, samples_of

FAMILIES = ("conv", "pool", "matmul", "norm", "resize", "recurrent", "attention", "quant")


def _names() -> list[str]:
    load_families()
    return [n for n, op in opdef.OPS.items() if type(op).__module__.rpartition(".")[2] in FAMILIES]


CASES = list(ids_of(_names()))


@pytest.mark.parametrize(("name", "number"), CASES)
def test_inference_and_axes_match_the_kernel(name: str, number: int) -> None:
    sample = samples_of(name)[number]
    node, arrays = call(name, sample)
    made = results(node, arrays)
    for value, array in zip(node.results, made, strict=True):
        assert value.shape == array.shape
    check_types(node, made)
    check_axes(node, arrays, made)
    symbolic, _ = call(name, sample, symbolic=True)
    check_types(symbolic, made)
    assert [v.rank for v in symbolic.results] == [a.ndim for a in made]


@pytest.mark.parametrize("name", _names())
def test_unknown_ranks_and_dtypes_are_tolerated(name: str) -> None:
    node, _ = call(name, samples_of(name)[0])
    for value in node.inputs():
        if not value.is_const:
            value.type = TensorType(None, None)
    known = node.op.infer_results(node.operands, node.attrs)
    assert len(known) == len(node.results)
    node.op.axis_map(node)


def test_every_op_has_several_samples() -> None:
    few = {name: len(samples_of(name)) for name in _names() if len(samples_of(name)) < 2}
    assert not few
