"""A module's constants as kernels see them: their arrays, and what kernels make of them, kept from one run to the next.

    bias = kept(wide, b)        # wide(b), remembered if b is a small constant of the running module

Reading a small constant and preparing it costs as much as using it. Only constants are remembered, never the values
of a run; a module keeps at most `ROOM` bytes, and they go with it. What is kept is shared: nobody writes into it. Imports
no framework.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from weakref import finalize

from ..ir.graph import Module
from ..ir.tensor import Tensor
from .budget import nbytes

#: Larger constants are read anew: there the arithmetic dominates.
LARGEST = 1 << 20
#: Bytes that a module's constants, and what was made of them, may take.
ROOM = 1 << 26


class Shelf:
    """The kept arrays of one module. A full shelf is emptied: that forgets replaced weights as well."""

    def __init__(self) -> None:
        self._empty()

    def _empty(self) -> None:
        self._read: dict[Tensor, Any] = {}
        self._made: dict[tuple[Any, ...], Any] = {}
        self._constants = {id(None)}  # operands that are absent stay absent
        self._left = ROOM

    def array(self, tensor: Tensor) -> Any:
        """The elements of a constant: the same array each time, where it is small."""
        found = self._read.get(tensor)
        if found is None:
            found = tensor.numpy()
            size = nbytes(found)
            if size <= LARGEST:
                if size > self._left:
                    self._empty()
                self._left -= size
                self._read[tensor] = found
                self._constants.add(id(found))
        return found

    def made(self, how: Callable[..., Any], arrays: tuple[Any, ...], parameters: tuple[Any, ...]) -> Any:
        """how(*arrays, *parameters) where all arrays are kept constants, else None."""
        key = (how, *map(id, arrays), *parameters)  # the ids are those of arrays that live as long as the key
        found = self._made.get(key)
        if found is None and self._constants.issuperset(map(id, arrays)):
            found = how(*arrays, *parameters)
            size = nbytes(found)
            if size <= self._left:
                self._left -= size
                self._made[key] = found
        return found


#: By the id of a module, as long as it lives.
_shelves: dict[int, Shelf] = {}
_current: ContextVar[Shelf | None] = ContextVar("shelf", default=None)


@contextmanager
def shelf_of(module: Module) -> Iterator[Shelf]:
    """The shelf of a module, in use inside the block."""
    shelf = _shelves.get(id(module))
    if shelf is None:
        shelf = _shelves[id(module)] = Shelf()
        finalize(module, _shelves.pop, id(module)).atexit = False
    token = _current.set(shelf)
    try:
        yield shelf
    finally:
        _current.reset(token)


def kept(how: Callable[..., Any], *arrays: Any, parameters: tuple[Any, ...] = ()) -> Any:
    """how(*arrays, *parameters), made once if all the arrays are small constants of the running module."""
    shelf = _current.get()
    found = None if shelf is None else shelf.made(how, arrays, parameters)
    return how(*arrays, *parameters) if found is None else found


__all__ = ["Shelf", "kept", "shelf_of"]
