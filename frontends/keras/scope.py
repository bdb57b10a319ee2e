"""What a handler of the Keras frontend works with: one `Scope` per call of a layer.

It reads the layer's config with checks, hands out its weights as constants in the order of axes that the IR wants,
and has the small vocabulary (casts with Keras' promotion, reshapes of symbolic shapes, channel moves) that the
handlers share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...formats.keras_config import Layer
from ...formats.keras_h5 import Slots
from ...ir import types as t
from ...ir.dims import Dim
from ...ir.errors import InvalidModel, Unsupported, clean
from ...ir.graph import Value
from ...ir.storage import check_limit
from .registry import ACTIVATIONS, LAYERS, slots_of
from .types import named, policy, promote, with_scalar

if TYPE_CHECKING:
    from .lower import Lowering

MAX_SIZE = 1 << 40


class Scope:
    """One call of one layer. `masks` are the Keras masks of the arguments; `out_masks` is set by handlers that make
    one.
    """

    def __init__(self, lowering: Lowering, layer: Layer, slots: Slots, path: str) -> None:
        self.lowering, self.layer, self.slots, self.path = lowering, layer, slots, path
        self.b = lowering.b
        self.config = layer.config
        self.dtype, self.variable_dtype = policy(None if layer.is_operation else self.config.get("dtype"), self.where)
        self.masks: dict[Value, Value] = {}
        self.out_masks: list[Value | None] = []

    @property
    def where(self) -> str:
        return f"layer {clean(self.layer.name)!r} ({clean(self.layer.class_name)})"

    # -- config --------------------------------------------------------------------------------------------------------

    def invalid(self, message: str) -> InvalidModel:
        return InvalidModel(message, where=self.where)

    def unsupported(self, message: str, hint: str = "") -> Unsupported:
        return Unsupported(message, where=self.where, hint=hint)

    def flag(self, key: str, default: bool = False) -> bool:
        value = self.config.get(key, default)
        if not isinstance(value, bool) and value not in (0, 1):
            raise self.invalid(f"{key} is {clean(value)!r}, expected true or false")
        return bool(value)

    def text(self, key: str, default: str | None = None, choices: Sequence[str] = ()) -> str:
        value = self.config.get(key, default)
        if not isinstance(value, str) or (choices and value not in choices):
            raise self.invalid(f"{key} is {clean(value)!r}, expected {' or '.join(choices) or 'a name'}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        return self.as_number(self.config.get(key, default), key)

    def as_number(self, value: Any, key: str) -> float:
        if isinstance(value, dict) and value.get("class_name") in ("__numpy__", "__tensor__"):
            value = value.get("config", {}).get("value")
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.invalid(f"{key} is {clean(value)!r}, expected a number")
        return float(value)

    def size(self, key: str, default: int | None = None, least: int = 1) -> int:
        return self.as_size(self.config.get(key, default), key, least)

    def as_size(self, value: Any, key: str, least: int = 1) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MAX_SIZE:
            raise self.invalid(f"{key} is {clean(value)!r}, expected a whole number from {least}")
        return value

    def bounded(self, count: int, what: str) -> int:
        """`count` if that many elements may be made here; LimitExceeded for a size that only a hostile file has."""
        return check_limit("fold_bytes", count * 8, f"bytes of {what}", self.where) // 8

    def sizes(self, key: str, count: int, default: Any = None, least: int = 1) -> tuple[int, ...]:
        """`count` numbers; a single number stands for all of them, as in Keras."""
        value = self.config.get(key)
        value = default if value is None else value
        if isinstance(value, int):
            value = [value] * count
        if not isinstance(value, (list, tuple)) or len(value) != count:
            raise self.invalid(f"{key} is {clean(value)!r}, expected {count} whole numbers")
        return tuple(self.as_size(v, key, least) for v in value)

    def axis(self, value: Any, rank: int, key: str = "axis") -> int:
        """An axis made non-negative."""
        if isinstance(value, (list, tuple)) and len(value) == 1:
            value = value[0]
        if isinstance(value, bool) or not isinstance(value, int) or not -rank <= value < rank:
            raise self.invalid(f"{key} is {clean(value)!r}, expected a number from {-rank} to {rank - 1}")
        return value % rank

    def axes(self, value: Any, rank: int, key: str = "axis") -> tuple[int, ...]:
        """Sorted non-negative axes from a number or a list; None means all."""
        if value is None:
            return tuple(range(rank))
        items = value if isinstance(value, (list, tuple)) else [value]
        found = sorted({self.axis(item, rank, key) for item in items})
        if len(found) != len(items):
            raise self.invalid(f"{key} is {clean(value)!r}, which names an axis twice")
        return tuple(found)

    def channels_last(self) -> bool:
        if self.config.get("data_format") is None:
            return True
        return self.text("data_format", choices=("channels_last", "channels_first")) == "channels_last"

    def named_dtype(self, name: Any) -> t.DType:
        return named(name, self.where)

    # -- weights -------------------------------------------------------------------------------------------------------

    def has(self, name: str) -> bool:
        return name in self.slots.values

    def stored_shape(self, name: str) -> tuple[int, ...]:
        return tuple(int(n) for n in self._stored(name).shape)

    def _stored(self, name: str) -> Any:
        found = self.slots.values.get(name)
        if found is None:
            raise self.invalid(f"the file has no weight {name!r} for it")
        return found

    def weight(
        self,
        name: str,
        shape: Sequence[Dim | None] | None = None,
        *,
        perm: Sequence[int] | None = None,
        view: Sequence[int] | None = None,
        dtype: t.DType | None = None,
    ) -> Value:
        """The stored weight as a constant in the compute dtype: checked against `shape` (None: any), transposed by
        `perm`, then reshaped to `view`. The same derivation of the same weight is one constant. Raises InvalidModel."""
        self.check_shape(name, shape)
        return self.lowering.constant(self, name, perm, view, dtype or self.dtype)

    def check_shape(self, name: str, shape: Sequence[Dim | None] | None) -> None:
        held = self.stored_shape(name)
        if shape is None:
            return
        fits = len(held) == len(shape) and all(
            not isinstance(w, int) or w == h for w, h in zip(shape, held, strict=True)
        )
        if not fits:
            wanted = ", ".join("any" if not isinstance(w, int) else str(w) for w in shape)
            raise self.invalid(f"weight {name!r} has shape {list(held)}, the layer needs [{wanted}]")

    def array(self, name: str, shape: Sequence[Dim | None] | None = None) -> np.ndarray:
        """The stored weight as an array in the variable's dtype, for layouts that need rearranging by gate."""
        self.check_shape(name, shape)
        return self.lowering.read(self, name)

    def derived(
        self, name: str, array: np.ndarray, how: str, trainable: bool = True, dtype: t.DType | None = None
    ) -> Value:
        """A constant computed from stored weights, in the compute dtype or `dtype`; `how` goes into the weight's origin."""
        return self.lowering.derived(self, name, array, how, trainable, dtype or self.dtype)

    def child(self, layer: Layer, name: str | None = None) -> Scope:
        """The scope of a sub-layer (wrapped layer, RNN cell): its slots are found by name among this layer's
        children.
        """
        wanted = name or layer.name
        slots = next((child for _, child in self.slots.children if child.name == wanted), None)
        return Scope(self.lowering, layer, slots or slots_of(layer), f"{self.path}/{wanted}")

    def sub(self, name: str) -> Scope:
        """A scope on the slots of the child called `name`, for built-in parts such as an attention's projections."""
        return self.child(Layer(name, self.layer.class_name, self.layer.module, self.config, []), name)

    def run(self, layer: Layer, *args: Value) -> Value:
        """Lower a wrapped layer (or model) on `args`; it must have one result."""
        results = self.lowering.run(layer, self.child(layer).slots, list(args), f"{self.path}/{layer.name}")
        if len(results) != 1:
            raise self.unsupported(f"the wrapped layer {clean(layer.name)!r} has {len(results)} results")
        return results[0]

    # -- values --------------------------------------------------------------------------------------------------------

    def value(self, x: Any, dtype: t.DType | None = None) -> Value:
        """A value from an argument: a Value as it is, numbers and arrays as constants (numbers in `dtype`)."""
        if isinstance(x, Value):
            return x
        if isinstance(x, np.ndarray):
            return self.b.const(np.asarray(x))
        if isinstance(x, (bool, int, float)):
            guess = t.BOOL if isinstance(x, bool) else t.I32 if isinstance(x, int) else t.F32
            return self.b.const(np.asarray(x, (dtype or guess).numpy))
        if isinstance(x, (list, tuple)):
            return self._stacked(x, dtype)
        raise self.invalid(f"an argument is {clean(type(x).__name__)}, expected a tensor or a number")

    def _stacked(self, items: Sequence[Any], dtype: t.DType | None) -> Value:
        try:
            made = np.asarray(items)
        except ValueError:
            made = np.asarray(None)
        if made.dtype.kind not in "biuf":
            raise self.unsupported("tensors inside a nested list argument")
        return self.b.const(made.astype((dtype or {"b": t.BOOL, "f": t.F32}.get(made.dtype.kind, t.I32)).numpy))

    def dtype_of(self, x: Value) -> t.DType:
        if x.dtype is None:
            raise self.unsupported("a tensor of unknown dtype")
        return x.dtype

    def cast(self, x: Value, dtype: t.DType) -> Value:
        return x if x.dtype is dtype else self.b.cast(x, to=dtype)

    def floating(self, x: Value) -> Value:
        """`x` as a float: integers become the layer's compute dtype."""
        return x if x.dtype is not None and x.dtype.is_float else self.cast(x, self.dtype)

    def boolean(self, x: Value) -> Value:
        """A mask as bool: numbers count as true above 0.5."""
        dtype = self.dtype_of(x)
        if dtype is t.BOOL:
            return x
        return self.b.greater(x, self.value(0.5, dtype)) if dtype.is_float else self.cast(x, t.BOOL)

    def common(self, *items: Any, floating: bool = False) -> list[Value]:
        """Arguments of one operation in their common dtype (`keras.ops` promotion); at least float if asked for."""
        dtype: t.DType | None = None
        for x in items:
            if isinstance(x, np.ndarray):
                x = self.value(x)
            if isinstance(x, Value):
                dtype = self.dtype_of(x) if dtype is None else promote(dtype, self.dtype_of(x))
        if dtype is None:
            dtype = promote(*(self.dtype_of(self.value(x)) for x in (items[0], items[-1])))
        for x in items:
            if isinstance(x, (bool, int, float)):
                dtype = with_scalar(dtype, x)
        if floating and not dtype.is_float:
            dtype = t.F32
        return [self.cast(self.value(x, dtype), dtype) for x in items]

    def shape(self, x: Value) -> tuple[Dim, ...]:
        if x.shape is None:
            raise self.unsupported("a tensor of unknown rank")
        return x.shape

    def rank(self, x: Value) -> int:
        return len(self.shape(x))

    def static(self, x: Value, axis: int) -> int:
        """A dim that must be a known number."""
        dim = self.shape(x)[axis]
        if not isinstance(dim, int):
            raise self.unsupported(
                f"axis {axis} of its input must have a known size", "fix it with --shape or in the Input"
            )
        return dim

    # -- shapes --------------------------------------------------------------------------------------------------------

    def dims(self, wanted: Sequence[Dim], *sources: Value) -> Any:
        """A shape operand: numbers stay numbers, symbolic dims are taken from the shape of a source that has them."""
        if all(isinstance(d, int) for d in wanted):
            return tuple(wanted)
        parts = []
        for dim in wanted:
            if isinstance(dim, int):
                parts.append(self.b.const(np.asarray([dim], np.int64)))
                continue
            for source in sources:
                if dim in self.shape(source):
                    at = self.shape(source).index(dim)
                    parts.append(self.b.shape(source, start=at, end=at + 1))
                    break
            else:
                raise self.unsupported(f"size {dim} cannot be derived from the layer's inputs")
        return parts[0] if len(parts) == 1 else self.b.concat(*parts, axis=0)

    def reshape(self, x: Value, wanted: Sequence[Dim], *sources: Value) -> Value:
        """Reshape to dims: at most one symbolic dim that is not copied from the same axis becomes -1."""
        shape = self.shape(x)
        if tuple(wanted) == tuple(shape):
            return x
        plan: list[int] = []
        open_axis = False
        for axis, dim in enumerate(wanted):
            if isinstance(dim, int) and dim != 0:
                plan.append(dim)
            elif axis < len(shape) and shape[axis] == dim:
                plan.append(0)
            elif not open_axis and not isinstance(dim, int):
                plan.append(-1)
                open_axis = True
            else:
                return self.b.reshape(x, self.dims(wanted, x, *sources), allowzero=True)
        return self.b.reshape(x, tuple(plan))

    def transpose(self, x: Value, perm: Sequence[int]) -> Value:
        return x if tuple(perm) == tuple(range(len(perm))) else self.b.transpose(x, perm=tuple(perm))

    def to_first(self, x: Value) -> Value:
        """Channels from the last axis to axis 1."""
        rank = self.rank(x)
        return self.transpose(x, (0, rank - 1, *range(1, rank - 1)))

    def to_last(self, x: Value) -> Value:
        """Channels from axis 1 to the last axis."""
        rank = self.rank(x)
        return self.transpose(x, (0, *range(2, rank), 1))

    def expand(self, x: Value, axis: int) -> Value:
        return self.b.unsqueeze(x, (axis,))

    # -- activations ---------------------------------------------------------------------------------------------------

    def activate(self, x: Value, key: str = "activation") -> Value:
        """Apply the activation that the config names under `key`: a built-in's name, None, or an activation layer."""
        return self.activation(x, self.config.get(key))

    def activation(self, x: Value, spec: Any) -> Value:
        if spec is None or spec == "linear":
            return x
        if isinstance(spec, str):
            found = ACTIVATIONS.get(spec)
            if found is None:
                raise self.unsupported(f"activation {clean(spec)!r} is unknown", "use one of Keras' own activations")
            return found(self, x)
        if isinstance(spec, dict) and spec.get("class_name") in LAYERS and isinstance(spec.get("config"), dict):
            layer = Layer(
                str(spec["config"].get("name", "activation")), spec["class_name"], "keras.layers", spec["config"], []
            )
            rule = LAYERS[layer.class_name]
            if not rule.own(layer) and rule.children is None and spec.get("module", "keras.layers") == "keras.layers":
                return rule.lower(Scope(self.lowering, layer, slots_of(layer), self.path), x)
        raise self.unsupported("its activation is custom code", "load it in Python and hand over the live model")
