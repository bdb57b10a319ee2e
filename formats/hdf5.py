"""A reader for the part of HDF5 that Keras writes, in plain Python: no native code ever meets an untrusted byte.

Understood: superblocks 0-3, object headers 1 and 2, symbol-table and compact link groups, string and number
attributes, compact, contiguous and chunked datasets with gzip and shuffle. Refused by name: links that are not hard
links, external and virtual storage, other filters, committed types, dense link or attribute storage
(`libver="latest"` with big groups).

Every size is compared with the bytes that are there before anything of that size is made; each object header, tree
node and stored byte range is charged once to the file's own length, so a file cannot amplify itself. Layouts follow
the "HDF5 File Format Specification Version 3.0". Must not import the IR (errors apart) or h5py.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import ml_dtypes
import numpy as np

from ..ir.errors import InvalidModel, LimitExceeded, Unsupported, clean
from ..ir.storage import check_limit
from .hdf5_data import RESAVE, UNDEFINED, Chunks, Type, datatype, product

MAGIC = b"\x89HDF\r\n\x1a\n"
_MAX_RANK = 32
_READ_AGAIN = 32  # how often each byte of a file may be looked at; honest files stay below 6

# message numbers of the object header (specification, section IV.A.2)
_DATASPACE, _LINK_INFO, _DATATYPE, _LINK, _EXTERNAL, _LAYOUT = 0x1, 0x2, 0x3, 0x6, 0x7, 0x8
_FILTERS, _ATTRIBUTE, _CONTINUE, _SYMBOLS, _ATTRIBUTE_INFO = 0xB, 0xC, 0x10, 0x11, 0x15
_KEPT = {
    _DATASPACE, _LINK_INFO, _DATATYPE, _LINK, _EXTERNAL, _LAYOUT, _FILTERS, _ATTRIBUTE, _CONTINUE, _SYMBOLS,
    _ATTRIBUTE_INFO,
}  # fmt: skip
_UNIQUE = (_DATASPACE, _DATATYPE, _LAYOUT, _FILTERS, _SYMBOLS, _LINK_INFO)


_Parse = Callable[[int, int], Iterator[tuple[int, int, memoryview]]]


@dataclass
class Dataset:
    """A numeric array in the file. `read()` gives it; contiguous data come as a read-only view of the file's bytes."""

    path: str
    shape: tuple[int, ...]
    dtype: np.dtype
    file: H5File
    layout: bytes
    filters: bytes | None
    attrs: Attributes

    @property
    def nbytes(self) -> int:
        return product(self.shape) * self.dtype.itemsize

    def read(self) -> np.ndarray:
        """The data; `InvalidModel` where the file holds fewer bytes than it declares."""
        return self.file.read_dataset(self)


@dataclass
class Group:
    """A folder: `children` in the file's order by name, `attrs` decoded on access."""

    path: str
    attrs: Attributes
    children: dict[str, Group | Dataset] = field(default_factory=dict)

    def get(self, path: str) -> Group | Dataset | None:
        """What lies at `path` (parts joined by "/") below this group, or None."""
        here: Group | Dataset | None = self
        for part in path.split("/"):
            if not isinstance(here, Group):
                return None
            here = here.children.get(part)
        return here

    def datasets(self) -> Iterator[Dataset]:
        """All datasets below, depth first, in order."""
        stack: list[Group | Dataset] = [self]
        while stack:
            here = stack.pop()
            if isinstance(here, Dataset):
                yield here
            else:
                stack.extend(reversed(here.children.values()))


class Attributes:
    """The attributes of one object by name. Values: str, list of str, or a numpy array (also 0-d)."""

    def __init__(self, file: H5File, where: str, messages: list[bytes]) -> None:
        self._file, self.where = file, where
        self._raw: dict[str, tuple[Type, tuple[int, ...], memoryview]] = {}
        for message in messages:
            name, value = file._attribute(message, where)
            if name in self._raw:
                raise InvalidModel(f"attribute {clean(name)!r} is stored twice", where=where)
            self._raw[name] = value

    def __contains__(self, name: str) -> bool:
        return name in self._raw

    def names(self) -> list[str]:
        return list(self._raw)

    def get(self, name: str) -> str | list[str] | np.ndarray | None:
        """The decoded value or None; `InvalidModel` for kinds of attributes that Keras never writes."""
        if name not in self._raw:
            return None
        return self._file._attribute_value(*self._raw[name], f"{self.where}@{name}")


class H5File:
    """The object tree of an HDF5 file held in `data` (bytes or a mapping). `root` is the top group.

    Reading the tree costs O(objects); dataset bytes are touched by `Dataset.read` only.
    """

    def __init__(self, data: bytes | memoryview, where: str = "HDF5") -> None:
        self._data = memoryview(data)
        self.where = where
        self._seen: set[int] = set()
        self._stored_budget = len(self._data)
        self._text_budget = len(self._data)
        self._metadata_budget = _READ_AGAIN * len(self._data) + (1 << 20)
        self._heaps: dict[int, dict[int, tuple[int, int]]] = {}
        self.inflated = self.stored = 0
        self.root = self._tree(self._superblock())

    # -- bytes ---------------------------------------------------------------------------------------------------------

    def fail(self, message: str, where: str = "") -> InvalidModel:
        place = f"{self.where}: {where}" if where else self.where
        return InvalidModel(message, where=place, hint="the file is damaged or not a Keras file")

    def at(self, offset: int, size: int, what: str) -> memoryview:
        if offset < 0 or size < 0 or offset + size > len(self._data):
            raise self.fail(f"{what} at byte {offset} needs {size} bytes, the file ends at byte {len(self._data)}")
        self._metadata_budget -= size
        if self._metadata_budget < 0:
            raise LimitExceeded("its parts overlap so that reading them would never end", where=self.where)
        return self._data[offset : offset + size]

    def _unpack(self, form: str, offset: int, what: str) -> tuple:
        return struct.unpack("<" + form, self.at(offset, struct.calcsize("<" + form), what))

    def _visit(self, offset: int, what: str) -> None:
        if offset in self._seen:
            raise self.fail(f"{what} at byte {offset} is reached twice")
        self._seen.add(offset)

    def _superblock(self) -> int:
        """The address of the root group's object header (specification, section II.A)."""
        if bytes(self._data[:8]) != MAGIC:
            raise self.fail("this is not an HDF5 file (the signature is missing)")
        (version,) = self._unpack("B", 8, "superblock")
        if version > 3:
            raise self.fail(f"superblock version {version} is unknown (0-3 are known)")
        sizes = self._unpack("BB", 13 if version < 2 else 9, "superblock")
        if sizes != (8, 8):
            raise self.fail(f"offsets and lengths of {sizes} bytes are not supported (8 and 8 are)")
        if version < 2:
            base, _, end, _ = self._unpack("QQQQ", 24 + 4 * version, "superblock")
            _, root = self._unpack("QQ", 56 + 4 * version, "root entry")
        else:
            base, _, end, root = self._unpack("QQQQ", 12, "superblock")
        if base != 0:
            raise self.fail("a user block before the data is not supported")
        if end > len(self._data):
            raise self.fail(f"the file is truncated: it says {end} bytes and has {len(self._data)}")
        return root

    # -- objects -------------------------------------------------------------------------------------------------------

    def _tree(self, root_address: int) -> Group:
        root = self._object(root_address, "")
        if not isinstance(root[0], Group):
            raise self.fail("the root is not a group")
        stack = [(root[0], root[1], 0)]
        while stack:
            group, links, depth = stack.pop()
            check_limit("nesting", depth, "nested groups", f"{self.where}: {group.path}")
            for name, address in links:
                if name in group.children or not name or "/" in name or name == ".":
                    raise self.fail(f"bad or repeated link name {clean(name)!r}", group.path)
                child, below = self._object(address, f"{group.path}/{name}" if group.path else name)
                group.children[name] = child
                if isinstance(child, Group):
                    stack.append((child, below, depth + 1))
        return root[0]

    def _object(self, address: int, path: str) -> tuple[Group | Dataset, list[tuple[str, int]]]:
        self._visit(address, "object")
        messages = self._messages(address, path)
        for kind in _UNIQUE:
            if len(messages.get(kind, ())) > 1:
                raise self.fail("an object header repeats a message that must be unique", path)
        for info, offset in ((_LINK_INFO, 2), (_ATTRIBUTE_INFO, 2)):
            for message in messages.get(info, ()):
                self._refuse_dense(message, info, offset, path)
        attrs = Attributes(self, f"{self.where}: {path or '/'}", messages.get(_ATTRIBUTE, []))
        if _LAYOUT in messages:
            return self._dataset(messages, path, attrs), []
        if _SYMBOLS in messages:
            return Group(path, attrs), self._symbol_links(messages[_SYMBOLS][0], path)
        if _LINK_INFO in messages or _LINK in messages:
            return Group(path, attrs), [self._link(m, path) for m in messages.get(_LINK, [])]
        raise self.fail("an object is neither a group nor a dataset", path)

    def _refuse_dense(self, message: bytes, kind: int, offset: int, path: str) -> None:
        if len(message) < 2:
            raise self.fail("a short info message", path)
        offset += (8 if kind == _LINK_INFO else 2) if message[1] & 1 else 0
        if len(message) < offset + 8:
            raise self.fail("a short info message", path)
        if struct.unpack_from("<Q", message, offset)[0] != UNDEFINED:
            what = "links" if kind == _LINK_INFO else "attributes"
            raise Unsupported(f"dense storage of {what} is not supported", where=f"{self.where}: {path}", hint=RESAVE)

    def _messages(self, address: int, path: str) -> dict[int, list[bytes]]:
        """Header messages by number, continuation blocks followed (specification, section IV.A.1)."""
        found: dict[int, list[bytes]] = {}
        if bytes(self.at(address, 4, "object header")) == b"OHDR":
            ordered, start, size = self._header_v2(address)
            blocks, cut = [(start, size)], 4
            parse: _Parse = partial(self._block_v2, ordered=ordered)
        else:
            version, _, _, _, size = self._unpack("BBHII", address, "object header")
            if version != 1:
                raise self.fail(f"object header version {version} is unknown", path)
            blocks, cut, parse = [(address + 16, size)], 0, self._block_v1
        while blocks:
            for kind, flags, body in parse(*blocks.pop()):
                if kind not in _KEPT:
                    continue
                if flags & 2:
                    raise Unsupported("shared (committed) messages are not supported", where=path, hint=RESAVE)
                if kind == _CONTINUE:
                    if len(body) < 16:
                        raise self.fail("a short continuation message", path)
                    offset, length = struct.unpack_from("<QQ", body)
                    self._visit(offset, "header block")
                    if cut and bytes(self.at(offset, 4, "header block")) != b"OCHK":
                        raise self.fail("a header continuation without its signature", path)
                    blocks.append((offset + cut, length - 2 * cut))
                else:
                    found.setdefault(kind, []).append(bytes(body))
        return found

    def _header_v2(self, address: int) -> tuple[bool, int, int]:
        version, flags = self._unpack("BB", address + 4, "object header")
        if version != 2:
            raise self.fail(f"object header version {version} is unknown")
        at = address + 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
        width = 1 << (flags & 3)
        return bool(flags & 4), at + width, int.from_bytes(self.at(at, width, "object header"), "little")

    def _block_v1(self, at: int, size: int) -> Iterator[tuple[int, int, memoryview]]:
        self.at(at, size, "header block")
        end = at + size
        while at + 8 <= end:
            kind, length, flags = self._unpack("HHB", at, "header message")
            if at + 8 + length > end:
                raise self.fail(f"a header message at byte {at} runs out of its block")
            yield kind, flags, self.at(at + 8, length, "header message")
            at += 8 + length

    def _block_v2(self, at: int, size: int, ordered: bool) -> Iterator[tuple[int, int, memoryview]]:
        self.at(at, size, "header block")
        end, head = at + size, 6 if ordered else 4
        while at + head <= end:
            kind, length, flags = self._unpack("BHB", at, "header message")
            if at + head + length > end:
                raise self.fail(f"a header message at byte {at} runs out of its block")
            yield kind, flags, self.at(at + head, length, "header message")
            at += head + length

    # -- links ---------------------------------------------------------------------------------------------------------

    def _symbol_links(self, message: bytes, path: str) -> list[tuple[str, int]]:
        """Links of an old-style group: a B-tree of symbol nodes whose names lie in a local heap (section III)."""
        if len(message) < 16:
            raise self.fail("a short symbol table message", path)
        tree, heap = struct.unpack_from("<QQ", message)
        sign, _, size, _, segment = self._unpack("4sB3xQQQ", heap, "local heap")[:5]
        if sign != b"HEAP":
            raise self.fail("a local heap without its signature", path)
        names = bytes(self.at(segment, size, "local heap"))
        links: list[tuple[str, int]] = []
        for _, node in self.tree_leaves(tree, 0, 8):
            sign, version, count = self._unpack("4sBxH", node, "symbol node")
            if sign != b"SNOD" or version != 1:
                raise self.fail("a symbol node without its signature", path)
            for i in range(count):
                name, address, cache = self._unpack("QQI", node + 8 + 40 * i, "symbol")
                if cache == 2:
                    raise Unsupported("soft links are not allowed", where=f"{self.where}: {path}", hint=RESAVE)
                end = names.find(b"\0", name)
                if name >= len(names) or end < 0:
                    raise self.fail("a link name lies outside its heap", path)
                links.append((self._utf8(names[name:end], path), address))
        return links

    def tree_leaves(self, address: int, kind: int, key_size: int) -> Iterator[tuple[bytes, int]]:
        """Children of the leaves of a version 1 B-tree, left to right, as (key, address)."""
        stack = [(address, None)]
        while stack:
            at, expected = stack.pop()
            self._visit(at, "tree node")
            sign, node_kind, level, count = self._unpack("4sBBH", at, "tree node")
            if sign != b"TREE" or node_kind != kind or expected not in (None, level):
                raise self.fail(f"the tree node at byte {at} is not what it should be")
            step = key_size + 8
            entries = self.at(at + 24, count * step, "tree node")
            children = [
                (bytes(entries[i : i + key_size]), struct.unpack_from("<Q", entries, i + key_size)[0])
                for i in range(0, count * step, step)
            ]
            if level:
                stack.extend((child, level - 1) for _, child in reversed(children))
            else:
                yield from children

    def _link(self, message: bytes, path: str) -> tuple[str, int]:
        try:
            version, flags = message[0], message[1]
            at, kind = 2, 0
            if flags & 8:
                kind, at = message[at], at + 1
            at += (8 if flags & 4 else 0) + (1 if flags & 16 else 0)
            width = 1 << (flags & 3)
            size = int.from_bytes(message[at : at + width], "little")
            name = message[at + width : at + width + size]
            if kind:
                raise Unsupported(
                    f"link {clean(name)} leads elsewhere ({'soft' if kind == 1 else 'external'} link)",
                    where=f"{self.where}: {path}",
                    hint=RESAVE,
                )
            (address,) = struct.unpack_from("<Q", message, at + width + size)
        except (IndexError, struct.error):
            raise self.fail("a short link message", path) from None
        if version != 1:
            raise self.fail(f"link message version {version} is unknown", path)
        return self._utf8(name, path), address

    # -- types and attributes ------------------------------------------------------------------------------------------

    def _utf8(self, raw: bytes, path: str) -> str:
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise self.fail(f"text {clean(raw)} is not UTF-8", path) from None

    def _shape(self, message: bytes, path: str) -> tuple[int, ...]:
        try:
            version, rank, flags = message[:3]
            if version not in (1, 2) or (version == 1 and flags & 2) or (version == 2 and message[3] == 2):
                raise self.fail("a dataspace of an unknown kind", path)
            if rank > _MAX_RANK:
                raise LimitExceeded(f"rank {rank} is above {_MAX_RANK}", where=f"{self.where}: {path}")
            return struct.unpack_from(f"<{rank}Q", message, 8 if version == 1 else 4)
        except (ValueError, IndexError, struct.error):
            raise self.fail("a short dataspace message", path) from None

    def _attribute(self, message: bytes, where: str) -> tuple[str, tuple[Type, tuple[int, ...], memoryview]]:
        try:
            version, flags, *sizes = struct.unpack_from("<BBHHH", message)
        except struct.error:
            raise InvalidModel("a short attribute message", where=where) from None
        if version not in (1, 2, 3) or (version > 1 and flags & 3):
            raise InvalidModel("an attribute of an unknown or shared kind", where=where)
        at, parts = 8 + (version == 3), []
        for size in sizes:
            parts.append(message[at : at + size])
            at += -(-size // 8) * 8 if version == 1 else size
        if at > len(message) or any(len(part) != size for part, size in zip(parts, sizes, strict=True)):
            raise InvalidModel("a short attribute message", where=where)
        name = self._utf8(parts[0].rstrip(b"\0"), where)
        return name, (datatype(parts[1]), self._shape(parts[2], where), memoryview(message)[at:])

    def _attribute_value(self, kind: Type, shape: tuple[int, ...], raw: memoryview, where: str):
        count = product(shape)
        if len(shape) > 1 or kind.reason:
            raise InvalidModel(f"attribute of an unexpected kind ({kind.reason or f'rank {len(shape)}'})", where=where)
        if count * kind.size > len(raw):
            raise InvalidModel(f"attribute declares {count} elements and holds {len(raw)} bytes", where=where)
        if kind.dtype is not None:
            return np.frombuffer(raw, kind.dtype, count).reshape(shape)
        items = []
        for i in range(count):
            item = bytes(raw[i * kind.size : (i + 1) * kind.size])
            text = self._heap_string(item, where) if kind.text == "vlen" else item.split(b"\0")[0].rstrip(b" ")
            self._text_budget -= len(text)
            if self._text_budget < 0:
                raise LimitExceeded("attribute strings add up to more than the file holds", where=where)
            items.append(self._utf8(text, where))
        return items if shape else items[0]

    def _heap_string(self, reference: bytes, where: str) -> bytes:
        """A variable-length string in a global heap collection."""
        length, address, index = struct.unpack("<IQI", reference)
        if length == 0 or address in (0, UNDEFINED):
            return b""
        if address not in self._heaps:
            self._heaps[address] = self._heap(address, where)
        start, stored = self._heaps[address].get(index, (0, -1))
        if length > stored:
            raise self.fail("a string is missing from its heap", where)
        return bytes(self.at(start, length, "string"))

    def _heap(self, address: int, where: str) -> dict[int, tuple[int, int]]:
        """(start, size) by index of the objects of a global heap collection (section III.E)."""
        sign, version, size = self._unpack("4sB3xQ", address, "global heap")
        if sign != b"GCOL" or version != 1:
            raise self.fail("a global heap without its signature", where)
        self.at(address, size, "global heap")
        objects: dict[int, tuple[int, int]] = {}
        at, end = address + 16, address + size
        while at + 16 <= end:
            index, _, stored = self._unpack("HH4xQ", at, "heap object")
            if index == 0:
                break
            if at + 16 + stored > end:
                raise self.fail("a heap object runs out of its heap", where)
            objects[index] = (at + 16, stored)
            at += 16 + -(-stored // 8) * 8
        return objects

    # -- datasets ------------------------------------------------------------------------------------------------------

    def _dataset(self, messages: dict[int, list[bytes]], path: str, attrs: Attributes) -> Dataset:
        where = f"{self.where}: {path}"
        if _EXTERNAL in messages:
            raise Unsupported("a dataset keeps its bytes in another file", where=where, hint=RESAVE)
        if _DATATYPE not in messages or _DATASPACE not in messages:
            raise self.fail("a dataset lacks its type or shape", path)
        kind = datatype(messages[_DATATYPE][0])
        dtype = kind.dtype
        if dtype is None and kind.size == 2 and kind.reason == "opaque" and attrs.get("dtype") == "bfloat16":
            dtype = np.dtype(ml_dtypes.bfloat16)
        if dtype is None:
            raise InvalidModel(f"a dataset of {kind.reason or 'strings'} is no weight (int or float is)", where=where)
        shape = self._shape(messages[_DATASPACE][0], path)
        filters = messages[_FILTERS][0] if _FILTERS in messages else None
        return Dataset(path, shape, dtype, self, messages[_LAYOUT][0], filters, attrs)

    def charge(self, stored: int, path: str) -> None:
        self._stored_budget -= stored
        if self._stored_budget < 0:
            raise LimitExceeded("datasets share or exceed the bytes of the file", where=f"{self.where}: {path}")

    def read_dataset(self, dataset: Dataset) -> np.ndarray:
        layout, nbytes, path = dataset.layout, dataset.nbytes, dataset.path
        if nbytes >= 1 << 62:
            raise LimitExceeded(f"a dataset of shape {dataset.shape} is too large", where=f"{self.where}: {path}")
        version, kind = (layout[0], layout[1]) if len(layout) > 1 else (0, 0)
        if version not in (3, 4):
            raise Unsupported(f"data layout version {version} is not supported", where=path, hint=RESAVE)
        if kind == 3 or (kind == 2 and version == 4) or kind > 3:
            what = "virtual" if kind == 3 else "new-style chunked"
            raise Unsupported(f"a {what} dataset is not supported", where=f"{self.where}: {path}", hint=RESAVE)
        if nbytes == 0:
            return np.zeros(dataset.shape, dataset.dtype)
        if kind == 2:
            return Chunks(self, dataset).read()
        if dataset.filters is not None:
            raise self.fail("filters on a dataset without chunks", path)
        if kind == 0:
            raw = memoryview(layout)[4:]
            if len(raw) < nbytes:
                raise self.fail(f"a dataset declares {nbytes} bytes and holds {len(raw)}", path)
        else:
            raw = self._contiguous(layout, nbytes, path)
        return np.frombuffer(raw[:nbytes], dataset.dtype).reshape(dataset.shape)

    def _contiguous(self, layout: bytes, nbytes: int, path: str) -> memoryview:
        if len(layout) < 18:
            raise self.fail("a short layout message", path)
        address, size = struct.unpack_from("<QQ", layout, 2)
        if address == UNDEFINED or size < nbytes:
            held = 0 if address == UNDEFINED else size
            raise self.fail(f"a dataset declares {nbytes} bytes and holds {held}", path)
        self.charge(nbytes, path)
        return self.at(address, nbytes, f"dataset {path}")
