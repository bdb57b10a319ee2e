"""Keras model files: the door (`open_keras`) and the weights of `.keras`, Keras 3 `.h5` and Keras 2 `.h5`/`.hdf5`.

What a layer stores is declared by the caller as a tree of `Slots`; `bind` fills it. A `.keras` file is addressed by
path (class names counted in order, sub-layers by attribute), an `.h5` file by layer name and order. Both orders are
Keras' own: a layer's variables in the order of creation, trainable before frozen ones. Must not import the IR
(errors, storage apart).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ..ir.archive import Archive, parse_json
from ..ir.errors import AnyIRError, InvalidModel, Unsupported, clean
from ..ir.storage import MappedFile, map_file, sniff
from .hdf5 import Dataset, Group, H5File
from .keras_config import Model, parse_model, snake_case

#: Classes whose public name, which configs use, is not the Python name, after which groups are called.
_PYTHON_NAMES = {"GroupQueryAttention": "GroupedQueryAttention"}
_NO_WEIGHTS = "save the whole model: model.save('model.keras')"


class Stored(Protocol):
    """An array that is read when asked for."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype: ...

    def read(self) -> np.ndarray: ...


@dataclass
class Slots:
    """What one layer (or model) stores: its own variables as (name, trainable), then its sub-layers by attribute.

    `children` pairs the attribute path under which a `.keras` file keeps a sub-layer with that sub-layer's slots;
    alternatives are separated by "|". A variable whose name begins with "=" is a sub-layer's, which a `.keras` file
    holds a second time and an `.h5` file does not. Where a layer writes them itself a `.keras` file has its variables as
    `listed`, not the trainable ones first. Of an `unknown` layer nothing is known: its variables are left
    alone. `values` is filled by `bind`.
    """

    name: str
    own: list[tuple[str, bool]] = field(default_factory=list)
    children: list[tuple[str, Slots]] = field(default_factory=list)
    trainable: bool = True
    unknown: bool = False
    listed: bool = False
    values: dict[str, Stored] = field(default_factory=dict)

    def walk(self) -> Iterator[Slots]:
        """These slots and all below."""
        stack = [self]
        while stack:
            here = stack.pop()
            yield here
            stack.extend(child for _, child in reversed(here.children))

    def flat(self) -> Iterator[tuple[Slots, str, bool]]:
        """(owner, variable, trainable) depth first, own variables before those of sub-layers."""
        stack = [(self, self.trainable)]
        while stack:
            here, trainable = stack.pop()
            for slot, may_train in here.own:
                if not slot.startswith("="):
                    yield here, slot, may_train and trainable
            stack.extend((child, trainable and child.trainable) for _, child in reversed(here.children))


class Weights(Protocol):
    """A source of weights: fills the whole tree of a model's slots, or raises InvalidModel."""

    def bind(self, model: Slots) -> None: ...


@dataclass
class KerasFile:
    """A parsed file: the model as data, where its weights are, and the major version of the Keras that wrote it."""

    model: Model
    weights: Weights
    version: str
    backend: str = ""
    files: list[MappedFile] = field(default_factory=list)

    @property
    def major(self) -> int:
        head = self.version.split(".")[0]
        return int(head) if head.isdecimal() and len(head) < 4 else 3


def open_keras(path: str | os.PathLike[str]) -> KerasFile:
    """Read a `.keras` archive or an HDF5 file. Weight bytes are read later, when `Stored.read` is called.

    Raises InvalidModel (damaged, not a Keras file, no config), Unsupported (custom classes), LimitExceeded,
    SystemFailure.
    """
    kind, where = sniff(path), os.path.basename(os.fspath(path))
    if kind == "zip":
        return _open_archive(path, where)
    if kind == "hdf5":
        mapped = map_file(path)
        file = _open_h5(H5File(mapped.view(), where), where)
        file.files.append(mapped)
        return file
    raise InvalidModel(
        f"this is neither a .keras archive nor an HDF5 file (it looks like: {kind})",
        where=clean(where),
        hint="a Keras model is saved with model.save('model.keras')",
    )


def _open_archive(path: str | os.PathLike[str], where: str) -> KerasFile:
    archive = Archive(path)
    for name in ("config.json", "model.weights.h5", "metadata.json"):
        if name not in archive.members:
            raise InvalidModel(f"the archive has no {name}", where=where, hint=_NO_WEIGHTS)
    config = parse_json(archive.read("config.json", "json_bytes"), where=f"{where}: config.json")
    metadata = parse_json(archive.read("metadata.json", "json_bytes"), where=f"{where}: metadata.json")
    version = metadata.get("keras_version") if isinstance(metadata, dict) else None
    model = parse_model(config, f"{where}: config.json")
    file = H5File(archive.read("model.weights.h5"), f"{where}: model.weights.h5")
    weights = PathWeights(file.root, f"{where}: model.weights.h5")
    return KerasFile(model, weights, _version(version), files=[archive.file])


def _open_h5(file: H5File, where: str) -> KerasFile:
    attrs = file.root.attrs
    text = attrs.get("model_config")
    if isinstance(text, np.ndarray) and text.dtype.kind == "S":
        text = text.item().decode("utf-8", "replace")
    if not isinstance(text, str):
        what = "weights only" if "layer_names" in attrs or "layers" in file.root.children else "no model_config"
        raise InvalidModel(f"the file holds {what}, so there is no model to read", where=where, hint=_NO_WEIGHTS)
    config = parse_json(text.encode(), where=f"{where}: model_config")
    group = file.root.children.get("model_weights")
    if not isinstance(group, Group):
        raise InvalidModel("the file has no group model_weights", where=where, hint=_NO_WEIGHTS)
    backend = _version(attrs.get("backend") or group.attrs.get("backend"))
    version = _version(attrs.get("keras_version") or group.attrs.get("keras_version"))
    if version.startswith("1") or version == "":
        raise Unsupported("the file was written by Keras 1", where=where, hint="load and save it again with Keras 2")
    model = parse_model(config, f"{where}: model_config")
    return KerasFile(model, NamedWeights(_h5_layers(group, where), f"{where}: model_weights"), version, backend)


def _version(value: Any) -> str:
    return value if isinstance(value, str) else ""


# ---------------------------------------------------------------------------------------------------------- path layout


class PathWeights:
    """`model.weights.h5`: `layers/<class>[_<n>]/vars/<i>`; sub-layers below under the attribute that holds them."""

    def __init__(self, root: Group, where: str) -> None:
        self._root, self._where = root, where

    def bind(self, model: Slots) -> None:
        """Fill the tree below `model`. Every variable must be there, and none more in the groups visited."""
        stack: list[tuple[Slots, Group | None, str]] = [(model, self._root, "")]
        while stack:
            slots, group, path = stack.pop()
            if slots.unknown:
                continue
            self._own(slots, group, path)
            for attribute, child in reversed(slots.children):
                options = [group.get(option) for option in attribute.split("|")] if group else []
                found = next((option for option in options if isinstance(option, Group)), None)
                stack.append((child, found, f"{path}/{attribute}".lstrip("/")))

    def _own(self, slots: Slots, group: Group | None, path: str) -> None:
        variables = group.children.get("vars") if group else None
        held = variables.children if isinstance(variables, Group) else {}
        where = f"{self._where}: {path}"
        if sorted(held) != sorted(str(i) for i in range(len(held))):
            raise InvalidModel("variables are not numbered 0, 1, 2 ...", where=where)
        stored = [_dataset(held[str(i)], where) for i in range(len(held))]
        if len(stored) != len(slots.own):
            raise _miscounted(slots.name, [name for name, _ in slots.own], stored, "variables", where)
        for value, (name, _) in zip(stored, slots.own if slots.listed else _trainable_first(slots.own), strict=True):
            slots.values[name] = value


#: A float8 kernel comes with scales of what goes in, of itself, and of its gradient.
_FLOAT8_SCALES = 3


def _miscounted(layer: str, wanted: list[str], stored: Sequence[Stored], what: str, where: str) -> AnyIRError:
    """Why a layer's weights are not those that its config asks for."""
    scales = sum(value.shape == () for value in stored)
    if len(stored) > len(wanted) and (scales >= _FLOAT8_SCALES or any(value.dtype == np.int8 for value in stored)):
        return Unsupported(
            f"layer {clean(layer)!r} holds quantized weights that its config does not tell of: Keras leaves out how layers "
            "inside another layer were quantized, and cannot load them either",
            where=where,
            hint="save the model before it is quantized, and quantize with anyir",
        )
    names = ", ".join(wanted) or "none"
    return InvalidModel(
        f"layer {clean(layer)!r} needs {len(wanted)} {what} ({names}), the file has {len(stored)}", where=where
    )


def _trainable_first(own: list[tuple[str, bool]]) -> list[tuple[str, bool]]:
    return [o for o in own if o[1]] + [o for o in own if not o[1]]


def _dataset(item: Any, where: str) -> Dataset:
    if not isinstance(item, Dataset):
        raise InvalidModel("a variable is a group, not an array", where=where)
    return item


def layer_groups(model: Model) -> list[tuple[str, str]]:
    """(layer name, group) of a model's layers in a `.keras` file: class names in snake case, counted per class in
    order.
    """
    used: dict[str, int] = {}
    groups = []
    for layer in model.layers:
        if layer.is_operation:
            continue
        name = layer.class_name.rpartition(">")[2]
        base = snake_case(_PYTHON_NAMES.get(name, name))
        count = used[base] = used.get(base, -1) + 1
        group = f"{base}_{count}" if count else base
        # the first files of this format (Keras 2.13) called the folder after the checkpoint's
        groups.append((layer.name, f"layers/{group}|_layer_checkpoint_dependencies/{group}"))
    return groups


# --------------------------------------------------------------------------------------------------------- named layout


class NamedWeights:
    """Arrays per top-level layer, in order, with their stored names: `.h5` files and live models."""

    def __init__(self, layers: dict[str, list[tuple[str, Stored]]], where: str) -> None:
        self._layers, self._where = layers, where

    def bind(self, model: Slots) -> None:
        """Fill the tree below `model`; all arrays of a layer must be used."""
        for _, child in model.children:
            stored = self._layers.get(child.name, [])
            wanted = list(child.flat())
            if any(owner.unknown for owner in child.walk()):
                continue
            where = f"{self._where}: {child.name}"
            if len(stored) != len(wanted):
                names = [slot for _, slot, _ in wanted]
                raise _miscounted(child.name, names, [value for _, value in stored], "weights", where)
            order = self._order(wanted, stored, where)
            for (owner, slot, _), (_, value) in zip(order, stored, strict=True):
                owner.values[slot] = value

    def _order(self, wanted: list, stored: list, where: str) -> list:
        """Trainable ones first, as Keras saves; or plain order of creation; whichever agrees with the stored names."""
        names = [_base(name) for name, _ in stored]
        split = [w for w in wanted if w[2]] + [w for w in wanted if not w[2]]
        for order in (split, wanted):
            if [slot for _, slot, _ in order] == names:
                return order
        raise InvalidModel(
            f"weights {clean(', '.join(names))} do not match the layer's {', '.join(slot for _, slot, _ in split)}",
            where=where,
        )


def _base(name: str) -> str:
    """The variable's own name: the last part of the path, without TensorFlow's `:0`."""
    return name.rpartition("/")[2].partition(":")[0]


def _h5_layers(group: Group, where: str) -> dict[str, list[tuple[str, Stored]]]:
    found: dict[str, list[tuple[str, Stored]]] = {}
    for name in _names(group, "layer_names", where):
        below = group.get(name)
        if not isinstance(below, Group) or name in found:
            raise InvalidModel(f"layer {clean(name)!r} of layer_names is missing or repeated", where=where)
        arrays: list[tuple[str, Stored]] = []
        for path in _names(below, "weight_names", where):
            item = below.get(path)
            if not isinstance(item, Dataset):
                raise InvalidModel(f"weight {clean(path)!r} of layer {clean(name)!r} is missing", where=where)
            arrays.append((path, item))
        found[name] = arrays
    return found


def _names(group: Group, key: str, where: str) -> list[str]:
    """A list attribute, which Keras splits into key0, key1 ... when it is long."""
    parts, i = [group.attrs.get(key)], 0
    if parts[0] is None:
        parts = []
        while f"{key}{i}" in group.attrs:
            parts.append(group.attrs.get(f"{key}{i}"))
            i += 1
        if not parts:
            raise InvalidModel(f"group {clean(group.path)!r} has no attribute {key}", where=where)
    names: list[str] = []
    for part in parts:
        if isinstance(part, np.ndarray) and part.size == 0:  # an empty list is saved as an empty array of floats
            continue
        if not isinstance(part, list):
            raise InvalidModel(f"attribute {key} of {clean(group.path)!r} is not a list of names", where=where)
        names += part
    return names


__all__ = ["KerasFile", "NamedWeights", "PathWeights", "Slots", "Stored", "Weights", "layer_groups", "open_keras"]
