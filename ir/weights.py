"""Weights: the named tensors that a module owns. Constants in the graphs point at them; sharing is sharing the Weight."""

from __future__ import annotations

from collections.abc import Iterator

from .errors import InvalidModel
from .tensor import Tensor
from .types import TensorType

ROLES = ("param", "buffer", "const")


class Weight:
    """One stored tensor. `key` is the source's name (unique in its module), `role` is param (trained), buffer (running
    statistics) or const (everything else), `origin` says how it was derived from the source's weights ("" = as it was)."""

    __slots__ = ("aliases", "key", "origin", "role", "tensor", "wanted")

    def __init__(
        self, key: str, tensor: Tensor, role: str = "const", aliases: tuple[str, ...] = (), origin: str = ""
    ) -> None:
        if role not in ROLES:
            raise InvalidModel(f"weight {key!r} has role {role!r}, expected one of {', '.join(ROLES)}")
        self.key = key
        self.wanted = key
        self.tensor = tensor
        self.role = role
        self.aliases = aliases
        self.origin = origin

    @property
    def type(self) -> TensorType:
        return TensorType(self.tensor.dtype, tuple(self.tensor.shape))

    @property
    def nbytes(self) -> int:
        return self.tensor.nbytes

    def __repr__(self) -> str:
        return f"<weight {self.key!r} {self.type}>"


class Weights:
    """A module's weights by key, in insertion order. Keys stay unique: a clash gets a numbered suffix."""

    __slots__ = ("_by_key", "_counters")

    def __init__(self) -> None:
        self._by_key: dict[str, Weight] = {}
        self._counters: dict[str, int] = {}

    def add(self, weight: Weight) -> Weight:
        """Own `weight`; its key changes when the module already has a different weight of that name."""
        if self._by_key.get(weight.key) is not weight:
            weight.key = self.unique(weight.key)
            self._by_key[weight.key] = weight
        return weight

    def unique(self, wanted: str) -> str:
        """`wanted`, or `wanted_1`, `wanted_2` ... the first one that is free; amortised O(1)."""
        key, count = wanted, self._counters.get(wanted, 0)
        while key in self._by_key:
            count += 1
            key = f"{wanted}_{count}"
        self._counters[wanted] = count
        return key

    def reclaim_keys(self) -> None:
        """Give weights the keys that they asked for, where those have become free; order is kept."""
        if any(w.key != w.wanted for w in self._by_key.values()):
            taken = {w.key for w in self._by_key.values()}
            for weight in self._by_key.values():
                if weight.key != weight.wanted and weight.wanted not in taken:
                    taken.add(weight.wanted)
                    weight.key = weight.wanted
            self._by_key = {w.key: w for w in self._by_key.values()}

    def remove(self, weight: Weight) -> None:
        if self._by_key.get(weight.key) is weight:
            del self._by_key[weight.key]

    def get(self, key: str) -> Weight | None:
        return self._by_key.get(key)

    def __getitem__(self, key: str) -> Weight:
        return self._by_key[key]

    def __contains__(self, key: object) -> bool:
        return key in self._by_key

    def __iter__(self) -> Iterator[Weight]:
        return iter(self._by_key.values())

    def __len__(self) -> int:
        return len(self._by_key)
