"""In-place operators as pure ones, where that is provably what they mean; no torch here.

Exported training graphs keep `add_`, `relu_` and views. An in-place call on a tensor is the pure call plus a renaming of
that tensor, if nothing else that may share its memory is looked at later and the memory is the graph's own. Through a view
made of slices and selections (`y[:, 0] = 5`) it is also a write of the result into the tensor that is viewed. What is not
provable is refused with the reason.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ...formats.exported import ExportedGraph, ExportedNode, refs

#: Packets whose result may share memory with their first tensor argument.
VIEWS = frozenset([
    "alias", "as_strided", "atleast_1d", "atleast_2d", "atleast_3d", "broadcast_tensors", "broadcast_to", "chunk",
    "contiguous", "detach", "detach_", "diagonal", "dropout", "alpha_dropout", "expand", "expand_as",
    "feature_dropout", "flatten", "imag", "lift_fresh", "mH", "mT", "meshgrid", "movedim", "moveaxis", "narrow",
    "numpy_T", "permute", "positive", "ravel", "real", "rename", "reshape", "reshape_as", "select", "slice",
    "split", "split_with_sizes", "squeeze", "swapaxes", "swapdims", "t", "tensor_split", "to", "transpose",
    "type_as", "unbind", "unflatten", "unfold", "unsafe_chunk", "unsafe_split", "unsafe_split_with_sizes",
    "unsqueeze", "view", "view_as", "_to_copy", "_reshape_alias", "_unsafe_view", "_conj", "conj",
])  # fmt: skip
#: Of these, the ones that return the very same tensor (for dropout: outside training).
SAME = frozenset(
    ["alias", "detach", "detach_", "dropout", "alpha_dropout", "feature_dropout", "positive", "lift_fresh"]
)
#: Views whose elements can be written back into what they view.
WRITABLE = frozenset(["slice", "select"])


def packet(target: str) -> str:
    """`add_` of `aten.add_.Tensor`."""
    parts = target.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "aten" else ""


def is_inplace(target: str) -> bool:
    name = packet(target)
    return name.endswith("_") and not name.endswith("__")


def pure_twin(target: str) -> str:
    """`aten.add.Tensor` of `aten.add_.Tensor`."""
    parts = target.split(".")
    return ".".join([parts[0], parts[1].rstrip("_"), *parts[2:]])


@dataclass(frozen=True)
class Write:
    """After a mutating call: the result, written through view `view` (a node's index; None for the first), is `names`."""

    view: int | None
    names: tuple[str, ...]


@dataclass
class Aliases:
    """`writes[i]`: which names mean what after node i, from the mutated tensor to the one that owns the memory.
    `refused[i]`: why node i cannot be lowered."""

    writes: dict[int, list[Write]] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)


def analyse(graph: ExportedGraph) -> Aliases:
    """Look at every in-place call of `graph`."""
    if not any(is_inplace(node.target) for node in graph.nodes):
        return Aliases()
    return _Analysis(graph).run()


class _Analysis:
    """One walk in execution order. Names in one list of `same` are one tensor; `members` share memory, by their root."""

    def __init__(self, graph: ExportedGraph) -> None:
        self.graph = graph
        self.last_use = _last_uses(graph)
        self.found = Aliases()
        self.foreign = {ref.name for item in graph.inputs for ref in refs(item)}
        self.root = {name: name for name in self.foreign}
        self.same = {name: [name] for name in self.foreign}
        self.members = {name: [name] for name in self.foreign}
        self.view_of: dict[str, tuple[int, str]] = {}  # a writable view: the node that made it, and of what

    def run(self) -> Aliases:
        for index, node in enumerate(self.graph.nodes):
            source = _first_tensor(node)
            inplace = is_inplace(node.target) and source is not None
            if inplace and packet(node.target) not in SAME:
                self._mutate(index, source)
            self._define(index, node, source, inplace)
        return self.found

    def _define(self, index: int, node: ExportedNode, source: str | None, inplace: bool) -> None:
        name = packet(node.target)
        shares = source in self.root and (inplace or name in VIEWS)
        identical = shares and (inplace or name in SAME)
        for output in _names(node):
            if node.target.startswith("higher_order."):
                self.foreign.add(output)  # may be what went in
            owner = self.root[source] if shares else output
            self.root[output] = owner
            self.members.setdefault(owner, []).append(output)
            group = self.same[source] if identical else []
            group.append(output)
            self.same[output] = group
            if identical and source in self.view_of:
                self.view_of[output] = self.view_of[source]
            elif shares and name in WRITABLE:
                self.view_of[output] = index, source

    def _mutate(self, index: int, mutated: str) -> None:
        owner = self.root[mutated]
        if owner in self.foreign:
            self.found.refused[index] = f"it changes {owner!r}, an input or weight, in place"
            return
        chain = self._chain(index, mutated)
        accounted = {name for write in chain for name in write.names}
        # Names without a later use never matter again: dropping them keeps long chains of in-place calls linear.
        alive = self.members[owner] = [name for name in self.members[owner] if self.last_use.get(name, -1) > index]
        other = next((name for name in alive if name not in accounted), None)
        if other is not None:
            why = "which may share its memory, is used later"
            self.found.refused[index] = f"it changes {mutated!r} in place while {other!r}, {why}"
            return
        self.found.writes[index] = chain

    def _chain(self, index: int, mutated: str) -> list[Write]:
        """The mutated tensor, then what it is a view of, up to the owner of the memory or a view that cannot be written."""
        chain, name, view = [], mutated, None
        while True:
            group = self.same[name]
            group[:] = [n for n in group if n == name or self.last_use.get(n, -1) > index]
            chain.append(Write(view, tuple(group)))
            if name not in self.view_of:
                return chain
            view, name = self.view_of[name]


def _last_uses(graph: ExportedGraph) -> dict[str, int]:
    last: dict[str, int] = {}
    for index, node in enumerate(graph.nodes):
        for ref in refs(tuple(node.args.values())):
            last[ref.name] = index
    for ref in refs(tuple(graph.outputs)):
        last[ref.name] = len(graph.nodes)
    return last


def _first_tensor(node: ExportedNode) -> str | None:
    return next((ref.name for ref in refs(tuple(node.args.values())) if ref.kind == "tensor"), None)


def _names(node: ExportedNode) -> Iterable[str]:
    for output in node.outputs:
        if isinstance(output, tuple):
            yield from output
        elif output is not None:
            yield output
