"""Reading `.pt2` archives (torch.export.save) without torch.

A `.pt2` is a zip with the graph as JSON and the weights as raw bytes. Pickled parts are never touched: sample inputs are
ignored, a pickled weight is refused, guards are not run. Every declared size is compared with the bytes that are there,
every value must be defined once and before its use. Result: `exported.Exported`. Must not import torch or IR graphs.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from ..ir.archive import Archive, parse_json
from ..ir.errors import AnyIRError, InvalidModel, LimitExceeded, Unsupported, clean
from ..ir.storage import MappedFile, limit
from .exported import (
    LEAF,
    SCALAR_TYPES,
    Exported,
    ExportedGraph,
    ExportedNode,
    InputSpec,
    OutputSpec,
    Payload,
    Ref,
    TensorMeta,
    Tree,
    refs,
)
from .pt2_symbols import Sym, parse_symbolic

SCHEMA_MAJOR = 8
NEWEST_ATEN = 10
STRIDED = 7  # torch._export.serde.schema.Layout
#: The file in an archive that says where a compressed model comes from.
NOTES = "anyir.json"
SAVE_AGAIN = "save it with torch.export.save of torch 2.8 or newer"


# ------------------------------------------------------------------------------------------------ JSON access


def _field(obj: Any, key: str, kind: type | tuple[type, ...], default: Any = ...) -> Any:
    """`obj[key]`, which must be of `kind` (a bool is no int). A missing key without `default` is an error."""
    if not isinstance(obj, dict):
        raise InvalidModel(f"{type(obj).__name__} where an object with {key!r} was expected")
    value = obj.get(key, default)
    if value is ...:
        raise InvalidModel(f"{key!r} is missing")
    return _typed(value, kind, key) if value is not default else value


def _typed(value: Any, kind: type | tuple[type, ...], what: str) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind in (int, (int, float))):
        names = kind.__name__ if isinstance(kind, type) else " or ".join(k.__name__ for k in kind)
        raise InvalidModel(f"{what!r} is a {type(value).__name__}, {names} expected")
    return value


def _union(obj: Any, what: str) -> tuple[str, Any]:
    """The tag and value of a tagged union: an object with exactly one key."""
    if not isinstance(obj, dict) or len(obj) != 1:
        raise InvalidModel(f"{what} must be an object with one key")
    return next(iter(obj.items()))


# -------------------------------------------------------------------------------------------------- arguments


def _scalar_type(value: Any) -> Any:
    found = SCALAR_TYPES.get(_typed(value, int, "dtype"))
    if found is None:
        raise Unsupported(f"torch dtype number {value} is not known")
    return found


def _float(value: Any) -> float:
    """A float; torch writes the three that JSON lacks as strings."""
    if isinstance(value, str):
        if value not in ("Infinity", "-Infinity", "NaN"):
            raise InvalidModel(f"{clean(value)!r} is not a float")
        return float(value)
    try:
        return float(_typed(value, (int, float), "float"))
    except OverflowError as exc:
        raise InvalidModel("a float out of range") from exc


def _int(value: Any) -> int:
    if not -(1 << 63) <= _typed(value, int, "int") < 1 << 64:
        raise InvalidModel(f"integer {clean(value, 40)} does not fit 64 bits")
    return value


def _layout(value: Any) -> None:
    if value != STRIDED:
        raise Unsupported(f"tensor layout {clean(value)} (only dense strided tensors are supported)")


def _tensor(value: Any) -> Ref:
    return Ref(_field(value, "name", str))


def _symbolic(kind: str, number: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Reads a SymInt-like argument: the name of a symbolic value, or a plain number."""

    def read(value: Any) -> Any:
        tag, inner = _union(value, f"symbolic {kind}")
        return Ref(_typed(inner, str, tag), kind) if tag == "as_name" else number(inner)

    return read


def _many(one: Callable[[Any], Any]) -> Callable[[Any], tuple]:
    return lambda value: tuple(one(item) for item in _typed(value, list, "list"))


def _optional_tensor(value: Any) -> Ref | None:
    tag, inner = _union(value, "optional tensor")
    return None if tag == "as_none" else _tensor(inner)


def _bool(value: Any) -> bool:
    return _typed(value, bool, "bool")


def _str(value: Any) -> str:
    return _typed(value, str, "string")


def _nothing(value: Any) -> None:
    return None


_sym_int, _sym_bool, _sym_float = _symbolic("int", _int), _symbolic("bool", _bool), _symbolic("float", _float)
_ARGUMENTS: dict[str, Callable[[Any], Any]] = {
    "as_none": _nothing, "as_tensor": _tensor, "as_tensors": _many(_tensor), "as_optional_tensor": _optional_tensor,
    "as_optional_tensors": _many(_optional_tensor), "as_nested_tensors": _many(_many(_tensor)),
    "as_int": _int, "as_ints": _many(_int), "as_int_lists": _many(_many(_int)), "as_float": _float,
    "as_floats": _many(_float), "as_float_lists": _many(_many(_float)), "as_string": _str, "as_strings": _many(_str),
    "as_bool": _bool, "as_bools": _many(_bool), "as_sym_int": _sym_int, "as_sym_ints": _many(_sym_int),
    "as_sym_bool": _sym_bool, "as_sym_bools": _many(_sym_bool), "as_sym_float": _sym_float,
    "as_sym_floats": _many(_sym_float), "as_scalar_type": _scalar_type, "as_layout": _layout,
    "as_memory_format": _nothing, "as_device": _nothing,
    "as_complex": lambda value: complex(_float(_field(value, "real", object)), _float(_field(value, "imag", object))),
}  # fmt: skip


def _argument(obj: Any) -> Any:
    tag, value = _union(obj, "argument")
    if tag == "as_graph":
        return _graph(_field(value, "graph", dict))
    decode = _ARGUMENTS.get(tag)
    if decode is None:
        raise Unsupported(f"argument of the kind {clean(tag)!r}")
    return decode(value)


def _dim(obj: Any) -> Sym:
    tag, value = _union(obj, "dimension")
    if tag == "as_int":
        size = _int(value)
        if size < 0:
            raise InvalidModel(f"negative dimension {size}")
        return size
    return parse_symbolic(_field(value, "expr_str", str))


def _meta(obj: Any) -> TensorMeta:
    _layout(_field(obj, "layout", int))
    shape = tuple(_dim(size) for size in _field(obj, "sizes", list))
    if len(shape) > limit("rank"):
        raise LimitExceeded(f"tensor of rank {len(shape)}")
    return TensorMeta(_scalar_type(_field(obj, "dtype", int)), shape)


# ------------------------------------------------------------------------------------------------------ graph


def _graph(obj: dict) -> ExportedGraph:
    """A graph and, through its arguments, its subgraphs (their depth is bounded by that of the JSON)."""
    tensors = {
        name: _located(_meta, meta, f"tensor {name!r}") for name, meta in _field(obj, "tensor_values", dict).items()
    }
    symbols: dict[str, Sym] = {}
    for kind in ("sym_int_values", "sym_float_values"):
        for name, value in _field(obj, kind, dict, {}).items():
            symbols[name] = _located(_symbol, value, f"symbolic value {name!r}")
    if len(tensors) + len(symbols) > limit("items"):
        raise LimitExceeded("too many values in one graph")
    inputs = [_argument(item) for item in _field(obj, "inputs", list)]
    nodes = [_located(_node, item, f"node {i}") for i, item in enumerate(_field(obj, "nodes", list))]
    graph = ExportedGraph(inputs, [_argument(item) for item in _field(obj, "outputs", list)], nodes, tensors, symbols)
    _check_defined(graph)
    return graph


def _located(read: Callable[[Any], Any], obj: Any, where: str) -> Any:
    try:
        return read(obj)
    except AnyIRError as exc:
        raise exc.at(clean(where)) from None


def _symbol(obj: Any) -> Sym:
    tag, value = _union(obj, "symbolic value")
    if tag == "as_expr":
        return parse_symbolic(_field(value, "expr_str", str))
    return _float(value) if tag == "as_float" else _int(value)


def _node(obj: Any) -> ExportedNode:
    target = _field(obj, "target", str).removeprefix("torch.ops.")
    args: dict[str, Any] = {}
    for position, item in enumerate(_field(obj, "inputs", list)):
        name = _field(item, "name", str) or str(position)
        if name in args:
            raise InvalidModel(f"argument {clean(name)!r} of {clean(target)} is given twice")
        args[name] = _located(_argument, _field(item, "arg", dict), f"{target}({name})")
    outputs = tuple(_names(_argument(item)) for item in _field(obj, "outputs", list))
    metadata = _field(obj, "metadata", dict, {})
    scope, source = place_of(_field(metadata, "nn_module_stack", str, ""), _field(metadata, "stack_trace", str, ""))
    return ExportedNode(target, args, outputs, scope, source)


def _names(output: Any) -> str | tuple[str, ...] | None:
    """The names that an output argument defines."""
    if isinstance(output, Ref):
        return output.name
    if isinstance(output, tuple):
        return tuple(item.name for item in output if isinstance(item, Ref))
    return None


_TORCH_FILE = re.compile(r"(?:^|/)torch/(?:nn|fx|export|utils|autograd|ao|_[a-z]|functional\.py)")
_FRAME = re.compile(r'File "([^"\n]*)", line ([0-9]{1,9})', re.ASCII)


def place_of(module_stack: str, stack_trace: str) -> tuple[str, tuple[str, int] | None]:
    """Module path and source line of a node, from the two texts that torch records with it.

    The line is the innermost one outside torch itself; only the file's base name is kept, so that outputs made from
    the same model do not depend on where it lay.
    """
    last = module_stack.rsplit(";", 1)[-1].split(",")
    scope = last[1] if len(last) >= 3 and not last[1].startswith("_empty_nn_module") else ""
    frames = [frame for frame in _FRAME.findall(stack_trace[-65536:]) if not frame[0].startswith("<")]
    own = [frame for frame in frames if not _TORCH_FILE.search(frame[0])] or frames
    if not own:
        return scope, None
    return scope, (os.path.basename(own[-1][0]), int(own[-1][1]))


def _check_defined(graph: ExportedGraph) -> None:
    """Each value is defined once, before its uses, and has a type. Subgraphs are closed: they see their inputs only."""
    defined: set[str] = set()

    def define(name: str, where: str) -> None:
        if name in defined:
            raise InvalidModel(f"value {clean(name)!r} is defined twice", where=where)
        defined.add(name)

    for item in graph.inputs:
        for ref in refs(item):
            define(ref.name, "graph inputs")
            if ref.kind == "tensor" and ref.name not in graph.tensors:
                raise InvalidModel(f"input {clean(ref.name)!r} has no entry in tensor_values")
    for index, node in enumerate(graph.nodes):
        where = f"node {index} ({clean(node.target)})"
        for ref in refs(tuple(node.args.values())):
            if ref.name not in defined:
                raise InvalidModel(f"uses {clean(ref.name)!r}, which is not defined before it", where=where)
        for output in node.outputs:
            for name in output if isinstance(output, tuple) else (output,):
                if name is not None:
                    define(name, where)
    for ref in refs(tuple(graph.outputs)):
        if ref.name not in defined:
            raise InvalidModel(f"output {clean(ref.name)!r} is not defined")


# -------------------------------------------------------------------------------------------------- signature

_TENSOR_INPUTS = {"parameter": "parameter_name", "buffer": "buffer_name", "tensor_constant": "tensor_constant_name"}
_KINDS = {"tensor_constant": "constant"}
_MUTATIONS = {
    "buffer_mutation": "buffer_name", "parameter_mutation": "parameter_name", "user_input_mutation": "user_input_name",
}  # fmt: skip


def _input_spec(obj: Any) -> InputSpec:
    tag, spec = _union(obj, "input spec")
    if tag == "user_input":
        return InputSpec("user", _argument(_field(spec, "arg", dict)))
    if tag in _TENSOR_INPUTS:
        return InputSpec(
            _KINDS.get(tag, tag), _tensor(_field(spec, "arg", dict)), _field(spec, _TENSOR_INPUTS[tag], str)
        )
    if tag == "constant_input":
        return InputSpec("literal", _argument(_field(spec, "value", dict)), _field(spec, "name", str))
    raise Unsupported(f"graph input of the kind {clean(tag)!r}")


def _output_spec(obj: Any) -> OutputSpec:
    tag, spec = _union(obj, "output spec")
    if tag == "user_output":
        return OutputSpec("user", _argument(_field(spec, "arg", dict)))
    if tag in _MUTATIONS:
        return OutputSpec(tag, _tensor(_field(spec, "arg", dict)), _field(spec, _MUTATIONS[tag], str))
    raise Unsupported(f"graph output of the kind {clean(tag)!r}")


_TREES = {
    "builtins.tuple": "tuple",
    "builtins.list": "list",
    "builtins.dict": "dict",
    "collections.OrderedDict": "dict",
}


def _tree(text: str) -> Tree:
    """A pytree spec from its JSON text `[1, {"type", "context", "children_spec"}]`; depth is bounded by the JSON's."""
    data = parse_json(text.encode("utf-8", "surrogatepass"), where="pytree spec")
    if not isinstance(data, list) or len(data) != 2 or data[0] != 1:
        raise Unsupported("pytree spec of an unknown version")
    return _tree_node(data[1])


def _tree_node(obj: Any) -> Tree:
    kind = _field(obj, "type", (str, type(None)))
    children = tuple(_tree_node(child) for child in _field(obj, "children_spec", list))
    if kind is None:
        return LEAF
    shape = _TREES.get(kind)
    if shape in ("tuple", "list"):
        return Tree(shape, (), children)
    keys = _context_keys(_field(obj, "context", object))
    if keys is not None and len(keys) == len(children):
        return Tree("dict", keys, children)
    if shape == "dict":
        raise InvalidModel("pytree spec: a dict whose keys do not fit its children")
    return Tree("tuple", (), children)


def _context_keys(context: Any) -> tuple[str, ...] | None:
    """The keys of a dict-like node; its context is a list of strings, written as JSON inside the JSON."""
    if isinstance(context, str):
        context = parse_json(context.encode("utf-8", "surrogatepass"), where="pytree context")
    if isinstance(context, list) and all(isinstance(key, str | int) for key in context):
        return tuple(str(key) for key in context)
    return None


# ---------------------------------------------------------------------------------------------------- weights


def _payload(obj: Any, archive: _Archive, folder: str) -> Payload:
    """One weight as a view of the archive's bytes. Offset, sizes and strides are checked against them in Python ints."""
    if _field(obj, "use_pickle", bool):
        raise Unsupported("is stored as a pickle, which is never opened", hint="keep only plain tensors in the module")
    path = _field(obj, "path_name", str)
    meta = _field(obj, "tensor_meta", dict)
    _layout(_field(meta, "layout", int))
    dtype = _scalar_type(_field(meta, "dtype", int))
    sizes = [_static(item, "size") for item in _field(meta, "sizes", list)]
    strides = [_static(item, "stride") for item in _field(meta, "strides", list)]
    offset = _static(_field(meta, "storage_offset", dict), "storage offset")
    if len(sizes) != len(strides) or len(sizes) > min(limit("rank"), 64):
        raise InvalidModel(f"{len(sizes)} sizes and {len(strides)} strides")
    raw = archive.payload(folder, path)
    item = dtype.numpy.itemsize
    count = math.prod(sizes)
    last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    if count and (last + 1) * item > len(raw):
        raise InvalidModel(f"needs {(last + 1) * item} bytes of {clean(path)!r}, which has {len(raw)}")
    if count * item > max(len(raw), limit("zip_free_bytes")):
        raise LimitExceeded(f"{count * item} bytes out of {len(raw)} stored ones")
    key = (folder, path, dtype, tuple(sizes), tuple(strides), offset)
    if not count:
        return Payload(np.zeros(_bounded(sizes), dtype.numpy), key)
    flat = np.frombuffer(raw, np.uint8, count=(last + 1 - offset) * item, offset=offset * item)
    flat = flat.view(dtype.numpy) if flat.ctypes.data % item == 0 else flat.copy().view(dtype.numpy)
    view = np.lib.stride_tricks.as_strided(flat, sizes, [stride * item for stride in strides], writeable=False)
    span = archive.span(folder, path, offset * item) if view.flags.c_contiguous else None
    return Payload(view, key, span)


def _bounded(sizes: list[int]) -> list[int]:
    if any(size >= 1 << 31 for size in sizes):
        raise LimitExceeded(f"shape {sizes}")
    return sizes


def _static(obj: Any, what: str) -> int:
    tag, value = _union(obj, what)
    if tag != "as_int" or not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 63:
        raise InvalidModel(f"{what} of a stored tensor must be an int >= 0, not {clean(value)!r}")
    return value


# ---------------------------------------------------------------------------------------------------- archive


class _Archive:
    """The members of one archive below its top folder."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.zip = Archive(path)
        graphs = [name for name in self.zip.names if re.fullmatch(r"([^/]+/)?models/[^/]+\.json", name)]
        if not graphs:
            raise Unsupported(
                "no models/*.json in the archive: not a .pt2 that torch.export.save wrote", hint=SAVE_AGAIN
            )
        if len(graphs) > 1:
            raise Unsupported(f"the archive holds {len(graphs)} models", hint="save one program per file")
        self.root, _, name = graphs[0].rpartition("models/")
        self.model = name.removesuffix(".json")

    def text(self, name: str) -> str:
        return bytes(self.zip.read(self.root + name)[:64]).decode("ascii", "replace").strip()

    def json(self, name: str) -> dict:
        data = self.zip.read(self.root + name, "json_bytes")
        return _typed(parse_json(data, where=name), dict, name)

    def notes(self) -> dict[str, str]:
        """What our writer has noted in a file of its own; nothing where there is none, or one of another form."""
        name = f"extra/{NOTES}"
        found = self.json(name) if self.root + name in self.zip.members else {}
        return {key: text for key, text in found.items() if isinstance(text, str)}

    def weights(self, folder: str, kind: str) -> dict[str, Payload]:
        """The tensors of `data/weights` or `data/constants`, by name."""
        name = f"data/{folder}/{self.model}_{kind}_config.json"
        entries = _field(self.json(name), "config", dict).items()
        return {
            key: _located(lambda obj: _payload(obj, self, folder), entry, f"{name}: {key!r}") for key, entry in entries
        }

    def _plain(self, folder: str, path: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,200}", path, re.ASCII) or path in (".", ".."):
            raise InvalidModel(f"path_name {clean(path)!r} is not a plain member name")
        return f"{self.root}data/{folder}/{path}"

    def payload(self, folder: str, path: str) -> memoryview:
        return self.zip.read(self._plain(folder, path))

    def span(self, folder: str, path: str, offset: int) -> tuple[MappedFile, int] | None:
        """Where a stored member's bytes from `offset` on lie in the file; None when they are compressed."""
        name = self._plain(folder, path)
        if self.zip.member(name).deflated:
            return None
        file, start, _ = self.zip.span(name)
        return file, start + offset


def read_pt2(path: str | os.PathLike[str]) -> Exported:
    """The program in a `.pt2` file. Raises InvalidModel, Unsupported, LimitExceeded or SystemFailure, nothing else."""
    try:
        return _read(_Archive(path))
    except AnyIRError as exc:
        raise (exc if os.fspath(path) in exc.where else exc.at(clean(os.fspath(path)))) from None


def _read(archive: _Archive) -> Exported:
    for name, wanted in (("archive_format", "pt2"), ("archive_version", "0"), ("byteorder", "little")):
        if archive.text(name) != wanted:
            raise Unsupported(f"{name} is {clean(archive.text(name))!r} ({wanted!r} expected)", hint=SAVE_AGAIN)
    name = f"models/{archive.model}.json"
    program = _located(_program, archive.json(name), name)
    program.notes = archive.notes()
    program.weights = {**archive.weights("weights", "weights"), **archive.weights("constants", "constants")}
    return program


def _program(data: dict) -> Exported:
    major = _field(_field(data, "schema_version", dict), "major", int)
    if major != SCHEMA_MAJOR:
        raise Unsupported(f"schema version {major} (this reader knows {SCHEMA_MAJOR})", hint=SAVE_AGAIN)
    for domain, version in _field(data, "opset_version", dict).items():
        if domain == "aten" and _typed(version, int, "opset version") > NEWEST_ATEN:
            raise Unsupported(f"aten opset {version} is newer than {NEWEST_ATEN}")
    module = _field(data, "graph_module", dict)
    signature = _field(module, "signature", dict)
    call: dict = next((c for c in _field(module, "module_call_graph", list) if _field(c, "fqn", str) == ""), {})
    shape = _field(call, "signature", dict, None) or {}
    program = Exported(
        graph=_located(_graph, _field(module, "graph", dict), "graph"),
        inputs=[_located(_input_spec, item, "signature") for item in _field(signature, "input_specs", list)],
        outputs=[_located(_output_spec, item, "signature") for item in _field(signature, "output_specs", list)],
        in_tree=_tree(shape["in_spec"]) if isinstance(shape.get("in_spec"), str) else None,
        out_tree=_tree(shape["out_spec"]) if isinstance(shape.get("out_spec"), str) else None,
        arg_names=list(_many(_str)(shape.get("forward_arg_names") or [])),
        ranges={name: _range(value) for name, value in _field(data, "range_constraints", dict).items()},
        weights={},
        producer="torch " + clean(_field(data, "torch_version", str, "")),
    )
    _check_signature(program)
    return program


def _range(obj: Any) -> tuple[int | None, int | None]:
    low, high = (_field(obj, key, (int, type(None)), None) for key in ("min_val", "max_val"))
    if low is not None and high is not None and low > high:
        raise InvalidModel(f"range constraint {low}..{high} is empty")
    return low, high


def _check_signature(program: Exported) -> None:
    """Specs describe the graph's inputs and outputs one for one."""
    graph = program.graph
    for specs, values, what in ((program.inputs, graph.inputs, "inputs"), (program.outputs, graph.outputs, "outputs")):
        if [spec.arg for spec in specs if spec.kind != "literal"] != [
            v for v in values if isinstance(v, Ref) or what == "outputs"
        ]:
            raise InvalidModel(f"the signature does not describe the graph's {what}")
