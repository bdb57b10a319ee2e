"""`clip`: small weights become zero. What is zero along a whole channel then goes by `dead-weights`.

Only matrices of layers are clipped: a small bias or scale of a norm is no weak connection but a value that its channel
needs. Imports no framework.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ...ir.errors import UsageError
from ...ir.graph import Module, Value
from ...ir.tensor import ArrayTensor
from ..manager import Context, module_pass
from ..select import layer_name, selector
from .layers import REAL, Layer, layers
from .masks import stored_sizes

#: What is clipped when neither a threshold nor a percentile is given.
THRESHOLD = 1e-3
PER = ("tensor", "channel")


def _check(options: Mapping[str, Any]) -> None:
    _Limit(**{name: options[name] for name in ("threshold", "percentile", "per", "relative")})


@module_pass("clip", numerics="approx", check=_check)
def clip(
    module: Module,
    ctx: Context,
    *,
    threshold: Any = None,
    percentile: Any = None,
    per: str = "tensor",
    relative: bool = False,
    everything: bool = False,
    where: str = "",
) -> None:
    """Weights with |w| < threshold become zero.

    `threshold` is absolute (1e-3 when nothing is given), or with `relative` a share of the largest |w|; `percentile` P takes
    the smallest P percent instead. Both relative forms look at each tensor, or with per=channel at each output channel.
    `everything` clips biases, scales and all other float parameters as well, tensor by tensor.
    """
    limit = _Limit(threshold, percentile, per, relative)
    rows = [_clip_layer(module, layer, limit) for layer in layers(module, where)]
    if everything:
        taken = {layer.value for layer in layers(module)}
        rows += [_clip_value(module, v, name, limit) for v, name in _others(module, where) if v not in taken]
    zeros, total = sum(row["clipped"] for row in rows), sum(row["of"] for row in rows)
    ctx.records.extend(rows)
    ctx.stats["clip"] += zeros
    if rows:
        share = 100 * zeros / total
        ctx.notes.append(
            f"clip: {zeros} of {total} weights ({share:.1f}%) became zero in {len(rows)} tensors ({limit})"
        )


class _Limit:
    """Below what a row of weights is clipped. Raises UsageError for options that contradict each other or make no sense."""

    def __init__(self, threshold: Any, percentile: Any, per: str, relative: bool) -> None:
        if per not in PER:
            raise UsageError(f"clip: per is {per!r}", hint="tensor or channel")
        if threshold is not None and percentile is not None:
            raise UsageError("clip: give a threshold or a percentile, not both")
        if percentile is not None and not (_is_number(percentile) and 0 <= percentile <= 100):
            raise UsageError(f"clip: percentile is {percentile!r}, expected a number from 0 to 100")
        if percentile is None and threshold is None:
            threshold = THRESHOLD
        if percentile is None and not (_is_number(threshold) and threshold >= 0):
            raise UsageError(f"clip: threshold is {threshold!r}, expected a number that is not negative")
        if percentile is None and not relative and per == "channel":
            raise UsageError(
                "clip: an absolute threshold is the same for every channel", hint="give percentile, or relative=true"
            )
        self.threshold = threshold
        self.percentile = percentile
        self.per = per
        self.relative = relative

    def of(self, sizes: np.ndarray) -> np.ndarray:
        """sizes = |w| [rows, columns] to the limit of every row [rows, 1]."""
        if self.percentile is not None:
            return np.percentile(sizes, self.percentile, axis=1, keepdims=True, method="higher")
        largest = sizes.max(axis=1, keepdims=True)
        return self.threshold * (largest if self.relative else np.ones_like(largest))

    def __str__(self) -> str:
        if self.percentile is not None:
            return f"the smallest {self.percentile:g}% per {self.per}"
        return f"|w| < {self.threshold:g}" + (f" of the largest per {self.per}" if self.relative else "")


def _is_number(item: Any) -> bool:
    return isinstance(item, (int, float)) and not isinstance(item, bool) and item == item


def _clip_layer(module: Module, layer: Layer, limit: _Limit) -> dict[str, Any]:
    array = layer.array()
    matrix = layer.matrix(array)
    rows = matrix.reshape(layer.channels, -1) if limit.per == "channel" else matrix.reshape(1, -1)
    made, row = _clipped(rows, layer.name, limit)
    if row["clipped"]:
        layer.store(module, layer.restore(made), f"clipped ({limit})")
    return {**row, **stored_sizes(layer.array())}


def _clip_value(module: Module, value: Value, name: str, limit: _Limit) -> dict[str, Any]:
    array = value.array()
    made, row = _clipped(array.reshape(1, -1), name, limit)
    if row["clipped"]:
        module.set_weight(value.weight, ArrayTensor(made.reshape(array.shape)))  # type: ignore[arg-type]
    return {**row, **stored_sizes(value.array())}


def _clipped(rows: np.ndarray, name: str, limit: _Limit) -> tuple[np.ndarray, dict[str, Any]]:
    """The rows with small elements zero, and the facts. NaN refuses: it is neither small nor large."""
    sizes = np.abs(rows.astype(np.float64))
    if not np.isfinite(sizes).all():
        raise UsageError(f"clip: the weights of {name!r} have NaN or infinite elements")
    small = (sizes < limit.of(sizes)) & (sizes > 0)
    made = np.where(small, rows.dtype.type(0), rows)
    zeros = int(made.size - np.count_nonzero(made))
    return made, {"pass": "clip", "layer": name, "of": made.size, "clipped": int(small.sum()), "zeros": zeros}


def _others(module: Module, where: str) -> Iterator[tuple[Value, str]]:
    """Float parameters that nodes use, and what to call them."""
    chosen = selector(where) if where else None
    for value in module.constants():
        weight = value.weight
        if weight is None or weight.role != "param" or value.dtype not in REAL or not value.n_uses:
            continue
        users = value.users
        if weight.tensor.size and (chosen is None or any(chosen(node) for node in users)):
            yield value, weight.key or layer_name(users[0])
