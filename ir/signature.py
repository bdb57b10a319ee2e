"""Signatures: the interface names of a module. They live here and not on values, so no rewrite can lose them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .errors import InvalidModel
from .types import meet

if TYPE_CHECKING:
    from .graph import Graph
    from .weights import Weight


@dataclass(frozen=True)
class Slot:
    """One input or output as the user knows it.

    `path` is its place in a nested structure (("boxes", 0) = second level of a dict of lists; () = flat);
    `quant` is (scale, zero point) where the interface itself is quantised; `layout` is a wish such as "nhwc"; `default`
    is the weight that an input stands for where it is not fed.
    """

    name: str
    path: tuple[str | int, ...] = ()
    quant: tuple[float, int] | None = None
    layout: str | None = None
    default: Weight | None = None


@dataclass
class Signature:
    """An exported entry point: slot i of `inputs` is graph input i, slot i of `outputs` is operand i of `return`.

    `state` pairs an output with the input that takes it in the next call (KV caches, running statistics).
    """

    key: str
    graph: Graph
    inputs: list[Slot] = field(default_factory=list)
    outputs: list[Slot] = field(default_factory=list)
    state: list[tuple[int, int]] = field(default_factory=list)

    def input_names(self) -> list[str]:
        return [slot.name for slot in self.inputs]

    def output_names(self) -> list[str]:
        return [slot.name for slot in self.outputs]

    def check(self) -> None:
        """Slots fit the graph and names are unique. Raises InvalidModel."""
        for kind, slots, count in (
            ("input", self.inputs, len(self.graph.inputs)),
            ("output", self.outputs, len(self.graph.outputs)),
        ):
            if len(slots) != count:
                raise InvalidModel(f"signature {self.key!r} names {len(slots)} {kind}s, the graph has {count}")
            names = [slot.name for slot in slots]
            twice = {name for name in names if names.count(name) > 1} if len(set(names)) != len(names) else set()
            if twice:
                raise InvalidModel(f"signature {self.key!r} has two {kind}s called {sorted(twice)[0]!r}")
        for slot in self.outputs:
            if slot.default is not None:
                raise InvalidModel(f"output {slot.name!r} of signature {self.key!r} has a default")
        for slot, value in zip(self.inputs, self.graph.inputs, strict=True):
            if slot.default is not None and meet(slot.default.type, value.type) is None:
                raise InvalidModel(f"the default of input {slot.name!r} is {slot.default.type}, the input {value.type}")
