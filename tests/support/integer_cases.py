"""Generated cases of ONNX's and onnxruntime's integer operators: shapes, types, parameters and edge values drawn by a seed.

A case is one node with its arrays, and what its results are before they are rounded, from formulas in float64 or 64-bit
integers. Many cases make one model, so that thousands cost few sessions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from anyir.tests.support.onnx_nodes import MICROSOFT, element
from onnx import helper, numpy_helper

Array = np.ndarray
EPS = float(np.finfo(np.float32).eps)
EDGES = {np.uint8: (0, 1, 127, 128, 254, 255), np.int8: (-128, -127, -1, 0, 1, 126, 127)}


@dataclass
class Case:
    """One node: inputs in order (None: absent), which are initializers, attributes, the types of the results.

    `real` is the result in whole units before rounding, `spread` how far float32 arithmetic may be from it; no `real`: the
    result is exact. Float results may differ by `atol`."""

    op_type: str
    inputs: dict[str, Array | None]
    results: tuple[Any, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    const: frozenset[str] = frozenset()
    domain: str = ""
    real: Array | None = None
    spread: float = 0.0
    atol: Array | float = 0.0


Draw = Callable[[np.random.Generator], Case]
DRAWS: dict[str, Draw] = {}


def draws(*names: str) -> Callable[[Callable[..., Case]], Callable[..., Case]]:
    def register(function: Callable[..., Case]) -> Callable[..., Case]:
        for name in names:
            DRAWS[name] = (lambda rng, name=name: function(rng, name)) if len(names) > 1 else function
        return function

    return register


def cases(name: str, seed: int, count: int) -> Iterator[Case]:
    """`count` cases of one operator."""
    rng = np.random.default_rng([seed, *map(ord, name)])
    for _ in range(count):
        yield DRAWS[name](rng)


def model_of(batch: list[Case]) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """One model with a node for each case, and its inputs; case i's results are y<i>_<k>."""
    nodes, inputs, weights, outputs, feeds = [], [], [], [], {}
    for i, case in enumerate(batch):
        names = []
        for name, array in case.inputs.items():
            full = f"{name}{i}" if array is not None else ""
            names.append(full)
            if array is None:
                continue
            if name in case.const:
                weights.append(numpy_helper.from_array(array, full))
            else:
                inputs.append(helper.make_tensor_value_info(full, element(array), list(array.shape)))
                feeds[full] = array
        made = [f"y{i}_{k}" for k in range(len(case.results))]
        nodes.append(helper.make_node(case.op_type, names, made, domain=case.domain, **case.attributes))
        for name, kind in zip(made, case.results, strict=True):
            outputs.append(helper.make_tensor_value_info(name, element(np.zeros((), kind)), None))
    graph = helper.make_graph(nodes, "cases", inputs, outputs, weights)
    imports = [helper.make_opsetid("", 21), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10), feeds


# ------------------------------------------------------------------------------------------------------------- drawing


def one_of(rng: np.random.Generator, *choices: Any) -> Any:
    return choices[int(rng.integers(len(choices)))]


def shape_of(rng: np.random.Generator, rank: int, most: int = 6) -> tuple[int, ...]:
    return tuple(int(d) for d in rng.integers(1, most + 1, rank))


def stored(rng: np.random.Generator, shape: tuple[int, ...], kind: type, narrow: bool = False) -> Array:
    """Random integers, one of the edges now and then, sometimes nothing else. `narrow`: 7 bits, which no processor's
    multiply-add saturates."""
    info = np.iinfo(kind)
    low, high = (-64, 63) if narrow and info.min else (0, 127) if narrow else (info.min, info.max)
    made = rng.integers(low, high + 1, shape)
    edges = np.asarray([e for e in EDGES[kind] if low <= e <= high] or [low, high])
    made = np.where(rng.random(shape) < one_of(rng, 0.0, 0.1, 1.0), rng.choice(edges, shape), made)
    return np.asarray(made).astype(kind)


def zero_of(rng: np.random.Generator, kind: type) -> Array:
    info = np.iinfo(kind)
    return np.asarray(
        one_of(rng, info.min, info.max, (info.min + info.max + 1) // 2, rng.integers(info.min, info.max + 1)), kind
    )


def scale_of(rng: np.random.Generator, low: float = 1e-4, high: float = 1.0) -> Array:
    """Log-uniform, now and then a power of two, which makes real ties."""
    value = np.exp(rng.uniform(np.log(low), np.log(high)))
    return np.asarray(2.0 ** np.rint(np.log2(value)) if rng.random() < 0.3 else value, np.float32)


def fitting(rng: np.random.Generator, values: Array) -> Array:
    """A scale for results: most fit into 8 bits, some saturate."""
    top = float(np.abs(values).max(initial=0.0)) or 1.0
    scale = top / one_of(rng, 20.0, 120.0, 250.0, 1000.0)
    return np.asarray(2.0 ** np.rint(np.log2(scale)) if rng.random() < 0.3 else scale, np.float32)


def real(x: Array, scale: Array, zero: Array) -> Array:
    return (x.astype(np.float64) - zero.astype(np.float64)) * scale.astype(np.float64)


def rounded(case: Case, value: Array, scale: Array, zero: Array, steps: int = 12) -> Case:
    """The case with its result before rounding; `steps` roundings of float32 lie between."""
    exact = value / np.float64(scale)
    case.real = exact + float(zero)
    case.spread = steps * EPS * float(np.abs(exact).max(initial=0.0) + abs(float(zero)))
    return case


# ----------------------------------------------------------------------------------------------------------- elementwise


@draws("QLinearAdd", "QLinearMul")
def binary(rng: np.random.Generator, name: str) -> Case:
    kind = one_of(rng, np.uint8, np.int8)
    shape = shape_of(rng, int(rng.integers(1, 5)), 8)
    other = tuple(1 if rng.random() < 0.3 else d for d in shape)[int(rng.integers(0, len(shape))) :]
    a, b = (stored(rng, s, kind) for s in ((shape, other) if rng.random() < 0.5 else (other, shape)))
    (sa, sb), (za, zb, zy) = (scale_of(rng) for _ in range(2)), (zero_of(rng, kind) for _ in range(3))
    left, right = real(a, sa, za), real(b, sb, zb)
    value = left + right if name == "QLinearAdd" else left * right
    sy = fitting(rng, value)
    inputs = {"A": a, "sa": sa, "za": za, "B": b, "sb": sb, "zb": zb, "sy": sy, "zy": zy}
    case = Case(name, inputs, (kind,), const=parameters(inputs), domain=MICROSOFT)
    case = rounded(case, value, sy, zy)
    if name == "QLinearAdd":  # onnxruntime adds up the zero points' part first, however large it is
        parts = ((a, sa, za), (b, sb, zb))
        largest = sum(float(s) * (float(np.abs(x.astype(int)).max()) + abs(float(z))) for x, s, z in parts)
        case.spread = 12 * EPS * (largest / float(sy) + abs(float(zy)))
    return case


def parameters(inputs: dict[str, Any]) -> frozenset[str]:
    """Scales and zero points."""
    return frozenset(name for name in inputs if name[0] in "sz")


@draws("QLinearSigmoid", "QLinearLeakyRelu")
def unary(rng: np.random.Generator, name: str) -> Case:
    kind = one_of(rng, np.uint8, np.int8)
    x = stored(rng, shape_of(rng, int(rng.integers(1, 4)), 10), kind)
    sx, zx, zy = scale_of(rng, 1e-3, 0.3), zero_of(rng, kind), zero_of(rng, kind)
    data, attributes = real(x, sx, zx), {}
    if name == "QLinearSigmoid":
        value = 1 / (1 + np.exp(-data))
        sy = one_of(rng, np.asarray(1 / 256, np.float32), scale_of(rng, 1 / 1000, 1 / 20))
    else:
        alpha = float(np.float32(rng.uniform(0, 0.5)))
        attributes, value = {"alpha": alpha}, np.where(data < 0, alpha, 1) * data
        sy = fitting(rng, value)
    inputs = {"X": x, "sx": sx, "zx": zx, "sy": sy, "zy": zy}
    case = Case(name, inputs, (kind,), attributes, parameters(inputs), MICROSOFT)
    return rounded(case, value, sy, zy)


@draws("QLinearConcat")
def concat(rng: np.random.Generator) -> Case:
    kind, rank = one_of(rng, np.uint8, np.int8), int(rng.integers(1, 4))
    axis, shape = int(rng.integers(rank)), list(shape_of(rng, rank))
    parts, inputs = [], {}
    for i in range(int(rng.integers(1, 5))):
        shape[axis] = int(rng.integers(1, 6))
        x, scale, zero = stored(rng, tuple(shape), kind), scale_of(rng), zero_of(rng, kind)
        inputs |= {f"x{i}_": x, f"s{i}_": scale, f"z{i}_": zero}
        parts.append(real(x, scale, zero))
    value = np.concatenate(parts, axis)
    if rng.random() < 0.3:
        sy, zy = inputs["s0_"], inputs["z0_"]
    else:
        sy, zy = fitting(rng, value), zero_of(rng, kind)
    inputs = {"sy": sy, "zy": zy, **inputs}
    case = Case("QLinearConcat", inputs, (kind,), {"axis": axis}, parameters(inputs), MICROSOFT)
    return rounded(case, value, sy, zy)


# ----------------------------------------------------------------------------------------------------------------- pools


@draws("QLinearGlobalAveragePool", "QLinearAveragePool")
def pool(rng: np.random.Generator, name: str) -> Case:
    kind = one_of(rng, np.uint8, np.int8)
    x = stored(rng, (*shape_of(rng, 2, 4), *(int(d) for d in rng.integers(3, 9, 2))), kind)
    sx, zx, zy = scale_of(rng), zero_of(rng, kind), zero_of(rng, kind)
    data, attributes = real(x, sx, zx), {}
    if name == "QLinearGlobalAveragePool":
        value = data.mean(axis=(2, 3), keepdims=True)
    else:
        kernel, strides = (tuple(int(d) for d in rng.integers(1, 4, 2)) for _ in range(2))
        pads = tuple(int(rng.integers(k)) for k in kernel * 2)
        counted = int(rng.integers(2))
        attributes = {"kernel_shape": kernel, "strides": strides, "pads": pads, "count_include_pad": counted}
        value = averages(data, kernel, strides, pads, bool(counted))
    sy = fitting(rng, value)
    inputs = {"X": x, "sx": sx, "zx": zx, "sy": sy, "zy": zy}
    case = Case(name, inputs, (kind,), attributes, parameters(inputs), MICROSOFT)
    case = rounded(case, value, sy, zy, steps=x.shape[2] * x.shape[3])
    case.spread += 12 * EPS * float(np.abs(data).max() / sy)
    return case


def averages(x: Array, kernel: tuple, strides: tuple, pads: tuple, counted: bool) -> Array:
    """Windows' means, by windows over the padded data and over what counts."""
    frame = ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3]))
    view = np.lib.stride_tricks.sliding_window_view
    sums = view(np.pad(x, frame), kernel, axis=(2, 3))[:, :, :: strides[0], :: strides[1]].sum(axis=(4, 5))
    ones = np.pad(np.ones_like(x), frame, constant_values=float(counted))
    return sums / view(ones, kernel, axis=(2, 3))[:, :, :: strides[0], :: strides[1]].sum(axis=(4, 5))


# -------------------------------------------------------------------------------------------------------------- products


def pair_of(rng: np.random.Generator, saturates: bool) -> tuple[type, type, bool]:
    """Types of data and weights, and whether the weights keep to 7 bits: u8 x s8 sums of pairs saturate on processors
    without VNNI."""
    left, right = one_of(rng, (np.uint8, np.uint8), (np.uint8, np.int8), (np.int8, np.int8))
    return left, right, saturates and left is np.uint8 and right is np.int8


#: Set by the tests to what the processor does.
SATURATES = False


def weights_zero(rng: np.random.Generator, kind: type, count: int) -> Array:
    """Zero, or one number for all; for each column where that is asked for."""
    if count > 1:
        return np.zeros(count, kind) if rng.random() < 0.5 else stored(rng, (count,), kind)
    return np.zeros((), kind) if rng.random() < 0.5 else zero_of(rng, kind)


@draws("MatMulInteger", "QLinearMatMul")
def matmul(rng: np.random.Generator, name: str) -> Case:
    left, right, narrow = pair_of(rng, SATURATES)
    m, k, n = (int(d) for d in rng.integers(1, one_of(rng, 6, 40), 3))
    lead = shape_of(rng, int(rng.integers(0, 3)), 3)
    a = stored(rng, (*lead, m, k), left)
    b = stored(rng, ((*lead, k, n) if rng.random() < 0.3 else (k, n)), right, narrow)
    flat = b.ndim == 2
    columns = n if flat and rng.random() < 0.3 else 1
    za, zb = zero_of(rng, left), weights_zero(rng, right, columns)
    total = (a.astype(np.int64) - za) @ (b.astype(np.int64) - zb)
    if name == "MatMulInteger":
        inputs = {"A": a, "B": b, "za": za, "zb": zb}
        if not zb.any() and zb.ndim == 0 and rng.random() < 0.5:
            inputs["zb"] = None
            inputs["za"] = za if rng.random() < 0.7 else None
        total = total if inputs["za"] is not None else a.astype(np.int64) @ b.astype(np.int64)
        return exact_product(rng, Case(name, inputs, (np.int32,)), total)
    zy = zero_of(rng, left)
    sa, sb = scale_of(rng), np.asarray([scale_of(rng) for _ in range(columns)], np.float32)
    sb = sb if columns > 1 else sb.reshape(())
    value = total * sa.astype(np.float64) * sb
    sy = fitting(rng, value)
    inputs = {"A": a, "sa": sa, "za": za, "B": b, "sb": sb, "zb": zb, "sy": sy, "zy": zy}
    const = parameters(inputs) | ({"B"} if rng.random() < 0.7 else frozenset())
    return rounded(Case(name, inputs, (left,), const=const), value, sy, zy)


def exact_product(rng: np.random.Generator, case: Case, total: Array) -> Case:
    """The i32 sums as the result before rounding."""
    case.const = frozenset(name for name in case.inputs if name[0] == "z")
    if rng.random() < 0.7:
        case.const |= {"B" if "B" in case.inputs else "w"}
    case.real = total.astype(np.float64)
    return case


@draws("ConvInteger", "QLinearConv")
def conv(rng: np.random.Generator, name: str) -> Case:
    left, right, narrow = (
        (np.uint8, one_of(rng, np.uint8, np.int8), SATURATES) if name == "ConvInteger" else pair_of(rng, SATURATES)
    )
    groups, inner, outer = (int(d) for d in rng.integers(1, 4, 3))
    if rng.random() < 0.3:
        groups, inner, outer = int(rng.integers(2, 9)), 1, 1
    kernel = tuple(int(d) for d in rng.integers(1, 4, 2))
    dilations, strides = (tuple(int(d) for d in rng.integers(1, 3, 2)) for _ in range(2))
    pads = tuple(int(rng.integers(k)) for k in kernel * 2)
    x = stored(rng, (int(rng.integers(1, 3)), groups * inner, *(int(d) for d in rng.integers(6, 11, 2))), left)
    w = stored(rng, (groups * outer, inner, *kernel), right, narrow)
    zx, zw = zero_of(rng, left), np.zeros((), right)
    channels = groups * outer
    if rng.random() < 0.3:
        zw = zero_of(rng, right)
    total = sums(x.astype(np.int64) - zx, w.astype(np.int64) - zw, groups, strides, pads, dilations)
    attributes = {"group": groups, "strides": strides, "pads": pads, "dilations": dilations, "kernel_shape": kernel}
    if name == "ConvInteger":
        return exact_product(rng, Case(name, {"x": x, "w": w, "zx": zx, "zw": zw}, (np.int32,), attributes), total)
    bias = rng.integers(-20000, 20000, channels).astype(np.int32) if rng.random() < 0.7 else None
    total = total if bias is None else total + bias.reshape(-1, 1, 1)
    wide = channels if rng.random() < 0.5 else 1
    sx, sw = scale_of(rng), np.asarray([scale_of(rng) for _ in range(wide)], np.float32)
    sw = sw if wide > 1 else sw.reshape(())
    zw = np.full(sw.shape, zw, right)
    value = total * (sx.astype(np.float64) * sw).reshape((-1, 1, 1) if wide > 1 else ())
    sy, zy = fitting(rng, value), zero_of(rng, left)
    inputs = {"x": x, "sx": sx, "zx": zx, "w": w, "sw": sw, "zw": zw, "sy": sy, "zy": zy, "b": bias}
    return rounded(Case(name, inputs, (left,), attributes, parameters(inputs) | {"w", "b"}), value, sy, zy)


def sums(x: Array, w: Array, groups: int, strides: tuple, pads: tuple, dilations: tuple) -> Array:
    """A convolution in 64-bit integers: one product for each place in the kernel."""
    data = np.pad(x, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])))
    size = [
        (data.shape[2 + i] - dilations[i] * (w.shape[2 + i] - 1) - 1) // strides[i] + 1 for i in range(2)
    ]  # fmt: skip
    made = np.zeros((len(x), groups, len(w) // groups, *size), np.int64)
    parts = data.reshape(len(x), groups, -1, *data.shape[2:])
    weights = w.reshape(groups, -1, *w.shape[1:])
    for i in range(w.shape[2]):
        for j in range(w.shape[3]):
            rows = slice(i * dilations[0], i * dilations[0] + strides[0] * (size[0] - 1) + 1, strides[0])
            columns = slice(j * dilations[1], j * dilations[1] + strides[1] * (size[1] - 1) + 1, strides[1])
            made += np.einsum("ngchw,goc->ngohw", parts[..., rows, columns], weights[..., i, j])
    return made.reshape(len(x), -1, *size)


@draws("QGemm")
def qgemm(rng: np.random.Generator) -> Case:
    left, right, narrow = pair_of(rng, SATURATES)
    m, k, n = (int(d) for d in rng.integers(1, one_of(rng, 6, 40), 3))
    turned = int(rng.integers(2))
    a, b = stored(rng, (m, k), left), stored(rng, (n, k) if turned else (k, n), right, narrow)
    columns = n if rng.random() < 0.5 else 1
    za = zero_of(rng, left)
    zb = np.zeros(columns, right) if columns > 1 else weights_zero(rng, right, 1)
    weights = b.astype(np.int64).T if turned else b.astype(np.int64)
    total = (a.astype(np.int64) - za) @ (weights - zb)
    c = rng.integers(-20000, 20000, n).astype(np.int32) if rng.random() < 0.7 else None
    total = total if c is None else total + c
    sa, sb = scale_of(rng), np.asarray([scale_of(rng) for _ in range(columns)], np.float32)
    sb = sb if columns > 1 else sb.reshape(())
    value = total * (sa.astype(np.float64) * sb)
    sy, zy = fitting(rng, value), zero_of(rng, left)
    inputs = {"A": a, "sa": sa, "za": za, "B": b, "sb": sb, "zb": zb, "C": c, "sy": sy, "zy": zy}
    case = Case("QGemm", inputs, (left,), {"transB": turned}, parameters(inputs) | {"B", "C"}, MICROSOFT)
    return rounded(case, value, sy, zy)


# --------------------------------------------------------------------------------------------------------- conversions


@draws("QuantizeLinear")
def quantize(rng: np.random.Generator) -> Case:
    kind = one_of(rng, np.uint8, np.int8, np.uint16, np.int16)
    shape = shape_of(rng, int(rng.integers(1, 4)), 8)
    axis = int(rng.integers(len(shape)))
    wide = rng.random() < 0.4
    scale = np.asarray([scale_of(rng) for _ in range(shape[axis] if wide else 1)], np.float32)
    info = np.iinfo(kind)
    zero = rng.integers(info.min, info.max + 1, len(scale)).astype(kind)
    if not wide:
        scale, zero = scale.reshape(()), zero.reshape(())
    along = tuple(-1 if i == axis else 1 for i in range(len(shape)))
    levels = rng.uniform(-300, 300, shape) if rng.random() < 0.5 else rng.integers(-600, 600, shape) / 2
    x = (levels * (scale.reshape(along) if wide else scale)).astype(np.float32)
    flat = x.reshape(-1)
    for value in (np.inf, -np.inf, 0.0, -0.0, 1e30):
        if rng.random() < 0.2:
            flat[int(rng.integers(flat.size))] = value
    inputs = {"x": x, "s": scale, "z": zero if rng.random() < 0.8 or kind is not np.uint8 else None}
    # The quotient is rounded to float32 and then to an integer: exact, ties included.
    return Case("QuantizeLinear", inputs, (kind,), {"axis": axis} if wide else {}, parameters(inputs))


@draws("DequantizeLinear")
def dequantize(rng: np.random.Generator) -> Case:
    kind = one_of(rng, np.uint8, np.int8, np.uint16, np.int16, np.int32)
    shape = shape_of(rng, int(rng.integers(1, 4)), 8)
    axis = int(rng.integers(len(shape)))
    wide = rng.random() < 0.4
    scale = np.asarray([scale_of(rng) for _ in range(shape[axis] if wide else 1)], np.float32)
    info = np.iinfo(kind)
    x = rng.integers(max(info.min, -(2**23)), min(info.max, 2**23) + 1, shape).astype(kind)
    zero = (
        None
        if kind is np.int32 or rng.random() < 0.2
        else rng.integers(info.min, info.max + 1, len(scale)).astype(kind)
    )
    if not wide:
        scale, zero = scale.reshape(()), None if zero is None else zero.reshape(())
    inputs = {"x": x, "s": scale, "z": zero}
    return Case("DequantizeLinear", inputs, (np.float32,), {"axis": axis} if wide else {}, parameters(inputs))


@draws("DynamicQuantizeLinear")
def dynamic(rng: np.random.Generator) -> Case:
    x = rng.standard_normal(shape_of(rng, int(rng.integers(1, 4)), 12)) * np.exp(rng.uniform(-8, 8))
    x = one_of(rng, x, np.abs(x), -np.abs(x), x + 5, np.zeros_like(x), np.rint(x)).astype(np.float32)
    return Case("DynamicQuantizeLinear", {"x": x}, (np.uint8, np.float32, np.uint8))


@draws("MatMulNBits")
def nbits(rng: np.random.Generator) -> Case:
    """Blocks of 16 to 64 along K, whole or with a short last one; zero points packed, or the middle."""
    bits, size = one_of(rng, 4, 4, 8), one_of(rng, 16, 32, 64)
    n, k, m = int(rng.integers(1, 12)), int(rng.integers(1, 5)) * size, int(rng.integers(1, 4))
    if rng.random() < 0.3:
        k = max(1, k - int(rng.integers(size)))
    blocks = -(-k // size)
    a = rng.standard_normal((m, k)).astype(np.float32)
    numbers = rng.integers(0, 1 << bits, (n, blocks * size)).astype(np.uint8)
    zeros = rng.integers(0, 1 << bits, (n, blocks)).astype(np.uint8) if rng.random() < 0.5 else None
    scales = rng.uniform(0.01, 0.2, (n, blocks)).astype(np.float32)
    middle = np.full((n, blocks), 1 << (bits - 1)) if zeros is None else zeros
    weights = (numbers.reshape(n, blocks, size).astype(np.float64) - middle[:, :, None]) * scales[:, :, None]
    weights = weights.reshape(n, -1)[:, :k]
    inputs = {
        "a": a,
        "b": low_first(numbers, bits).reshape(n, blocks, -1),
        "s": scales.reshape(-1),
        "z": None if zeros is None else low_first(zeros, bits).reshape(-1),
    }
    attributes = {"K": k, "N": n, "bits": bits, "block_size": size}
    case = Case("MatMulNBits", inputs, (np.float32,), attributes, frozenset("bsz"), MICROSOFT)
    case.atol = (k + 4) * EPS * (np.abs(a.astype(np.float64)) @ np.abs(weights).T)
    return case


def low_first(numbers: Array, bits: int) -> Array:
    """Rows of numbers as rows of bytes, the first number in the lowest bits."""
    if bits == 8:
        return numbers
    even = np.pad(numbers, ((0, 0), (0, numbers.shape[1] % 2)))
    return (even[:, ::2] | (even[:, 1::2] << 4)).astype(np.uint8)
