"""Files quantised to int8 as a user makes them, run in their runtimes, beside the float model in onnxruntime."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import anyir
import numpy as np
from anyir.formats.tflite import parse
from anyir.formats.tflite_schema import OP_NAMES, TYPE_NAMES
from anyir.ir.errors import AnyIRError
from anyir.runtimes import litert, mindspore, onnxruntime, torch

from .compress_metrics import CASES, Case, Samples, share

Outputs = Mapping[str, np.ndarray]

#: Samples that the compression itself measures its loss on: here the whole evaluation set is judged in the runtimes.
MEASURED = 8
#: Samples for runtimes that take long: LiteRT's reference kernels, MindSpore, torch.
FEW = 20
#: TFLite operators that multiply and add.
PRODUCTS = frozenset(("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "CONV_3D", "FULLY_CONNECTED", "BATCH_MATMUL"))
SUFFIX = {"onnx": ".onnx", "tflite": ".tflite", "mindir": ".mindir", "torch": ".pt2"}


@dataclass
class Made:
    """A quantised model and its file; sizes are shares of the float model's. `layers` are (name, arithmetic) in the IR, and
    `integers` is the ONNX file that says the same in QOperator form, where every product is an operator on integers."""

    case: Case
    target: str
    path: Path
    layers: list[tuple[str, str]]
    weights: float
    matrices: float
    file: float
    integers: Path | None
    source_bytes: int
    seconds: float
    verified: bool | None


@dataclass
class Judged:
    """What a runtime makes of the file, beside the float model: answers, and the noise of outputs that are numbers."""

    judge: str
    agree: np.ndarray
    right: tuple[np.ndarray, np.ndarray] | None
    sqnr: float | None

    @property
    def drop(self) -> float | None:
        """Points of accuracy that are lost."""
        return None if self.right is None else 100 * float(self.right[0].mean() - self.right[1].mean())

    @property
    def holds(self) -> bool:
        """At most 0.5 points of accuracy lost, or at least 99% agreement."""
        return (self.drop is not None and self.drop <= 0.5) or float(self.agree.mean()) >= 0.99

    def __str__(self) -> str:
        told = f"{self.judge}: agreement {share(self.agree)}"
        if self.right is not None:
            told += f", accuracy {share(self.right[0])} -> {share(self.right[1])}"
        return told + (f", SQNR {self.sqnr:.1f} dB" if self.sqnr is not None else "")


@cache
def evaluation(name: str) -> Samples:
    return CASES[name].evaluation()


@cache
def in_float(name: str) -> Outputs:
    """The float model's outputs on the evaluation samples, by onnxruntime."""
    case = CASES[name]
    return by_onnxruntime(case, case.path(), evaluation(name).x)


def quantised(name: str, target: str, folder: Path) -> Made:
    """The file that the built-in recipe int8 makes, with what the case keeps at 16 bits."""
    case, path = CASES[name], folder / f"{name}{SUFFIX[target]}"
    recipe = folder / f"{name}.json"
    steps = [{"pass": "quantize", "overrides": dict(case.overrides)}] if case.overrides else []
    recipe.write_text(json.dumps({"schema": 1, "extends": "int8", "steps": steps}))
    began = time.process_time()
    done = anyir.compress(
        case.path(),
        path,
        recipe=recipe if case.overrides else "int8",
        data={case.input: case.calibration().x},
        eval_data={case.input: evaluation(name).x[:MEASURED]},
        layers=False,
        shapes=dict(case.shapes) if case.shapes else None,
    )
    assert done.result is not None
    before, after = done.result.weight_bytes
    whole = os.path.getsize(case.path())
    return Made(
        case,
        target,
        path,
        [(row.name, row.arithmetic) for row in done.result.layers if row.arithmetic != "removed"],
        after / before,
        _matrices(done.result.module),
        os.path.getsize(path) / whole,
        _as_qoperator(done.result.module, path) if target == "onnx" else None,
        whole,
        time.process_time() - began,
        done.verified,
    )


def _as_qoperator(module: Any, path: Path) -> Path:
    made = path.with_suffix(".qoperator.onnx")
    anyir.save(module, made, quant_form="qoperator")
    return made


def _matrices(module: Any) -> float:
    """Bytes per element of the weights of products, over the four of a float."""
    found = {}
    for node in module.all_nodes("conv", "conv_transpose", "gemm", "matmul"):
        for value in node.inputs():
            behind = value.node.operands[0] if value.node is not None and value.node.name == "dequantize" else value
            if behind.weight is not None and len(behind.shape) > 1:
                found[behind.weight] = behind.weight
    return sum(w.nbytes for w in found.values()) / (4 * sum(int(np.prod(w.type.shape)) for w in found.values()))


# ------------------------------------------------------------------------------------------------------------- runtimes


def by_onnxruntime(case: Case, path: Path, x: np.ndarray) -> Outputs:
    session = onnxruntime.load(path, threads=1)
    names = [output.name for output in session.get_outputs()]
    return _batched(case, x, lambda feeds: dict(zip(names, session.run(None, feeds), strict=True)))


def _batched(case: Case, x: np.ndarray, run: Callable[[dict[str, np.ndarray]], Outputs]) -> Outputs:
    return joined([run(feeds) for feeds in _feeds(case, x)])


def _feeds(case: Case, x: np.ndarray) -> list[dict[str, np.ndarray]]:
    return [{case.input: x[i : i + case.batch]} for i in range(0, len(x), case.batch)]


def joined(parts: list[Any]) -> Outputs:
    for part in parts:
        if isinstance(part, AnyIRError):
            raise part
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def judged(made: Made) -> list[Judged]:
    """What each runtime of the file's format says of it."""
    case, name, path = made.case, made.case.name, str(made.path)
    samples, wanted = evaluation(name), in_float(name)
    if made.target == "onnx":
        files = {"onnxruntime": made.path, "onnxruntime, QOperator": made.integers}
        return [
            _judge(judge, case, samples, wanted, by_onnxruntime(case, file, samples.x)) for judge, file in files.items()
        ]
    few = Samples(samples.x[:FEW], None if samples.labels is None else samples.labels[:FEW])
    if made.target == "tflite":
        fast = joined(litert.run_many([litert.Job(path, f) for f in _feeds(case, samples.x)], timeout=1800))
        exact = joined(
            litert.run_many([litert.Job(path, f, reference=True) for f in _feeds(case, few.x)], timeout=1800)
        )
        return [
            _judge("XNNPACK", case, samples, wanted, fast),
            _judge("LiteRT reference kernels", case, few, wanted, exact),
        ]
    run = {"mindir": mindspore, "torch": torch}[made.target].run_many
    job = {"mindir": mindspore, "torch": torch}[made.target].Job
    found = joined(run([job(path, feeds) for feeds in _feeds(case, few.x)]))
    return [_judge(made.target, case, few, wanted, found)]


def _judge(judge: str, case: Case, samples: Samples, wanted: Outputs, found: Outputs) -> Judged:
    count = len(samples.x)
    wanted = {name: array[:count] for name, array in wanted.items()}
    before, after = case.answers(wanted), case.answers(found)
    right = None
    if samples.labels is not None:
        known = samples.labels >= 0 if samples.labels.dtype.kind == "i" else np.ones(count, bool)
        right = (before == samples.labels)[known], (after == samples.labels)[known]
    noise = None
    if case.values is not None:
        a, b = case.values(wanted).astype(np.float64), case.values(found).astype(np.float64)
        noise = 10 * float(np.log10(np.square(a).sum() / np.square(a - b).sum()))
    return Judged(judge, before == after, right, noise)


def float_products(made: Made) -> list[str]:
    """Products that the runtime computes in floats."""
    return _floats_of_onnx(made.integers) if made.target == "onnx" else _floats_of_tflite(made.path)  # type: ignore[arg-type]


def _floats_of_onnx(path: Path) -> list[str]:
    """What onnxruntime's own optimiser has left of layers on floats."""
    found = onnxruntime.operators(path)
    return [f"{found[name]} {name}" for name in sorted(onnxruntime.FLOAT_LAYERS) if found[name]]


def _floats_of_tflite(path: Path) -> list[str]:
    """Operators of a TFLite file that multiply and add, but not integers by 8-bit integers into integers."""
    record = parse(path.read_bytes())
    names = [OP_NAMES[code["builtin_code"]] for code in record["operator_codes"]]
    found = []
    for graph in record["subgraphs"]:
        for op in graph["operators"]:
            name = names[op["opcode_index"]]
            if name in PRODUCTS:
                place = 1 if name == "TRANSPOSE_CONV" else 0
                tensors = [graph["tensors"][i] for i in (*op["inputs"][place : place + 1], op["outputs"][0])]
                kinds = [TYPE_NAMES[tensor["type"]] for tensor in tensors]
                weight = graph["tensors"][op["inputs"][1 - place if place else 1]]
                if not set(kinds) <= {"INT8", "INT16"} or TYPE_NAMES[weight["type"]] != "INT8":
                    found.append(f"{name} {kinds} {TYPE_NAMES[weight['type']]} {tensors[1]['name']}")
    return found
