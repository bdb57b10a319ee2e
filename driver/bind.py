"""`--bind sr=16000`: inputs that are one number for good, put into the model; what they decide is decided at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..ir.errors import UsageError
from ..ir.graph import Module, Value
from ..ir.types import BOOL, TensorType
from .options import near

#: What an input that has become a constant decides: branches that are never taken need not fit the shapes of the others.
DECIDE = "fix(fold,regions,dce)"


def parse_binds(texts: Sequence[str]) -> dict[str, list[str]]:
    """All --bind options of a command line: `name=value` or `name=1,2,3`. Raises UsageError, also for a name given twice."""
    made: dict[str, list[str]] = {}
    for text in texts:
        name, equals, values = text.rpartition("=")
        if not equals or not name or not values:
            raise UsageError(f"--bind {text!r} is not NAME=VALUE", hint="--bind sampling_rate=16000")
        if name in made:
            raise UsageError(f"--bind names {name!r} twice")
        made[name] = [item.strip() for item in values.split(",")]
    return made


def bind_inputs(module: Module, given: Mapping[str, Any]) -> None:
    """Put values in the place of inputs of the first signature, and decide the branches that hang on them. Raises UsageError
    for inputs that are unknown, no tensors, or of another size, and for values that their type does not hold."""
    from ..passes.manager import run_pipeline
    from ..passes.optimize.defaults import fix_input

    signature = module.signature
    for name, value in given.items():
        names = signature.input_names()
        if name not in names:
            raise UsageError(f"there is no input {name!r}", where="--bind", hint=near(name, names))
        graph = signature.graph
        index = names.index(name)
        array = _array(name, graph.inputs[index], value)
        fix_input(module, graph, index, module.literal(array, graph.inputs[index].dtype))
        signature = module.signature
    run_pipeline(module, DECIDE)


def _array(name: str, wanted: Value, value: Any) -> np.ndarray:
    """`value` as the input's type has it: one number for all elements, or one for each."""
    type_ = wanted.type
    if not isinstance(type_, TensorType) or type_.dtype is None or not (type_.dtype.is_numeric or type_.dtype is BOOL):
        raise UsageError(f"input {name!r} is a {type_}, it cannot be bound")
    if type_.shape is None or not type_.is_static:
        raise UsageError(
            f"input {name!r} is {type_}: only inputs of a fixed size can be bound", hint="fix it with --shape"
        )
    items = [_number(name, item, type_) for item in (value if isinstance(value, list) else np.ravel(value))]
    if len(items) not in (1, type_.numel):
        raise UsageError(f"--bind {name} has {len(items)} values, the input is {type_}")
    made = np.asarray(items, type_.dtype.numpy)
    return np.ascontiguousarray(np.broadcast_to(made, (type_.numel,))).reshape(type_.shape)  # type: ignore[arg-type]


def _number(name: str, item: Any, type_: TensorType) -> Any:
    """A number that the type holds, from text or from the caller's own. Raises UsageError."""
    text, dtype = str(item).lower(), type_.dtype
    try:
        number: float | None = {"true": 1, "false": 0}.get(text) if dtype is BOOL else None
        number = number if number is not None else float(text) if dtype.is_float else int(text)  # type: ignore[union-attr]
    except ValueError:
        raise UsageError(f"--bind {name}: {item!r} is no number for {type_}") from None
    low, high = (0, 1) if dtype is BOOL else _limits(type_)
    if not (low <= number <= high or dtype.is_float):  # type: ignore[union-attr]
        raise UsageError(f"--bind {name}: {dtype} holds {low} to {high}, not {number}")
    return number


def _limits(type_: TensorType) -> tuple[float, float]:
    """The smallest and the largest number of an integer type."""
    import ml_dtypes

    if type_.dtype is None or not type_.dtype.is_int:
        return 0.0, 0.0
    info = ml_dtypes.iinfo(type_.dtype.numpy)
    return int(info.min), int(info.max)
