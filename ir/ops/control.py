"""Control flow: ops with regions. Regions are closed: what they need of the outside is an operand and a region input.

Constants may be used in any region. Results of branches know what both branches know.
"""

from __future__ import annotations

from typing import Any

from ..dims import Dim, Expr, dim_max
from ..errors import InvalidModel, TypeInferError
from ..opdef import PURE, OpDef, attr, ints, op, operand, optional, variadic
from ..types import BOOL, I64, OptionalType, TensorType, Type, join, refines
from .rules import agree
from .shapes import norm_axis

FLAG = frozenset({BOOL})
COUNT = frozenset({I64})


def _check_inputs(name: str, region: Any, values: tuple) -> None:
    """A region takes exactly these values."""
    if len(region.inputs) != len(values):
        raise TypeInferError(f"region {name} has {len(region.inputs)} inputs for {len(values)} values")
    for i, (inner, outer) in enumerate(zip(region.inputs, values, strict=True)):
        if outer is not None and not (refines(outer.type, inner.type) or refines(inner.type, outer.type)):
            raise TypeInferError(f"input {i} of region {name} is {inner.type}, the operand is {outer.type}")


def together(a: Type, b: Type) -> Type:
    """What is true of a value that comes from two places. Raises TypeInferError when it cannot."""
    try:
        made = join(a, b)
    except InvalidModel as error:
        raise TypeInferError(error.message) from None
    if isinstance(made, TensorType) and made.dtype is None and None not in (a.dtype, b.dtype):  # type: ignore[attr-defined]
        raise TypeInferError(f"one value cannot be {a} and {b}")
    return made


def _carried(first: Type, made: Type) -> Type:
    """The type of a carried value after the last iteration. An optional that the body fills is taken to be there, as ONNX
    does: without any iteration an absent one stays absent."""
    if isinstance(first, OptionalType) and not isinstance(made, OptionalType):
        first = first.elem
    return together(first, made)


def goes_on(body: Any) -> bool:
    """The condition that a loop's body yields is true, or the one that it was given: only the count ends the loop."""
    again = body.outputs[0]
    while again.node is not None and again.node.name == "identity":
        again = again.node.operands[0]
    return again is body.inputs[1] or again.ints() == (1,)


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
        return [together(a.type, b.type) for a, b in zip(then, other, strict=True)]


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
        kept = [_carried(v.type, y.type) for v, y in zip(values[:carried], body.outputs[1 : 1 + carried], strict=True)]
        count = self._iterations(trip, cond, body)
        return kept + [self._stacked(y.type, count) for y in body.outputs[1 + carried :]]

    @staticmethod
    def _iterations(trip: Any, cond: Any, body: Any) -> Dim:
        """The trip count, which may be symbolic, where nothing can end the loop earlier, else a fresh symbol."""
        limit = trip.elems[0] if trip is not None and trip.elems else None
        starts = cond is None or cond.ints() == (1,)
        return dim_max(limit, 0) if starts and goes_on(body) and limit is not None else Expr.fresh()

    @staticmethod
    def _stacked(type_: Type, count: Dim) -> Type:
        if not isinstance(type_, TensorType):
            raise TypeInferError(f"a per-iteration output of type {type_} cannot be stacked")
        return TensorType(type_.dtype, None if type_.shape is None else (count, *type_.shape))


@op
class Scan(OpDef):
    """Run region `body` once for each slice of the scanned values (ONNX Scan-9 and later).

    `values` are `carried` states, `num_scan_inputs` scanned tensors of the same length along their `scan_input_axes`, and
    captures. The body takes (states, one slice of each scanned tensor, captures) and yields (states, per-iteration outputs);
    results are the last states, then each per-iteration output stacked along a new axis, at `scan_output_axes`. A direction
    of 1 takes the slices, or puts the outputs, in reverse. No axes or directions given: all 0.
    """

    values = variadic()
    carried = attr(int)
    num_scan_inputs = attr(int)
    scan_input_axes = attr(ints, ())
    scan_input_directions = attr(ints, ())
    scan_output_axes = attr(ints, ())
    scan_output_directions = attr(ints, ())
    results = "ys"
    regions = ("body",)
    traits = PURE
    reads_elems = True

    def infer(self, values, *, carried, num_scan_inputs, regions, **attrs):
        split = carried + num_scan_inputs
        if len(regions) != 1 or carried < 0 or num_scan_inputs < 1 or split > len(values):
            raise TypeInferError(f"scan needs one region and at least {max(split, 1)} values, it has {len(values)}")
        (body,) = regions
        if len(body.outputs) < carried:
            raise TypeInferError(f"the body has {len(body.outputs)} outputs for {carried} states")
        stacked = body.outputs[carried:]
        check_lists(attrs, num_scan_inputs, len(stacked))
        _check_inputs("body", body, (*values[:carried], *[None] * num_scan_inputs, *values[split:]))
        axes = attrs["scan_input_axes"] or (0,) * num_scan_inputs
        length = self._length(values[carried:split], axes, body.inputs[carried:split])
        kept = [_carried(v.type, y.type) for v, y in zip(values[:carried], body.outputs, strict=False)]
        places = attrs["scan_output_axes"] or (0,) * len(stacked)
        return kept + [self._put(y.type, length, axis) for y, axis in zip(stacked, places, strict=True)]

    @staticmethod
    def _length(scanned: tuple, axes: tuple[int, ...], slices: tuple) -> Dim:
        """The length that all scanned values have. Raises TypeInferError when they cannot have the same, or when a slice is
        not what the body takes."""
        length: Dim | None = None
        for x, axis, inner in zip(scanned, axes, slices, strict=True):
            if not isinstance(x.type, TensorType):
                raise TypeInferError(f"a value of type {x.type} cannot be scanned")
            if x.shape is None:
                continue
            axis = norm_axis(axis, len(x.shape))
            made = x.type.with_shape((*x.shape[:axis], *x.shape[axis + 1 :]))
            if not (refines(made, inner.type) or refines(inner.type, made)):
                raise TypeInferError(f"a slice of {x.type} along axis {axis} is not the body's {inner.type}")
            length = x.shape[axis] if length is None else agree(length, x.shape[axis], "lengths of scanned values")
        return Expr.fresh() if length is None else length

    @staticmethod
    def _put(type_: Type, length: Dim, axis: int) -> Type:
        """A per-iteration output with the new axis."""
        if not isinstance(type_, TensorType):
            raise TypeInferError(f"a per-iteration output of type {type_} cannot be stacked")
        if type_.shape is None:
            return type_
        axis = norm_axis(axis, len(type_.shape) + 1, "scan_output_axes")
        return type_.with_shape((*type_.shape[:axis], length, *type_.shape[axis:]))


def check_lists(attrs: dict[str, Any], inputs: int, outputs: int) -> None:
    """The lists of a scan are empty or have an entry for each input or output. Raises TypeInferError."""
    for name, count in (("input", inputs), ("output", outputs)):
        axes, directions = attrs[f"scan_{name}_axes"], attrs[f"scan_{name}_directions"]
        if len(axes) not in (0, count) or len(directions) not in (0, count) or not set(directions) <= {0, 1}:
            raise TypeInferError(f"axes {axes} and directions {directions} for {count} {name}s of a scan")
