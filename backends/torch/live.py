"""The live nn.Module of a Plan: an interpreter of torch calls, made from our own names, never by running text.

It trains like any other: params are parameters, and in training mode a batch norm whose statistics are weights of the
model normalises by the batch and moves them. Imported when a live module is wanted; imports torch at the top.
"""

from __future__ import annotations

import copy
import inspect
import keyword
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from .names import torch_name
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


#: Share of a batch's own statistics when the running ones move in training, torch's default: the IR keeps none.
MOMENTUM = 0.1


class Interpreted(nn.Module):
    """Runs the steps of a Plan. `keys` name its weights: parameters, buffers (statistics of a batch norm always are) and
    constants, which the state dict leaves out. Several keys of one parameter tie it."""

    def __init__(self, plan: Plan, keys: Mapping[Value, Sequence[str]]) -> None:
        super().__init__()
        self._plan = plan
        self._statistics = _statistics(plan)
        self._calls = [self._callable(step) if isinstance(step, Step) else None for step in plan.steps]
        self._weights = list(keys)
        self._places = [self._place(names[0], value) for value, names in keys.items()]
        taken = {names[0] for names in keys.values()}
        for (owner, last), names in zip(self._places, keys.values(), strict=True):
            if last in owner._parameters:
                self._tie(owner._parameters[last], [name for name in names[1:] if name not in taken])

    def _callable(self, step: Step) -> Callable[..., Any]:
        moves = step.call.fn == "F.batch_norm" and all(v in self._statistics for v in step.call.args[1:3])
        return self._batch_norm if moves else function(step.call.fn)

    def _batch_norm(self, x: torch.Tensor, mean: torch.Tensor, var: torch.Tensor, **rest: Any) -> torch.Tensor:
        return F.batch_norm(x, mean, var, **{**rest, "training": self.training, "momentum": MOMENTUM})

    def _place(self, key: str, value: Value) -> tuple[nn.Module, str]:
        """Put a weight where its key says: the part that holds it, and its name there. It goes into torch's tables
        themselves, since a key may be any text, an attribute's name too."""
        assert value.weight is not None
        tensor = to_tensor(value.weight.tensor.numpy(), value.weight.tensor.dtype)
        owner, last = self._owner(key)
        trains = value.weight.role == "param" and value not in self._statistics
        if trains and (tensor.is_floating_point() or tensor.is_complex()):
            owner._parameters[last] = nn.Parameter(tensor)
        else:
            owner._buffers[last] = tensor
            if value.weight.role == "const":
                owner._non_persistent_buffers_set.add(last)
        return owner, last

    def _tie(self, parameter: nn.Parameter | None, names: Sequence[str]) -> None:
        for name in names:
            owner, last = self._owner(name)
            owner._parameters[last] = parameter

    def _owner(self, key: str) -> tuple[nn.Module, str]:
        *path, last = key.split(".")
        owner: nn.Module = self
        for part in path:
            if part not in owner._modules:
                owner._modules[part] = nn.Module()
            owner = owner._modules[part]  # type: ignore[assignment]
        return owner, last

    def _tensors(self) -> Iterator[tuple[Value, torch.Tensor]]:
        """The weights as they are now: training loops and moves to a device replace them in torch's tables."""
        for value, (owner, last) in zip(self._weights, self._places, strict=True):
            found = owner._parameters.get(last)
            yield value, owner._buffers[last] if found is None else found  # type: ignore[misc]

    def __deepcopy__(self, memo: dict[int, Any]) -> Interpreted:
        """A module with tensors of its own that runs the same plan."""
        made = type(self).__new__(type(self))
        memo[id(self)] = made
        memo.update((id(shared), shared) for shared in (self._plan, self._weights, self._statistics))
        made.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return made

    def execute(self, inputs: list[torch.Tensor]) -> Any:
        """The outputs for all inputs in order, nested as in the signature."""
        plan = self._plan
        return nest(plan, dict(zip(plan.outputs, self.outputs(inputs), strict=True)))

    def outputs(self, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        """The outputs in order for all inputs in order."""
        plan = self._plan
        env: dict[Value, Any] = dict(zip(plan.inputs, inputs, strict=True))
        env.update(self._tensors())
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
        return [env[value] for value in plan.outputs]


def _statistics(plan: Plan) -> frozenset[Value]:
    """Means and variances of batch norms that are weights of the model."""
    calls = [step.call for step in plan.steps if isinstance(step, Step) and step.call.fn == "F.batch_norm"]
    found = {value for call in calls for value in call.args[1:3] if isinstance(value, Value)}
    return frozenset(value for value in found if value.weight is not None and value.weight.role != "const")


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


def build(plan: Plan, name: str, keys: Mapping[Value, Sequence[str]]) -> nn.Module:
    """The live module, each weight under its `keys`. Its forward takes the inputs by position or by name; its signature
    shows the names where Python can."""
    names = [slot.name for slot in plan.signature.inputs]
    spoken = all(n.isidentifier() and not keyword.iskeyword(n) and n != "self" for n in names)

    def forward(self: Interpreted, *args: Any, **kwargs: Any) -> Any:
        return self.execute(_bound(names, args, kwargs))

    if spoken:
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters = [inspect.Parameter(n, kind) for n in ("self", *names)]
        forward.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    made = type("Net", (Interpreted,), {"forward": forward, "__doc__": f"The model {name!r}, run by anyir."})
    return made(plan, keys).eval()


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
