"""One-node modules out of op samples, for tests that send every op through a transformation or a file format."""

from __future__ import annotations

import numpy as np
from anyir.ir.errors import AnyIRError
from anyir.ir.graph import Module
from anyir.ir.opdef import OPS, Sample
from anyir.ir.ops import load_families
from anyir.kernels.run import run

from tests.support.ops import call, samples_of

Inputs = dict[str, np.ndarray]


def core_ops() -> list[str]:
    """Every op that has samples, targets' own ops left out."""
    load_families()
    return sorted(name for name in OPS if "." not in name and samples_of(name))


def module_of(name: str, sample: Sample, *, symbolic: bool = False) -> tuple[Module, Inputs]:
    """The sample as a module with a signature, and its inputs by name."""
    node, arrays = call(name, sample, symbolic=symbolic)
    graph, module = node.graph, node.graph.module
    graph.set_outputs(node.results)
    inputs = {value.hint: arrays[int(value.hint[1:])] for value in graph.inputs}
    outputs = [f"y{i}" for i in range(len(node.results))]
    module.add_signature("serving_default", graph, list(inputs), outputs)
    return module, inputs


def runnable(name: str, number: int, *, symbolic: bool = False) -> tuple[Module, Inputs, Inputs] | None:
    """Module, inputs and reference outputs of one sample; None for a sample that the op refuses or that has no inputs."""
    try:
        module, inputs = module_of(name, samples_of(name)[number], symbolic=symbolic)
        return (module, inputs, run(module, inputs)) if inputs else None
    except AnyIRError:
        return None
