"""After least squares layer by layer: the layers that pruning has cut, all together, by the error of the model's outputs.

Layer by layer all of a layer's outputs count alike, and none gives way to what a later one needs. Here the squared error of
the model's outputs beside the dense model's, as a share of their variance, descends: some hundred steps (Adam, 1412.6980)
along the principal directions of each layer's inputs, where Adam's rates fit (as in SOAP, 2409.11321). No labels; images are
shown shifted by up to a pixel. An eighth of the samples is not fitted to: what does no good there is not done. Models for
which the budget allows too few steps keep what least squares gave. Imports no framework.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..ir.builder import Builder
from ..ir.errors import Unsupported
from ..ir.graph import Module, Node, Value
from ..ir.tensor import ArrayTensor
from ..kernels.run import run
from ..passes.autodiff import gradients
from ..passes.manager import Context, Feeds
from ..passes.prune.layers import Layer
from .images import image_axis, shifted
from .rows import any_number, columns_of, rows_wanted, sample_rows, sampled_layer
from .stages import Stage

#: Steps, samples of each, and the share of a layer's root mean square that a step changes at most.
STEPS, BATCH, RATE = 300, 64, 0.02
#: Multiplications that all steps may make, and how often a sample may be seen; fewer steps than LEAST are not worth it.
WORK, PASSES, LEAST = 200e9, 24, 40
#: Versions of images, each with so many different shifts.
VERSIONS, SHIFTS = 4, 8
#: Steps until the rate is full, after which it falls to zero; and Adam's two memories.
WARM, MEMORY, SQUARES = 20, 0.9, 0.99
#: One in so many samples judges; with an error below this there is nothing to win.
JUDGES, ENOUGH = 8, 1e-3
#: Bytes of samples that are held.
ROOM = 64 << 20
#: What turns numbers into answers: the numbers are fitted.
ANSWERS = frozenset({"softmax", "log_softmax", "sigmoid"})

Arrays = Mapping[str, np.ndarray]


def refine(module: Module, dense: Module, pairs: Mapping[Node, Node], ctx: Context, macs: tuple[float, float]) -> None:
    """Fit the layers of `module` that are smaller than their `pairs` in `dense` to the dense model's outputs.

    `macs` are the multiplications of one sample in the dense and in the pruned model. Needs `ctx.data`.
    """
    assert ctx.data is not None
    nodes = [node for node in module.signature.graph.nodes() if node in pairs and _is_cut(node, pairs[node])]
    count = _steps(ctx.data.count, *macs)
    samples = _samples(module, ctx.data) if nodes and count >= LEAST else None
    if samples is None:
        return
    rng = np.random.default_rng(ctx.seed)
    plain, judged = _apart(samples)
    fitted = _varied(plain, rng)
    try:
        truth = _answers(dense)
        goals, answers = _run(truth, fitted), _run(truth, judged)
        descent = Descent(module, nodes, goals, ctx)
    except Unsupported as error:
        ctx.notes.append(f"prune: the layers are not fitted together: {error}")
        return
    before = descent.error(judged, answers)
    if not before > ENOUGH:
        return
    for number in range(1, count + 1):
        chosen = rng.integers(0, _count(fitted), BATCH)
        share = min(number / WARM, 1.0) * (1 - (number - 1) / count)
        descent.step(_of(fitted, chosen), _of(goals, chosen), number, share)
    after = descent.error(judged, answers)
    if after < before:
        descent.store(module)
        ctx.stats["refine"] += len(nodes)
    ctx.records.append({"pass": "refine", "steps": count, "error_before": before, "error_after": after})
    ctx.notes.append(
        f"prune: {len(nodes)} layers fitted together: {100 * before:.2f}% of the outputs' variance was off on samples that "
        f"this does not see, {100 * min(after, before):.2f}% is"
    )


def _steps(samples: int, dense: float, pruned: float) -> int:
    """How many steps so many samples and the budget allow, where a sample makes so many multiplications in either model."""
    left = WORK - VERSIONS * samples * dense
    return min(STEPS, PASSES * samples // BATCH, int(left / max(3 * BATCH * pruned, 1.0)))


def _is_cut(node: Node, dense: Node) -> bool:
    """Whether pruning has taken rows or columns of the node's matrix, and that serves no other."""
    layer = sampled_layer(node)
    if not isinstance(layer, Layer) or layer.value.n_uses > 1 or node.attrs.get("groups", 1) != 1:
        return False
    return layer.value.shape != dense.operands[layer.index].shape  # type: ignore[union-attr]


# --------------------------------------------------------------------------------------------------------------- samples


def _samples(module: Module, feeds: Feeds) -> dict[str, np.ndarray] | None:
    """The samples, or as many of the first as there is room for; None where they do not go together in any number."""
    held: list[Arrays] = []
    room = ROOM
    for batch in feeds.batches() if any_number(module) else ():
        room -= sum(array.nbytes for array in batch.values())
        if room < 0 or (held and any(held[0][name].shape[1:] != array.shape[1:] for name, array in batch.items())):
            break
        held.append(batch)
    if sum(_count(batch) for batch in held) < BATCH:
        return None
    return {name: np.concatenate([batch[name] for batch in held]) for name in held[0]}


def _count(samples: Arrays) -> int:
    return len(next(iter(samples.values())))


def _of(samples: Arrays, places: Any) -> dict[str, np.ndarray]:
    return {name: array[places] for name, array in samples.items()}


def _apart(samples: Arrays) -> tuple[Arrays, Arrays]:
    """All but the last eighth, and that: neighbours, often alike, are on one side."""
    middle = _count(samples) - _count(samples) // JUDGES
    return _of(samples, slice(middle)), _of(samples, slice(middle, None))


def _varied(samples: Arrays, rng: np.random.Generator) -> Arrays:
    """The samples, and where images are among them more versions, images shifted."""
    axes = {name: image_axis(array) for name, array in samples.items()}
    ways = rng.integers(-1, 2, (VERSIONS - 1 if any(axes.values()) else 0, SHIFTS, 2))
    return {
        name: np.concatenate([array, *(shifted(array, axes[name], each) for each in ways)])
        for name, array in samples.items()
    }


def _answers(module: Module) -> Module:
    """A clone that gives out what its float outputs are made of, called "0", "1" ... Raises Unsupported where there are none,
    or one has no row for each sample."""
    made = module.clone()
    signature = made.signature
    samples = signature.graph.inputs[0].shape[0]  # type: ignore[index]
    floats = [v for v in signature.graph.outputs if v.weight is None and v.dtype is not None and v.dtype.is_float]
    ends = [v.node.operands[0] if v.node is not None and v.node.name in ANSWERS else v for v in floats]
    if not ends or any(not v.shape or v.shape[0] != samples for v in ends):  # type: ignore[union-attr]
        raise Unsupported("a model whose float outputs are not rows, one for each sample")
    signature.graph.set_outputs(ends)  # type: ignore[arg-type]
    made.signatures.clear()
    made.add_signature("answers", signature.graph, signature.inputs, [str(place) for place in range(len(ends))])
    return made


def _run(module: Module, samples: Arrays) -> dict[str, np.ndarray]:
    parts = [run(module, part) for part in _parts(samples)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _parts(samples: Arrays) -> Iterator[dict[str, np.ndarray]]:
    for start in range(0, _count(samples), BATCH):
        yield {name: array[start : start + BATCH] for name, array in samples.items()}


# --------------------------------------------------------------------------------------------------------------- descent


class Cut:
    """A layer with its matrix and bias as one [O, D + 1] (without bias [O, D]), and how far it has come."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        bias = layer.node.operands[2] if layer.node.name != "matmul" and len(layer.node.operands) > 2 else None
        self.bias = bias if bias is not None and bias.is_const and bias.n_uses == 1 else None
        self.values = [layer.value, *([] if self.bias is None else [self.bias])]
        self.matrix = self.joined([value.array() for value in self.values])
        self.rate = RATE * float(np.sqrt(np.square(layer.array(), dtype=np.float64).mean()))
        #: Columns that the steps go along: the principal directions of the inputs, once they are known.
        self.directions = np.eye(self.matrix.shape[1])
        self.mean = self.square = np.zeros(self.matrix.shape)

    def joined(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        matrix = self.layer.matrix(arrays[0]).astype(np.float64)
        columns = [array.reshape(-1, 1) for array in arrays[1:]]
        return np.concatenate([matrix, *columns], axis=1)

    def apart(self) -> list[np.ndarray]:
        """The weights and the bias in their own shapes and types."""
        columns = columns_of(self.layer)
        parts = [self.layer.restore(self.matrix[:, :columns]), *self.matrix[:, columns:].T]
        return [
            part.reshape(value.array().shape).astype(value.dtype.numpy)  # type: ignore[union-attr]
            for part, value in zip(parts, self.values, strict=True)
        ]

    def step(self, slopes: Sequence[np.ndarray], number: int, share: float) -> None:
        slope = self.joined(slopes) @ self.directions
        self.mean = MEMORY * self.mean + (1 - MEMORY) * slope
        self.square = SQUARES * self.square + (1 - SQUARES) * np.square(slope)
        size = np.sqrt(self.square / (1 - SQUARES**number)) + 1e-30
        self.matrix -= share * self.rate * (self.mean / (1 - MEMORY**number) / size) @ self.directions.T


class Descent:
    """The squared error of a module's answers and its derivatives by the layers of `nodes`: a graph of its own, whose
    constants follow. Raises Unsupported where something on the way has no derivative."""

    def __init__(self, module: Module, nodes: Sequence[Node], truth: Arrays, ctx: Context) -> None:
        self.module = _answers(module)
        twins = dict(zip(module.all_nodes(), self.module.all_nodes(), strict=True))
        self.nodes = nodes
        self.cuts = [Cut(_layer(twins[node])) for node in nodes]
        for cut, directions in zip(self.cuts, _directions(module, nodes, self.cuts, ctx), strict=True):
            cut.directions = directions
        self._derive(truth)

    def _derive(self, truth: Arrays) -> None:
        """Add the sum of squared errors, each output's as a share of its variance in `truth`, and its derivatives."""
        signature = self.module.signature
        graph = signature.graph
        ends = list(graph.outputs)
        b = Builder(graph, before=graph.return_node)
        errors: list[Value] = []
        for place, end in enumerate(ends):
            goal = graph.add_input(end.type)
            energy = float(np.var(truth[str(place)].astype(np.float64), axis=0).sum())
            share = b.const(np.asarray(1 / energy if energy > 0 else 0.0, end.dtype.numpy))  # type: ignore[union-attr]
            errors.append(b.mul(b.reduce_sum(b.square(b.sub(end, goal)), keepdims=False), share))
        error = functools.reduce(b.add, errors)
        slopes = gradients(b, error, [value for cut in self.cuts for value in cut.values])
        graph.set_outputs([error, *slopes])
        inputs: list[Any] = [*signature.inputs, *(f"goal {place}" for place in range(len(ends)))]
        self.module.signatures.clear()
        self.module.add_signature("slopes", graph, inputs, ["error", *(str(place) for place in range(len(slopes)))])

    def _at(self, samples: Arrays, truth: Arrays) -> dict[str, np.ndarray]:
        return run(self.module, {**samples, **{f"goal {name}": array for name, array in truth.items()}})

    def error(self, samples: Arrays, truth: Arrays) -> float:
        """The error per sample, as a share of the variance."""
        pairs = zip(_parts(samples), _parts(truth), strict=True)
        return float(sum(self._at(x, y)["error"] for x, y in pairs)) / _count(samples)

    def step(self, samples: Arrays, truth: Arrays, number: int, share: float) -> None:
        """One step of every layer, the first being `number` 1, at this share of the full rate."""
        found = self._at(samples, truth)
        place = 0
        for cut in self.cuts:
            cut.step([found[str(place + i)] for i in range(len(cut.values))], number, share)
            place += len(cut.values)
            _put(self.module, cut.values, cut.apart())

    def store(self, module: Module) -> None:
        """Give the layers of the module that this was made from what has been found."""
        for cut, node in zip(self.cuts, self.nodes, strict=True):
            _put(module, Cut(_layer(node)).values, cut.apart())


def _layer(node: Node) -> Layer:
    found = sampled_layer(node)
    assert isinstance(found, Layer)
    return found


def _put(module: Module, values: Sequence[Value], arrays: Sequence[np.ndarray]) -> None:
    for value, array in zip(values, arrays, strict=True):
        module.set_weight(value.weight, ArrayTensor(array))  # type: ignore[arg-type]


def _directions(module: Module, nodes: Sequence[Node], cuts: Sequence[Cut], ctx: Context) -> list[np.ndarray]:
    """The principal directions of each layer's inputs, with a one where it has a bias: columns of [D, D]."""
    feeds = ctx.data
    assert feeds is not None
    totals = [np.zeros(cut.directions.shape) for cut in cuts]
    rng = np.random.default_rng(ctx.seed)
    for arrays in Stage(module, feeds).values([node.operands[0] for node in nodes]):  # type: ignore[misc]
        for node, total, x in zip(nodes, totals, arrays, strict=True):
            layer = _layer(node)
            (rows,), _ = sample_rows(layer, x, [], rows_wanted(columns_of(layer), feeds.count, len(x)), rng)
            ones = np.ones((len(rows), len(total) - rows.shape[1]))
            rows = np.concatenate([rows, ones], axis=1)
            total += rows.T @ rows
    return [np.linalg.eigh(total)[1] for total in totals]
