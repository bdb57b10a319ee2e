"""The builder: one method per op (typed in the generated builder.pyi), inferring types as it goes.

    b = Builder(graph)                       # appends; before=/after= a node inserts there
    y = b.conv(x, w, strides=(2, 2))         # a Value, or a tuple of Values for several results
    z = b.reshape(y, (0, -1))                # numbers, tuples and arrays become constants

A Python number takes the dtype that the op wants: that of the operand it must agree with, else i64 or f32. Op names that
are Python keywords or methods of the builder get a trailing underscore (`b.not_`, `b.if_`, `b.call_`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .errors import TypeInferError
from .graph import Graph, Module, Node, Value
from .loc import UNKNOWN_LOC, Loc
from .opdef import DtypeVar, OpDef
from .ops import get_op
from .tensor import as_tensor
from .types import BOOL, F32, I64, DType, TensorType
from .weights import Weight


class Builder:
    """Makes nodes in `graph` in front of `before` (or right behind `after`; default: at the end), all at location `loc`."""

    def __init__(
        self, graph: Graph, *, before: Node | None = None, after: Node | None = None, loc: Loc = UNKNOWN_LOC
    ) -> None:
        self.graph = graph
        self.module: Module = graph.module
        self.before = after.next if after is not None else before
        self.loc = loc

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)
        op = get_op(name[:-1] if name.endswith("_") else name)

        def build(*operands: Any, regions: Sequence[Graph] = (), **attrs: Any) -> Any:
            node = self.make(op, operands, attrs, tuple(regions))
            return node.results[0] if len(node.results) == 1 else node.results

        self.__dict__[name] = build  # the next call finds it without asking here
        return build

    def call(
        self, name: str, operands: Sequence[Any], attrs: dict[str, Any] | None = None, regions: Sequence[Graph] = ()
    ) -> Node:
        """The generic spelling, for ops known by name only; returns the node."""
        return self.make(get_op(name), tuple(operands), attrs or {}, tuple(regions))

    def make(self, op: OpDef, operands: tuple, attrs: dict[str, Any], regions: tuple[Graph, ...] = ()) -> Node:
        """Build, infer and place one node. Raises TypeInferError, naming op, operands and location."""
        given = self._values(op, operands)
        while given and given[-1] is None:
            given = given[:-1]
        if op.max_operands is None and len(given) < op.min_position:
            given = (*given, *[None] * (op.min_position - len(given)))
        try:
            interned = op.make_attrs(attrs)
            known = op.infer_results(given, interned, regions)
        except TypeInferError as error:
            shown = ", ".join("none" if v is None else f"%{v.hint or '?'}: {v.type}" for v in given)
            raise error.at(f"{op.name}({shown})" + (f" at {self.loc}" if self.loc is not UNKNOWN_LOC else "")) from None
        node = Node(op, given, interned, regions, self.loc)
        node.make_results(known)
        return self.place(node)

    def place(self, node: Node) -> Node:
        """Put a finished node into the graph; staging builders override this."""
        return self.graph.insert(node, self.before)

    def const(
        self, array: Any, dtype: DType | None = None, *, key: str | None = None, role: str = "const", origin: str = ""
    ) -> Value:
        """A constant from a number, array or Tensor; with a `key` it is a weight of its own, else a shared literal."""
        if key is None and role == "const":
            return self.module.literal(self._array(array, dtype), dtype)
        return self.module.add_weight(key or "weight", as_tensor(self._array(array, dtype), dtype), role, origin)

    def weight(self, weight: Weight) -> Value:
        """The constant of an existing weight."""
        return self.module.constant(weight)

    @staticmethod
    def _array(value: Any, dtype: DType | None) -> Any:
        """Python numbers and nested sequences as a tensor: i64, f32 or bool unless a dtype is given (numpy's scalars have
        one). Raises InvalidModel for a number that an integer dtype cannot hold."""
        if isinstance(value, (bool, int, float, list, tuple)) and not isinstance(value, np.generic):
            made = np.asarray(value)
            if dtype is None and made.size == 0:
                dtype = I64
            return as_tensor(made, dtype or {"b": BOOL, "i": I64, "f": F32}.get(made.dtype.kind))
        return value

    def _values(self, op: OpDef, operands: tuple) -> tuple[Value | None, ...]:
        """The operands with constants in place of literals."""
        for operand in operands:
            if operand is not None and operand.__class__ is not Value:
                break
        else:
            return operands
        pairs = enumerate(operands)
        return tuple([o if o is None or isinstance(o, Value) else self._constant(op, operands, i) for i, o in pairs])

    def _constant(self, op: OpDef, operands: tuple, index: int) -> Value:
        """The constant for a literal operand, in the dtype that unification with the other operands asks for."""
        declared = op.operands
        wanted = declared[min(index, len(declared) - 1)].constraint if declared else None
        dtype = None
        if isinstance(wanted, DtypeVar):
            for position, other in enumerate(operands):
                if isinstance(other, Value) and declared[min(position, len(declared) - 1)].constraint is wanted:
                    dtype = other.dtype
                    break
        value = operands[index]
        if isinstance(value, (np.ndarray, np.generic)) or hasattr(value, "digest"):
            return self.module.literal(value)
        return self.module.literal(self._array(value, dtype), dtype)

    def at(self, loc: Loc) -> Builder:
        """This builder with `loc` for the nodes made from now on."""
        self.loc = loc
        return self


__all__ = ["Builder", "TensorType"]
