"""Recipe files as plain values with the place of each: YAML, TOML or JSON, read without trust.

Scalars follow YAML 1.2 (`1e-3` is a number, `2:4` and `no` are text), as TOML and JSON users expect. Sizes, depth and what
aliases expand to are bounded; tags and keys given twice are refused. PyYAML is imported here only, when a file is read.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from ..ir.errors import LimitExceeded, UsageError
from ..ir.storage import read_bytes

if TYPE_CHECKING:
    import yaml

FILE_BYTES = 1 << 20
DEPTH = 16
VALUES = 10_000

Path = tuple[str | int, ...]


class Place(NamedTuple):
    line: int
    column: int


@dataclass
class Document:
    """What a file says: plain dicts, lists and scalars, and where each value stands, by its path from the top."""

    file: str
    text: str
    value: Any = None
    places: dict[Path, Place] = field(default_factory=dict)

    def at(self, path: Path) -> str:
        """`file:line:column` of the value at `path`, or of the nearest one around it."""
        for end in range(len(path), -1, -1):
            if path[:end] in self.places:
                line, column = self.places[path[:end]]
                return f"{self.file}:{line}:{column}"
        return self.file


def read(path: str | os.PathLike[str]) -> Document:
    """The document in a file; its suffix says how to read it. Raises UsageError (R020), LimitExceeded, SystemFailure."""
    name = os.fspath(path)
    suffix = os.path.splitext(name)[1].lower()
    if suffix not in PARSERS:
        raise UsageError(
            "a recipe is a .yaml, .toml or .json file", code="R020", where=name, hint="irc recipes lists ours"
        )
    try:
        text = read_bytes(path, FILE_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _mistake(f"not UTF-8: {error.reason} at byte {error.start}", name) from None
    return parse(text, name, suffix)


def parse(text: str, file: str, suffix: str = ".yaml") -> Document:
    """The document that `text` is. Raises UsageError (R020) with the place, LimitExceeded."""
    made = Document(file, text)
    PARSERS[suffix](made)
    return made


def _mistake(what: str, where: str) -> UsageError:
    return UsageError(what, code="R020", where=where)


# ------------------------------------------------------------------------------------------------------------- YAML


def _yaml(made: Document) -> None:
    import yaml

    try:
        _check_size(yaml.parse(made.text, yaml.SafeLoader), made.file)
        root = yaml.compose(made.text, yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{made.file}:{mark.line + 1}:{mark.column + 1}" if mark else made.file
        raise _mistake(f"not YAML: {error.problem or error.context}", where) from None
    except yaml.YAMLError as error:
        raise _mistake(f"not YAML: {str(error).splitlines()[0]}", made.file) from None
    if root is not None:
        made.value = _Values(made).value(root, ())


def _check_size(events: Iterator[Any], file: str) -> None:
    """Before anything is built: how deep and how many values, aliases not expanded."""
    depth = count = 0
    for event in events:
        kind = type(event).__name__
        depth += kind.endswith("StartEvent") - kind.endswith("EndEvent")
        count += 1
        if depth > DEPTH + 2:  # the stream and the document count too
            raise LimitExceeded(f"nested more than {DEPTH} deep", where=file)
        if count > 2 * VALUES:
            raise LimitExceeded(f"more than {VALUES} values", where=file)


class _Values:
    """Builds plain values from composed nodes. Depth is bounded here again: aliases may stand inside what they name."""

    def __init__(self, made: Document) -> None:
        self.made = made
        self.count = 0

    def value(self, node: yaml.Node, path: Path) -> Any:
        import yaml

        self.count += 1
        if self.count > VALUES or len(path) > DEPTH:
            raise LimitExceeded(f"more than {VALUES} values or {DEPTH} levels", where=self.made.file)
        self.made.places.setdefault(path, Place(node.start_mark.line + 1, node.start_mark.column + 1))
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            self.untagged(node, "tag:yaml.org,2002:seq", path)
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)
        return self.scalar(node, path)

    def mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        self.untagged(node, "tag:yaml.org,2002:map", path)
        made: dict[str, Any] = {}
        for key, item in node.value:
            where = f"{self.made.file}:{key.start_mark.line + 1}:{key.start_mark.column + 1}"
            if not isinstance(key.value, str):
                raise _mistake("a key must be text", where)
            if key.value in made:
                raise _mistake(f"the key {key.value!r} is given twice", where)
            self.made.places[(*path, key.value)] = Place(key.start_mark.line + 1, key.start_mark.column + 1)
            made[key.value] = self.value(item, (*path, key.value))
        return made

    def untagged(self, node: yaml.Node, tag: str, path: Path) -> None:
        if node.tag not in (tag, "!"):
            raise _mistake(f"the tag {node.tag!r} is not allowed in recipes", self.made.at(path))

    def scalar(self, node: yaml.ScalarNode, path: Path) -> Any:
        standard = node.tag.startswith("tag:yaml.org,2002:") and node.tag.rpartition(":")[2] in _PLAIN_TAGS
        if not standard:
            self.untagged(node, "", path)
        return node.value if node.style is not None else _plain(node.value)


#: What PyYAML may take an untagged scalar for; the value itself is decided by `_plain`.
_PLAIN_TAGS = frozenset({"str", "int", "float", "bool", "null", "timestamp", "value", "merge"})
_WORDS = {"": None, "~": None, "null": None, "Null": None, "NULL": None, "true": True, "True": True, "TRUE": True}
_WORDS |= {"false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]{1,18}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]{1,4})?")


def _plain(text: str) -> Any:
    """An unquoted scalar by YAML 1.2's core schema: null, true, false, integers, floats, else text."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) and len(text) < 40 else text


# ----------------------------------------------------------------------------------------------------- TOML and JSON


def _toml(made: Document) -> None:
    try:
        made.value = tomllib.loads(made.text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r" \(at line (\d+), column (\d+)\)$", str(error))
        end = made.text.count("\n") + 1
        where = f"{made.file}:{found[1]}:{found[2]}" if found else f"{made.file}:{end}:1"
        raise _mistake(f"not TOML: {str(error)[: found.start() if found else None]}", where) from None
    except RecursionError:
        raise LimitExceeded(f"nested more than {DEPTH} deep", where=made.file) from None
    _check_values(made)
    made.places.update(_toml_places(made.text))


_HEADER = re.compile(r"\s*(\[\[?)\s*([^\]]+?)\s*\]")
_KEY = re.compile(r"\s*([A-Za-z0-9_.\"'-]+)\s*=")


def _toml_places(text: str) -> Iterator[tuple[Path, Place]]:
    """Where tables and the keys in them stand; keys of inline tables have the place of their line."""
    head: Path = ()
    counts: dict[Path, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        header = _HEADER.match(line)
        if header is not None:
            head = _dotted(header[2])
            if header[1] == "[[":
                counts[head] = counts.get(head, -1) + 1
                head = (*head, counts[head])
            yield head, Place(number, header.start(2) + 1)
        elif key := _KEY.match(line):
            yield (*head, *_dotted(key[1])), Place(number, key.start(1) + 1)


def _dotted(text: str) -> Path:
    return tuple(part.strip().strip("\"'") for part in text.split("."))


def _json(made: Document) -> None:
    try:
        made.value = json.loads(made.text, object_pairs_hook=lambda pairs: _once(pairs, made.file))
    except json.JSONDecodeError as error:
        raise _mistake(f"not JSON: {error.msg}", f"{made.file}:{error.lineno}:{error.colno}") from None
    except (RecursionError, ValueError) as error:
        raise LimitExceeded(f"not readable as JSON: {str(error)[:80]}", where=made.file) from None
    _check_values(made)
    twin = Document(made.file, made.text.replace("\t", " "))
    try:
        _yaml(twin)  # JSON is YAML nearly always, and that parser knows places
    except (UsageError, LimitExceeded):
        return
    made.places = twin.places


def _once(pairs: list[tuple[str, Any]], file: str) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [key for key, _ in pairs]
        twice = next(key for key in names if names.count(key) > 1)
        raise _mistake(f"the key {twice!r} is given twice", file)
    return made


def _check_values(made: Document) -> None:
    """What was read is as bounded as YAML is."""
    pending: list[tuple[Any, int]] = [(made.value, 0)]
    for value, depth in pending:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        pending.extend((item, depth + 1) for item in inner)
        if len(pending) > VALUES or depth > DEPTH:
            raise LimitExceeded(f"more than {VALUES} values or {DEPTH} levels", where=made.file)


PARSERS = {".yaml": _yaml, ".yml": _yaml, ".toml": _toml, ".json": _json}
