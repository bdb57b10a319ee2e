"""`read`: from a file or a live Keras model to a Module, with the user's names, order and nesting."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ...formats.keras_config import Model, flatten, input_names, ordered, output_names
from ...formats.keras_h5 import KerasFile, open_keras
from ...ir.builder import Builder
from ...ir.dims import sym
from ...ir.errors import InvalidModel, UsageError, clean
from ...ir.graph import Graph, Module, bulk
from ...ir.signature import Slot
from ...ir.types import TensorType
from . import families
from .lower import Lowering, Tensor
from .registry import model_slots
from .types import policy

families.load()


def read(source: Any, *, inputs: Any = None, dynamic_shapes: Any = None, names: Any = None) -> Module:
    """Read a Keras model.

    `source`: the path of a `.keras`, `.h5` or `.hdf5` file, or a live model. `inputs` are sample arrays (or shapes)
    by name or in order: they give a subclassed model its input shapes, and fix open sizes other than the batch.
    `dynamic_shapes` is accepted for symmetry with the other frontends: None dims stay symbolic. `names` renames the
    inputs in order.

    Raises InvalidModel (damaged or inconsistent), Unsupported (names every layer that cannot be converted),
    LimitExceeded.
    """
    if isinstance(source, (str, os.PathLike)):
        return _read_path(source, _shapes(inputs), names)
    from .live import live_file

    return build(live_file(source, inputs), shapes=_shapes(inputs), names=names)


def _read_path(path: str | os.PathLike[str], shapes: Any, names: Any) -> Module:
    """Whatever a config of the wrong form makes the code trip over is the file's fault."""
    try:
        return build(open_keras(path), shapes=shapes, names=names)
    except (TypeError, KeyError, ValueError, IndexError, AttributeError, ArithmeticError) as error:
        reason = f"{type(error).__name__}: {clean(error)}"
        where = clean(os.path.basename(os.fspath(path)))
        raise InvalidModel(f"its config does not have the form that Keras writes ({reason})", where=where) from error


def read_file(path: str | os.PathLike[str], **options: Any) -> Module:
    """Read a Keras file; see `read`."""
    return read(path, **options)


def _shapes(inputs: Any) -> Any:
    """Shapes of sample inputs, by name or in order; the first (batch) axis stays open."""
    if inputs is None:
        return {}
    if isinstance(inputs, Mapping):
        return {str(name): _shape(item) for name, item in inputs.items()}
    items = inputs if isinstance(inputs, (list, tuple)) else [inputs]
    return [_shape(item) for item in items]


def _shape(item: Any) -> tuple:
    shape = getattr(item, "shape", item)
    try:
        return tuple(shape)
    except TypeError:
        raise UsageError(f"an input is {clean(type(item).__name__)}, expected an array or a shape") from None


def build(file: KerasFile, *, shapes: Any = None, names: Any = None) -> Module:
    """The Module of a parsed model."""
    model = file.model
    slots = model_slots(model)
    file.weights.bind(slots)
    module = Module(model.name)
    module.files += file.files
    module.metadata["producer"] = f"keras {file.version}".strip()
    graph = module.add_graph("main")
    with bulk():
        builder = Builder(graph)
        lowering = Lowering(builder, file.major, file.version, file.backend)
        tensors, input_slots = _inputs(graph, model, shapes or {}, names)
        result = lowering.model(model, slots, tensors, "")
        lowering.check()
        module.diagnostics += lowering.notes
        graph.set_outputs([tensor.value for tensor in flatten(result)])
    made = [Slot(name, path) for name, (path, _) in zip(output_names(model), ordered(model.outputs), strict=True)]
    module.add_signature("serving_default", graph, input_slots, made)
    return module


def _inputs(graph: Graph, model: Model, shapes: Any, names: Any) -> tuple[dict[str, Tensor], list[Slot]]:
    """Graph inputs in Keras' order. The batch dim is the symbol N in all of them, other open dims have names of their
    own.
    """
    known = model.by_name()
    tensors: dict[str, Tensor] = {}
    slots: list[Slot] = []
    for i, ((path, ref), name) in enumerate(zip(ordered(model.inputs), input_names(model), strict=True)):
        layer = known[ref.layer]
        if ref.layer in tensors:
            raise InvalidModel(f"the input {clean(ref.layer)!r} is listed twice", where=model.name)
        dtype, _ = policy(layer.config.get("dtype"), f"input {clean(name)!r}")
        dims = _dims(layer.config, name, _given(shapes, i, name))
        tensors[ref.layer] = Tensor(graph.add_input(TensorType(dtype, dims), hint=name))
        slots.append(Slot(str(names[i]) if names is not None and i < len(names) else name, path))
    return tensors, slots


def _given(shapes: Any, i: int, name: str) -> tuple | None:
    """The shape that the caller gave for input number `i`."""
    if isinstance(shapes, list):
        return shapes[i] if i < len(shapes) else None
    return shapes.get(name)


def _dims(config: Mapping[str, Any], name: str, given: tuple | None) -> tuple:
    shape = config.get("batch_shape", config.get("batch_input_shape"))
    if shape is None and isinstance(config.get("shape"), (list, tuple)):
        shape = [config.get("batch_size"), *config["shape"]]
    if not isinstance(shape, (list, tuple)):
        raise InvalidModel("the input has no shape", where=f"input {clean(name)!r}")
    if config.get("sparse") or config.get("ragged"):
        raise InvalidModel("sparse and ragged inputs are not supported", where=f"input {clean(name)!r}", code="U001")
    dims: list[Any] = []
    for axis, dim in enumerate(shape):
        if dim is None and axis > 0 and given is not None and len(given) == len(shape):
            dim = given[axis]
        if dim is None:
            dims.append(sym("N") if axis == 0 else sym(_symbol(name, axis)))
        elif isinstance(dim, int) and not isinstance(dim, bool) and 0 <= dim < 1 << 63:
            dims.append(dim)
        else:
            raise InvalidModel(f"its shape holds {clean(dim)!r}", where=f"input {clean(name)!r}")
    return tuple(dims)


def _symbol(name: str, axis: int) -> str:
    safe = "".join(c if c.isascii() and c.isalnum() else "_" for c in name)
    return f"{safe if safe[:1].isalpha() else 'd' + safe}_{axis}"
