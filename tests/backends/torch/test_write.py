"""What is written: interface, state dict, dynamic sizes, determinism, names that attack, programs, runtimes."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from anyir.backends import torch as backend
from anyir.frontends import torch as frontend
from anyir.ir.builder import Builder
from anyir.ir.dims import sym
from anyir.ir.errors import AnyIRError, InvalidModel, SystemFailure, Unsupported, UsageError
from anyir.ir.graph import Module
from anyir.ir.types import F32, TensorType
from anyir.kernels.run import run
from anyir.runtimes import torch as runtime
from anyir.tests.support.judge import assert_agrees
from anyir.tests.support.torch_cases import Case, all_cases, arrays, batches, expected, exported
from torch import nn


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3)

    def forward(self, image: torch.Tensor) -> Any:
        y = self.norm(self.conv(image)).relu().mean((2, 3))
        return {
            "logits": self.head(y),
            "parts": (y, y.reshape(image.shape[0], 2, -1) + torch.zeros(image.shape[0], 2, 1)),
        }


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(1)
    made = Net().eval()
    made.norm.running_mean.normal_()
    return made


@pytest.fixture(scope="module")
def module(net: Net) -> Module:
    return frontend.read(net, inputs=(torch.randn(2, 1, 8, 8),))


def test_live_module_has_interface_and_state_of_the_original(net: Net, module: Module) -> None:
    live = backend.to_torch(module)
    for batch in (1, 6):
        x = torch.randn(batch, 1, 8, 8)
        wanted, found = net(x), live(image=x)
        assert list(found) == list(wanted) and isinstance(found["parts"], tuple)
        torch.testing.assert_close(found["logits"], wanted["logits"])
        torch.testing.assert_close(live(x)["parts"][1], wanted["parts"][1])
    assert set(live.state_dict()) == set(net.state_dict()) - {"norm.num_batches_tracked"}
    assert {name for name, _ in live.named_parameters()} == {name for name, _ in net.named_parameters()}
    live.load_state_dict({name: torch.zeros_like(t) for name, t in live.state_dict().items()})
    assert not live(torch.randn(2, 1, 8, 8))["logits"].any()


def test_live_module_trains(net: Net, module: Module) -> None:
    live = backend.to_torch(module)
    x = torch.randn(4, 1, 8, 8)
    for one in (net, live):
        one.zero_grad()
        one(x)["logits"].square().sum().backward()
    torch.testing.assert_close(dict(live.named_parameters())["conv.weight"].grad, net.conv.weight.grad)
    with torch.no_grad():
        live.get_parameter("head.weight").zero_()
    assert module.weights["head.weight"].tensor.numpy().any()  # the IR's weights are its own


def test_inputs_are_checked(module: Module) -> None:
    live = backend.to_torch(module)
    for args, kwargs in (((), {}), ((1, 2), {}), ((), {"picture": 1}), ((1,), {"image": 2})):
        with pytest.raises(TypeError):
            live(*args, **kwargs)


def test_files_repeat_byte_for_byte(net: Net, module: Module, tmp_path: Path) -> None:
    twin = frontend.read(net, inputs=(torch.randn(2, 1, 8, 8),))
    for name in ("a.py", "a.safetensors", "a.pt2"):
        (tmp_path / "x").mkdir(exist_ok=True)
        (tmp_path / "y").mkdir(exist_ok=True)
        target = name.replace(".safetensors", ".py")
        backend.write(module, tmp_path / "x" / target)
        backend.write(twin, tmp_path / "y" / target)
        assert (tmp_path / "x" / name).read_bytes() == (tmp_path / "y" / name).read_bytes()


def test_both_files_run_in_torch(net: Net, module: Module, tmp_path: Path) -> None:
    assert runtime.available()
    jobs = []
    for suffix, batch in ((".py", 2), (".pt2", 5), (".py", 5), (".pt2", 1)):
        path = tmp_path / f"net{suffix}"
        backend.write(module, path)
        x = torch.randn(batch, 1, 8, 8)
        jobs.append(runtime.Job(str(path), {"image": x.numpy()}))
    *outcomes, refused = runtime.run_many([*jobs, runtime.Job(str(tmp_path / "absent.pt2"))])
    for found, job in zip(outcomes, jobs, strict=True):
        assert list(found) == ["logits", "parts.0", "parts.1"]
        made = net(torch.from_numpy(job.inputs["image"]))
        live = {"logits": made["logits"], "parts.0": made["parts"][0], "parts.1": made["parts"][1]}
        assert_agrees(module, job.inputs, found, {name: value.detach().numpy() for name, value in live.items()})
    assert isinstance(refused, SystemFailure)
    np.testing.assert_array_equal(runtime.run(jobs[0].path, jobs[0].inputs)["logits"], outcomes[0]["logits"])


PROGRAMS = [case for case in all_cases() if case.name in (
    "elementwise-arith", "conv-2d", "pool-adaptive-odd", "norm-layer", "reduce-topk", "shape-sizes", "shape-nested",
    "index-gather", "index-scatter", "attention-encoder", "recurrent-lstm-deep", "resize-bilinear", "creation-ranges",
)]  # fmt: skip


@pytest.mark.parametrize("case", PROGRAMS, ids=lambda case: case.name)
def test_programs_are_read_back(case: Case, tmp_path: Path) -> None:
    module = frontend.read(exported(case))
    backend.write(module, tmp_path / "net.pt2")
    again = frontend.read(tmp_path / "net.pt2")
    assert again.signature.output_names() == module.signature.output_names()
    for batch in batches(case):
        feeds = dict(zip(again.signature.input_names(), arrays(case.inputs(batch)), strict=True))
        wanted = dict(zip(again.signature.output_names(), expected(case, batch), strict=True))
        assert_agrees(again, feeds, wanted)


def loaded(path: Path) -> ModuleType:
    """Our own output as a Python module."""
    spec = importlib.util.spec_from_file_location("net", path)
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def hostile(names: list[str], weights: list[str]) -> Module:
    """A small module whose names are not ours to trust."""
    module = Module("evil")
    graph = module.add_graph("main")
    b = Builder(graph)
    x = y = graph.add_input(TensorType(F32, (sym(names[1]), 2)), names[0])
    for index, key in enumerate(weights):
        y = b.add(y, b.const(np.full(2, index + 1, np.float32), key=key, role="param"))
    b.loc = b.loc
    graph.set_outputs([y])
    module.add_signature("main", graph, [names[0]], [names[2]])
    assert x is not y
    return module


EVIL = [
    '"""\nimport os\nos.system("touch pwned")\n"""',
    "'); import os #",
    "../up",
    "a.b",
    "é\u202e\x1b[31m",
    "x" * 5000,
]


@pytest.mark.parametrize("name", EVIL, ids=range(len(EVIL)))
def test_names_stay_data(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    keys = [name, "forward", "a", "a.b", "train.x", ".x", "x.", "_parameters.x", "weight_0", "1.2"]
    module = hostile([name, name, name], keys)
    path = tmp_path / "net.py"
    backend.write(module, path)
    assert path.read_text("ascii").isascii() and sorted(p.name for p in tmp_path.iterdir()) == [
        "net.py",
        "net.safetensors",
    ]
    x = np.ones((3, 2), np.float32)
    wanted = x + sum(range(1, len(keys) + 1))
    found = run(frontend.read(path), {name: x})
    assert list(found) == [name]
    np.testing.assert_array_equal(found[name], wanted)
    np.testing.assert_array_equal(loaded(path).load()(torch.from_numpy(x))[name].detach(), wanted)
    live = backend.to_torch(module)
    assert len(list(live.parameters())) == len(keys)
    np.testing.assert_array_equal(live(torch.from_numpy(x))[name].detach(), found[name])
    assert frontend.read(path).main.inputs[0].shape == (sym(name), 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.py", "net.safetensors"]


def test_writing_needs_no_torch(module: Module, tmp_path: Path) -> None:
    from anyir.ir.textfile import write_text

    write_text(module, tmp_path / "net.anyir")
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from anyir.ir.parser import parse_file\n"
        "from anyir.backends import torch\n"
        "from anyir.frontends import torch as frontend\n"
        f"torch.write(parse_file({str(tmp_path / 'net.anyir')!r}), {str(tmp_path / 'net.py')!r})\n"
        f"assert len(frontend.read({str(tmp_path / 'net.py')!r}).main) > 3\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_suffix_and_protection(module: Module, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.py or \.pt2"):
        backend.write(module, tmp_path / "net.pth")
    (tmp_path / "net.safetensors").write_bytes(b"mine")
    with pytest.raises(UsageError):
        backend.write(module, tmp_path / "net.py", protect=[tmp_path / "net.safetensors"])
    assert (tmp_path / "net.safetensors").read_bytes() == b"mine" and not (tmp_path / "net.py").exists()


# -------------------------------------------------------------------------------------------- reading text back

CHANGES = {
    "a call": ("F.relu(", "F.gelu(", False),
    "an argument": ("stride=(1, 1)", "stride=(2, 2)", True),
    "a type": ("f32[n0, 4, 6, 6]", "f32[n0, 4, 6, 7]", True),
    "a size": ("shape[0]", "shape[1]", True),
    "a name": ("INPUTS = (", "INPUTS = ('y', ", True),
    "code": ("import os\n", "import os\nos.system('true')\n", True),
    "a method": ("super().__init__()", "super().__init__(); print(1)", True),
    "a helper": ("def find(", "def found(", True),
    "a function": ("torch.mean(", "torch.load(", True),
    "a module": ("torch.mean(", "os.popen(", True),
    "format": ("# anyir-torch 1", "# anyir-torch 2", True),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changed_text_is_noticed(name: str, module: Module, tmp_path: Path) -> None:
    """Refused, or (a valid other model) read as what it says."""
    old, new, refused = CHANGES[name]
    path = tmp_path / "net.py"
    backend.write(module, path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    if refused:
        with pytest.raises((InvalidModel, Unsupported)):
            frontend.read(path)
        return
    x = np.random.default_rng(0).standard_normal((2, 1, 8, 8)).astype(np.float32)
    assert not np.allclose(run(frontend.read(path), [x])["logits"], run(module, [x])["logits"])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "print(1)",
        "# anyir-torch 1\n" + "(" * 5000,
        "# anyir-torch 1\n" + "-" * 5000 + "1",
        "# anyir-torch 1\nx = [\n",
        "\0",
    ],
)
def test_other_python_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "net.py"
    path.write_text(text)
    with pytest.raises(AnyIRError) as caught:
        frontend.read(path)
    assert caught.value.exit_code == 3


def test_swapped_padding_is_noticed(tmp_path: Path) -> None:
    """A planted fault: the two paddings of a convolution change places in the text."""
    case = next(c for c in all_cases() if c.name == "conv-2d")
    module = frontend.read(exported(case))
    path = tmp_path / "net.py"
    backend.write(module, path)
    assert "padding=(1, 2)" in path.read_text()
    path.write_text(path.read_text().replace("padding=(1, 2)", "padding=(2, 1)"))
    with pytest.raises(InvalidModel, match="declares"):
        frontend.read(path)
