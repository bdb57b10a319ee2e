"""Calls an op the way a model does: one sample becomes a one-node graph, with numbers or symbols for dims."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
from anyir.ir.builder import Builder
from anyir.ir.dims import Dim, Expr, evaluate, substitute, sym, symbols
from anyir.ir.graph import Module, Node, Value
from anyir.ir.opdef import AxisMap, Sample, Typed
from anyir.ir.ops import get_op
from anyir.ir.types import STRING, DType, MapType, OptionalType, SequenceType, TensorType, Type
from anyir.kernels.run import run_node


def samples_of(name: str) -> list[Sample]:
    """The op's samples for a seed of its own."""
    return list(get_op(name).samples(np.random.default_rng(zlib.crc32(name.encode()))))


def ids_of(names: list[str]) -> Iterator[tuple[str, int]]:
    """(op, sample number) for parametrisation."""
    for name in names:
        for number in range(len(samples_of(name))):
            yield name, number


def symbol_for(size: int) -> Dim:
    """One symbol per size above 1, so that what must be equal is; 0 and 1 stay numbers (they broadcast)."""
    return sym(f"s{size}") if size > 1 else size


def call(name: str, sample: Sample, *, symbolic: bool = False, const: bool | None = None) -> tuple[Node, list[Any]]:
    """A node with the sample's operands, and the operands as flat arrays.

    Operands that the sample names in `const` are constants; all are if `const`, none if it is False.
    """
    op = get_op(name)
    module = Module()
    graph = module.add_graph("main")
    given = [a for o in sample.operands for a in (o if isinstance(o, list) else [o])]
    flat = [a.value if isinstance(a, Typed) else None if a is None else np.asarray(a) for a in given]
    values: list[Value | None] = []
    for index, (array, item) in enumerate(zip(flat, given, strict=True)):
        if isinstance(item, Typed):
            values.append(graph.add_input(item.type, f"x{index}"))
            continue
        if array is None:
            values.append(None)
            continue
        declared = op.operands[min(index, len(op.operands) - 1)].name
        if (declared in sample.const) if const is None else const:
            values.append(Builder(graph).const(array, key=f"c{index}"))
            continue
        shape = tuple(symbol_for(d) if symbolic else d for d in array.shape)
        values.append(graph.add_input(TensorType(DType.of(array.dtype), shape), f"x{index}"))
    return Builder(graph).call(name, values, sample.attrs), flat


def results(node: Node, arrays: list[Any]) -> list[np.ndarray]:
    """What the kernel makes of the node."""
    padded = arrays[: len(node.operands)]
    return [a if a is None or isinstance(a, list) else np.asarray(a) for a in run_node(node, padded)]


def check_types(node: Node, made: list[np.ndarray]) -> None:
    """Inferred dtypes, shapes and elements say nothing false about the results; static operands say everything."""
    for value, array in zip(node.results, made, strict=True):
        check_type(value.type, array)
        for elem, item in zip(value.elems or (), np.ravel(array) if value.elems else (), strict=True):
            assert elem is None or not _evaluable(elem) or _number(elem) == int(item), f"{value.elems} for {array}"


def check_type(type_: Type, made: Any) -> None:
    """A type says nothing false about an array, a sequence of them or an optional."""
    if isinstance(type_, OptionalType):
        return None if made is None else check_type(type_.elem, made)
    if isinstance(type_, SequenceType):
        assert isinstance(made, list)
        for item in made:
            check_type(type_.elem, item)
        return None
    if isinstance(type_, MapType):
        assert isinstance(made, dict)
        for key, item in made.items():
            assert isinstance(key, str if type_.key is STRING else int)
            check_type(type_.elem, np.asarray(item))
        return None
    assert isinstance(type_, TensorType) and (type_.dtype is None or type_.dtype.numpy == made.dtype)
    if type_.shape is not None:
        assert len(type_.shape) == made.ndim, f"{type_} for {made.shape}"
        for dim, size in zip(type_.shape, made.shape, strict=True):
            assert not _evaluable(dim) or _number(dim) == size, f"{type_} for {made.shape}"
    return None


def _evaluable(dim: Dim) -> bool:
    return not isinstance(dim, Expr) or all(name.startswith("s") for name in symbols(dim))


def _number(dim: Dim) -> int:
    return evaluate(dim, {name: int(name[1:]) for name in symbols(dim)}) if isinstance(dim, Expr) else dim


def check_axes(node: Node, arrays: list[Any], made: list[np.ndarray]) -> int:
    """Each `pass` label keeps its promise: reversing that axis everywhere reverses it in the results. Returns how many
    labels were tried."""
    mapping = node.op.axis_map(node)
    if mapping is None:
        return 0
    assert len(mapping.operands) >= len(node.operands) and len(mapping.results) == len(node.results)
    assert not any(mapping.operands[len(node.operands) :])
    for row, array in zip(mapping.operands, arrays, strict=False):
        assert row is None or array is None or len(row) == np.ndim(array)
    labels = sorted({a.label for row in mapping.results for a in row if a is not None and a.role == "pass"})
    for label in labels:
        flipped = [_flip(array, row, label) for array, row in zip(arrays, mapping.operands, strict=False)]
        again = results(node, flipped)
        for wanted, row, got in zip(made, mapping.results, again, strict=True):
            _assert_same(_flip(wanted, row, label), got, f"axis {label} of {node.name}")
    return len(labels) + _check_contractions(node, arrays, made, mapping)


def _assert_same(wanted: np.ndarray, got: np.ndarray, what: str) -> None:
    """Equal up to what numpy's vector code makes of another position in memory."""
    if wanted.dtype != object and DType.of(wanted.dtype).is_float:
        limit = 4 * float(ml_dtypes.finfo(wanted.dtype).eps)
        np.testing.assert_allclose(got.astype(np.float64), wanted.astype(np.float64), rtol=limit, err_msg=what)
    else:
        np.testing.assert_array_equal(got, wanted, err_msg=what)


def _check_contractions(node: Node, arrays: list[Any], made: list[np.ndarray], mapping: AxisMap) -> int:
    """Reversing a contracted axis on all operands changes the result by rounding at most."""
    labels = {a.label for row in mapping.operands if row for a in row if a is not None and a.role == "contract"}
    for label in sorted(labels):
        flipped = [_flip(array, row, label) for array, row in zip(arrays, mapping.operands, strict=False)]
        for wanted, got in zip(made, results(node, flipped), strict=True):
            np.testing.assert_allclose(got.astype(np.float64), wanted.astype(np.float64), rtol=1e-2, atol=1e-2)
    return len(labels)


def _flip(array: Any, row: tuple | None, label: str) -> Any:
    if array is None or row is None:
        return array
    along = [i for i, a in enumerate(row) if a is not None and a.label == label and a.role != "broadcast"]
    return np.flip(array, along) if along else array


__all__ = ["call", "check_axes", "check_types", "ids_of", "results", "samples_of", "substitute", "symbol_for"]
