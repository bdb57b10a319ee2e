"""Values and nodes: the two things a graph is made of. Operands change only through methods, so use lists stay exact."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from .errors import InternalError, VerifyError
from .loc import UNKNOWN_LOC, Loc
from .opdef import Attrs, Known, OpDef, Trait
from .types import DType, TensorType, Type, refines

if TYPE_CHECKING:
    import numpy as np

    from .dims import Dim
    from .graph import Graph, Module
    from .weights import Weight

#: Integer constants up to this many elements are known to inference element by element.
ELEMS_LIMIT = 1024


class Use(NamedTuple):
    """`node.operands[index]` is the value."""

    node: Node
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here


class Value:
    """An SSA value: a node's result, a graph input, or a constant (then `weight` is set and no node owns it).

    Uses are kept as nothing, one Use, or an insertion-ordered dict of them: most values have one.
    """

    __slots__ = ("_elems", "_uses", "hint", "index", "owner", "type", "weight")

    def __init__(self, type_: Type, owner: Node | Graph | Module | None, index: int = 0, hint: str = "") -> None:
        self.type = type_
        self.owner = owner
        self.index = index
        self.hint = hint
        self.weight: Weight | None = None
        self._uses: Use | dict[Use, None] | None = None
        self._elems: tuple[Dim | None, ...] | None = None

    # Types.

    @property
    def dtype(self) -> DType | None:
        return self.type.dtype if isinstance(self.type, TensorType) else None

    @property
    def shape(self) -> tuple[Dim, ...] | None:
        return self.type.shape if isinstance(self.type, TensorType) else None

    @property
    def rank(self) -> int | None:
        return self.type.rank if isinstance(self.type, TensorType) else None

    @property
    def node(self) -> Node | None:
        """The node that computes this value; None for graph inputs and constants."""
        return self.owner if isinstance(self.owner, Node) else None

    @property
    def graph(self) -> Graph | None:
        """The graph that defines this value; None for constants."""
        if isinstance(self.owner, Node):
            return self.owner.graph
        return None if self.weight is not None else self.owner  # type: ignore[return-value]

    def refine(self, type_: Type, elems: tuple[Dim | None, ...] | None = None) -> bool:
        """Know more about this value; True if anything changed. Raises VerifyError for a type that contradicts the old
        one or knows less."""
        changed = False
        if type_ is not self.type:
            if not refines(type_, self.type):
                raise VerifyError(f"%{self.hint or '?'}: type {type_} does not refine {self.type}")
            self.type = type_
            changed = True
        if elems is not None and elems != self._elems:
            self._elems = elems
            changed = True
        return changed

    # Constants and known elements.

    @property
    def is_const(self) -> bool:
        return self.weight is not None

    def array(self) -> np.ndarray:
        """The elements of a constant, in its storage dtype. Raises InternalError for a computed value."""
        if self.weight is None:
            raise InternalError(f"%{self.hint or '?'} is no constant")
        return self.weight.tensor.numpy()

    @property
    def elems(self) -> tuple[Dim | None, ...] | None:
        """Known integer elements in row-major order (int, symbolic, or None each); None when nothing is known."""
        if self._elems is None and self.weight is not None:
            dtype, count = self.dtype, self.type.numel  # type: ignore[attr-defined]
            if dtype is not None and (dtype.is_int or dtype.kind == "bool") and count <= ELEMS_LIMIT:
                self._elems = tuple(int(x) for x in self.array().reshape(-1))
        return self._elems

    def ints(self) -> tuple[int, ...] | None:
        """All elements as plain ints; None unless every one is a known number."""
        elems = self.elems
        return elems if elems is not None and all(type(e) is int for e in elems) else None  # type: ignore[return-value]

    def scalar(self) -> Any:
        """The only element of a one-element constant as a Python number; None for anything else."""
        if self.weight is None or self.type.numel != 1:  # type: ignore[attr-defined]
            return None
        return self.array().reshape(-1)[0].item()

    # Uses.

    @property
    def uses(self) -> tuple[Use, ...]:
        """A snapshot of the uses, oldest first; O(uses)."""
        uses = self._uses
        if uses is None:
            return ()
        return (uses,) if isinstance(uses, Use) else tuple(uses)

    @property
    def n_uses(self) -> int:
        uses = self._uses
        return 0 if uses is None else 1 if isinstance(uses, Use) else len(uses)

    @property
    def users(self) -> list[Node]:
        """The distinct nodes that use this value, oldest use first."""
        return list(dict.fromkeys(use.node for use in self.uses))

    def used_only_by(self, nodes: Container[Node]) -> bool:
        """All users are among `nodes`; ends with the first that is not."""
        uses = self._uses
        return uses is None or all(use.node in nodes for use in ((uses,) if isinstance(uses, Use) else uses))

    def first_users(self, count: int) -> list[Node]:
        """The nodes of the `count` oldest uses, one as often as it uses the value; O(count)."""
        uses = self._uses
        if uses is None:
            return []
        return [use.node for use in ((uses,) if isinstance(uses, Use) else islice(uses, count))]

    def single_user(self) -> Node | None:
        """The only node that uses this value (however often); None when there are none or several."""
        first = self.first_users(1)
        return first[0] if first and self.used_only_by(first) else None

    def _add_use(self, use: Use) -> None:
        uses = self._uses
        if uses is None:
            self._uses = use
        elif isinstance(uses, Use):
            self._uses = {uses: None, use: None}
        else:
            uses[use] = None

    def _remove_use(self, use: Use) -> None:
        uses = self._uses
        if isinstance(uses, dict):
            del uses[use]
            if not uses:
                self._uses = None
        elif uses == use:
            self._uses = None
        else:
            raise InternalError(f"use list of %{self.hint or '?'} lost a use")

    def replace_uses(self, new: Value, *, keep: Iterable[Node] = ()) -> None:
        """Make every user (but the nodes in `keep`) use `new` instead; O(uses)."""
        if new is self:
            return
        kept = set(keep)
        for use in self.uses:
            if use.node not in kept:
                use.node.set_operand(use.index, new)
        if not new.hint and new.weight is None:
            new.hint = self.hint

    def __repr__(self) -> str:
        return f"%{self.hint or '?'}: {self.type}"


class Node:
    """One operation in a graph. Made by a Builder; lives in one graph; erased when nothing uses it. A node that is in no
    graph yet (staged by a rewrite) is invisible: its operands do not list it as a use.

    `order` is a sparse label: within a graph, a.order < b.order exactly when a stands before b.
    """

    __slots__ = ("_operands", "attrs", "graph", "loc", "next", "op", "order", "prev", "regions", "results")

    def __init__(
        self,
        op: OpDef,
        operands: tuple[Value | None, ...],
        attrs: Attrs,
        regions: tuple[Graph, ...] = (),
        loc: Loc = UNKNOWN_LOC,
    ) -> None:
        self.op = op
        self.attrs = attrs
        self.regions = regions
        self.loc = loc
        self.graph: Graph | None = None
        self.prev: Node | None = None
        self.next: Node | None = None
        self.order = 0
        self.results: tuple[Value, ...] = ()
        self._operands: tuple[Value | None, ...] = operands
        for region in regions:
            region.parent = self

    def make_results(self, known: tuple[Known, ...]) -> None:
        """Create the results from inference; called once, by the builder."""
        results = []
        for index, (type_, elems) in enumerate(known):
            value = Value(type_, self, index)
            value._elems = elems
            results.append(value)
        self.results = tuple(results)

    # Reading.

    @property
    def name(self) -> str:
        """The op's name, such as "conv"."""
        return self.op.name

    @property
    def operands(self) -> tuple[Value | None, ...]:
        return self._operands

    @property
    def result(self) -> Value:
        """The only result. Raises InternalError when there are several."""
        if len(self.results) != 1:
            raise InternalError(f"{self.name} has {len(self.results)} results")
        return self.results[0]

    def operand(self, name: str) -> Any:
        """The operand declared as `name`: a Value, None when absent, a tuple for a variadic."""
        position = self.op.positions[name]
        if self.op.operands[position].kind == "variadic":
            return self._operands[position:]
        return self._operands[position] if position < len(self._operands) else None

    def attr(self, name: str) -> Any:
        return self.attrs[name]

    def has(self, trait: Trait) -> bool:
        return self.op.has(trait)

    def inputs(self) -> Iterator[Value]:
        """The operands that are present."""
        return (v for v in self._operands if v is not None)

    def before(self, other: Node) -> bool:
        """This node stands before `other` in their graph; O(1)."""
        return self.order < other.order

    # Editing. Each real change is counted by the graph and told to its listeners.

    def set_operand(self, index: int, value: Value | None) -> None:
        """Replace one operand; O(operands). For many at once use `set_operands`."""
        old = self._operands[index]
        if old is value:
            return
        if self.graph is not None:
            if old is not None:
                old._remove_use(Use(self, index))
            if value is not None:
                value._add_use(Use(self, index))
        self._operands = (*self._operands[:index], value, *self._operands[index + 1 :])
        self._changed()

    def set_operands(self, values: Iterable[Value | None]) -> None:
        """Replace all operands at once; O(operands)."""
        new = tuple(values)
        if new == self._operands:
            return
        if self.graph is None:
            self._operands = new
            return
        self._drop_uses()
        self._operands = new
        self._add_uses()
        self._changed()

    def _add_uses(self) -> None:
        for index, value in enumerate(self._operands):
            if value is not None:
                value._add_use(Use(self, index))

    def _drop_uses(self) -> None:
        for index, value in enumerate(self._operands):
            if value is not None:
                value._remove_use(Use(self, index))

    def set_attr(self, name: str, value: Any) -> None:
        """Change one attribute (validated). Raises TypeInferError for a wrong name or type."""
        attrs = self.op.make_attrs({**self.attrs, name: value})
        if attrs is not self.attrs:
            self.attrs = attrs
            self._changed()

    def _changed(self) -> None:
        if self.graph is not None:
            self.graph._touched(self)

    def replace(self, *values: Value) -> None:
        """Give all uses of the results to `values`, one each, and erase this node."""
        if len(values) != len(self.results):
            raise InternalError(f"{self.name} has {len(self.results)} results, {len(values)} replacements were given")
        for old, new in zip(self.results, values, strict=True):
            old.replace_uses(new)
        self.erase()

    def erase(self) -> None:
        """Take this node out for good. Raises InternalError when a result is still used."""
        for value in self.results:
            if value.n_uses:
                user = value.uses[0].node
                raise InternalError(f"cannot erase {self.name}: %{value.hint or '?'} is used by {user.name}")
        graph = self.graph
        if graph is not None:
            graph._unlink(self)
        self._operands = ()
        self.prev = None
        for value in self.results:
            value.owner = None  # no cycle is left: the node is freed at once, without waiting for the collector
        for region in self.regions:
            region.clear()
            if graph is not None:
                graph.version += region.version  # the module's count of edits, a sum over graphs, must not fall
        self.regions = ()

    def move_before(self, other: Node) -> None:
        """Take another place in the same graph, right before `other`. Definitions must stay before uses."""
        self.graph._move(self, before=other)  # type: ignore[union-attr]

    def move_after(self, other: Node) -> None:
        self.graph._move(self, before=other.next)  # type: ignore[union-attr, arg-type]

    def __repr__(self) -> str:
        from .printer import print_node

        return print_node(self)
