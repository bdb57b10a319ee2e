"""Evaluates graphs on the reference kernels: the truth against which files and runtimes are judged.

    outputs = run(module, {"image": x})                      # by name, or a sequence in order
    outputs = run(module, inputs, taps={value: observer})    # observer(array) sees a value without editing the graph

Values are freed after their last use. Symbolic dims are bound from the inputs, and contradictions are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..ir.dims import bind_shape
from ..ir.errors import AnyIRError, InvalidModel, SystemFailure, UsageError
from ..ir.graph import Graph, Module, Node, Value
from ..ir.types import STRING, TensorType
from . import budget
from .registry import get_kernel

Observer = Callable[[np.ndarray], None]
Inputs = Mapping[str, Any] | Sequence[Any]
Evaluate = Callable[[Node, Sequence[Any]], tuple[Any, ...]]


def run(
    module: Module, inputs: Inputs, *, signature: str | None = None, taps: Mapping[Value, Observer] | None = None
) -> dict[str, np.ndarray]:
    """Outputs by name. UsageError for missing, unknown or misshapen inputs, InvalidModel where a kernel refuses."""
    sig = module.signatures.get(signature) if signature else module.signature
    if sig is None:
        raise UsageError(f"no signature {signature!r}", hint=f"there are: {', '.join(module.signatures)}")
    arrays = bind_inputs(sig.graph, sig.input_names(), inputs)
    results = run_graph(sig.graph, arrays, taps=taps)
    return dict(zip(sig.output_names(), results, strict=True))


def bind_inputs(graph: Graph, names: list[str], inputs: Inputs) -> list[np.ndarray]:
    """The inputs in order as arrays of the declared dtypes; shapes must fit and agree on symbols."""
    if isinstance(inputs, Mapping):
        unknown = [name for name in inputs if name not in names]
        missing = [name for name in names if name not in inputs]
        if unknown or missing:
            what = f"unknown inputs {unknown}" if unknown else f"missing inputs {missing}"
            raise UsageError(what, hint=f"the inputs are: {', '.join(names)}")
        given = [inputs[name] for name in names]
    else:
        given = list(inputs)
        if len(given) != len(names):
            raise UsageError(f"{len(given)} inputs were given, there are {len(names)}: {', '.join(names)}")
    arrays: list[Any] = []
    bindings: dict[str, int] = {}
    for value, name, item in zip(graph.inputs, names, given, strict=True):
        arrays.append(_checked(value, name, item, bindings))
    return arrays


def _checked(value: Value, name: str, item: Any, bindings: dict[str, int]) -> Any:
    type_ = value.type
    if not isinstance(type_, TensorType):
        return item
    array = np.asarray(item) if not isinstance(item, np.ndarray) else item
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
    state = _State(dict(zip(graph.inputs, arrays, strict=True)), taps or {}, budget.current())
    try:
        with np.errstate(all="ignore"):  # NaN and infinities are results like others
            for node in graph.nodes():
                operands = [_fetch(v, state.values) for v in node.operands]
                results = evaluate(node, operands) if evaluate else run_node(node, operands)
                state.used(node)
                state.made(node, results)
        return [_fetch(v, state.values) for v in graph.outputs]
    finally:
        state.close()


class _State:
    """The values that are still wanted, how often, and what they hold of the budget."""

    def __init__(self, values: dict[Value, Any], taps: Mapping[Value, Observer], spent: budget.Budget | None) -> None:
        self.values = values
        self.taps = taps
        self.budget = spent
        self.held = 0
        self.remaining = {value: value.n_uses for value in values}
        for value in [value for value in values if value in taps]:
            taps[value](values[value])

    def used(self, node: Node) -> None:
        """Free what was wanted for the last time."""
        for value in node.inputs():
            if value in self.remaining:
                self.remaining[value] -= 1
                if not self.remaining[value]:
                    array = self.values.pop(value)
                    del self.remaining[value]
                    if value.node is not None:  # an input belongs to the caller
                        self._hold(-budget.nbytes(array))

    def made(self, node: Node, results: Sequence[Any]) -> None:
        for value, array in zip(node.results, results, strict=True):
            if value in self.taps:
                self.taps[value](array)
            if value.n_uses:
                self.values[value] = array
                self.remaining[value] = value.n_uses
                self._hold(budget.nbytes(array))

    def _hold(self, nbytes: int) -> None:
        if self.budget is not None and nbytes:
            self.budget.hold(nbytes)
            self.held += nbytes

    def close(self) -> None:
        if self.budget is not None:
            self.budget.release(self.held)


def _fetch(value: Value | None, environment: dict[Value, Any]) -> Any:
    if value is None:
        return None
    return value.array() if value.is_const else environment[value]


def run_node(node: Node, operands: Sequence[Any], *, evaluate: Evaluate | None = None) -> tuple[Any, ...]:
    """The results of one node for these operand arrays; each has the declared dtype."""
    kernel = get_kernel(node.op.name)
    spent = budget.current()
    held = spent.live if spent is not None else 0
    extra = {"regions": [_Region(region, evaluate) for region in node.regions]} if node.regions else {}
    try:
        if spent is not None:
            spent.charge(node, operands)
        made = kernel(*operands, **node.attrs, **extra)
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
    results = made if isinstance(made, tuple) else (made,)  # a list is one value: a sequence
    return tuple(_as_declared(array, value) for array, value in zip(results, node.results, strict=True))


def _as_declared(array: Any, value: Value) -> Any:
    """Kernels may return numpy scalars; a wrong dtype is a bug and is said."""
    dtype = value.dtype
    if dtype is None or dtype is STRING or not isinstance(value.type, TensorType):
        return array
    made = np.asarray(array)
    if made.dtype != dtype.numpy:
        name = value.hint or value.index
        raise InvalidModel(f"the reference kernel returned {made.dtype} for %{name}, declared {dtype}")
    return made


class _Region:
    """A region as kernels see it: a function from arrays to a list of arrays, and the types of what it returns."""

    def __init__(self, graph: Graph, evaluate: Evaluate | None) -> None:
        self.graph = graph
        self.evaluate = evaluate
        self.types = [value.type for value in graph.outputs]

    def __call__(self, *arrays: Any) -> list[Any]:
        return run_graph(self.graph, arrays, evaluate=self.evaluate)
