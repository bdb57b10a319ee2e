"""Rows of control flow: regions become subgraphs."""

from __future__ import annotations

from ....ir.value import Node
from ..table import Emitted, row


@row("if", "IF", "bool")
def _if(node: Node) -> Emitted:
    """The writer fills in the subgraph indices."""
    return Emitted(node.operands)


@row("tfl.while", "WHILE")
def _while(node: Node) -> Emitted:
    return Emitted(node.operands)
