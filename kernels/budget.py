"""What a run may cost: a model is untrusted, and a file of a hundred bytes can ask for terabytes or for centuries.

    with spending(Budget.for_models(module)):
        run(module, inputs)

Inside the block every node is charged before its kernel runs, with the sizes of its results and with its work; over the
budget `OverBudget` is raised. Sizes are those of the declared dtypes; kernels that compute in float64 take a few times
that for a moment. Without a budget nothing is counted. Imports no numpy.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..ir.errors import LimitExceeded, TypeInferError
from ..ir.storage import limit
from ..ir.types import BOOL, STRING, TensorType, Type

if TYPE_CHECKING:
    from ..ir.graph import Module, Node
    from ..ir.value import Value

#: Work is counted in multiply-adds of a dense product, of which a core does about 10**10 a second.
ELEMENT, NODE = 20, 800_000
#: ... and of what one step in plain Python takes.
SLOW = 3000
#: What a model itself adds to the limits: checks run it a dozen times.
WORK_PER_PARAMETER, WORK_PER_NODE, BYTES_PER_BYTE = 2_000, 20 * NODE, 4
#: Ops whose work is more than their results: each element adds up many products.
DENSE = frozenset((
    "conv", "conv_transpose", "conv_integer", "deform_conv",
    "matmul", "matmul_integer", "gemm", "einsum", "attention", "lstm", "gru", "rnn",
    "qlinear_conv", "qlinear_matmul", "dynamic_quantize_lstm",
))  # fmt: skip
#: ... or looks at many elements: a window of them.
WINDOWED = frozenset(("max_pool", "max_pool_with_indices", "average_pool", "lp_pool"))
#: Known elements of an operand that inference may want: a shape has at most as many.
MOST_ELEMS = 64


class OverBudget(LimitExceeded):
    """A run would take more memory or work than its budget."""

    code = "M010"


@dataclass
class Budget:
    """`work` and `nbytes` are what may be spent; `done` and `live` what is."""

    work: int
    nbytes: int
    done: int = 0
    live: int = 0

    @classmethod
    def for_models(cls, *modules: Module) -> Budget:
        """The limits `run_work` and `run_bytes`, and more for what the files themselves hold."""
        weights = [w for module in modules for w in module.weights]
        parameters, own = sum(w.tensor.size for w in weights), sum(w.nbytes for w in weights)
        nodes = sum(1 for module in modules for _ in module.all_nodes())
        work = limit("run_work") + WORK_PER_PARAMETER * parameters + WORK_PER_NODE * nodes
        return cls(work, limit("run_bytes") + BYTES_PER_BYTE * own)

    def spend(self, work: int) -> None:
        self.done += work
        if self.done > self.work:
            raise OverBudget(
                f"running the model takes more than {self.work:.0e} operations", hint="--limit run-work=N raises it"
            )

    def hold(self, nbytes: int) -> None:
        """Count bytes that stay until `release`."""
        if self.live + nbytes > self.nbytes:
            raise OverBudget(
                f"running the model takes more than {self.nbytes} bytes at a time", hint="--limit run-bytes=N raises it"
            )
        self.live += nbytes

    def release(self, nbytes: int) -> None:
        self.live -= nbytes

    def charge(self, node: Node, operands: Sequence[Any]) -> None:
        """Pay for one node before its kernel runs."""
        counts = [array.size for array in operands if hasattr(array, "size")]
        work, results = NODE + _slow_work(operands), 0
        if not node.regions:
            for type_ in _result_types(node, operands):
                count = _elements(type_)
                count = 8 * sum(counts) if count is None else count
                results += count * _item_bytes(type_)
                work += (SLOW if isinstance(type_, TensorType) and type_.dtype is STRING else ELEMENT) * count
        self.hold(results)
        self.release(results)  # it is held when the graph keeps it
        work += ELEMENT * sum(counts)
        if node.name in DENSE:
            from .rounding import reduction_length

            work += results * reduction_length(node, operands)
        elif node.name in WINDOWED:
            work += max(results, 1) * math.prod(node.attr("kernel_shape"))
        self.spend(work)


_current: ContextVar[Budget | None] = ContextVar("budget", default=None)


def current() -> Budget | None:
    return _current.get()


def hold(nbytes: int) -> None:
    """For kernels and samplers: what is about to be made has so many bytes. Does nothing without a budget."""
    budget = _current.get()
    if budget is not None:
        budget.hold(nbytes)


def spend(work: int) -> None:
    """For kernels: work that depends on the contents of operands, about to be done. Does nothing without a budget."""
    budget = _current.get()
    if budget is not None:
        budget.spend(work)


@contextmanager
def spending(budget: Budget) -> Iterator[Budget]:
    """Charge every run inside the block to `budget`."""
    token = _current.set(budget)
    try:
        yield budget
    finally:
        _current.reset(token)


def nbytes(item: Any) -> int:
    """Bytes of an array, its strings included, or of all arrays of a sequence."""
    held: int | None = getattr(item, "nbytes", None)
    if held is None:
        return sum(map(nbytes, item)) if isinstance(item, (list, tuple)) else 0
    return held + sum(map(len, item.flat)) if held and item.dtype.kind == "O" else held


def _slow_work(operands: Sequence[Any]) -> int:
    """Strings and the items of sequences are walked through in plain Python."""
    lists = sum(len(item) for item in operands if type(item) is list)
    return SLOW * (lists + sum(item.size for item in operands if hasattr(item, "dtype") and item.dtype.kind == "O"))


@functools.lru_cache(maxsize=1 << 14)
def _elements(type_: Type) -> int | None:
    if not isinstance(type_, TensorType) or type_.shape is None or not all(type(d) is int for d in type_.shape):
        return None
    return math.prod(type_.shape)  # type: ignore[arg-type]


def _item_bytes(type_: Type) -> int:
    dtype = type_.dtype if isinstance(type_, TensorType) else None
    return 8 if dtype is None else max(dtype.bits // 8, 1) if dtype.bits else 64


def _result_types(node: Node, operands: Sequence[Any]) -> list[Type]:
    """The types of the results, inferred from the operands at hand where the graph leaves sizes open."""
    declared = [value.type for value in node.results]
    if all(_elements(type_) is not None for type_ in declared):
        return declared
    pairs = zip(node.operands, operands, strict=True)
    try:
        known = node.op.infer_results(tuple(_concrete(v, array) for v, array in pairs), node.attrs)
    except TypeInferError:
        return declared  # the kernel will say what is wrong
    return [item.type for item in known]


def _concrete(value: Value | None, array: Any) -> Value | None:
    """A stand-in for an operand whose size, and small integer contents, are those of `array`."""
    from ..ir.value import Value as Stand

    if value is None or value.is_const or not hasattr(array, "shape") or value.dtype is None:
        return value
    made = Stand(TensorType(value.dtype, tuple(array.shape)), None, 0)
    if array.size <= MOST_ELEMS and (value.dtype.is_int or value.dtype is BOOL):
        made._elems = tuple(int(x) for x in array.reshape(-1))
    return made


__all__ = ["Budget", "OverBudget", "current", "hold", "nbytes", "spend", "spending"]
