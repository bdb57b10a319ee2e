"""Normalisations against torch in float64 and against their formulas."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
F = torch.nn.functional


def _t(x):
    return None if x is None else torch.from_numpy(np.ascontiguousarray(x)).double()


def _first(x, last):
    return np.moveaxis(x, -1, 1) if last else x


def _back(y, last):
    return np.moveaxis(y.numpy(), 1, -1) if last else y.numpy()


def test_batch_norm(call, samples, rounded_once):
    for sample in samples("batch_norm"):
        x, scale, bias, mean, var = sample.operands
        last = sample.attrs["channels_last"]
        vectors = map(_t, (mean, var, scale, bias))
        exact = F.batch_norm(_t(_first(x, last)), *vectors, eps=sample.attrs["epsilon"])
        rounded_once(call("batch_norm", *sample.operands, **sample.attrs), _back(exact, last))


def test_layer_norm(call, samples, rounded_once):
    for sample in samples("layer_norm"):
        x, scale, bias = sample.operands
        axis = sample.attrs.get("axis", -1)
        exact = F.layer_norm(_t(x), x.shape[axis:], _t(scale), _t(bias), sample.attrs.get("epsilon", 1e-5))
        rounded_once(call("layer_norm", *sample.operands, **sample.attrs), exact.numpy())


def test_rms_norm(call, samples, rounded_once):
    for sample in samples("rms_norm"):
        x, scale = sample.operands
        axis = sample.attrs.get("axis", -1)
        exact = F.rms_norm(_t(x), x.shape[axis:], _t(scale), sample.attrs.get("epsilon", 1e-5))
        rounded_once(call("rms_norm", *sample.operands, **sample.attrs), exact.numpy())


def test_instance_and_group_norm(call, samples, rounded_once):
    for name in ("instance_norm", "group_norm"):
        for sample in samples(name):
            x, scale, bias = sample.operands
            last = sample.attrs.get("channels_last", False)
            data, vectors = _t(_first(x, last)), (_t(scale), _t(bias))
            if name == "instance_norm":
                exact = F.instance_norm(data, None, None, *vectors, eps=sample.attrs.get("epsilon", 1e-5))
            else:
                exact = F.group_norm(data, sample.attrs["num_groups"], *vectors)
            rounded_once(call(name, *sample.operands, **sample.attrs), _back(exact, last))


def test_moments_do_not_cancel(call):
    """A large mean: E(x^2) - E(x)^2 would lose every digit in float32."""
    x = (np.array([[0, 1, 2, 3]]) + 1e6).astype(np.float32)
    made = call("layer_norm", x, None, None, epsilon=0.0)
    np.testing.assert_allclose(made, [[-1.3416408, -0.4472136, 0.4472136, 1.3416408]], rtol=1e-6)


def test_lrn(call, samples, rounded_once):
    for sample in samples("lrn"):
        (x,) = sample.operands
        attrs = {"alpha": 1e-4, "beta": 0.75, "bias": 1.0, **sample.attrs}
        last = attrs.get("channels_last", False)
        data = _first(x, last).astype(np.float64)
        size, exact = attrs["size"], np.empty_like(data)
        for c in range(data.shape[1]):
            low, high = max(0, c - (size - 1) // 2), min(data.shape[1], c + size // 2 + 1)
            total = (data[:, low:high] ** 2).sum(axis=1)
            exact[:, c] = data[:, c] / (attrs["bias"] + attrs["alpha"] / size * total) ** attrs["beta"]
        rounded_once(call("lrn", x, **sample.attrs), np.moveaxis(exact, 1, -1) if last else exact)


def test_lp_normalization(call, samples, rounded_once):
    for sample in samples("lp_normalization"):
        (x,) = sample.operands
        axis, p = sample.attrs.get("axis", -1), sample.attrs.get("p", 2)
        norm = np.linalg.norm(x.astype(np.float64), ord=p, axis=axis, keepdims=True)
        exact = np.divide(x, norm, out=np.zeros(x.shape), where=norm != 0)
        rounded_once(call("lp_normalization", x, **sample.attrs), exact)


def test_mean_variance_normalization(call, samples, rounded_once):
    for sample in samples("mean_variance_normalization"):
        (x,) = sample.operands
        axes = sample.attrs.get("axes", (0, 2, 3))
        data = x.astype(np.float64)
        exact = (data - data.mean(axes, keepdims=True)) / (data.std(axes, keepdims=True) + 1e-9)
        rounded_once(call("mean_variance_normalization", x, **sample.attrs), exact)
