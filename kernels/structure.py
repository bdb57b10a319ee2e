"""The kernel of calls: the region arrives as a function from arrays to a list of arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .control import Region
from .registry import kernel


@kernel("call")
def call(*xs: Any, domain: str, name: str, overload: str, regions: Sequence[Region]) -> tuple[Any, ...]:
    """The outputs of the function's body."""
    return tuple(regions[0](*xs))
