"""What the families of TFLite ops share: fused activations and the two paddings."""

from __future__ import annotations

import numpy as np

from ....ir.dims import Dim, ceildiv
from ....ir.errors import TypeInferError
from ....ir.opdef import OpDef, attr
from ....ir.types import F32, I32
from ....ir.value import Value
from ....kernels.registry import get_kernel

ACTIVATIONS = ("NONE", "RELU", "RELU_N1_TO_1", "RELU6", "TANH")
PADDINGS = ("SAME", "VALID")
FLOATS = frozenset({F32})
INDICES = frozenset({I32})


class Fused(OpDef):
    """Base of ops that apply an activation to their result."""

    fused_activation_function = attr(str, "NONE", choices=ACTIVATIONS)


def activated(y: np.ndarray, name: str) -> np.ndarray:
    clips = {"RELU": (0, None), "RELU_N1_TO_1": (-1, 1), "RELU6": (0, 6)}
    if name in clips:
        low, high = clips[name]
        return get_kernel("clip")(y, y.dtype.type(low), None if high is None else y.dtype.type(high))
    return get_kernel("tanh")(y) if name == "TANH" else y


def windows(size: Dim, kernel_size: int, stride: int, dilation: int, padding: str) -> Dim:
    if padding == "SAME":
        return ceildiv(size, stride)
    extent = (kernel_size - 1) * dilation + 1
    made = (size - extent) // stride + 1
    return max(made, 0) if isinstance(made, int) else made


def image(x: Value, name: str, rank: int = 4) -> tuple[Dim, ...]:
    if x.shape is None or len(x.shape) != rank:
        raise TypeInferError(f"{name} takes a tensor of rank {rank}, got {x.type}")
    return x.shape


def auto_pad(padding: str) -> str:
    return "same_upper" if padding == "SAME" else "explicit"
