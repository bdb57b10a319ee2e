"""Equations of EinsumDense as products of matrices, for kernels that are stored as matrices of integers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...ir.graph import Value
from .scope import Scope


class Contraction:
    """`equation` on x and a kernel as [..., rows] times [rows, columns]: `enter` brings x there, `leave` the result back.

    `perm` brings the kernel's axes into that order: those that are summed over, then those that stay. Raises Unsupported for
    an equation that is no product of matrices; with dots Keras itself quantizes none.
    """

    def __init__(self, s: Scope, x: Value, equation: str) -> None:
        self.s = s
        first, _, rest = equation.partition(",")
        kernel, _, made = rest.partition("->")
        self.summed = [label for label in kernel if label not in made]
        self.kept = [label for label in kernel if label in made]
        self.batch = [label for label in first if label not in kernel]
        self.labels, self.made = first, made
        if not self._is_matrices(kernel) or s.rank(x) != len(first):
            raise s.unsupported(f"quantized weights in {equation!r}, which is no product of matrices")
        sizes = {label: s.static(x, first.index(label)) for label in self.summed} | _made_sizes(s, made)
        if not all(label in sizes for label in kernel):
            raise s.invalid(f"output_shape does not tell the size of every axis of {equation!r}")
        self.kernel_shape = tuple(sizes[label] for label in kernel)
        self.kept_shape = tuple(sizes[label] for label in self.kept)
        self.rows = math.prod(sizes[label] for label in self.summed)
        self.columns = math.prod(self.kept_shape)
        self.perm = tuple(kernel.index(label) for label in (*self.summed, *self.kept))

    def _is_matrices(self, kernel: str) -> bool:
        whole = all(labels.isalpha() and len(set(labels)) == len(labels) for labels in (self.labels, kernel, self.made))
        both = sorted(self.batch + self.summed) == sorted(self.labels)
        return whole and both and sorted(self.batch + self.kept) == sorted(self.made)

    def enter(self, x: Value) -> Value:
        """x as [*batch, rows]."""
        turned = self.s.transpose(x, [self.labels.index(label) for label in (*self.batch, *self.summed)])
        return self.s.reshape(turned, (*self.s.shape(turned)[: len(self.batch)], self.rows))

    def leave(self, y: Value) -> Value:
        """[*batch, columns] in the equation's order."""
        apart = self.s.reshape(y, (*self.s.shape(y)[:-1], *self.kept_shape))
        order = [*self.batch, *self.kept]
        return self.s.transpose(apart, [order.index(label) for label in self.made])

    def laid(self, labels: Sequence[str]) -> tuple[int, ...]:
        """How `labels`, the kept ones in another order, are turned into the order of the columns."""
        return tuple(labels.index(label) for label in self.kept)


def _made_sizes(s: Scope, made: str) -> dict[str, int]:
    """The sizes that output_shape tells, which leaves out the batch."""
    given = s.config.get("output_shape")
    shape = given if isinstance(given, (list, tuple)) else [given]
    return {label: size for label, size in zip(made[1:], shape, strict=False) if type(size) is int and size > 0}
