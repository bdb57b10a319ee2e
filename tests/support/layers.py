"""A module being built of layers with chosen weights: what tests of dead weights begin with."""

from __future__ import annotations

import numpy as np
from anyir.ir.builder import Builder
from anyir.ir.dims import sym
from anyir.ir.graph import Module, Value
from anyir.ir.types import F32, TensorType
from anyir.ir.verify import verify


class Net:
    """A module being built, with weights that have chosen slices zeroed."""

    def __init__(self, *shape: object) -> None:
        self.module = Module()
        graph = self.module.add_graph("main")
        self.b = Builder(graph)
        self.x = graph.add_input(TensorType(F32, (sym("N"), *shape)), "x")  # type: ignore[arg-type]

    def weight(self, key: str, *shape: int, zero: dict[int, list[int]] | None = None) -> Value:
        """Random elements; `zero` names slices by axis."""
        data = np.random.default_rng(len(key) + sum(shape)).standard_normal(shape).astype(np.float32)
        for axis, indices in (zero or {}).items():
            data[(slice(None),) * axis + (indices,)] = 0
        return self.b.const(data, key=key, role="param")

    def done(self, *outputs: Value) -> Module:
        self.b.graph.set_outputs(outputs)
        self.module.add_signature("s", self.b.graph, ["x"], [f"y{i}" for i in range(len(outputs))])
        verify(self.module)
        return self.module


def shapes(module: Module) -> dict[str, tuple[int, ...]]:
    return {w.wanted: w.type.shape for w in module.weights}  # type: ignore[misc]
