"""Layers that `model.quantize(...)` has left: int8 and packed int4 kernels, and float8.

What Keras stores are integers, packed two to a byte where they have four bits, with a scale per column or a scale and zero
point per group of rows (keras.quantizers). A scale per column is the reciprocal of the IR's: q stands for q / scale. Inputs
are quantised row by row as they come, where the config has a quantizer for them: that is an integer product, written out as
such; else the kernel is dequantised.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...formats.keras_config import Layer
from ...ir import types as t
from ...ir.errors import clean
from ...ir.graph import Value
from .contraction import Contraction
from .registry import Own, own_slots, quantization
from .scope import Scope
from .types import Quantized, policy

_FLOAT8 = ("inputs_scale", "inputs_amax_history", "kernel_scale", "kernel_amax_history",
           "outputs_grad_scale", "outputs_grad_amax_history")  # fmt: skip


def slots(notation: str, weight: str) -> Own:
    """What a layer stores: as `notation` says, and where it is quantised its integers and their parameters, which are frozen,
    in the order of Keras' variable_serialization_spec."""
    plain = own_slots(notation)

    def own(layer: Layer) -> list[tuple[str, bool]]:
        rows = plain(layer)
        policy(layer.config.get("dtype"), f"layer {clean(layer.name)!r}")  # other policies store other things: refused
        kind = quantization(layer)
        if kind is None:
            return rows
        if kind.mode == "float8":
            return rows + [(name, True) for name in _FLOAT8]  # Keras trains them
        frozen = [f"{weight}_scale", f"{weight}_zero", "g_idx"] if kind.block else [f"{weight}_scale"]
        return [(name, trained and name != weight) for name, trained in rows] + [(name, False) for name in frozen]

    return own


@dataclass(frozen=True)
class _Stored:
    """Integers of a matrix and what they stand for: (q - zero) * scale, in groups of `block` where the shapes do not say it."""

    integers: Value
    scale: Value
    zero: Value | None = None
    block: int = 0

    def floats(self, s: Scope) -> Value:
        return s.b.dequantize(self.integers, self.scale, self.zero, to=t.F32, block_size=self.block)


# --------------------------------------------------------------------------------------------------------------- layers


def has_integers(layer: Layer) -> bool:
    """Whether the layer's weights are stored as integers; float8 layers store floats."""
    kind = quantization(layer)
    return kind is not None and kind.mode != "float8"


def product(s: Scope, x: Value, rows: Any, columns: int) -> Value:
    """x [..., rows] times the quantised kernel [rows, columns]."""
    if not isinstance(rows, int):
        raise s.unsupported("a quantized kernel on an axis of unknown size")
    return _product(s, x, _Kernel((rows, columns), (rows, columns), (0, 1), s.array("kernel_scale")))


def contraction(s: Scope, x: Value, equation: str) -> Value:
    """einsum of x and the quantised kernel."""
    c = Contraction(s, x, equation)
    scale = s.array("kernel_scale")
    if _kind(s).mode == "int8":  # laid out for the result: of the kernel's axes in its order
        labels = [label for label in c.made if label in c.kept]
        sizes = dict(zip(c.kept, c.kept_shape, strict=True))
        _check_scale(s, "kernel_scale", scale, c.columns)
        scale = scale.reshape([sizes[label] for label in labels]).transpose(c.laid(labels))
    return c.leave(_product(s, c.enter(x), _Kernel((c.rows, c.columns), c.kernel_shape, c.perm, scale)))


@dataclass(frozen=True)
class _Kernel:
    """A kernel that is a matrix of `size` once the axes of its `shape` are turned by `perm`. `scale` is per column where it is
    not in groups."""

    size: tuple[int, int]
    shape: tuple[int, ...]
    perm: tuple[int, ...]
    scale: np.ndarray

    def integers(self, s: Scope) -> Value:
        if _kind(s).mode == "int8":
            return s.weight("kernel", self.shape, perm=self.perm, view=self.size, dtype=t.I8)
        return _packed(s, "kernel", self.size)

    def floats(self, s: Scope) -> Value:
        """The matrix dequantised. What is packed was made a matrix without turning axes."""
        kind = _kind(s)
        if kind.block:
            made = _grouped(s, "kernel", _packed(s, "kernel", self.size), axis=0).floats(s)
        else:
            made = _Stored(self.integers(s), _reciprocal(s, "kernel_scale", self.scale, (1, self.size[1]))).floats(s)
        if kind.mode == "int8" or self.straight:
            return made
        return s.reshape(s.transpose(s.reshape(made, self.shape), self.perm), self.size)

    @property
    def straight(self) -> bool:
        return self.perm == tuple(range(len(self.perm)))


def _product(s: Scope, x: Value, kernel: _Kernel) -> Value:
    kind = _kind(s)
    inputs = None if kind.block else _quantizer(s, "activation_quantizer")
    if inputs is None:
        return s.b.matmul(x, kernel.floats(s))
    if kind.mode == "int4" and not kernel.straight:
        raise s.unsupported("quantized inputs of a packed kernel whose summed axes are not its first ones")
    return _by_rows(s, x, kernel.integers(s), kernel.scale, inputs)


def _by_rows(s: Scope, x: Value, integers: Value, scale: np.ndarray, quantizer: dict[str, Any]) -> Value:
    """`keras.quantizers.abs_max_quantize` of each row of x, and an integer product."""
    low, high = _range(s, quantizer)
    tiny = float(quantizer.get("epsilon", 1e-7))
    widest = s.b.add(s.b.reduce_max(s.b.abs(x), (-1,), keepdims=True), s.value(tiny, t.F32))
    steps = s.b.div(s.value(float(high), t.F32), widest)
    rounded = s.b.clip(s.b.round(s.b.mul(x, steps)), s.value(float(low), t.F32), s.value(float(high), t.F32))
    total = s.b.matmul_integer(s.b.cast(rounded, to=t.I8), s.cast(integers, t.I8))
    _check_scale(s, "kernel_scale", scale, s.static(integers, 1))
    stored = s.derived("kernel_scale", scale.reshape(-1), "per column", trainable=False)
    return s.b.div(s.b.cast(total, to=t.F32), s.b.mul(stored, steps))


def table(s: Scope, rows: int, width: int) -> Value:
    """The quantised table of an embedding, dequantised row by row."""
    kind, name = _kind(s), "embeddings"
    if kind.block:
        return _grouped(s, name, _packed(s, name, (rows, width)), axis=1).floats(s)
    integers = _packed(s, name, (rows, width)) if kind.mode == "int4" else s.weight(name, (rows, width), dtype=t.I8)
    scale = _reciprocal(s, f"{name}_scale", s.array(f"{name}_scale"), (rows, 1))
    return _Stored(integers, scale).floats(s)


def in_float8(s: Scope, x: Value, name: str) -> Value:
    """x as float8 layers take it: rounded to float8_e4m3fn in units of the scale `name`; in other layers x itself."""
    if quantization(s.layer) is None:
        return x
    _kind(s)
    stored = s.array(name, ())
    _check_scale(s, name, stored, 1)
    scale = s.derived(name, stored, "as stored", trainable=False)
    return s.b.dequantize(s.b.quantize(x, scale, to=t.F8E4M3FN), scale, to=t.F32)


def bias(s: Scope, shape: tuple[int, ...] | None) -> Value:
    """The bias; float8 layers round it to bfloat16."""
    kind, stored = quantization(s.layer), s.weight("bias", shape)
    if kind is None or kind.mode != "float8":
        return stored
    return s.b.cast(s.b.cast(stored, to=t.BF16), to=t.F32)


def _kind(s: Scope) -> Quantized:
    kind = quantization(s.layer)
    assert kind is not None
    if s.dtype is not t.F32:
        raise s.unsupported(f"{kind.mode} layers that compute in {s.dtype}")
    return kind


# -------------------------------------------------------------------------------------------------------------- storage


def _packed(s: Scope, name: str, size: tuple[int, int]) -> Value:
    """4-bit integers of a matrix of `size`, stored two to a byte along its rows, the first in the low bits."""
    rows, columns = size
    held = s.array(name, (rows, -(-columns // 2)))
    if held.dtype != np.int8:
        raise s.invalid(f"{name} holds {held.dtype}, expected packed int8")
    apart = np.stack([held & 15, held >> 4 & 15], axis=2).reshape(rows, -1)[:, :columns]
    return s.derived(name, (apart ^ 8) - 8, f"unpack({name})", trainable=False, dtype=t.I4)


def _grouped(s: Scope, name: str, integers: Value, axis: int) -> _Stored:
    """Integers whose scale and zero point are shared by groups of indices along `axis`; g_idx says which group each is in."""
    count = s.static(integers, axis)
    scale, zero = s.array(f"{name}_scale"), s.array(f"{name}_zero")
    held = tuple(scale.shape[axis] if i == axis else s.static(integers, i) for i in range(2)) if scale.ndim == 2 else ()
    s.check_shape(f"{name}_zero", held)
    s.check_shape(f"{name}_scale", held)
    groups, index = held[axis], s.array("g_idx", (count,)).astype(np.int64)
    if not groups or (index < 0).any() or (index >= groups).any():
        raise s.invalid(f"g_idx names groups beyond the {groups} of {name}_scale")
    if zero.dtype != np.int8 or (zero < -8).any() or (zero > 7).any():
        raise s.invalid(f"{name}_zero is out of the range of 4-bit integers")
    block = _regular(index, groups)
    if block is None:
        scale, zero = np.take(scale, index, axis), np.take(zero, index, axis)
    _check_scale(s, f"{name}_scale", scale, scale.size)
    made = s.derived(f"{name}_scale", scale, "per group", trainable=False)
    offset = s.derived(f"{name}_zero", zero, "per group", trainable=False, dtype=integers.dtype)
    return _Stored(integers, made, offset, block if block and block * groups != count and groups > 1 else 0)


def _regular(index: np.ndarray, groups: int) -> int | None:
    """The size of groups that lie one after the other, all but the last of one size; None for others."""
    block = int((index == 0).sum())
    regular = block and np.array_equal(index, np.arange(len(index)) // block) and groups == -(-len(index) // block)
    return block if regular else None


def _reciprocal(s: Scope, name: str, stored: np.ndarray, shape: tuple[int, ...]) -> Value:
    """The IR's scale of integers, in `shape`."""
    _check_scale(s, name, stored, int(np.prod(shape)))
    return s.derived(name, (np.float32(1) / stored.astype(np.float32)).reshape(shape), "1 / scale", trainable=False)


def _check_scale(s: Scope, name: str, stored: np.ndarray, count: int) -> None:
    if stored.size != count:
        raise s.invalid(f"{name} has {stored.size} numbers, expected {count}")
    if stored.dtype.kind != "f" or not np.all(stored > 0) or not np.all(np.isfinite(stored)):
        raise s.invalid(f"{name} holds numbers that are no scales")


# ----------------------------------------------------------------------------------------------------------- quantizers


def _quantizer(s: Scope, key: str) -> dict[str, Any] | None:
    """The config of the weights' or activations' quantizer; None where there is none: int8 layers have Keras' default."""
    whole, mode = s.config.get("quantization_config"), _kind(s).mode
    if whole is None:
        return {} if mode == "int8" else None
    inner = whole.get("config") if isinstance(whole, dict) else None
    wanted = {"int8": "Int8QuantizationConfig", "int4": "Int4QuantizationConfig"}[mode]
    if not isinstance(inner, dict) or whole.get("class_name") != wanted:
        raise s.unsupported("a quantization config of another kind", f'model.quantize("{mode}")')
    made = inner.get(key)
    if made is None:
        return None
    if (
        not isinstance(made, dict)
        or made.get("class_name") != "AbsMaxQuantizer"
        or not isinstance(made["config"], dict)
    ):
        raise s.unsupported("a quantizer of another kind", f'model.quantize("{mode}")')
    return made["config"]


def _range(s: Scope, quantizer: dict[str, Any]) -> tuple[int, int]:
    given = quantizer.get("value_range", (-127, 127))
    if not isinstance(given, (list, tuple)) or len(given) != 2 or not all(type(v) is int for v in given):
        raise s.invalid(f"value_range is {given!r}, expected two integers")
    low, high = given
    if not -128 <= low < high <= 127 or quantizer.get("output_dtype", "int8") != "int8":
        raise s.unsupported("quantised inputs that are not int8")
    return low, high
