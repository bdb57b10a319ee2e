"""Evaluates graphs on the reference kernels: the truth against which files and runtimes are judged.

    outputs = run(module, {"image": x})                      # by name, or a sequence in order
    outputs = run(module, inputs, taps={value: observer})    # observer(array) sees a value without editing the graph

Values are freed after their last use. Symbolic dims are bound from the inputs, and contradictions are refused.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..ir.dims import bind_shape
from ..ir.errors import AnyIRError, InvalidModel, SystemFailure, UsageError
from ..ir.graph import Graph, Module, Node, Value
from ..ir.ops.sequence import renewed
from ..ir.signature import Signature
from ..ir.types import STRING, OptionalType, SequenceType, TensorType, Type
from . import budget
from .constants import Shelf, shelf_of
from .plan import Step, plan_of
from .precision import quiet
from .registry import get_kernel
from .text import texts

Observer = Callable[[np.ndarray], None]
Inputs = Mapping[str, Any] | Sequence[Any]
Evaluate = Callable[[Node, Sequence[Any]], tuple[Any, ...]]

_NOTHING: dict[str, Any] = {}


def run(
    module: Module, inputs: Inputs, *, signature: str | None = None, taps: Mapping[Value, Observer] | None = None
) -> dict[str, np.ndarray]:
    """Outputs by name. UsageError for missing, unknown or misshapen inputs, InvalidModel where a kernel refuses."""
    sig = module.signatures.get(signature) if signature else module.signature
    if sig is None:
        raise UsageError(f"no signature {signature!r}", hint=f"there are: {', '.join(module.signatures)}")
    arrays = bind_inputs(sig, inputs)
    results = run_graph(sig.graph, arrays, taps=taps)
    return dict(zip(sig.output_names(), results, strict=True))


def bind_inputs(signature: Signature, inputs: Inputs) -> list[np.ndarray]:
    """The inputs in order as arrays of the declared dtypes; shapes must fit and agree on symbols. Inputs with a default may
    be left out: all of them where the inputs are a sequence."""
    names = signature.input_names()
    defaults = {slot.name: slot.default for slot in signature.inputs if slot.default is not None}
    if not isinstance(inputs, Mapping):
        given = list(inputs)
        wanted = names if len(given) == len(names) else [name for name in names if name not in defaults]
        if len(given) != len(wanted):
            raise UsageError(f"{len(given)} inputs were given, there are {len(wanted)}: {', '.join(wanted)}")
        inputs = dict(zip(wanted, given, strict=True))
    unknown = [name for name in inputs if name not in names]
    missing = [name for name in names if name not in inputs and name not in defaults]
    if unknown or missing:
        what = f"unknown inputs {unknown}" if unknown else f"missing inputs {missing}"
        raise UsageError(what, hint=f"the inputs are: {', '.join(names)}")
    arrays: list[Any] = []
    bindings: dict[str, int] = {}
    for value, name in zip(signature.graph.inputs, names, strict=True):
        item = inputs[name] if name in inputs else defaults[name].tensor.numpy()
        arrays.append(_checked(value.type, name, item, bindings))
    return arrays


def _checked(type_: Type, name: str, item: Any, bindings: dict[str, int]) -> Any:
    """An input as kernels want it: an array, a list for a sequence, None for an absent optional."""
    if isinstance(type_, OptionalType):
        return None if item is None else _checked(type_.elem, name, item, bindings)
    if isinstance(type_, SequenceType):
        if not isinstance(item, (list, tuple)):
            raise UsageError(f"input {name!r} is {type(item).__name__}, the model wants a list of {type_.elem}")
        return [_checked(renewed(type_.elem), f"{name}[{i}]", part, bindings) for i, part in enumerate(item)]
    if not isinstance(type_, TensorType):
        return item
    if item is None:
        raise UsageError(f"input {name!r} is absent, the model wants {type_}")
    array = np.asarray(item) if not isinstance(item, np.ndarray) else item
    if type_.dtype is STRING:
        array = texts(array)
    if type_.dtype is not None and type_.dtype is not STRING and array.dtype != type_.dtype.numpy:
        if not np.can_cast(array.dtype, type_.dtype.numpy, "same_kind"):
            raise UsageError(f"input {name!r} is {array.dtype}, the model wants {type_.dtype}")
        given, array = array, array.astype(type_.dtype.numpy)
        if type_.dtype.is_int and not np.array_equal(array, given):
            raise UsageError(f"input {name!r} has values that do not fit {type_.dtype}")
    if type_.shape is not None:
        try:
            bindings.update(bind_shape(type_.shape, array.shape, bindings))
        except AnyIRError as error:
            what = f"input {name!r} has shape {list(array.shape)}, the model wants {type_}"
            raise UsageError(f"{what}: {error.message}") from None
    return array


def run_graph(
    graph: Graph,
    arrays: Sequence[Any],
    *,
    taps: Mapping[Value, Observer] | None = None,
    evaluate: Evaluate | None = None,
) -> list[Any]:
    """The outputs of a graph or region, in order. `evaluate` stands in for `run_node`, in its regions too."""
    _settle_allocator()
    plan = plan_of(graph)
    if len(arrays) != plan.inputs:
        raise InvalidModel(f"{len(arrays)} values for the {plan.inputs} inputs of {graph.name!r}")
    values: list[Any] = [None] * plan.size
    values[1 : 1 + plan.inputs] = arrays
    ledger = _Ledger(graph, taps or {}, budget.current()) if taps or budget.current() is not None else None
    with shelf_of(graph.module) as shelf, quiet():
        try:
            if ledger is not None:
                ledger.begin(arrays)
            for step in plan.steps:
                _take(step, values, shelf, ledger, evaluate)
            return _operands(plan.final, values, shelf)
        finally:
            if ledger is not None:
                ledger.close()


def _operands(step: Step, values: list[Any], shelf: Shelf) -> list[Any]:
    """The arrays of a node's operands, None for an absent one."""
    operands = [values[slot] for slot in step.slots]
    for place, weight in step.constants:
        operands[place] = shelf.array(weight.tensor)
    return operands


def _take(step: Step, values: list[Any], shelf: Shelf, ledger: _Ledger | None, evaluate: Evaluate | None) -> None:
    """Run one node: its operands come from `values`, where its results go and what is used up is dropped."""
    operands = _operands(step, values, shelf)
    results = evaluate(step.node, operands) if evaluate else run_node(step.node, operands)
    if ledger is not None:
        ledger.dropped([values[slot] for slot in step.dead if slot > ledger.inputs])
    for slot in step.dead:
        values[slot] = None
    del operands  # else they live while observers look at the results
    for place, slot in step.made:
        values[slot] = results[place]
    if ledger is not None:
        ledger.made(step, results)


#: Just below the largest block that glibc would ever take from its heap (mallopt(3), M_MMAP_THRESHOLD).
_LARGE_BLOCK = (32 << 20) - (64 << 10)


@functools.cache
def _settle_allocator() -> None:
    """Free one large, untouched block: glibc then keeps freed tensors up to that size for the next ones (and at most twice
    that), instead of giving their pages back and getting each zeroed again: a third of the time of some models."""
    np.empty(_LARGE_BLOCK, np.uint8)


class _Ledger:
    """What somebody wants to know of a run: observers of values, and what values hold of the budget."""

    def __init__(self, graph: Graph, taps: Mapping[Value, Observer], spent: budget.Budget | None) -> None:
        self.graph = graph
        self.inputs = len(graph.inputs)  # they belong to the caller
        self.taps = taps
        self.budget = spent
        self.held = 0

    def begin(self, arrays: Sequence[Any]) -> None:
        for value, array in zip(self.graph.inputs, arrays, strict=True):
            if value in self.taps:
                self.taps[value](array)

    def made(self, step: Step, results: Sequence[Any]) -> None:
        if self.taps:
            for value, array in zip(step.node.results, results, strict=True):
                if value in self.taps:
                    self.taps[value](array)
        for place, _ in step.made:
            self._hold(budget.nbytes(results[place]))

    def dropped(self, arrays: Sequence[Any]) -> None:
        self._hold(-sum(map(budget.nbytes, arrays)))

    def _hold(self, nbytes: int) -> None:
        if self.budget is not None and nbytes:
            self.budget.hold(nbytes)
            self.held += nbytes

    def close(self) -> None:
        if self.budget is not None:
            self.budget.release(self.held)


def run_node(node: Node, operands: Sequence[Any], *, evaluate: Evaluate | None = None) -> tuple[Any, ...]:
    """The results of one node for these operand arrays; each has the declared dtype."""
    kernel = get_kernel(node.op.name)
    spent = budget.current()
    held = spent.live if spent is not None else 0
    extra = {"regions": [_Region(region, evaluate) for region in node.regions]} if node.regions else _NOTHING
    try:
        if spent is not None:
            spent.charge(node, operands)
        made = kernel(*operands, **node.attrs.plain, **extra)
    except AnyIRError as error:
        raise error.at(f"{node.name} at {node.loc}") from None
    except MemoryError:
        wanted = ", ".join(str(value.type) for value in node.results)
        raise SystemFailure(f"out of memory for {wanted}", where=f"{node.name} at {node.loc}") from None
    except (ValueError, IndexError, TypeError, OverflowError, ZeroDivisionError) as error:
        where = f"{node} at {node.loc}"
        raise InvalidModel(f"the reference kernel of {node.name} fails: {error}", where=where) from error
    finally:
        if spent is not None:
            spent.live = held
    declared = node.results
    if type(made) is np.ndarray and len(declared) == 1:  # nearly always: as short as can be
        return (_as_declared(made, declared[0]),)
    results = made if isinstance(made, tuple) else (made,)  # a list is one value: a sequence
    if len(results) != len(declared):
        raise InvalidModel(f"the reference kernel of {node.name} returned {len(results)} results")
    return tuple([_as_declared(array, value) for array, value in zip(results, declared, strict=True)])


def _as_declared(array: Any, value: Value) -> Any:
    """Kernels may return numpy scalars; a wrong dtype is a bug and is said."""
    dtype = value.dtype
    if dtype is None or dtype is STRING:
        return array
    made = array if isinstance(array, np.ndarray) else np.asarray(array)
    if made.dtype is not dtype.numpy and made.dtype != dtype.numpy:
        name = value.hint or value.index
        raise InvalidModel(f"the reference kernel returned {made.dtype} for %{name}, declared {dtype}")
    return made


class _Region:
    """A region as kernels see it: a function from arrays to a list of arrays, and the types of what it takes and returns."""

    def __init__(self, graph: Graph, evaluate: Evaluate | None) -> None:
        self.graph = graph
        self.evaluate = evaluate

    @property
    def inputs(self) -> list[Type]:
        return [value.type for value in self.graph.inputs]

    @property
    def types(self) -> list[Type]:
        return [value.type for value in self.graph.outputs]

    def __call__(self, *arrays: Any) -> list[Any]:
        return run_graph(self.graph, arrays, evaluate=self.evaluate)
