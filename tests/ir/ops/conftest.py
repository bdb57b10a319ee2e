"""Helpers of the inference tests: a graph to build in, with inputs by type."""

from __future__ import annotations

from typing import Any

import pytest
from anyir.ir.builder import Builder
from anyir.ir.dims import parse_dim
from anyir.ir.graph import Module, Value
from anyir.ir.types import F32, DType, TensorType


class Scratch:
    """A graph with a builder; `value("N", 3)` is an input of that shape, `value()` one of unknown rank."""

    def __init__(self) -> None:
        self.graph = Module().add_graph("main")
        self.b = Builder(self.graph)

    def value(self, *dims: Any, dtype: DType | None = F32) -> Value:
        shape = tuple(parse_dim(d) if isinstance(d, str) else d for d in dims)
        return self.graph.add_input(TensorType(dtype, shape), f"x{len(self.graph.inputs)}")

    def unranked(self, dtype: DType | None = F32) -> Value:
        return self.graph.add_input(TensorType(dtype, None), f"x{len(self.graph.inputs)}")


@pytest.fixture
def s() -> Scratch:
    return Scratch()


@pytest.fixture
def shape_of() -> Any:
    """The shape as text, such as "N, 3"; "*" for an unknown rank."""
    return lambda value: "*" if value.shape is None else ", ".join(map(str, value.shape))
