"""Reads the small parts of IR text: types, dims, tensor literals, attribute values, locations. `ir/parser.py` reads the rest.

Types, attributes and locations repeat in a large text; what a stretch of text stands for is remembered by that text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np

from .dims import Dim, parse_dim
from .errors import AnyIRError, InvalidModel, LimitExceeded
from .lexer import Lexer
from .loc import UNKNOWN_LOC, Loc
from .storage import limit
from .tensor import Tensor, as_tensor
from .types import BOOL, F32, F64, STRING, DType, MapType, NoneType, OptionalType, SequenceType, TensorType, Type, dtype

Made = TypeVar("Made")

_DIM_MARK = re.compile(r'[](),\n]|"(?:[^"\\\n]|\\.)*"|\(')
_WORDS = {"none": None, "true": True, "false": False}


class LiteralReader:
    """The small grammar over one lexer."""

    def __init__(self, lexer: Lexer) -> None:
        self.lex = lexer
        self.depth = 0

    @contextmanager
    def nested(self) -> Iterator[None]:
        self.depth += 1
        if self.depth > limit("nesting"):
            raise LimitExceeded(
                f"nested more than {limit('nesting')} deep", where=self.lex.name, hint="--limit nesting=N raises it"
            )
        yield
        self.depth -= 1

    def remembered(
        self, memo: dict[Hashable, Made], key: Hashable, start: int, end: int, read: Callable[[], Made]
    ) -> Made | None:
        """What `read` makes of the text from `start` to `end`, kept in `memo`; None when it reads another stretch."""
        made = memo.get(key)
        if made is None:
            self.lex.seek(start)
            made = read()
            stopped = self.lex.token.offset
            if stopped < end or self.lex.text[end:stopped].strip():
                return None
            memo[key] = made
        return made

    # Types.

    def type(self) -> Type:
        lex = self.lex
        if lex.at("seq") or lex.at("optional"):
            made = SequenceType if lex.advance().text == "seq" else OptionalType
            lex.expect("<")
            with self.nested():
                inner = self.type()
            lex.expect(">")
            return made(inner)
        if lex.at("map"):
            return self.map_type()
        if lex.take("none"):
            return NoneType()
        return self.tensor_type(static=False)

    def map_type(self) -> MapType:
        lex = self.lex
        lex.expect("map")
        lex.expect("<")
        at, name = lex.token.offset, lex.kind("word", "the dtype of keys")
        key = self.dtype_named(name, at)
        lex.expect(",")
        with self.nested():
            inner = self.type()
        lex.expect(">")
        try:
            return MapType(key, inner)
        except InvalidModel as error:
            lex.fail(error.message, at)

    def types(self) -> tuple[Type, ...]:
        made = [self.type()]
        while self.lex.take(","):
            made.append(self.type())
        return tuple(made)

    def tensor_type(self, static: bool = True) -> TensorType:
        lex = self.lex
        at, name = lex.token.offset, lex.kind("word", "a type")
        element = None if name == "?" else self.dtype_named(name, at)
        lex.expect("[")
        if lex.take("*"):
            lex.expect("]")
            made = TensorType(element, None)
        else:
            dims = []
            while not lex.at("]"):
                dims.append(self.dim())
                if not lex.take(","):
                    break
            lex.expect("]")
            try:
                made = TensorType(element, dims)
            except InvalidModel as error:
                lex.fail(error.message, at)
        if static and (element is None or not made.is_static):
            lex.fail(f"a constant has a known type, not {made}", at)
        return made

    def dtype_named(self, name: str, at: int) -> DType:
        try:
            return dtype(name)
        except InvalidModel as error:
            self.lex.fail(error.message, at, error.hint)

    def dim(self) -> Dim:
        """A number, or the text up to the next comma or bracket outside parentheses and quotes."""
        lex = self.lex
        start, depth, end = lex.token.offset, 0, len(lex.text)
        for mark in _DIM_MARK.finditer(lex.text, start):
            kind = mark.group()
            depth += (kind == "(") - (kind == ")")
            if kind == "\n" or depth < 0 or (depth == 0 and kind in (",", "]")):
                end = mark.start()
                break
        text = lex.text[start:end]
        try:
            made = int(text) if text.isascii() and text.isdigit() else parse_dim(text)
        except AnyIRError as error:
            lex.fail(error.message, start)
        lex.seek(end)
        return made

    # Tensors.

    def literal(self, type_: TensorType) -> Tensor:
        """The elements of a constant: one for rank 0, else a flat list."""
        lex, at = self.lex, self.lex.token.offset
        element: DType = type_.dtype  # type: ignore[assignment]
        if type_.rank == 0:
            flat = [self.element(element)]
        else:
            flat = []
            lex.expect("[")
            while not lex.at("]"):
                flat.append(self.element(element))
                if not lex.take(","):
                    break
            lex.expect("]")
        if len(flat) != type_.numel:
            lex.fail(f"{type_} has {type_.numel} elements, the list has {len(flat)}", at)
        array = np.empty(len(flat), element.numpy)
        for index, item in enumerate(
            flat
        ):  # one by one: a list of scalars would go through Python floats, bits and all
            array[index] = item
        return as_tensor(array.reshape(type_.shape), element)

    def element(self, element: DType) -> Any:
        lex = self.lex
        token = lex.token
        if element is STRING:
            return self.hex_bytes() if lex.take("bytes") else lex.string()
        if element is BOOL:
            if not (lex.at("true") or lex.at("false")):
                lex.fail(f"expected true or false, found {lex.found()}")
            return lex.advance().text == "true"
        if element.kind == "complex":
            return self.complex_element(element)
        if element.is_int:
            return self.integer_element(element)
        if token.kind == "bits":
            raw = int(lex.advance().text, 16)
            width = element.numpy.itemsize
            if raw >= 1 << (8 * width):
                lex.fail(f"too many bits for {element}", token.offset)
            return np.frombuffer(raw.to_bytes(width, "little"), element.numpy)[0]
        return element.numpy.type(float(lex.kind("number", "a number")))

    def complex_element(self, element: DType) -> Any:
        """Both parts bit for bit."""
        half = F32 if element.bits == 64 else F64
        parts = np.empty(2, half.numpy)
        self.lex.expect("(")
        parts[0] = self.element(half)
        self.lex.expect(",")
        parts[1] = self.element(half)
        self.lex.expect(")")
        return parts.view(element.numpy)[0]

    def integer_element(self, element: DType) -> int:
        at, value = self.lex.token.offset, self.lex.integer()
        low = -(1 << (element.bits - 1)) if element.is_signed else 0
        if not low <= value < low + (1 << element.bits):
            self.lex.fail(f"{value} does not fit {element}", at)
        return value

    def hex_bytes(self) -> bytes:
        at, text = self.lex.token.offset, self.lex.string()
        try:
            return bytes.fromhex(text)
        except ValueError:
            self.lex.fail("expected hexadecimal digits", at)

    # Attributes and locations.

    def attributes(self) -> dict[str, Any]:
        lex, made = self.lex, {}
        lex.expect("{")
        while not lex.at("}"):
            at = lex.token.offset
            name = lex.string() if lex.token.kind == "string" else lex.kind("word", "an attribute name")
            if name in made:
                lex.fail(f"attribute {name} is given twice", at)
            lex.expect("=")
            made[name] = self.attribute()
            if not lex.take(","):
                break
        lex.expect("}")
        return made

    def attribute(self) -> Any:
        lex = self.lex
        token = lex.token
        if token.kind == "string":
            return lex.string()
        if token.kind == "bits":
            return float(self.element(F64))
        if token.kind == "number":
            if token.text.lstrip("-").isdigit():
                return lex.integer()
            return float(lex.advance().text)
        if lex.take("["):
            items = []
            with self.nested():
                while not lex.at("]"):
                    items.append(self.attribute())
                    if not lex.take(","):
                        break
            lex.expect("]")
            return tuple(items)
        return self.named_attribute(lex.kind("word", "an attribute value"), token.offset)

    def named_attribute(self, word: str, at: int) -> Any:
        lex = self.lex
        if word in _WORDS:
            return _WORDS[word]
        if word == "bytes":
            return self.hex_bytes()
        if word == "type":
            lex.expect("(")
            type_ = self.type()
            lex.expect(")")
            return type_
        if word == "tensor":
            lex.expect("(")
            type_ = self.tensor_type()
            lex.expect("=")
            tensor = self.literal(type_)
            lex.expect(")")
            return tensor
        return self.dtype_named(word, at)

    def location(self) -> Loc:
        lex = self.lex
        lex.expect("(")
        leaves = []
        while not lex.at("by"):
            frontend = lex.string()
            lex.expect(":")
            scope, file, line = lex.string(), "", 0
            if lex.take("at"):
                file = lex.string()
                lex.expect(":")
                line = lex.integer()
            notes = self.notes() if lex.take("notes") else ()
            leaves.append(Loc(frontend, scope, file=file, line=line, notes=notes))
            if not lex.take("+"):
                break
        tag = lex.string() if lex.take("by") else ""
        lex.expect(")")
        if len(leaves) < 2:
            return (leaves[0] if leaves else UNKNOWN_LOC).tagged(tag)
        return Loc(fused=tuple(leaves), tag=tag)

    def notes(self) -> tuple[tuple[str, str], ...]:
        """Pairs of key and text."""
        at, pairs = self.lex.token.offset, self.attribute()
        if not isinstance(pairs, tuple) or not all(
            isinstance(p, tuple) and len(p) == 2 and all(type(part) is str for part in p) for p in pairs
        ):
            self.lex.fail("notes are a list of pairs of texts", at)
        return pairs
