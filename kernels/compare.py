"""Compares two sets of outputs and says where they differ most, by how much, and whether rounding explains it.

    report = compare(reference, actual, limits_for(module, inputs))
    report.passed; print(report)

Integers, bools and strings must be equal; floats may differ by the limit that `kernels/rounding.py` computes (or that
the caller gives as a number). NaN must meet NaN, and an infinity the same infinity.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import ml_dtypes
import numpy as np

from .numeric import is_float, is_integer
from .rounding import Limit, graph_limits, limit_for, limits_for, widest

__all__ = [
    "Limit", "Report", "Row", "all_nan", "compare", "graph_limits", "limit_for", "limits_for", "ulp_distance", "widest",
]  # fmt: skip

PASS, FAIL = "pass", "FAIL"


@dataclass(frozen=True)
class Row:
    """One output. Differences are over elements that are finite on both sides; `index` is where the worst one stands.

    `needed` is the limit that would pass (infinite where no limit would); `argmax` counts rows, along the last axis,
    whose largest element stands in the same place.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    verdict: str
    reason: str
    limit: float = 0.0
    needed: float = 0.0
    max_abs: float = 0.0
    mean_abs: float = 0.0
    ulps: float = 0.0
    cosine: float = 1.0
    index: tuple[int, ...] | None = None
    expected: Any = None
    found: Any = None
    nan: tuple[int, int] = (0, 0)
    inf: tuple[int, int] = (0, 0)
    argmax: tuple[int, int] | None = None

    @property
    def passed(self) -> bool:
        return self.verdict == PASS

    @property
    def blank(self) -> bool:
        """Both sides have elements and every one of them is NaN: they agree, and no number was compared."""
        count = math.prod(self.shape)
        return count > 0 and self.nan == (count, count)

    def __str__(self) -> str:
        return self.line(len(self.name))

    def line(self, width: int) -> str:
        """One line of the report, the name padded to `width`."""
        shape = "x".join(map(str, self.shape)) or "scalar"
        agreed = f"{self.argmax[0]}/{self.argmax[1]}" if self.argmax else "-"
        cells = (self.max_abs, self.mean_abs, self.ulps)
        numbers = f"{cells[0]:9.1e} {cells[1]:9.1e} {cells[2]:8.3g} {self.cosine:8.6f} {agreed:>9} {self.limit:9.1e}"
        return f"{self.name:{width}} {self.dtype + ' ' + shape:20} {numbers}  {self.verdict}{self._detail()}"

    def _detail(self) -> str:
        where = "" if self.index is None else f" at {list(self.index)}: {self.expected!r} vs {self.found!r}"
        if self.passed:
            return f" (needs {self.needed:.1e})" if self.needed else ""
        special = "".join(
            f"; {label}: {a} expected, {b} found" for label, (a, b) in (("NaN", self.nan), ("Inf", self.inf)) if a != b
        )
        needed = f"; would pass with {self.needed:.1e}" if np.isfinite(self.needed) else ""
        return f"{where}: {self.reason}{special}{needed}"


@dataclass(frozen=True)
class Report:
    """All outputs of a comparison, in the order of the reference."""

    rows: tuple[Row, ...]

    @property
    def passed(self) -> bool:
        return all(row.passed for row in self.rows)

    @property
    def failures(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if not row.passed)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON: rows as dicts of Python numbers; None for what is not finite."""
        rows = [{key: _finite(value) for key, value in asdict(row).items()} for row in self.rows]
        return {"passed": self.passed, "outputs": rows}

    def __str__(self) -> str:
        width = max([len(row.name) for row in self.rows] + [len("output")])
        columns = f"{'max|d|':>9} {'mean|d|':>9} {'ulps':>8} {'cos':>8} {'argmax':>9} {'limit':>9}"
        head = f"{'output':{width}} {'type':20} {columns}  verdict"
        return "\n".join([head, *(row.line(width) for row in self.rows)])


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value


Limits = Mapping[str, Limit | float] | Limit | float | None


def compare(reference: Mapping[str, Any], actual: Mapping[str, Any], limits: Limits = None) -> Report:
    """Every output of `reference` against the one of the same name in `actual`.

    `limits`: per output or one for all; None or a missing name: equal to the last bit. Outputs that only one side has
    fail. Shapes and dtypes must agree. Sequences are compared element by element as `name[i]`, maps as the vectors of
    their values.
    """
    rows: list[Row] = []
    for name, wanted in reference.items():
        limit = limits.get(name, 0.0) if isinstance(limits, Mapping) else limits or 0.0
        limit = limit if isinstance(limit, Limit) else Limit(float(limit), "given" if limit else "exact")
        if name not in actual:
            rows.append(_refused(name, wanted, "missing"))
        elif isinstance(wanted, (list, tuple)):
            rows.extend(_sequence_rows(name, wanted, actual[name], limit))
        elif isinstance(wanted, dict):
            rows.append(_item_row(name, wanted, actual[name], limit))
        else:
            rows.append(_row(name, np.asarray(wanted), np.asarray(actual[name]), limit))
    rows.extend(_refused(name, found, "not expected") for name, found in actual.items() if name not in reference)
    return Report(tuple(rows))


def _sequence_rows(name: str, wanted: Any, found: Any, limit: Limit) -> list[Row]:
    if not isinstance(found, (list, tuple)) or len(found) != len(wanted):
        return [_refused(name, np.zeros(len(wanted)), "a sequence of another length")]
    pairs = enumerate(zip(wanted, found, strict=True))
    return [_item_row(f"{name}[{i}]", a, b, limit) for i, (a, b) in pairs]


def _item_row(name: str, wanted: Any, found: Any, limit: Limit) -> Row:
    """An element of a sequence: an array, or a map, whose keys must be the same."""
    if not isinstance(wanted, dict):
        return _row(name, np.asarray(wanted), np.asarray(found), limit)
    if not isinstance(found, dict) or found.keys() != wanted.keys():
        return _refused(name, np.zeros(len(wanted)), "a map with other keys")
    first, second = (np.asarray([item[key] for key in wanted]) for item in (wanted, found))
    if first.dtype.kind == second.dtype.kind == "f":
        first, second = first.astype(np.float32), second.astype(np.float32)
    return _row(name, first, second, limit)


def _refused(name: str, array: Any, reason: str) -> Row:
    shown = np.asarray(array)
    return Row(name, str(shown.dtype), shown.shape, FAIL, reason, needed=np.inf)


def _row(name: str, wanted: np.ndarray, found: np.ndarray, limit: Limit) -> Row:
    text = wanted.dtype.kind in "OSU" and found.dtype.kind in "OSU"
    if wanted.shape != found.shape:
        return _refused(name, wanted, f"shape {list(found.shape)}, expected {list(wanted.shape)}")
    if wanted.dtype != found.dtype and not text:
        return _refused(name, wanted, f"dtype {found.dtype}, expected {wanted.dtype}")
    if is_float(wanted.dtype) or wanted.dtype.kind == "c":
        return _float_row(name, wanted, found, limit)
    return _exact_row(name, wanted, found, limit)


def _exact_row(name: str, wanted: np.ndarray, found: np.ndarray, limit: Limit) -> Row:
    """Integers, bools, strings: equal or not."""
    differ = np.asarray(wanted != found, dtype=bool)
    head = (name, str(wanted.dtype), wanted.shape)
    if not differ.any():
        return Row(*head, PASS, "equal")
    gap = np.abs(wanted.astype(object) - found.astype(object)) if is_integer(wanted.dtype) else differ.astype(int)
    index = tuple(int(i) for i in np.unravel_index(int(np.argmax(gap)), wanted.shape))
    note = " (rounding alone changes this output)" if limit.ill_conditioned else ""
    return Row(
        *head,
        FAIL,
        f"{int(differ.sum())} of {wanted.size} elements differ{note}",
        needed=np.inf,
        max_abs=float(gap.max()),
        mean_abs=float(gap.sum() / gap.size),
        index=index,
        expected=_plain(wanted[index]),
        found=_plain(found[index]),
    )


def _float_row(name: str, wanted: np.ndarray, found: np.ndarray, limit: Limit) -> Row:
    kind = np.complex128 if wanted.dtype.kind == "c" else np.float64
    a, b = wanted.astype(kind), found.astype(kind)
    finite = np.isfinite(a) & np.isfinite(b)
    special = ~finite & ~((np.isnan(a) & np.isnan(b)) | (a == b))  # NaN or infinity that meets something else
    gap = np.where(finite, np.abs(np.where(finite, a, 0) - np.where(finite, b, 0)), 0.0)
    beyond = np.maximum(gap - limit.rtol * np.where(finite, np.abs(a), 0.0), 0.0)  # what atol has to allow
    worst = _worst(np.where(special, np.inf, beyond if limit.rtol else gap))
    largest, needed = float(gap.max(initial=0.0)), float(beyond.max(initial=0.0))
    cosine = _cosine(a[finite], b[finite])
    passed = not special.any() and needed <= limit.atol and cosine >= limit.cosine
    return Row(
        name,
        str(wanted.dtype),
        wanted.shape,
        PASS if passed else FAIL,
        limit.reason if passed else _why(special, needed, cosine, limit),
        limit=limit.atol,
        needed=float("inf") if special.any() or cosine < limit.cosine else needed,
        max_abs=largest,
        mean_abs=float(gap[finite].mean()) if finite.any() else 0.0,
        ulps=float(ulp_distance(wanted, found).max(initial=0.0)),
        cosine=cosine,
        index=worst,
        expected=None if worst is None else _plain(wanted[worst]),
        found=None if worst is None else _plain(found[worst]),
        nan=(int(np.isnan(a).sum()), int(np.isnan(b).sum())),
        inf=(int(np.isinf(a).sum()), int(np.isinf(b).sum())),
        argmax=_argmax_agreement(a, b),
    )


def _why(special: np.ndarray, largest: float, cosine: float, limit: Limit) -> str:
    if special.any():
        return f"{int(special.sum())} elements are NaN or infinite on one side only"
    if cosine < limit.cosine:
        return f"its cosine is {cosine:.6f}, less than {limit.cosine:g}"
    ratio = f", {largest / limit.atol:.3g} times the limit" if limit.atol else ""
    return f"off by {largest:.1e}{ratio} ({limit.reason})"


def _worst(gap: np.ndarray) -> tuple[int, ...] | None:
    if not gap.size or not gap.max() > 0:
        return None
    return tuple(int(i) for i in np.unravel_index(int(gap.argmax()), gap.shape))


def all_nan(item: Any) -> bool:
    """An output with elements that are all NaN; of a sequence, one of its arrays."""
    if isinstance(item, (list, tuple)):
        return any(map(all_nan, item))
    array = np.asarray(item)
    numbers = is_float(array.dtype) or array.dtype.kind == "c"
    return numbers and array.size > 0 and bool((array != array).all())


def ulp_distance(wanted: np.ndarray, found: np.ndarray) -> np.ndarray:
    """|found - wanted| in units in the last place of the larger of the two; 0 where either is not finite."""
    if wanted.dtype.kind == "c":
        real = np.dtype(np.float32 if wanted.dtype == np.complex64 else np.float64)
        parts = [(getattr(wanted, p).astype(real), getattr(found, p).astype(real)) for p in ("real", "imag")]
        return np.maximum(*(ulp_distance(*pair) for pair in parts))
    info = ml_dtypes.finfo(wanted.dtype)
    a, b = wanted.astype(np.float64), found.astype(np.float64)
    finite = np.isfinite(a) & np.isfinite(b)
    a, b = np.where(finite, a, 0.0), np.where(finite, b, 0.0)
    size = np.maximum(np.maximum(np.abs(a), np.abs(b)), float(info.smallest_normal))
    unit = np.exp2(np.floor(np.log2(size))) * float(info.eps)
    return np.abs(a - b) / unit


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    scale = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    if not np.isfinite(scale) or scale == 0.0:
        return 1.0 if np.array_equal(a, b) else 0.0
    return float(np.real(np.vdot(a, b)) / scale)


def _argmax_agreement(a: np.ndarray, b: np.ndarray) -> tuple[int, int] | None:
    """(rows that agree, rows) along the last axis; None where there is nothing to choose from."""
    if a.ndim == 0 or a.shape[-1] < 2 or a.size == 0 or a.dtype.kind == "c":
        return None
    same = a.argmax(axis=-1) == b.argmax(axis=-1)
    return int(same.sum()), int(same.size)


def _plain(item: Any) -> Any:
    """A Python number (or text) for reports."""
    array = np.asarray(item)
    if is_float(array.dtype):
        return float(array)
    return item if isinstance(item, (str, bytes)) else int(array) if is_integer(array.dtype) else array.item()
