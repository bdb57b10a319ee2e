"""aten views and shape operators: reshape, permute, slice, concat, split, pad and the like. Must not import torch."""

from __future__ import annotations

from typing import Any

from ...ir.dims import Dim, dim_eq, dim_max, dim_min
from ...ir.errors import InvalidModel, Unsupported
from ...ir.expr import Expr
from ...ir.types import I64
from ...ir.value import Value
from .context import Context
from .registry import Dtype, Int, Ints, Number, Size, Sizes, Str, Tensor, Tensors, handles

# ---------------------------------------------------------------------------------------------------- reshape


@handles("aten.view", "aten.reshape", "aten._unsafe_view", "aten._reshape_alias", "aten.unflatten")
def reshape(
    c: Context,
    self: Tensor,
    size: Sizes | None = None,
    shape: Sizes | None = None,
    dim: Int = 0,
    sizes: Sizes | None = None,
    stride: Any = None,
) -> Value:
    """The declared result shape has every -1 resolved."""
    return c.reshape(self, c.declared(shape if size is None else size))


@handles("aten.view.dtype")
def view_dtype(c: Context, self: Tensor, dtype: Dtype) -> Value:
    if self.dtype is None or self.dtype.bits != dtype.bits:
        raise Unsupported("a view as a dtype of another size")
    return c.b.bitcast(self, to=dtype)


@handles("aten.view_as", "aten.reshape_as")
def view_as(c: Context, self: Tensor, other: Tensor) -> Value:
    return c.reshape(self, c.shape)


@handles("aten.flatten", "aten.ravel")
def flatten(c: Context, self: Tensor, start_dim: Int = 0, end_dim: Int = -1) -> Value:
    return c.reshape(self, c.shape)


@handles("aten.squeeze")
def squeeze(c: Context, self: Tensor, dim: Ints | None = None) -> Value:
    """Only dims of size 1 go; others named are kept."""
    wanted = c.axes(self, dim) if dim is not None and c.rank(self) else range(c.rank(self))
    gone = tuple(axis for axis in wanted if c.size(self, axis) == 1)
    return c.b.squeeze(self, gone) if gone else self


@handles("aten.unsqueeze")
def unsqueeze(c: Context, self: Tensor, dim: Int) -> Value:
    return c.b.unsqueeze(self, (c.axis(c.rank(self), dim, extra=1),))


@handles("aten.atleast_1d", "aten.atleast_2d", "aten.atleast_3d")
def atleast(c: Context, self: Tensor) -> Value:
    return c.reshape(self, c.shape)


# ---------------------------------------------------------------------------------------------------- permute


@handles("aten.permute")
def permute(c: Context, self: Tensor, dims: Ints) -> Value:
    perm = tuple(c.axis(self, dim) for dim in dims)
    if sorted(perm) != list(range(c.rank(self))):
        raise InvalidModel(f"{dims} is no permutation of {c.rank(self)} dimensions")
    return self if perm == tuple(range(len(perm))) else c.b.transpose(self, perm=perm)


@handles("aten.transpose", "aten.swapaxes", "aten.swapdims")
def transpose(
    c: Context,
    self: Tensor,
    dim0: Int | None = None,
    dim1: Int | None = None,
    axis0: Int | None = None,
    axis1: Int | None = None,
) -> Value:
    first, second = (dim0, dim1) if dim0 is not None else (axis0, axis1)
    if first is None or second is None:
        raise InvalidModel("a transpose of one dimension")
    if c.rank(self) == 0:
        return self
    perm = list(range(c.rank(self)))
    a, b = c.axis(self, first), c.axis(self, second)
    perm[a], perm[b] = perm[b], perm[a]
    return self if a == b else c.b.transpose(self, perm=tuple(perm))


@handles("aten.t", "aten.numpy_T", "aten.mT")
def t(c: Context, self: Tensor) -> Value:
    """`t` of matrices, `T` of all dimensions, `mT` of the last two."""
    rank = c.rank(self)
    if rank < 2:
        return self
    perm = [*range(rank - 2), rank - 1, rank - 2] if ".mT" in c.node.target else list(range(rank))[::-1]
    return c.b.transpose(self, perm=tuple(perm))


@handles("aten.movedim", "aten.moveaxis")
def movedim(c: Context, self: Tensor, source: Ints, destination: Ints) -> Value:
    sources, targets = c.axes(self, source), c.axes(self, destination)
    if len(sources) != len(targets):
        raise InvalidModel("movedim with different numbers of dimensions")
    rest = iter(axis for axis in range(c.rank(self)) if axis not in sources)
    placed = dict(zip(targets, sources, strict=True))
    return permute(c, self, tuple(placed[i] if i in placed else next(rest) for i in range(c.rank(self))))


@handles("aten.flip")
def flip(c: Context, self: Tensor, dims: Ints) -> Value:
    axes = c.axes(self, dims) if dims else ()
    return c.b.reverse(self, axes=axes) if axes else self


@handles("aten.fliplr", "aten.flipud")
def flip_side(c: Context, self: Tensor) -> Value:
    return c.b.reverse(self, axes=(1 if "fliplr" in c.node.target else 0,))


@handles("aten.roll")
def roll(c: Context, self: Tensor, shifts: Sizes, dims: Ints = ()) -> Value:
    """What leaves at the end comes back in front; without dims, of the flat tensor."""
    if not dims:
        flat = c.reshape(self, (c.count(self, range(c.rank(self))),))
        return c.reshape(_roll(c, flat, shifts[0], 0), self.shape or ())
    for shift, dim in zip(shifts, dims, strict=True):
        self = _roll(c, self, shift, c.axis(self, dim))
    return self


def _roll(c: Context, x: Value, shift: Dim, axis: int) -> Value:
    size = c.size(x, axis)
    if size == 0:
        return x
    cut = (
        size - shift % size
        if not isinstance(size, Expr) or not isinstance(shift, int)
        else (size - shift if shift > 0 else -shift)
    )
    if cut in (0, size):
        return x
    return c.b.concat(_cut(c, x, axis, cut, size), _cut(c, x, axis, 0, cut), axis=axis)


# ------------------------------------------------------------------------------------------------- broadcasting


@handles("aten.expand", "aten.expand_as", "aten.broadcast_to")
def expand(c: Context, self: Tensor, size: Sizes | None = None, other: Tensor | None = None) -> Value:
    shape = c.declared(size)
    return self if self.shape == shape else c.b.expand(self, c.sizes(shape))


@handles("aten.repeat", "aten.tile")
def repeat(c: Context, self: Tensor, repeats: Sizes | None = None, dims: Sizes | None = None) -> Value:
    """Copies along each dimension; more numbers than dimensions add dimensions in front."""
    times = repeats if repeats is not None else dims or ()
    rank = max(c.rank(self), len(times))
    times = (1,) * (rank - len(times)) + times
    if rank > c.rank(self):
        self = c.b.unsqueeze(self, tuple(range(rank - c.rank(self))))
    return self if all(n == 1 for n in times) else c.b.tile(self, c.sizes(times))


@handles("aten.repeat_interleave")
def repeat_interleave(
    c: Context, self: Tensor, repeats: Size, dim: Int | None = None, output_size: Any = None
) -> Value:
    """Each slice along `dim` several times in a row."""
    x = self
    if dim is None:
        x, dim = c.reshape(x, (c.count(x, range(c.rank(x))),)), 0
    axis = c.axis(x, dim)
    shape = list(x.shape or ())
    wide = c.b.expand(c.b.unsqueeze(x, (axis + 1,)), c.sizes([*shape[: axis + 1], repeats, *shape[axis + 1 :]]))
    shape[axis] = shape[axis] * repeats
    return c.reshape(wide, shape)


@handles("aten.meshgrid")
def meshgrid(c: Context, tensors: Tensors, indexing: Str = "ij") -> tuple[Value, ...]:
    if indexing not in ("ij", "xy"):
        raise InvalidModel(f"indexing {indexing!r}")
    grids = []
    shape = c.shape
    order = list(range(len(tensors)))
    if indexing == "xy" and len(tensors) > 1:
        order[0], order[1] = 1, 0
    for position, item in enumerate(tensors):
        size = c.size(item, 0) if c.rank(item) else 1
        own: list[Dim] = [1] * len(tensors)
        own[order[position]] = size
        grids.append(c.b.expand(c.reshape(item, own), c.sizes(shape)))
    return tuple(grids)


# ------------------------------------------------------------------------------------------------------- slices

_END = (1 << 63) - 1


def _cut(c: Context, x: Value, axis: int, start: Dim, end: Dim, step: int = 1) -> Value:
    """`x[start:end:step]` along `axis`."""
    return c.b.slice(x, c.sizes((start,)), c.sizes((end,)), (axis,), (step,))


def _bound(value: Dim | None, size: Dim, default: Dim) -> Dim:
    """A slice bound counted from the front and clamped to 0..size, as Python does it."""
    if value is None:
        return default
    if isinstance(value, int) and value >= _END:
        return size
    if isinstance(value, int) and value < 0:
        return dim_max(size + value, 0) if isinstance(size, Expr) else max(size + value, 0)
    return dim_min(value, size) if isinstance(size, Expr) or isinstance(value, Expr) else min(value, size)


@handles("aten.slice")
def slice_(
    c: Context, self: Tensor, dim: Int = 0, start: Size | None = None, end: Size | None = None, step: Int = 1
) -> Value:
    if c.rank(self) == 0:
        raise InvalidModel("a slice of a scalar")
    if step < 1:
        raise InvalidModel(f"a slice with step {step}")
    axis = c.axis(self, dim)
    size = c.size(self, axis)
    if (
        start in (None, 0)
        and (end is None or (isinstance(end, int) and end >= _END) or dim_eq(end, size))
        and step == 1
    ):
        return self
    begin: Dim = 0 if start is None else start
    if isinstance(end, int) and end >= _END:
        end = None
    # Python's negative and clamped bounds are the IR's own; the symbolic ones are read from shapes.
    stop: Dim = _END if end is None else end
    return _cut(c, self, axis, begin, stop, step)


@handles("aten.narrow")
def narrow(c: Context, self: Tensor, dim: Int, start: Size, length: Size) -> Value:
    axis = c.axis(self, dim)
    begin = _bound(start, c.size(self, axis), 0)
    return _cut(c, self, axis, begin, begin + length)


@handles("aten.select")
def select(c: Context, self: Tensor, dim: Int, index: Size) -> Value:
    """One slice, its dimension dropped."""
    if c.rank(self) == 0:
        raise InvalidModel("select of a scalar")
    axis = c.axis(self, dim)
    _check_index(c, self, axis, index)
    return c.b.gather(self, c.b.const(index, I64) if isinstance(index, int) else c.symbols.value(c.b, index), axis=axis)


def _check_index(c: Context, x: Value, axis: int, index: Dim) -> None:
    size = c.size(x, axis)
    if isinstance(index, int) and isinstance(size, int) and not -size <= index < size:
        raise InvalidModel(f"index {index} of a dimension of size {size}")


def _positions(c: Context, x: Value, axis: int, start: Dim | None, end: Dim | None, step: int) -> Value:
    size = c.size(x, axis)
    first, last = _bound(start, size, 0), _bound(end, size, size)
    return c.b.range(*(c.symbols.value(c.b, n) for n in (first, last, step)))


@handles("aten.slice_scatter")
def slice_scatter(
    c: Context,
    self: Tensor,
    src: Tensor,
    dim: Int = 0,
    start: Size | None = None,
    end: Size | None = None,
    step: Int = 1,
) -> Value:
    """`self` with `src` written over a slice."""
    axis = c.axis(self, dim)
    size = c.size(self, axis)
    first, last = _bound(start, size, 0), _bound(end, size, size)
    if dim_eq(first, 0) and dim_eq(last, size) and step == 1:
        return c.cast(src, self.dtype) if self.dtype is not None else src
    if step == 1:
        pieces = [] if dim_eq(first, 0) else [_cut(c, self, axis, 0, first)]
        pieces.append(src)
        pieces += [] if dim_eq(last, size) else [_cut(c, self, axis, last, size)]
        return c.b.concat(*pieces, axis=axis)
    return _scatter(c, self, src, axis, _positions(c, self, axis, start, end, step))


def _scatter(c: Context, x: Value, src: Value, axis: int, positions: Value) -> Value:
    """Slices `positions` of `x` along `axis` replaced by those of `src`."""
    front = (axis, *(i for i in range(c.rank(x)) if i != axis))
    back = tuple(front.index(i) for i in range(c.rank(x)))
    made = c.b.scatter_nd(c.b.transpose(x, perm=front), c.b.unsqueeze(positions, (1,)), c.b.transpose(src, perm=front))
    return c.b.transpose(made, perm=back)


@handles("aten.select_scatter")
def select_scatter(c: Context, self: Tensor, src: Tensor, dim: Int, index: Int) -> Value:
    axis = c.axis(self, dim)
    _check_index(c, self, axis, index)
    end = index + 1 if index != -1 else None
    return slice_scatter(c, self, c.b.unsqueeze(src, (axis,)), axis, index, end)


# ------------------------------------------------------------------------------------------------- join and split


@handles("aten.cat", "aten.concat", "aten.concatenate")
def cat(c: Context, tensors: Tensors, dim: Int = 0) -> Value:
    """In the promoted dtype; torch's empty 1-d tensors take no part."""
    values, _ = c.promoted(*tensors)
    kept = [v for v in values if not (v.shape == (0,) and any(c.rank(o) != 1 for o in values))]
    axis = c.axis(kept[0], dim)
    return kept[0] if len(kept) == 1 else c.b.concat(*kept, axis=axis)


@handles("aten.stack")
def stack(c: Context, tensors: Tensors, dim: Int = 0) -> Value:
    values, _ = c.promoted(*tensors)
    axis = c.axis(c.rank(values[0]), dim, extra=1)
    return c.b.concat(*(c.b.unsqueeze(v, (axis,)) for v in values), axis=axis)


@handles("aten.hstack", "aten.vstack", "aten.column_stack")
def hstack(c: Context, tensors: Tensors) -> Value:
    name = c.node.target.split(".")[1]
    rank = 2 if name in ("vstack", "column_stack") else 1
    grown = []
    for item in c.promoted(*tensors)[0]:
        if name == "column_stack" and c.rank(item) < 2:
            item = c.reshape(item, (c.count(item, range(c.rank(item))), 1))
        while c.rank(item) < rank:
            item = c.b.unsqueeze(item, (0,))
        grown.append(item)
    axis = 0 if name == "vstack" or (name == "hstack" and c.rank(grown[0]) == 1) else 1
    return c.b.concat(*grown, axis=axis)


def _parts(c: Context, x: Value, axis: int, sizes: list[Dim]) -> tuple[Value, ...]:
    if len(sizes) == 1:
        return (x,)
    made = c.b.split(x, c.sizes(sizes), axis=axis)
    return made if isinstance(made, tuple) else (made,)


def _declared_parts(c: Context, x: Value, axis: int) -> tuple[Value, ...]:
    """A split into the sizes that the results are declared with."""
    names = c.node.outputs[0] if c.node.outputs else None
    if not isinstance(names, tuple) or not names:
        raise InvalidModel("a split with no results")
    shapes = [c.dims(c.graph.tensors[name]) for name in names if name in c.graph.tensors]
    if len(shapes) != len(names) or any(len(shape) <= axis for shape in shapes):
        raise InvalidModel("a split whose results have no declared shapes")
    return _parts(c, x, axis, [shape[axis] for shape in shapes])


@handles(
    "aten.split",
    "aten.split_with_sizes",
    "aten.chunk",
    "aten.unsafe_split",
    "aten.unsafe_chunk",
    "aten.unsafe_split_with_sizes",
    "aten.tensor_split",
)
def split(
    c: Context, self: Tensor, split_size: Size | None = None, split_sizes: Sizes | None = None, chunks: Int | None = None,
    sections: Int | None = None, indices: Ints | None = None, dim: Int = 0,
) -> tuple[Value, ...]:  # fmt: skip
    axis = c.axis(self, dim)
    return _parts(c, self, axis, list(split_sizes)) if split_sizes is not None else _declared_parts(c, self, axis)


@handles("aten.unbind")
def unbind(c: Context, self: Tensor, dim: Int = 0) -> tuple[Value, ...]:
    axis = c.axis(self, dim)
    count, names = c.fixed(self, axis), c.node.outputs[0] if c.node.outputs else ()
    if not isinstance(names, tuple) or len(names) != count:
        raise InvalidModel(f"a dimension of size {count} unbound into other results")
    parts = _parts(c, self, axis, [1] * count) if count else ()
    return tuple(c.b.squeeze(part, (axis,)) for part in parts)


# ---------------------------------------------------------------------------------------------------------- pad

_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def _pad(c: Context, x: Value, pad: tuple[Dim, ...], mode: str, value: Any = None) -> Value:
    """torch lists (begin, end) from the last dimension backwards; negative numbers crop."""
    if len(pad) % 2 or len(pad) > 2 * c.rank(x):
        raise InvalidModel(f"padding {pad} of a tensor of rank {c.rank(x)}")
    pairs = [(c.rank(x) - 1 - i, pad[2 * i], pad[2 * i + 1]) for i in range(len(pad) // 2)]
    pairs = sorted(pair for pair in pairs if pair[1:] != (0, 0))
    if not pairs:
        return x
    axes = [axis for axis, _, _ in pairs]
    amounts = c.sizes([begin for _, begin, _ in pairs] + [end for _, _, end in pairs])
    fill = None if mode != "constant" else c.like(0 if value is None else value, x)
    return c.b.pad(x, amounts, fill, tuple(axes), mode=mode)


@handles("aten.pad")
def pad(c: Context, self: Tensor, pad: Sizes, mode: Str = "constant", value: Number | None = None) -> Value:
    if mode not in _MODES:
        raise InvalidModel(f"padding mode {mode!r}")
    return _pad(c, self, pad, _MODES[mode], value)


@handles("aten.constant_pad_nd")
def constant_pad(c: Context, self: Tensor, pad: Sizes, value: Number = 0) -> Value:
    return _pad(c, self, pad, "constant", value)


@handles(*(f"aten.{kind}_pad{n}d" for kind in ("reflection", "replication") for n in (1, 2, 3)))
def border_pad(c: Context, self: Tensor, padding: Sizes) -> Value:
    return _pad(c, self, padding, "reflect" if "reflection" in c.node.target else "edge")


# ------------------------------------------------------------------------------------------- blocks and triangles


@handles("aten.pixel_shuffle")
def pixel_shuffle(c: Context, self: Tensor, upscale_factor: Int) -> Value:
    return _four_d(c, self, lambda x: c.b.depth_to_space(x, blocksize=upscale_factor, mode="CRD"))


@handles("aten.pixel_unshuffle")
def pixel_unshuffle(c: Context, self: Tensor, downscale_factor: Int) -> Value:
    """[C, H*r, W*r] to [C*r*r, H, W]; the channel is the slowest, unlike ONNX's SpaceToDepth."""
    r = downscale_factor
    if r < 1 or c.rank(self) < 3:
        raise InvalidModel(f"pixel_unshuffle by {r} of {self.type}")
    *front, channels, height, width = self.shape or ()
    k = len(front)
    x = c.reshape(self, (*front, channels, height // r, r, width // r, r))
    x = c.b.transpose(x, perm=(*range(k), k, k + 2, k + 4, k + 1, k + 3))
    return c.reshape(x, (*front, channels * r * r, height // r, width // r))


def _four_d(c: Context, x: Value, build: Any) -> Value:
    """`build` of `x` seen as [N, C, H, W], whatever stands in front of the channel."""
    rank = c.rank(x)
    if rank < 3:
        raise InvalidModel(f"an image is expected, not {x.type}")
    if rank == 4:
        return build(x)
    shape = x.shape or ()
    made = build(c.reshape(x, (c.count(x, range(rank - 3)), *shape[-3:])))
    return c.reshape(made, (*shape[:-3], *(made.shape or ())[-3:]))


@handles("aten.channel_shuffle", "aten.native_channel_shuffle")
def channel_shuffle(c: Context, self: Tensor, groups: Int) -> Value:
    batch, channels, *rest = self.shape or (0, 0)
    if groups < 1 or isinstance(channels, Expr) or channels % groups:
        raise InvalidModel(f"{channels} channels in {groups} groups")
    x = c.reshape(self, (batch, groups, channels // groups, *rest))
    x = c.b.transpose(x, perm=(0, 2, 1, *range(3, 3 + len(rest))))
    return c.reshape(x, self.shape or ())


@handles("aten.tril", "aten.triu")
def tril(c: Context, self: Tensor, diagonal: Int = 0) -> Value:
    return c.b.trilu(self, c.const(diagonal, I64), upper="triu" in c.node.target)


@handles("aten.diagonal")
def diagonal(c: Context, self: Tensor, offset: Int = 0, dim1: Int = 0, dim2: Int = 1) -> Value:
    """A diagonal of two dimensions, as the last dimension of the result."""
    rank, a, b = c.rank(self), c.axis(self, dim1), c.axis(self, dim2)
    if a == b:
        raise InvalidModel("the diagonal of one dimension")
    rest = [i for i in range(rank) if i not in (a, b)]
    x = c.b.transpose(self, perm=(a, b, *rest))
    rows, columns = c.fixed(self, a), c.fixed(self, b)
    count = max(0, min(rows - max(-offset, 0), columns - max(offset, 0)))
    if count > 1 << 20:
        raise Unsupported(f"a diagonal of {count} elements")
    first = [max(-offset, 0), max(offset, 0)]
    indices = c.b.const([[first[0] + i, first[1] + i] for i in range(count)] or [[0, 0]], I64)
    if not count:
        indices = c.b.slice(indices, (0,), (0,), (0,))
    made = c.b.gather_nd(x, indices)
    return c.b.transpose(made, perm=(*range(1, rank - 1), 0)) if rank > 2 else made


@handles("aten.unfold")
def unfold(c: Context, self: Tensor, dimension: Int, size: Int, step: Int) -> Value:
    """Windows of `size` along one dimension, `step` apart; the window is the new last dimension."""
    axis = c.axis(self, dimension)
    length = c.fixed(self, axis)
    if step < 1 or not 0 <= size <= length:
        raise InvalidModel(f"windows of {size} by {step} in {length}")
    starts = range(0, length - size + 1, step)
    if len(starts) * size > 1 << 24:
        raise Unsupported("an unfold into more than 2^24 positions")
    windows = c.b.const([[start + i for i in range(size)] for start in starts], I64)
    made = c.b.gather(self, windows, axis=axis)
    rank = c.rank(self)
    return c.b.transpose(made, perm=(*range(axis + 1), *range(axis + 2, rank + 1), axis + 1))


@handles("aten.im2col")
def im2col(c: Context, self: Tensor, kernel_size: Ints, dilation: Ints, padding: Ints, stride: Ints) -> Value:
    """Blocks of an image as columns: one strided slice for each position in the kernel."""
    x = _pad(c, self, (padding[-1], padding[-1], padding[0], padding[0]), "constant")
    rank, (kh, kw) = c.rank(x), kernel_size
    if rank != 4 or kh * kw > 1024 or min(*stride, *dilation, kh, kw) < 1:
        raise Unsupported("im2col of this kind")
    height, width = c.fixed(x, 2), c.fixed(x, 3)
    rows, columns = (
        (n - d * (k - 1) - 1) // s + 1
        for n, d, k, s in zip((height, width), dilation, kernel_size, stride, strict=True)
    )
    taps = []
    for i in range(kh):
        for j in range(kw):
            top, left = i * dilation[0], j * dilation[1]
            ends = (top + (rows - 1) * stride[0] + 1, left + (columns - 1) * stride[1] + 1)
            tap = c.b.slice(x, (top, left), ends, (2, 3), tuple(stride))
            taps.append(c.b.unsqueeze(tap, (2,)))
    made = c.b.concat(*taps, axis=2) if len(taps) > 1 else taps[0]
    return c.reshape(made, c.shape)


@handles("aten.rot90")
def rot90(c: Context, self: Tensor, k: Int = 1, dims: Ints = (0, 1)) -> Value:
    """Quarter turns from the first of two dimensions towards the second."""
    a, b = c.axes(self, dims) if len(dims) == 2 else (0, 0)
    if a == b:
        raise InvalidModel(f"a rotation of the dimensions {dims}")
    turned = transpose(c, self, a, b)
    options = {
        0: lambda: self,
        1: lambda: c.b.reverse(turned, axes=(a,)),
        2: lambda: c.b.reverse(self, axes=(a, b)),
        3: lambda: c.b.reverse(turned, axes=(b,)),
    }
    return options[k % 4]()
