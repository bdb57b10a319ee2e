"""Control flow: ops with regions. Regions are closed: what they need of the outside is an operand and a region input.

Constants may be used in any region. Results of branches know what both branches know.
"""

from __future__ import annotations

from typing import Any

from ..dims import Dim, Expr
from ..errors import TypeInferError
from ..opdef import PURE, OpDef, attr, op, operand, optional, variadic
from ..types import BOOL, I64, TensorType, Type, join, refines

FLAG = frozenset({BOOL})
COUNT = frozenset({I64})


def _check_inputs(name: str, region: Any, values: tuple) -> None:
    """A region takes exactly these values."""
    if len(region.inputs) != len(values):
        raise TypeInferError(f"region {name} has {len(region.inputs)} inputs for {len(values)} values")
    for i, (inner, outer) in enumerate(zip(region.inputs, values, strict=True)):
        if outer is not None and not (refines(outer.type, inner.type) or refines(inner.type, outer.type)):
            raise TypeInferError(f"input {i} of region {name} is {inner.type}, the operand is {outer.type}")


@op(name="if")
class If(OpDef):
    """The outputs of region `then` if `cond` is true, else of `else`; both take the captures and agree in outputs."""

    cond = operand(FLAG)
    captures = variadic()
    results = "ys"
    regions = ("then", "else")
    traits = PURE
    reads_elems = True

    def infer(self, cond, captures, *, regions):
        if len(regions) != 2:
            raise TypeInferError("if needs the regions then and else")
        for name, region in zip(self.regions, regions, strict=True):
            _check_inputs(name, region, captures)
        then, other = (region.outputs for region in regions)
        if len(then) != len(other):
            raise TypeInferError(f"then has {len(then)} outputs, else has {len(other)}")
        return [join(a.type, b.type) for a, b in zip(then, other, strict=True)]


@op
class Loop(OpDef):
    """Run region `body` up to `trip` times (no limit when absent) while `cond` holds (absent: true).

    The first `carried` of `values` travel through the iterations, the others are captures that stay. The body takes
    (i64 iteration, bool condition, carried, captures) and yields (bool condition, carried, per-iteration outputs);
    results are the last carried values, then each per-iteration output stacked along a new first axis (ONNX Loop).
    """

    trip = optional(COUNT)
    cond = optional(FLAG)
    values = variadic()
    carried = attr(int)
    results = "ys"
    regions = ("body",)
    traits = PURE
    reads_elems = True

    def infer(self, trip, cond, values, *, carried, regions):
        if len(regions) != 1 or not 0 <= carried <= len(values):
            raise TypeInferError(f"loop needs one region and at least {carried} values, it has {len(values)}")
        body = regions[0]
        _check_inputs("body", body, (None, None, *values))
        if len(body.outputs) < 1 + carried:
            raise TypeInferError(
                f"the body has {len(body.outputs)} outputs for a condition and {carried} carried values"
            )
        kept = [join(v.type, y.type) for v, y in zip(values[:carried], body.outputs[1 : 1 + carried], strict=True)]
        count = self._iterations(trip, cond, body)
        return kept + [self._stacked(y.type, count) for y in body.outputs[1 + carried :]]

    @staticmethod
    def _iterations(trip: Any, cond: Any, body: Any) -> Dim:
        """The trip count where nothing can end the loop earlier, else a fresh symbol."""
        limit = trip.elems[0] if trip is not None and trip.elems else None
        starts = cond is None or cond.ints() == (1,)
        again = body.outputs[0]
        goes_on = again.ints() == (1,) or again is body.inputs[1]
        return max(limit, 0) if starts and goes_on and type(limit) is int else Expr.fresh()

    @staticmethod
    def _stacked(type_: Type, count: Dim) -> Type:
        if not isinstance(type_, TensorType):
            raise TypeInferError(f"a per-iteration output of type {type_} cannot be stacked")
        return TensorType(type_.dtype, None if type_.shape is None else (count, *type_.shape))
