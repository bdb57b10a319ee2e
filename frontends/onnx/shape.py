"""Operators that move, cut, join and measure; and constants."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ...formats.onnx import dtypes, tensors
from ...ir.graph import Value
from ...ir.tensor import as_tensor
from ...ir.types import F32, I64, STRING
from .importer import Call, Importer, rank_of
from .registry import handles


@handles("Constant")
def constant(c: Importer, n: Call) -> Any:
    """All forms: dense and sparse tensors, numbers and strings."""
    given = n.node.attrs
    if len(given) != 1:
        raise n.invalid(f"a Constant has one value attribute, not {len(given)}")
    (name,) = given
    value = n.attrs[name]
    if name == "value":
        tensor: Any = c.tensor(value, n.label)
    elif name == "sparse_value":
        tensor = tensors.densify(value, c.path, n.label)
    elif name in ("value_string", "value_strings"):
        tensor = as_tensor(np.asarray(value, object), STRING)
    else:
        tensor = as_tensor(np.asarray(value, np.float32 if "float" in name else np.int64))
    if tensor.nbytes <= 1024 and not (tensor.dtype.is_float and tensor.size > 1):
        return c.b.const(tensor)
    # exporters that know no initializers keep their weights like this
    return c.stored(n.node.outputs[0], value, tensor)


@handles("ConstantOfShape")
def constant_of_shape(c: Importer, n: Call) -> Any:
    proto = n.attr("value")
    value = np.zeros(1, np.float32) if proto is None else c.tensor(proto, n.label).numpy().reshape(-1)
    if value.size != 1:
        raise n.invalid(f"value has {value.size} elements, one expected")
    to = F32 if proto is None else dtypes.from_code(proto.data_type, n.label)
    return c.b.constant_of_shape(n.x, value=value[0].item(), to=to)


@handles("Reshape")
def reshape_attribute(c: Importer, n: Call) -> Any:
    return c.b.reshape(n.x, tuple(n.attr("shape", ())))


@handles("Reshape", since=5)
def reshape(c: Importer, n: Call) -> Any:
    return c.b.reshape(*n.inputs, allowzero=bool(n.attr("allowzero", 0)))


@handles("Transpose")
def transpose(c: Importer, n: Call) -> Any:
    perm = n.attr("perm")
    return c.b.transpose(n.x, perm=tuple(perm) if perm is not None else tuple(reversed(range(rank_of(n.x, n)))))


@handles("Concat")
def concat(c: Importer, n: Call) -> Any:
    return c.b.concat(*n.inputs, axis=n.attr("axis", 1))


def _whole(value: Value | None, n: Call, what: str) -> tuple[int, ...]:
    """The elements of a constant of any dtype: opset 1 has sizes and axes in the dtype of the data."""
    if value is None or not value.is_const:
        raise n.refuse(f"{what} must be a known constant")
    found = [float(v) for v in np.asarray(value.array()).reshape(-1)]
    if not all(v.is_integer() for v in found):
        raise n.invalid(f"{what} {found} must be whole numbers")
    return tuple(map(int, found))


@handles("Split")
def split(c: Importer, n: Call) -> Any:
    """Sizes: an optional operand in opset 1, an attribute until 13, an operand since; else equal parts."""
    x, sizes = n.take(2)
    if "split" in n.attrs:
        sizes = tuple(n.attrs["split"])
    elif sizes is not None and n.opset < 2:
        sizes = _whole(sizes, n, "the sizes")
    count = n.attr("num_outputs", len(n.node.outputs))
    if count != len(n.node.outputs):
        raise n.invalid(f"num_outputs is {count}, but {len(n.node.outputs)} outputs are named")
    made = c.b.call("split", (x, sizes), {"axis": n.attr("axis", 0), "num_outputs": count}).results
    if len(made) != len(n.node.outputs):
        raise n.invalid(f"{len(n.node.outputs)} outputs are named, the split has {len(made)}")
    return made


@handles("Slice")
def slice_attributes(c: Importer, n: Call) -> Any:
    axes = n.attr("axes")
    return c.b.slice(n.x, tuple(n.attr("starts")), tuple(n.attr("ends")), None if axes is None else tuple(axes))


@handles("Slice", since=10)
def slice_(c: Importer, n: Call) -> Any:
    return c.b.slice(*n.inputs)


@handles("Pad")
def pad_attributes(c: Importer, n: Call) -> Any:
    pads = tuple(n.attr("pads") if "pads" in n.attrs else n.attr("paddings"))
    value = c.scalar(n.attr("value", 0.0), n.x)
    return c.b.pad(n.x, pads, value, mode=n.attr("mode", "constant"))


@handles("Pad", since=11)
def pad(c: Importer, n: Call) -> Any:
    return c.b.pad(*n.take(4), mode=n.attr("mode", "constant"))


@handles("Squeeze")
def squeeze(c: Importer, n: Call) -> Any:
    x, axes = n.take(2)
    return c.b.squeeze(x, tuple(n.attrs["axes"]) if "axes" in n.attrs else axes)


@handles("Unsqueeze")
def unsqueeze(c: Importer, n: Call) -> Any:
    x, axes = n.take(2)
    return c.b.unsqueeze(x, tuple(n.attrs["axes"]) if "axes" in n.attrs else axes)


@handles("Expand")
def expand(c: Importer, n: Call) -> Any:
    return c.b.expand(*n.inputs)


@handles("Tile")
def tile_one_axis(c: Importer, n: Call) -> Any:
    """Opset 1 repeats along one axis: operands are the count and the axis."""
    x, tiles, axis = n.inputs
    repeats = [1] * rank_of(x, n)  # type: ignore[arg-type]
    (at,), (count,) = _whole(axis, n, "the axis"), _whole(tiles, n, "the number of tiles")
    if not 0 <= at < len(repeats):
        raise n.invalid(f"axis {at} is outside of rank {len(repeats)}")
    repeats[at] = count
    return c.b.tile(x, tuple(repeats))


@handles("Tile", since=6)
def tile(c: Importer, n: Call) -> Any:
    return c.b.tile(*n.inputs)


@handles("Flatten")
def flatten(c: Importer, n: Call) -> Any:
    return c.b.flatten(n.x, axis=n.attr("axis", 1))


@handles("Shape")
def shape(c: Importer, n: Call) -> Any:
    attrs = {"start": n.attr("start", 0)}
    if "end" in n.attrs:
        attrs["end"] = n.attrs["end"]
    return c.b.shape(n.x, **attrs)


@handles("Size")
def size(c: Importer, n: Call) -> Any:
    return c.b.size(n.x)


@handles("Range")
def range_(c: Importer, n: Call) -> Any:
    """Files in the wild give vectors of one element where the spec wants scalars."""
    return c.b.range(*(c.b.reshape(v, ()) if v.rank else v for v in n.inputs))  # type: ignore[union-attr]


@handles("DepthToSpace")
def depth_to_space(c: Importer, n: Call) -> Any:
    return c.b.depth_to_space(n.x, blocksize=n.attr("blocksize"), mode=n.attr("mode", "DCR"))


@handles("SpaceToDepth")
def space_to_depth(c: Importer, n: Call) -> Any:
    """Opset 28 added `mode`: before, and by default, it is the inverse of depth_to_space's DCR."""
    return c.b.space_to_depth(n.x, blocksize=n.attr("blocksize"), mode=n.attr("mode", "DCR"))


@handles("CenterCropPad", since=18)
def center_crop_pad(c: Importer, n: Call) -> Any:
    """By the schema's own body, which takes sizes of i64 only."""
    x, sizes = n.inputs
    if sizes.dtype is not I64:  # type: ignore[union-attr]
        n = replace(n, inputs=(x, c.b.cast(sizes, to=I64)))
    return c.expand(n)


@handles("Trilu")
def trilu(c: Importer, n: Call) -> Any:
    return c.b.trilu(*n.take(2), upper=bool(n.attr("upper", 1)))


@handles("EyeLike")
def eye_like(c: Importer, n: Call) -> Any:
    code = n.attr("dtype")
    dtype = n.x.dtype if code is None else dtypes.from_code(code, n.label)
    return c.b.eye_like(n.x, k=n.attr("k", 0), dtype=dtype)


@handles("ReverseSequence")
def reverse_sequence(c: Importer, n: Call) -> Any:
    return c.b.reverse_sequence(*n.inputs, batch_axis=n.attr("batch_axis", 1), time_axis=n.attr("time_axis", 0))
