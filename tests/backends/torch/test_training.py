"""Live modules train: gradients flow as in PyTorch, weights keep their keys, modes and ties mean what they mean there."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyir
import numpy as np
import pytest
import torch
from anyir.backends import torch as backend
from anyir.backends.torch.live import to_tensor
from anyir.frontends import torch as frontend
from anyir.ir.builder import Builder
from anyir.ir.errors import AnyIRError
from anyir.ir.graph import Module
from anyir.ir.opdef import Sample
from anyir.ir.ops import load_families
from anyir.ir.types import F32, F64, DType, TensorType
from anyir.kernels.compare import compare, limits_for
from anyir.kernels.run import run
from anyir.tests.support.ops import call, samples_of
from anyir.tests.support.torch_cases import Case, all_cases, exported
from torch import nn

#: Float results of these do not vary with what is computed, by their nature.
CONSTANT = {
    "shape", "size", "eye_like", "hardmax", "constant_of_shape", "label_encoder", "tree_ensemble", "one_hot", "quantize",
    "dequantize", "requantize", "dynamic_quantize", "bitcast",
}  # fmt: skip


#: They jump where a whole slice is zero: there is no derivative to compare.
JUMPS = {"lp_normalization"}
#: A central difference over a step h errs by h^2 times the third derivative and by eps / h times the function: least, and
#: eps^(2/3) each, at h = eps^(1/3). A tolerance of h leaves room for derivatives and functions of up to 1 / h.
STEP = float(np.finfo(np.float64).eps) ** (1 / 3)


class Tied(nn.Module):
    """Convolution, batch norm, two layers with one weight, and a scalar parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.conv(image)).relu().mean((2, 3))
        return self.second(self.first(y)) * self.scale


@pytest.fixture
def pair() -> tuple[Tied, Any, Module]:
    torch.manual_seed(0)
    net = Tied().eval()
    net.norm.running_mean.normal_()
    module = frontend.read(net, inputs=(torch.randn(2, 3, 8, 8),))
    return net, backend.to_torch(module), module


def test_keys_ties_and_scalars_are_those_of_the_original(pair: tuple[Tied, Any, Module]) -> None:
    net, live, _ = pair
    assert set(live.state_dict()) == set(net.state_dict()) - {"norm.num_batches_tracked"}
    wanted = {name: tuple(p.shape) for name, p in net.named_parameters()}
    assert {name: tuple(p.shape) for name, p in live.named_parameters()} == wanted
    assert live.get_parameter("second.weight") is live.get_parameter("first.weight")
    live.load_state_dict(net.state_dict(), strict=False)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_training_goes_as_in_the_original(pair: tuple[Tied, Any, Module], mode: str) -> None:
    """The same bits after three steps of SGD, running statistics among them."""
    net, live, _ = pair
    x = torch.randn(5, 3, 8, 8)
    for one in (net, live):
        one.train(mode == "train")
        optimizer = torch.optim.SGD(one.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            one(x).square().mean().backward()
            optimizer.step()
    trained = net.state_dict()
    for key, value in live.state_dict().items():
        torch.testing.assert_close(value, trained[key], rtol=0, atol=0)
    torch.testing.assert_close(live.eval()(x), net.eval()(x), rtol=0, atol=0)
    assert not torch.equal(live.get_buffer("norm.running_mean"), torch.zeros(4))


def test_copies_are_their_own(pair: tuple[Tied, Any, Module]) -> None:
    _, live, _ = pair
    twin = copy.deepcopy(live)
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(twin(x), live(x), rtol=0, atol=0)
    with torch.no_grad():
        twin.get_parameter("first.weight").zero_()
    assert twin.get_parameter("second.weight").abs().max() == 0 and live.get_parameter("second.weight").abs().max() > 0
    before = live.get_buffer("norm.running_mean").clone()
    twin.train()(x)
    assert not torch.equal(twin.get_buffer("norm.running_mean"), before)
    assert torch.equal(live.get_buffer("norm.running_mean"), before)
    double = copy.deepcopy(live).double()
    assert double.get_parameter("second.weight") is double.get_parameter("first.weight")


def test_every_way_back_into_the_module(pair: tuple[Tied, Any, Module], tmp_path: Path) -> None:
    """A state dict, a .pt and a .safetensors file; after each, the module computes what the net computes."""
    from safetensors.torch import save_model

    _, live, module = pair
    x = torch.randn(2, 3, 8, 8)
    for index, suffix in enumerate(("", ".pt", ".safetensors")):
        with torch.no_grad():
            for parameter in live.parameters():
                parameter.add_(0.1 * (index + 1))
        path = tmp_path / f"net{suffix}"
        if suffix == ".pt":
            torch.save(live.state_dict(), path)
        elif suffix:
            save_model(live, str(path))
        report = module.load_weights(path if suffix else live.state_dict())
        assert report["missing"] == report["unexpected"] == []
        assert len(report["taken"]) == len({p.data_ptr() for p in live.state_dict().values()})
        (name,), (output,) = module.signature.input_names(), module.signature.output_names()
        given = {name: x.numpy()}
        report = compare(run(module, given), {output: live(x).detach().numpy()}, limits_for(module, given))
        assert report.passed, str(report)


def test_odd_keys_are_kept() -> None:
    module = Module()
    graph = module.add_graph("main")
    b = Builder(graph)
    y = graph.add_input(TensorType(F32, (2,)), "x")
    keys = ["forward", "a", "a.b", "train.x", ".x", "x.", "_parameters.x", "weight_0", "1.2", "", "..", "é\n"]
    for number, key in enumerate(keys):
        value = b.const(np.full(2, number, np.float32), key="temporary", role="param")
        module.weights.remove(value.weight)
        value.weight.key = key
        module.weights.add(value.weight)
        y = b.add(y, value)
    graph.set_outputs([y])
    module.add_signature("main", graph, ["x"], ["y"])
    live = backend.to_torch(module)
    assert sorted(live.state_dict()) == sorted(keys)
    state = {key: value + 1 for key, value in live.state_dict().items()}
    assert module.load_weights(state)["taken"] == list(state)
    assert run(module, [np.zeros(2, np.float32)])["y"][0] == sum(range(1, len(keys) + 1))
    live.load_state_dict(state)
    assert live(torch.zeros(2))["y"][0] == sum(range(1, len(keys) + 1))


CASES = [
    pytest.param(case, id=case.name, marks=() if number % 12 == 0 else pytest.mark.slow)
    for number, case in enumerate(all_cases())
]


@pytest.mark.parametrize("case", CASES)
def test_every_used_parameter_is_there(case: Case) -> None:
    """No decomposition bakes a parameter or buffer in: each one that the graph uses is in the state dict, once."""
    module = frontend.read(exported(case))
    live = backend.to_torch(module)
    used = {w.key for w in module.used_weights() if w.role != "const"}
    assert used <= set(live.state_dict())


# ------------------------------------------------------------------------------------------------ gradients


def widened(item: Any) -> Any:
    if isinstance(item, list):
        return [widened(part) for part in item]
    return np.asarray(item, np.float64) if getattr(item, "dtype", None) == np.float32 else item


def in_float64(name: str, sample: Sample) -> tuple[Any, list[torch.Tensor]] | None:
    """A live module of one node that computes in float64, and its inputs; None where the op or torch does not."""
    made = Sample(tuple(map(widened, sample.operands)), dict(sample.attrs), sample.const)
    try:
        node, flat = call(name, made)
        graph = node.graph
        assert graph is not None
        graph.set_outputs(node.results)
        names = [f"x{i}" for i in range(len(graph.inputs))], [f"y{i}" for i in range(len(node.results))]
        graph.module.add_signature("main", graph, *names)
        live = backend.to_torch(graph.module)
    except AnyIRError:
        return None
    given = [a for a, v in zip(flat, node.operands, strict=False) if v is not None and v in graph.inputs]
    return live, [to_tensor(np.array(a), DType.of(np.asarray(a).dtype)) for a in given]


def check_gradient(name: str, sample: Sample) -> bool:
    """Finite differences of the live module agree with its backward pass; False where there is nothing to differentiate."""
    found = in_float64(name, sample)
    if found is None:
        return False
    live, inputs = found
    moving = [t for t in inputs if t.dtype == torch.float64]
    floats = [v.dtype for v in live._plan.outputs if v.dtype is not None and v.dtype.is_float]
    if name in JUMPS and any((t == 0).any() for t in moving):
        return False
    if not moving or any(t.numel() == 0 for t in inputs) or any(dtype is not F64 for dtype in floats):
        return False

    def compute(*given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        rest = iter(given)
        made = live.outputs([next(rest) if t.dtype == torch.float64 else t for t in inputs])
        return tuple(y for y in made if y.dtype == torch.float64 and y.numel())

    moving = [t.clone().requires_grad_() for t in moving]
    outputs = compute(*moving)
    assert all(y.requires_grad for y in outputs) or name in CONSTANT, f"{name} hands no gradient back"
    if not outputs or not all(y.requires_grad and math.isfinite(y.sum().item()) for y in outputs):
        return False
    return torch.autograd.gradcheck(compute, moving, fast_mode=True, eps=STEP, atol=STEP, rtol=STEP)


COMMON = {
    "add", "attention", "average_pool", "batch_norm", "clip", "concat", "conv", "conv_transpose", "div", "expand", "gather",
    "gelu", "gemm", "group_norm", "gru", "instance_norm", "layer_norm", "log_softmax", "lstm", "matmul", "max_pool", "mul",
    "pad", "pow", "prelu", "reduce_mean", "relu", "reshape", "rms_norm", "scatter_nd", "sigmoid", "slice", "softmax", "split",
    "sub", "tanh", "transpose", "where",
}  # fmt: skip
NAMES = [name for name in sorted(load_families()) if backend.support(name) != "-"]


def test_gradients_of_operators() -> None:
    """The first sample of each op that can be differentiated."""
    checked = {name for name in NAMES if any(check_gradient(name, sample) for sample in samples_of(name)[:2])}
    assert checked >= COMMON and len(checked) > 120, (sorted(COMMON - checked), len(checked))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_all_samples(name: str) -> None:
    for sample in samples_of(name):
        check_gradient(name, sample)


def test_torch_is_named_when_it_is_missing() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import anyir\n"
        "from anyir.ir.errors import MissingPackage\n"
        "from anyir.tests.support.small_models import cnn\n"
        "from pathlib import Path\nimport tempfile\n"
        "module = anyir.load(str(cnn(Path(tempfile.mkdtemp()) / 'net.onnx')))\n"
        "for call in (lambda: anyir.to_torch(module), lambda: anyir.distill(module, module, {'x': []})):\n"
        "    try:\n        call()\n"
        "    except MissingPackage as error:\n        assert error.code == 'D001' and 'torch' in error.hint, error\n"
        "    else:\n        raise AssertionError('no error')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert anyir.to_torch
