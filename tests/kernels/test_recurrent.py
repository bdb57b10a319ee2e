"""lstm, gru, rnn against torch (directions, lengths) and onnxruntime (activations, clip, peepholes, coupled gates)."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

STEPS, BATCH, INPUTS, HIDDEN = 6, 3, 4, 5
#: onnxruntime rounds to float32 at every step: each of T steps and of its sums of I + H terms adds a few units.
ROUNDING = float(np.finfo(np.float32).eps) * STEPS * (INPUTS + HIDDEN)
#: torch's gate order as indices of ONNX's: lstm i f g o -> i o f c, gru r z n -> z r h.
GATES = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "rnn": (0,)}


def _weights(module, name, count):
    """torch's parameters in ONNX's shapes and gate order."""

    def gates(tensor):
        parts = tensor.detach().numpy().reshape(len(GATES[name]), HIDDEN, *tensor.shape[1:])
        return np.concatenate([parts[i] for i in GATES[name]])

    suffixes = ["", "_reverse"][:count]
    w = np.stack([gates(getattr(module, f"weight_ih_l0{s}")) for s in suffixes])
    r = np.stack([gates(getattr(module, f"weight_hh_l0{s}")) for s in suffixes])
    biases = ("bias_ih_l0", "bias_hh_l0")
    b = np.stack([np.concatenate([gates(getattr(module, n + s)) for n in biases]) for s in suffixes])
    return w, r, b


def _random(rng, *shape):
    return rng.standard_normal(shape)


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("lengths", [None, (6, 4, 1)])
def test_torch(call, name, bidirectional, lengths):
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    count = 1 + bidirectional
    module = getattr(torch.nn, name.upper())(INPUTS, HIDDEN, bidirectional=bidirectional).double()
    x = _random(rng, STEPS, BATCH, INPUTS)
    states = [_random(rng, count, BATCH, HIDDEN) for _ in range(2 if name == "lstm" else 1)]
    packed = torch.from_numpy(x)
    if lengths is not None:
        packed = torch.nn.utils.rnn.pack_padded_sequence(packed, torch.tensor(lengths))
    initial = tuple(map(torch.from_numpy, states))
    with torch.no_grad():
        y, last = module(packed, initial if name == "lstm" else initial[0])
    if lengths is not None:
        y = torch.nn.utils.rnn.pad_packed_sequence(y, total_length=STEPS)[0]
    wanted = y.numpy().reshape(STEPS, BATCH, count, HIDDEN).swapaxes(1, 2)
    lens = None if lengths is None else np.array(lengths, np.int32)
    attrs = {"hidden_size": HIDDEN, "direction": "bidirectional" if bidirectional else "forward"}
    if name == "gru":
        attrs["linear_before_reset"] = True
    made = call(name, x, *_weights(module, name, count), lens, *states, **attrs)
    np.testing.assert_allclose(made[0], wanted, atol=1e-14)
    for state, value in zip(made[1:], last if name == "lstm" else (last,), strict=True):
        np.testing.assert_allclose(state, value.numpy(), atol=1e-14)


def _runtime(name, operands, attrs, count):
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    info, kind = onnx.helper.make_tensor_value_info, onnx.helper.np_dtype_to_tensor_dtype
    given = {f"i{i}": v for i, v in enumerate(operands) if v is not None}
    names = [f"i{i}" if v is not None else "" for i, v in enumerate(operands)]
    outputs = [f"o{i}" for i in range(count)]
    node = onnx.helper.make_node(
        name.upper(), names, outputs, **{k: int(v) if v is True else v for k, v in attrs.items()}
    )
    values = [info(k, kind(v.dtype), v.shape) for k, v in given.items()]
    graph = onnx.helper.make_graph([node], "g", values, [info(o, onnx.TensorProto.FLOAT, None) for o in outputs])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 14)], ir_version=8)
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, given)


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn"])
def test_samples_match_onnxruntime(call, samples, name):
    for sample in samples(name):
        made = call(name, *sample.operands, **sample.attrs)
        wanted = _runtime(name, sample.operands, sample.attrs, len(made))
        for a, b in zip(made, wanted, strict=True):
            np.testing.assert_allclose(a, b, atol=ROUNDING, rtol=ROUNDING)


@pytest.mark.parametrize(
    ("activation", "alpha", "beta"),
    [
        ("Affine", 0.7, 0.1),
        ("LeakyRelu", 0.2, None),
        ("ThresholdedRelu", 0.3, None),
        ("ScaledTanh", 1.3, 0.6),
        ("HardSigmoid", 0.3, 0.4),
        ("Elu", 0.8, None),
        ("Softsign", None, None),
        ("Softplus", None, None),
    ],
)
def test_activations_match_onnxruntime(call, activation, alpha, beta):
    rng = np.random.default_rng(1)
    operands = [rng.standard_normal(s).astype(np.float32) * 0.5 for s in ((4, 2, 3), (1, 5, 3), (1, 5, 5), (1, 10))]
    attrs = {"hidden_size": 5, "activations": (activation,)}
    if alpha is not None:
        attrs["activation_alpha"] = (alpha,)
    if beta is not None:
        attrs["activation_beta"] = (beta,)
    made = call("rnn", *operands, **attrs)
    for a, b in zip(made, _runtime("rnn", operands, attrs, 2), strict=True):
        np.testing.assert_allclose(a, b, atol=ROUNDING, rtol=ROUNDING)
