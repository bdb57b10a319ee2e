"""Layers that `model.quantize("int8")` has left: int8 kernels with a scale per column, inputs quantised row by row.

The stored scale is the reciprocal of the IR's: a kernel of integers q stands for q / scale (keras.quantizers). What the
layers compute is `keras.quantizers.abs_max_quantize` and an integer product, written out as such.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...formats.keras_config import Layer
from ...ir import types as t
from ...ir.errors import clean
from ...ir.graph import Value
from .registry import Own, is_int8, own_slots
from .scope import Scope
from .types import policy


def slots(notation: str, weight: str) -> Own:
    """What a layer stores: as `notation` says, and where it is quantised its integers and their scale, which are frozen."""
    plain = own_slots(notation)

    def own(layer: Layer) -> list[tuple[str, bool]]:
        rows = plain(layer)
        policy(layer.config.get("dtype"), f"layer {clean(layer.name)!r}")  # other policies store other things: refused
        if not is_int8(layer):
            return rows
        return [(name, trained and name != weight) for name, trained in rows] + [(f"{weight}_scale", False)]

    return own


def _quantizer(s: Scope, key: str) -> dict[str, Any] | None:
    """The config of the weights' or activations' quantizer; None where Keras' default is not replaced by one."""
    whole = s.config.get("quantization_config")
    if whole is None:
        return {}
    inner = whole.get("config") if isinstance(whole, dict) else None
    if not isinstance(inner, dict) or whole.get("class_name") != "Int8QuantizationConfig":
        raise s.unsupported("a quantization config of another kind", 'model.quantize("int8")')
    made = inner.get(key)
    if made is None:
        return None
    if (
        not isinstance(made, dict)
        or made.get("class_name") != "AbsMaxQuantizer"
        or not isinstance(made["config"], dict)
    ):
        raise s.unsupported("a quantizer of another kind", 'model.quantize("int8")')
    return made["config"]


def scale_of(s: Scope, name: str, shape: tuple[int, ...]) -> Value:
    """The IR's scale of the integers `name`, in `shape`."""
    stored = s.array(f"{name}_scale").astype(np.float32)
    if not np.all(stored > 0) or not np.all(np.isfinite(stored)):
        raise s.invalid(f"{name}_scale holds numbers that are no scales")
    return s.derived(f"{name}_scale", (np.float32(1) / stored).reshape(shape), "1 / scale", trainable=False)


def product(s: Scope, x: Value, units: int) -> Value:
    """x [..., n] times the int8 kernel [n, units]: in integers, or with dequantised weights where inputs stay float."""
    if s.dtype is not t.F32:
        raise s.unsupported(f"int8 layers that compute in {s.dtype}")
    kernel = s.weight("kernel", (s.shape(x)[-1], units), dtype=t.I8)
    inputs = _quantizer(s, "activation_quantizer")
    if inputs is None:
        return s.b.matmul(x, s.b.dequantize(kernel, scale_of(s, "kernel", (1, units)), to=t.F32))
    low, high = _range(s, inputs)
    tiny = float(inputs.get("epsilon", 1e-7))
    widest = s.b.add(s.b.reduce_max(s.b.abs(x), (-1,), keepdims=True), s.value(tiny, t.F32))
    scale = s.b.div(s.value(float(high), t.F32), widest)
    rounded = s.b.clip(s.b.round(s.b.mul(x, scale)), s.value(float(low), t.F32), s.value(float(high), t.F32))
    total = s.b.matmul_integer(s.b.cast(rounded, to=t.I8), kernel)
    stored = s.derived("kernel_scale", s.array("kernel_scale").reshape(units), "as stored", trainable=False)
    return s.b.div(s.b.cast(total, to=t.F32), s.b.mul(stored, scale))


def _range(s: Scope, quantizer: dict[str, Any]) -> tuple[int, int]:
    given = quantizer.get("value_range", (-127, 127))
    if not isinstance(given, (list, tuple)) or len(given) != 2 or not all(type(v) is int for v in given):
        raise s.invalid(f"value_range is {given!r}, expected two integers")
    low, high = given
    if not -128 <= low < high <= 127 or quantizer.get("output_dtype", "int8") != "int8":
        raise s.unsupported("quantised inputs that are not int8")
    return low, high


def table(s: Scope, rows: int, width: int) -> Value:
    """The int8 table of an embedding, dequantised row by row."""
    if s.dtype is not t.F32:
        raise s.unsupported(f"int8 layers that compute in {s.dtype}")
    stored = s.weight("embeddings", (rows, width), dtype=t.I8)
    return s.b.dequantize(stored, scale_of(s, "embeddings", (rows, 1)), to=t.F32)
