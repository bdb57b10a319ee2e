"""Every dtype that the newest schema of an operator allows: computed as ONNX's evaluator has it, or refused by this table.

The backend suite's models of one node are rewritten dtype by dtype, one type variable at a time. The evaluator runs in the
widest dtype of the same kind on the same, already rounded numbers, so that narrow types are judged against what is true and
not against another rounding. Integers are compared modulo their width: overflow wraps.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import onnx
import pytest
from anyir.formats.onnx.dtypes import SCHEMA_NAMES, TO_CODE
from anyir.ir.errors import AnyIRError, InternalError
from anyir.ir.types import BOOL, C128, F8E8M0, F32, F64, I64, STRING, U64, DType
from anyir.tests.support import onnx_suite as suite
from onnx import checker, defs
from onnx.reference import ReferenceEvaluator

GROUPS = 8
CASES = 2
NEWEST = defs.onnx_opset_version()
BY_NAME = {f"tensor({name})": dtype for dtype, name in SCHEMA_NAMES.items()}

#: Judged elsewhere: quantisation, control flow, random numbers, conversions; dtypes there are attributes or saturate.
ELSEWHERE = frozenset((
    "BitCast", "Cast", "CastLike", "Constant", "ConstantOfShape", "EyeLike", "If", "Loop", "Scan", "Optional", "ImageDecoder",
    "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Dropout",
    "QuantizeLinear", "DequantizeLinear", "QLinearMatMul", "QLinearConv", "DynamicQuantizeLinear",
))  # fmt: skip
#: What is refused, by operator and dtype, with the reason.
REFUSED = {
    ("Col2Im", "str"): "strings have no sum",
    ("GridSample", "str"): "strings cannot be interpolated",
    ("Resize", "str"): "strings cannot be interpolated",
    ("ScatterElements", "str"): "strings have no sum",
    ("ScatterND", "str"): "strings have no sum",
    ("ScatterND", "c64"): "complex numbers have no order",
    ("ScatterND", "c128"): "complex numbers have no order",
    ("ScatterElements", "c64"): "complex numbers have no order",
    ("ScatterElements", "c128"): "complex numbers have no order",
    ("Mod", "int"): "the drawn divisors hold zeros",
    ("TfIdfVectorizer", "str"): "the pool of the case is one of integers",
}
#: Where ONNX's evaluator is wrong: (operator, kind of dtype) with what it does.
EVALUATOR_IS_WRONG = {
    ("GridSample", "int"): "interpolates with integer coordinates",
    ("GridSample", "uint"): "interpolates with integer coordinates",
    ("Resize", "complex"): "drops imaginary parts",
    ("CenterCropPad", "string"): "pads with the number 0",
    ("Trilu", "string"): "fills with the number 0",
}


class Trial(NamedTuple):
    """One case with the operands of one type variable in another dtype; `wide` is what the evaluator gets."""

    name: str
    dtype: DType
    model: Any
    feeds: dict[str, Any]
    wide: tuple[Any, dict[str, Any]]


def converted(array: np.ndarray, dtype: DType) -> np.ndarray:
    """The numbers of a case in another dtype, some of each sign, none out of range."""
    if dtype is STRING:
        return np.array([str(v) for v in array.reshape(-1)], object).reshape(array.shape)
    if array.dtype == object:
        array = np.array([len(str(v)) for v in array.reshape(-1)]).reshape(array.shape)
    wide = array.astype(np.complex128).real
    if dtype is BOOL:
        return wide > 0.3
    if dtype.kind == "complex":
        return (wide + 1j * wide.reshape(-1)[::-1].reshape(wide.shape)).astype(dtype.numpy)
    if dtype.is_float:
        return (np.abs(wide) if dtype is F8E8M0 else wide).astype(dtype.numpy)
    info = ml_dtypes.iinfo(dtype.numpy)
    whole = np.rint(wide if array.dtype.kind in "iub" else 3 * wide)
    whole = np.abs(whole) if dtype.kind == "uint" else whole
    low, high = max(int(info.min), -(1 << 31)), min(int(info.max), 1 << 31)
    return np.clip(whole, low, high).astype(dtype.numpy)


def widest(dtype: DType, allowed: list[DType]) -> DType:
    """The dtype for the evaluator: of the same kind, so wide that nothing rounds or wraps."""
    order = {"float": (F64, F32), "int": (I64,), "uint": (U64,), "complex": (C128,)}.get(dtype.kind, ())
    return next((wide for wide in order if wide in allowed), dtype)


def retyped(case: suite.Case, names: set[str], dtype: DType) -> tuple[Any, dict[str, Any]]:
    """Model and feeds with all inputs and outputs of these names in `dtype`."""
    model = onnx.ModelProto()
    model.CopyFrom(case.load())
    for entry in model.opset_import:
        entry.version = NEWEST
    for info in (*model.graph.input, *model.graph.output):
        if info.name in names:
            info.type.tensor_type.elem_type = TO_CODE[dtype]
    arrays = zip(model.graph.input, case.sets()[0][0], strict=False)
    return model, {i.name: converted(np.asarray(a), dtype) if i.name in names else a for i, a in arrays}


def trials(schema: Any, case: suite.Case) -> Iterator[Trial]:
    """The case in every dtype of every type variable; what the checker refuses is no call of this operator."""
    node = case.load().graph.node[0]
    variables = defaultdict(set)
    for used, formals in ((node.input, schema.inputs), (node.output, schema.outputs)):
        for index, name in enumerate(used):
            if name:
                variables[formals[min(index, len(formals) - 1)].type_str].add(name)
    for constraint in schema.type_constraints:
        allowed = [BY_NAME[s] for s in constraint.allowed_type_strs if s in BY_NAME]
        names = variables.get(constraint.type_param_str, set())
        for dtype in allowed if names else ():
            model, feeds = retyped(case, names, dtype)
            try:
                checker.check_model(model, full_check=True)
            except Exception:
                continue
            wide = widest(dtype, allowed)
            same = {n: a.astype(wide.numpy) if n in names and wide is not dtype else a for n, a in feeds.items()}
            label = f"{case.name} {constraint.type_param_str}={dtype}"
            yield Trial(label, dtype, model, feeds, (retyped(case, names, wide)[0], same))


@functools.cache
def plain_cases() -> dict[str, list[suite.Case]]:
    """The suite's models of one node on plain tensors."""
    found = defaultdict(list)
    for case in suite.cases().values():
        graph = case.load().graph
        infos = (*graph.input, *graph.output)
        plain = case.kind == "node" and len(graph.node) == 1 and not graph.initializer and not graph.node[0].domain
        if plain and all(info.type.WhichOneof("value") == "tensor_type" for info in infos):
            found[graph.node[0].op_type].append(case)
    return found


def differs(made: Any, wanted: Any) -> str:
    """Why a result is not what the evaluator found in a wider dtype; "" when it is."""
    made, wanted = np.asarray(made), np.asarray(wanted)
    if made.shape != wanted.shape:
        return f"shape {made.shape} against {wanted.shape}"
    if made.dtype == object:
        same = made.reshape(-1).tolist() == wanted.reshape(-1).tolist()
    elif made.dtype == bool or DType.of(made.dtype).is_int:
        bits = DType.of(made.dtype).bits
        mask = (1 << bits) - 1
        same = all((int(a) - int(b)) & mask == 0 for a, b in zip(made.reshape(-1), wanted.reshape(-1), strict=True))
    else:
        same = _near(made, wanted)
    return "" if same else f"{made.reshape(-1)[:6]} against {wanted.reshape(-1)[:6]}"


def _near(made: np.ndarray, wanted: np.ndarray) -> bool:
    """Within 4 units in the last place of the largest element; the evaluator computes some float64 in float32."""
    kind = np.complex128 if made.dtype.kind == "c" else np.float64
    a, b = made.astype(kind), wanted.astype(made.dtype).astype(kind)
    eps = 4 * max(float(ml_dtypes.finfo(made.dtype).eps), float(np.finfo(np.float32).eps))
    finite = np.abs(b[np.isfinite(b)])
    return np.allclose(a, b, eps, eps * float(finite.max(initial=0)) + 1e-7, equal_nan=True)


def outcome(trial: Trial) -> tuple[str, str]:
    """("", ...) where equal, ("refused", why), ("wrong", why), or ("unjudged", ...) where the evaluator fails."""
    try:
        made = suite.on_kernels(trial.model, trial.feeds)
    except InternalError as error:
        return "wrong", f"internal error: {error}"
    except AnyIRError as error:
        return "refused", str(error)
    try:
        with np.errstate(all="ignore"):
            wanted = ReferenceEvaluator(trial.wide[0]).run(None, trial.wide[1])
    except Exception as error:
        return "unjudged", str(error)
    reason = next(filter(None, map(differs, made, wanted)), "")
    return ("wrong", reason) if reason else ("", "")


@pytest.mark.parametrize("group", range(GROUPS))
def test_every_dtype(group: int) -> None:
    wrong, judged = [], 0
    schemas = [s for s in defs.get_all_schemas() if s.domain == "" and not s.deprecated and s.name not in ELSEWHERE]
    for schema in sorted(schemas, key=lambda s: s.name)[group::GROUPS]:
        cases = plain_cases().get(schema.name, [])
        for case in cases[:: max(1, len(cases) // CASES)][:CASES]:
            for trial in trials(schema, case):
                verdict, why = outcome(trial)
                judged += not verdict
                refusable = {(schema.name, trial.dtype.name), (schema.name, "int" if trial.dtype.is_int else "")}
                excused = (verdict == "refused" and refusable & set(REFUSED)) or (
                    verdict == "wrong" and (schema.name, trial.dtype.kind) in EVALUATOR_IS_WRONG
                )
                if verdict in ("refused", "wrong") and not excused:
                    wrong.append(f"{trial.name}: {verdict}: {why[:300]}")
    assert not wrong, "\n".join(wrong)
    assert judged > 100
