"""The driver of the Keras frontend: walks a model's calls in order of need and lets the handlers build the IR.

Depth-first with an explicit stack, so a chain of any length works; a ring is found and named. What cannot be lowered is
collected: everything behind it is skipped, everything else is still looked at, and one error names all offenders.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...formats.keras_config import TF_OPERATIONS, Layer, Model, Ref, flatten, leaves, map_leaves
from ...formats.keras_h5 import Slots
from ...ir import types as t
from ...ir.builder import Builder
from ...ir.errors import AnyIRError, InvalidModel, LimitExceeded, Unsupported, clean
from ...ir.graph import Value
from ...ir.loc import Loc
from ...ir.storage import limit
from ...ir.tensor import LazyTensor, as_tensor
from ...ir.tensor import Tensor as Data
from .registry import LAYERS, OPERATIONS, Rule
from .scope import Scope

_MAX_SHOWN = 20
_LAZY = 1 << 20
_REMEDY = "remove or replace them, or hand over the live model: anyir.load(model)"
_DRIVER_KWARGS = ("training", "mask")


@dataclass(frozen=True)
class Tensor:
    """A result in flight: the IR value and its Keras mask."""

    value: Value
    mask: Value | None = None


class Lost:
    """Stands for the results of a call that was refused."""


LOST = Lost()


class Lowering:
    """State of one import: the builder, the constants made so far, and the refusals."""

    def __init__(self, builder: Builder, major: int = 3, version: str = "", backend: str = "") -> None:
        self.b = builder
        self.major, self.version, self.backend = major, version, backend
        self.offenders: list[AnyIRError] = []
        self.notes: list[str] = []
        self._constants: dict[tuple, Value] = {}

    # -- models --------------------------------------------------------------------------------------------------------

    def model(self, model: Model, slots: Slots, inputs: dict[str, Tensor], path: str) -> Any:
        """Lower `model` on tensors by input-layer name; returns its outputs, nested as the model's are."""
        run = _ModelRun(self, model, slots, inputs, path)
        run.compute(list(leaves(model.outputs)))
        return map_leaves(lambda ref: run.result(ref), model.outputs)

    def note(self, text: str) -> None:
        """Something that the user should know; it goes into the module's diagnostics."""
        self.notes.append(text)

    def run(self, layer: Layer, slots: Slots, args: list[Value], path: str) -> list[Value]:
        """Lower a layer inside another one on plain values. Raises what its handler raises."""
        tensors = [Tensor(value) for value in args]
        if layer.model is not None:
            made = _call_nested(self, layer, slots, tensors, path)
            if isinstance(made, Lost):
                raise Unsupported("a layer of the wrapped model cannot be converted", where=_where(layer))
        else:
            made = _call_handler(self, layer, slots, tensors, {}, path)
        return [tensor.value for tensor in made]

    def refuse(self, error: AnyIRError) -> Lost:
        self.offenders.append(error)
        return LOST

    def check(self) -> None:
        """Raise one Unsupported that names every offender, if there are any."""
        if not self.offenders:
            return
        if len(self.offenders) == 1:
            raise self.offenders[0]
        shown = [f"{e.where}: {e.message}" for e in self.offenders[:_MAX_SHOWN]]
        more = len(self.offenders) - len(shown)
        text = "; ".join(shown) + (f"; and {more} more" if more else "")
        raise Unsupported(f"{len(self.offenders)} layers cannot be converted: {text}", hint=_REMEDY)

    # -- constants -----------------------------------------------------------------------------------------------------

    def read(self, scope: Scope, name: str) -> np.ndarray:
        array = np.asarray(scope._stored(name).read())
        array = array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
        kind = t.DType.of(array.dtype)
        wanted = scope.variable_dtype
        return array.astype(wanted.numpy) if kind.is_float and wanted.is_float and kind is not wanted else array

    def constant(
        self, scope: Scope, name: str, perm: Sequence[int] | None, view: Sequence[int] | None, dtype: t.DType
    ) -> Value:
        """One constant per weight and derivation. Axes are moved as views, so nothing is copied before export."""
        perm = None if perm is None or tuple(perm) == tuple(range(len(perm))) else tuple(perm)
        view = None if view is None else tuple(view)
        key = (id(scope.slots), name, perm, view, dtype)
        found = self._constants.get(key)
        if found is not None:
            return found
        tensor, origin = _rearranged(self.read(scope, name), perm, view, dtype)
        made = self._constants[key] = self._own(scope, name, tensor, origin)
        return made

    def derived(self, scope: Scope, name: str, array: np.ndarray, how: str, trainable: bool, dtype: t.DType) -> Value:
        key = (id(scope.slots), name, how, dtype)
        if key not in self._constants:
            if t.DType.of(array.dtype) is not dtype:
                array = array.astype(dtype.numpy)
            self._constants[key] = self._own(scope, name, array, how, trainable)
        return self._constants[key]

    def _own(self, scope: Scope, name: str, data: np.ndarray | Data, origin: str, trainable: bool = True) -> Value:
        trained = dict(scope.slots.own).get(name, trainable)
        return self.b.const(
            data, key=f"{scope.path}/{name}".rstrip("/"), role="param" if trained else "buffer", origin=origin
        )


def _rearranged(
    array: np.ndarray, perm: tuple[int, ...] | None, view: tuple[int, ...] | None, dtype: t.DType
) -> tuple[Data, str]:
    """`array` transposed, reshaped and cast, with the steps in words; lazily above 1 MB."""
    steps = [] if perm is None else [f"transpose{list(perm)}"]
    reshapes = view is not None and view != array.shape
    if reshapes:
        array = (array if perm is None else np.transpose(array, perm)).reshape(view)
        steps.append(f"reshape{list(view or ())}")
    tensor: Data = as_tensor(array)
    if perm is not None and not reshapes:
        if array.nbytes > _LAZY:
            tensor = LazyTensor("transpose", (tensor,), {"perm": perm})
        else:
            tensor = as_tensor(np.ascontiguousarray(np.transpose(array, perm)))
    if tensor.dtype is not dtype:
        tensor = LazyTensor("cast", (tensor,), {"to": dtype})
        steps.append(f"cast[{dtype.name}]")
    return tensor, " ".join(steps)


class _ModelRun:
    """The calls of one model (or of one call of a nested model), each computed once."""

    def __init__(self, lowering: Lowering, model: Model, slots: Slots, inputs: dict[str, Tensor], path: str) -> None:
        self.lowering, self.model, self.path = lowering, model, path
        self.layers = model.by_name()
        self.slots = {child.name: child for _, child in slots.children}
        self.opened: set[tuple[str, int]] = set()
        self.done: dict[tuple[str, int], list[Tensor] | Lost] = {(name, 0): [tensor] for name, tensor in inputs.items()}

    def compute(self, wanted: list[Ref]) -> None:
        """Make the results that `wanted` refers to, and all that they need. Raises InvalidModel for a ring."""
        stack: list[tuple[tuple[str, int], Iterator[Ref]]] = []
        for ref in wanted:
            self._open(stack, ref)
            while stack:
                key, pending = stack[-1]
                following = next(pending, None)
                if following is not None:
                    self._open(stack, following)
                    continue
                stack.pop()
                self.opened.discard(key)
                self.done[key] = self._call(*key)

    def _open(self, stack: list, ref: Ref) -> None:
        key = (ref.layer, ref.node)
        if key in self.done:
            return
        if key in self.opened:
            raise InvalidModel(f"the calls form a ring through layer {clean(ref.layer)!r}", where=self.path)
        layer = self.layers[ref.layer]
        if layer.class_name == "InputLayer":
            raise InvalidModel(f"layer {clean(ref.layer)!r} is used but is no input of the model", where=self.path)
        self.opened.add(key)
        stack.append((key, iter(layer.calls[ref.node].refs())))

    def result(self, ref: Ref) -> Tensor | Lost:
        results = self.done[(ref.layer, ref.node)]
        if isinstance(results, Lost):
            return results
        if ref.tensor >= len(results):
            raise InvalidModel(f"result {ref.tensor} of layer {clean(ref.layer)!r} does not exist", where=self.path)
        return results[ref.tensor]

    def _call(self, name: str, node: int) -> list[Tensor] | Lost:
        layer = self.layers[name]
        call = layer.calls[node]
        if any(isinstance(self.result(ref), Lost) for ref in call.refs()):
            return LOST
        resolve = lambda leaf: self.result(leaf) if isinstance(leaf, Ref) else leaf  # noqa: E731
        args, kwargs = map_leaves(resolve, call.args), map_leaves(resolve, call.kwargs)
        path = f"{self.path}/{name}" if self.path else name
        slots = self.slots.get(name) or Slots(name)
        return call_layer(self.lowering, layer, slots, args, kwargs, path)


def call_layer(
    lowering: Lowering, layer: Layer, slots: Slots, args: list, kwargs: dict, path: str
) -> list[Tensor] | Lost:
    """Lower one call. Refusals are collected; a config that the handler trips over is an InvalidModel of that layer."""
    before = lowering.b.loc
    lowering.b.loc = Loc("keras", path)
    try:
        if layer.model is not None:
            return _call_nested(lowering, layer, slots, args, path)
        return _call_handler(lowering, layer, slots, args, kwargs, path)
    except Unsupported as error:
        return lowering.refuse(error if error.where else error.at(_where(layer)))  # type: ignore[arg-type]
    except AnyIRError as error:
        raise error if layer.name in error.where else error.at(_where(layer)) from None
    except (TypeError, KeyError, ValueError, IndexError, AttributeError, ArithmeticError) as error:
        reason = f"{type(error).__name__}: {clean(error)}"
        raise InvalidModel(f"its config or arguments do not fit the layer ({reason})", where=_where(layer)) from error
    finally:
        lowering.b.loc = before


def _where(layer: Layer) -> str:
    return f"layer {clean(layer.name)!r} ({clean(layer.class_name)})"


def _call_nested(lowering: Lowering, layer: Layer, slots: Slots, args: list, path: str) -> list[Tensor] | Lost:
    model = layer.model
    if len(args) == 0 or model is None:
        raise InvalidModel("a nested model is called without input", where=_where(layer))
    if path.count("/") > limit("nesting"):
        raise LimitExceeded(f"models are nested deeper than {limit('nesting')}", where=_where(layer))
    result = lowering.model(model, slots, bind_inputs(model, args[0] if len(args) == 1 else args), path)
    flat = flatten(result)
    return LOST if any(isinstance(leaf, Lost) for leaf in flat) else flat


def bind_inputs(model: Model, given: Any) -> dict[str, Any]:
    """Pair the argument of a model with its input layers: by key where both are dicts, else in order."""
    if isinstance(given, dict) and not isinstance(model.inputs, dict):
        names = [ref.layer for ref in leaves(model.inputs)]
        if not all(name in given for name in names):
            raise InvalidModel(f"the model {clean(model.name)!r} is called with the wrong names")
        return {name: given[name] for name in names}
    refs, values = flatten(model.inputs), flatten(given)
    if len(refs) != len(values):
        raise InvalidModel(f"the model {clean(model.name)!r} has {len(refs)} inputs and is called with {len(values)}")
    return {ref.layer: value for ref, value in zip(refs, values, strict=True)}


def _call_handler(lowering: Lowering, layer: Layer, slots: Slots, args: list, kwargs: dict, path: str) -> list[Tensor]:
    scope = Scope(lowering, layer, slots, path)
    if layer.is_operation:
        return _call_operation(lowering, layer, scope, args, kwargs)
    rule = LAYERS.get(layer.class_name)
    if rule is None:
        raise _unknown(layer)
    tensors = [leaf for leaf in leaves([args, kwargs]) if isinstance(leaf, Tensor)]
    scope.masks = {tensor.value: tensor.mask for tensor in tensors if tensor.mask is not None}
    keep = {k: v for k, v in kwargs.items() if v is not None and k not in _DRIVER_KWARGS}
    if kwargs.get("training") is True and lowering.major < 3:  # Keras 3 overrides it: predict() passes False
        raise Unsupported("it is called with training=True, which is not inference", where=_where(layer))
    if kwargs.get("mask") is not None:
        _take_explicit_masks(scope, args, kwargs["mask"])
    cast = lambda leaf: _prepare(scope, rule, leaf)  # noqa: E731
    first = next((leaf for leaf in leaves(args) if isinstance(leaf, Tensor)), None)
    results = flatten(rule.lower(scope, *map_leaves(cast, args), **map_leaves(cast, keep)))
    return _with_masks(scope, rule, first, results)


def _take_explicit_masks(scope: Scope, args: list, given: Any) -> None:
    """Masks passed as `mask=` replace those that came along with the first argument."""
    first = [leaf for leaf in flatten(args[:1]) if isinstance(leaf, Tensor)]
    masks = flatten(given)
    if len(masks) != len(first):
        raise scope.invalid(f"{len(masks)} masks are given for {len(first)} tensors")
    for tensor, mask in zip(first, masks, strict=True):
        scope.masks.pop(tensor.value, None)
        if isinstance(mask, Tensor):
            scope.masks[tensor.value] = mask.value
        elif mask is not None:
            raise scope.unsupported("a constant mask")


def _prepare(scope: Scope, rule: Rule, leaf: Any) -> Any:
    """Keras' autocast: float tensors enter a layer in its compute dtype."""
    if not isinstance(leaf, Tensor):
        return leaf
    value = leaf.value
    if rule.autocast and value.dtype is not None and value.dtype.is_float and scope.dtype.is_float:
        made = scope.cast(value, scope.dtype)
        if made is not value and value in scope.masks:
            scope.masks[made] = scope.masks[value]
        return made
    return value


def _with_masks(scope: Scope, rule: Rule, first: Tensor | None, results: list[Value]) -> list[Tensor]:
    if rule.mask == "own":
        masks = scope.out_masks + [None] * (len(results) - len(scope.out_masks))
        return [Tensor(value, mask) for value, mask in zip(results, masks, strict=True)]
    if rule.mask == "refuse" and scope.masks:
        raise scope.unsupported(
            "it gets a mask (from mask_zero or Masking), which this conversion does not cover",
            "switch the mask off, or cut padded steps before the model",
        )
    mask = scope.masks.get(first.value) if first is not None and rule.mask == "keep" else None
    return [Tensor(value, mask) for value in results]


def _call_operation(lowering: Lowering, layer: Layer, scope: Scope, args: list, kwargs: dict) -> list[Tensor]:
    if layer.class_name in TF_OPERATIONS:
        from .tf_ops import lower_tf_op

        handler: Any = lower_tf_op
        fixed: dict[str, Any] = {}
    else:
        handler = OPERATIONS.get(layer.class_name)
        fixed = {k: v for k, v in layer.config.items() if k not in ("name", "trainable")}
    if handler is None:
        raise Unsupported(f"operation {clean(layer.class_name)} is not supported", where=_where(layer), hint=_REMEDY)
    strip = lambda leaf: leaf.value if isinstance(leaf, Tensor) else leaf  # noqa: E731
    results = flatten(handler(scope, *map_leaves(strip, args), **{**fixed, **map_leaves(strip, kwargs)}))
    return [Tensor(value) for value in results]


def _unknown(layer: Layer) -> Unsupported:
    if layer.class_name == "Lambda":
        return Unsupported(
            "a Lambda layer holds Python code, which is never run from a file",
            where=_where(layer),
            hint="write it with keras.ops, or hand over the live model: anyir.load(model)",
        )
    custom = ">" in layer.class_name or not layer.module.startswith("keras")
    what = "is custom code, which a file cannot bring along" if custom and layer.module else "is not supported"
    return Unsupported(f"the class {clean(layer.class_name)} {what}", where=_where(layer), hint=_REMEDY)
