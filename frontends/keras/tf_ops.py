"""TensorFlow operations inside Keras 2 files: `TFOpLambda` and `SlicingOpLambda` layers, the common ones.

Their config names a TensorFlow function ("math.multiply"); it is a key in the table below, which maps it, with
TensorFlow's argument names, to the operations of `keras.ops` that the other files lower.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...ir.errors import clean
from ...ir.graph import Value
from .registry import OPERATIONS
from .scope import Scope

#: TensorFlow's arguments in order, by keras' names ("" = must be absent or None) -> function -> class of keras.ops
_BY_ARGUMENTS: dict[tuple[str, ...], dict[str, str]] = {
    ("x1", "x2"): {
        "math.add": "Add", "math.subtract": "Subtract", "math.multiply": "Multiply", "math.divide": "Divide",
        "__operators__.add": "Add", "__operators__.sub": "Subtract", "__operators__.mul": "Multiply",
        "__operators__.truediv": "Divide", "math.truediv": "Divide", "math.floordiv": "FloorDivide",
        "math.floormod": "Mod", "math.pow": "Power", "math.maximum": "Maximum", "math.minimum": "Minimum",
        "math.divide_no_nan": "DivideNoNan",
        "math.squared_difference": "SquaredDifference", "math.greater": "Greater", "math.greater_equal": "GreaterEqual",
        "math.less": "Less", "math.less_equal": "LessEqual", "math.equal": "Equal", "math.not_equal": "NotEqual",
        "math.logical_and": "LogicalAnd", "math.logical_or": "LogicalOr",
    },
    ("x",): {
        "math.logical_not": "LogicalNot", "math.abs": "Absolute", "math.negative": "Negative", "math.exp": "Exp",
        "math.log": "Log", "math.sqrt": "Sqrt", "math.rsqrt": "Rsqrt", "math.square": "Square", "math.sin": "Sin",
        "math.cos": "Cos", "math.tanh": "Tanh", "math.sigmoid": "Sigmoid", "math.erf": "Erf", "math.floor": "Floor",
        "math.ceil": "Ceil", "math.sign": "Sign", "math.reciprocal": "Reciprocal", "math.softplus": "Softplus",
        "math.log1p": "Log1p", "nn.relu": "Relu", "nn.relu6": "Relu6", "nn.sigmoid": "Sigmoid", "nn.tanh": "Tanh",
        "nn.elu": "Elu", "nn.selu": "Selu", "nn.softplus": "Softplus", "identity": "Copy",
        "stop_gradient": "StopGradient", "zeros_like": "ZerosLike", "ones_like": "OnesLike",
    },
    ("x", "axis", "keepdims"): {
        "math.reduce_sum": "Sum", "math.reduce_mean": "Mean", "math.reduce_max": "Max", "math.reduce_min": "Min",
        "math.reduce_prod": "Prod", "math.reduce_variance": "Var", "math.reduce_std": "Std",
        "math.reduce_logsumexp": "Logsumexp",
    },
    ("x", "axis"): {
        "nn.softmax": "Softmax", "nn.log_softmax": "LogSoftmax", "expand_dims": "ExpandDims", "squeeze": "Squeeze",
        "stack": "Stack", "reverse": "Flip", "math.argmax": "Argmax", "math.cumsum": "Cumsum",
    },
    ("x", ""): {"nn.silu": "Silu"},
    ("x", "approximate"): {"nn.gelu": "Gelu"},
    ("x", "negative_slope"): {"nn.leaky_relu": "LeakyRelu"},
    ("x", "newshape"): {"reshape": "Reshape"},
    ("x", "axes"): {"transpose": "Transpose"},
    ("xs", "axis"): {"concat": "Concatenate"},
    ("x", "num", "axis"): {"unstack": "Unstack"},
    ("x", "indices_or_sections", "axis"): {"split": "Split"},
    ("x", "repeats"): {"tile": "Tile"},
    ("x", "dtype"): {"cast": "Cast"},
    ("x", "x_min", "x_max"): {"clip_by_value": "Clip"},
    ("condition", "x1", "x2"): {"where": "Where"},
    ("x", "indices", "", "axis"): {"gather": "Take"},
    ("x1", "x2", "transpose_a", "transpose_b"): {"linalg.matmul": "MatmulFlags"},
    ("x", "pad_width", "mode", "constant_values"): {"pad": "Pad"},
    ("x", "block_size"): {"nn.depth_to_space": "DepthToSpace", "nn.space_to_depth": "SpaceToDepth"},
    ("x", "num_classes"): {"one_hot": "OneHot"},
    ("x", "key"): {"__operators__.getitem": "GetItem"},
}  # fmt: skip
_TABLE = {name: (kind, order) for order, rows in _BY_ARGUMENTS.items() for name, kind in rows.items()}

#: TensorFlow's names of arguments that keras.ops calls otherwise.
_RENAMED = {
    "y": "x2", "a": "x1", "b": "x2", "input_tensor": "x", "input": "x", "features": "x", "logits": "x", "tensor": "x",
    "values": "xs", "num_or_size_splits": "indices_or_sections", "multiples": "repeats", "shape": "newshape",
    "perm": "axes", "params": "x", "alpha": "negative_slope", "t": "x", "clip_value_min": "x_min", "value": "x",
    "clip_value_max": "x_max", "paddings": "pad_width", "depth": "num_classes", "slice_spec": "key",
    "keep_dims": "keepdims",
}  # fmt: skip
_IGNORED = (
    "name",
    "data_format",
    "validate_indices",
    "batch_dims",
    "exclusive",
    "reverse",
    "sparse",
    "adjoint_a",
    "adjoint_b",
)


def lower_tf_op(s: Scope, *args: Any, **kwargs: Any) -> Any:
    """Lower one TFOpLambda or SlicingOpLambda layer. Raises Unsupported for functions that are not in the table."""
    name = s.config.get("function")
    row = _TABLE.get(name.removeprefix("tf.")) if isinstance(name, str) else None
    if row is None:
        raise s.unsupported(
            f"the TensorFlow function {clean(name)!r} is not supported", "rebuild the model with Keras layers"
        )
    keras_name, order = row
    bound = _bound(s, order, args, kwargs)
    local = _LOCAL.get(keras_name)
    if local is not None:
        return local(s, **bound)
    return _retyped(s, keras_name)(**bound)


def _retyped(s: Scope, keras_name: str) -> Callable[..., Any]:
    """The handler of a keras.ops class, on a scope that bears the class's name (handlers of twins ask for it)."""
    from ...formats.keras_config import Layer

    entry = Layer(s.layer.name, keras_name, "keras.src.ops.numpy", {}, [])
    inner = Scope(s.lowering, entry, s.slots, s.path)
    return lambda **bound: OPERATIONS[keras_name](inner, **bound)


def _bound(s: Scope, order: tuple[str, ...], args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by keras' names. Anything that the row does not know must be absent, None or False."""
    bound: dict[str, Any] = {}
    if len(args) > len(order):
        raise s.invalid(f"{len(args)} arguments for {len(order)}")
    pairs = [*zip(order, args, strict=False)]
    for key, value in kwargs.items():
        name = key if key in order else "x1" if key == "x" and "x1" in order else _RENAMED.get(key, key)
        if name == "x" and "x1" in order:
            name = "x1"
        pairs.append((name if name in order else "", value) if key != "name" else ("", None))
        if name not in order and key in _IGNORED and value in (None, False, 0, "NHWC"):
            pairs.pop()
    for name, value in pairs:
        if name:
            bound[name] = value
        elif value not in (None, False):
            raise s.unsupported(f"an argument {clean(value)!r} of {clean(s.config.get('function'))}")
    return bound


def _matmul(s: Scope, x1: Any, x2: Any, transpose_a: bool = False, transpose_b: bool = False) -> Value:
    values = s.common(x1, x2)
    turned = [
        s.transpose(v, (*range(s.rank(v) - 2), s.rank(v) - 1, s.rank(v) - 2)) if flag else v
        for v, flag in zip(values, (transpose_a, transpose_b), strict=True)
    ]
    return s.b.matmul(*turned)


def _squared_difference(s: Scope, x1: Any, x2: Any) -> Value:
    difference = s.b.sub(*s.common(x1, x2))
    return s.b.mul(difference, difference)


def _gather(s: Scope, x: Any, indices: Any, axis: Any = None) -> Value:
    """TensorFlow gathers along axis 0 by default, where keras.ops flattens."""
    return _retyped(s, "Take")(x=x, indices=indices, axis=0 if axis is None else axis)


def _get_item(s: Scope, x: Any, key: Any) -> Value:
    return _retyped(s, "GetItem")(
        x=x, key=[_slice(item) for item in (key if isinstance(key, (list, tuple)) else [key])]
    )


def _slice(item: Any) -> Any:
    """SlicingOpLambda writes slices as {"start", "stop", "step"}."""
    if isinstance(item, dict) and set(item) <= {"start", "stop", "step"}:
        return slice(item.get("start"), item.get("stop"), item.get("step"))
    return item


def _pad(s: Scope, x: Any, pad_width: Any, mode: str = "CONSTANT", constant_values: Any = 0) -> Value:
    known = {"CONSTANT": "constant", "REFLECT": "reflect"}.get(str(mode).upper())
    if known is None:
        raise s.unsupported(f"padding of mode {mode!r}")
    return _retyped(s, "Pad")(x=x, pad_width=pad_width, mode=known, constant_values=constant_values)


def _split(s: Scope, x: Any, indices_or_sections: Any, axis: int = 0) -> Any:
    """TensorFlow gives sizes where keras.ops wants the places to cut at."""
    if isinstance(indices_or_sections, (list, tuple)):
        marks = [sum(indices_or_sections[: i + 1]) for i in range(len(indices_or_sections) - 1)]
        return _retyped(s, "Split")(x=x, indices_or_sections=marks, axis=axis)
    return _retyped(s, "Split")(x=x, indices_or_sections=indices_or_sections, axis=axis)


def _gelu(s: Scope, x: Any, approximate: bool = False) -> Value:
    return _retyped(s, "Gelu")(x=x, approximate=bool(approximate))


def _argmax(s: Scope, x: Any, axis: Any = None) -> Value:
    return s.b.arg_max(s.value(x), axis=0 if axis is None else s.axis(axis, s.rank(s.value(x))), keepdims=False)


_LOCAL: dict[str, Callable[..., Any]] = {
    "MatmulFlags": _matmul, "SquaredDifference": _squared_difference, "Take": _gather, "GetItem": _get_item,
    "Pad": _pad, "Split": _split, "Gelu": _gelu, "Argmax": _argmax,
    "Cumsum": lambda s, x, axis=0: _retyped(s, "Cumsum")(x=x, axis=axis or 0),
    "LeakyRelu": lambda s, x, negative_slope=0.2: s.b.leaky_relu(s.value(x), alpha=float(negative_slope)),
    "OneHot": lambda s, x, num_classes: _retyped(s, "OneHot")(x=x, num_classes=num_classes),
}  # fmt: skip
