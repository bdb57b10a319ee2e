"""Target fusions on legal graphs: activations and biases into their producers, transposes into matrix products.

    %y = tfl.conv_2d(%x, %w, %b)           %z = tfl.conv_2d(%x, %w, %b) {fused_activation_function = "RELU6"}
    %z = relu6(%y)                    ->

Exact: the activation acts on the rounded result either way, and a bias is fused only into a product that has none.
"""

from __future__ import annotations

from ...ir.builder import Builder
from ...ir.graph import Graph
from ...ir.types import F32
from ...ir.value import Node, Value
from .qdq import is_weight

_ACTIVATIONS = {"relu": "RELU", "relu6": "RELU6", "tfl.relu_n1_to_1": "RELU_N1_TO_1"}
_ARITHMETIC = ("add", "sub", "mul", "div")
_BIASED = ("tfl.conv_2d", "tfl.depthwise_conv_2d", "tfl.conv_3d", "tfl.fully_connected", "tfl.transpose_conv")


def fuse(graph: Graph) -> None:
    """Fuse everything that can be, in one walk."""
    for node in list(graph.nodes()):
        if node.graph is not graph:
            continue
        if node.name == "add":
            _bias(node)
        elif node.name in _ACTIVATIONS:
            _activation(node)
        elif node.name == "tfl.batch_matmul":
            _adjoint(node)


def _sole_producer(value: Value) -> Node | None:
    node = value.node
    return node if node is not None and value.n_uses == 1 and len(node.results) == 1 else None


def _bias(node: Node) -> None:
    """add(product, vector over the last axis) where the product has no bias yet."""
    for index in (0, 1):
        product, vector = _sole_producer(node.operands[index]), node.operands[1 - index]
        if product is None or product.name not in _BIASED or product.attr("fused_activation_function") != "NONE":
            continue
        if not _is_vector(vector, product.result) or not _unbiased(product):
            continue
        b = Builder(node.graph, before=node, loc=node.loc)
        flat = vector
        if vector.rank != 1:
            constant = vector.is_const
            flat = b.const(vector.array().reshape(-1), key=vector.weight.key) if constant else b.reshape(vector, (-1,))
        made = b.call(product.name, (*product.operands[: _bias_place(product)], flat), dict(product.attrs))
        node.replace(made.result)
        product.erase()
        return


def _bias_place(product: Node) -> int:
    return product.op.positions["b"]


def _unbiased(product: Node) -> bool:
    bias = product.operand("b")
    return bias is None or (bias.is_const and not bias.array().any())


def _is_vector(value: Value, result: Value) -> bool:
    if not is_weight(value) or value.dtype is not F32 or not value.rank or value.rank > result.rank:
        return False
    return value.shape[-1] == result.shape[-1] and all(d == 1 for d in value.shape[:-1])


def _activation(node: Node) -> None:
    """Into the producer; through a reshape that nothing else reads, since it moves no value."""
    name, between = _ACTIVATIONS[node.name], None
    producer = _sole_producer(node.operands[0])
    if producer is not None and producer.name == "reshape":
        between, producer = producer, _sole_producer(producer.operands[0])
    if producer is None or node.operands[0].dtype is not F32:
        return
    b = Builder(node.graph, before=node, loc=node.loc)
    if producer.name in _ARITHMETIC:
        made = b.call(f"tfl.{producer.name}", producer.operands, {"fused_activation_function": name})
    elif producer.attrs.get("fused_activation_function") == "NONE":
        made = b.call(producer.name, producer.operands, {**producer.attrs, "fused_activation_function": name})
    else:
        return
    made.result.refine(producer.result.type)
    made.result.hint = producer.result.hint
    if between is None:
        node.replace(made.result)
    else:
        node.replace(b.reshape(made.result, between.operands[1], allowzero=between.attr("allowzero")))
        between.erase()
    producer.erase()


def _adjoint(node: Node) -> None:
    """A transpose of the last two axes of an operand becomes a flag."""
    for index, flag in enumerate(("adj_x", "adj_y")):
        turn = node.operands[index].node
        if turn is None or turn.name != "transpose" or not _swaps_last(turn.attr("perm")):
            continue
        node.set_operand(index, turn.operands[0])
        node.set_attr(flag, not node.attr(flag))
        if not turn.result.n_uses:
            turn.erase()


def _swaps_last(perm: tuple[int, ...]) -> bool:
    rank = len(perm)
    return rank >= 2 and perm == (*range(rank - 2), rank - 1, rank - 2)
