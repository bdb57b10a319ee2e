"""The live nn.Module of a Plan: an interpreter of torch calls, made from our own names, never by running text.

Imported when a live module is wanted; imports torch at the top.
"""

from __future__ import annotations

import inspect
import keyword
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ...formats import torch_helpers as helpers
from ...formats.torch_source import SEVERAL
from ...ir.dims import Dim
from ...ir.expr import Atom, Expr, terms_of
from ...ir.graph import Value
from ...ir.types import DType
from .calls import DEVICE, Call
from .names import registered_names, torch_name
from .plan import Plan, SizeOf, Step
from .text import nest

_OPERATORS: dict[str, Callable[..., Any]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv, "==": operator.eq, "!=": operator.ne,
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "&": operator.and_, "|": operator.or_,
    "^": operator.xor, "[]": operator.getitem, ".to": lambda x, dtype: x.to(dtype), ".view": lambda x, dtype: x.view(dtype),
}  # fmt: skip
_SPACES = {"F": F, "helpers": helpers, "torch": torch}


def function(name: str) -> Callable[..., Any]:
    """The callable of a name in the operator table (names are ours: nothing of a model gets here)."""
    found = _OPERATORS.get(name)
    if found is not None:
        return found
    space, *path = name.split(".")
    target: Any = _SPACES[space]
    for part in path:
        target = getattr(target, part)
    return target


class Interpreted(nn.Module):
    """Runs the steps of a Plan. Parameters, buffers and constants are registered by the names of the model's weights."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self._plan = plan
        self._keys = registered_names(plan.weights)
        self._calls = [function(step.call.fn) if isinstance(step, Step) else None for step in plan.steps]
        for value, key in self._keys.items():
            self._place(key, value)

    def _place(self, key: str, value: Value) -> None:
        assert value.weight is not None
        tensor = to_tensor(value.weight.tensor.numpy(), value.weight.tensor.dtype)
        *path, last = key.split(".")
        owner: nn.Module = self
        for part in path:
            if part not in owner._modules:
                owner.add_module(part, nn.Module())
            owner = owner._modules[part]  # type: ignore[assignment]
        if value.weight.role == "param" and (tensor.is_floating_point() or tensor.is_complex()):
            owner.register_parameter(last, nn.Parameter(tensor))
        else:
            owner.register_buffer(last, tensor, persistent=value.weight.role != "const")

    def _find(self, key: str) -> torch.Tensor:
        *path, last = key.split(".")
        owner: nn.Module = self
        for part in path:
            owner = owner._modules[part]  # type: ignore[assignment]
        found = owner._parameters.get(last)
        return owner._buffers[last] if found is None else found  # type: ignore[return-value]

    def execute(self, inputs: list[torch.Tensor]) -> Any:
        """The outputs for all inputs in order, nested as in the signature."""
        plan = self._plan
        env: dict[Value, Any] = dict(zip(plan.inputs, inputs, strict=True))
        env.update((value, self._find(key)) for value, key in self._keys.items())
        sizes: dict[str, Any] = {}
        device = inputs[0].device if inputs else None
        for step, call in zip(plan.steps, self._calls, strict=True):
            if isinstance(step, SizeOf):
                sizes[step.symbol] = (env[step.value].shape[step.axis] - step.offset) // step.factor
                continue
            assert call is not None
            result = _invoke(call, step.call, env, sizes, device)
            results = result if step.call.fn in SEVERAL else (result,)
            env.update((v, r) for v, r in zip(step.results, results, strict=True) if v is not None)
        return nest(plan, env)


def _invoke(fn: Callable[..., Any], call: Call, env: dict[Value, Any], sizes: dict[str, Any], device: Any) -> Any:
    def resolve(item: Any) -> Any:
        if isinstance(item, Value):
            return env[item]
        if isinstance(item, tuple):
            return tuple(map(resolve, item))
        if isinstance(item, slice):
            return slice(resolve(item.start), resolve(item.stop), resolve(item.step))
        if isinstance(item, Expr):
            return size_value(item, sizes)
        if isinstance(item, DType):
            return getattr(torch, torch_name(item))
        return device if item is DEVICE else item

    return fn(*map(resolve, call.args), **{key: resolve(value) for key, value in call.kwargs.items()})


def size_value(dim: Dim, sizes: dict[str, Any]) -> Any:
    """A dim as an int, or as torch's symbolic int while a program is traced."""
    if not isinstance(dim, Expr):
        return dim
    total: Any = 0
    for mono, coefficient in terms_of(dim):
        term: Any = coefficient
        for atom, power in mono:
            for _ in range(power):
                term = term * _atom_value(atom, sizes)
        total = total + term
    return total


def _atom_value(atom: Atom, sizes: dict[str, Any]) -> Any:
    if atom.kind == "sym":
        return sizes[atom.args[0]]
    args = [size_value(arg, sizes) for arg in atom.args]
    combine = {"div": operator.floordiv, "mod": operator.mod, "min": torch.sym_min, "max": torch.sym_max}[atom.kind]
    total = args[0]
    for arg in args[1:]:
        total = combine(total, arg)
    return total


def to_tensor(array: np.ndarray, dtype: DType) -> torch.Tensor:
    """A tensor with its own memory."""
    wanted = getattr(torch, torch_name(dtype))
    copied = np.array(array, order="C")
    if array.dtype.kind == "V" or "float8" in array.dtype.name or array.dtype.name == "bfloat16":
        raw = torch.from_numpy(copied.reshape(-1).view(np.int16 if dtype.bits == 16 else np.uint8))
        return raw.view(wanted).reshape(array.shape)
    return torch.from_numpy(copied.reshape(array.shape))


def build(plan: Plan, name: str) -> nn.Module:
    """The live module. Its forward takes the inputs by position or by name; its signature shows the names where Python can."""
    names = [slot.name for slot in plan.signature.inputs]
    spoken = all(n.isidentifier() and not keyword.iskeyword(n) and n != "self" for n in names)

    def forward(self: Interpreted, *args: Any, **kwargs: Any) -> Any:
        return self.execute(_bound(names, args, kwargs))

    if spoken:
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters = [inspect.Parameter(n, kind) for n in ("self", *names)]
        forward.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    made = type("Net", (Interpreted,), {"forward": forward, "__doc__": f"The model {name!r}, run by anyir."})
    return made(plan).eval()


def _bound(names: list[str], args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    if len(args) > len(names):
        raise TypeError(f"forward takes {len(names)} inputs, {len(args)} were given")
    given = dict(zip(names, args, strict=False))
    for name, value in kwargs.items():
        if name not in names or name in given:
            raise TypeError(f"forward has no input {name!r}, or it is given twice; inputs: {', '.join(names)}")
        given[name] = value
    missing = [name for name in names if name not in given]
    if missing:
        raise TypeError(f"forward needs the inputs {', '.join(missing)}")
    return [given[name] for name in names]
