"""Live Keras models: from the user's objects to the same neutral form that files give.

A functional or sequential model of known layers goes by its config and its variables, like a file. Anything else
(subclassed models, custom layers) is traced: its `call` runs on symbolic tensors, known Keras layers stay whole, and
what custom code does with `keras.ops` is recorded as operations. Keras is the user's own module here; nothing is
imported by a name from a file.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...formats.keras_config import Call, Layer, Model, Ref, leaves, map_leaves, parse_layer, parse_model
from ...formats.keras_h5 import KerasFile, NamedWeights, Stored
from ...ir.archive import parse_json
from ...ir.errors import AnyIRError, InvalidModel, Unsupported, UsageError, clean
from .registry import LAYERS

VARIABLE = "anyir.Variable"  # the class of an entry that stands for a bare variable (`core.variable`)
_HINT = "write its call with keras.ops and known layers"


@dataclass(frozen=True)
class LiveVariable:
    """A variable of a live model; its value is read when asked for."""

    variable: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(int(d) for d in self.variable.shape)

    @property
    def dtype(self) -> np.dtype:
        return self.read().dtype

    def read(self) -> np.ndarray:
        return _array(self.variable)


def _array(value: Any) -> np.ndarray:
    """A variable or backend tensor as a numpy array of its own."""
    from keras import ops

    return np.array(ops.convert_to_numpy(value))


def live_file(model: Any, inputs: Any = None) -> KerasFile:
    """The neutral form of a live model. Raises UsageError for other objects, Unsupported for what cannot be traced."""
    import keras

    if not isinstance(model, keras.Model):
        raise UsageError(f"expected a Keras model or a path, not {clean(type(model).__name__)}")
    backend = keras.backend.backend()
    parsed = _by_config(keras, model)
    if parsed is not None:
        return KerasFile(parsed, NamedWeights(_variables(model), "model"), keras.__version__, backend)
    traced, weights = _traced(keras, model, inputs)
    return KerasFile(traced, NamedWeights(weights, "model"), keras.__version__, backend)


def _variables(model: Any) -> dict[str, list[tuple[str, Stored]]]:
    """Per layer, in the order in which `.h5` files keep them."""
    return {layer.name: _layer_variables(layer) for layer in model.layers}


def _layer_variables(layer: Any) -> list[tuple[str, Stored]]:
    found: list[tuple[str, Stored]] = [
        (w.path, LiveVariable(w)) for w in (*layer.trainable_weights, *layer.non_trainable_weights)
    ]
    return found


def _by_config(keras: Any, model: Any) -> Model | None:
    """The model by its config, or None when some layer is not in our tables."""
    if type(model) not in (keras.Sequential, keras.Model) and type(model).__name__ != "Functional":
        return None
    if not model.built:
        return None
    try:
        parsed = parse_model(parse_json(model.to_json().encode(), where=model.name), model.name)
    except (AnyIRError, TypeError, ValueError, NotImplementedError):
        return None
    stack = [parsed]
    while stack:
        here = stack.pop()
        for layer in here.layers:
            if layer.model is not None:
                stack.append(layer.model)
            elif not layer.is_operation and layer.class_name != "InputLayer" and not _is_known(layer):
                return None
    return parsed


def _is_known(layer: Layer) -> bool:
    return layer.class_name in LAYERS and layer.module.startswith("keras.layers")


# -------------------------------------------------------------------------------------------------------------- tracing


def _traced(keras: Any, model: Any, inputs: Any) -> tuple[Model, dict[str, list[tuple[str, Stored]]]]:
    """Run the model's `call` on symbolic tensors and read off the graph."""
    from keras.src import backend

    if not model.built and inputs is None:
        raise UsageError("a model that was never called needs sample inputs", hint="anyir.load(model, inputs=x)")
    if not model.built:
        _call_once(model, inputs)
    if model.compute_dtype != model.variable_dtype:
        raise Unsupported("custom code in mixed precision", where=model.name, hint="build it with a float32 policy")
    xs = _symbolic_inputs(keras, backend, model, inputs)
    target = getattr(model, "_functional", None) or model
    try:
        with _inside(keras):
            ys = target(xs, training=False)
    except (TypeError, ValueError, AttributeError, RuntimeError, NotImplementedError, IndexError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise Unsupported(
            f"the model's code cannot be traced ({clean(reason)})", where=model.name, hint=_HINT
        ) from error
    return _Recorder(keras, backend, model).record(xs, ys)


def _call_once(model: Any, inputs: Any) -> None:
    from keras import ops, tree

    model(tree.map_structure(ops.convert_to_tensor, inputs), training=False)


def _symbolic_inputs(keras: Any, backend: Any, model: Any, inputs: Any) -> Any:
    """KerasTensors for the model's inputs, the batch axis open: from samples, else from what the model was built on."""
    parameter = next(iter(inspect.signature(model.call).parameters), "inputs")
    if inputs is not None:
        given = keras.tree.map_structure(lambda a: (np.shape(a), str(np.asarray(a).dtype)), inputs)
        shapes = _named(given, parameter, lambda leaf: isinstance(leaf, tuple) and isinstance(leaf[-1], str))
        return map_tree(shapes, lambda name, leaf: backend.KerasTensor((None, *leaf[0][1:]), dtype=leaf[1], name=name))
    given = getattr(model, "inputs", None)
    if given:
        made = [backend.KerasTensor(tuple(x.shape), dtype=x.dtype, name=x.name) for x in given]
        return made[0] if len(made) == 1 else made
    built = getattr(model, "_build_shapes_dict", None) or {}
    if len(built) != 1:
        raise UsageError("the shapes of this model's inputs are not known", hint="anyir.load(model, inputs=x)")
    is_shape = lambda leaf: isinstance(leaf, tuple) and all(d is None or isinstance(d, int) for d in leaf)  # noqa: E731
    shapes = _named(next(iter(built.values())), parameter, is_shape)
    return map_tree(shapes, lambda name, leaf: backend.KerasTensor((None, *leaf[1:]), dtype="float32", name=name))


@dataclass(frozen=True)
class _Leaf:
    name: str
    value: Any


def _named(struct: Any, name: str, is_leaf: Callable[[Any], bool]) -> Any:
    """The same nesting with a name per leaf: dict keys, else the parameter's name, numbered in lists."""
    if is_leaf(struct):
        return _Leaf(name, struct)
    if isinstance(struct, dict):
        return {key: _named(item, str(key), is_leaf) for key, item in struct.items()}
    return [_named(item, f"{name}_{i}", is_leaf) for i, item in enumerate(struct)]


def map_tree(struct: Any, make: Callable[[str, Any], Any]) -> Any:
    """`make(name, value)` for every leaf of `_named`."""
    return map_leaves(lambda leaf: make(leaf.name, leaf.value), struct)


@contextmanager
def _inside(keras: Any) -> Iterator[None]:
    """While this is open, custom layers and models are looked into: their own calls are not recorded, what they do
    is.
    """
    from keras.src.layers import layer as module

    node, symbolic = module.Node, module.Layer.symbolic_call

    def recorded(**kwargs: Any) -> Any:
        return node(**kwargs) if _stays_whole(keras, kwargs["operation"]) else None

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return symbolic(self, *args, **kwargs) if _stays_whole(keras, self) else self.call(*args, **kwargs)

    module.Node, module.Layer.symbolic_call = recorded, call
    try:
        yield
    finally:
        module.Node, module.Layer.symbolic_call = node, symbolic


def _stays_whole(keras: Any, layer: Any) -> bool:
    """Keras' own layers of our tables, not subclasses of them. Wrappers around custom layers are looked into."""
    kind = type(layer)
    if kind.__name__ not in LAYERS or not kind.__module__.startswith("keras.src.layers."):
        return False
    return all(_is_keras_layer(inner) for inner in layer._flatten_layers(include_self=False))


def _is_keras_layer(layer: Any) -> bool:
    return type(layer).__module__.startswith(("keras.src.layers.", "keras.src.models."))


class _Recorder:
    """Turns the graph behind symbolic outputs into a Model. Operations get names that are unique in it."""

    def __init__(self, keras: Any, backend: Any, model: Any) -> None:
        self.keras, self.backend, self.name = keras, backend, model.name
        self.by_value = {id(v.value): v for v in model.variables}
        self.layers: dict[int, Layer] = {}
        self.weights: dict[str, list[tuple[str, Stored]]] = {}
        self.inputs: dict[int, Ref] = {}
        self.nodes: dict[int, dict[int, int]] = {}
        self.used: set[str] = set()

    def record(self, xs: Any, ys: Any) -> tuple[Model, dict[str, list[tuple[str, Stored]]]]:
        tree = self.keras.tree
        inputs = tree.map_structure(self._input, xs)
        function = self.keras.Function(xs, ys)
        ordered = [
            node for depth in sorted(function._nodes_by_depth, reverse=True) for node in function._nodes_by_depth[depth]
        ]
        for node in ordered:
            if not node.is_input and not any(id(t) in self.inputs for t in node.outputs):
                self._open(node)
        for node in ordered:
            if id(node.operation) in self.layers:
                index = self.nodes[id(node.operation)][id(node)]
                self.layers[id(node.operation)].calls[index] = self._arguments(node)
        outputs = tree.map_structure(self._ref, ys)
        held = [Layer(ref.layer, "InputLayer", "keras.layers", self._input_config(x), []) for x, ref in
                zip(tree.flatten(xs), leaves(inputs), strict=True)]  # fmt: skip
        model = Model(self.name, "Functional", [*held, *self.layers.values()], inputs, outputs, {"name": self.name})
        return model, self.weights

    def _unique(self, name: str) -> str:
        made, count = name, 0
        while made in self.used:
            count += 1
            made = f"{name}_{count}"
        self.used.add(made)
        return made

    def _input(self, x: Any) -> Ref:
        ref = Ref(self._unique(x.name), 0, 0)
        self.inputs[id(x)] = ref
        return ref

    @staticmethod
    def _input_config(x: Any) -> dict[str, Any]:
        return {"batch_shape": list(x.shape), "dtype": str(x.dtype), "name": x.name}

    def _open(self, node: Any) -> None:
        """An entry for the node's operation, with room for this call."""
        operation = node.operation
        key = id(operation)
        if key not in self.layers:
            self.layers[key] = self._layer(operation)
            self.nodes[key] = {}
        self.nodes[key][id(node)] = len(self.layers[key].calls)
        self.layers[key].calls.append(Call([], {}))

    def _layer(self, operation: Any) -> Layer:
        name = self._unique(operation.name)
        serialized = self.keras.saving.serialize_keras_object(operation)
        entry = parse_layer(parse_json(json.dumps(serialized).encode(), where=name), name)
        entry.name = name
        entry.calls = []
        if isinstance(operation, self.keras.Layer):
            self.weights[name] = _layer_variables(operation)
        return entry

    def _ref(self, x: Any) -> Ref:
        if id(x) in self.inputs:
            return self.inputs[id(x)]
        operation, node_index, tensor = x._keras_history
        entry = self.layers.get(id(operation))
        if entry is None:
            raise InvalidModel("an output does not depend on the inputs", where=self.name)
        node = operation._inbound_nodes[node_index]
        return Ref(entry.name, self.nodes[id(operation)][id(node)], tensor)

    def _arguments(self, node: Any) -> Call:
        args, kwargs = node.arguments.args, node.arguments.kwargs
        return Call(
            [map_leaves(self._leaf, a) for a in args], {k: map_leaves(self._leaf, v) for k, v in kwargs.items()}
        )

    def _leaf(self, x: Any) -> Any:
        if isinstance(x, self.backend.KerasTensor):
            return self._ref(x)
        if isinstance(x, self.backend.Variable):
            return self._variable(x)
        if self.backend.is_tensor(x):
            known = self.by_value.get(id(x))
            return _array(x) if known is None else self._variable(known)
        return x

    def _variable(self, variable: Any) -> Any:
        """A weight used directly by an operation: an entry of its own that yields the constant."""
        key = id(variable)
        if key not in self.layers:
            name = self._unique(variable.path)
            config = {"name": name, "trainable": bool(variable.trainable), "dtype": str(variable.dtype)}
            self.layers[key] = Layer(name, VARIABLE, "keras.layers", config, [Call([], {})])
            value: Stored = LiveVariable(variable)
            self.weights[name] = [("", value)]
        return Ref(self.layers[key].name, 0, 0)
