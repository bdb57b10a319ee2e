"""Graphs and modules: a doubly linked list of nodes that is cheap to edit, and the owner of everything in a model."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from .dims import Facts
from .errors import InternalError, InvalidModel
from .opdef import Known
from .ops import get_op
from .signature import Signature, Slot
from .types import TensorType, Type
from .value import Node, Value
from .weights import Weight, Weights

if TYPE_CHECKING:
    from .storage import MappedFile
    from .tensor import Tensor

_SPACING = 1 << 20
_END = 1 << 62


class Listener(Protocol):
    """Told of each change of a graph, right after it (erasing: right before the node leaves)."""

    def inserted(self, node: Node) -> None: ...
    def changed(self, node: Node) -> None: ...
    def erased(self, node: Node) -> None: ...


class Graph:
    """A function body or a region: inputs, then nodes in an order where definitions stand before uses, `return` last.

    `version` grows with every real change, so whether a pass did anything is a fact. Insert, erase and move cost O(operands).

    Iterating with `nodes()`: erasing the current node and inserting or erasing anywhere is legal. The iterator sees a node
    inserted behind the current one unless the current one was erased before the insertion, and never sees an erased one.
    A node moved backwards may be seen twice, one moved forwards past the current one not at all.
    """

    __slots__ = ("_first", "_return", "inputs", "listeners", "module", "name", "parent", "plan", "version")

    def __init__(self, module: Module, name: str) -> None:
        self.module = module
        self.name = name
        self.parent: Node | None = None
        self.inputs: list[Value] = []
        self.version = 0
        self.plan: tuple[int, Any] | None = None  # how to run this graph (kernels/plan.py), and the version it is for
        self.listeners: list[Listener] = []
        op = get_op("return")
        self._return = Node(op, (), op.make_attrs({}))
        self._return.graph = self
        self._return.order = _END
        self._first: Node = self._return

    # Reading.

    @property
    def outputs(self) -> tuple[Value, ...]:
        """The operands of `return`."""
        return self._return.operands  # type: ignore[return-value]

    @property
    def return_node(self) -> Node:
        return self._return

    @property
    def first(self) -> Node:
        """The first node; `return` itself in an empty graph."""
        return self._first

    def nodes(self, *names: str) -> Iterator[Node]:
        """The nodes in order without `return`, all or those of the named ops; see the class for edits meanwhile."""
        node = self._first
        while node is not self._return:
            if not names or node.op.name in names:
                yield node
            following = node.next
            while following is not None and following.graph is not self:
                following = following.next
            if following is None:
                return
            node = following

    def reversed(self) -> Iterator[Node]:
        """The nodes from last to first without `return`; erasing the current node and later ones is legal."""
        node = self._return.prev
        while node is not None:
            before = node.prev
            yield node
            node = before

    def __len__(self) -> int:
        """Number of nodes without `return`; O(nodes)."""
        return sum(1 for _ in self.nodes())

    def __bool__(self) -> bool:
        return True

    # Editing.

    def add_input(self, type_: Type, hint: str = "") -> Value:
        value = Value(type_, self, len(self.inputs), hint)
        self.inputs.append(value)
        self.version += 1
        return value

    def remove_input(self, index: int) -> None:
        """Drop an unused input. Raises InternalError when it is used."""
        if self.inputs[index].n_uses:
            raise InternalError(f"input %{self.inputs[index].hint} is still used")
        del self.inputs[index]
        for i, value in enumerate(self.inputs):
            value.index = i
        self.version += 1

    def set_inputs(self, values: Sequence[Value]) -> None:
        """Keep these of the inputs, in this order. Raises InternalError when one that is used is left out."""
        kept = set(values)
        for value in self.inputs:
            if value not in kept and value.n_uses:
                raise InternalError(f"input %{value.hint} is still used")
        self.inputs = list(values)
        for i, value in enumerate(self.inputs):
            value.index = i
        self.version += 1

    def set_outputs(self, values: Iterable[Value]) -> None:
        self._return.set_operands(values)

    def insert(self, node: Node, before: Node | None = None) -> Node:
        """Link a staged node in front of `before` (default: `return`)."""
        before = self._return if before is None else before
        if node.graph is not None or before.graph is not self:
            where = (
                "already in a graph" if node.graph is not None else f"inserted before {before.name} of another graph"
            )
            raise InternalError(f"{node.name} is {where}")
        self._link(node, before)
        node.graph = self
        node._add_uses()
        self.version += 1
        for listener in self.listeners:
            listener.inserted(node)
        return node

    def absorb(self, region: Graph, before: Node) -> None:
        """Move all nodes of `region` in front of `before`, in order; O(nodes). What they use must be defined here by then,
        or be moved along; `region` keeps its inputs, and outputs that the caller replaces."""
        moved = list(region.nodes())
        low = before.prev.order if before.prev is not None else 0
        step = (min(before.order, low + _SPACING * (len(moved) + 1)) - low) // (len(moved) + 1)
        for node in moved:
            region._detach(node)
            previous = before.prev
            node.prev, node.next, before.prev = previous, before, node
            if previous is None:
                self._first = node
            else:
                previous.next = node
            low += step
            node.order, node.graph = low, self
        if not step:
            self._renumber()
        self.version += len(moved)
        region.version += len(moved)
        for listener in self.listeners:
            for node in moved:
                listener.inserted(node)

    def clear(self) -> None:
        """Erase everything, last node first."""
        self._return.set_operands(())
        for node in self.reversed():
            node.erase()

    def _link(self, node: Node, before: Node) -> None:
        previous = before.prev
        node.prev, node.next = previous, before
        before.prev = node
        if previous is None:
            self._first = node
        else:
            previous.next = node
        low = previous.order if previous is not None else 0
        if before is self._return:
            node.order = low + _SPACING
        elif before.order - low >= 2:
            node.order = (low + before.order) // 2
        else:
            self._renumber()

    def _renumber(self) -> None:
        """Spread the order labels evenly again; amortised over the many insertions that used up a gap."""
        node, order = self._first, 0
        while node is not self._return:
            order += _SPACING
            node.order = order
            node = node.next  # type: ignore[assignment]

    def _detach(self, node: Node) -> None:
        if node.prev is None:
            self._first = node.next  # type: ignore[assignment]
        else:
            node.prev.next = node.next
        node.next.prev = node.prev  # type: ignore[union-attr]

    def _unlink(self, node: Node) -> None:
        """Take `node` out; it keeps its `next` link so that an iterator standing on it finds its way."""
        if node is self._return:
            raise InternalError("return cannot be erased")
        for listener in self.listeners:
            listener.erased(node)
        self._detach(node)
        node._drop_uses()
        node.graph = None
        self.version += 1

    def _move(self, node: Node, before: Node | None) -> None:
        if node is self._return or before is None or before.graph is not self:
            raise InternalError(f"{node.name} cannot be moved out of its graph or behind return")
        if before is node or node.next is before:
            return
        self._detach(node)
        self._link(node, before)
        self._touched(node)

    def _touched(self, node: Node) -> None:
        self.version += 1
        for listener in self.listeners:
            listener.changed(node)

    def __repr__(self) -> str:
        return f"<graph @{self.name}: {len(self.inputs)} inputs, {len(self)} nodes>"


class Module:
    """A whole model: graphs, signatures, weights, facts about symbols, metadata, and the files that it maps.

    `metadata` holds text by key: `producer`, `opset.<domain>` of origin, and the user's own under `user.`.
    """

    def __init__(self, name: str = "module") -> None:
        self.name = name
        self.graphs: dict[str, Graph] = {}
        self.signatures: dict[str, Signature] = {}
        self.weights = Weights()
        self.facts = Facts()
        self.metadata: dict[str, str] = {}
        self.diagnostics: list[str] = []
        self.files: list[MappedFile] = []
        self._constants: dict[Weight, Value] = {}
        self._literals: dict[tuple, Value] = {}

    @property
    def main(self) -> Graph:
        """The graph of the first signature, else the first graph. Raises InvalidModel in an empty module."""
        for signature in self.signatures.values():
            return signature.graph
        for graph in self.graphs.values():
            return graph
        raise InvalidModel(f"module {self.name!r} has no graph")

    @property
    def signature(self) -> Signature:
        """The first signature. Raises InvalidModel when there is none."""
        for signature in self.signatures.values():
            return signature
        raise InvalidModel(f"module {self.name!r} has no signature")

    @property
    def version(self) -> int:
        """Grows with every change in any graph or region."""
        return sum(graph.version for graph in self.all_graphs())

    def all_graphs(self) -> Iterator[Graph]:
        """Every graph and every region below it, outer before inner."""
        pending = list(reversed(self.graphs.values()))
        while pending:
            graph = pending.pop()
            yield graph
            inner: list[Graph] = []
            node: Node | None = graph.first
            while node is not None:  # faster than `nodes()`, which allows for edits on the way
                if node.regions:
                    inner += node.regions
                node = node.next
            pending.extend(reversed(inner))

    def all_nodes(self, *names: str) -> Iterator[Node]:
        for graph in self.all_graphs():
            yield from graph.nodes(*names)

    # Building.

    def add_graph(self, name: str) -> Graph:
        if name in self.graphs:
            raise InvalidModel(f"module has two graphs called {name!r}")
        graph = self.graphs[name] = Graph(self, name)
        return graph

    def new_region(self, name: str = "") -> Graph:
        """An empty graph to become a node's region; it belongs to no name until the node is built."""
        return Graph(self, name)

    def add_signature(
        self, key: str, graph: Graph, inputs: Sequence[str | Slot], outputs: Sequence[str | Slot]
    ) -> Signature:
        """Name the inputs and outputs of `graph`. Raises InvalidModel when they don't fit."""

        def slots(items: Sequence[str | Slot]) -> list[Slot]:
            return [item if isinstance(item, Slot) else Slot(item) for item in items]

        signature = Signature(key, graph, slots(inputs), slots(outputs))
        signature.check()
        self.signatures[key] = signature
        return signature

    def constant(self, weight: Weight) -> Value:
        """The value that stands for `weight` in all graphs of this module."""
        value = self._constants.get(weight)
        if value is None:
            self.weights.add(weight)
            value = Value(weight.type, self, 0, weight.key)
            value.weight = weight
            self._constants[weight] = value
        return value

    def add_weight(self, key: str, tensor: Tensor | Any, role: str = "param", origin: str = "") -> Value:
        """Own a tensor (or array) under `key` and return its constant."""
        from .tensor import as_tensor

        return self.constant(Weight(key, as_tensor(tensor), role, origin=origin))

    def literal(self, array: Any, dtype: Any = None) -> Value:
        """An unnamed small constant. Equal literals share one weight, which is never a parameter."""
        from .tensor import as_tensor

        tensor = as_tensor(array, dtype)
        contents = tensor.numpy().tobytes() if _is_tiny(tensor) else tensor.digest()
        key = (tensor.dtype, tuple(tensor.shape), contents)
        value = self._literals.get(key)
        if value is None:
            value = self._literals[key] = self.constant(Weight("const", tensor))
        return value

    def defaults(self) -> dict[Weight, None]:
        """The weights that inputs stand for where they are not fed."""
        slots = (slot for signature in self.signatures.values() for slot in signature.inputs)
        return {slot.default: None for slot in slots if slot.default is not None}

    def used_weights(self) -> list[Weight]:
        """The weights that a node or a signature uses, in their order."""
        used = self.defaults()
        for weight, value in self._constants.items():
            if value.n_uses:
                used[weight] = None
        return [weight for weight in self.weights if weight in used]

    def constants(self) -> Iterator[Value]:
        """The constants in the order of their weights."""
        return (self._constants[w] for w in self.weights if w in self._constants)

    def drop_unused_weights(self) -> int:
        """Forget weights that neither a node nor a signature uses; returns how many went."""
        used = set(self.used_weights())
        unused = [w for w in self.weights if w not in used]
        for weight in unused:
            self.weights.remove(weight)
            self._constants.pop(weight, None)
        if unused:
            self._literals = {key: value for key, value in self._literals.items() if value.weight in self._constants}
            self.weights.reclaim_keys()
        return len(unused)

    def set_weight(self, weight: Weight, tensor: Tensor | Any) -> None:
        """Give `weight` new contents of the same type. Raises InvalidModel when dtype or shape differ."""
        from .tensor import as_tensor

        made = as_tensor(tensor)
        type_ = TensorType(made.dtype, tuple(made.shape))
        if type_ is not weight.type:
            raise InvalidModel(f"weight {weight.key!r} is {weight.type}, the new contents are {type_}")
        weight.tensor = made
        value = self._constants.get(weight)
        self._literals = {key: v for key, v in self._literals.items() if v is not value}
        if value is not None:
            value._elems = None
            for use in value.uses:
                use.node._changed()

    def load_weights(self, source: str | os.PathLike[str] | Mapping[str, Any]) -> dict[str, list[str]]:
        """Take new contents for params and buffers, by key or alias, all or nothing; operators stay as they are.

        `source`: a .safetensors file, a torch state dict (.pt, .pth, .bin; needs torch), or a mapping from names to
        arrays, torch tensors (`net.state_dict()`) or Tensors. Returns {"taken": keys, "missing": keys of params that the
        source lacks, "unexpected": names that fit no weight}. Raises InvalidModel when a dtype or shape differs.
        """
        from .loading import load_weights

        return load_weights(self, source)

    def clone(self) -> Module:
        """A copy that shares nothing but the tensors; see ir/clone.py."""
        from .clone import clone_module

        return clone_module(self)

    def __eq__(self, other: object) -> bool:
        """Structural: ops, attributes, types, weights by digest, signatures, facts; not hints, locations, metadata."""
        if not isinstance(other, Module):
            return NotImplemented
        from .equality import first_difference

        return first_difference(self, other) is None

    __hash__ = object.__hash__

    def __str__(self) -> str:
        from .printer import print_module

        return print_module(self)

    def __repr__(self) -> str:
        return f"<module {self.name!r}: {len(self.graphs)} graphs, {len(self.weights)} weights>"


def _is_tiny(tensor: Tensor) -> bool:
    """Its bytes are a key no longer than a digest."""
    return tensor.dtype.bits > 0 and tensor.size <= 2


@contextmanager
def bulk() -> Iterator[None]:
    """Pause the cycle collector while many nodes are made: linked nodes are all cycles and none is garbage yet.

    What was made counts as old afterwards, so that the next collection of young objects need not walk all of it."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            if not gc.get_freeze_count():  # else somebody wants objects to stay frozen
                gc.freeze()
                gc.unfreeze()
            gc.enable()


__all__ = ["Graph", "Known", "Listener", "Module", "Node", "Value", "bulk"]
