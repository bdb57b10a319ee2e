"""Rules that turn core nodes which TFLite cannot write into nodes that it can; one file per op family.

A rule has the form of a decomposition (`passes/decompose/rules`): it builds in front of the node and returns a value
per result, or `Declined`; where it declines, the shared decompositions are next.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

from ....passes.decompose.rules import Rule

FAMILIES = (
    "elementwise",
    "activation",
    "conv",
    "pool",
    "matmul",
    "reduce",
    "shape",
    "index",
    "resize",
    "recurrent",
    "control",
)

LOWERINGS: dict[str, Rule] = {}


def lowers(*names: str) -> Callable[[Rule], Rule]:
    """Register the lowering of ops by name."""

    def register(rule: Rule) -> Rule:
        for name in names:
            LOWERINGS[name] = rule
        return rule

    return register


def lowerings() -> dict[str, Rule]:
    """The whole table."""
    for family in FAMILIES:
        importlib.import_module(f".{family}", __name__)
    return LOWERINGS
