"""The table of torch calls: every op's samples and every case of the frontend, run live, as text, and read back."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from anyir.backends import torch as backend
from anyir.backends.torch.calls import ROWS
from anyir.frontends import torch as frontend
from anyir.ir.errors import Unsupported
from anyir.ir.graph import Module
from anyir.ir.ops import load_families
from anyir.ir.types import DType
from anyir.ir.verify import verify
from anyir.kernels.compare import compare, limits_for
from anyir.kernels.run import run
from anyir.tests.support.ops import call, samples_of
from anyir.tests.support.torch_cases import Case, all_cases, arrays, batches, exported

#: Tables of a known size, whatever the target.
WINDOWS = {"hann_window", "hamming_window", "blackman_window"}
#: What torch cannot say with any decomposition: random numbers that are functions of a seed, branches and loops, sequences,
#: maps and strings; and what has no row: transforms, detection, decoding.
REFUSED = (
    {"bernoulli", "multinomial", "random_normal", "random_uniform", "dropout"}
    | {"if", "loop", "scan", "dynamic_quantize_lstm", "opaque", "return"}
    | {"cast_map", "dict_vectorizer", "one_hot_encoder", "zip_map"}
    | {
        op.name
        for op in load_families().values()
        if type(op).__module__.rpartition(".")[2] in ("sequence", "text", "signal", "vision")
    }
    | {"det", "tensor_scatter", "unique"}
) - WINDOWS


def loaded(path: Path) -> ModuleType:
    """Our own output as a Python module."""
    spec = importlib.util.spec_from_file_location("net", path)
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def _gelu_slack(inputs: list[np.ndarray]) -> float:
    """torch evaluates x * (1 + erf(x / sqrt 2)) / 2 as it stands: the sum cancels for negative x, one ULP of 1 stays."""
    return float(np.finfo(inputs[0].dtype).eps) * float(np.abs(inputs[0].astype(np.float64)).max(initial=0))


def _sampling_slack(inputs: list[np.ndarray]) -> float:
    """torch computes coordinates in the dtype of the grid: an ULP of the largest position moves a value by the steepest
    slope between neighbours, at most twice the largest pixel per position, 2.5 times that with overshooting cubics."""
    x, eps = np.abs(inputs[0].astype(np.float64)), float(np.finfo(inputs[1].dtype).eps)
    return eps * max(inputs[0].shape[2:]) * 5 * float(x.max(initial=0))


SLACK = {"gelu": _gelu_slack, "grid_sample": _sampling_slack}


def check(module: Module, inputs: list[np.ndarray], path: Path) -> None:
    """The live module, the written text run by torch, and the written text read back all agree with the kernels."""
    wanted = run(module, inputs)
    slack = sum(SLACK[node.name](inputs) for node in module.main.nodes(*SLACK) if len(module.main) == 1)
    limits = {name: limit.atol + slack for name, limit in limits_for(module, inputs, runs=2, exact=wanted).items()}
    backend.write(module, path)
    tensors = [torch.from_numpy(np.array(x)) if x.dtype.name != "bfloat16" else _bfloat(x) for x in inputs]
    for run_torch in (backend.to_torch(module), loaded(path).load()):
        with torch.no_grad():
            found = dict(zip(wanted, arrays(run_torch(*tensors)), strict=True))
        report = compare(wanted, found, limits)
        assert report.passed, str(report)
    again = frontend.read(path)
    verify(again)
    assert again.signature.input_names() == module.signature.input_names()
    assert again.signature.output_names() == module.signature.output_names()
    report = compare(wanted, run(again, inputs), limits)
    assert report.passed, str(report)


def _bfloat(array: np.ndarray) -> Any:
    return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)


@pytest.mark.parametrize("case", all_cases(), ids=lambda case: case.name)
def test_cases(case: Case, tmp_path: Path) -> None:
    module = frontend.read(exported(case))
    verify(backend.legalize(module))
    check(module, arrays(case.inputs(batches(case)[-1])), tmp_path / "net.py")


def single(name: str, sample: Any) -> tuple[Module, list[np.ndarray]]:
    """One sample of an op as a module."""
    node, flat = call(name, sample)
    graph = node.graph
    assert graph is not None
    graph.set_outputs(node.results)
    module = graph.module
    module.add_signature(
        "main", graph, [f"in{i}" for i in range(len(graph.inputs))], [f"out{i}" for i in range(len(node.results))]
    )
    given = [
        array for array, value in zip(flat, node.operands, strict=False) if value is not None and value in graph.inputs
    ]
    return module, given


@pytest.mark.parametrize("name", sorted(set(load_families()) - REFUSED - {"call"}))
def test_samples(name: str, tmp_path: Path) -> None:
    """Samples that are refused say why; at least one of each op is written."""
    written = 0
    for sample in samples_of(name):
        module, inputs = single(name, sample)
        if any(value.attrs.get("channels_last") for value in module.main.nodes()):
            continue  # a layout that no module has before it is assigned
        if any(DType.of(x.dtype).bits < 8 or "float8" in x.dtype.name for x in inputs):
            continue  # torch has no tensors of these to pass in
        if backend.offenders(module):
            with pytest.raises(Unsupported, match="cannot be written as PyTorch"):
                backend.to_torch(module)
            continue
        check(module, inputs, tmp_path / "net.py")
        written += 1
    assert written, f"no sample of {name} can be written"


def test_support_is_what_the_table_says() -> None:
    for name in load_families():
        answer = backend.support(name)
        assert answer in ("direct", "decomposed", "-")
        assert (answer == "direct") == (name in ROWS)
        assert (answer == "-") == (name in REFUSED)
