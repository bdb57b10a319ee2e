"""The tables of the Keras frontend: which function lowers which layer class, operation or activation.

A row says what the layer stores as well, in a small notation: `weights="kernel bias?use_bias ~moving_mean"` lists the
variables in creation order; `?flag` means only when that config entry is true, `~` marks a variable that is never
trained, `=` one that a sub-layer stores as well (a `.keras` file has it twice, an `.h5` file once). Files never
choose a function themselves: a class name is a key in these tables and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...formats.keras_config import Layer, Model
from ...formats.keras_h5 import Slots, layer_groups
from ...ir.errors import InternalError, Unsupported, clean
from .types import Quantized, quantized

Lower = Callable[..., Any]
Children = Callable[[Layer], list[tuple[str, Slots]]]
Own = Callable[[Layer], list[tuple[str, bool]]]


@dataclass(frozen=True)
class Rule:
    """How one layer class is lowered. `mask`: what becomes of a Keras mask: "keep" (goes on to the output), "drop"
    (ends here, as in Keras for layers that don't support masking), "own" (the function sets it), "refuse"."""

    lower: Lower
    own: Own
    children: Children | None = None
    mask: str = "drop"
    autocast: bool = True


LAYERS: dict[str, Rule] = {}
OPERATIONS: dict[str, Lower] = {}
ACTIVATIONS: dict[str, Lower] = {}


def layer(
    *names: str, weights: str | Own = "", children: Children | None = None, mask: str = "drop", autocast: bool = True
) -> Callable[[Lower], Lower]:
    """Register `fn(scope, *args, **kwargs)` for the layer classes `names`."""
    own = weights if callable(weights) else own_slots(weights)

    def register(fn: Lower) -> Lower:
        for name in names:
            _add(LAYERS, name, Rule(fn, own, children, mask, autocast))
        return fn

    return register


def operation(*names: str) -> Callable[[Lower], Lower]:
    """Register `fn(scope, *args, **kwargs)` for operations of `keras.ops`; constructor arguments come as keywords."""

    def register(fn: Lower) -> Lower:
        for name in names:
            _add(OPERATIONS, name, fn)
        return fn

    return register


def activation(*names: str) -> Callable[[Lower], Lower]:
    """Register `fn(scope, x)` for the activations that configs name by these strings."""

    def register(fn: Lower) -> Lower:
        for name in names:
            _add(ACTIVATIONS, name, fn)
        return fn

    return register


def _add(table: dict, name: str, row: Any) -> None:
    if name in table:
        raise InternalError(f"two handlers are registered for {name!r}")
    table[name] = row


def own_slots(notation: str) -> Own:
    """What `notation` (see above) says of a layer's variables."""
    rows = []
    for word in notation.split():
        name, _, flag = word.partition("?")
        rows.append((name.lstrip("~"), not name.startswith("~"), flag))

    def own(layer: Layer) -> list[tuple[str, bool]]:
        return [(name, trainable) for name, trainable, flag in rows if not flag or layer.config.get(flag, True)]

    return own


def quantization(layer: Layer) -> Quantized | None:
    """How the layer's weights are quantized, by its dtype policy."""
    return quantized(layer.config.get("dtype"))


def not_quantized(layer: Layer) -> None:
    """Raises Unsupported for a quantized layer of a class that is only read with its float weights."""
    if quantization(layer) is not None:
        raise Unsupported(
            "quantized weights",
            where=f"layer {clean(layer.name)!r} ({clean(layer.class_name)})",
            hint="save the model before it is quantized, and quantize with anyir",
        )


def slots_of(layer: Layer, name: str | None = None) -> Slots:
    """What `layer` stores, sub-layers included; an unknown class stores nothing (it is refused when it is lowered)."""
    if layer.model is not None:
        return model_slots(layer.model, name or layer.name, bool(layer.model.config.get("trainable", True)))
    rule = LAYERS.get(layer.class_name)
    made = Slots(name or layer.name, trainable=bool(layer.config.get("trainable", True)))
    if rule is None and not layer.is_operation and layer.class_name != "InputLayer":
        made.unknown = True
    if rule is not None and not layer.is_operation:
        made.own, made.listed = rule.own(layer), quantization(layer) is not None
        made.children = rule.children(layer) if rule.children else []
    return made


def model_slots(model: Model, name: str | None = None, trainable: bool = True) -> Slots:
    """The slots of all layers of a model, under the groups where a `.keras` file keeps them."""
    known = model.by_name()
    children = [(group, slots_of(known[layer])) for layer, group in layer_groups(model)]
    return Slots(name or model.name, children=children, trainable=trainable)
