"""Weights of equal bytes: two names stay, and train apart, but what they hold is one tensor, which writers store once."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ...ir.graph import Module
from ...ir.tensor import LazyTensor, StringTensor, Tensor
from ...ir.weights import Weight
from ..manager import Context, module_pass

#: Elements that are compared before all bytes are read: weights of one shape rarely begin alike.
SAMPLE = 16


@module_pass("share-weights")
def share_weights(module: Module, ctx: Context, *, least: int = 1024) -> None:
    """Of weights of at least `least` bytes and the same type and bytes, all hold the tensor of the first.

    Given:
        weight "a" param : f32[512, 512] = data("1f3c...")
        weight "b" param : f32[512, 512] = data("1f3c...")
    Result: the same text; a file that is written from it has the bytes once.
    """
    for group in _alike(w for w in module.weights if w.nbytes >= least):
        first: dict[bytes, Tensor] = {}
        for weight in group:
            one = first.setdefault(weight.tensor.digest(), weight.tensor)
            if one is not weight.tensor:
                weight.tensor = one
                ctx.stats["share_weights"] += 1


def _alike(weights: Iterable[Weight]) -> list[list[Weight]]:
    """Weights of one type that begin with the same elements, in order; those of which there is only one are left out. Data
    that is yet to be computed is not looked at."""
    groups: dict[tuple, dict[Tensor, list[Weight]]] = {}
    for weight in weights:
        tensor = weight.tensor
        if not isinstance(tensor, LazyTensor | StringTensor):
            key = (tensor.dtype, tuple(tensor.shape), _beginning(tensor))
            groups.setdefault(key, {}).setdefault(tensor, []).append(weight)
    return [[w for found in group.values() for w in found] for group in groups.values() if len(group) > 1]


def _beginning(tensor: Tensor) -> bytes:
    """The bytes of some elements along the last axis, from the middle of all others."""
    middle = tuple(n // 2 for n in tensor.shape[:-1])
    stop = (*(n + 1 for n in middle), min(SAMPLE, tensor.shape[-1]))
    return np.ascontiguousarray(tensor.region((*middle, 0), stop)).tobytes()
