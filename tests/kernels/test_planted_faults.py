"""Wrong kernels and wrong shape rules, planted on purpose: the checks that the other tests rest on must see each one."""

from __future__ import annotations

import numpy as np
import pytest
from anyir.ir.opdef import Axis
from anyir.ir.ops import conv as conv_ops
from anyir.ir.ops import get_op
from anyir.ir.ops import pool as pool_ops
from anyir.kernels import registry
from anyir.tests.support.onnx_vectors import assert_close, attributes, cases, spread
from anyir.tests.support.ops import call, check_axes, check_types, results, samples_of

pytest.importorskip("onnx")


def _wrapped(monkeypatch, name, change):
    """Replace the kernel of `name` by `change(kernel, *operands, **attrs)`."""
    real = registry.get_kernel(name)
    monkeypatch.setitem(registry._KERNELS, name, lambda *operands, **attrs: change(real, *operands, **attrs))


def _without_bias(kernel, x, w, b=None, **attrs):
    return kernel(x, w, None, **attrs)


def _swapped_pads(kernel, x, w, b=None, *, pads, **attrs):
    half = len(pads) // 2
    return kernel(x, w, b, pads=pads[half:] + pads[:half], **attrs)


def _other_padding(kernel, x, *, count_include_pad, **attrs):
    return kernel(x, count_include_pad=not count_include_pad, **attrs)


def _swapped_gates(kernel, x, w, r, b=None, *rest, **attrs):
    parts = np.split(w, 4, axis=1)
    return kernel(x, np.concatenate([parts[0], parts[2], parts[1], parts[3]], axis=1), r, b, *rest, **attrs)


def _truncated(kernel, x, scale, zero_point=None, *, to, saturate):
    return kernel(np.trunc(x / scale) * scale, scale, zero_point, to=to, saturate=saturate)


#: op, ONNX operator, fault, attributes that vectors and our kernel do not share.
FAULTS = [
    ("conv", "Conv", _swapped_pads, ("kernel_shape",)),
    ("average_pool", "AveragePool", _other_padding, ()),
    ("lstm", "LSTM", _swapped_gates, ()),
]


@pytest.mark.parametrize(("name", "onnx_name", "fault", "dropped"), FAULTS)
def test_vectors_see_a_wrong_kernel(monkeypatch, name, onnx_name, fault, dropped):
    def failures():
        failed = 0
        for case in cases(frozenset({onnx_name})).values():
            node = case.model.graph.node[0]
            attrs = {k: v for k, v in attributes(node).items() if k not in dropped}
            if "auto_pad" in attrs or "layout" in attrs:
                continue
            attrs = {"groups" if k == "group" else k: v for k, v in attrs.items()}
            inputs, outputs = case.data_sets[0]
            operands = spread(node.input, inputs)
            made = registry.get_kernel(name)(*operands, **get_op(name).make_attrs(attrs))
            made = made if isinstance(made, tuple) else (made,)
            for array, wanted in zip(made, spread(node.output, outputs), strict=False):
                try:
                    if wanted is not None:
                        assert_close(array, wanted, steps=4096)
                except AssertionError:
                    failed += 1
        return failed

    assert failures() <= 1  # one vector is typed with four decimals
    _wrapped(monkeypatch, name, fault)
    assert failures() > 1


def test_a_dropped_bias_is_seen(monkeypatch):
    torch = pytest.importorskip("torch")
    x, w, b, attrs = next(s for s in map(_flat, samples_of("conv")) if s[2] is not None)
    wanted = torch.conv2d(*map(torch.from_numpy, (x, w, b)), **attrs).numpy()
    kernel = registry.get_kernel("conv")
    np.testing.assert_allclose(kernel(x, w, b, **get_op("conv").make_attrs(attrs)), wanted, rtol=1e-4, atol=1e-5)
    _wrapped(monkeypatch, "conv", _without_bias)
    made = registry.get_kernel("conv")(x, w, b, **get_op("conv").make_attrs(attrs))
    assert not np.allclose(made, wanted, rtol=1e-4, atol=1e-5)


def _flat(sample):
    return (*sample.operands, sample.attrs)


def test_truncation_instead_of_rounding_is_seen(monkeypatch):
    sample = samples_of("quantize")[0]
    node, arrays = call("quantize", sample)
    (before,) = results(node, arrays)
    x, scale, zero = arrays
    wanted = np.clip(np.rint(x / scale) + zero, 0, 255)
    np.testing.assert_array_equal(before, wanted)
    _wrapped(monkeypatch, "quantize", _truncated)
    assert (results(node, arrays)[0] != wanted).any()


@pytest.mark.parametrize(("module", "name"), [(conv_ops, "conv"), (pool_ops, "max_pool")])
def test_an_off_by_one_shape_rule_is_seen(monkeypatch, module, name):
    real = module.output_sizes
    monkeypatch.setattr(module, "output_sizes", lambda *a: tuple(size + 1 for size in real(*a)))
    monkeypatch.setattr(get_op(name), "_memo", {})
    node, arrays = call(name, samples_of(name)[0])
    with pytest.raises(AssertionError):
        check_types(node, results(node, arrays))


def test_a_wrong_axis_map_is_seen(monkeypatch):
    """A conv that claims its kernel axes pass."""
    op = get_op("conv")
    sample = samples_of("conv")[0]
    node, arrays = call("conv", sample)
    made = results(node, arrays)
    assert check_axes(node, arrays, made)
    honest = op.axis_map(node)
    row = honest.results[0]
    lying = (*row[:2], Axis("h"), row[3])
    wrong = honest._replace(results=(lying,))
    monkeypatch.setattr(type(op), "axis_map", lambda self, n: wrong)
    with pytest.raises(AssertionError):
        check_axes(node, arrays, made)
