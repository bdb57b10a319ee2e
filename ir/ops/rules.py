"""What several families' shape rules share: rank checks, agreement of dims, channel axes, the axis maps of data.

Knows dims, types and errors; no op is defined here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..dims import Dim, Expr, dim_eq
from ..errors import TypeInferError
from ..opdef import Axis

if TYPE_CHECKING:
    from ..types import DType
    from ..value import Value

AxisRow = tuple[Axis | None, ...]


def ranked(value: Value | None, what: str, *ranks: int, least: int = 0) -> tuple[Dim, ...] | None:
    """The shape of `value`, None if it is absent or of unknown rank. Raises TypeInferError when the rank is another."""
    shape = None if value is None else value.shape
    if shape is None:
        return None
    if ranks and len(shape) not in ranks:
        raise TypeInferError(f"{what} has shape {show(shape)}; expected rank {' or '.join(map(str, ranks))}")
    if len(shape) < least:
        raise TypeInferError(f"{what} has shape {show(shape)}; expected rank {least} or more")
    return shape


def show(shape: Iterable[Dim]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def agree(a: Dim, b: Dim, what: str) -> Dim:
    """The better known of two dims that must be equal. Raises TypeInferError when they cannot be."""
    if dim_eq(a, b) is False:
        raise TypeInferError(f"{what}: {a} and {b} differ")
    return b if isinstance(a, Expr) and not isinstance(b, Expr) else a


def expect_vector(value: Value | None, size: Dim, what: str) -> None:
    """An operand, if it is there, is a vector of `size`."""
    shape = ranked(value, what, 1)
    if shape is not None:
        agree(shape[0], size, f"{what} has {shape[0]} elements for {size} channels")


def first_dtype(*values: Value | None) -> DType | None:
    """The dtype of the first operand whose dtype is known."""
    return next((v.dtype for v in values if v is not None and v.dtype is not None), None)


def channels_first(shape: tuple[Dim, ...], channels_last: bool) -> tuple[Dim, ...]:
    """Dims [N, *S, C] as [N, C, *S]; as they are when not `channels_last`."""
    return (shape[0], shape[-1], *shape[1:-1]) if channels_last else shape


def in_layout(row: tuple[Any, ...], channels_last: bool) -> tuple[Any, ...]:
    """[N, C, *S] as [N, *S, C] when `channels_last`: the inverse of `channels_first`."""
    return (row[0], *row[2:], row[1]) if channels_last else row


def data_axes(rank: int, channels_last: bool, channel: Axis | None, spatial: Axis | str | None = None) -> AxisRow:
    """Batch passes, then the channel's axis, then spatial ones: None pins them, a string numbers passing labels."""
    rest = tuple(Axis(f"{spatial}{i}") if isinstance(spatial, str) else spatial for i in range(rank - 2))
    return in_layout((Axis("n"), channel, *rest), channels_last)


def passing(rank: int, pinned: Iterable[int] = ()) -> AxisRow:
    """Every axis passes under its own label but the pinned ones."""
    held = {axis % rank for axis in pinned}
    return tuple(None if i in held else Axis(f"d{i}") for i in range(rank))
