"""Compression of a module in memory: what `anyir.compress` and `irc compress` do between reading and writing a model.

    done = compress(module, recipe, data=data)        # done.module, done.loss, done.layers

Optimise first (norms are folded and dead weights gone before anything is lost), run the recipe's steps, measure the loss
on samples that the steps have not seen, and look at every layer. No files, no printing; what is written is the driver's.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from .. import __version__
from ..ir.analysis import op_counts, weight_bytes
from ..ir.cost import LAYERS, macs
from ..ir.dims import symbols
from ..ir.errors import AnyIRError, NumericsError, UsageError
from ..ir.graph import Module
from ..ir.provenance import note
from ..kernels.inputs import sample_inputs, symbol_sizes
from ..kernels.threads import one_thread
from ..passes.manager import Context, Instrument, find_pass, run_pipeline, run_step
from ..passes.pipeline import Step
from ..passes.presets import JOINING, preset
from ..passes.select import layer_name, select, selector
from .data import Dataset, check_disjoint, open_data
from .evaluate import Labelled, Loss, measure
from .layers import LayerRow, errors, facts, pair_layers, stored_bytes
from .preprocess import parse_preprocess
from .recipe import Recipe, is_lossy, most

Progress = Callable[[str, str], None]

#: Samples that the loss is measured on where the recipe does not say: as many as take this many MACs, within bounds.
EVALUATED, LEAST, MOST = 20_000_000_000, 64, 1000
#: ... and of these, how many the layers are looked at with.
LOOKED_AT = 8
#: Samples of random numbers where there is no data.
MADE_UP = 8
#: Passes after which layers can no longer be compared value by value: they are looked at before.
RESPELLING = frozenset({"integer-ops"})
#: Lossless passes that scale what layers pass on to each other: after a lossy one there is nothing to compare layers with.
RESCALING = frozenset({"equalize"})
#: Seconds between two lines of progress.
PATIENCE = 5.0
#: The least share of a source with too few samples that is held out.
HELD_OUT = 0.25


def _silent(stage: str, text: str) -> None:
    """The progress of a library call: none."""


@dataclass
class StepRow:
    """What one step did."""

    text: str
    seconds: float
    ops: tuple[int, int]
    bytes: tuple[int, int]
    changed: bool


@dataclass
class Verdict:
    """One limit of the recipe: what was asked, what came out."""

    what: str
    limit: str
    found: str
    passed: bool


@dataclass
class Compression:
    """The result. `source` is the module as it came, `dense` the one before the first lossy step, that the layers are compared
    with, `looked_at` the compressed one before its layers were spelt as integer operators (None: `module` itself).
    `rescaled` is the step after which layers cannot be compared."""

    source: Module
    module: Module
    recipe: Recipe
    dense: Module | None = None
    looked_at: Module | None = None
    rescaled: str = ""
    steps: list[StepRow] = field(default_factory=list)
    layers: list[LayerRow] = field(default_factory=list)
    loss: Loss | None = None
    calibration: Calibration | None = None
    macs: tuple[int, int] | None = None
    weight_bytes: tuple[int, int] = (0, 0)
    records: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    stats: Counter[str] = field(default_factory=Counter)
    verdicts: list[Verdict] = field(default_factory=list)

    @property
    def failed(self) -> list[Verdict]:
        return [verdict for verdict in self.verdicts if not verdict.passed]


@dataclass(frozen=True)
class Calibration:
    """What the steps saw."""

    count: int
    digest: str


class LimitsExceeded(NumericsError):
    """The result loses or costs more than the recipe allows; `result` has everything that was measured."""

    code = "N030"

    def __init__(self, result: Compression, where: str = "") -> None:
        told = "; ".join(f"{v.what} {v.found}, limit {v.limit}" for v in result.failed)
        super().__init__(told, where=where, hint="nothing was written")
        self.result = result


def compress(
    module: Module,
    recipe: Recipe,
    *,
    data: Dataset | None = None,
    evaluation: Dataset | None = None,
    progress: Progress = _silent,
    instruments: Sequence[Instrument] = (),
    layers: bool = True,
    origin: str = "",
) -> Compression:
    """Run `recipe` on `module`, in place, and measure what it costs and saves. `origin` is a digest of what the module was
    read from, for its metadata.

    `data` are the samples that steps work from, `evaluation` others to measure on (seeded random inputs without them).
    Raises UsageError (R022) for layers that are not there, (R024) for steps that need data and have none.
    """
    done = Compression(module.clone(), module, recipe)
    ctx = Context(level=recipe.level, seed=recipe.data.seed)
    _optimise(done, ctx, progress, instruments)
    done.dense = ctx.reference = module.clone()
    _check_layers(recipe, module)
    if data is not None:
        done.calibration = Calibration(data.count, data.digest)
        ctx.data = _Watched(data, progress)
    lossy = False
    for step in recipe.steps:
        if step.name in RESPELLING and done.looked_at is None:
            done.looked_at = module.clone()
        _run(step, done, ctx, progress, instruments)
        lossy = lossy or is_lossy(step)
        if not lossy:
            done.dense = ctx.reference = module.clone()
        elif step.name in RESCALING:
            done.rescaled = step.name
    module.drop_unused_weights()
    done.records, done.notes, done.stats = ctx.records, done.notes + ctx.notes, ctx.stats
    _measure(done, evaluation, progress, layers)
    _provenance(done, origin)
    return done


def _optimise(done: Compression, ctx: Context, progress: Progress, instruments: Sequence[Instrument]) -> None:
    before = op_counts(done.module).total()
    run_pipeline(done.module, preset(ctx.level, JOINING), ctx, instruments)
    progress(f"O{ctx.level}", f"{before} -> {op_counts(done.module).total()} ops")


def prepared(module: Module, recipe: Recipe) -> Module:
    """`module`, optimised in place as before the first step, with every layer that the recipe names. Raises UsageError."""
    run_pipeline(module, preset(recipe.level, JOINING), Context(level=recipe.level))
    _check_layers(recipe, module)
    return module


def planned_layers(module: Module, recipe: Recipe) -> list[tuple[str, str, int, int | None, str]]:
    """Every layer with its op, bytes, MACs, and the steps whose `where` takes it."""
    sizes = sample_sizes(module)
    lossy = [(step.name, selector(step.options.get("where", ""))) for step in recipe.lossy()]
    return [
        (
            layer_name(node),
            node.name,
            stored_bytes(node),
            macs(node, sizes),
            ", ".join(n for n, fits in lossy if fits(node)),
        )
        for node in module.all_nodes()
        if node.name in LAYERS
    ]


def planned_groups(module: Module, recipe: Recipe) -> list[tuple[str, int, str, str, str]]:
    """The groups of channels that pruning would cut together, where the recipe prunes channels: name, units, kind, the
    layers in it, and why it cannot be cut."""
    declared = {step.name: step for step in recipe.steps}
    if "prune" not in declared or declared["prune"].options.get("structure", "channel") != "channel":
        return []
    from ..passes.prune.groups import find_groups

    rows = []
    for group in find_groups(module, pinned=True):
        layers = dict.fromkeys(layer_name(member[0]) for member in (*group.producers, *group.consumers))
        rows.append((group.name, group.size, group.kind, ", ".join(layers), group.pinned or ""))
    return rows


def _check_layers(recipe: Recipe, module: Module) -> None:
    """Every `where` of the recipe fits a layer, before anything slow is done. Raises UsageError (R022)."""
    for step in recipe.steps:
        for where in _expressions(step):
            try:
                select(module, where)
            except UsageError as error:
                raise error.at(f"step {step.name}") from None


def _expressions(step: Step) -> Iterator[str]:
    if step.options.get("where"):
        yield step.options["where"]
    overrides = step.options.get("overrides") or ()
    if isinstance(overrides, str):  # 'name=stem: float; op=gemm: int16'
        overrides = [part.rpartition(":")[0] for part in overrides.split(";") if part.strip()]
    yield from overrides


def _run(step: Step, done: Compression, ctx: Context, progress: Progress, instruments: Sequence[Instrument]) -> None:
    ops, weights, started = op_counts(done.module).total(), weight_bytes(done.module), time.perf_counter()
    if isinstance(ctx.data, _Watched):
        ctx.data.stage = step.name
    changed = run_step(done.module, step, ctx, instruments)
    seconds = time.perf_counter() - started
    after = op_counts(done.module).total(), weight_bytes(done.module)
    done.steps.append(StepRow(str(step), seconds, (ops, after[0]), (weights, after[1]), changed))
    change = f", weights {100 * (after[1] / weights - 1):+.0f} %" if weights and after[1] != weights else ""
    progress(step.name, f"{ops} -> {after[0]} ops{change}, {seconds:.1f} s")


class _Watched:
    """Feeds that say how far a pass has come, when it takes long."""

    def __init__(self, data: Dataset, progress: Progress) -> None:
        self.data = data
        self.progress = progress
        self.stage = ""
        self.count = data.count
        self.digest = data.digest

    def __getattr__(self, name: str) -> Any:
        return getattr(self.data, name)

    def batches(self, size: int | None = None) -> Iterator[Mapping[str, np.ndarray]]:
        seen, told = 0, time.perf_counter()
        for batch in self.data.labelled(size):
            yield batch.feeds
            seen += batch.count
            if time.perf_counter() - told > PATIENCE:
                told = time.perf_counter()
                self.progress(self.stage, f"{seen}/{self.count} samples")


# ------------------------------------------------------------------------------------------------------------- data


def open_sets(
    module: Module, recipe: Recipe, source: Any = None, evaluation: Any = None
) -> tuple[Dataset | None, Dataset | None]:
    """Calibration and evaluation samples, disjoint. `source` and `evaluation` are what `open_data` takes, by default what the
    recipe names. One source is split by the hash of its samples. Raises UsageError where a step needs data (R024)."""
    choice = recipe.data
    source = choice.source if source is None else source
    other = choice.evaluation if evaluation is None else evaluation
    if source is None:
        _refuse_without_data(recipe)
        held_out = _opened(other, module, recipe, None) if _is_source(other) else None
        return None, held_out
    if _is_source(other):
        data = _opened(source, module, recipe, choice.count)
        held_out = _opened(other, module, recipe, None)
        check_disjoint(data, held_out)
        return data, held_out
    whole = open_data(source, module, preprocess=choice.preprocess, seed=choice.seed)
    distinct = len(set(whole.hashes))
    counts = shared_out(distinct, choice.count, other if isinstance(other, int) else evaluated(module))
    if not all(counts):
        raise UsageError(
            f"{_samples(whole.count, distinct)} is not enough: some are needed to calibrate with and others to measure on",
            hint="give more data, or other samples with --eval-data",
        )
    first, second = whole.split(counts, choice.seed)
    return first, second


def _samples(count: int, distinct: int) -> str:
    if distinct > 1:
        return f"none of {distinct} samples to measure on"
    return "1 sample" if count == 1 else f"the same sample {count} times"


def _opened(source: Any, module: Module, recipe: Recipe, limit: int | None) -> Dataset:
    return open_data(source, module, preprocess=recipe.data.preprocess, seed=recipe.data.seed, limit=limit)


def _is_source(evaluation: Any) -> bool:
    return evaluation is not None and not isinstance(evaluation, int)


def evaluated(module: Module) -> int:
    """How many samples the loss of `module` is measured on by default: small models are cheap to run on many."""
    work = _total(module, sample_sizes(module))
    return min(MOST, max(LEAST, EVALUATED // max(work, 1)))


def shared_out(available: int, calibrate: int, evaluate: int) -> tuple[int, int]:
    """How many samples each use gets: what it asks for, or of too few a quarter for the evaluation."""
    if available >= calibrate + evaluate:
        return calibrate, evaluate
    held_out = max(1, round(available * HELD_OUT)) if available > 1 else 0
    first = min(calibrate, available - held_out)
    return first, min(evaluate, available - first)


#: Steps that cannot do without data, told by their options.
NEEDS_DATA: dict[str, Callable[[Mapping[str, Any]], bool]] = {
    "quantize": lambda options: options["activations"] not in ("dynamic", "none"),
}


def needs_data(recipe: Recipe) -> Step | None:
    """The first step that cannot do without calibration data."""
    for step in recipe.steps:
        declared = find_pass(step.name).options
        options = {name: step.options.get(name, parameter.default) for name, parameter in declared.items()}
        if step.name in NEEDS_DATA and NEEDS_DATA[step.name](options):
            return step
    return None


def _refuse_without_data(recipe: Recipe) -> None:
    step = needs_data(recipe)
    if step is not None:
        raise UsageError(
            f"{step} needs samples of the model's inputs to find the ranges of its activations",
            code="R024",
            hint="give --data, or use --quantize dynamic or int8-weights, which need none",
        )


# --------------------------------------------------------------------------------------------------------- measuring


def sample_sizes(module: Module, feeds: Mapping[str, Any] | None = None) -> dict[str, int]:
    """Sizes of the open dims for one sample: batches are 1, the others what `feeds` have, else what makes the model run."""
    graph, sig = module.signature.graph, module.signature
    batches = {s for value in graph.inputs if value.shape for s in symbols(value.shape[0])}
    sizes = {**symbol_sizes(module, graph, {}), **dict.fromkeys(batches, 1)}
    for slot, value in zip(sig.inputs, graph.inputs, strict=True):
        given = getattr((feeds or {}).get(slot.name), "shape", None)
        for dim, size in zip(value.shape or (), given or (), strict=False):
            if not isinstance(dim, int) and symbols(dim) == (str(dim),) and str(dim) not in batches:
                sizes[str(dim)] = size
    return sizes


class MadeUp:
    """Samples of random numbers, for models that come without data: what a layer does to them is seen, what the model is
    worth is not."""

    digest = ""

    def __init__(self, module: Module) -> None:
        sizes = sample_sizes(module)
        self.made = [Labelled(sample_inputs(module, seed=seed, sizes=sizes)) for seed in range(MADE_UP)]
        self.count = len(self.made)

    def labelled(self, size: int | None = None) -> Iterator[Labelled]:
        return iter(self.made)

    def batches(self, size: int | None = None) -> Iterator[Mapping[str, np.ndarray]]:
        return (batch.feeds for batch in self.made)


@one_thread()
def _measure(done: Compression, evaluation: Dataset | None, progress: Progress, layers: bool) -> None:
    """The loss, and what each layer costs and does wrong."""
    try:
        samples = MadeUp(done.source) if evaluation is None else evaluation
    except AnyIRError as error:
        done.notes.append(f"the loss was not measured: {error.message}")
        samples = None
    sizes = sample_sizes(done.source, next(iter(samples.batches(1)), None) if samples is not None else None)
    done.macs = _total(done.source, sizes), _total(done.module, sizes)
    done.weight_bytes = weight_bytes(done.source), weight_bytes(done.module)
    pairs = pair_layers(done.dense, done.module)  # type: ignore[arg-type]
    done.layers = [facts(pair, sizes) for pair in pairs]
    if samples is None:
        return
    on = f"{samples.count} held-out samples" if evaluation is not None else f"{samples.count} inputs of random numbers"
    done.loss = measure(done.source, done.module, samples.labelled(), on, _Told(progress, samples.count))
    done.loss.given, done.loss.digest = evaluation is not None, samples.digest
    if layers:
        _look(done, islice(samples.batches(1), LOOKED_AT))


@dataclass
class _Told:
    """Progress of the evaluation, when it takes long."""

    progress: Progress
    count: int
    at: float = field(default_factory=time.perf_counter)

    def __call__(self, done: int) -> None:
        if time.perf_counter() - self.at > PATIENCE:
            self.at = time.perf_counter()
            self.progress("evaluate", f"{done}/{self.count} samples")


def _total(module: Module, sizes: Mapping[str, int]) -> int:
    return sum(macs(node, sizes) or 0 for node in module.all_nodes())


def _look(done: Compression, batches: Iterator[Mapping[str, np.ndarray]]) -> None:
    """Own and total error of each layer, and what passes have recorded of its sensitivity."""
    assert done.dense is not None
    told = {row["layer"]: row["sqnr"] for row in done.records if "layer" in row and "sqnr" in row}
    for row in done.layers:
        row.sensitivity = told.get(row.name)
    if done.rescaled:
        done.notes.append(f"layers are not compared: {done.rescaled} came after a lossy step")
        return
    compressed = done.looked_at or done.module
    kept = {row["layer"]: row["channels"] for row in done.records if "channels" in row}
    found = errors(done.dense, compressed, pair_layers(done.dense, compressed), batches, kept)
    for row in done.layers:
        if row.name in found:
            row.own, row.total = found[row.name].own.db, found[row.name].total.db


# -------------------------------------------------------------------------------------------------- limits, provenance


def judge(done: Compression, file_bytes: tuple[int, int] | None = None) -> list[Verdict]:
    """What the recipe's limits make of the result; `file_bytes` are those of the source's and the written files."""
    limits, loss = done.recipe.verify, done.loss
    made = []
    if loss is not None:
        agreement = loss.judged.agreement.value if loss.judged is not None and loss.judged.agreement else None
        made += _at_most("drop in points", limits.drop, loss.drop)
        made += _at_least("agreement", limits.agreement, agreement)
        made += _at_least("cosine", limits.cosine, loss.cosine)
        made += _at_least("SQNR in dB", limits.sqnr, loss.sqnr)
        made += _at_most("largest difference", limits.max_abs, loss.max_abs)
    budget = done.recipe.budget
    for what, limit, pair in (
        ("bytes of files", budget.file, file_bytes),
        ("bytes of weights", budget.weights, done.weight_bytes),
        ("MACs", budget.macs, done.macs),
    ):
        if limit is not None and pair is not None:
            made += _at_most(what, most(limit, pair[0]), pair[1])
    return made


def _at_most(what: str, limit: float | None, found: float | None) -> list[Verdict]:
    return [] if limit is None else [_verdict(what, "at most", limit, found, found is not None and found <= limit)]


def _at_least(what: str, limit: float | None, found: float | None) -> list[Verdict]:
    return [] if limit is None else [_verdict(what, "at least", limit, found, found is not None and found >= limit)]


def _verdict(what: str, relation: str, limit: float, found: float | None, passed: bool) -> Verdict:
    shown = "cannot be measured: no output ranks classes" if found is None else f"{found:.6g}"
    return Verdict(what, f"{relation} {limit:.6g}", shown, passed)


def preprocess_text(recipe: Recipe) -> str:
    """The recipe's preprocessing in its one spelling. Raises UsageError."""
    made = parse_preprocess(recipe.data.preprocess)
    return "" if made is None else str(made)


def _provenance(done: Compression, origin: str) -> None:
    """Where the model comes from, in its own metadata: the recipe, what it was calibrated with and what came out."""
    told = {"recipe": done.recipe.text, "recipe.sha256": done.recipe.digest, "version": __version__}
    if origin:
        told["source.sha256"] = origin
    if done.calibration is not None:
        told |= {"calibration": done.calibration.digest, "calibration.samples": str(done.calibration.count)}
    if preprocess := preprocess_text(done.recipe):
        told["preprocess"] = preprocess
    note(done.module, told)
