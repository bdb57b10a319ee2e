"""Which axis of an array counts samples, and whether it fits an input: arrays of any source become samples of a module.

Inputs are of two kinds. Where axis 0 of an input is its batch, a sample is one row of it and rows are stacked as the run
wants them. Where it is not (a scalar, a state, a model without a batch axis), a sample is the whole input. Arrays of a
source may hold one sample, or many along a new or the batch axis; their rank says which. Nothing is ever reshaped to fit.
Imports no framework.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..ir.dims import Dim, bind_shape
from ..ir.errors import AnyIRError, InvalidData, Unsupported, UsageError, clean
from ..ir.graph import Module, Value
from ..ir.signature import Slot
from ..ir.types import STRING, TensorType
from .preprocess import Preprocess

Arrays = dict[str, np.ndarray]
#: Names under which labels stand beside the inputs.
LABELS = ("labels", "label", "y", "targets")


class Sample(NamedTuple):
    """Arrays by input name as `Binding` cut them, the label, and the place to name in a message."""

    arrays: Arrays
    label: Any
    where: str

    def digest(self) -> bytes:
        """16 bytes of its names, dtypes, shapes and elements; the label does not count."""
        state = hashlib.blake2b(digest_size=16)
        for name, array in self.arrays.items():
            state.update(f"{name}\0{array.dtype}\0{array.shape}\0".encode())
            state.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        return state.digest()


@dataclass(frozen=True)
class Form:
    """How an array holds samples: `count` of them along axis 0, or None where it is one sample. `squeeze` drops a batch axis
    of size 1 from each."""

    count: int | None
    squeeze: bool = False


@dataclass(frozen=True)
class Input:
    """One input that data must feed. `batched`: its axis 0 is the batch, and a sample has the other axes only."""

    name: str
    shape: tuple[Dim, ...] | None
    dtype: Any
    batched: bool

    @property
    def rank(self) -> int | None:
        return None if self.shape is None else len(self.shape)

    @property
    def sample_shape(self) -> tuple[Dim, ...] | None:
        return self.shape[1:] if self.shape is not None and self.batched else self.shape

    def form(self, shape: tuple[int, ...]) -> Form:
        """How an array of this shape holds samples. Raises InvalidData where the rank fits neither one nor several."""
        if self.shape is None:
            return Form(shape[0] if shape else None)
        extra = len(shape) - len(self.sample_shape)
        if extra == 0:
            return Form(None)
        if extra == 1:
            return Form(shape[0])
        if self.batched and extra == 2 and shape[1] == 1:
            return Form(shape[0], squeeze=True)
        raise InvalidData(self._misfit(shape), code="F301")

    def _misfit(self, shape: Sequence[int]) -> str:
        return f"input {clean(self.name)!r} is {list(shape)}, the model wants {TensorType(self.dtype, self.shape)}"

    def fitted(self, array: np.ndarray) -> np.ndarray:
        """One sample in the input's dtype. InvalidData where the shape, the dtype or a value does not fit, or is not
        finite."""
        wanted = self.sample_shape
        if wanted is not None:
            try:
                bind_shape(wanted, array.shape)
            except AnyIRError:
                raise InvalidData(f"a sample of {self._misfit(array.shape)}", code="F301") from None
        made = array if self.dtype is None else self._cast(array)
        if made.dtype.kind not in "iub" and not np.isfinite(made).all():
            raise InvalidData(f"input {clean(self.name)!r} has NaN or infinity", code="F302")
        return made

    def _cast(self, array: np.ndarray) -> np.ndarray:
        wanted = self.dtype.numpy
        if array.dtype == wanted:
            return array
        if not np.can_cast(array.dtype, wanted, "same_kind"):
            raise InvalidData(
                f"input {clean(self.name)!r} is {array.dtype}, the model wants {self.dtype}",
                code="F301",
                hint="convert the data, or say how with --preprocess" if array.dtype.kind in "iuf" else "",
            )
        with np.errstate(over="ignore"):
            made = array.astype(wanted)
        if self.dtype.is_int and not np.array_equal(made, array):
            raise InvalidData(f"input {clean(self.name)!r} has values that do not fit {self.dtype}", code="F301")
        return made


class Binding:
    """The inputs of a module's signature that data feeds (those with a default are left to it), and the batch that it runs
    with."""

    def __init__(self, module: Module, preprocess: Preprocess | None = None) -> None:
        signature = module.signature
        pairs = list(zip(signature.inputs, signature.graph.inputs, strict=True))
        self.inputs = _inputs([(slot, value) for slot, value in pairs if slot.default is None], signature.graph.outputs)
        self.names = [item.name for item in self.inputs]
        self.preprocess = preprocess
        self.layout: str | None = None
        self.channels: int | None = None
        if not self.inputs:
            raise Unsupported("the model has no input that data could feed")
        if preprocess is not None and len(self.inputs) != 1:
            raise UsageError(
                f"preprocess is for models of one input, this one has {len(self.inputs)}: {self._listed()}"
            )
        if len(self.inputs) == 1:
            self.layout, self.channels = _image_layout(self.inputs[0], preprocess, signature.inputs)

    @functools.cached_property
    def batch(self) -> int | None:
        """The batch that every run must have: the static one, 1 where an input has no batch axis; None: any."""
        sizes = [item.shape[0] for item in self.inputs if item.batched and item.shape]
        fixed = {size for size in sizes if type(size) is int}
        if len(fixed) > 1:
            raise Unsupported(f"the inputs have different batches: {sorted(fixed)}")
        if any(not item.batched for item in self.inputs):
            if fixed - {1}:
                raise Unsupported(f"the inputs have a batch of {fixed.pop()}, and one of them has none")
            return 1
        return int(fixed.pop()) if fixed else None

    def check_image(self) -> None:
        """Raises UsageError unless the module has one input that is an image."""
        if self.layout is None:
            raise UsageError(
                f"image files feed one input of shape [batch, channels, height, width]; this model has {self._listed()}"
            )

    def _listed(self) -> str:
        return ", ".join(f"{item.name} {TensorType(item.dtype, item.shape)}" for item in self.inputs)

    def named(self, names: Sequence[str], where: str) -> tuple[dict[str, str], str | None]:
        """(input name -> name in the source, name of the labels). By name, else by position where there are as many; a
        model of one input takes the only array whatever its name. Raises InvalidData."""
        labels = next((n for n in LABELS if n in names and n not in self.names), None)
        rest = [n for n in names if n != labels]
        if set(rest) == set(self.names):
            return {n: n for n in self.names}, labels
        if len(rest) == len(self.names) and (len(rest) == 1 or rest == [f"arr_{i}" for i in range(len(rest))]):
            return dict(zip(self.names, rest, strict=True)), labels
        have = ", ".join(clean(n) for n in names) or "nothing"
        raise InvalidData(f"the data has {have}; the model's inputs are {self._listed()}", code="F301", where=where)

    def form(self, name: str, shape: tuple[int, ...]) -> Form:
        """As `Input.form`; before preprocessing an image may lack the channel axis of a model of one channel."""
        item = self.input(name)
        if self.preprocess is not None and self.layout is not None:
            missing = item.rank - 1 - len(shape)
            if self.channels == 1 and 1 not in shape[1:] and missing in (0, 1):
                return Form(shape[0] if missing == 0 else None)
        return item.form(shape)

    def input(self, name: str) -> Input:
        return self._by_name[name]

    @functools.cached_property
    def _by_name(self) -> dict[str, Input]:
        return {item.name: item for item in self.inputs}

    def sample(self, arrays: Mapping[str, np.ndarray], label: Any, where: str) -> Sample:
        """A sample from arrays that hold one each. Raises InvalidData naming `where`."""
        made: Arrays = {}
        try:
            for name, array in arrays.items():
                if self.preprocess is not None:
                    array = self._prepared(name, array)
                made[name] = self.input(name).fitted(array)
        except AnyIRError as error:
            raise error.at(where) from None
        return Sample(made, label, where)

    def _prepared(self, name: str, array: np.ndarray) -> np.ndarray:
        if self.layout is not None and array.ndim == 2 and not self.preprocess.cuts:
            array = array[None] if self.layout == "nchw" and self.preprocess.layout is None else array[..., None]
        dtype = self.input(name).dtype.numpy
        return self.preprocess.array(array, layout=self.layout, channels=self.channels, dtype=dtype)

    def image(self, image: Any, label: Any, where: str) -> Sample:
        """A sample from an opened Pillow image."""
        item = self.inputs[0]
        how = self.preprocess or Preprocess()
        try:
            array = how.image(image, layout=self.layout, channels=self.channels, dtype=item.dtype.numpy)
            return Sample({item.name: item.fitted(array)}, label, where)
        except AnyIRError as error:
            raise error.at(where) from None

    def feeds(self, samples: Sequence[Sample]) -> Arrays:
        """What a run takes: rows stacked, other inputs as they are (then there is one sample)."""
        names = samples[0].arrays
        return {
            name: np.stack([s.arrays[name] for s in samples]) if self.input(name).batched else names[name]
            for name in names
        }

    def cut(self, arrays: Mapping[str, np.ndarray], label: Any, where: str) -> Iterator[Sample]:
        """The samples of arrays whose form is not known beforehand, such as one item of a stream. Labels come along: one
        per sample. Raises InvalidData."""
        forms = {name: self.form(name, array.shape) for name, array in arrays.items()}
        count = counted(forms, self, where)
        if count is None:
            yield self.sample({n: _row(a, forms[n], None) for n, a in arrays.items()}, label, where)
            return
        labels = [None] * count if label is None else np.asarray(label)
        if len(labels) != count:
            raise InvalidData(f"{len(labels)} labels for {count} samples", code="F301", where=where)
        for i in range(count):
            row = {n: _row(a, forms[n], i) for n, a in arrays.items()}
            yield self.sample(row, labels[i], f"{where}, sample {i}")


def counted(forms: Mapping[str, Form], binding: Binding, where: str) -> int | None:
    """How many samples arrays of these forms hold together, None where all of them hold one. An input without a batch axis
    that comes once is the same for all samples. Raises InvalidData."""
    several = {name: form.count for name, form in forms.items() if form.count is not None}
    if len(set(several.values())) > 1:
        listed = ", ".join(f"{clean(name)!r} has {count}" for name, count in several.items())
        raise InvalidData(f"the inputs hold different numbers of samples: {listed}", code="F301", where=where)
    alone = [name for name, form in forms.items() if form.count is None and binding.input(name).batched]
    if several and alone:
        raise InvalidData(
            f"input {clean(alone[0])!r} has one sample, others have {next(iter(several.values()))}",
            code="F301",
            where=where,
        )
    return next(iter(several.values()), None)


def _row(array: np.ndarray, form: Form, i: int | None) -> np.ndarray:
    made = array if form.count is None or i is None else array[i]
    return made[0] if form.squeeze else made


def _inputs(pairs: Sequence[tuple[Slot, Value]], outputs: Sequence[Value]) -> list[Input]:
    """Axis 0 is the batch where it is open or 1. Where no input has such an axis it is what all inputs and some output
    begin with; else it is none: a state of two layers beside a batch of one."""
    for slot, value in pairs:
        if not isinstance(value.type, TensorType) or value.type.dtype is STRING:
            raise Unsupported(f"input {clean(slot.name)!r} is {value.type}: samples are numeric tensors")
    first = [_leading(value) for _, value in pairs]
    plain = [dim is not None and (type(dim) is not int or dim == 1) for dim in first]
    made = [_leading(value) for value in outputs if isinstance(value.type, TensorType)]
    common = None if any(plain) or len(set(first)) > 1 or first[0] not in made else first[0]
    return [
        Input(slot.name, value.shape, value.dtype, flag or value.shape is None or (dim is not None and dim == common))
        for (slot, value), dim, flag in zip(pairs, first, plain, strict=True)
    ]


def _leading(value: Value) -> Dim | None:
    return value.shape[0] if value.shape else None


def _image_layout(item: Input, how: Preprocess | None, slots: Sequence[Slot]) -> tuple[str | None, int | None]:
    """("nchw" or "nhwc", channels) of an input that is an image; (None, None) where it is not. Said by the preprocess or the
    signature, else by which axis has 1 or 3 channels. Raises UsageError where both do."""
    if item.shape is None or item.dtype is None or len(item.shape) != 4:
        return None, None
    said = (how.layout if how else None) or next((s.layout for s in slots if s.name == item.name), None)
    sides = {"nchw": item.shape[1], "nhwc": item.shape[3]}
    fits = [name for name, size in sides.items() if size in (1, 3)]
    if said in sides:
        channels = sides[said]
        return said, channels if type(channels) is int else None
    if len(fits) > 1 and how is not None:
        raise UsageError(f"input {item.name!r} may be channels-first or -last", hint="say layout=nchw or layout=nhwc")
    return (fits[0], 1 if sides[fits[0]] == 1 else 3) if len(fits) == 1 else (None, None)
