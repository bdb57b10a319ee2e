"""Window arithmetic: symbolic sizes, evaluated, equal windows counted one by one; readable forms stay readable."""

from __future__ import annotations

import itertools

import pytest
from anyir.ir.builder import Builder
from anyir.ir.dims import evaluate, sym
from anyir.ir.errors import TypeInferError
from anyir.ir.graph import Module
from anyir.ir.ops.window import output_size, resolve_pads, transposed, window
from anyir.ir.types import F32, TensorType

PADS = ((0, 0), (1, 0), (1, 1), (0, 1))
GEOMETRIES = [
    (kernel, stride, dilation, pads, ceil_mode)
    for kernel, stride, dilation in itertools.product((1, 2, 3), (1, 2, 3), (1, 2))
    for pads, ceil_mode in itertools.product(PADS, (False, True))
    if max(pads) <= (kernel - 1) * dilation
]


def _count(size, kernel, stride, dilation, pads, ceil_mode):
    """Windows counted by sliding: whole ones, and with ceil_mode one more that overhangs but starts inside."""
    extent = (kernel - 1) * dilation + 1
    end = size + pads[1]
    starts = [s for s in range(-pads[0], size + pads[1], stride) if s + extent <= end]
    if not ceil_mode:
        return len(starts)
    following = starts[-1] + stride if starts else -pads[0]
    if (not starts or starts[-1] + extent < end) and following < size:
        return len(starts) + 1
    return len(starts)


@pytest.mark.parametrize(("kernel", "stride", "dilation", "pads", "ceil_mode"), GEOMETRIES)
def test_symbolic_output_size_is_the_count(kernel, stride, dilation, pads, ceil_mode):
    made = window((kernel,), (stride,), pads, (dilation,))
    symbolic = output_size(made, 0, sym("L"), ceil_mode)
    for size in range(made.extents[0], 14):
        wanted = _count(size, kernel, stride, dilation, pads, ceil_mode)
        assert output_size(made, 0, size, ceil_mode) == wanted
        assert evaluate(symbolic, {"L": size}) == wanted


@pytest.mark.parametrize("mode", ["same_upper", "same_lower"])
@pytest.mark.parametrize(("kernel", "stride", "dilation"), list(itertools.product((1, 2, 3, 4), (1, 2, 3), (1, 2))))
def test_same_padding_gives_size_over_stride(mode, kernel, stride, dilation):
    made = window((kernel,), (stride,), (), (dilation,), mode)
    for size in range(1, 12):
        explicit = resolve_pads(made, (size,))
        begin, end = explicit.begins[0], explicit.ends[0]
        assert output_size(made, 0, size) == -(-size // stride) == output_size(explicit, 0, size)
        assert abs(begin - end) <= 1
        assert (end >= begin) if mode == "same_upper" else (begin >= end)


def test_transposed_inverts_the_window():
    for kernel, stride, dilation, pad in itertools.product((1, 2, 3), (1, 2, 3), (1, 2), (0, 1)):
        made = window((kernel,), (stride,), (pad, pad), (dilation,))
        for size in range(4, 9):
            (full,) = transposed(made, (size,), (), ())[1]
            assert output_size(made, 0, full) == size


def _conv(shape, weights, **attrs):
    graph = Module().add_graph("main")
    x = graph.add_input(TensorType(F32, shape), "x")
    return Builder(graph).conv(x, graph.add_input(TensorType(F32, weights), "w"), **attrs)


def test_usual_convolutions_read_well():
    n, h = sym("N"), sym("H")
    assert _conv((n, 3, h, h), (8, 3, 3, 3), pads=(1, 1, 1, 1)).shape == (n, 8, h, h)
    assert _conv((n, 3, h, 224), (8, 3, 1, 1)).shape == (n, 8, h, 224)
    halved = _conv((n, 3, 32 * h, 224), (64, 3, 7, 7), pads=(3, 3, 3, 3), strides=(2, 2)).shape
    assert halved == (n, 64, 16 * h, 112)
    assert _conv((n, 3, h, 9), (8, 3, 3, 3), strides=(2, 2), auto_pad="same_upper").shape == (n, 8, (h + 1) // 2, 5)
    assert _conv((n, 7, h, 3), (8, 3, 3, 3), pads=(1, 1, 1, 1), channels_last=True).shape == (n, 7, h, 8)


def test_computed_kernels_leave_spatial_dims_open():
    shape = _conv((2, 3, 8, 8), (4, 3, sym("K"), sym("K"))).shape
    assert shape[:2] == (2, 4)
    assert all(not isinstance(d, int) for d in shape[2:])


def test_wrong_attributes_are_named():
    for attrs, words in (
        ({"strides": (0, 1)}, "strides"),
        ({"pads": (1, 1)}, "pads has 2 entries, expected 4"),
        ({"pads": (1, 1, 1, 1), "auto_pad": "same_upper"}, "contradict"),
        ({"auto_pad": "same"}, "auto_pad"),
        ({"groups": 2}, "groups"),
    ):
        with pytest.raises(TypeInferError, match=words):
            _conv((1, 3, 8, 8), (4, 3, 3, 3), **attrs)
