"""A torch.export graph as plain data: the one form that `.pt2` files and live `ExportedProgram`s are both turned into.

Shapes are `(dtype, dims)` whose symbolic dims are the small trees of `pt2_symbols`; weights are numpy arrays that view
the file or the live tensor. Nothing here knows torch or the IR's graphs.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..ir.storage import MappedFile
from ..ir.types import (
    BF16,
    BOOL,
    C64,
    C128,
    F8E4M3FN,
    F8E4M3FNUZ,
    F8E5M2,
    F8E5M2FNUZ,
    F8E8M0,
    F16,
    F32,
    F64,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    DType,
)
from .pt2_symbols import Sym

SCALAR_TYPES: dict[int, DType] = {
    1: U8, 2: I8, 3: I16, 4: I32, 5: I64, 6: F16, 7: F32, 8: F64, 10: C64, 11: C128, 12: BOOL, 13: BF16,
    28: U16, 29: F8E4M3FN, 30: F8E5M2, 31: F8E4M3FNUZ, 32: F8E5M2FNUZ, 33: F8E8M0, 34: U32, 35: U64,
}  # fmt: skip
"""`torch._export.serde.schema.ScalarType` (9, complex32, has no storage type in numpy)."""

TORCH_NAMES: dict[str, DType] = {
    "uint8": U8, "int8": I8, "int16": I16, "int32": I32, "int64": I64, "float16": F16, "float32": F32, "float64": F64,
    "complex64": C64, "complex128": C128, "bool": BOOL, "bfloat16": BF16, "uint16": U16, "uint32": U32, "uint64": U64,
    "float8_e4m3fn": F8E4M3FN, "float8_e5m2": F8E5M2, "float8_e4m3fnuz": F8E4M3FNUZ, "float8_e5m2fnuz": F8E5M2FNUZ,
    "float8_e8m0fnu": F8E8M0,
}  # fmt: skip
"""The names of `torch.dtype`s."""


@dataclass(frozen=True, slots=True)
class Ref:
    """A use of the value `name`: a tensor, or a symbolic `int`, `float` or `bool`."""

    name: str
    kind: str = "tensor"


def refs(value: Any) -> Iterator[Ref]:
    """All uses in an argument, in order."""
    stack = [value]
    while stack:
        top = stack.pop()
        if isinstance(top, Ref):
            yield top
        elif isinstance(top, tuple):
            stack.extend(reversed(top))


@dataclass(frozen=True, slots=True)
class TensorMeta:
    """Dtype and shape of a tensor value."""

    dtype: DType
    shape: tuple[Sym, ...]


@dataclass(slots=True)
class ExportedNode:
    """One call. `args` by the names of the operator's schema (defaults left out); `outputs` holds value names, a tuple
    of names for an output that is a list of tensors, and None for one that is absent."""

    target: str  # "aten.conv2d.default", "_operator.mul", "higher_order.cond"
    args: dict[str, Any]
    outputs: tuple[str | tuple[str, ...] | None, ...]
    scope: str = ""  # path of the module that made the call, "layer1.0.conv"
    source: tuple[str, int] | None = None  # file and line of the model's own code


@dataclass(slots=True)
class ExportedGraph:
    """Inputs and outputs are `Ref`s or plain values (a constant argument or result); nodes are in execution order."""

    inputs: list[Any]
    outputs: list[Any]
    nodes: list[ExportedNode]
    tensors: dict[str, TensorMeta]
    symbols: dict[str, Sym]  # symbolic int and float values by name


@dataclass(frozen=True, slots=True)
class Tree:
    """Nesting of the arguments or results: `kind` leaf, tuple, list or dict; `keys` name a dict's children."""

    kind: str
    keys: tuple[str, ...] = ()
    children: tuple[Tree, ...] = ()

    def leaves(self) -> list[tuple[str | int, ...]]:
        """The path of every leaf, in order. Iterative: nesting comes from a file."""
        found: list[tuple[str | int, ...]] = []
        stack: list[tuple[Tree, tuple[str | int, ...]]] = [(self, ())]
        while stack:
            tree, path = stack.pop()
            if tree.kind == "leaf":
                found.append(path)
            names: tuple[str | int, ...] = tree.keys or tuple(range(len(tree.children)))
            stack.extend(reversed([(child, (*path, name)) for name, child in zip(names, tree.children, strict=True)]))
        return found


LEAF = Tree("leaf")


@dataclass(frozen=True, slots=True)
class InputSpec:
    """What a graph input is: kind user, parameter, buffer, constant or literal; `target` its name in the state dict."""

    kind: str
    arg: Any
    target: str = ""


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """What a graph output is: kind user, or the mutation that it stands for, of `target`."""

    kind: str
    arg: Any
    target: str = ""


@dataclass(frozen=True, slots=True)
class Payload:
    """A weight's values (a view where possible) and the identity of its storage: equal `storage`, equal tensor.

    `span`: the file and offset that hold exactly these bytes in row-major order, where there is one.
    """

    array: np.ndarray
    storage: Hashable
    span: tuple[MappedFile, int] | None = None


@dataclass(slots=True)
class Exported:
    """A whole exported program."""

    graph: ExportedGraph
    inputs: list[InputSpec]
    outputs: list[OutputSpec]
    in_tree: Tree | None
    out_tree: Tree | None
    arg_names: list[str]
    ranges: dict[str, tuple[int | None, int | None]]
    weights: dict[str, Payload]  # by the name in the state dict, or of the constant
    producer: str = ""
    symbol_names: dict[str, str] = field(default_factory=dict)  # names that the user gave to symbols
    notes: dict[str, str] = field(default_factory=dict)  # what the file says of where it comes from
