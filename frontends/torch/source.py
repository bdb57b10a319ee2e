"""Reads the `net.py` files that our torch backend writes, without running them.

The text is parsed with `ast`. Everything but the model's own tables and the body of `forward` must be, token for token,
what every such file has; each statement of `forward` becomes one call of the same plain data that `.pt2` files give, so
that the text goes through the frontend's own handlers: what is verified is what is written. Any other Python file is
refused. Must not import torch.
"""

from __future__ import annotations

import ast
import os
import re
from functools import cache
from typing import Any

from ...formats import safetensors
from ...formats.exported import (
    LEAF,
    TORCH_NAMES,
    Exported,
    ExportedGraph,
    ExportedNode,
    InputSpec,
    OutputSpec,
    Payload,
    Ref,
    TensorMeta,
    Tree,
)
from ...formats.pt2_symbols import Sym, parse_symbolic
from ...formats.torch_source import BODY, FORMAT_LINE, IMPORTS, TAIL, helper_sources
from ...ir.errors import AnyIRError, InvalidModel, LimitExceeded, Unsupported, clean
from ...ir.graph import Module
from ...ir.signature import Slot
from ...ir.storage import limit, read_bytes
from ...ir.types import dtype as dtype_of
from .lower import lower
from .registry import find
from .written import END

MAX_NESTING = 64
_REMEDY = "load it in Python and hand in the live module with example inputs"
_KINDS = {"param": "parameter", "buffer": "buffer", "const": "constant"}

_INFIX = {
    ast.Add: "aten.add", ast.Sub: "aten.sub", ast.Mult: "aten.mul", ast.Div: "aten.div", ast.Eq: "aten.eq", ast.NotEq: "aten.ne",
    ast.Lt: "aten.lt", ast.LtE: "aten.le", ast.Gt: "aten.gt", ast.GtE: "aten.ge", ast.BitAnd: "aten.bitwise_and",
    ast.BitOr: "aten.bitwise_or", ast.BitXor: "aten.bitwise_xor",
}  # fmt: skip
_SIZES = {ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.FloorDiv: "floordiv", ast.Mod: "mod"}

#: Functions that are not simply the aten operator of the same name, and arguments in another order than the handler's.
_TARGETS = {
    "torch.linalg.vector_norm": "aten.linalg_vector_norm", "F.interpolate": "anyir.interpolate",
    "F.grid_sample": "anyir.grid_sample", "F.affine_grid": "aten.affine_grid_generator",
}  # fmt: skip
_ORDER = {
    "torch.arange": ("start", "end", "step"), "torch.full": ("size", "fill_value"), "torch.split": ("self", "split_sizes"),
    "F.batch_norm": ("input", "running_mean", "running_var"), "torch.tile": ("self", "dims"),
}  # fmt: skip


def read_source(path: str | os.PathLike[str], name: str, names: Any = None) -> Module:
    """The module in a `net.py` with its `.safetensors`. Raises Unsupported for other Python files, InvalidModel, ..."""
    try:
        program, outputs = _program(path)
        module = lower(program, name, None)
        _rename(module, outputs, names)
        return module
    except AnyIRError as exc:
        raise (exc if os.fspath(path) in exc.where else exc.at(clean(os.fspath(path)))) from None


def _rename(module: Module, outputs: tuple[str, ...], names: Any) -> None:
    signature = module.signature
    if len(outputs) != len(signature.outputs):
        raise InvalidModel(f"OUTPUTS has {len(outputs)} names for {len(signature.outputs)} outputs")
    wanted = names if isinstance(names, dict) else dict(zip(signature.input_names(), names or (), strict=False))
    paths = [slot.path for slot in signature.outputs]
    signature.outputs = [Slot(wanted.get(n, n), path) for n, path in zip(outputs, paths, strict=True)]
    signature.inputs = [Slot(wanted.get(slot.name, slot.name), slot.path) for slot in signature.inputs]
    signature.check()


def _program(path: str | os.PathLike[str]) -> tuple[Exported, tuple[str, ...]]:
    source = _Source(_parse(path))
    stored, told = safetensors.read(os.path.splitext(os.fspath(path))[0] + ".safetensors")
    program = source.program(stored)
    program.notes = told
    return program, source.outputs


def _parse(path: str | os.PathLike[str]) -> ast.Module:
    """The syntax tree. Size, character set and nesting are checked first."""
    try:
        text = read_bytes(path).decode("ascii")
    except UnicodeDecodeError as exc:
        raise Unsupported("Python files are read only if anyir wrote them", hint=_REMEDY) from exc
    if FORMAT_LINE not in text[:4096].splitlines():
        raise Unsupported("Python files are read only if anyir wrote them", hint=_REMEDY)
    depth = 0
    for mark in re.findall(r"[()\[\]{}]", text):
        depth += 1 if mark in "([{" else -1
        if depth > MAX_NESTING:
            raise LimitExceeded(f"brackets nested deeper than {MAX_NESTING}")
    if re.search(r"(?:[-+~]\s*){9}|(?:\bnot\s+){9}|(?:\*\*[^,\n]*){9}", text):
        raise LimitExceeded("operators nested too deep")
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as exc:
        raise InvalidModel(f"no valid Python: {type(exc).__name__}") from None


@cache
def _boilerplate() -> tuple[list[str], dict[str, str], list[str]]:
    """Dumps of what every file has: imports, functions by name, methods."""
    imports = [ast.dump(item) for item in ast.parse(IMPORTS).body]
    functions = {name: ast.dump(ast.parse(text).body[0]) for name, text in helper_sources().items()}
    functions |= {item.name: ast.dump(item) for item in ast.parse(TAIL).body if isinstance(item, ast.FunctionDef)}
    (net,) = ast.parse(BODY).body
    assert isinstance(net, ast.ClassDef)
    return imports, functions, [ast.dump(item) for item in net.body]


def _refuse(what: str, node: ast.AST | None = None) -> InvalidModel:
    line = getattr(node, "lineno", None)
    return InvalidModel(what, where=f"line {line}" if line else "")


class _Source:
    """The parts of one file."""

    def __init__(self, tree: ast.Module) -> None:
        imports, functions, methods = _boilerplate()
        self.tables: dict[str, Any] = {}
        self.helpers: set[str] = set()
        forward: ast.FunctionDef | None = None
        seen_imports: list[str] = []
        for item in tree.body[1:]:
            if isinstance(item, ast.Import | ast.ImportFrom):
                seen_imports.append(ast.dump(item))
            elif isinstance(item, ast.Assign):
                self._table(item)
            elif isinstance(item, ast.FunctionDef) and functions.get(item.name) == ast.dump(item):
                self.helpers.add(item.name)
            elif isinstance(item, ast.ClassDef) and forward is None:
                forward = self._net(item, methods)
            else:
                raise _refuse("a statement that anyir does not write", item)
        if seen_imports != imports or forward is None or set(self.tables) != {"WEIGHTS", "INPUTS", "OUTPUTS", "SIZES"}:
            raise _refuse("imports, tables or the class Net are missing or changed")
        self.forward = forward

    def _table(self, item: ast.Assign) -> None:
        (target, *more) = item.targets
        if more or not isinstance(target, ast.Name) or target.id in self.tables:
            raise _refuse("an assignment that anyir does not write", item)
        try:
            self.tables[target.id] = ast.literal_eval(item.value)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            raise _refuse(f"the table {clean(target.id)} is no literal", item) from None

    @staticmethod
    def _net(item: ast.ClassDef, methods: list[str]) -> ast.FunctionDef:
        *known, forward = item.body
        plain = (
            item.name == "Net"
            and len(item.bases) == 1
            and ast.dump(item.bases[0]) == ast.dump(ast.parse("nn.Module", mode="eval").body)
        )
        if not plain or item.keywords or item.decorator_list or [ast.dump(m) for m in known] != methods:
            raise _refuse("the class Net is not as anyir writes it", item)
        if not isinstance(forward, ast.FunctionDef) or forward.name != "forward" or forward.decorator_list:
            raise _refuse("Net has no forward", item)
        return forward

    def strings(self, table: str) -> tuple[str, ...]:
        found = self.tables[table]
        if (
            not isinstance(found, tuple)
            or not all(isinstance(name, str) for name in found)
            or len(set(found)) != len(found)
        ):
            raise _refuse(f"{table} must be a tuple of different strings")
        return found

    @property
    def outputs(self) -> tuple[str, ...]:
        return self.strings("OUTPUTS")

    def program(self, stored: dict[str, Any]) -> Exported:
        body = _Forward(self.helpers)
        specs, weights = self._weights(body, stored)
        inputs = self.strings("INPUTS")
        users = body.arguments(self.forward)
        if len(users) != len(inputs):
            raise _refuse(f"INPUTS has {len(inputs)} names for {len(users)} arguments", self.forward)
        results, tree = body.run(self.forward.body)
        graph = ExportedGraph([s.arg for s in specs] + users, results, body.nodes, body.tensors, body.symbols)
        return Exported(
            graph=graph,
            inputs=specs + [InputSpec("user", ref) for ref in users],
            outputs=[OutputSpec("user", ref) for ref in results],
            in_tree=Tree("tuple", (), (Tree("tuple", (), (LEAF,) * len(users)), Tree("dict"))),
            out_tree=tree,
            arg_names=list(inputs),
            ranges={},
            weights=weights,
            producer="anyir",
            symbol_names={f"n{i}": name for i, name in enumerate(self.strings("SIZES"))},
        )

    def _weights(self, body: _Forward, stored: dict[str, Any]) -> tuple[list[InputSpec], dict[str, Payload]]:
        table = self.tables["WEIGHTS"]
        if not isinstance(table, tuple) or not all(isinstance(row, tuple) and len(row) == 2 for row in table):
            raise _refuse("WEIGHTS must be a tuple of (name, role)")
        specs, weights = [], {}
        for index, (name, role) in enumerate(table):
            tensor = stored.get(name) if isinstance(name, str) else None
            if tensor is None or not isinstance(role, str) or role not in _KINDS or name in weights:
                raise _refuse(
                    f"weight {clean(name)!r} is missing in the .safetensors file, listed twice, or has no role"
                )
            body.define(f"w[{index}]", TensorMeta(tensor.dtype, tuple(tensor.shape)))
            specs.append(InputSpec(_KINDS[role], Ref(f"w[{index}]"), name))
            weights[name] = Payload(tensor.numpy(), name, (tensor.file, tensor.offset))
        if set(stored) != set(weights):
            raise _refuse("the .safetensors file holds tensors that WEIGHTS does not list")
        return specs, weights


_OWN = re.compile(r"[xvtn][0-9]{1,9}", re.ASCII)
_TYPE = re.compile(r"([a-z0-9]+)\[(.*)\]", re.ASCII)


class _Forward:
    """The statements of forward as nodes."""

    def __init__(self, helpers: set[str]) -> None:
        self.helpers = helpers
        self.nodes: list[ExportedNode] = []
        self.tensors: dict[str, TensorMeta] = {}
        self.symbols: dict[str, Sym] = {}
        self.groups: dict[str, tuple[ExportedNode, dict[int, str]]] = {}
        self.sizes: set[str] = set()

    # Statements.

    def define(self, name: str, meta: TensorMeta) -> None:
        if name in self.tensors:
            raise _refuse(f"{name} is assigned twice")
        self.tensors[name] = meta

    def arguments(self, forward: ast.FunctionDef) -> list[Ref]:
        given = forward.args
        if given.posonlyargs or given.kwonlyargs or given.vararg or given.kwarg or given.defaults or not given.args:
            raise _refuse("forward takes plain arguments only", forward)
        refs = []
        for argument in given.args[1:]:
            self.define(self._own(argument.arg, "x", forward), self._type(argument.annotation, argument))
            refs.append(Ref(argument.arg))
        return refs

    def run(self, body: list[ast.stmt]) -> tuple[list[Any], Tree]:
        """The results and their nesting."""
        *statements, last = body
        if not isinstance(last, ast.Return) or last.value is None:
            raise _refuse("forward must end with return", last)
        for statement in statements:
            self._statement(statement)
        if len(self.nodes) > limit("items"):
            raise LimitExceeded("too many statements")
        for node, parts in self.groups.values():
            self._close(node, parts)
        return self._result(last.value)

    def _statement(self, statement: ast.stmt) -> None:
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and statement.value is not None
        ):
            name = self._own(statement.target.id, "v", statement)
            self.define(name, self._type(statement.annotation, statement))
            part = self._part(statement.value)
            if part is not None:
                group, index = part
                if index in self.groups[group][1]:
                    raise _refuse(f"{group}[{index}] is taken twice", statement)
                self.groups[group][1][index] = name
                return
            target, args = self._call(statement.value)
            self.nodes.append(ExportedNode(target, args, (name,), f"line {statement.lineno}"))
            return
        if (
            isinstance(statement, ast.Assign)
            and len(statement.targets) == 1
            and isinstance(statement.targets[0], ast.Name)
        ):
            self._assign(statement.targets[0].id, statement)
            return
        raise _refuse("a statement that anyir does not write", statement)

    def _assign(self, name: str, statement: ast.Assign) -> None:
        """`w = self.tensors()`, a size, or a group of results."""
        if name == "w" and ast.unparse(statement.value) == "self.tensors()":
            return
        self._own(name, "tn", statement)
        if name[0] == "n":
            self._size(name, statement)
            return
        target, args = self._call(statement.value)
        if name in self.groups:
            raise _refuse(f"{name} is assigned twice", statement)
        node = ExportedNode(target, args, (), f"line {statement.lineno}")
        self.nodes.append(node)
        self.groups[name] = node, {}

    def _close(self, node: ExportedNode, parts: dict[int, str]) -> None:
        names = tuple(parts.get(i) for i in range(max(parts, default=-1) + 1))
        node.outputs = (names,) if node.target.startswith("aten.split") else names  # type: ignore[assignment]

    def _part(self, value: ast.expr) -> tuple[str, int] | None:
        if isinstance(value, ast.Subscript) and isinstance(value.value, ast.Name) and value.value.id in self.groups:
            index = value.slice.value if isinstance(value.slice, ast.Constant) else None
            if not isinstance(index, int) or not 0 <= index < limit("items"):
                raise _refuse("a result is named by a number", value)
            return value.value.id, index
        return None

    def _size(self, name: str, statement: ast.Assign) -> None:
        """`n0 = (x0.shape[1] - b) // a`, which must be what x0's declared shape says."""
        value, factor, offset = statement.value, 1, 0
        if isinstance(value, ast.BinOp) and isinstance(value.op, ast.FloorDiv):
            factor, value = self._plain_int(value.right), value.left
        if isinstance(value, ast.BinOp) and isinstance(value.op, ast.Add | ast.Sub):
            offset = self._plain_int(value.right) * (1 if isinstance(value.op, ast.Sub) else -1)
            value = value.left
        found = re.fullmatch(r"([xv][0-9]+)\.shape\[([0-9]{1,3})\]", ast.unparse(value))
        meta = self.tensors.get(found[1]) if found else None
        if found is None or meta is None or int(found[2]) >= len(meta.shape) or name in self.sizes:
            raise _refuse(f"{name} is no size of an earlier value", statement)
        wanted: Sym = name if factor == 1 else ("mul", factor, name)
        wanted = ("add", wanted, offset) if offset else wanted
        if not _same(meta.shape[int(found[2])], wanted):
            raise _refuse(f"{name} contradicts the declared shape of {found[1]}", statement)
        self.sizes.add(name)

    def _plain_int(self, node: ast.expr) -> int:
        if isinstance(node, ast.Constant) and type(node.value) is int and 0 < node.value < 1 << 63:
            return node.value
        raise _refuse("a positive number is expected", node)

    @staticmethod
    def _own(name: str, kinds: str, node: ast.AST) -> str:
        if not _OWN.fullmatch(name) or name[0] not in kinds:
            raise _refuse(f"{clean(name)!r} is no name that anyir gives", node)
        return name

    def _type(self, annotation: ast.expr | None, node: ast.AST) -> TensorMeta:
        text = annotation.value if isinstance(annotation, ast.Constant) else None
        found = _TYPE.fullmatch(text) if isinstance(text, str) else None
        if found is None:
            raise _refuse('a type such as "f32[n0, 3]" is expected', node)
        dims = [part for part in _split(found[2]) if part]
        if len(dims) > limit("rank"):
            raise LimitExceeded(f"tensor of rank {len(dims)}")
        return TensorMeta(dtype_of(found[1]), tuple(parse_symbolic(part) for part in dims))

    # Results.

    def _result(self, value: ast.expr) -> tuple[list[Any], Tree]:
        refs: list[Any] = []

        def walk(node: ast.expr) -> Tree:  # nesting is bounded by that of the brackets
            if isinstance(node, ast.Tuple):
                return Tree("tuple", (), tuple(map(walk, node.elts)))
            if isinstance(node, ast.Dict):
                keys = tuple(k.value for k in node.keys if isinstance(k, ast.Constant) and isinstance(k.value, str))
                if len(keys) != len(node.values) or len(set(keys)) != len(keys):
                    raise _refuse("a dict of results needs different strings for keys", node)
                return Tree("dict", keys, tuple(map(walk, node.values)))
            refs.append(self._tensor(node))
            return LEAF

        return refs, walk(value)

    def _tensor(self, node: ast.expr) -> Ref:
        name = ast.unparse(node) if isinstance(node, ast.Name | ast.Subscript) else ""
        if name not in self.tensors:
            raise _refuse("a value that is not defined", node)
        return Ref(name)

    # Expressions.

    def _call(self, value: ast.expr) -> tuple[str, dict[str, Any]]:
        """Target and arguments of one call, infix operation or indexing."""
        if isinstance(value, ast.BinOp) and type(value.op) in _INFIX:
            return _INFIX[type(value.op)], {"self": self._argument(value.left), "other": self._argument(value.right)}
        if isinstance(value, ast.Compare) and len(value.ops) == 1 and type(value.ops[0]) in _INFIX:
            target = _INFIX[type(value.ops[0])]
            return target, {"self": self._argument(value.left), "other": self._argument(value.comparators[0])}
        if isinstance(value, ast.Subscript):
            return self._indexing(value)
        if isinstance(value, ast.Call):
            return self._function(value)
        raise _refuse("an expression that anyir does not write", value)

    def _function(self, value: ast.Call) -> tuple[str, dict[str, Any]]:
        name = ast.unparse(value.func) if isinstance(value.func, ast.Name | ast.Attribute) else ""
        args = [self._argument(arg) for arg in value.args]
        if (
            isinstance(value.func, ast.Attribute)
            and value.func.attr in ("to", "view")
            and not name.startswith(("torch.", "F."))
        ):
            args.insert(0, self._tensor(value.func.value))
            target = "aten.to" if value.func.attr == "to" else "aten.view.dtype"
            names: tuple[str, ...] = ("self", "dtype")
        else:
            target = self._target(name, value)
            names = _ORDER.get(name) or self._parameters(target, value)
        if name == "torch.einsum":
            args = [args[0], tuple(args[1:])]
        if len(args) > len(names):
            raise _refuse(f"{clean(name)} takes {len(names)} arguments", value)
        bound = dict(zip(names, args, strict=False))
        for keyword in value.keywords:
            if keyword.arg is None or keyword.arg in bound:
                raise _refuse("an argument is given twice", value)
            bound[keyword.arg] = self._argument(keyword.value)
        return target, bound

    def _target(self, name: str, node: ast.AST) -> str:
        if name in self.helpers:
            return f"anyir.{name}"
        if name in _TARGETS:
            return _TARGETS[name]
        if re.fullmatch(r"(torch|F)\.[a-z_0-9]+", name, re.ASCII):
            return f"aten.{name.partition('.')[2]}"
        raise _refuse(f"{clean(name)!r} is no function that anyir writes", node)

    def _parameters(self, target: str, node: ast.AST) -> tuple[str, ...]:
        from . import handlers  # noqa: F401

        entry = find(target)
        if entry is None:
            raise _refuse(f"no handler for {clean(target)}", node)
        return tuple(entry.parameters)

    def _indexing(self, value: ast.Subscript) -> tuple[str, dict[str, Any]]:
        x = self._tensor(value.value)
        items = value.slice.elts if isinstance(value.slice, ast.Tuple) else [value.slice]
        last = items[-1]
        if not isinstance(last, ast.Slice):
            if any(not isinstance(item, ast.Slice) or item.lower or item.upper or item.step for item in items[:-1]):
                raise _refuse("indexing that anyir does not write", value)
            return "anyir.item", {"x": x, "index": self._argument(last), "axis": len(items) - 1}
        if not all(isinstance(item, ast.Slice) for item in items):
            raise _refuse("indexing that anyir does not write", value)
        columns = [("starts", "lower", 0), ("ends", "upper", END), ("steps", "step", 1)]
        args: dict[str, Any] = {"x": x}
        for name, field, default in columns:
            parts = [getattr(item, field) for item in items]
            args[name] = tuple(default if part is None else self._argument(part) for part in parts)
        return "anyir.slice", args

    def _argument(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Tuple):
            return tuple(map(self._argument, node.elts))
        if isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, bool | int | float | str)):
            return node.value
        text = ast.unparse(node) if isinstance(node, ast.Attribute | ast.Name | ast.Subscript) else ""
        if text in self.tensors:
            return Ref(text)
        if text.startswith("torch."):
            return self._torch_constant(text.removeprefix("torch."), node)
        if re.fullmatch(r"x[0-9]+\.device", text):
            return None
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            inner = self._argument(node.operand)
            if isinstance(inner, int | float) and not isinstance(inner, bool):
                return -inner
        return self._size_argument(node)

    def _torch_constant(self, name: str, node: ast.AST) -> Any:
        if name in ("inf", "nan"):
            return float(name)
        if name in TORCH_NAMES:
            return TORCH_NAMES[name]
        raise _refuse(f"torch.{clean(name)} is no constant that anyir writes", node)

    def _size_argument(self, node: ast.expr) -> Ref:
        """An expression of sizes, as a symbolic value of its own."""
        tree = self._tree(node)
        name = f"size_{len(self.symbols)}"
        self.symbols[name] = tree
        return Ref(name, "int")

    def _tree(self, node: ast.expr) -> Sym:  # nesting is bounded by that of brackets and by the statement's length
        if isinstance(node, ast.Constant) and type(node.value) is int:
            return node.value
        if isinstance(node, ast.Name) and node.id in self.sizes:
            return node.id
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return ("mul", -1, self._tree(node.operand))
        if isinstance(node, ast.BinOp) and type(node.op) in _SIZES:
            left, right = self._tree(node.left), self._tree(node.right)
            name = _SIZES[type(node.op)]
            return ("add", left, ("mul", -1, right)) if name == "sub" else (name, left, right)
        if (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) in ("torch.sym_min", "torch.sym_max")
            and len(node.args) == 2
        ):
            return ("min" if "min" in ast.unparse(node.func) else "max", *map(self._tree, node.args))
        raise _refuse("an expression that anyir does not write", node)


def _split(text: str) -> list[str]:
    """Comma-separated parts outside of parentheses."""
    parts, depth, start = [], 0, 0
    for i, mark in enumerate(text):
        depth += (mark == "(") - (mark == ")")
        if mark == "," and depth == 0:
            parts.append(text[start:i].strip())
            start = i + 1
    return [*parts, text[start:].strip()]


def _same(a: Sym, b: Sym) -> bool:
    """Both trees are the same dim."""
    from .symbols import Symbols

    symbols = Symbols({})
    return symbols.dim(a) == symbols.dim(b)
