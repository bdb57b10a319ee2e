"""Calls in forms that later opsets gave up, each with a numpy formula of what its own schema says.

The backend suite has models of the newest forms only; these are the others: attributes that became operands, broadcasting
by `axis`, softmax over flattened axes, names of types, in-place hints, statistics of training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray
rng = np.random.default_rng(3)


class Form(NamedTuple):
    """One node at an opset; `formula` takes the operands and returns one array or a tuple of them."""

    op: str
    opset: int
    operands: tuple[Array | None, ...]
    formula: Callable[..., Any]
    attrs: dict[str, Any] = {}
    const: tuple[int, ...] = ()  # operands that are initializers

    def model(self) -> Any:
        """The ModelProto; operands are called x0, x1 ..., results y0, y1 ..."""
        from onnx import helper, numpy_helper

        names = ["" if a is None else f"x{i}" for i, a in enumerate(self.operands)]
        wanted = self.wanted()
        results = [f"y{i}" for i in range(len(wanted))]
        node = helper.make_node(self.op, names, results, **self.attrs)
        infos = [
            helper.make_tensor_value_info(f"x{i}", helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for i, a in enumerate(self.operands)
            if a is not None
        ]
        constants = [numpy_helper.from_array(self.operands[i], f"x{i}") for i in self.const]
        outputs = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for name, a in zip(results, wanted, strict=True)
        ]
        graph = helper.make_graph([node], "form", infos, outputs, constants)
        return helper.make_model(graph, ir_version=3, opset_imports=[helper.make_opsetid("", self.opset)])

    def feeds(self) -> dict[str, Array]:
        given = enumerate(self.operands)
        return {f"x{i}": a for i, a in given if a is not None and i not in self.const}

    def wanted(self) -> tuple[Array, ...]:
        """What the formula says, in the declared dtypes (formulas compute float32 in float64)."""
        made = self.formula(*self.operands)
        made = made if isinstance(made, tuple) else (made,)
        narrow = self.op != "Cast"
        return tuple(a.astype(np.float32) if narrow and a.dtype == np.float64 else np.asarray(a) for a in made)


def draw(*shape: int, low: float = -3.0, high: float = 3.0) -> Array:
    return rng.uniform(low, high, shape).astype(np.float32)


def _aligned(b: Array, rank: int, axis: int) -> Array:
    """`b` with its axes at `axis` of an array of `rank` axes."""
    return b.reshape(b.shape + (1,) * (rank - axis - b.ndim))


BINARY: dict[str, Callable[[Array, Array], Array]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Pow": np.power,
    "Less": np.less,
    "Greater": np.greater,
}
LOGIC: dict[str, Callable[[Array, Array], Array]] = {
    "And": np.logical_and,
    "Or": np.logical_or,
    "Xor": np.logical_xor,
    "Equal": np.equal,
}


def broadcasting() -> Iterator[Form]:
    """Below opset 7 the second operand lies inside the first one, at `axis` or at the end."""
    a = draw(2, 3, 4, 5, low=0.5)
    for name, function in BINARY.items():
        for opset in (1, 6):
            for b, axis in (
                (draw(3, 4, low=0.5), 1),
                (draw(2, low=0.5), 0),
                (draw(4, 5, low=0.5), None),
                (draw(1), None),
            ):
                b = np.abs(b) + np.float32(0.5)
                attrs = {"broadcast": 1} | ({} if axis is None else {"axis": axis})
                at = 4 - b.ndim if axis is None else axis
                yield Form(name, opset, (a, b), lambda a, b, f=function, at=at: f(a, _aligned(b, 4, at)), attrs)
            yield Form(name, opset, (a, np.flip(a, 0).copy()), function)
    bits, others = draw(2, 3, 4) > 0, draw(3) > 0
    for name, function in LOGIC.items():
        yield Form(name, 1, (bits, others), lambda a, b, f=function: f(a, b[:, None]), {"broadcast": 1, "axis": 1})
    x, w, c = draw(4, 3), draw(5, 4), draw(5)
    for opset in (1, 6):
        attrs = {"alpha": 0.5, "beta": 2.0, "transA": 1, "transB": 1, "broadcast": 1}
        yield Form("Gemm", opset, (x, w, c), lambda x, w, c: 0.5 * (x.T @ w.T) + 2 * c, attrs)


UNARY: dict[str, Callable[[Array], Array]] = {
    "Abs": np.abs,
    "Ceil": np.ceil,
    "Exp": np.exp,
    "Floor": np.floor,
    "Neg": np.negative,
    "Relu": lambda x: np.maximum(x, 0),
    "Tanh": np.tanh,
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "LeakyRelu": lambda x: np.where(x < 0, np.float32(0.01) * x, x),
    "Elu": lambda x: np.where(x < 0, np.expm1(x), x),
    "Selu": lambda x: np.where(x < 0, 1.6732 * np.expm1(x), x) * 1.0507,
    "HardSigmoid": lambda x: np.clip(0.2 * x + 0.5, 0, 1),
}


def in_place_hints() -> Iterator[Form]:
    """Opset 1 names operands that may be overwritten; it changes no number."""
    x = draw(2, 3, 4)
    hint = {"consumed_inputs": [0]}
    for name, function in UNARY.items():
        yield Form(name, 1, (x,), function, hint)
    for name, positive in (("Log", np.log), ("Sqrt", np.sqrt), ("Reciprocal", np.reciprocal)):
        yield Form(name, 1, (np.abs(x) + 1,), positive, hint)
    more = (x, draw(2, 3, 4), draw(2, 3, 4))
    for name, chain in (("Max", np.maximum), ("Min", np.minimum), ("Sum", np.add)):
        yield Form(name, 1, more, lambda a, b, c, f=chain: f(f(a, b), c), {"consumed_inputs": [0, 0, 0]})
    yield Form("Mean", 1, more, lambda *xs: np.mean(xs, axis=0), {"consumed_inputs": [0, 0, 0]})
    slope = draw(3)
    yield Form("PRelu", 1, (x, slope), lambda x, s: np.where(x < 0, x * s[:, None], x), {"consumed_inputs": [0, 0]})
    yield Form("PRelu", 6, (x, slope), lambda x, s: np.where(x < 0, x * s[:, None], x))
    yield Form("PRelu", 6, (x, draw(1)), lambda x, s: np.where(x < 0, x * s, x))
    y = draw(2, 3, 4, 5)
    yield Form(
        "InstanceNormalization",
        1,
        (y, draw(3), draw(3)),
        _instance_norm,
        {"consumed_inputs": [0, 0, 0], "epsilon": 0.01},
    )


def _instance_norm(x: Array, scale: Array, bias: Array) -> Array:
    wide = x.astype(np.float64)
    centred = wide - wide.mean((2, 3), keepdims=True)
    return centred / np.sqrt(wide.var((2, 3), keepdims=True) + 0.01) * scale[:, None, None] + bias[:, None, None]


def _softmax(x: Array) -> Array:
    e = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


ROWS: dict[str, Callable[[Array], Array]] = {
    "Softmax": _softmax,
    "LogSoftmax": lambda x: np.log(_softmax(x)),
    "Hardmax": lambda x: np.eye(x.shape[-1])[x.argmax(-1)],
}


def flattened() -> Iterator[Form]:
    """Below opset 13 the axes from `axis` (1) on are one row."""
    x = draw(2, 3, 4)
    for name, function in ROWS.items():
        for opset, axis in ((1, None), (1, 0), (1, 2), (11, 1), (11, -1), (11, -2), (12, 0)):
            attrs = {} if axis is None else {"axis": axis}
            rows = int(np.prod(x.shape[: (1 if axis is None else axis % 3)]))
            yield Form(name, opset, (x,), lambda x, f=function, r=rows: f(x.reshape(r, -1)).reshape(x.shape), attrs)


def attributes_for_operands() -> Iterator[Form]:
    """What became operands: bounds, pads, axes, sizes, counts, targets."""
    x = draw(3, 4, 5)
    for opset in (1, 6):
        hint = {"consumed_inputs": [0]} if opset == 1 else {}
        yield Form("Clip", opset, (x,), lambda x: np.clip(x, -1, 2), {"min": -1.0, "max": 2.0} | hint)
        yield Form("Clip", opset, (x,), lambda x: np.maximum(x, 0), {"min": 0.0} | hint)
        yield Form("Clip", opset, (x,), lambda x: x, hint)
    pairs = ((1, 0), (2, 1), (0, 3))
    flat = [1, 2, 0, 0, 1, 3]
    yield Form("Pad", 1, (x,), lambda x: np.pad(x, pairs), {"paddings": flat})
    yield Form("Pad", 1, (x,), lambda x: np.pad(x, pairs, mode="edge"), {"paddings": flat, "mode": "edge"})
    yield Form("Pad", 2, (x,), lambda x: np.pad(x, pairs, constant_values=1.5), {"pads": flat, "value": 1.5})
    yield Form("Pad", 2, (x,), lambda x: np.pad(x, pairs, mode="reflect"), {"pads": flat, "mode": "reflect"})
    yield Form(
        "Pad", 2, (x,), lambda x: np.pad(x[1:, :, :-2], ((0, 0), (1, 0), (0, 0))), {"pads": [-1, 1, 0, 0, 0, -2]}
    )
    yield Form("Slice", 1, (x,), lambda x: x[1:3, :, -3:], {"starts": [1, -3], "ends": [3, 1000], "axes": [0, 2]})
    yield Form("Slice", 1, (x,), lambda x: x[0:2, 1:-1], {"starts": [0, 1], "ends": [2, -1]})
    yield Form("Split", 1, (x,), lambda x: (x[:, :1], x[:, 1:]), {"axis": 1, "split": [1, 3]})
    yield Form("Split", 1, (x, np.array([2, 1], np.float32)), lambda x, s: (x[:2], x[2:]), {"axis": 0}, (1,))
    yield Form("Split", 2, (x,), lambda x: (x[:, :2], x[:, 2:]), {"axis": 1})
    yield Form("Split", 11, (x,), lambda x: (x[..., :4], x[..., 4:]), {"axis": -1, "split": [4, 1]})
    y = draw(1, 3, 1, 2, 1)
    for opset in (1, 11):
        yield Form("Squeeze", opset, (y,), lambda y: y[0, :, 0], {"axes": [0, 2]})
        yield Form("Squeeze", opset, (y,), lambda y: y[0, :, 0, :, 0])
        yield Form("Unsqueeze", opset, (x,), lambda x: x[None, :, :, None], {"axes": [0, 3]})
    yield Form("Unsqueeze", 11, (x,), lambda x: x[..., None, :, None], {"axes": [-3, -1]})
    yield Form("Reshape", 1, (x,), lambda x: x.reshape(3, 2, 10), {"shape": [0, 2, -1], "consumed_inputs": [0]})
    tiles, axis = np.array([3], np.float32), np.array([1], np.float32)
    yield Form("Tile", 1, (x, tiles, axis), lambda x, t, a: np.concatenate([x] * 3, axis=1), {}, (1, 2))
    for opset, attrs, k in ((1, {"k": 2}, ()), (10, {}, (np.array([2], np.int64),))):
        for along in (-1, 1):
            yield Form(
                "TopK", opset, (x, *k), lambda x, *_, a=along: _top(x, 2, a), attrs | {"axis": along}, (1,) * len(k)
            )
    yield Form("DepthToSpace", 1, (draw(2, 8, 2, 3),), _depth_to_space, {"blocksize": 2})
    yield from casts()


def _top(x: Array, k: int, axis: int) -> tuple[Array, Array]:
    at = np.argsort(-x, axis=axis, kind="stable").take(range(k), axis=axis)
    return np.take_along_axis(x, at, axis), at


def _depth_to_space(x: Array) -> Array:
    n, c, h, w = x.shape
    return x.reshape(n, 2, 2, c // 4, h, w).transpose(0, 3, 4, 1, 5, 2).reshape(n, c // 4, 2 * h, 2 * w)


def casts() -> Iterator[Form]:
    """Opset 1 names the type that it casts to."""
    x = draw(3, 4, low=0, high=9)
    names = ("FLOAT", "UINT8", "INT8", "UINT16", "INT16", "INT32", "INT64", "FLOAT16", "DOUBLE", "UINT32", "UINT64")
    for name in names:
        dtype = np.dtype({"FLOAT": "float32", "DOUBLE": "float64"}.get(name, name.lower()))
        yield Form("Cast", 1, (x,), lambda x, d=dtype: x.astype(d), {"to": name})
    yield Form("Cast", 1, (np.round(x) % 2,), lambda x: x != 0, {"to": "BOOL"})


REDUCE: dict[str, Callable[..., Array]] = {
    "ReduceSum": np.sum,
    "ReduceMean": np.mean,
    "ReduceMax": np.max,
    "ReduceMin": np.min,
    "ReduceProd": np.prod,
    "ReduceL1": lambda x, **k: np.abs(x).sum(**k),
    "ReduceL2": lambda x, **k: np.sqrt((x * x).sum(**k)),
    "ReduceLogSum": lambda x, **k: np.log(x.sum(**k)),
    "ReduceLogSumExp": lambda x, **k: np.log(np.exp(x).sum(**k)),
    "ReduceSumSquare": lambda x, **k: (x * x).sum(**k),
}


def reductions() -> Iterator[Form]:
    """Axes were an attribute until opset 18, of ReduceSum until 13; negative ones came with opset 11."""
    x = draw(2, 3, 4, low=0.5)
    for name, function in REDUCE.items():
        opsets = (1, 11) if name == "ReduceSum" else (1, 11, 12, 13)
        for opset in opsets:
            for axes, keep in (([1], 1), ([0, 2], 0), (None, 1), ([-1], 1) if opset >= 11 else ([2], 1)):
                along = None if axes is None else tuple(axes)
                attrs: dict[str, Any] = {"keepdims": keep} | ({} if axes is None else {"axes": axes})
                how = {"axis": along, "keepdims": bool(keep)}
                yield Form(name, opset, (x,), lambda x, f=function, how=how: f(x.astype(np.float64), **how), attrs)


def resizing() -> Iterator[Form]:
    """Upsample and Resize-10 know one rule of coordinates: y / scale, rounded down for nearest."""
    x = draw(1, 2, 3, 4)
    scales = np.array([1, 1, 2, 1.5], np.float32)
    forms: tuple[tuple[str, int, tuple, dict[str, Any], tuple[int, ...]], ...] = (
        ("Upsample", 1, (x,), {"height_scale": 2.0, "width_scale": 1.5}, ()),
        ("Upsample", 7, (x,), {"scales": scales.tolist()}, ()),
        ("Upsample", 9, (x, scales), {}, (1,)),
        ("Resize", 10, (x, scales), {}, (1,)),
    )
    for op, opset, operands, attrs, const in forms:
        yield Form(
            op, opset, operands, lambda x, *_: _asymmetric(x, (6, 6), "nearest"), attrs | {"mode": "nearest"}, const
        )
        mode = "bilinear" if opset == 1 else "linear"
        yield Form(op, opset, operands, lambda x, *_: _asymmetric(x, (6, 6), "linear"), attrs | {"mode": mode}, const)
    none = np.zeros(0, np.float32)
    for rounding, function in (
        ("floor", np.floor),
        ("round_prefer_floor", lambda v: np.ceil(v - 0.5)),
        ("ceil", np.ceil),
    ):
        attrs = {"coordinate_transformation_mode": "tf_half_pixel_for_nn", "nearest_mode": rounding}
        yield Form("Resize", 11, (x, none, scales), lambda x, r, s, f=function: _half_pixel_for_nn(x, f), attrs, (1, 2))


def _asymmetric(x: Array, sizes: tuple[int, int], mode: str) -> Array:
    for axis, size in zip((2, 3), sizes, strict=True):
        have = x.shape[axis]
        at = np.arange(size) * have / size
        low = np.floor(at).astype(int)
        near = x.take(low, axis)
        if mode == "nearest":
            x = near
            continue
        share = (at - low).reshape([-1 if i == axis else 1 for i in range(4)])
        x = near * (1 - share) + x.take(np.minimum(low + 1, have - 1), axis) * share
    return x


def _half_pixel_for_nn(x: Array, rounding: Callable[[Array], Array]) -> Array:
    for axis, scale in ((2, 2.0), (3, 1.5)):
        have = x.shape[axis]
        at = rounding((np.arange(int(have * scale)) + 0.5) / scale)
        x = x.take(np.clip(at, 0, have - 1).astype(int), axis)
    return x


def _windows(x: Array, kernel: int, stride: int, pad: int, value: float) -> Array:
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (pad, pad), (pad, pad)), constant_values=value)
    return np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), (2, 3))[:, :, ::stride, ::stride]


def pooling() -> Iterator[Form]:
    """Opset 1: no ceil_mode, no count_include_pad, a real p."""
    x = draw(2, 3, 6, 5)
    attrs: dict[str, Any] = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    windows = {value: lambda x, v=value: _windows(x, 3, 2, 1, v) for value in (0.0, -np.inf, np.nan)}
    yield Form("AveragePool", 1, (x,), lambda x: np.nanmean(windows[np.nan](x), (4, 5)), attrs)
    yield Form("AveragePool", 7, (x,), lambda x: windows[0.0](x).mean((4, 5)), attrs | {"count_include_pad": 1})
    yield Form("MaxPool", 1, (x,), lambda x: windows[-np.inf](x).max((4, 5)), attrs)
    yield Form("MaxPool", 8, (x,), _max_with_places, attrs)
    for opset, p in ((1, 2.0), (1, 1.5), (1, 3.0), (2, 3), (2, 1), (11, 2), (18, 4), (22, 3)):
        yield Form(
            "LpPool",
            opset,
            (x,),
            lambda x, p=p: (np.abs(windows[0.0](x)) ** p).sum((4, 5)) ** (1 / p),
            attrs | {"p": p},
        )
        if opset in (1, 2, 22):
            yield Form("GlobalLpPool", opset, (x,), lambda x, p=p: _global_norm(x, p), {"p": p})
    yield Form("LpPool", 11, (x,), _same_upper_norm, {"kernel_shape": [2, 2], "auto_pad": "SAME_UPPER"})


def _global_norm(x: Array, p: float) -> Array:
    return (np.abs(x.astype(np.float64)) ** p).sum((2, 3), keepdims=True) ** (1 / p)


def _max_with_places(x: Array) -> tuple[Array, Array]:
    found = _windows(x, 3, 2, 1, -np.inf)
    numbers = np.arange(x.size, dtype=np.float64).reshape(x.shape)
    places = _windows(numbers, 3, 2, 1, -1)
    best = found.reshape(*found.shape[:4], 9).argmax(-1)
    at = np.take_along_axis(places.reshape(*found.shape[:4], 9), best[..., None], -1)[..., 0]
    return found.max((4, 5)), at.astype(np.int64)


def _same_upper_norm(x: Array) -> Array:
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (0, 1), (0, 1)))
    return np.sqrt((np.lib.stride_tricks.sliding_window_view(padded, (2, 2), (2, 3)) ** 2).sum((4, 5)))


def normalisation() -> Iterator[Form]:
    """Inference and training of batch normalisation below opset 14; dropout as the identity; MVN; group norm by group."""
    x, scale, bias, mean = draw(4, 3, 2, 5), draw(3), draw(3), draw(3)
    var = np.abs(draw(3)) + 1
    five = (x, scale, bias, mean, var)
    hint = {"consumed_inputs": [0, 0, 0, 1, 1], "is_test": 1}
    tests: dict[int, dict[str, Any]] = {1: hint, 6: {"is_test": 1}, 7: {}, 8: {}, 9: {}, 13: {}}
    for opset, attrs in tests.items():
        yield Form("BatchNormalization", opset, five, _batch_norm, attrs)
        training = {k: v for k, v in attrs.items() if k != "is_test"}
        yield Form("BatchNormalization", opset, five, _trained, training | {"momentum": 0.75})
    shape = x.shape[1:]
    per_element = (x, draw(*shape), draw(*shape), draw(*shape), np.abs(draw(*shape)) + 1)
    for opset in (1, 6, 7):
        attrs = tests[opset] | {"spatial": 0}
        yield Form("BatchNormalization", opset, per_element, _per_element, attrs)
        training = {k: v for k, v in attrs.items() if k != "is_test"}
        yield Form("BatchNormalization", opset, per_element, _trained_per_element, training)
    ratios: dict[int, dict[str, Any]] = {
        1: {"is_test": 1, "consumed_inputs": [0]},
        6: {"is_test": 1, "ratio": 0.3},
        7: {"ratio": 0.7},
        10: {},
    }
    for opset, attrs in ratios.items():
        yield Form("Dropout", opset, (x,), lambda x: x, attrs)
    yield Form("Dropout", 7, (x,), lambda x: (x, np.ones_like(x)))
    yield Form("Dropout", 10, (x,), lambda x: (x, np.ones(x.shape, bool)))
    for opset in (9, 13):
        yield Form("MeanVarianceNormalization", opset, (x,), lambda x: _standard(x, (0, 2, 3)))
        yield Form("MeanVarianceNormalization", opset, (x,), lambda x: _standard(x, (1, 3)), {"axes": [1, 3]})
    y = draw(2, 6, 4)
    yield Form("GroupNormalization", 18, (y, draw(3), draw(3)), _by_group, {"num_groups": 3, "epsilon": 0.01})


def _batch_norm(x: Array, scale: Array, bias: Array, mean: Array, var: Array) -> Array:
    shape = (-1, 1, 1)
    centred = x.astype(np.float64) - mean.reshape(shape)
    return centred / np.sqrt(var.reshape(shape) + 1e-5) * scale.reshape(shape) + bias.reshape(shape)


def _trained(x: Array, scale: Array, bias: Array, mean: Array, var: Array) -> tuple[Array, ...]:
    wide = x.astype(np.float64)
    own, spread = wide.mean((0, 2, 3)), wide.var((0, 2, 3))
    moved = (0.75 * old + 0.25 * new for old, new in ((mean, own), (var, spread)))
    return _batch_norm(x, scale, bias, own, spread), *moved, own, spread


def _per_element(x: Array, scale: Array, bias: Array, mean: Array, var: Array) -> Array:
    return (x.astype(np.float64) - mean) / np.sqrt(var + 1e-5) * scale + bias


def _trained_per_element(x: Array, scale: Array, bias: Array, mean: Array, var: Array) -> tuple[Array, ...]:
    own, spread = x.astype(np.float64).mean(0), x.astype(np.float64).var(0)
    moved = (0.9 * old + 0.1 * new for old, new in ((mean, own), (var, spread)))
    return _per_element(x, scale, bias, own, spread), *moved, own, spread


def _standard(x: Array, axes: tuple[int, ...]) -> Array:
    wide = x.astype(np.float64)
    return (wide - wide.mean(axes, keepdims=True)) / (wide.std(axes, keepdims=True) + 1e-9)


def _by_group(x: Array, scale: Array, bias: Array) -> Array:
    wide = x.astype(np.float64).reshape(2, 3, -1)
    made = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 0.01)
    return (made * scale[:, None] + bias[:, None]).reshape(x.shape)


def regions() -> Iterator[Form]:
    """Regions of interest: RoiAlign without the shift by half a pixel, and MaxRoiPool, which the suite lacks."""
    x = draw(2, 3, 9, 8)
    rois = np.array([[0, 0, 0, 7, 8], [1, 1.4, 2.6, 5.5, 7.2], [0, 4, 4, 4, 4], [1, 6, 6, 14, 13]], np.float32)
    for opset in (1, 22):
        attrs = {"pooled_shape": [3, 2], "spatial_scale": 1.0}
        yield Form("MaxRoiPool", opset, (x, rois), lambda x, r: _largest_in_bins(x, r, (3, 2), 1.0), attrs)
        halved = attrs | {"spatial_scale": 0.5, "pooled_shape": [2, 2]}
        yield Form("MaxRoiPool", opset, (x, rois), lambda x, r: _largest_in_bins(x, r, (2, 2), 0.5), halved)
    which = rois[:, 0].astype(np.int64)
    attrs = {"output_height": 2, "output_width": 2, "sampling_ratio": 2}
    yield Form("RoiAlign", 10, (x, rois[:, 1:].copy(), which), _aligned_regions, attrs)


def _largest_in_bins(x: Array, rois: Array, bins: tuple[int, int], scale: float) -> Array:
    """Fast R-CNN's pooling, pixel by pixel: a pixel belongs to each bin whose floor..ceil it lies in."""
    made = np.zeros((len(rois), x.shape[1], *bins), x.dtype)
    for n, (image, *corners) in enumerate(rois):
        left, top, right, bottom = (int(np.floor(c * scale + 0.5)) for c in corners)
        size = (max(bottom - top + 1, 1), max(right - left + 1, 1))
        for i, j in np.ndindex(*bins):
            rows = range(top + int(np.floor(i * size[0] / bins[0])), top + int(np.ceil((i + 1) * size[0] / bins[0])))
            columns = range(
                left + int(np.floor(j * size[1] / bins[1])), left + int(np.ceil((j + 1) * size[1] / bins[1]))
            )
            found = [
                x[int(image), :, r, c] for r in rows for c in columns if 0 <= r < x.shape[2] and 0 <= c < x.shape[3]
            ]
            if found:
                made[n, :, i, j] = np.max(found, axis=0)
    return made


def _aligned_regions(x: Array, rois: Array, which: Array) -> Array:
    """Four bilinear samples in each of four bins; a region is at least 1 wide."""
    made = np.zeros((len(rois), x.shape[1], 2, 2))
    for n, (left, top, right, bottom) in enumerate(rois.astype(np.float64)):
        height, width = max(bottom - top, 1.0) / 2, max(right - left, 1.0) / 2
        for i, j, a, b in np.ndindex(2, 2, 2, 2):
            point = (top + height * (i + (a + 0.5) / 2), left + width * (j + (b + 0.5) / 2))
            made[n, :, i, j] += _bilinear(x[which[n]], *point) / 4
    return made


def _bilinear(image: Array, y: float, x: float) -> Array:
    height, width = image.shape[1:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return np.zeros(image.shape[0])
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    rows, columns = (int(y), min(int(y) + 1, height - 1)), (int(x), min(int(x) + 1, width - 1))
    weights = np.outer((1 - (y - rows[0]), y - rows[0]), (1 - (x - columns[0]), x - columns[0]))
    return sum(weights[i, j] * image[:, rows[i], columns[j]].astype(np.float64) for i in range(2) for j in range(2))


def forms() -> list[Form]:
    """All of them; equal on each call."""
    global rng
    rng = np.random.default_rng(3)
    families = (
        broadcasting,
        in_place_hints,
        flattened,
        attributes_for_operands,
        reductions,
        resizing,
        pooling,
        normalisation,
        regions,
    )
    return [form for family in families for form in family()]
