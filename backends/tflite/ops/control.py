"""TFLite's WHILE: two regions over the same values."""

from __future__ import annotations

from ....ir.errors import TypeInferError
from ....ir.opdef import PURE, OpDef, op, variadic
from ....ir.types import BOOL, join
from ....kernels.registry import kernel


@op(name="tfl.while")
class While(OpDef):
    """While region `cond` of the values is true, region `body` of the values gives the next ones."""

    values = variadic()
    results = "ys"
    regions = ("cond", "body")
    traits = PURE
    reads_elems = True

    def infer(self, values, *, regions):
        cond, body = regions
        if len(cond.inputs) != len(values) or len(body.inputs) != len(values) or len(body.outputs) != len(values):
            raise TypeInferError(f"the regions of while must take and give its {len(values)} values")
        if len(cond.outputs) != 1 or cond.outputs[0].dtype is not BOOL:
            raise TypeInferError("the condition of while must be one bool")
        return [join(v.type, y.type) for v, y in zip(values, body.outputs, strict=True)]


@kernel("tfl.while")
def _while(*values, regions):
    cond, body = regions
    while bool(cond(*values)[0].reshape(-1)[0]):
        values = tuple(body(*values))
    return values
