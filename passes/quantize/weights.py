"""Weights alone: integers behind dequantize (or half floats behind a cast) where the activations stay floats, or are
quantised as they come. Needs no data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...ir.builder import Builder
from ...ir.graph import Graph, Module, Node, Value
from ...ir.tensor import ArrayTensor
from ...ir.types import F16, F32
from ..select import layer_name
from .insert import WeightStyle, grain, integer_weight, origin_of
from .params import Params, weight_params
from .roles import FLOATS, ROLES, Weighted, weighted

#: Constants with fewer elements stay as they are: their scales and nodes would cost as much as they save.
SMALLEST = 256

#: Ops whose weights may be integers although the op computes on floats: operand -> (output channels, summed axis).
TABLES: dict[str, dict[int, Weighted]] = {
    "gather": {0: Weighted(0, 0, 1, None)},
    **{name: {1: Weighted(1, 1, 2, None), 2: Weighted(2, 1, 2, None)} for name in ("lstm", "gru", "rnn")},
}

Wanted = Callable[[Node], str]


def quantise_weights(module: Module, style: WeightStyle, wanted: Wanted, dynamic: bool = False) -> list[dict[str, Any]]:
    """Integer weights for every product and table, everywhere; `dynamic` puts dynamic_quantize and dequantize in front of
    the products' data. Returns rows for the report."""
    rows = []
    made: dict[Any, Value] = {}
    for graph in module.all_graphs():
        for node in graph.nodes():
            if wanted(node) == "float" or not node.results:
                continue
            found = _product_weight(node)
            if found is not None:
                rows.append(_store(graph, node, found, style, made))
                if dynamic:
                    _dynamic(graph, node, 1 - found.place)
    return rows + quantise_tables(module, style, wanted, made)


def quantise_tables(
    module: Module, style: WeightStyle, wanted: Wanted, made: dict[Any, Value] | None = None
) -> list[dict[str, Any]]:
    """Integer weights where calibration cannot reach: embeddings, recurrent layers, products of other graphs and of regions.
    Returns rows for the report."""
    rows = []
    made = {} if made is None else made
    main = module.signature.graph if module.signatures else None
    for graph in module.all_graphs():
        for node in graph.nodes():
            if wanted(node) == "float":
                continue
            found = [row for place, row in TABLES.get(node.name, {}).items() if _is_large(node.operands[place])]
            product = _product_weight(node) if graph is not main else None
            found += [] if product is None else [product]
            rows += [_store(graph, node, row, style, made) for row in found]
    return rows


def _is_large(value: Value | None) -> bool:
    return (
        value is not None
        and value.is_const
        and value.dtype in FLOATS
        and value.rank > 1  # type: ignore[operator]
        and value.type.numel >= SMALLEST  # type: ignore[attr-defined]
        and bool(np.isfinite(value.array().astype(np.float64)).all())
    )


def _product_weight(node: Node) -> Weighted | None:
    role = ROLES.get(node.name)
    found = weighted(node) if role is not None and role.kind == "product" else None
    return found if found is not None and _is_large(node.operands[found.place]) else None


def _store(graph: Graph, node: Node, found: Weighted, style: WeightStyle, made: dict[Any, Value]) -> dict[str, Any]:
    """Put dequantize(integers) in the weight's place."""
    weight = node.operands[found.place]
    assert weight is not None
    axes, block = _blocks(node, weight, found, style)
    key = (weight, axes, block)
    name, before = layer_name(node), weight.weight.nbytes  # type: ignore[union-attr]
    if key not in made:
        params = weight_params(weight.array(), style.grid, axes, block, style.clip)
        made[key] = integer_weight(weight, params)
        made[key, "params"] = params  # type: ignore[assignment]
    params: Params = made[key, "params"]  # type: ignore[no-redef, assignment]
    stored = made[key]
    b = Builder(graph, before=node, loc=origin_of(node))
    scale = graph.module.literal(params.scale)
    node.set_operand(found.place, b.dequantize(stored, scale, None, to=weight.dtype, block_size=params.block))
    after = stored.weight.nbytes + params.scale.nbytes  # type: ignore[union-attr]
    bits = f"{params.dtype.bits} weights"
    return {"layer": name, "op": node.name, "bits": bits, "bytes_before": before, "bytes_after": after}


def _blocks(
    node: Node, weight: Value, found: Weighted, style: WeightStyle
) -> tuple[tuple[int, ...], tuple[int, int] | None]:
    """Blocks run along one axis: a kernel's weights are summed over several, and get one scale per channel instead."""
    axes, block = grain(style, found)
    if block is not None and node.name in ("conv", "conv_transpose"):
        return axes, None
    return axes, block


def _dynamic(graph: Graph, node: Node, place: int) -> None:
    """The data of a product as u8 with the range that it has: dequantize(dynamic_quantize(x))."""
    value = node.operands[place]
    if value is None or value.dtype is not F32 or value.is_const:
        return
    users = [user for user in value.users if user.name == "dynamic_quantize"]
    if users:
        read = next(u for u in users[0].results[0].users if u.name == "dequantize").result
    else:
        before = value.node.next if value.node is not None else graph.first
        b = Builder(graph, before=before, loc=origin_of(node))
        stored, scale, zero = b.dynamic_quantize(value)
        read = b.dequantize(stored, scale, zero, to=F32)
    node.set_operand(place, read)


def to_half(module: Module, wanted: Wanted) -> list[dict[str, Any]]:
    """Float32 weights of SMALLEST elements or more as float16 behind a cast. A weight beyond float16's range stays."""
    rows = []
    made: dict[Value, Value] = {}
    for graph in module.all_graphs():
        for node in graph.nodes():
            if wanted(node) == "float" or node.name == "dequantize":
                continue
            for place, value in enumerate(node.operands):
                if value is None or value.dtype is not F32 or not value.is_const:
                    continue
                if value.type.numel < SMALLEST or (value.weight.role == "const" and value.rank < 2):  # type: ignore
                    continue
                rows.append(_halve(graph, node, place, value, made))
    return rows


def _halve(graph: Graph, node: Node, place: int, value: Value, made: dict[Value, Value]) -> dict[str, Any]:
    source = value.weight
    assert source is not None
    row: dict[str, Any] = {"layer": layer_name(node), "op": node.name, "bytes_before": source.nbytes}
    array = value.array()
    if value not in made:
        if not (np.abs(array) <= float(np.finfo(np.float16).max)).all():
            return {**row, "bits": "float", "why": "beyond the range of float16", "bytes_after": source.nbytes}
        half = ArrayTensor(array.astype(np.float16))
        made[value] = graph.module.add_weight(source.wanted, half, source.role, f"f16 of {source.wanted}")
    node.set_operand(place, Builder(graph, before=node, loc=origin_of(node)).cast(made[value], to=F32))
    assert made[value].dtype is F16
    return {**row, "bits": "16 weights", "bytes_after": source.nbytes // 2}
