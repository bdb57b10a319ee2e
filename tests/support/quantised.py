"""Small quantised graphs built by a few lines: Q and D by their numbers, layers between them, inputs that reach the edges."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np
from anyir.ir.builder import Builder
from anyir.ir.graph import Module, Value
from anyir.ir.types import F32, I8, DType, TensorType
from anyir.ir.verify import verify

Array = np.ndarray


class Quantising(Builder):
    """A builder with quantize and dequantize by numbers: scale, zero point, dtype. Vectors go along `axis`."""

    def q(self, x: Value, scale: Any, zero: Any = 0, to: DType = I8, axis: int = 1) -> Value:
        return self.quantize(x, *self._parameters(x, scale, zero, to, axis), to=to)

    def d(self, x: Value, scale: Any, zero: Any = 0, to: DType = F32, axis: int = 1) -> Value:
        return self.dequantize(x, *self._parameters(x, scale, zero, x.dtype, axis), to=to)  # type: ignore[arg-type]

    def qd(self, x: Value, scale: Any, zero: Any = 0, to: DType = I8) -> Value:
        return self.d(self.q(x, scale, zero, to), scale, zero)

    def weights(self, array: Any, scale: Any, to: DType = I8, axis: int = 0, key: str = "w") -> Value:
        """Integers as a parameter behind dequantize."""
        stored = self.const(np.asarray(array).astype(to.numpy), key=key, role="param")
        return self.d(stored, scale, 0, axis=axis)

    def _parameters(self, x: Value, scale: Any, zero: Any, to: DType, axis: int) -> tuple[Value, Value | None]:
        scales = np.asarray(scale, np.float32)
        zeros = np.asarray(zero)
        shape = tuple(-1 if i == axis % (x.rank or 1) else 1 for i in range(x.rank or 0))
        scales, zeros = (v.reshape(shape) if v.ndim == 1 else v for v in (scales, zeros))
        return self.const(scales), self.const(zeros.astype(to.numpy)) if zeros.any() else None


def graph_of(build: Callable[..., Value | Sequence[Value]], *shapes: tuple[Any, ...], dtype: DType = F32) -> Module:
    """A verified module: `build(b, *inputs)` returns its outputs."""
    module = Module("test")
    graph = module.add_graph("main")
    inputs = [graph.add_input(TensorType(dtype, shape), f"x{i}") for i, shape in enumerate(shapes)]
    made = build(Quantising(graph), *inputs)
    outputs = list(made) if isinstance(made, (list, tuple)) else [made]
    graph.set_outputs(outputs)
    names = [f"y{i}" for i in range(len(outputs))]
    module.add_signature("serving_default", graph, [f"x{i}" for i in range(len(shapes))], names)
    verify(module)
    return module


def feeds(module: Module, seed: int = 0, spread: float = 3.0) -> dict[str, Array]:
    """Inputs on a grid of quarters and between, so that rounding meets ties, and some far outside of any range."""
    rng = np.random.default_rng(seed)
    made = {}
    for name, value in zip(module.signature.input_names(), module.main.inputs, strict=True):
        shape = tuple(d if type(d) is int else 2 for d in value.shape or ())
        if value.dtype is not F32:
            info = ml_dtypes.iinfo(value.dtype.numpy)  # type: ignore[union-attr]
            made[name] = np.asarray(rng.integers(int(info.min), int(info.max) + 1, shape)).astype(value.dtype.numpy)  # type: ignore[union-attr]
            continue
        x = rng.normal(0, spread, shape)
        x = np.where(rng.random(shape) < 0.5, np.rint(x * 4) / 4, x)
        made[name] = np.where(rng.random(shape) < 0.05, x * 100, x).astype(np.float32)
    return made
