"""What a compression is told as: rows of tables for the terminal, remarks in words, one JSON object.

Nothing is printed here. Times are the only part that differs between two runs. Imports no framework.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..ir.graph import Module
from ..passes.prune.masks import stored_sizes
from ..passes.select import weight_of
from .evaluate import OutputLoss, Share
from .flow import Compression
from .layers import LayerRow

SCHEMA = 1

LAYER_COLUMNS = ("layer", "op", "bits", "bytes", "zeros", "MACs", "alone dB", "own dB", "total dB", "computes in")
#: Columns that are left out where no layer has anything in them.
RARE = ("zeros", "alone dB")
OUTPUT_COLUMNS = ("output", "SQNR dB", "cosine", "max|d|", "same answer", "right before", "right after")
STEP_COLUMNS = ("step", "ops", "weight bytes", "seconds")
#: Zeros that a remark is made about.
SPARSE = 0.3
#: Layers named in a remark, and reasons.
NAMED = 3


# --------------------------------------------------------------------------------------------------------------- tables


def layer_table(layers: Sequence[LayerRow]) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows; rare columns only where there is something in them."""
    rows = _layer_rows(layers)
    shown = [
        i for i, name in enumerate(LAYER_COLUMNS) if name not in RARE or any(row[i] not in ("", "-") for row in rows)
    ]
    return [LAYER_COLUMNS[i] for i in shown], [[row[i] for i in shown] for row in rows]


def _layer_rows(layers: Sequence[LayerRow]) -> list[tuple[Any, ...]]:
    return [
        (
            row.name,
            row.op,
            _change(*row.bits),
            _change(*row.bytes),
            f"{100 * row.zeros:.0f} %" if row.zeros >= 0.005 else "",
            _change(*row.macs),
            decibels(row.sensitivity),
            decibels(row.own),
            decibels(row.total),
            row.arithmetic,
        )
        for row in layers
    ]


def worst_layers(layers: Sequence[LayerRow], count: int) -> list[LayerRow]:
    """The layers that do most wrong by themselves, worst first; those that were not measured last."""
    return sorted(layers, key=lambda row: (row.own is None, row.own if row.own is not None else 0.0))[:count]


def _change(before: Any, after: Any) -> str:
    first, second = ("-" if value is None else str(value) for value in (before, after))
    return first if first == second else f"{first} -> {second}"


def decibels(value: float | None) -> str:
    if value is None:
        return "-"
    return "exact" if value == math.inf else f"{value:.1f}"


def output_rows(outputs: Sequence[OutputLoss]) -> list[tuple[Any, ...]]:
    rows = []
    for output in outputs:
        right = output.right or (None, None)
        exact = output.noise.count == 0
        numbers = ("-", "-", "-") if exact else (decibels(output.sqnr), f"{output.cosine:.5f}", f"{output.max_abs:.2g}")
        rows.append((output.name, *numbers, *(share_text(s) for s in (output.agreement, *right))))
    return rows


def share_text(share: Share | None) -> str:
    """`97.0 % (95.2-98.1)`: the share and its 95% interval."""
    if share is None:
        return ""
    low, high = (100 * bound for bound in share.interval)
    return f"{100 * share.value:.1f} % ({low:.1f}-{high:.1f})"


def step_rows(result: Compression) -> list[tuple[Any, ...]]:
    return [(s.text, _change(*s.ops), _change(*s.bytes), f"{s.seconds:.1f}") for s in result.steps]


# -------------------------------------------------------------------------------------------------------------- remarks


def summary(result: Compression) -> list[tuple[str, str]]:
    """The main figures as pairs of a label and a text."""
    lines = []
    if result.macs is not None and result.macs[0]:
        share = f" ({100 * (result.macs[1] / result.macs[0] - 1):+.0f} %)" if result.macs[0] != result.macs[1] else ""
        lines.append(("MACs", f"{_change(*result.macs)}{share}"))
    before, after = result.weight_bytes
    if before:
        share = f" ({100 * (after / before - 1):+.0f} %)" if after != before else ""
        lines.append(("weights", f"{_change(before, after)} bytes{share}"))
    counted = coverage(result.layers)
    if counted is not None:
        lines.append(("integer", f"{counted[0]} of {_layers(counted[1])} computing in integers"))
    if result.calibration is not None:
        lines.append(("data", f"{result.calibration.count} samples, digest {result.calibration.digest[:16]}"))
    if result.loss is not None:
        lines.append(("loss", loss_text(result)))
    return lines


def coverage(layers: Sequence[LayerRow]) -> tuple[int, int] | None:
    """How many of the layers that are left compute in integers; None where none does."""
    left = [row for row in layers if row.arithmetic != "removed"]
    integer = [row for row in left if row.arithmetic.startswith("int")]
    return (len(integer), len(left)) if integer else None


def loss_text(result: Compression) -> str:
    """In one line: points lost, noise, and on what that was measured."""
    loss = result.loss
    assert loss is not None
    if not loss.outputs:
        return "not measured"
    told = [] if loss.drop is None else [f"{loss.drop:.1f} points of {'accuracy' if loss.labelled else 'agreement'}"]
    told += [f"SQNR {decibels(loss.sqnr)} dB"] if loss.sqnr is not None else []
    broken = sum(o.broken for o in loss.outputs)
    told += [f"{broken} values are NaN or infinite that were not"] if broken else []
    return f"{', '.join(told) or 'none'}, on {loss.on}"


def remarks(result: Compression) -> list[str]:
    """What does not get faster, or not smaller, and why; layers that stayed in float, and why."""
    return [*_sparse(result), *_stored_only(result.layers), *_in_float(result), *_idle_steps(result)]


def _sparse(result: Compression) -> list[str]:
    layers = [row for row in result.layers if row.zeros >= SPARSE]
    if not layers:
        return []
    sizes = sparse_sizes(result.module)
    most = max(row.zeros for row in layers)
    return [
        f"{_layers(len(layers))} with {100 * SPARSE:.0f} to {100 * most:.0f} % zeros in dense weights: no speed-up expected, "
        "onnxruntime and LiteRT run dense kernels; remove whole channels (structure=channel) for that",
        f"these weights take {sizes['bytes']} bytes as written, {sizes['zipped']} zipped, {sizes['sparse']} as bitmap and values",
    ]


def sparse_sizes(module: Module) -> dict[str, int]:
    """Bytes of the weights that hold many zeros: dense, zipped, and as a bitmap with values."""
    total = {"bytes": 0, "zipped": 0, "sparse": 0}
    for value in {w: None for node in module.all_nodes() if (w := weight_of(node)) is not None}:
        array = value.array()
        if array.size and np.count_nonzero(array) <= (1 - SPARSE) * array.size and array.dtype.kind in "fiu":
            for key, count in stored_sizes(array).items():
                total[key] += count
    return total


def _layers(count: int) -> str:
    return f"{count} layer{'s' * (count != 1)}"


def _stored_only(layers: Sequence[LayerRow]) -> list[str]:
    kinds: dict[str, int] = {}
    for row in layers:
        if row.arithmetic.startswith("float ("):
            kinds[row.arithmetic] = kinds.get(row.arithmetic, 0) + 1
    return [
        f"{_layers(count)} computing in {kind}: smaller, not faster where the runtime unpacks them before each product"
        for kind, count in kinds.items()
    ]


def _in_float(result: Compression) -> list[str]:
    """Layers that a quantize step left in float, grouped by its reason."""
    reasons: dict[str, list[str]] = {}
    for record in result.records:
        if record.get("pass") == "quantize" and record.get("why"):
            reasons.setdefault(str(record["why"]), []).append(str(record.get("layer", "")))
    told = []
    for why, names in reasons.items():
        shown = ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
        told.append(f"{shown} stay in float: {why}")
    return told


def _idle_steps(result: Compression) -> list[str]:
    return [f"{step.text} changed nothing" for step in result.steps if not step.changed]


# ----------------------------------------------------------------------------------------------------------------- JSON


def as_json(result: Compression) -> dict[str, Any]:
    """Everything as plain data; infinite ratios are the text `inf`."""
    recipe = result.recipe
    return {
        "report": SCHEMA,
        "recipe": {"name": recipe.name, "text": recipe.text, "sha256": recipe.digest},
        "steps": [
            {"step": s.text, "seconds": s.seconds, "ops": s.ops, "weight_bytes": s.bytes, "changed": s.changed}
            for s in result.steps
        ],
        "calibration": vars(result.calibration) if result.calibration is not None else None,
        "loss": _loss_json(result),
        "macs": result.macs,
        "weight_bytes": result.weight_bytes,
        "layers": [_plain(vars(row)) for row in result.layers],
        "limits": [vars(verdict) for verdict in result.verdicts],
        "remarks": remarks(result),
        "records": _plain(result.records),
    }


def _loss_json(result: Compression) -> dict[str, Any] | None:
    loss = result.loss
    if loss is None:
        return None
    told = {"on": loss.on, "samples": loss.samples, "digest": loss.digest, "given": loss.given, "drop": loss.drop}
    return {**_plain(told), "outputs": [_output_json(output) for output in loss.outputs]}


def _output_json(output: OutputLoss) -> dict[str, Any]:
    right = output.right or (None, None)
    told = {"name": output.name, "sqnr": output.sqnr, "cosine": output.cosine, "max_abs": output.max_abs}
    shares = {"agreement": output.agreement, "right_before": right[0], "right_after": right[1]}
    return {**_plain(told), "broken": output.broken, **{key: _share_json(share) for key, share in shares.items()}}


def _share_json(share: Share | None) -> dict[str, Any] | None:
    if share is None:
        return None
    return {"hits": share.hits, "count": share.count, "share": share.value, "interval": share.interval}


def _plain(item: Any) -> Any:
    """NaN and infinities as text, numpy's numbers as Python's."""
    if isinstance(item, dict):
        return {str(key): _plain(value) for key, value in item.items()}
    if isinstance(item, (list, tuple)):
        return [_plain(value) for value in item]
    if isinstance(item, (np.generic, np.ndarray)):
        return _plain(item.tolist())
    return str(item) if isinstance(item, float) and not math.isfinite(item) else item
