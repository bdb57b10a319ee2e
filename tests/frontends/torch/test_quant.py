"""Programs that PT2E quantisation or quantisation-aware training has left: their integers stay, their numbers are torch's."""

import anyir
import numpy as np
import onnx
import pytest
import torch
import torch.ao.quantization.fx._decomposed  # registers the operators
from anyir.ir.errors import InvalidModel, Unsupported
from torch import nn

Q = torch.ops.quantized_decomposed
STEP_IN, STEP_OUT = 2.0**-5, 2.0**-4  # powers of two: multiplying by 1/scale and dividing by the scale are the same


class Quantised(nn.Module):
    """A convolution with int8 weights per channel and an int32 bias, as `convert_pt2e` writes it."""

    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(0)
        scales = torch.rand(8, generator=g) * 0.01 + 0.001
        self.register_buffer("weight", torch.randint(-127, 128, (8, 3, 3, 3), dtype=torch.int8, generator=g))
        self.register_buffer("bias", torch.randint(-500, 500, (8,), dtype=torch.int32, generator=g))
        self.register_buffer("weight_scales", scales)
        self.register_buffer("bias_scales", scales * STEP_IN)
        self.register_buffer("zeros", torch.zeros(8, dtype=torch.int64))

    def forward(self, x):
        x = Q.quantize_per_tensor(x, STEP_IN, 3, -128, 127, torch.int8)
        x = Q.dequantize_per_tensor(x, STEP_IN, 3, -128, 127, torch.int8)
        w = Q.dequantize_per_channel(self.weight, self.weight_scales, self.zeros, 0, -127, 127, torch.int8)
        b = Q.dequantize_per_channel(self.bias, self.bias_scales, self.zeros, 0, -(2**31), 2**31 - 1, torch.int32)
        y = torch.relu(torch.conv2d(x, w, b, padding=1))
        y = Q.quantize_per_tensor(y, STEP_OUT, -128, -128, 127, torch.int8)
        return Q.dequantize_per_tensor(y, STEP_OUT, -128, -128, 127, torch.int8)


def _exported(module, x, path):
    torch.export.save(torch.export.export(module.eval(), (x,)), path)
    return anyir.load(path)


def test_a_pt2e_program_gives_torch_s_numbers_and_keeps_its_integers(tmp_path):
    module, x = Quantised(), torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    read = _exported(module, x, tmp_path / "q.pt2")
    found = anyir.run(read, [x.numpy()])["output_0"]
    assert np.max(np.abs(found - module(x).numpy())) <= STEP_OUT  # sums of another order may cross one tie
    assert np.mean(found == module(x).numpy()) > 0.99
    weights = {w.key: w.tensor.numpy() for w in read.weights}
    np.testing.assert_array_equal(weights["weight"], module.weight.numpy())
    np.testing.assert_array_equal(weights["bias"], module.bias.numpy())


def test_a_pt2e_program_keeps_its_integers_through_o2_and_onnx(tmp_path):
    module, x = Quantised(), torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    _exported(module, x, tmp_path / "q.pt2")
    report = anyir.compile(tmp_path / "q.pt2", tmp_path / "q.onnx")
    assert report.verified
    stored = {i.name: onnx.numpy_helper.to_array(i) for i in onnx.load(tmp_path / "q.onnx").graph.initializer}
    assert any(np.array_equal(array, module.weight.numpy()) for array in stored.values())


class FakeQuantised(nn.Module):
    """What quantisation-aware training leaves when the fake quantisers stay."""

    def forward(self, x):
        y = torch.fake_quantize_per_tensor_affine(x, 2.0**-4, 7, 0, 127)
        scales, zeros = torch.tensor([0.25, 0.5, 0.125]), torch.tensor([0, 0, 0], dtype=torch.int32)
        return y, torch.fake_quantize_per_channel_affine(x, scales, zeros, 1, -7, 7)


def test_fake_quantisers_become_quantize_and_dequantize(tmp_path):
    x = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(2)) * 6
    read = _exported(FakeQuantised(), x, tmp_path / "f.pt2")
    found = list(anyir.run(read, [x.numpy()]).values())
    for have, want in zip(found, FakeQuantised()(x), strict=True):
        np.testing.assert_array_equal(have, want.numpy())


class Wrong(nn.Module):
    def __init__(self, low: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.low, self.dtype = low, dtype

    def forward(self, x):
        return Q.quantize_per_tensor(x, 0.1, 0, self.low, 120, self.dtype)


def test_a_dtype_that_nobody_quantises_to_is_refused(tmp_path):
    with pytest.raises(Unsupported, match="quantised values of dtype"):
        _exported(Wrong(-100, torch.float8_e4m3fn), torch.zeros(2), tmp_path / "w.pt2")


def test_a_range_that_the_dtype_does_not_hold_is_an_invalid_model():
    from anyir.frontends.torch.quant import _checked
    from anyir.ir.types import U8

    with pytest.raises(InvalidModel, match="-128 to 127"):
        _checked(U8, -128, 127)
