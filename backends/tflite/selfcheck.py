"""The emitter's check of its own records, always run before a byte is written. A finding is our bug: InternalError.

The rules are those that TFLite runtimes enforce late, badly, or not at all: indices in range, inputs made before they
are used, byte sizes of constants, options and biases present, scales that must agree, signatures sound.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...formats.tflite import Record
from ...formats.tflite_schema import OP_NAMES, OPTIONS_OF, TYPE_NAMES
from ...ir.errors import InternalError

_BITS = {"INT4": 4, "UINT4": 4, "INT2": 2, "BOOL": 8, "COMPLEX64": 64, "COMPLEX128": 128, "BFLOAT16": 16}
_BITS |= {f"{kind}{bits}": bits for kind in ("INT", "UINT", "FLOAT") for bits in (8, 16, 32, 64)}
# Operators that crash or silently misread plain 8-bit integers without a scale.
_NO_PLAIN_BYTES = frozenset(
    ["ADD", "SUB", "SQUARED_DIFFERENCE", "EQUAL", "NOT_EQUAL", "LESS", "LESS_EQUAL", "GREATER", "GREATER_EQUAL"]
)
_NEEDS_BIAS = {"CONV_2D": 2, "DEPTHWISE_CONV_2D": 2, "CONV_3D": 2}
# Operators whose operands and result must share scale and zero point: some kernels silently give wrong values.
_SAME_SCALE = frozenset(
    [
        "CONCATENATION",
        "PADV2",
        "MAXIMUM",
        "MINIMUM",
        "RESHAPE",
        "TRANSPOSE",
        "SLICE",
        "STRIDED_SLICE",
        "SQUEEZE",
        "EXPAND_DIMS",
        "GATHER",
        "GATHER_ND",
        "PAD",
        "MIRROR_PAD",
        "MAX_POOL_2D",
        "AVERAGE_POOL_2D",
        "RESIZE_BILINEAR",
        "RESIZE_NEAREST_NEIGHBOR",
        "SPACE_TO_DEPTH",
        "DEPTH_TO_SPACE",
        "SPLIT_V",
        "TILE",
        "BROADCAST_TO",
        "REVERSE_V2",
        "REDUCE_MAX",
        "REDUCE_MIN",
    ]
)
# Of these, those whose other operands must have that scale too.
_JOINED = frozenset(["CONCATENATION", "MAXIMUM", "MINIMUM", "PADV2"])
# Scale and zero point of results, by operator and type.
_FIXED = {
    ("SOFTMAX", "INT8"): (1 / 256, -128),
    ("LOGISTIC", "INT8"): (1 / 256, -128),
    ("TANH", "INT8"): (1 / 128, 0),
    ("LOG_SOFTMAX", "INT8"): (16 / 256, 127),
    **{(name, "INT16"): (1 / 32768, 0) for name in ("SOFTMAX", "LOGISTIC", "TANH")},
}
# Where data, weights and bias stand among the operands.
_PRODUCTS = {
    **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"), (0, 1, 2)),
    "TRANSPOSE_CONV": (2, 1, 3),
}
_CHANNEL = {"DEPTHWISE_CONV_2D": 3}


def check(model: Record, sizes: Sequence[int]) -> None:
    """Raise InternalError for the first thing that is wrong. `sizes` are the bytes of each buffer."""
    if sizes and sizes[0]:
        raise InternalError("buffer 0 must stay empty")
    for number, graph in enumerate(model["subgraphs"]):
        _Checker(model, graph, sizes, f"subgraph {number}").run()
    for signature in model.get("signature_defs") or ():
        _signature(model, signature)


def _signature(model: Record, signature: Record) -> None:
    graph = model["subgraphs"][signature.get("subgraph_index", 0)]
    for side in ("inputs", "outputs"):
        names = [entry["name"] for entry in signature[side]]
        if len(set(names)) != len(names):
            raise InternalError(f"signature {signature['signature_key']!r} names two {side} alike")
        if [entry["tensor_index"] for entry in signature[side]] != list(graph[side]):
            raise InternalError(f"the {side} of signature {signature['signature_key']!r} are not the subgraph's")


class _Checker:
    def __init__(self, model: Record, graph: Record, sizes: Sequence[int], where: str) -> None:
        self.codes = model["operator_codes"]
        self.subgraphs = len(model["subgraphs"])
        self.graph = graph
        self.tensors = graph["tensors"]
        self.sizes = sizes
        self.where = where

    def fail(self, text: str) -> None:
        raise InternalError(text, where=self.where)

    def run(self) -> None:
        names = [tensor["name"] for tensor in self.tensors]
        if len(set(names)) != len(names):
            self.fail("two tensors have the same name")
        made = set(self.graph["inputs"])
        for index, tensor in enumerate(self.tensors):
            self._tensor(tensor)
            if tensor.get("buffer") or tensor.get("is_variable") or _is_empty(tensor):
                made.add(index)
        for operator in self.graph["operators"]:
            self._operator(operator, made)
        for index in self.graph["outputs"]:
            if index not in made:
                self.fail(f"output {self.tensors[index]['name']!r} is never computed")

    def _tensor(self, tensor: Record) -> None:
        buffer, shape = tensor.get("buffer", 0), tensor["shape"]
        if not 0 <= buffer < len(self.sizes):
            self.fail(f"tensor {tensor['name']!r} points at buffer {buffer}")
        kind = TYPE_NAMES[tensor.get("type", 0)]
        expected = (_stored(tensor, shape) * _BITS[kind] + 7) // 8
        if buffer and self.sizes[buffer] != expected:
            self.fail(f"tensor {tensor['name']!r} has {self.sizes[buffer]} bytes, its type needs {expected}")
        signature = tensor.get("shape_signature")
        if signature is not None and any(
            (d if s < 0 else s) != d or (s < 0 and d != 1) for s, d in zip(signature, shape, strict=True)
        ):
            self.fail(f"tensor {tensor['name']!r}: signature {signature} does not fit shape {shape}")
        quant = tensor.get("quantization")
        if quant is not None:
            self._quantisation(tensor, quant, shape)

    def _quantisation(self, tensor: Record, quant: Record, shape: Sequence[int]) -> None:
        scales, zeros = quant["scale"], quant["zero_point"]
        axis = quant["quantized_dimension"]
        if len(scales) != len(zeros) or (len(scales) > 1 and (axis >= len(shape) or len(scales) != shape[axis])):
            self.fail(f"tensor {tensor['name']!r}: {len(scales)} scales and {len(zeros)} zero points along axis {axis}")
        if not all(s > 0 and math.isfinite(s) for s in scales):
            self.fail(f"tensor {tensor['name']!r}: a scale is not positive")

    def _operator(self, operator: Record, made: set[int]) -> None:
        code = self.codes[operator["opcode_index"]]
        name = OP_NAMES[code["builtin_code"]]
        if code["deprecated_builtin_code"] != min(code["builtin_code"], 127):
            self.fail(f"{name}: the two operator codes disagree")
        for index in operator["inputs"]:
            if index >= len(self.tensors) or index < -1:
                self.fail(f"{name} reads tensor {index}")
            if index >= 0 and index not in made:
                self.fail(f"{name} reads {self.tensors[index]['name']!r} before it is computed")
        made.update(operator["outputs"])
        if name in OPTIONS_OF and operator.get("builtin_options") is None:
            self.fail(f"{name} has no options")
        bias = _NEEDS_BIAS.get(name)
        if bias is not None and (len(operator["inputs"]) <= bias or operator["inputs"][bias] < 0):
            self.fail(f"{name} has no bias")
        self._regions(name, operator)
        self._numbers(name, operator)

    def _regions(self, name: str, operator: Record) -> None:
        options = operator.get("builtin_options") or {}
        for slot, index in options.items():
            if slot.endswith("_subgraph_index") and not 0 < index < self.subgraphs:
                self.fail(f"{name} runs subgraph {index}")

    def _numbers(self, name: str, operator: Record) -> None:
        tensors = [self.tensors[i] for i in (*operator["inputs"], *operator["outputs"]) if i >= 0]
        plain = [t for t in tensors if TYPE_NAMES[t.get("type", 0)] in ("INT8", "UINT8") and not t.get("quantization")]
        if name in _NO_PLAIN_BYTES and plain:
            self.fail(f"{name} on 8-bit integers without a scale")
        if name in _SAME_SCALE:
            source, result = self.tensors[operator["inputs"][0]], self.tensors[operator["outputs"][0]]
            if _scale(source) != _scale(result):
                self.fail(f"{name} must keep scale and zero point of {source['name']!r}")
            if name in _JOINED and any(_scale(t) != _scale(result) for t in tensors if _same_type(t, result)):
                self.fail(f"{name} joins tensors of different scales into {result['name']!r}")
        self._fixed(name, operator)
        if name in _PRODUCTS:
            self._product(name, operator)

    def _fixed(self, name: str, operator: Record) -> None:
        """Results whose scale and zero point the kernel knows by itself."""
        result = self.tensors[operator["outputs"][0]]
        wanted = _FIXED.get((name, TYPE_NAMES[result.get("type", 0)]))
        if wanted is not None and _scale(result) != ((wanted[0],), (wanted[1],)):
            self.fail(f"{name} makes {wanted}, its result {result['name']!r} says {_scale(result)}")

    def _product(self, name: str, operator: Record) -> None:
        """The bias of integer products is at the product of the scales of data and weights, along the same axis."""
        places = _PRODUCTS[name]
        inputs = operator["inputs"]
        x, w, b = (self.tensors[inputs[p]] if p < len(inputs) and inputs[p] >= 0 else None for p in places)
        if x is None or w is None or TYPE_NAMES[x.get("type", 0)] not in ("INT8", "INT16"):
            return
        kinds = [TYPE_NAMES[t.get("type", 0)] for t in (x, w)]
        if _scale(x) is None or _scale(w) is None or any(_scale(w)[1]):
            self.fail(f"{name} on integers needs scales, and weights with zero point 0")
        if len(w["quantization"]["scale"]) > 1 and w["quantization"]["quantized_dimension"] != _CHANNEL.get(name, 0):
            self.fail(f"{name}: the scales of its weights go along the wrong axis")
        if b is None:
            return
        if TYPE_NAMES[b.get("type", 0)] != ("INT32" if kinds[0] == "INT8" else "INT64"):
            self.fail(f"{name}: a bias of type {TYPE_NAMES[b.get('type', 0)]} for {kinds[0]}")
        steps = [s * x["quantization"]["scale"][0] for s in w["quantization"]["scale"]]
        given = list(b["quantization"]["scale"]) if b.get("quantization") else []
        if len(given) != len(steps) or any(abs(g - s) > 1e-6 * s for g, s in zip(given, steps, strict=True)):
            self.fail(f"{name}: the scale of {b['name']!r} is not the product of the others")


def _same_type(tensor: Record, other: Record) -> bool:
    return tensor.get("type", 0) == other.get("type", 0)


def _stored(tensor: Record, shape: Sequence[int]) -> int:
    """Elements that the file has of a constant: of a sparse one, as many as it has places."""
    sparsity = tensor.get("sparsity")
    return math.prod(shape) if sparsity is None else len(sparsity["dim_metadata"][-1]["array_indices"]["values"])


def _is_empty(tensor: Record) -> bool:
    """A constant without elements has no buffer."""
    return 0 in list(tensor["shape"])


def _scale(tensor: Record) -> tuple | None:
    quant = tensor.get("quantization")
    return None if quant is None else (tuple(quant["scale"]), tuple(quant["zero_point"]))
