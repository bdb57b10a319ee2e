"""The layers of a module that make or sum channels by constants, as one round of the pass sees them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from ...ir.graph import Module, Node
from .products import Product, Products, Table
from .recurrence import Units, units

NORMS = ("group_norm", "instance_norm", "layer_norm", "rms_norm")
PRODUCTS, RECURRENT = ("conv", "conv_transpose", "gemm", "matmul"), ("gru", "lstm", "rnn")


@dataclass(frozen=True)
class Layers:
    """By node: products, tables, and what is known of recurrent units; whether a norm has channels that it scales to zero."""

    products: dict[Node, Product]
    tables: dict[Node, Table]
    units: dict[Node, Units]
    has_zero_scales: bool = False

    @cached_property
    def is_odd(self) -> bool:
        """Whether anything is zero, constant or like another at first sight."""
        return (
            self.has_zero_scales
            or any(not p.scan.is_plain for p in self.products.values())
            or any(table.is_odd for table in self.tables.values())
            or any(u.odd.any() for u in self.units.values())
        )


def layers(module: Module, made: Products) -> Layers:
    """The layers of all graphs, in order."""
    products = {node: p for node in module.all_nodes(*PRODUCTS) if (p := made.of(node)) is not None}
    tables = {node: t for node in module.all_nodes("gather") if (t := made.table(node)) is not None}
    found = {node: u for node in module.all_nodes(*RECURRENT) if (u := units(node)) is not None}
    scales = [node.operands[1] for node in module.all_nodes(*NORMS) if len(node.operands) > 1]
    return Layers(products, tables, found, any(v is not None and v.is_const and not v.array().all() for v in scales))
