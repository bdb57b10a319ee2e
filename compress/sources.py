"""Where samples come from: arrays in memory or files, folders of images, streams. Each source yields samples in a fixed
order and holds none of them.

    source.count                   how many there are, None where only a pass can tell
    source.samples([0, 7, 9])      those, in rising order; all of them for None

Imports no framework; a torch DataLoader is just an iterable here.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from ..formats.npy import Npy, npy_in, open_npy, open_npz
from ..ir.errors import AnyIRError, InvalidData, SystemFailure, UsageError, clean
from ..ir.storage import open_beside
from .binding import LABELS, Arrays, Binding, Form, Sample, counted
from .preprocess import decode

Wanted = Sequence[int] | None
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
#: Bad files that a message names.
MOST_NAMED = 3


class Source(Protocol):
    count: int | None
    binding: Binding
    classes: tuple[str, ...]

    def samples(self, wanted: Wanted = None) -> Iterator[Sample]: ...


class Held:
    """An array in memory, read as one in a file."""

    def __init__(self, array: Any, where: str) -> None:
        made = _as_array(array, where)
        self.shape, self.dtype, self.where, self._array = made.shape, made.dtype, where, made

    def read(self, start: int, stop: int) -> np.ndarray:
        return self._array[start:stop]

    def whole(self) -> np.ndarray:
        return self._array


class Beside:
    """An array in a file of a folder, opened for each read: a folder may hold more files than a process can have open."""

    def __init__(self, folder: str, name: str) -> None:
        self.folder, self.name, self.where = folder, name, os.path.join(clean(folder), clean(name))
        opened = self._open()
        self.shape, self.dtype = opened.shape, opened.dtype

    def _open(self) -> Npy:
        return npy_in(_beside(self.folder, self.name), self.where)

    def _same(self) -> Npy:
        made = self._open()
        if (made.shape, made.dtype) != (self.shape, self.dtype):
            raise SystemFailure("the file changed while it was in use", where=self.where, hint="run again")
        return made

    def read(self, start: int, stop: int) -> np.ndarray:
        return self._same().read(start, stop)

    def whole(self) -> np.ndarray:
        return self._same().whole()


Stored = Npy | Held | Beside


class Group:
    """Arrays that belong together: those of an .npz, of one .npy file, of equal names in one folder per input."""

    def __init__(self, arrays: Mapping[str, Stored], labels: Stored | None, binding: Binding, where: str) -> None:
        self.arrays, self.binding, self.where = dict(arrays), binding, where
        self.forms: dict[str, Form] = {}
        for name, array in arrays.items():
            try:
                self.forms[name] = binding.form(name, array.shape)
            except AnyIRError as error:
                raise error.at(array.where) from None
        count = counted(self.forms, binding, where)
        self.single, self.count = count is None, 1 if count is None else count
        self.labels = None if labels is None else _labels(labels, self.count, self.single)

    def sample(self, i: int) -> Sample:
        label = None if self.labels is None else self.labels[i]
        where = self.where if self.single else f"{self.where}, sample {i}"
        return self.binding.sample({n: self._row(n, a, i) for n, a in self.arrays.items()}, label, where)

    def _row(self, name: str, array: Stored, i: int) -> np.ndarray:
        form = self.forms[name]
        made = array.whole() if form.count is None else array.read(i, i + 1)[0]
        return made[0] if form.squeeze else made


def _labels(array: Stored, count: int, single: bool) -> np.ndarray:
    made = array.whole()
    made = made[None] if single and (made.ndim == 0 or len(made) != 1) else made
    if made.ndim == 0 or len(made) != count:
        have = len(made) if made.ndim else 1
        raise InvalidData(f"{have} labels for {count} samples", code="F301", where=array.where)
    if made.dtype.kind not in "biuf":
        raise InvalidData(f"labels of {made.dtype}: numbers are expected", code="F301", where=array.where)
    return made[:, 0] if made.ndim == 2 and made.shape[1] == 1 else made


class ArraySource:
    """Samples of groups of arrays, each read when it is wanted."""

    def __init__(self, groups: Sequence[Group], binding: Binding) -> None:
        self.groups, self.binding = groups, binding
        self.starts = list(itertools.accumulate((group.count for group in groups), initial=0))
        self.count = self.starts[-1]
        self.classes: tuple[str, ...] = ()
        if len({group.labels is None for group in groups}) > 1:
            raise InvalidData("some of the files have labels, others have none", code="F301")

    def samples(self, wanted: Wanted = None) -> Iterator[Sample]:
        places = iter(range(self.count) if wanted is None else wanted)
        place = next(places, None)
        for group, start in zip(self.groups, self.starts, strict=False):
            while place is not None and place < start + group.count:
                yield group.sample(place - start)
                place = next(places, None)


class ImageSource:
    """Image files of a folder, the classes (if there are sub-folders) as labels; a file is decoded when it is wanted."""

    def __init__(self, folder: str, names: Sequence[str], binding: Binding) -> None:
        binding.check_image()
        self.folder, self.names, self.binding = folder, names, binding
        self.count = len(names)
        heads = [name.split(os.sep)[0] if os.sep in name else None for name in names]
        self.classes = () if None in heads else tuple(sorted({str(head) for head in heads}))
        numbers = {name: i for i, name in enumerate(self.classes)}
        self.numbers = [numbers.get(str(head)) for head in heads]

    def samples(self, wanted: Wanted = None) -> Iterator[Sample]:
        places = range(self.count) if wanted is None else wanted
        for at, place in enumerate(places):
            try:
                made = self._sample(place)
            except InvalidData as error:
                raise _all_bad(error, self._more_bad(places[at + 1 :])) from None
            yield made

    def _sample(self, place: int) -> Sample:
        where = os.path.join(clean(self.folder), clean(self.names[place]))
        data = bytes(_beside(self.folder, self.names[place]).view())
        return self.binding.image(decode(data, where), self.numbers[place], where)

    def _more_bad(self, places: Sequence[int]) -> Iterator[InvalidData]:
        """The errors of later files: looked for only when a message is to be written."""
        for place in places[:1000]:
            try:
                self._sample(place)
            except InvalidData as error:
                yield error


def _all_bad(first: InvalidData, others: Iterable[InvalidData]) -> InvalidData:
    """One error that names up to three bad files."""
    named = list(itertools.islice(others, MOST_NAMED - 1))
    if named:
        also = "".join(f"\n{error}" for error in named)
        return InvalidData(f"{first.message}{also}", code=first.code, where=first.where, hint=first.hint)
    return first


class Stream:
    """Samples of an iterable that is made anew for every pass: of a function, a DataLoader, a sequence. Items are one sample
    or a batch: an array, a mapping by input name, a tuple of the inputs in order, with the labels behind them or not."""

    def __init__(self, make: Callable[[], Iterable[Any]], binding: Binding, where: str) -> None:
        self.make, self.binding, self.where = make, binding, where
        self.count: int | None = None
        self.classes: tuple[str, ...] = ()

    def samples(self, wanted: Wanted = None) -> Iterator[Sample]:
        made = self._all()
        if wanted is None:
            yield from made
            return
        places = iter(wanted)
        place = next(places, None)
        for i, sample in enumerate(made):
            if place is None:
                return
            if i == place:
                yield sample
                place = next(places, None)
        if place is not None:
            raise InvalidData(
                f"it gave fewer samples than in an earlier pass: there is no sample {place}",
                where=self.where,
                hint="give the same samples in the same order each time it is called",
            )

    def _all(self) -> Iterator[Sample]:
        for i, item in enumerate(self._items()):
            where = f"{self.where}, item {i}"
            arrays, labels = self._parts(item, where)
            yield from self.binding.cut(arrays, labels, where)

    def _items(self) -> Iterator[Any]:
        """What the user's code gives; what it raises is said to be its own."""
        try:
            items = self.make()
            if not isinstance(items, Iterable):
                raise UsageError(f"it returned {type(items).__name__}, an iterable of samples is expected")
            iterator = iter(items)
        except AnyIRError as error:
            raise error.at(self.where) from None
        except Exception as error:
            raise UsageError(f"it raised {type(error).__name__}: {clean(error)}", where=self.where) from error
        while True:
            try:
                item = next(iterator)
            except StopIteration:
                return
            except Exception as error:
                raise UsageError(f"it raised {type(error).__name__}: {clean(error)}", where=self.where) from error
            yield item

    def _parts(self, item: Any, where: str) -> tuple[Arrays, Any]:
        names, labels = self.binding.names, None
        if isinstance(item, Sequence) and not isinstance(item, (str, bytes)) and _is_tuple(item, len(names)):
            given = [*names, LABELS[0]] if len(item) > len(names) else names
            if len(item) == 2 and isinstance(item[0], Mapping):
                item, labels = item
            else:
                item = dict(zip(given, item, strict=True))
        if not isinstance(item, Mapping):
            item = {names[0]: item} if len(names) == 1 else item
        if not isinstance(item, Mapping):
            raise InvalidData(
                f"{type(item).__name__} for a model of {len(names)} inputs", code="F301", where=where,
                hint=f"yield {{name: array}} or a tuple: {', '.join(names)}",
            )  # fmt: skip
        found, key = self.binding.named([str(name) for name in item], where)
        arrays = {name: _as_array(item[other], where) for name, other in found.items()}
        labels = labels if key is None else item[key]
        return arrays, None if labels is None else _as_array(labels, where)


def _is_tuple(item: Sequence[Any], count: int) -> bool:
    """Whether a list or tuple stands for inputs in order, not for the numbers of one input."""
    if len(item) not in (count, count + 1):
        return False
    if isinstance(item, tuple):
        return any(hasattr(part, "shape") or isinstance(part, Mapping) for part in item)
    return len(item) > 1 and any(getattr(part, "ndim", 0) or isinstance(part, Mapping) for part in item)


def _as_array(value: Any, where: str) -> np.ndarray:
    """Anything array-like as a numeric array; a torch tensor by way of the host. Raises InvalidData."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    try:
        made = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidData(f"not an array: {clean(error)}", code="F301", where=where) from None
    if made.dtype.kind in "OSUMm" or made.dtype.names:
        raise InvalidData(f"an array of {made.dtype}: numbers are expected", code="F301", where=where)
    return made


# Opening.


def array_source(arrays: Mapping[str, Any], binding: Binding, where: str) -> ArraySource:
    """Arrays in memory, by name or (`arr_0` ...) by position."""
    held = {str(name): Held(array, f"{where} {name!r}") for name, array in arrays.items()}
    return ArraySource([_group(held, binding, where)], binding)


def npz_source(path: str, binding: Binding) -> ArraySource:
    return ArraySource([_group(open_npz(path), binding, clean(path))], binding)


def npy_source(path: str, binding: Binding) -> ArraySource:
    return ArraySource([_group({"arr_0": open_npy(path)}, binding, clean(path))], binding)


def _group(arrays: Mapping[str, Stored], binding: Binding, where: str) -> Group:
    found, labels = binding.named(list(arrays), where)
    chosen = {name: arrays[other] for name, other in found.items()}
    return Group(chosen, arrays[labels] if labels else None, binding, where)


def folder_source(folder: str, binding: Binding) -> ArraySource | ImageSource:
    """A folder of images, or of .npy files: for several inputs one sub-folder each, with files of the same names; a sub-folder
    or file `labels` holds the labels. Raises InvalidData for an empty or mixed folder, and naming the first bad files."""
    names = _listing(folder)
    images = [name for name in names if name.lower().endswith(IMAGES)]
    arrays = [name for name in names if name.lower().endswith(".npy")]
    if bool(images) == bool(arrays):
        what = "images beside .npy files" if images else f"no .npy file and no image ({', '.join(IMAGES)})"
        raise InvalidData(f"the folder holds {what}", where=clean(folder))
    return ImageSource(folder, images, binding) if images else _npy_folder(folder, arrays, binding)


def _npy_folder(folder: str, names: Sequence[str], binding: Binding) -> ArraySource:
    parts: dict[str, dict[str, str]] = {}  # sub-folder -> file name -> path
    for name in names:
        head, _, tail = name.partition(os.sep)
        parts.setdefault(head if tail else "", {})[tail or head] = name
    flat = parts.pop("", {})
    labels = next((flat.pop(f"{key}.npy") for key in LABELS if f"{key}.npy" in flat), None)
    if flat and parts:
        raise InvalidData("the folder holds .npy files beside sub-folders of them", where=clean(folder))
    columns = parts or {"arr_0": flat}
    found, key = binding.named(list(columns), clean(folder))
    files = sorted({file for column in columns.values() for file in column})
    groups, bad = [], []
    for file in files:
        try:
            missing = [clean(c) for c in (*found.values(), *([key] if key else [])) if file not in columns[c]]
            if missing:
                raise InvalidData(f"there is none in {', '.join(missing)}", where=f"{clean(folder)}: {clean(file)}")
            opened = {name: Beside(folder, columns[other][file]) for name, other in found.items()}
            own = Beside(folder, columns[key][file]) if key else None
            groups.append(Group(opened, own, binding, next(iter(opened.values())).where))
        except InvalidData as error:
            bad.append(error)
            if len(bad) == MOST_NAMED:
                break
    if bad:
        raise _all_bad(bad[0], bad[1:])
    source = ArraySource(groups, binding)
    if labels is not None:
        _share_labels(_labels(Beside(folder, labels), source.count, False), source)
    return source


def _share_labels(labels: np.ndarray, source: ArraySource) -> None:
    for group, start in zip(source.groups, source.starts, strict=False):
        group.labels = labels[start : start + group.count]


def _beside(folder: str, name: str) -> Any:
    """A file below a folder, mapped; never through a link."""
    try:
        return open_beside(os.path.join(os.path.abspath(folder), "data"), name)
    except SystemFailure:
        raise
    except AnyIRError as error:
        where = os.path.join(clean(folder), clean(name))
        raise InvalidData(error.message, where=where, hint="copy the files into the folder") from None


def _listing(folder: str) -> list[str]:
    """Paths of all files below a folder, relative to it, sorted by their parts. InvalidData for a link to a folder."""
    found: list[tuple[str, ...]] = []
    pending: list[tuple[str, ...]] = [()]
    while pending:
        parts = pending.pop()
        try:
            with os.scandir(os.path.join(folder, *parts)) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    made = (*parts, entry.name)
                    if entry.is_symlink() and entry.is_dir():
                        raise InvalidData(
                            "is a symbolic link to a folder",
                            where=clean(os.path.join(folder, *made)),
                            hint="copy the files",
                        )
                    (pending if entry.is_dir(follow_symlinks=False) else found).append(made)
        except OSError as error:
            where = clean(os.path.join(folder, *parts))
            raise SystemFailure(f"cannot read: {error.strerror or error}", where=where) from None
    return [os.path.join(*parts) for parts in sorted(found)]
