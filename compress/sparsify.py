"""Single weights to zero: alone, N of M, in blocks. Sizes are told as they are: nothing becomes faster by zeroes here.

Imports no framework.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..ir.errors import UsageError
from ..ir.graph import Module
from ..passes.manager import Context
from ..passes.prune.layers import Layer, layers
from ..passes.prune.masks import Pattern, keep_mask, keep_masks, parse_pattern, stored_sizes
from .budget import Amount
from .recover import add_bias
from .rows import rows_wanted, sample_rows, sampled_layer
from .stages import Stage

IMPORTANCES = ("l1", "l2", "wanda", "random")


def sparsify(
    module: Module, ctx: Context, structure: str, amount: Amount, importance: str, recover: bool, where: str
) -> None:
    """Zero `amount.ratio` of the weights of every layer (of all layers together for ranking global) by `structure`.

    l1 and l2 rank weights by size; wanda by size times the norm of their input, row by row (2306.11695). With data the mean
    of every layer's output is kept by its bias. Raises UsageError for importances of whole units.
    """
    pattern = pattern_of(structure, importance)
    chosen = layers(module, where)
    scores = _scores(module, chosen, importance, ctx)
    if amount.ranking == "global":
        masks = keep_masks(scores, pattern, amount.ratio)
    else:
        masks = [keep_mask(s, pattern, amount.ratio, per_row=importance == "wanda") for s in scores]
    dense = module.clone() if recover and ctx.data is not None else None
    rows = [_apply(module, layer, mask, pattern) for layer, mask in zip(chosen, masks, strict=True)]
    ctx.records.extend(rows)
    if dense is not None:
        _keep_means(module, dense, chosen, ctx)
    ctx.notes.append(_told(rows, pattern))


def pattern_of(structure: str, importance: str) -> Pattern:
    """What goes together. Raises UsageError for structures that there are not and importances of whole units."""
    if importance not in IMPORTANCES:
        raise UsageError(
            f"prune: importance {importance} ranks whole units",
            hint=f"structure={structure} takes {', '.join(IMPORTANCES)}",
        )
    return parse_pattern(structure)


def _apply(module: Module, layer: Layer, keep: np.ndarray, pattern: Pattern) -> dict[str, Any]:
    array = layer.array()
    matrix = layer.matrix(array)
    layer.store(module, layer.restore(np.where(keep, matrix, array.dtype.type(0))), f"pruned ({pattern})")
    made = layer.array()
    zeros = int(made.size - np.count_nonzero(made))
    row = {"pass": "prune", "layer": layer.name, "structure": str(pattern), "of": made.size, "zeros": zeros}
    return {**row, "zipped_before": stored_sizes(array)["zipped"], **stored_sizes(made)}


def _told(rows: Sequence[dict[str, Any]], pattern: Pattern) -> str:
    """One honest line."""
    zeros, total = sum(row["zeros"] for row in rows), sum(row["of"] for row in rows)
    sizes = {key: sum(row[key] for row in rows) for key in ("bytes", "zipped_before", "zipped", "sparse")}
    kib = {key: f"{size / 1024:.1f}" for key, size in sizes.items()}
    return (
        f"prune: {zeros} of {total} weights in {len(rows)} matrices are zero ({pattern}). A dense file stays at {kib['bytes']} "
        f"KiB of weights; zipped they take {kib['zipped']} KiB (before: {kib['zipped_before']}), as bitmap and values "
        f"{kib['sparse']}. No speed-up is expected: runtimes for CPUs multiply zeroes like other numbers"
    )


# --------------------------------------------------------------------------------------------------------------- scores


def _scores(module: Module, chosen: Sequence[Layer], importance: str, ctx: Context) -> list[np.ndarray]:
    if importance == "random":
        rng = np.random.default_rng(ctx.seed)
        return [rng.random(layer.matrix(layer.array()).shape) for layer in chosen]
    sizes = [np.abs(layer.matrix(layer.array()).astype(np.float32)) for layer in chosen]
    for layer, each in zip(chosen, sizes, strict=True):
        if not np.isfinite(each).all():
            raise UsageError(f"prune: the weights of {layer.name!r} have NaN or infinite elements")
    if importance != "wanda":
        return sizes
    if ctx.data is None:
        raise UsageError("prune: importance wanda looks at the layers' inputs and there are no data", code="R023")
    inputs = _input_norms(module, chosen, ctx)
    return [size * norm for size, norm in zip(sizes, inputs, strict=True)]


def _input_norms(module: Module, chosen: Sequence[Layer], ctx: Context) -> list[np.ndarray]:
    """The root mean square of what each column of each matrix is multiplied by, [rows or 1, columns]; 1 where the layer's rows
    cannot be sampled."""
    found = [(place, made) for place, layer in enumerate(chosen) if (made := _sampled(module, layer)) is not None]
    norms = [np.ones((1, 1), np.float32) for _ in chosen]
    for place in set(range(len(chosen))) - {place for place, _ in found}:
        ctx.notes.append(f"prune: the inputs of {chosen[place].name} cannot be sampled: its weights are ranked by size")
    assert ctx.data is not None
    rng, totals, counts = np.random.default_rng(ctx.seed), [0.0] * len(found), [0] * len(found)
    for arrays in Stage(module, ctx.data).values([layer.node.operands[0] for _, layer in found]):  # type: ignore[misc]
        samples = max(len(array) for array in arrays)
        for i, (_, layer) in enumerate(found):
            x, _ = sample_rows(layer, arrays[i], [], rows_wanted(0, ctx.data.count, samples), rng)
            totals[i] = totals[i] + np.square(x).sum(axis=1)
            counts[i] += x.shape[1]
    for (place, layer), total, count in zip(found, totals, counts, strict=True):
        rms = np.sqrt(total / max(count, 1))
        norms[place] = np.repeat(rms, layer.channels // len(rms), axis=0).astype(np.float32)
    return norms


def _sampled(module: Module, layer: Layer) -> Layer | None:
    """The layer if its inputs and outputs can be sampled, by the rows and columns that it has here."""
    return layer if layer.node.graph is module.signature.graph and sampled_layer(layer.node) == layer else None


# ----------------------------------------------------------------------------------------------------- bias correction


def _keep_means(module: Module, dense: Module, chosen: Sequence[Layer], ctx: Context) -> None:
    """Give each layer's bias the mean of what its outputs have lost, layer by layer in order."""
    assert ctx.data is not None
    twins = dict(zip(module.all_nodes(), dense.all_nodes(), strict=True))
    stage, truth = Stage(module, ctx.data), Stage(dense, ctx.data)
    for layer in chosen:
        node = layer.node
        if _sampled(module, layer) is None or node.name == "matmul":
            continue
        total, count = 0.0, 0
        twin = twins[node]
        axis = 1 if node.name == "conv" and not node.attrs.get("channels_last") else (node.result.rank or 1) - 1
        for (made,), (goal,) in zip(
            stage.values([node.result], end=node), truth.values([twin.result], end=twin.next), strict=True
        ):
            gap = np.moveaxis(goal.astype(np.float64) - made, axis, -1).reshape(-1, made.shape[axis])
            total, count = total + gap.sum(axis=0), count + len(gap)
        add_bias(module, node, 2, np.asarray(total) / max(count, 1), f"{layer.value.weight.key}.bias")  # type: ignore[union-attr]
