"""The onnx package's own backend suite: its cases, and what three ways of running them give.

A case is judged with the suite's own tolerances. Its outcome is "pass", "unsupported: reason" (we refuse) or
"wrong: reason".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from anyir.frontends import onnx as frontend
from anyir.ir.errors import AnyIRError, InternalError
from anyir.ir.types import DType
from anyir.kernels.run import run

#: Cases whose expected output is one draw of a random generator.
RANDOM = frozenset(
    {f"test_bernoulli{kind}{form}" for kind in ("", "_double", "_seed") for form in ("", "_expanded")}
    | {f"test_training_dropout{kind}{mask}" for kind in ("", "_default") for mask in ("", "_mask")}
)
#: Cases whose expected output is float32 noise where zero is right: they agree up to an ULP of the largest element.
NOISY = frozenset({"test_dft_inverse", "test_dft_inverse_opset19"})
#: (case, judge) -> why our file does not pass there although the original does.
PEERS_FAIL = {
    (f"test_BatchNorm{kind}_eval", "reference"): "it runs BatchNormalization of opsets 9 to 13 in training mode"
    for kind in ("1d_3d_input", "2d", "2d_momentum", "3d", "3d_momentum")
}
KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator")
#: Whole networks, their weights made by ConstantOfShape: seconds each.
NETWORKS = "real"


@dataclass
class Case:
    """One model with its data sets: pairs of input arrays by name and expected outputs in order."""

    name: str
    kind: str
    rtol: float
    atol: float
    path: Path | None = None
    model: Any = None
    data: list[tuple[list[Any], list[Any]]] = field(default_factory=list)

    def load(self) -> Any:
        import onnx

        if self.model is None:
            self.model = onnx.load(self.path)
        return self.model

    def sets(self) -> list[tuple[list[Any], list[Any]]]:
        """Inputs and expected outputs as arrays (lists for sequences, None for an absent optional)."""
        if self.path is None:
            return [([normal(x) for x in i], [normal(x) for x in o]) for i, o in self.data]
        model = self.load()
        if self.kind == NETWORKS:
            expected = _stored(self.path.parent, f"{self.path.stem}_output", model.graph.output)
            return [([_ramp(info) for info in open_inputs(model)], expected)]
        folders = sorted(self.path.parent.glob("test_data_set_*"))
        return [(_stored(f, "input", model.graph.input), _stored(f, "output", model.graph.output)) for f in folders]


@cache
def cases() -> dict[str, Case]:
    """All cases by name. Node cases are made by the package in this process, the others lie beside it as files."""
    import onnx
    from onnx.backend.test.case.node import collect_testcases
    from onnx.backend.test.loader import load_model_tests

    found: dict[str, Case] = {}
    for made in collect_testcases():
        found[made.name] = Case(made.name, "node", made.rtol, made.atol, model=made.model, data=made.data_sets)
    for kind in KINDS[1:]:
        for made in load_model_tests(kind=kind):
            path = Path(made.model_dir) / "model.onnx"
            found[made.name] = Case(made.name, kind, made.rtol, made.atol, path=path)
    for made in load_model_tests(kind=NETWORKS):
        path = Path(onnx.__file__).parents[1] / made.url
        found[made.name] = Case(made.name, NETWORKS, made.rtol, made.atol, path=path)
    return found


def normal(value: Any) -> Any:
    """Test data as arrays: TensorProtos, numpy scalars and nested lists become what a runtime takes."""
    from onnx import TensorProto, numpy_helper

    if isinstance(value, TensorProto):
        return numpy_helper.to_array(value)
    if isinstance(value, list | tuple):
        return [normal(v) for v in value]
    return value if value is None or isinstance(value, dict) else np.asarray(value)


def _stored(folder: Path, what: str, infos: Any) -> list[Any]:
    import onnx
    from onnx import numpy_helper

    made = []
    for info, file in zip(
        infos, sorted(folder.glob(f"{what}_*.pb"), key=lambda f: int(f.stem.rpartition("_")[2])), strict=False
    ):
        data = file.read_bytes()
        kind = info.type.WhichOneof("value")
        proto = {"sequence_type": onnx.SequenceProto, "optional_type": onnx.OptionalProto}.get(kind, onnx.TensorProto)()
        proto.ParseFromString(data)
        reader = {"sequence_type": numpy_helper.to_list, "optional_type": numpy_helper.to_optional}
        made.append(normal(reader.get(kind, numpy_helper.to_array)(proto)))
    return made


def _ramp(info: Any) -> np.ndarray:
    """What the suite feeds its networks: 0 to 1 in even steps."""
    shape = tuple(d.dim_value if d.HasField("dim_value") else 1 for d in info.type.tensor_type.shape.dim)
    count = int(np.prod(shape))
    return (np.arange(count).reshape(shape) / count).astype(np.float32)


def open_inputs(model: Any) -> list[Any]:
    """The graph inputs that are fed: initializers may be listed as inputs too."""
    initialized = {i.name for i in model.graph.initializer} | {i.values.name for i in model.graph.sparse_initializer}
    return [info for info in model.graph.input if info.name not in initialized]


def fed(model: Any, arrays: list[Any]) -> dict[str, Any]:
    """Arrays by input name."""
    return dict(zip((info.name for info in open_inputs(model)), arrays, strict=False))


def differs(expected: Any, found: Any, rtol: float, atol: float) -> str:
    """Why two results are not the same; "" when they are."""
    if expected is None or found is None:
        return "" if expected is None and found is None else f"{expected} against {found}"
    if isinstance(expected, list) or isinstance(found, list):
        if not (isinstance(expected, list) and isinstance(found, list)) or len(expected) != len(found):
            return "sequences of different lengths"
        return next(filter(None, (differs(e, f, rtol, atol) for e, f in zip(expected, found, strict=True))), "")
    expected, found = np.asarray(expected), np.asarray(found)
    if expected.shape != found.shape:
        return f"shape {found.shape}, expected {expected.shape}"
    if expected.dtype.kind in "OUS" or found.dtype.kind in "OUS":
        return "" if list(expected.reshape(-1)) == list(found.reshape(-1)) else "strings differ"
    if expected.dtype != found.dtype:
        return f"dtype {found.dtype}, expected {expected.dtype}"
    if expected.dtype.kind in "biu":
        return "" if np.array_equal(expected, found) else _worst(expected, found)
    wide = np.complex128 if expected.dtype.kind == "c" else np.float64
    a, b = expected.astype(wide), found.astype(wide)
    kind = DType.of(expected.dtype)
    if (
        kind.is_float and kind.bits < 32
    ):  # the suite rounds after each step, kernels once: an ULP of the largest is agreement
        atol = max(atol, _ulp_of_the_largest(expected))
    return "" if np.allclose(b, a, rtol, atol, equal_nan=True) else _worst(a, b)


def _ulp_of_the_largest(array: np.ndarray) -> float:
    values = np.abs(array.astype(np.float64))
    return float(ml_dtypes.finfo(array.dtype).eps) * float(values[np.isfinite(values)].max(initial=0))


def _worst(a: np.ndarray, b: np.ndarray) -> str:
    gap = np.abs(a.astype(np.complex128) - b.astype(np.complex128))
    at = np.unravel_index(int(np.argmax(np.where(np.isnan(gap), np.inf, gap))), gap.shape) if gap.size else ()
    return f"value {b[at]} at {tuple(map(int, at))}, expected {a[at]}"


def judged(case: Case, function: Any) -> str:
    """The outcome of running `function(model, feeds) -> outputs in order` on all data sets of a case."""
    model = case.load()
    for inputs, outputs in case.sets():
        try:
            found = function(model, fed(model, inputs))
        except InternalError as error:
            return f"wrong: internal error: {error}"
        except AnyIRError as error:
            return f"unsupported: {error}"
        if len(found) != len(outputs):
            return f"wrong: {len(found)} outputs, expected {len(outputs)}"
        for index, (expected, made) in enumerate(zip(outputs, found, strict=True)):
            atol = max(case.atol, _ulp_of_the_largest(expected)) if case.name in NOISY else case.atol
            reason = differs(expected, made, case.rtol, atol)
            if reason:
                return f"wrong: output {index}: {reason}"
    return "pass"


def on_kernels(model: Any, feeds: dict[str, Any]) -> list[Any]:
    """File to IR to reference kernels."""
    return list(run(frontend.read(model), feeds).values())


def sampled(every: int, offset: int = 0, kinds: tuple[str, ...] = KINDS) -> Iterator[Case]:
    """Every n-th case, for quick runs."""
    for index, case in enumerate(c for c in cases().values() if c.kind in kinds):
        if index % every == offset:
            yield case


def operators(case: Case) -> set[str]:
    """All operators of a case's model, subgraphs and functions included, as `domain::Op`."""
    model = case.load()
    pending = [*model.graph.node, *(n for f in model.functions for n in f.node)]
    found = set()
    while pending:
        node = pending.pop()
        found.add(f"{node.domain or 'ai.onnx'}::{node.op_type}")
        for a in node.attribute:
            pending.extend(a.g.node)
            pending.extend(n for g in a.graphs for n in g.node)
    return found
