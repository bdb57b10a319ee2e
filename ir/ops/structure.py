"""Ops of the graph itself: `return`, `call` for functions that the source defines, and `opaque` for operators of domains
that the IR does not know."""

from __future__ import annotations

from ..errors import TypeInferError
from ..opdef import PURE, TERMINATOR, Known, OpDef, Trait, attr, op, strs, variadic
from ..types import UNKNOWN, Type
from .control import _check_inputs


@op
class Return(OpDef):
    """End a graph; the operands are its outputs."""

    values = variadic()
    results = ()
    traits = PURE | TERMINATOR

    def infer(self, values):
        return []


@op
class Call(OpDef):
    """The outputs of region `body`, which takes the operands: a call of the function that the source knows as
    `domain::name`.

    The body is this call's own copy, specialised to its types, its attributes and the inputs that it gives; a writer for a
    format that has functions joins the bodies that are still equal. Pass `inline` and every other backend put the body in
    place of the call.
    """

    xs = variadic()
    domain = attr(str, "")
    name_ = attr(str)
    overload = attr(str, "")
    results = "ys"
    regions = ("body",)
    traits = PURE

    def infer(self, xs, *, domain, name, overload, regions):
        if len(regions) != 1:
            raise TypeInferError("call needs the region body")
        if any(x is None for x in xs):
            raise TypeInferError("an operand of call is missing: the body has no input for what is not given")
        _check_inputs("body", regions[0], xs)
        return [Known(v.type, None if v.is_const else v.elems) for v in regions[0].outputs]


@op
class Opaque(OpDef):
    """An operator of an unknown domain, carried through untouched: impure, a barrier for layout and batching.

    `types` are the declared result types, `has` says which operands are present and `gives` which results the source names
    (ONNX's empty names); empty: all. Attributes that are graphs are regions: `graphs` has the attribute's name for each of
    them, with `*` behind it where the attribute is a list; each region takes its graph's own inputs and then the last
    `captures` operands. `protos` holds attributes that the IR has no words for, as the source's bytes. All other attributes
    are the operator's own.
    """

    xs = variadic()
    domain = attr(str)
    op_type = attr(str)
    overload = attr(str, "")
    version = attr(int, 1)
    types = attr(object, ())
    graphs = attr(strs, ())
    captures = attr(int, 0)
    results = "ys"
    traits = Trait.NONE
    open_attrs = True

    def region_names(self, attrs):
        return ("graph",) * len(attrs["graphs"])

    def infer(self, xs, /, *, types, captures, **attrs):
        if not 0 <= captures <= len(xs):
            raise TypeInferError(f"opaque has {len(xs)} operands, fewer than its {captures} captures")
        return [t if isinstance(t, Type) else UNKNOWN for t in types]
