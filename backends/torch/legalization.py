"""Brings a module into the form that torch calls express one for one; what stays is refused, all of it at once."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ...formats.exported import TORCH_NAMES
from ...ir.builder import Builder
from ...ir.dims import Dim, Expr
from ...ir.errors import Unsupported, clean
from ...ir.graph import Module, Node
from ...ir.ops import get_op
from ...ir.ops.window import resolve_pads, spread, transposed, window
from ...ir.symbols import settle_symbols
from ...ir.types import BF16, BOOL, C64, C128, F16, F32, F64, I8, I16, I32, I64, U8, TensorType
from ...passes.decompose import Declined, Rule, decomposable, decompose
from ...passes.quantize.widen import widen_stored
from .calls import FAMILIES, ROWS, Refusal
from .plan import is_host
from .pool import SHORT

DTYPES = frozenset([BOOL, U8, I8, I16, I32, I64, F16, BF16, F32, F64, C64, C128])
STORED = DTYPES | frozenset(TORCH_NAMES.values())
RULES: dict[str, Rule] = {}


@dataclass(frozen=True)
class Offender:
    """A node that cannot be written: the op, where it stands and why."""

    op: str
    where: str
    reason: str

    def __str__(self) -> str:
        place = f" at {clean(self.where)}" if self.where else ""
        return f"{self.op}{place}: {self.reason}"


def load() -> None:
    """Fill the table of rows."""
    for family in FAMILIES:
        importlib.import_module(f".{family}", __package__)


def legal(node: Node) -> str | None:
    """Why `node` is no single torch call; None when it is one (or needs none)."""
    if is_host(node):
        return None
    made = ROWS.get(node.name)
    if made is None:
        return "torch has no function for it" if not node.regions else "branches and loops are not written"
    reason = _dtype_reason(node)
    if reason is not None:
        return reason
    try:
        made(node)
    except Refusal as refusal:
        return refusal.message
    return None


def support(name: str) -> str:
    """How the op `name` is written: direct, decomposed, or - when there is no way."""
    load()
    if name in ROWS:
        return "direct"
    if get_op(name).regions:
        return "decomposed" if name == "call" else "-"
    return "decomposed" if name in RULES or name in ("shape", "size") or decomposable(name, _writes) else "-"


def _writes(name: str) -> bool:
    return support(name) != "-"


def _dtype_reason(node: Node) -> str | None:
    """torch stores more dtypes than it computes in: a cast may read any of them."""
    readable = STORED if node.name == "cast" else DTYPES
    for values, allowed in ((node.results, DTYPES), (node.inputs(), readable)):
        for value in values:
            dtype = value.type.dtype if isinstance(value.type, TensorType) else None
            if dtype is None:
                return f"a value of type {value.type}"
            if dtype not in allowed:
                return f"torch does not compute in {dtype}"
    return None


def legalize(module: Module) -> Module:
    """A clone whose nodes are single torch calls. Raises Unsupported naming all offenders at once."""
    clone, left = _attempt(module)
    if left:
        shown = "; ".join(map(str, left[:20])) + (f"; and {len(left) - 20} more" if len(left) > 20 else "")
        raise Unsupported(f"cannot be written as PyTorch: {shown}")
    settle_symbols(clone)
    return clone


def offenders(module: Module) -> list[Offender]:
    """What cannot be written, in graph order; empty when `legalize` would succeed."""
    return _attempt(module)[1]


def _attempt(module: Module) -> tuple[Module, list[Offender]]:
    load()
    clone = module.clone()
    widen_stored(clone)
    return clone, list(_decomposed(clone))


def _decomposed(clone: Module) -> Iterator[Offender]:
    left = decompose(clone, legal, RULES)
    for node in clone.all_nodes():
        reason = legal(node) if node in left else None
        if reason is not None:
            yield Offender(node.op.name, str(node.loc), reason)


# ------------------------------------------------------------------------------------------ rules of this target


def _rule(*names: str):
    def register(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, rule))
        return rule

    return register


def _explicit(node: Node) -> tuple[int, ...] | Declined:
    """Pads in numbers, those of auto_pad worked out from fixed sizes."""
    x = node.operand("x")
    kernel = node.attr("kernel_shape") if "kernel_shape" in node.attrs else tuple(node.operand("w").shape[2:])
    n = len(kernel)
    if node.attr("auto_pad") == "explicit":
        return spread(node.attr("pads"), 2 * n, 0, "pads")
    sizes = x.shape[2:] if x.shape is not None else ()
    if len(sizes) != n or any(isinstance(s, Expr) for s in (*sizes, *kernel)):
        return Declined("its padding depends on sizes known at run time")
    made = resolve_pads(window(kernel, node.attr("strides"), (), node.attr("dilations"), node.attr("auto_pad")), sizes)
    return tuple(int(p) for p in (*made.begins, *made.ends))


def _again(b: Builder, node: Node, x, **changed):
    """The same op on `x` with some attributes changed."""
    return b.call(node.name, (x, *node.operands[1:]), {**node.attrs, **changed}).result


@_rule("conv", "max_pool", "average_pool")
def pad_first(b: Builder, node: Node):
    """Padding that torch does not take, as a node of its own: zeros, or for max_pool what never wins; short integers are
    pooled as floats, which hold them."""
    pads = _explicit(node) if not node.attr("channels_last") else Declined("")
    if isinstance(pads, Declined):
        return pads
    x = node.operand("x")
    half = len(pads) // 2
    kernel = node.attr("kernel_shape") if node.name != "conv" else None
    fits = kernel is None or all(2 * p <= k for p, k in zip(pads, kernel * 2, strict=True))
    if pads[:half] == pads[half:] and fits:
        if node.name == "max_pool" and x.dtype in SHORT:
            return b.cast(_again(b, node, b.cast(x, to=F32)), to=x.dtype)
        return (
            _again(b, node, x, auto_pad="explicit", pads=pads) if node.attr("auto_pad") != "explicit" else Declined("")
        )
    if any(p < 0 for p in pads):
        return Declined("negative pads")
    if node.name == "average_pool" and not node.attr("count_include_pad"):
        return Declined("")
    if kernel is not None and node.attr("ceil_mode"):
        return Declined("ceil_mode with pads that differ between the sides")
    axes = tuple(range(2, 2 + half))
    padded = b.pad(x, pads, _neutral(b, node), axes)
    return _again(b, node, padded, auto_pad="explicit", pads=(0,) * (2 * half))


def _neutral(b: Builder, node: Node):
    dtype = node.result.dtype
    assert dtype is not None
    if node.name != "max_pool":
        return b.const(np.zeros((), dtype.numpy), dtype)
    lowest = -np.inf if dtype.is_float else np.iinfo(dtype.numpy).min
    return b.const(np.asarray(lowest).astype(dtype.numpy), dtype)


@_rule("conv_transpose")
def crop_after(b: Builder, node: Node):
    """Pads that differ between the sides cut the full result."""
    x, w = node.operands[:2]
    if x is None or w is None or x.shape is None or w.shape is None or any(isinstance(k, Expr) for k in w.shape[2:]):
        return Declined("its window is not fixed")
    if node.attr("channels_last"):
        return Declined("")
    n = len(w.shape) - 2
    extra = spread(node.attr("output_padding"), n, 0, "output_padding")
    explicit = node.attr("auto_pad") == "explicit" and not node.attr("output_shape")
    if not explicit and any(isinstance(s, Expr) for s in x.shape[2:]):
        return Declined("its padding depends on sizes known at run time")
    kernel: tuple[int, ...] = w.shape[2:]  # type: ignore[assignment]
    made, sizes = transposed(
        window(kernel, node.attr("strides"), node.attr("pads"), node.attr("dilations"), node.attr("auto_pad")),
        x.shape[2:], extra, node.attr("output_shape"),
    )  # fmt: skip
    full = b.conv_transpose(
        *node.operands,
        strides=made.strides,
        dilations=made.dilations,
        groups=node.attr("groups"),
        output_padding=(0,) * n,
    )
    have = full.shape[2:]
    if explicit and not any(extra):
        ends = tuple(-e if e else (1 << 31) - 1 for e in made.ends)
        return b.slice(full, made.begins, ends, tuple(range(2, n + 2)))
    if any(isinstance(d, Expr) for d in (*have, *sizes)):
        return Declined("its output padding depends on sizes known at run time")
    missing = [max(begin + size - d, 0) for begin, size, d in zip(made.begins, sizes, have, strict=True)]
    if any(missing):
        if len(node.operands) > 2 and node.operands[2] is not None:
            return Declined("output padding beyond the window, with a bias")
        full = b.pad(full, (0,) * n + tuple(missing), None, tuple(range(2, n + 2)))
    return b.slice(full, made.begins, [p + s for p, s in zip(made.begins, sizes, strict=True)], tuple(range(2, n + 2)))


@_rule("unsqueeze")
def unsqueeze(b: Builder, node: Node):
    x, axes = node.operands
    where = axes.ints() if axes is not None else None
    if x is None or where is None or x.rank is None:
        return Declined("its axes are not constant")
    if len(where) == 1:
        return Declined("")
    rank = x.rank + len(where)
    for axis in sorted(a % rank for a in where):
        x = b.unsqueeze(x, (axis,))
    return x


@_rule(*(f"reduce_{kind}" for kind in ("sum", "mean", "max", "min", "prod", "any", "all")))
def reduce_nothing(b: Builder, node: Node):
    """A reduction over no axis is its operand; several axes of a product go one after the other."""
    x, axes = (*node.operands, None)[:2]
    where = () if axes is None else axes.ints()
    if x is None or where is None or x.rank is None:
        return Declined("")
    if x.rank == 0 or (not where and node.attr("noop_with_empty_axes")):
        return x
    if x.dtype is BOOL and node.name in ("reduce_max", "reduce_min"):
        again = b.reduce_any if node.name == "reduce_max" else b.reduce_all
        return again(x, axes, keepdims=node.attr("keepdims"))
    if node.name != "reduce_prod":
        return Declined("")
    for axis in sorted((a % x.rank for a in where or range(x.rank)), reverse=True):
        x = b.reduce_prod(x, (axis,), keepdims=node.attr("keepdims"))
    return x


@_rule("cumsum", "cumprod")
def cumulative(b: Builder, node: Node):
    """`reverse` turns around before and after; `exclusive` shifts by one and starts at the neutral element."""
    x, axis = node.operands
    where = axis.ints() if axis is not None else None
    if x is None or where is None or x.shape is None or x.dtype is None:
        return Declined("its axis is not constant")
    at = where[0] % len(x.shape)
    if x.shape[at] == 0:
        return x
    x = b.reverse(x, axes=(at,)) if node.attr("reverse") else x
    y = b.call(node.name, (x, axis)).result
    if node.attr("exclusive"):
        neutral = b.const(np.asarray(0 if node.name == "cumsum" else 1, x.dtype.numpy), x.dtype)
        pads = (1, -1)
        y = b.pad(y, pads, neutral, (at,))
    return b.reverse(y, axes=(at,)) if node.attr("reverse") else y


_FAR = (1 << 31) - 1  # bounds from here on mean "to the end"


@_rule("slice")
def backwards(b: Builder, node: Node):
    """Negative steps: the same elements forwards, then the axis reversed. Steps below -1 need a fixed size."""
    x, starts, ends, axes, steps = (*node.operands, None, None)[:5]
    lists = [v.ints() if v is not None else None for v in (starts, ends, axes, steps)]
    if x is None or x.shape is None or lists[0] is None or lists[1] is None or lists[3] is None:
        return Declined("")
    rows = []
    for axis, start, end, step in zip(lists[2] or range(len(lists[0])), lists[0], lists[1], lists[3], strict=True):
        at = axis % len(x.shape)
        made = (start, end, step, False) if step > 0 else _forwards(x.shape[at], start, end, step)
        if made is None:
            return Declined("it runs backwards along a size known at run time")
        rows.append((at, *made))
    y = b.slice(x, *([r[i] for r in rows] for i in (1, 2, 0, 3)))
    return b.reverse(y, axes=tuple(r[0] for r in rows if r[4]))


def _forwards(size: Dim, start: int, end: int, step: int) -> tuple[int, int, int, bool] | None:
    """(start, end, step, True) of a forward slice that takes the elements of a backward one in the other order."""
    if not isinstance(size, Expr):
        taken = range(size)[slice(start, None if end < -size else end, step)]
        return (taken[-1], taken[0] + 1, -step, True) if len(taken) else (0, 0, 1, True)
    if step != -1 or end == -1:
        return None
    return 0 if end <= -_FAR else end + 1, _FAR if start == -1 or start >= _FAR else start + 1, 1, True


@_rule("pow")
def same_dtype(b: Builder, node: Node):
    x, y = node.operands
    return Declined("") if x is None or y is None or x.dtype is y.dtype else b.pow(x, b.cast(y, to=x.dtype))


@_rule("arg_max", "arg_min")
def last_index(b: Builder, node: Node):
    """The last of equal elements is the first of the reversed axis."""
    x = node.operand("x")
    if not node.attr("select_last_index") or x.shape is None or isinstance(x.shape[node.attr("axis")], Expr):
        return Declined("")
    turned = b.reverse(x, axes=(node.attr("axis"),))
    found = _again(b, node, turned, select_last_index=False)
    return b.sub(b.const(np.asarray(x.shape[node.attr("axis")] - 1, np.int64), I64), found)


@_rule("clip")
def unbounded(b: Builder, node: Node):
    return node.operands[0] if len(node.operands) == 1 else Declined("")
