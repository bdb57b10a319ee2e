"""In-place operators as renamings, where that is provably what they mean; no torch here.

Exported training graphs keep `add_`, `relu_` and views. An in-place call on a tensor is the pure call plus a renaming of
that tensor, if nothing else that may share its memory is looked at later and the memory is the graph's own. What is not
provable is refused with the reason.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ...formats.exported import ExportedGraph, ExportedNode, refs

#: Packets whose result may share memory with their first tensor argument.
VIEWS = frozenset(
    [
        "alias",
        "as_strided",
        "atleast_1d",
        "atleast_2d",
        "atleast_3d",
        "broadcast_tensors",
        "broadcast_to",
        "chunk",
        "contiguous",
        "detach",
        "detach_",
        "diagonal",
        "dropout",
        "alpha_dropout",
        "expand",
        "expand_as",
        "feature_dropout",
        "flatten",
        "imag",
        "lift_fresh",
        "mH",
        "mT",
        "meshgrid",
        "movedim",
        "moveaxis",
        "narrow",
        "numpy_T",
        "permute",
        "positive",
        "ravel",
        "real",
        "rename",
        "reshape",
        "reshape_as",
        "select",
        "slice",
        "split",
        "split_with_sizes",
        "squeeze",
        "swapaxes",
        "swapdims",
        "t",
        "tensor_split",
        "to",
        "transpose",
        "type_as",
        "unbind",
        "unflatten",
        "unfold",
        "unsafe_chunk",
        "unsafe_split",
        "unsafe_split_with_sizes",
        "unsqueeze",
        "view",
        "view_as",
        "_to_copy",
        "_reshape_alias",
        "_unsafe_view",
        "_conj",
        "conj",
    ]
)
#: Of these, the ones that return the very same tensor (for dropout: outside training).
SAME = frozenset(
    ["alias", "detach", "detach_", "dropout", "alpha_dropout", "feature_dropout", "positive", "lift_fresh"]
)


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


@dataclass
class Aliases:
    """Who may share memory with whom, and which mutating calls are only renamings.

    `renames[i]`: the names that mean the mutated tensor after node i. `refused[i]`: why node i cannot be lowered.
    """

    renames: dict[int, list[str]] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)


def analyse(graph: ExportedGraph) -> Aliases:
    """Look at every in-place call of `graph`; linear in its size, but for graphs full of in-place calls on one tensor."""
    if not any(is_inplace(node.target) for node in graph.nodes):
        return Aliases()
    last_use = _last_uses(graph)
    root: dict[str, str] = {}
    same: dict[str, list[str]] = {}
    members: dict[str, list[str]] = {}
    foreign = {ref.name for item in graph.inputs for ref in refs(item)}
    for name in foreign:
        root[name], same[name], members[name] = name, [name], [name]
    found = Aliases()
    for index, node in enumerate(graph.nodes):
        source = _first_tensor(node)
        inplace = is_inplace(node.target) and source is not None
        if inplace and packet(node.target) not in SAME:
            _check(found, index, source, root, same, members, foreign, last_use)
        name = packet(node.target)
        shares = source is not None and (inplace or name in VIEWS)
        for output in _names(node):
            if node.target.startswith("higher_order."):
                foreign.add(output)  # may be what went in
            owner = root[source] if shares and source in root else output
            root[output] = owner
            members.setdefault(owner, []).append(output)
            group = same[source] if shares and (inplace or name in SAME) and source in same else []
            group.append(output)
            same[output] = group
    return found


def _check(
    found: Aliases, index: int, mutated: str, root: dict[str, str], same: dict[str, list[str]],
    members: dict[str, list[str]], foreign: set[str], last_use: dict[str, int],
) -> None:  # fmt: skip
    owner = root[mutated]
    if owner in foreign:
        found.refused[index] = f"it changes {owner!r}, an input or weight, in place"
        return
    equal = same[mutated]
    for other in members[owner]:
        if other not in equal and last_use.get(other, -1) > index:
            found.refused[index] = (
                f"it changes {mutated!r} in place while {other!r}, which may share its memory, is used later"
            )
            return
    found.renames[index] = list(equal)


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
