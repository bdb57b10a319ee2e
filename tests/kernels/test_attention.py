"""attention and rotary_embedding against torch and against formulas; ONNX's vectors are in test_onnx_vectors.py."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
sdpa = torch.nn.functional.scaled_dot_product_attention


def _random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def _torch(q, k, v, **options):
    return sdpa(*map(torch.from_numpy, (q, k, v)), **options).numpy()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("scale", [None, 0.2])
def test_torch(call, causal, scale):
    q, k, v = _random(2, 3, 5, 4), _random(2, 3, 5, 4, seed=1), _random(2, 3, 5, 6, seed=2)
    made = call("attention", q, k, v, is_causal=causal, scale=scale)[0]
    np.testing.assert_allclose(made, _torch(q, k, v, is_causal=causal, scale=scale), atol=1e-14)


def test_masks_and_groups(call):
    q, k, v = _random(2, 4, 5, 4), _random(2, 2, 7, 4, seed=1), _random(2, 2, 7, 6, seed=2)
    keep = np.random.default_rng(3).random((2, 1, 5, 7)) > 0.4
    keep[..., 0] = True
    bias = _random(4, 5, 7, seed=4)
    for mask in (keep, bias):
        wanted = _torch(q, k, v, attn_mask=torch.from_numpy(mask), enable_gqa=True)
        np.testing.assert_allclose(call("attention", q, k, v, mask)[0], wanted, atol=1e-14)


def test_rank_three_is_heads_inside(call):
    q, k, v = _random(2, 5, 12), _random(2, 7, 6, seed=1), _random(2, 7, 10, seed=2)

    def split(x, heads):
        return np.ascontiguousarray(x.reshape(2, x.shape[1], heads, -1).swapaxes(1, 2))

    wanted = _torch(split(q, 4), split(k, 2), split(v, 2), enable_gqa=True).swapaxes(1, 2).reshape(2, 5, 20)
    made = call("attention", q, k, v, q_num_heads=4, kv_num_heads=2)
    np.testing.assert_allclose(made[0], wanted, atol=1e-14)
    np.testing.assert_array_equal(made[1], split(k, 2))


def test_decoding_with_a_cache_equals_one_pass(call):
    q, k, v = (_random(1, 2, 6, 4, seed=s) for s in range(3))
    whole = call("attention", q, k, v, is_causal=True)[0]
    keys = values = None
    for step in range(6):
        now = (slice(None), slice(None), slice(step, step + 1))
        y, keys, values, _ = call("attention", q[now], k[now], v[now], None, keys, values, is_causal=True)
        np.testing.assert_allclose(y, whole[now], atol=1e-14)
    np.testing.assert_array_equal(keys, k)


def test_windows_are_bands(call):
    q, k, v = (_random(1, 2, 6, 4, seed=s) for s in range(3))
    i, j = np.mgrid[:6, :6]
    band = torch.from_numpy((j >= i - 2) & (j <= i + 1))
    made = call("attention", q, k, v, left_window_size=2, right_window_size=1)[0]
    np.testing.assert_allclose(made, _torch(q, k, v, attn_mask=band), atol=1e-14)


def test_rows_without_keys_are_zero(call):
    q, k, v = (_random(1, 1, 2, 4, seed=s) for s in range(3))
    mask = np.array([[False, False], [True, True]])
    y, _, _, weights = call("attention", q, k, v, mask, qk_matmul_output_mode=3)
    assert not y[0, 0, 0].any()
    assert not weights[0, 0, 0].any()
    assert np.isfinite(y).all()


def test_soft_cap_and_score_outputs(call):
    q, k, v = (_random(1, 2, 3, 4, seed=s) for s in range(3))
    mask = _random(3, 3, seed=5)
    scores = q @ k.swapaxes(2, 3) / 2
    capped = 1.5 * np.tanh(scores / 1.5)
    weights = np.exp(capped + mask)
    weights /= weights.sum(-1, keepdims=True)
    for mode, wanted in enumerate((scores, capped, capped + mask, weights)):
        y, _, _, shown = call("attention", q, k, v, mask, softcap=1.5, qk_matmul_output_mode=mode)
        np.testing.assert_allclose(shown, wanted, atol=1e-14)
        np.testing.assert_allclose(y, weights @ v, atol=1e-14)


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotation_is_multiplication_by_a_phase(call, interleaved):
    x, angles = _random(2, 3, 5, 8), np.random.default_rng(1).uniform(0, 6, (2, 5, 4))
    first, second = (x[..., 0::2], x[..., 1::2]) if interleaved else (x[..., :4], x[..., 4:])
    turned = (first + 1j * second) * np.exp(1j * angles)[:, None]
    made = call("rotary_embedding", x, np.cos(angles), np.sin(angles), None, interleaved=interleaved)
    real, imaginary = (made[..., 0::2], made[..., 1::2]) if interleaved else (made[..., :4], made[..., 4:])
    np.testing.assert_allclose(real + 1j * imaginary, turned, atol=1e-14)
