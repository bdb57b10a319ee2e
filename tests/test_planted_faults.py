"""Do the checks see anything? Known faults are planted, and a named check must turn red for each of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import anyir
import numpy as np
import pytest
from anyir.backends.onnx import emitter
from anyir.backends.tflite.lower import conv as lower_conv
from anyir.ir.builder import Builder
from anyir.ir.dims import sym
from anyir.ir.errors import NumericsError, PassError
from anyir.ir.graph import Module
from anyir.ir.types import F32, TensorType
from anyir.kernels import registry
from anyir.passes import rewrites
from anyir.passes.affine import plan as affine_plan
from anyir.passes.instrument import CheckNumerics
from anyir.passes.manager import Context, run_pipeline
from anyir.passes.rewrite import RuleSet, rewrite_graph
from anyir.tests.support import planted

ROOT = Path(anyir.__file__).parent

#: fault -> a test of the suite that must fail with it (and passes without, as the suite itself shows).
RED = [
    ("wrong_kernel", "tests/kernels/test_conv.py::test_geometry"),
    ("dropped_bias", "tests/passes/test_batch_norm.py::test_conv_in_one_and_three_dimensions"),
    ("shape_off_by_one", "tests/ir/ops/test_samples.py::test_op[conv]"),
    ("shape_off_by_one", "tests/kernels/test_conv.py::test_samples_match_torch"),
]


@pytest.mark.parametrize(("fault", "check"), RED)
def test_the_suite_turns_red(fault: str, check: str) -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        "-p",
        "anyir.tests.support.planted",
        check,
    ]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PLANTED": fault},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 1 and f"FAILED {check.split('::')[0]}" in done.stdout, (
        done.stdout[-3000:] + done.stderr[-2000:]
    )


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch):
    """Plants a fault for one test: whatever it patches is put back."""

    def plant_one(name: str, owner: object, attribute: str) -> None:
        monkeypatch.setattr(owner, attribute, getattr(owner, attribute))
        planted.FAULTS[name]()

    return plant_one


def convolution(**attrs: object) -> Module:
    """conv and batch norm with a one-sided padding and dilated filters."""
    rng = np.random.default_rng(0)
    module = Module("net")
    graph = module.add_graph("main")
    b = Builder(graph)
    x = graph.add_input(TensorType(F32, (sym("N"), 3, 9, 9)), "x")
    w, *params = (
        b.const(np.abs(rng.standard_normal(shape)).astype(np.float32), key=key, role="param")
        for key, shape in (("w", (4, 3, 3, 3)), ("scale", (4,)), ("bias", (4,)), ("mean", (4,)), ("var", (4,)))
    )
    y = b.conv(x, w, **({"pads": (2, 0, 0, 1), "dilations": (2, 1)} | attrs))
    graph.set_outputs([b.relu(b.batch_norm(y, *params, epsilon=1e-3))])
    module.add_signature("serving_default", graph, ["x"], ["y"])
    return module


def refused(path: Path) -> str:
    """The message with which a compile to `path` fails its own verification; nothing may be left behind."""
    with pytest.raises(NumericsError) as caught:
        anyir.compile(convolution(), path)
    assert caught.value.exit_code == 1 and list(path.parent.iterdir()) == []
    return str(caught.value)


def test_without_a_fault_everything_is_green(tmp_path: Path) -> None:
    for suffix in (".onnx", ".tflite"):
        assert anyir.compile(convolution(), tmp_path / f"net{suffix}").verified is True


def test_a_wrong_kernel_is_found_by_the_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference itself is wrong: onnxruntime disagrees with it."""
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(registry, "_KERNELS", dict(registry._KERNELS))  # the fault goes into the copy
    planted.wrong_kernel()
    assert "onnxruntime" in refused(tmp_path / "net.onnx")


def test_a_pass_that_drops_a_bias_is_named(plant) -> None:
    plant("dropped_bias", affine_plan, "set_bias")
    with pytest.raises(NumericsError, match="pass 'fold-batch-norm'"):
        run_pipeline(convolution(), "dce,canonicalize,fold-batch-norm,cse", instruments=[CheckNumerics()])


def test_a_pass_that_drops_a_bias_fails_the_compile(tmp_path: Path, plant) -> None:
    plant("dropped_bias", affine_plan, "set_bias")
    assert "gives other results" in refused(tmp_path / "net.onnx")


def test_a_rewrite_to_another_shape_is_refused() -> None:
    @rewrites(lambda p, x, w: p.conv(x, w))
    def forget_the_padding(b, x, w):
        return b.conv(x, w, dilations=(2, 1))

    with pytest.raises(PassError, match="the type is another one"):
        rewrite_graph(convolution().main, RuleSet([forget_the_padding]), Context())


@pytest.mark.parametrize("target", ["onnx", "tflite"])
def test_a_swapped_padding_in_a_backend_fails_the_compile(target: str, tmp_path: Path, plant) -> None:
    owner, attribute = {"onnx": (emitter.Emitter, "node"), "tflite": (lower_conv, "placed")}[target]
    plant(f"swapped_padding_{target}", owner, attribute)
    assert "other results" in refused(tmp_path / f"net.{target}")
