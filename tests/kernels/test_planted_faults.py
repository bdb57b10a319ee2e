"""Wrong kernels, shape rules and axis maps, planted on purpose: the other tests' checks must turn red on each one."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from anyir.ir.opdef import Axis
from anyir.ir.ops import conv as conv_ops
from anyir.ir.ops import get_op
from anyir.ir.ops import pool as pool_ops
from anyir.kernels import registry
from anyir.tests.kernels import test_attention, test_conv, test_norm, test_pool, test_quant, test_recurrent, test_resize
from anyir.tests.support.ops import call as node_of
from anyir.tests.support.ops import check_axes, check_types, results, samples_of


def _without_bias(kernel, x, w, b=None, **attrs):
    return kernel(x, w, None, **attrs)


def _swapped_pads(kernel, x, w, b=None, *, pads, **attrs):
    half = len(pads) // 2
    return kernel(x, w, b, **attrs, pads=pads[half:] + pads[:half])


def _other_padding(kernel, x, *, count_include_pad, **attrs):
    return kernel(x, **attrs, count_include_pad=not count_include_pad)


def _summed_in_float32(kernel, x, scale=None, bias=None, *, axis, epsilon):
    data = x.astype(np.float32)
    axes = tuple(range(axis % x.ndim, x.ndim))
    mean = np.mean(data, axis=axes, keepdims=True, dtype=np.float32)
    variance = np.mean(data * data, axis=axes, keepdims=True) - mean * mean
    y = (data - mean) / np.sqrt(np.maximum(variance, 0) + np.float32(epsilon) + np.float32(1e-30))
    return y * (1 if scale is None else scale) + (0 if bias is None else bias)


def _swapped_gates(kernel, x, w, r, *rest, **attrs):
    i, o, f, c = np.split(w, 4, axis=1)
    return kernel(x, np.concatenate([i, f, o, c], axis=1), r, *rest, **attrs)


def _ignored_mask(kernel, q, k, v, *rest, is_causal, **attrs):
    return kernel(q, k, v, *rest, **attrs, is_causal=False)


def _corner_pixels(kernel, x, *rest, coordinate_transformation_mode, **attrs):
    return kernel(x, *rest, **attrs, coordinate_transformation_mode="asymmetric")


def _truncating(kernel, x, scale, zero_point=None, **attrs):
    return kernel(np.trunc(x / scale) * scale, scale, zero_point, **attrs)


ALL = ("call", "samples", "rounded_once")

#: op, fault, the test that must see it and the fixtures it takes.
FAULTS = {
    "conv drops its bias": ("conv", _without_bias, test_conv.test_samples_match_torch, ALL),
    "conv swaps its pads": ("conv", _swapped_pads, test_conv.test_samples_match_torch, ALL),
    "layer_norm in float32": ("layer_norm", _summed_in_float32, test_norm.test_moments_do_not_cancel, ALL[:1]),
    "resize from corners": ("resize", _corner_pixels, test_resize.test_torch_trilinear_and_channels_last, ALL[::2]),
    "quantize truncates": ("quantize", _truncating, test_quant.test_per_tensor_matches_torch, ALL[:1]),
}


def _plant(monkeypatch, name, fault):
    real = registry.get_kernel(name)
    monkeypatch.setitem(registry._KERNELS, name, lambda *operands, **attrs: fault(real, *operands, **attrs))


@pytest.mark.parametrize("case", FAULTS)
def test_a_wrong_kernel_is_seen(monkeypatch, request, case):
    name, fault, check, fixtures = FAULTS[case]
    arguments = [request.getfixturevalue(fixture) for fixture in fixtures]
    check(*arguments)
    _plant(monkeypatch, name, fault)
    with pytest.raises(AssertionError):
        check(*arguments)


def test_padding_counted_by_mistake_is_seen(monkeypatch, call, samples, rounded_once):
    _plant(monkeypatch, "average_pool", _other_padding)
    with pytest.raises(AssertionError):
        test_pool.test_samples_by_hand(call, samples, rounded_once, "average_pool")


def test_swapped_gates_are_seen(monkeypatch, call):
    _plant(monkeypatch, "lstm", _swapped_gates)
    with pytest.raises(AssertionError):
        test_recurrent.test_torch(call, "lstm", False, None)


def test_an_ignored_causal_mask_is_seen(monkeypatch, call):
    _plant(monkeypatch, "attention", _ignored_mask)
    with pytest.raises(AssertionError):
        test_attention.test_torch(call, True, None)


@pytest.mark.parametrize(("module", "name"), [(conv_ops, "conv"), (pool_ops, "max_pool")])
def test_an_off_by_one_shape_rule_is_seen(monkeypatch, module, name):
    real = module.output_sizes
    monkeypatch.setattr(module, "output_sizes", lambda *a: tuple(size + 1 for size in real(*a)))
    monkeypatch.setattr(get_op(name), "_memo", {})
    node, arrays = node_of(name, samples_of(name)[0])
    with pytest.raises(AssertionError):
        check_types(node, results(node, arrays))


def test_a_wrong_axis_map_is_seen(monkeypatch):
    """A conv that claims its rows pass although the kernel spans three of them."""
    node, arrays = node_of("conv", samples_of("conv")[0])
    made = results(node, arrays)
    assert check_axes(node, arrays, made)
    honest = node.op.axis_map(node)

    def lying(row):
        return (*row[:2], Axis("h"), row[3])

    wrong = honest._replace(
        operands=(lying(honest.operands[0]), *honest.operands[1:]), results=(lying(honest.results[0]),)
    )
    monkeypatch.setattr(type(node.op), "axis_map", lambda self, n: wrong)
    weights = arrays[1].copy()
    weights[..., 0, :] *= 3
    made = results(node, [arrays[0], weights, arrays[2]])
    with pytest.raises(AssertionError):
        check_axes(node, [arrays[0], weights, arrays[2]], made)
