"""One torch expression as data: what a row of the operator table gives for a node.

The same Call is printed into `net.py` and executed by the live module, so the two cannot drift apart. Function names are
ours: `torch.*`, `F.*`, `helpers.*`, an infix operator, `.method`, or `[]` for indexing. Must not import torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ...ir.dims import Dim
from ...ir.errors import AnyIRError
from ...ir.opdef import OpDef
from ...ir.value import Node, Value

INFIX = ("+", "-", "*", "/", "==", "!=", "<", "<=", ">", ">=", "&", "|", "^")


class Call:
    """`fn(*args, **kwargs)`; arguments are values, numbers, strings, None, DTypes, dims, slices, DEVICE and tuples of these."""

    __slots__ = ("args", "fn", "kwargs")

    def __init__(self, fn: str, *args: Any, **kwargs: Any) -> None:
        self.fn = fn
        self.args = args
        self.kwargs = kwargs

    def leaves(self) -> Iterator[Any]:
        """All arguments, tuples and slices opened."""
        stack = [*reversed(self.kwargs.values()), *reversed(self.args)]
        while stack:
            top = stack.pop()
            if isinstance(top, tuple):
                stack.extend(reversed(top))
            elif isinstance(top, slice):
                stack.extend((top.step, top.stop, top.start))
            else:
                yield top

    def values(self) -> Iterator[Value]:
        """The IR values among the arguments."""
        return (leaf for leaf in self.leaves() if isinstance(leaf, Value))


class _Device:
    """Stands for the device of the first input, so that created tensors live where the data does."""

    def __repr__(self) -> str:
        return "DEVICE"


DEVICE = _Device()


class Refusal(AnyIRError):
    """Why a node is no torch call. Caught by `legalize`; never seen by users."""

    code = "U001"


Row = Callable[[Node], Call]
ROWS: dict[str, Row] = {}

FAMILIES = (
    "elementwise",
    "activation",
    "conv",
    "pool",
    "norm",
    "matmul",
    "reduce",
    "shape",
    "index",
    "attention",
    "recurrent",
    "resize",
    "quant",
)


def row(*names: str) -> Callable[[Row], Row]:
    """Register the torch expression of some ops. A second row for an op is an error."""

    def register(made: Row) -> Row:
        for name in names:
            if name in ROWS:
                raise TypeError(f"two rows for {name}")
            ROWS[name] = made
        return made

    return register


def simple(fn: str) -> Row:
    """A row for an op whose operands are the function's arguments and that has no attributes."""

    def made(node: Node) -> Call:
        return Call(fn, *node.inputs())

    return made


# ----------------------------------------------------------------------------------------- what rows ask of values


def known(value: Value | None, what: str) -> tuple[Dim, ...]:
    """The elements of a shape-like operand: numbers, or expressions of sizes."""
    elems = value.elems if value is not None else None
    if elems is None or any(e is None for e in elems):
        raise Refusal(f"its {what} is computed from data")
    return elems  # type: ignore[return-value]


def known_ints(value: Value | None, what: str) -> tuple[int, ...]:
    ints = value.ints() if value is not None else None
    if ints is None:
        raise Refusal(f"its {what} is not a constant")
    return ints


def shape_of(value: Value, what: str = "shape") -> tuple[Dim, ...]:
    if value.shape is None:
        raise Refusal(f"the rank of its {what} is unknown")
    return value.shape


def rank_of(value: Value) -> int:
    return len(shape_of(value, "operand"))


def axis_of(axis: int, rank: int) -> int:
    return axis % rank if rank else 0


def number(value: Value | None) -> int | float | bool | None:
    """A rank-0 constant as a Python number that torch turns back into the same element; None for anything else, and for
    params and buffers, which stay tensors with a name."""
    if value is None or value.weight is None or value.weight.role != "const" or value.rank != 0 or value.dtype is None:
        return None
    found = value.scalar()
    if isinstance(found, float) and found != found:
        return None  # the bits of a NaN matter
    return found if isinstance(found, bool | int | float) else None


def only(node: Node, *names: str) -> None:
    """Refuse attributes other than `names` that are not at their defaults."""
    op: OpDef = node.op
    for name, declared in op.attributes.items():
        if name not in names and node.attr(name) != declared.default:
            raise Refusal(f"{name} = {node.attr(name)}")
