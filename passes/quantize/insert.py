"""Writes quantize and dequantize around the nodes of a plan, and integer constants in place of their weights and biases.

Given (conv and relu are in the plan):
    %1 = conv(%x, %w, %b)
    %2 = relu(%1)
Result:
    %x' = dequantize(quantize(%x, %s, %z), %s, %z)
    %1 = conv(%x', dequantize(%w.i8, %ws), dequantize(%b.i32, %bs))      bs = s * ws
    %2' = dequantize(quantize(relu(%1), %t, %y), %t, %y)

A value is quantised once, right behind its producer. Users outside the plan read what integers give where the producer is
inside, and the value as it was where it is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ...ir.builder import Builder
from ...ir.errors import AnyIRError
from ...ir.graph import Node, Value
from ...ir.loc import Loc
from ...ir.tensor import ArrayTensor
from ...ir.types import F32
from .params import (
    Grid,
    Params,
    affine,
    bias_integers,
    bias_params,
    raised_for_bias,
    spans,
    to_integers,
    weight_params,
)
from .plan import Layout, Plan
from .roles import Weighted, data_operands, weighted


class WeightStyle(NamedTuple):
    """How weights are laid on integers: the grid, one scale per output channel or one in all, blocks along the summed axis
    (0: none), and whether the clipping point is searched for."""

    grid: Grid
    per_channel: bool = True
    block: int = 0
    clip: bool = False


@dataclass
class Inserter:
    """Changes the plan's graph, once."""

    plan: Plan
    layout: Layout
    style: WeightStyle
    _read: dict[tuple[Value, str], Value] = field(default_factory=dict)
    _constants: dict[tuple, Value] = field(default_factory=dict)

    def run(self) -> None:
        """Insert everything. Constants come last: the scale of a bias needs the data's."""
        uses = {value: value.uses for value in self.plan.values}
        for value in self.plan.values:
            self._quantise(value, uses[value])
        for node in self.plan.nodes:
            role = self.plan.role(node)
            if role.kind == "product":
                self._product(node)
            else:
                self._operand_constants(node)

    # Values.

    def _quantise(self, value: Value, uses: Sequence[Any]) -> None:
        """The value's own grid, others that users want besides, and who reads which."""
        plan, own = self.plan, self.plan.values[value]
        graph = plan.graph
        before = value.node.next if value.node is not None else graph.first
        builder = Builder(graph, before=before, loc=origin_of(value.node or graph.first))
        main = self._pair(builder, value, value, self.layout.at(value, own))
        self._read[value, own] = main
        produced = value.node in plan.nodes
        for use in uses:
            taker = plan.nodes.get(use.node)
            if taker is None or use.index not in [i for i, _ in data_operands(use.node, plan.role(use.node))]:
                if produced:
                    use.node.set_operand(use.index, main)
                continue
            entry = self.layout.entry(use.node, use.index)
            if entry is not None:
                source = main if produced else value
                read = self._pair(builder, value, source, entry)
            else:
                read = self._on_grid(builder, value, main if produced else value, taker)
            use.node.set_operand(use.index, read)

    def _on_grid(self, builder: Builder, value: Value, source: Value, grid: str) -> Value:
        read = self._read.get((value, grid))
        if read is None:
            read = self._read[value, grid] = self._pair(builder, value, source, self.layout.at(value, grid))
        return read

    def _pair(self, b: Builder, value: Value, source: Value, params: Params) -> Value:
        """dequantize(quantize(source)), named after `value`."""
        scale, zero = b.const(params.scale), b.const(params.zero)
        stored = b.quantize(source, scale, zero, to=params.dtype)
        read = b.dequantize(stored, scale, zero, to=source.dtype)
        stored.hint = f"{value.hint}.q" if value.hint else ""
        read.hint = value.hint
        return read

    # Constants.

    def _product(self, node: Node) -> None:
        found = weighted(node)
        data_place = 1 - found.place if found is not None else 0
        data = _params_of(node.operands[data_place])
        if found is None:
            return
        weight = node.operands[found.place]
        bias_node, bias_place = self.plan.biases.get(node, (node, found.bias))
        bias = None if bias_place is None else bias_node.operands[bias_place]
        channels = weight.shape[found.channel] if found.channel is not None else 1  # type: ignore[union-attr, index]
        if node.name == "conv_transpose":
            channels *= node.attr("groups")  # type: ignore[operator]
        exact = bias is not None and bias.is_const and _is_vector(bias, channels, found) and _plain_gemm(node)
        params = self.weight_params(weight, found, data, bias if exact else None)  # type: ignore[arg-type]
        node.set_operand(found.place, self._integers(node, weight, params))  # type: ignore[arg-type]
        if exact:
            bias_node.set_operand(bias_place, self._bias(bias_node, bias, params, data, channels))  # type: ignore

    def weight_params(self, weight: Value, found: Weighted, data: Params, bias: Value | None) -> Params:
        """A weight's parameters; with a bias, such that it fits 32 bits beside this data."""
        array = weight.array()
        axes, block = grain(self.style, found)
        params = weight_params(array, self.style.grid, axes, block, self.style.clip)
        if bias is None or block is not None:
            return params
        empty = spans(array, axes) == 0
        empty = empty.reshape(params.scale.shape)
        return raised_for_bias(params, bias.array(), data, found.channel if axes else None, empty)

    def _integers(self, node: Node, weight: Value, params: Params) -> Value:
        """dequantize of the weight's integers, made once for all that share weight and parameters."""
        key = (weight, params.scale.tobytes(), params.scale.shape, params.dtype)
        stored = self._constants.get(key)
        if stored is None:
            stored = self._constants[key] = integer_weight(weight, params)
        b = Builder(self.plan.graph, before=node, loc=origin_of(node))
        scale = b.module.literal(params.scale)
        return b.dequantize(stored, scale, None, to=weight.dtype, block_size=params.block)

    def _bias(self, node: Node, bias: Value, weight: Params, data: Params, channels: int) -> Value:
        params = bias_params(weight, data, channels)
        if params.scale.ndim:
            params = params._replace(scale=params.scale.reshape(bias.array().shape))
        key = (bias, params.scale.tobytes(), params.scale.shape)
        stored = self._constants.get(key)
        b = Builder(self.plan.graph, before=node, loc=origin_of(node))
        if stored is None:
            source = bias.weight
            integers = ArrayTensor(bias_integers(bias.array(), params))
            stored = b.module.add_weight(source.wanted, integers, source.role, _origin(source, "i32"))  # type: ignore
            self._constants[key] = stored
        return b.dequantize(stored, b.module.literal(params.scale), None, to=bias.dtype)

    def _operand_constants(self, node: Node) -> None:
        """Constants beside data, on the node's grid: their own range, or the one that the op shares."""
        role = self.plan.role(node)
        absorbed = {place for owner, place in self.plan.biases.values() if owner is node}
        for place, value in data_operands(node, role):
            if value.is_const and place not in absorbed:
                grid = self.plan.nodes[node]
                array = value.array().astype(np.float64)
                if role.kind == "same":
                    params = self.layout.at(node.results[0], grid)
                else:
                    params = affine(float(array.min()), float(array.max()), self.layout.grids[grid])
                node.set_operand(place, self._constant(node, value, params))

    def _constant(self, node: Node, value: Value, params: Params) -> Value:
        key = (value, params.scale.tobytes(), params.zero.tobytes(), params.dtype)  # type: ignore[union-attr]
        stored = self._constants.get(key)
        b = Builder(self.plan.graph, before=node, loc=origin_of(node))
        if stored is None:
            stored = self._constants[key] = integer_weight(value, params)
        return b.dequantize(stored, b.const(params.scale), b.const(params.zero), to=value.dtype)


def origin_of(node: Node) -> Loc:
    """Where a node comes from, for those that quantisation puts beside it: without the notes that its source has on it."""
    loc = node.loc
    return Loc(loc.frontend, loc.scope, file=loc.file, line=loc.line, tag="quantize")


def grain(style: WeightStyle, found: Weighted) -> tuple[tuple[int, ...], tuple[int, int] | None]:
    """The axes that have scales of their own, and the blocks along the summed axis."""
    axes = () if found.channel is None or not (style.per_channel or style.block) else (found.channel,)
    return axes, (found.summed, style.block) if style.block else None


def integer_weight(weight: Value, params: Params) -> Value:
    """A constant with the integers of `weight`, under its key and role."""
    source = weight.weight
    module = weight.owner
    tensor = ArrayTensor(to_integers(weight.array(), params))
    made = module.add_weight(source.wanted, tensor, source.role, _origin(source, str(params.dtype)))  # type: ignore
    made.hint = weight.hint
    return made


def _origin(source: Any, what: str) -> str:
    return "; ".join(filter(None, (source.origin, f"{what} of {source.wanted}")))


def _params_of(read: Value | None) -> Params:
    """The parameters of the grid that an operand is read from."""
    node = read.node  # type: ignore[union-attr]
    stored, scale, zero = node.operands  # type: ignore[union-attr]
    info = np.iinfo(stored.dtype.numpy)  # type: ignore[union-attr]
    grid = Grid(stored.dtype, int(info.min), int(info.max), False)  # type: ignore[union-attr, arg-type]
    return Params(scale.array(), zero.array(), grid)  # type: ignore[union-attr]


def _is_vector(bias: Value, channels: Any, found: Weighted) -> bool:
    """One bias per output channel, along the last axis where it has several."""
    if found.channel is None or not bias.shape or bias.dtype is not F32:
        return False
    return bias.shape[-1] == channels and bias.type.numel == channels  # type: ignore[attr-defined]


def _plain_gemm(node: Node) -> bool:
    return node.name != "gemm" or (node.attr("alpha") == 1.0 and node.attr("beta") == 1.0)


def ranges_of(
    observers: Mapping[Value, Any], plan: Plan, grids: Mapping[str, Grid]
) -> dict[Value, tuple[float, float]]:
    """What observers found for the values of a plan, each for the grid that it is laid on."""
    found = {}
    for value, observer in observers.items():
        grid = grids[plan.values[value]]
        try:
            found[value] = observer.range(grid.low, grid.high, grid.symmetric)
        except AnyIRError as error:
            raise error.at(f"%{value.hint or value.index}") from None
    return found
