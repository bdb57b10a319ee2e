"""Products, reductions, normalisations, orders, gathers and scatters. Must not import MindSpore."""

from __future__ import annotations

import numpy as np

from ...ir.builder import Builder
from ...ir.value import Value
from .registry import Call, handles


@handles("MatMul", 4)
def matmul(b: Builder, n: Call) -> Value:
    attrs = {"transpose_a": n.bool(2), "transpose_b": n.bool(3)}
    if not any(attrs.values()):
        return b.matmul(n.tensor(0), n.tensor(1))
    return b.call("ms.matmul", (n.tensor(0), n.tensor(1)), attrs).results[0]


handles("BatchMatMul", 4)(matmul)


@handles("BiasAdd", 3)
def bias_add(b: Builder, n: Call) -> Value:
    if n.int(2) != 0:
        raise n.wrong("only the layout NCHW is read")
    return b.call("ms.bias_add", (n.tensor(0), n.tensor(1))).results[0]


# ------------------------------------------------------------------------------------------------- reductions

_REDUCTIONS = {
    "ReduceMean": "reduce_mean",
    "ReduceMax": "reduce_max",
    "ReduceMin": "reduce_min",
    "ReduceProd": "reduce_prod",
    "ReduceAll": "reduce_all",
    "ReduceAny": "reduce_any",
}


def _reduce(b: Builder, n: Call) -> Value:
    op = _REDUCTIONS.get(n.primitive, "reduce_sum")
    axes = n.ints(1) or tuple(range(n.rank(n.tensor(0))))
    return b.call(op, (n.tensor(0), axes), {"keepdims": n.bool(2)}).results[0]


for _name in _REDUCTIONS:
    handles(_name, 3)(_reduce)


@handles("ReduceSum", 4)
def reduce_sum(b: Builder, n: Call) -> Value:
    if n.bool(3):
        raise n.wrong("skip_mode is not read")
    return _reduce(b, n)


def _arg(b: Builder, n: Call) -> Value:
    if n.int(2) != 35:
        raise n.wrong("only 64-bit indices are read")
    op = {"Argmax": "arg_max", "Argmin": "arg_min"}[n.primitive]
    return b.call(op, (n.tensor(0),), {"axis": n.int(1), "keepdims": False}).results[0]


handles("Argmax", 3)(_arg)
handles("Argmin", 3)(_arg)


def _cumulate(b: Builder, n: Call) -> Value:
    op = {"CumSum": "cumsum", "CumProd": "cumprod"}[n.primitive]
    axis = b.const(np.asarray(n.int(1), np.int64))
    return b.call(op, (n.tensor(0), axis), {"exclusive": n.bool(2), "reverse": n.bool(3)}).results[0]


handles("CumSum", 4)(_cumulate)
handles("CumProd", 4)(_cumulate)


@handles("Sort", 1)
def sort(b: Builder, n: Call) -> tuple[Value, ...]:
    x = n.tensor(0)
    if n.attr("axis", int) % max(n.rank(x), 1) != n.rank(x) - 1:
        raise n.wrong("only the last axis is read")
    return b.call("ms.sort", (x,), {"descending": n.attr("descending", bool)}).results


# ---------------------------------------------------------------------------------------------- normalisations


@handles("BatchNorm", 9)
def batch_norm(b: Builder, n: Call) -> tuple[Value, ...]:
    if n.bool(5) or n.int(8) != 0:
        raise n.wrong("only inference in the layout NCHW is read")
    return (b.batch_norm(*(n.tensor(i) for i in range(5)), epsilon=float(n.number(6))),)


@handles("LayerNorm", 6)
def layer_norm(b: Builder, n: Call) -> tuple[Value, ...]:
    if n.int(3) != n.int(4):
        raise n.wrong("normalised axes and those of the parameters differ")
    return (b.layer_norm(n.tensor(0), n.tensor(1), n.tensor(2), axis=n.int(3), epsilon=float(n.number(5))),)


@handles("GroupNorm", 5)
def group_norm(b: Builder, n: Call) -> tuple[Value, ...]:
    scale, bias = n.tensor(2), n.tensor(3)
    return (b.group_norm(n.tensor(0), scale, bias, num_groups=n.int(1), epsilon=float(n.number(4))),)


@handles("LRN", 1)
def lrn(b: Builder, n: Call) -> Value:
    size = 2 * n.attr("depth_radius", int) + 1
    numbers = {name: n.attr(name, float) for name in ("bias", "beta")}
    return b.lrn(n.tensor(0), size=size, alpha=n.attr("alpha", float) * size, **numbers)


# ------------------------------------------------------------------------------------------ gathers and scatters


@handles("Gather", 4)
def gather(b: Builder, n: Call) -> Value:
    if n.int(3) != 0:
        raise n.wrong("batch dims are not read")
    return b.gather(n.tensor(0), n.tensor(1), axis=n.int(2))


@handles("GatherD", 3)
def gather_elements(b: Builder, n: Call) -> Value:
    return b.gather_elements(n.tensor(0), n.tensor(2), axis=n.int(1))


_SCATTERS = {
    "TensorScatterUpdate": "none",
    "TensorScatterAdd": "add",
    "TensorScatterMul": "mul",
    "TensorScatterMax": "max",
    "TensorScatterMin": "min",
}


def _scatter(b: Builder, n: Call) -> Value:
    return b.scatter_nd(n.tensor(0), n.tensor(1), n.tensor(2), reduction=_SCATTERS[n.primitive])


for _name in _SCATTERS:
    handles(_name, 3)(_scatter)


@handles("TensorScatterElements", 5)
def scatter_elements(b: Builder, n: Call) -> Value:
    reduction = {0: "none", 1: "add"}.get(n.int(4))
    if reduction is None:
        raise n.wrong(f"reduction {n.int(4)} is not known")
    return b.scatter_elements(n.tensor(0), n.tensor(1), n.tensor(2), axis=n.int(3), reduction=reduction)


@handles("LSTM", 4)
def lstm(b: Builder, n: Call) -> tuple[Value, ...]:
    wanted = {"num_layers": 1, "has_bias": True, "bidirectional": False, "proj_size": 0}
    if any(n.attrs.get(name) != value for name, value in wanted.items()):
        raise n.wrong("only one forward layer with a bias is read")
    operands = [n.tensor(i) for i in range(4)]
    return b.call("ms.lstm", operands, {"hidden_size": n.attr("hidden_size", int)}).results
