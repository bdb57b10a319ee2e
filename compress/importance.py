"""How much each unit of a dependency group matters: magnitudes, and what calibration data say.

    scores = score_units(groups, "l2", ctx)           # one array [group.size] per group; small scores go first

| importance | score of a unit |
|---|---|
| l1, l2 | norm of the weights that make it |
| pair | l2 of the weights that make it times l2 of those that read it |
| bn | size of its batch norm's scale |
| wanda | standard deviation of its values times l2 of the weights that read them |
| obs | squared error of the readers' outputs when it is its turn to go, the rest fitted anew |
| random | drawn with the seed |

wanda (2306.11695) goes by the deviation, for what is constant goes into the bias. obs takes its order from `obs.py` and scales
it to how far the group's errors show in the model's outputs (`influence.py`), on the half of the samples that the readers
were not fitted to: what has learned the samples by heart is not taken for nothing. Both need data. Imports no framework.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..ir.errors import UsageError
from ..ir.graph import Graph, Module, Node, Value
from ..passes.manager import Context, Feeds
from ..passes.prune.groups import Group, Member
from ..passes.prune.layers import Layer
from ..passes.prune.walk import CONSUMER, PRODUCER
from .influence import Variant, output_errors
from .obs import Quadratic, best_damping, error_of, refitted, removal_losses
from .rows import Singled, Thinned, affordable, any_number, first_half, rows_wanted, sample_rows, sampled_layer
from .stages import Stage

MAGNITUDES = ("l1", "l2", "pair", "bn", "random")
WITH_DATA = ("wanda", "obs")
IMPORTANCES = (*MAGNITUDES, *WITH_DATA)
#: Samples that second moments are taken from are so many that all layers make about this many multiplications.
WORK = 24e9
#: The errors of the model's outputs are measured when this share of what may go has gone, on so many samples of each half as
#: make about this many multiplications for all groups, within these bounds.
PROBED, PROBE_WORK, PROBES = 0.5, 40e9, (4, 256)
#: Second moments that are held at once.
ROOM = 512 << 20


def score_units(
    module: Module, groups: Sequence[Group], importance: str, ctx: Context, work: float = 0.0, most: float = 1.0
) -> list[np.ndarray]:
    """The scores of each group's units. `work` are the multiplications of one sample, `most` is the largest share of a group
    that will go.

    Raises UsageError for an importance that does not exist, or that needs data where there are none.
    """
    if importance not in IMPORTANCES:
        raise UsageError(f"there is no importance {importance!r}", hint=f"one of {', '.join(IMPORTANCES)}")
    if importance in WITH_DATA and ctx.data is None:
        raise UsageError(
            f"importance {importance} looks at the layers' inputs and there are no data",
            code="R023",
            hint=f"give --data, or one of {', '.join(MAGNITUDES)}",
        )
    if importance == "random":
        rng = np.random.default_rng(ctx.seed)
        return [rng.random(group.size) for group in groups]
    if importance in WITH_DATA:
        return _by_data(module, groups, importance, ctx, work, most)
    return [_by_magnitude(group, importance, ctx) for group in groups]


def _by_magnitude(group: Group, importance: str, ctx: Context) -> np.ndarray:
    made = [m for m in group.members if m.part == PRODUCER]
    if importance == "l1":
        return norms(made, group.size, 1)
    if importance == "bn":
        scales = [m for m in group.members if m.node.name == "batch_norm" and m.value is m.node.operands[1]]
        if scales:
            return norms(scales, group.size, 1)
        ctx.notes.append(f"prune: {group.name} has no batch norm (or it is folded): its units are ranked by l2")
    scores = norms(made, group.size, 2)
    if importance == "pair":
        scores = scores * norms([m for m in group.members if m.part == CONSUMER], group.size, 2)
    return scores


def norms(members: Sequence[Member], size: int, order: int) -> np.ndarray:
    """The norm of each unit's slices over all members, [size]; ones where there is no member."""
    if not members:
        return np.ones(size)
    total = np.zeros(size)
    for member in _distinct(members):
        array = np.abs(member.value.array().astype(np.float64)) ** order
        sums = array.sum(axis=tuple(i for i in range(array.ndim) if i != member.axis))
        own = member.units >= 0
        np.add.at(total, member.units[own], sums[own])
    return total ** (1 / order)


def _distinct(members: Sequence[Member]) -> list[Member]:
    """Each axis of each constant once."""
    return list({(m.value, m.axis): m for m in members}.values())


# ------------------------------------------------------------------------------------------------------- by the data


@dataclass
class Reader:
    """A consumer of a group that data can be sampled for: which unit each column of its matrix is (-1: of another group), and
    the covariances of its inputs over all samples, over the first and over the second half of them."""

    layer: Layer
    units: np.ndarray
    moments: tuple[np.ndarray, ...] = ()

    @property
    def node(self) -> Node:
        return self.layer.node


def _by_data(
    module: Module, groups: Sequence[Group], importance: str, ctx: Context, work: float, most: float
) -> list[np.ndarray]:
    readers = [_readers(group, module.signature.graph) for group in groups]
    assert ctx.data is not None
    feeds = affordable(ctx.data, WORK, work) if importance == "obs" else ctx.data
    scores: list[np.ndarray] = []
    for part in _chunks(readers):
        _measure(module, [r for place in part for r in readers[place]], feeds, ctx)
        looks: dict[int, Look] = {}
        for place in part:
            made, look = _score(groups[place], readers[place], importance, most, ctx)
            scores.append(made)
            if look is not None and look.loss > 0:
                looks[place] = look
        count = int(np.clip(PROBE_WORK / max(work * len(groups), 1.0), *PROBES)) if work else PROBES[0]
        for half in (0, 1):
            variants = [look.variants[half] for look in looks.values()]
            errors = _errors_on_the_other(module, variants, half, ctx.data, count)
            for look, error in zip(looks.values(), errors, strict=True):
                look.error += error / 2
        for place, look in looks.items():
            scores[place] *= look.error / look.loss
        for place in part:
            for reader in readers[place]:
                reader.moments = ()
    return scores


@dataclass
class Look:
    """A group with PROBED of what may go gone: the sum of scores until then, its readers' matrices fitted to either half of the
    samples, and the error that these make in the model's outputs on the other half."""

    loss: float
    variants: tuple[Variant, Variant]
    error: float = 0.0


def _errors_on_the_other(
    module: Module, variants: Sequence[Variant], half: int, data: Feeds, count: int
) -> list[float]:
    if not variants:
        return []
    return output_errors(module, variants, (Singled if any_number(module) else Thinned)(data, count, 1 - half))


def _readers(group: Group, graph: Graph) -> list[Reader]:
    found = {}
    for member in group.members:
        inside = member.part == CONSUMER and member.node.graph is graph
        layer = sampled_layer(member.node) if inside else ""
        if isinstance(layer, Layer) and layer.value is member.value and member.node.attrs.get("groups", 1) == 1:
            shape = [1] * member.value.rank  # type: ignore[operator]
            shape[member.axis] = -1
            table = np.broadcast_to(member.units.reshape(shape), member.value.shape)  # type: ignore[arg-type]
            found[member.node] = Reader(layer, layer.matrix(table)[0])
    return list(found.values())


def _chunks(readers: Sequence[Sequence[Reader]]) -> Iterator[list[int]]:
    """Places of groups whose second moments fit into memory together."""
    part: list[int] = []
    held = 0
    for place, found in enumerate(readers):
        size = sum(24 * len(reader.units) ** 2 for reader in found)
        if part and held + size > ROOM:
            yield part
            part, held = [], 0
        part.append(place)
        held += size
    if part:
        yield part


def _measure(module: Module, readers: Sequence[Reader], feeds: Feeds, ctx: Context) -> None:
    """The covariances of the readers' inputs, in one run over the data."""
    distinct = list({reader.node: reader for reader in readers}.values())
    if not distinct:
        return
    inputs: list[Value] = [reader.node.operands[0] for reader in distinct]  # type: ignore[misc]
    sums = [np.zeros((2, len(r.units) + 1, len(r.units) + 1)) for r in distinct]
    rng, seen = np.random.default_rng(ctx.seed), 0
    for arrays in Stage(module, feeds).values(inputs):
        samples = max(len(array) for array in arrays)
        for reader, halves, x in zip(distinct, sums, arrays, strict=True):
            share = rows_wanted(len(reader.units), feeds.count, samples)
            (rows,), _ = sample_rows(reader.layer, x, [], share, rng)
            ones = np.concatenate([rows, np.ones((len(rows), 1))], axis=1)
            middle = first_half(len(ones), feeds.count, seen, samples)
            for total, part in zip(halves, (ones[:middle], ones[middle:]), strict=True):
                total += part.T @ part
        seen += samples
    moments = {r.node: tuple(_covariance(a) for a in (h[0] + h[1], *h)) for r, h in zip(distinct, sums, strict=True)}
    for reader in readers:
        reader.moments = moments[reader.node]


def _covariance(sums: np.ndarray) -> np.ndarray:
    """Covariances from sums of products, the last of columns and rows being ones."""
    count = max(sums[-1, -1], 1.0)
    mean = sums[-1, :-1] / count
    return sums[:-1, :-1] / count - np.outer(mean, mean)


def _score(
    group: Group, readers: Sequence[Reader], importance: str, most: float, ctx: Context
) -> tuple[np.ndarray, Look | None]:
    """The scores of a group by its readers, and for obs a look at them halfway."""
    if not readers:
        ctx.notes.append(f"prune: no input of a reader of {group.name} can be sampled: its units are ranked by l2")
        return _by_magnitude(group, "l2", ctx), None
    found = [(r, made) for r in readers if importance == "obs" and (made := _quadratic(r, group.size)) is not None]
    if not found:
        return sum((_wanda(reader, group.size) for reader in readers), np.zeros(group.size)), None
    quadratics = [made for _, made in found]
    count = min(group.size - 1, int(np.ceil(group.size * most)))
    damping = best_damping(quadratics, np.random.default_rng(ctx.seed))
    losses = removal_losses(quadratics, count, damping)
    gone = np.argsort(losses, kind="stable")[: int(np.ceil(count * PROBED))]
    first, second = (_variant(found, gone, damping, half) for half in (0, 1))
    look = Look(float(losses[gone].sum()), (first, second))
    stay = ~np.isfinite(losses)
    losses[stay] = np.max(losses[~stay], initial=0.0) * 1e6 + 1.0  # never before the others
    return losses, look


def _variant(found: Sequence[tuple[Reader, Quadratic]], gone: np.ndarray, damping: float, half: int) -> Variant:
    """The readers' matrices without the units `gone`, fitted anew to one half of the samples."""
    made: dict[Node, np.ndarray] = {}
    for reader, quadratic in found:
        columns = quadratic.columns[gone].reshape(-1)
        (matrix,) = refitted(quadratic.matrix, reader.moments[1 + half], columns, [damping])
        made[reader.node] = reader.layer.restore(matrix).astype(reader.layer.array().dtype)
    return made


def _wanda(reader: Reader, size: int) -> np.ndarray:
    deviation = np.sqrt(np.maximum(np.diagonal(reader.moments[0]), 0.0))
    columns = deviation * np.linalg.norm(reader.layer.matrix(reader.layer.array()).astype(np.float64), axis=0)
    total, own = np.zeros(size), reader.units >= 0
    np.add.at(total, reader.units[own], columns[own] ** 2)
    return np.sqrt(total)


def _quadratic(reader: Reader, size: int) -> Quadratic | None:
    """The reader's error as a share of its outputs' variance; None where units differ in columns."""
    order = np.argsort(reader.units, kind="stable")
    order = order[reader.units[order] >= 0]
    each = len(order) // size
    if not each or not np.array_equal(np.bincount(reader.units[order], minlength=size), np.full(size, each)):
        return None
    matrix = reader.layer.matrix(reader.layer.array()).astype(np.float64)
    moment, first, second = reader.moments
    weight = 1.0 / max(error_of(matrix, moment), 1e-30)
    return Quadratic(moment, matrix, order.reshape(size, -1), weight, (first, second))
