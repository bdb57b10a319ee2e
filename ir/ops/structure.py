"""Ops of the graph itself: `return`, and `opaque` for operators of domains that the IR does not know."""

from __future__ import annotations

from ..opdef import PURE, TERMINATOR, OpDef, Trait, attr, op, variadic
from ..types import UNKNOWN, Type


@op
class Return(OpDef):
    """End a graph; the operands are its outputs."""

    values = variadic()
    results = ()
    traits = PURE | TERMINATOR

    def infer(self, values):
        return []


@op
class Opaque(OpDef):
    """An operator of an unknown domain, carried through untouched: impure, a barrier for layout and batching.

    `types` are the declared result types, `has` says which operands are present (ONNX's empty names). All other attributes
    are the operator's own.
    """

    xs = variadic()
    domain = attr(str)
    op_type = attr(str)
    version = attr(int, 1)
    types = attr(object, ())
    results = "ys"
    traits = Trait.NONE
    open_attrs = True

    def infer(self, xs, /, *, types, **attrs):
        return [t if isinstance(t, Type) else UNKNOWN for t in types]
