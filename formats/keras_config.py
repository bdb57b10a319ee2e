"""The configuration tree of a Keras model as plain data: one neutral form for Keras 2 and Keras 3, functional and
sequential.

Nothing is imported or called by name: classes are strings that the frontend looks up in its own tables. Nested values
are walked recursively; the depth is bounded by the JSON door (`nesting`). Must not import the IR (errors and storage
apart).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from ..ir.errors import InvalidModel, Unsupported, clean

MODEL_CLASSES = ("Functional", "Model", "Sequential")
TF_OPERATIONS = ("TFOpLambda", "SlicingOpLambda")  # how Keras 2 saved TensorFlow functions

#: Operations whose own arguments include a dtype, which otherwise only layers have.
_DTYPED_OPERATIONS = frozenset({
    "Arange", "Array", "Cast", "ConvertToTensor", "Cumprod", "Cumsum", "EmptyLike", "Full", "FullLike", "Geomspace",
    "Linspace", "MultiHot", "OneHot", "OnesLike", "Prod", "SaturateCast", "View", "ZerosLike",
})  # fmt: skip


@dataclass(frozen=True)
class Ref:
    """A tensor of the model: result number `tensor` of call number `node` of the layer `layer`."""

    layer: str
    node: int
    tensor: int


@dataclass
class Call:
    """One call of a layer: arguments with `Ref`, arrays, slices and JSON values at the leaves."""

    args: list[Any]
    kwargs: dict[str, Any]

    def refs(self) -> list[Ref]:
        """All tensors that the call needs, in order."""
        return [leaf for leaf in leaves([self.args, self.kwargs]) if isinstance(leaf, Ref)]


@dataclass
class Layer:
    """A layer or an operation (`keras.ops`): its class, its config and its calls. `model` is set for a nested model, whose
    own config tells the rest."""

    name: str
    class_name: str
    module: str
    config: dict[str, Any]
    calls: list[Call]
    build: dict[str, Any] = field(default_factory=dict)
    model: Model | None = None

    @property
    def is_operation(self) -> bool:
        """Whether this is a call of `keras.ops`. `.h5` files drop the module: there an operation is what has none of
        the entries that every layer's config has."""
        if self.class_name in TF_OPERATIONS:
            return True
        if self.module:
            return self.module.startswith(("keras.src.ops", "keras.src.activations"))
        if self.model is not None or self.class_name == "InputLayer" or "trainable" in self.config:
            return False
        return "dtype" not in self.config or self.class_name in _DTYPED_OPERATIONS


@dataclass
class Model:
    """A functional graph of layers. `inputs` and `outputs` keep the nesting (lists, dicts) that the user gave."""

    name: str
    class_name: str
    layers: list[Layer]
    inputs: Any
    outputs: Any
    config: dict[str, Any]

    def by_name(self) -> dict[str, Layer]:
        return {layer.name: layer for layer in self.layers}


# ------------------------------------------------------------------------------------------------------- nested values


def leaves(value: Any) -> Iterator[Any]:
    """The leaves of lists, tuples and dicts, in order (dicts by insertion)."""
    stack = [value]
    while stack:
        here = stack.pop()
        if isinstance(here, dict):
            stack.extend(reversed(list(here.values())))
        elif isinstance(here, (list, tuple)):
            stack.extend(reversed(here))
        else:
            yield here


def paths(value: Any, at: tuple = ()) -> Iterator[tuple[tuple, Any]]:
    """(path, leaf) of lists, tuples and dicts; the path of a bare leaf is empty."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from paths(item, (*at, key))
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from paths(item, (*at, i))
    else:
        yield at, value


def map_leaves(function: Callable[[Any], Any], value: Any) -> Any:
    """The same nesting with `function` applied to every leaf."""
    if isinstance(value, dict):
        return {key: map_leaves(function, item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map_leaves(function, item) for item in value)
    return function(value)


def flatten(value: Any) -> list[Any]:
    """Leaves in Keras' flattening order: dicts by sorted key."""
    if isinstance(value, dict):
        return [leaf for key in sorted(value) for leaf in flatten(value[key])]
    if isinstance(value, (list, tuple)):
        return [leaf for item in value for leaf in flatten(item)]
    return [value]


def ordered(struct: Any) -> list[tuple[tuple, Ref]]:
    """(path, ref) of a model's inputs or outputs in Keras' flattening order."""
    by_path = list(paths(struct))
    by_identity = {id(ref): path for path, ref in by_path}
    return [(by_identity[id(ref)], ref) for ref in flatten(struct)]


def input_names(model: Model) -> list[str]:
    """The names by which a user feeds the model: dict keys, else the input layers' names."""
    return [_interface_name(path, ref) for path, ref in ordered(model.inputs)]


def output_names(model: Model) -> list[str]:
    """Dict keys, else the names of the output layers as Keras reports them; a name that is taken gets the first free
    number.
    """
    names = [_interface_name(path, ref) for path, ref in ordered(model.outputs)]
    taken, used = set(names), set()
    made = []
    for name in names:
        shown, count = name, 0
        while shown in used or (count and shown in taken):
            count += 1
            shown = f"{name}_{count}"
        used.add(shown)
        made.append(shown)
    return made


def _interface_name(path: tuple, ref: Ref) -> str:
    return path[0] if len(path) == 1 and isinstance(path[0], str) else ref.layer


# -------------------------------------------------------------------------------------------------------------- reading


def parse_model(entry: Any, where: str = "config") -> Model:
    """The neutral form of a serialized model `{"class_name": ..., "config": ...}`.

    Raises InvalidModel for a config that is not a model or does not fit together, Unsupported for model classes other
    than functional and sequential ones.
    """
    if not isinstance(entry, dict) or not isinstance(entry.get("class_name"), str):
        raise InvalidModel("the model config names no class", where=where, hint="expected a saved Keras model")
    kind, config = entry["class_name"], entry.get("config")
    if kind not in MODEL_CLASSES or entry.get("registered_name") not in (None, kind):
        custom = clean(entry.get("registered_name") or kind)
        raise Unsupported(
            f"model class {custom!r} is custom code, which a file cannot bring along",
            where=where,
            hint="load it in Python and hand over the live model: anyir.load(model)",
        )
    if kind == "Sequential" and isinstance(config, list):  # before Keras 2.2.3 the config was the list of layers
        config = {"name": "sequential", "layers": config}
    if not isinstance(config, dict) or not isinstance(config.get("layers"), list):
        raise InvalidModel("the model config has no list of layers", where=where)
    name = _text(config.get("name", kind.lower()), where)
    if kind == "Sequential":
        return _sequential(name, config, entry.get("build_config") or {}, f"{where}.{name}")
    return _functional(name, kind, config, f"{where}.{name}")


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidModel(f"expected a name, found {clean(value)!r}", where=where)
    return value


def _layer(entry: Any, where: str) -> Layer:
    if not isinstance(entry, dict) or not isinstance(entry.get("class_name"), str):
        raise InvalidModel("a layer entry names no class", where=where)
    config: Any = entry.get("config")
    sub = None
    if not isinstance(config, dict) and not (entry["class_name"] == "Sequential" and isinstance(config, list)):
        raise InvalidModel(f"a {clean(entry['class_name'])} entry has no config", where=where)
    name = _text(entry.get("name", config.get("name") if isinstance(config, dict) else "sequential"), where)
    if entry["class_name"] in MODEL_CLASSES and entry.get("registered_name") in (None, entry["class_name"]):
        sub = parse_model(entry, where)
    class_name, module = entry["class_name"], entry.get("module") or ""
    registered = entry.get("registered_name")
    if isinstance(registered, str) and ">" in registered and not registered.startswith("keras>"):
        class_name = registered  # custom class: keep the package in sight
    build = entry.get("build_config")
    config = config if isinstance(config, dict) else {}
    made = Layer(
        name,
        class_name,
        module if isinstance(module, str) else "",
        config,
        [],
        build if isinstance(build, dict) else {},
        sub,
    )
    if made.is_operation and isinstance(config, dict):
        made.config = {key: _value(item, where) for key, item in config.items()}
    made.calls = _calls(entry.get("inbound_nodes", []), f"{where}.{name}")
    return made


def parse_layer(entry: Any, where: str = "config") -> Layer:
    """A serialized layer inside another one's config (a wrapper's, an RNN cell). Raises as `parse_model` does."""
    return _layer(entry, where)


def _functional(name: str, kind: str, config: dict, where: str) -> Model:
    layers = [_layer(entry, where) for entry in config["layers"]]
    names = [layer.name for layer in layers]
    if len(set(names)) != len(names):
        seen: set[str] = set()
        twice = next(n for n in names if n in seen or seen.add(n))  # type: ignore[func-returns-value]
        raise InvalidModel(f"two layers are called {clean(twice)!r}", where=where)
    for key in ("input_layers", "output_layers"):
        if key not in config:
            raise InvalidModel(f"the model config lacks {key}", where=where)
    model = Model(
        name,
        kind,
        layers,
        _interface(config["input_layers"], where),
        _interface(config["output_layers"], where),
        config,
    )
    nodes = [n for e in config["layers"] if isinstance(e.get("inbound_nodes"), list) for n in e["inbound_nodes"]]
    is_old = any(isinstance(node, list) for node in nodes)
    if is_old:  # Keras 2 wrote a list even for a single tensor
        model.inputs, model.outputs = (
            x[0] if isinstance(x, list) and len(x) == 1 else x for x in (model.inputs, model.outputs)
        )
    _renumber_nested_calls(model, not is_old)
    _check_refs(model, where)
    return model


def _sequential(name: str, config: dict, build: dict, where: str) -> Model:
    layers = [_layer(entry, where) for entry in config["layers"]]
    if not layers:
        raise InvalidModel("a sequential model without layers", where=where)
    if layers[0].class_name != "InputLayer":
        first = layers[0].config if isinstance(layers[0].config, dict) else {}
        shape = first.get("batch_input_shape") or first.get("batch_shape") or build.get("input_shape")
        shape = shape or config.get("build_input_shape")
        if shape is None and layers[0].model is not None:
            inner = next(iter(leaves(layers[0].model.inputs)))
            shape = layers[0].model.by_name()[inner.layer].config.get("batch_shape")
        if not isinstance(shape, list):
            raise InvalidModel(
                "the model was saved before it knew its input shape",
                where=where,
                hint="call or build it, then save again",
            )
        given = f"{layers[0].name}_input" if "batch_input_shape" in first else "input_layer"
        dtype = first.get("dtype", "float32") if "batch_input_shape" in first else "float32"
        layers.insert(0, Layer(given, "InputLayer", "keras.layers", {"batch_shape": shape, "dtype": dtype}, []))
    names: dict[str, int] = {}
    for layer in layers:  # Sequential refuses equal names, except the input's, which a layer may share
        names[layer.name] = names.get(layer.name, 0) + 1
        if names[layer.name] > 1:
            if layer is layers[1] or layers[0].name == layer.name:
                layers[0].name = f"{layer.name}_input"
            else:
                raise InvalidModel(f"two layers are called {clean(layer.name)!r}", where=where)
    for before, layer in pairwise(layers):
        layer.calls = [Call([Ref(before.name, 0, 0)], {})]
    layers[0].calls = []
    return Model(name, "Sequential", layers, Ref(layers[0].name, 0, 0), Ref(layers[-1].name, 0, 0), config)


def _interface(value: Any, where: str) -> Any:
    """Input or output layers in any of the three spellings: one triple, a list of triples, nested lists and dicts."""
    if isinstance(value, dict):
        return {key: _interface(item, where) for key, item in value.items()}
    if not isinstance(value, (list, tuple)):
        raise InvalidModel(f"expected [layer, node, tensor], found {clean(value)!r}", where=where)
    if len(value) >= 3 and isinstance(value[0], str) and all(_is_index(v) for v in value[1:3]):
        return Ref(value[0], value[1], value[2])
    return [_interface(item, where) for item in value]


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _calls(nodes: Any, where: str) -> list[Call]:
    if not isinstance(nodes, list):
        raise InvalidModel("inbound_nodes is not a list", where=where)
    found = []
    for node in nodes:
        if isinstance(node, dict):
            args, kwargs = node.get("args", []), node.get("kwargs", {})
            if not isinstance(args, list) or not isinstance(kwargs, dict):
                raise InvalidModel("a call is not {args, kwargs}", where=where)
            made = Call([_value(a, where) for a in args], {k: _value(v, where) for k, v in kwargs.items()})
            if args or kwargs:
                found.append(made)
        else:
            found.append(_legacy_call(node, where))
    return found


def _legacy_call(node: Any, where: str) -> Call:
    """Keras 2: `[[layer, node, tensor, {kwargs}], ...]`, or one such item; dicts of them for dict inputs."""
    kwargs: dict[str, Any] = {}

    def tensor(item: Any) -> Any:
        if isinstance(item, dict):
            return {key: tensor(value) for key, value in item.items()}
        if isinstance(item, list) and len(item) == 4 and item[0] == "_CONSTANT_VALUE":
            kwargs.update({k: _legacy_kwarg(v, where) for k, v in item[3].items()} if isinstance(item[3], dict) else {})
            return item[2]
        is_triple = isinstance(item, list) and 3 <= len(item) <= 4 and isinstance(item[0], str)
        if not is_triple or not all(_is_index(v) for v in item[1:3]):
            if isinstance(item, list) and item and isinstance(item[0], (list, dict)):
                return [tensor(one) for one in item]
            raise InvalidModel(f"a call refers to {clean(item)!r}", where=where)
        if len(item) == 4 and isinstance(item[3], dict):
            kwargs.update({k: _legacy_kwarg(v, where) for k, v in item[3].items()})
        return Ref(item[0], item[1], item[2])

    if not isinstance(node, (list, dict)):
        raise InvalidModel(f"a call is {clean(node)!r}", where=where)
    found = tensor(node)
    first = found[0] if isinstance(found, list) and len(found) == 1 else found
    return Call([first], kwargs)


def _legacy_kwarg(value: Any, where: str) -> Any:
    """Keras 2 keeps tensors in keyword arguments as bare triples, at any depth."""
    if (
        isinstance(value, list)
        and len(value) == 3
        and isinstance(value[0], str)
        and all(_is_index(v) for v in value[1:])
    ):
        return Ref(value[0], value[1], value[2])
    if isinstance(value, list):
        return [_legacy_kwarg(item, where) for item in value]
    if isinstance(value, dict) and "class_name" not in value:
        return {key: _legacy_kwarg(item, where) for key, item in value.items()}
    return _value(value, where)


def _value(value: Any, where: str) -> Any:
    """An argument: serialized objects (`{"class_name": "__...__"}`) become Refs, arrays, slices; the rest stays."""
    if isinstance(value, list):
        return [_value(item, where) for item in value]
    if not isinstance(value, dict):
        return value
    kind = value.get("class_name")
    if not isinstance(kind, str):
        return {key: _value(item, where) for key, item in value.items()}
    config = value.get("config")
    config = config if isinstance(config, dict) else {}
    if kind == "__keras_tensor__":
        found = _interface(config.get("keras_history"), where)
        if not isinstance(found, Ref):
            raise InvalidModel("a tensor argument without its origin", where=where)
        return found
    if kind in ("__tensor__", "__numpy__"):
        return _array(config, where)
    if kind == "__slice__":
        return slice(*(_value(config.get(key), where) for key in ("start", "stop", "step")))
    if kind == "__ellipsis__":
        return Ellipsis
    if kind.startswith("__"):
        raise Unsupported(f"an argument of kind {clean(kind)} is code or bytes, which is never run", where=where)
    return value  # a serialized object such as a DTypePolicy: the handler knows what to do with it


_ARRAY_TYPES = {
    name: np.dtype(name)
    for name in (
        "bool",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "float16",
        "float32",
        "float64",
    )
}


def _array(config: dict, where: str) -> np.ndarray:
    dtype = _ARRAY_TYPES.get(config.get("dtype", ""))
    if dtype is None:
        raise Unsupported(f"a constant of type {clean(config.get('dtype'))!r}", where=where)
    try:
        return np.asarray(config.get("value"), dtype=dtype)
    except (ValueError, TypeError, OverflowError):
        raise InvalidModel("a constant array that is not rectangular or numeric", where=where) from None


# --------------------------------------------------------------------------------------------------------- consistency


def _all_refs(model: Model) -> Iterator[Ref]:
    for layer in model.layers:
        for call in layer.calls:
            yield from call.refs()
    for struct in (model.inputs, model.outputs):
        yield from (leaf for leaf in leaves(struct) if isinstance(leaf, Ref))


def _renumber_nested_calls(model: Model, is_new: bool) -> None:
    """Count the calls of nested models from 0: a functional model is born with a call of its own, which is not saved.

    Keras 3 counts that call in `output_layers` only (`functional_from_config` takes it off there). Keras 2 counts it
    everywhere, or nowhere; which, shows in the smallest number in use: every saved call leads to an output, so each is
    referred to at least once.
    """
    nested = {layer.name: layer for layer in model.layers if layer.model is not None}
    if is_new:
        inner, outer = {}, {name: 1 for name, layer in nested.items() if layer.class_name != "Sequential"}
    else:
        lowest: dict[str, int] = {}
        for ref in _all_refs(model):
            lowest[ref.layer] = min(ref.node, lowest.get(ref.layer, ref.node))
        inner = outer = {name: lowest.get(name, 0) for name in nested}

    def shifted(shift: dict[str, int]) -> Callable[[Any], Any]:
        def fix(leaf: Any) -> Any:
            by = shift.get(leaf.layer, 0) if isinstance(leaf, Ref) else 0
            return Ref(leaf.layer, leaf.node - by, leaf.tensor) if by and leaf.node >= by else leaf

        return fix

    if any(inner.values()):
        for layer in model.layers:
            for call in layer.calls:
                call.args, call.kwargs = map_leaves(shifted(inner), call.args), map_leaves(shifted(inner), call.kwargs)
    model.outputs = map_leaves(shifted(outer), model.outputs)


def _check_refs(model: Model, where: str) -> None:
    known = model.by_name()
    for ref in _all_refs(model):
        layer = known.get(ref.layer)
        if layer is None:
            raise InvalidModel(f"a call refers to layer {clean(ref.layer)!r}, which does not exist", where=where)
        calls = 1 if layer.class_name == "InputLayer" else len(layer.calls)
        if ref.node >= calls:
            raise InvalidModel(
                f"a call refers to call {ref.node} of layer {clean(ref.layer)!r}, which has {calls}", where=where
            )
    for leaf in leaves(model.inputs):
        if not isinstance(leaf, Ref) or known[leaf.layer].class_name != "InputLayer":
            raise InvalidModel("an input of the model is not an InputLayer", where=where)
    if not list(leaves(model.outputs)):
        raise InvalidModel("the model has no outputs", where=where)


def snake_case(name: str) -> str:
    """Keras' own rule for group names (`naming.to_snake_case`): Conv2DTranspose -> conv2d_transpose."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()
