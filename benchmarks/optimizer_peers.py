"""The optimiser beside its peers on real models: who does what, measured in child processes, and one table of it.

    python benchmarks/optimizer_peers.py [MODEL ...]                 the table, nothing asserted
    python benchmarks/optimizer_peers.py --latency [MODEL ...]       onnxruntime's CPU time on the files

A tool runs in a process of its own, warmed up on a small model, and each of its tries in a fork of that: imports are not
counted, a crash takes nothing else along. Seconds are CPU seconds of load, optimise and save, the better of two tries.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anyir.tests.support import exported_large
from anyir.tests.support.model_cases import CASES, source
from anyir.tests.support.models import cache_dir

#: Longer than the slowest peer needs for any of the models.
TIMEOUT = 300
TRIES = 2
OWN, RAISED = "ours", "raised"


# ----------------------------------------------------------------------------------------------------------------- models


def large_folder() -> Path:
    return cache_dir() / "exported-large"


def path_of(name: str, folder: Path) -> Path:
    """The file of a model; the large exported ones are made in the cache of models. Skips the test where it cannot be had."""
    if name not in exported_large.SIZES:
        return source(name, folder)
    if not (large_folder() / f"{name}.onnx").exists() and (why := exported_large.available()):
        import pytest

        pytest.skip(why)
    return exported_large.source(name, large_folder())


def names() -> list[str]:
    """Every model that can be had here."""
    made = [n for n in exported_large.SIZES if (large_folder() / f"{n}.onnx").exists()]
    return [*CASES, *(exported_large.SIZES if exported_large.available() is None else made)]


# ------------------------------------------------------------------------------------------------------------------ tools


def _ours(source: str, target: str) -> None:
    import anyir

    anyir.save(anyir.optimize(anyir.load(source)), target)


def _raised(source: str, target: str) -> None:
    import anyir

    anyir.save(anyir.optimize(anyir.load(source)), target, raise_opset=True)


def _onnxsim(source: str, target: str) -> None:
    import onnx
    import onnxsim

    onnx.save(onnxsim.simplify(source)[0], target)


def _onnxslim(source: str, target: str) -> None:
    import onnxslim

    onnxslim.slim(source, target)


def _onnxscript(source: str, target: str) -> None:
    import onnx
    import onnxscript.optimizer

    onnx.save(onnxscript.optimizer.optimize(onnx.load(source)), target)


def _onnxoptimizer(source: str, target: str) -> None:
    import onnx
    import onnxoptimizer

    onnx.save(onnxoptimizer.optimize(onnx.load(source), onnxoptimizer.get_fuse_and_elimination_passes()), target)


def _onnxruntime(source: str, target: str) -> None:
    """Its offline optimisation, the part whose files run elsewhere too."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = target
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


TOOLS: dict[str, Callable[[str, str], None]] = {
    OWN: _ours,
    RAISED: _raised,
    "onnxsim": _onnxsim,
    "onnxslim": _onnxslim,
    "onnxscript": _onnxscript,
    "onnxoptimizer": _onnxoptimizer,
    "onnxruntime": _onnxruntime,
}
PEERS = tuple(tool for tool in TOOLS if tool not in (OWN, RAISED))


@dataclass
class Outcome:
    """What a tool made of a model: nodes, bytes, CPU seconds; or why it made nothing."""

    nodes: int = 0
    size: int = 0
    seconds: float = 0.0
    opset: int = 0
    error: str = ""


@dataclass
class Row:
    name: str
    source: Path
    nodes: int
    size: int
    made: dict[str, Outcome] = field(default_factory=dict)

    def best_peer(self) -> int:
        """The fewest nodes among the peers that wrote a file."""
        return min((o.nodes for t, o in self.made.items() if t in PEERS and not o.error), default=self.nodes)

    def ratio(self, tool: str) -> float:
        """Nodes over the source's; 1 where the tool wrote nothing."""
        outcome = self.made[tool]
        return 1.0 if outcome.error else outcome.nodes / self.nodes

    @property
    def wins(self) -> bool:
        return self.made[OWN].nodes <= self.best_peer()


def count_nodes(model: Any) -> int:
    """Nodes of graphs, subgraphs and functions, `Constant` not counted."""
    total, pending = 0, [model.graph, *model.functions]
    while pending:
        for node in pending.pop().node:
            total += node.op_type != "Constant"
            for attribute in node.attribute:
                pending += [attribute.g] if attribute.HasField("g") else []
                pending += attribute.graphs
    return total


def board(wanted: Sequence[str], folder: Path, tools: Sequence[str] = tuple(TOOLS)) -> list[Row]:
    """Every tool on every model; files are `folder / MODEL.TOOL.onnx`. A tool that is not installed makes nothing."""
    import onnx

    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in wanted:
        path = path_of(name, folder)
        rows.append(Row(name, path, count_nodes(onnx.load(path)), path.stat().st_size))
    for tool in tools:
        jobs = [(str(row.source), str(folder / f"{row.name}.{tool}.onnx")) for row in rows]
        for row, (seconds, error), (_, target) in zip(rows, _run(tool, jobs, folder), jobs, strict=True):
            row.made[tool] = Outcome(error=error) if error else _outcome(Path(target), seconds)
    return rows


def _outcome(path: Path, seconds: float) -> Outcome:
    import onnx

    model = onnx.load(path)
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    return Outcome(count_nodes(model), path.stat().st_size, seconds, opset)


def _run(tool: str, jobs: list[tuple[str, str]], folder: Path) -> Iterator[tuple[float, str]]:
    """Seconds and error of each job, in a process of the tool's own."""
    warm = str(source("made-detector", folder))
    command = [sys.executable, __file__, "--child", tool, warm]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, input=json.dumps(jobs), capture_output=True, text=True, env=environment)
    lines = [json.loads(line[1:]) for line in done.stdout.splitlines() if line.startswith("#")]
    for index in range(len(jobs)):
        seconds, error = lines[index] if index < len(lines) else (0.0, f"died: {done.stderr[-200:]}")
        yield seconds, error


# --------------------------------------------------------------------------------------------------------------- children


def _child(tool: str, warm: str) -> None:
    """Reads jobs, answers each with a line `#[seconds, error]`."""
    jobs = json.load(sys.stdin)
    failed = ""
    try:
        TOOLS[tool](warm, tempfile.mktemp(suffix=".onnx"))
    except ImportError as error:
        failed = str(error)
    except Exception:  # a peer may not get through the small model; its imports are done
        pass
    for source_path, target in jobs:
        answers = [(0.0, failed)] if failed else [_forked(tool, source_path, target) for _ in range(TRIES)]
        errors = [error for _, error in answers if error]
        print("#" + json.dumps([min(s for s, _ in answers), errors[0] if errors else ""]), flush=True)


def _forked(tool: str, source_path: str, target: str) -> tuple[float, str]:
    """One try in a fork of this process."""
    reader, writer = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if not child:
        signal.alarm(TIMEOUT)
        os.dup2(2, 1)  # peers print
        os.write(writer, json.dumps(_tried(tool, source_path, target)).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    return tuple(json.loads(answer)) if answer else (0.0, f"ended with status {status}")


def _tried(tool: str, source_path: str, target: str) -> tuple[float, str]:
    began = time.process_time()
    try:
        TOOLS[tool](source_path, target)
    except BaseException as error:  # whatever a peer raises is its answer
        return 0.0, f"{type(error).__name__}: {error}"[:200]
    return time.process_time() - began, ""


# ---------------------------------------------------------------------------------------------------------------- latency

ROUNDS = 9
#: CPU seconds that one variant runs in a round, at least once.
SLICE = 0.02


def feeds_of(name: str, path: Path, which: int = 0) -> dict[str, Any]:
    """Inputs of a model, as its tests give them."""
    from anyir.frontends.onnx import read
    from anyir.tests.support.model_cases import inputs_of

    return inputs_of(name, read(path), which, exported_large.SIZES.get(name))


def latency(source: Path, file: Path, feeds: dict[str, Any], optimised: bool) -> float | None:
    """CPU seconds of one run of `file` in onnxruntime over those of `source`, one thread: the best of some rounds in turn.
    Two sessions of each, made in mirrored order: the place in memory alone makes some percents. None: it does not run."""
    try:
        sessions = [(path, _session(path, optimised)) for path in (source, file, file, source)]
        counts = [max(1, int(SLICE / max(_timed(s, feeds, 2), 1e-6))) for _, s in sessions]
    except Exception:  # of a peer's file
        return None
    best = {source: math.inf, file: math.inf}
    for _ in range(ROUNDS):
        for (path, session), count in zip(sessions, counts, strict=True):
            best[path] = min(best[path], _timed(session, feeds, count))
        sessions.reverse()
        counts.reverse()
    return best[file] / best[source]


def _session(path: Path, optimised: bool) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _timed(session: Any, feeds: dict[str, Any], count: int) -> float:
    began = time.process_time()
    for _ in range(count):
        session.run(None, feeds)
    return (time.process_time() - began) / count


def slowdown(row: Row, folder: Path, optimised: bool, tools: Sequence[str]) -> dict[str, float]:
    """Latency over the source's; one of ours that is above 1.05 is measured again, and the better measurement counts."""
    feeds = feeds_of(row.name, row.source)
    ratios: dict[str, float] = {}
    for tool in (t for t in tools if not row.made[t].error):
        file = folder / f"{row.name}.{tool}.onnx"
        found = latency(row.source, file, feeds, optimised)
        if found is not None and found > 1.05 and tool in (OWN, RAISED):
            found = min(found, latency(row.source, file, feeds, optimised) or found)
        if found is not None:
            ratios[tool] = found
    return ratios


# ----------------------------------------------------------------------------------------------------------------- report


def mean(ratios: Sequence[float]) -> float:
    """The geometric mean."""
    return math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else math.nan


def show(rows: Sequence[Row], tools: Sequence[str] = tuple(TOOLS)) -> None:
    """Nodes of each tool, marked where ours are more than the best peer's; means, seconds and wins below."""
    from rich.console import Console
    from rich.table import Table

    table = Table("model", "nodes", *tools, "size", title="nodes, Constant not counted, subgraphs counted")
    for row in rows:
        cells = ["-" if row.made[t].error else str(row.made[t].nodes) for t in tools]
        if OWN in tools and not row.wins:
            cells[tools.index(OWN)] += " <"
        if RAISED in tools and not row.made[RAISED].error:
            cells[tools.index(RAISED)] += f" @{row.made[RAISED].opset}"
        table.add_row(row.name, str(row.nodes), *cells, f"{row.made[OWN].size / row.size:.3f}" if OWN in tools else "")
    table.add_section()
    table.add_row(
        "geometric mean", "", *(f"{mean([r.ratio(t) for r in rows]):.3f}" for t in tools), f"{sizes(rows):.3f}"
    )
    table.add_row("CPU seconds", "", *(f"{sum(r.made[t].seconds for r in rows):.1f}" for t in tools), "")
    best = mean([min(r.best_peer(), r.nodes) / r.nodes for r in rows])
    won = sum(r.wins for r in rows)
    Console(width=140).print(table, f"fewest or as few: {won} of {len(rows)}; the best peer of each model: {best:.3f}")


def sizes(rows: Sequence[Row]) -> float:
    return mean([row.made[OWN].size / row.size for row in rows if not row.made[OWN].error])


def show_latency(found: dict[str, dict[bool, dict[str, float]]], tools: Sequence[str]) -> None:
    """Latency over the source's, with onnxruntime's own optimisations on and off."""
    from rich.console import Console
    from rich.table import Table

    table = Table("model", *(f"{t} {m}" for m in ("on", "off") for t in tools), title="onnxruntime, over the original")
    for name, modes in found.items():
        cells = [f"{modes[m][t]:.2f}" if t in modes[m] else "-" for m in (True, False) for t in tools]
        table.add_row(name, *cells)
    table.add_section()
    columns = [[modes[m][t] for modes in found.values() if t in modes[m]] for m in (True, False) for t in tools]
    table.add_row("geometric mean", *(f"{mean(column):.3f}" for column in columns))
    Console(width=160).print(table)


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["--child"]:
        _child(*arguments[1:])
        return
    wanted = [a for a in arguments if not a.startswith("-")] or names()
    folder = Path(tempfile.mkdtemp(prefix="optimizer-peers-"))
    tools = (OWN, RAISED) if "--ours" in arguments else tuple(TOOLS)
    rows = board(wanted, folder, tools)
    show(rows, tools)
    if "--latency" in arguments:
        found = {r.name: {m: slowdown(r, folder, m, tools) for m in (True, False)} for r in rows}
        show_latency(found, tools)


if __name__ == "__main__":
    main(sys.argv[1:])
