"""ai.onnx.ml: labels, maps and support vector machines, whose parameters are attributes there."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...formats.onnx import schemas
from ...ir.graph import Module, Node, Value
from ...ir.tensor import as_tensor
from ...ir.types import F16, F32, F64, I64, STRING
from .emitter import Emitter, Ref, Temp
from .registry import emits

DOMAIN = "ai.onnx.ml"

CASTS = {F32: "TO_FLOAT", I64: "TO_INT64", STRING: "TO_STRING"}
#: The suffix of attributes that hold entries of a dtype, and of their default.
SUFFIXES = {STRING: ("strings", "string"), I64: ("int64s", "int64"), F32: ("floats", "float")}


def settle_version(module: Module) -> None:
    """Choose the domain's version for a module that is about to be written: its own, or the newest where it has none or
    needs what only version 5 has."""
    key = f"opset.{DOMAIN}"
    newest = schemas.newest(DOMAIN)
    own = module.metadata.get(key, "")
    version = min(int(own), newest) if own.isdigit() else newest
    for node in module.all_nodes():
        if node.name == "tree_ensemble" and version < 5:
            member = len(node.operands) > 11 and node.operands[11] is not None
            version = 5 if member or node.result.dtype in (F16, F64) else version
        elif node.name == "label_encoder" and version < 4:
            wide = {v.dtype for v in node.inputs()} - set(SUFFIXES)
            version = 4 if wide else version
    module.metadata[key] = str(version)


def version_of(n: Node) -> int:
    """The domain's version in the file that the node goes to."""
    module = n.graph.module if n.graph is not None else None
    own = module.metadata.get(f"opset.{DOMAIN}", "") if module is not None else ""
    return int(own) if own.isdigit() else schemas.newest(DOMAIN)


def ml_node(e: Emitter, n: Node, op_type: str, inputs: list[Ref], **attrs: Any) -> None:
    """An operator of the domain that yields the node's results, all of them: runtimes write into each."""
    spare: list[Value | Temp | None] = [v if v.n_uses else Temp(v.dtype, op_type.lower()) for v in n.results]
    if all(isinstance(v, Temp) for v in spare):
        spare = list(n.results)
    e.node(op_type, inputs, outputs=spare, domain=DOMAIN, version=version_of(n), **attrs)


def fixed(e: Emitter, value: Value | None, what: str) -> np.ndarray:
    """The elements of an operand that is an attribute in ONNX."""
    if value is None or not value.is_const:
        raise e.refuse(f"{what} must be constant")
    return value.array()


def _labels(prefix: str, array: np.ndarray, ints: str = "int64s") -> dict[str, list]:
    """Labels as the attribute of their type."""
    return {f"{prefix}_{'strings' if array.dtype == object else ints}": array.reshape(-1).tolist()}


@emits("label_encoder")
def label_encoder(e: Emitter, n: Node) -> None:
    """Of equal keys only the one that counts is written. Version 1 has the operator for texts and integers only."""
    x, *parameters = n.operands
    keys, values = (fixed(e, v, "a label") for v in parameters[:2])
    default = fixed(e, parameters[2], "a default label")
    last = np.sort(len(keys) - 1 - _first_of_each(keys[::-1]))
    keys, values, version = keys[last], values[last], version_of(n)
    kinds = [v.dtype for v in parameters[:2]]  # type: ignore[union-attr]
    if version < 2:
        _category_mapper(e, n, keys, values, default)
        return
    attrs: dict[str, Any] = {}
    for which, array, dtype in zip(("keys", "values"), (keys, values), kinds, strict=True):
        if dtype in SUFFIXES and len(array):
            attrs[f"{which}_{SUFFIXES[dtype][0]}"] = array.tolist()
        else:
            attrs[f"{which}_tensor"] = as_tensor(array, dtype)  # type: ignore[arg-type]
    if "values_tensor" in attrs:
        attrs["default_tensor"] = as_tensor(default.reshape(1), kinds[1])  # type: ignore[arg-type]
    else:
        attrs[f"default_{SUFFIXES[kinds[1]][1]}"] = default.item()  # type: ignore[index]
    ml_node(e, n, "LabelEncoder", [x], **attrs)


def _category_mapper(e: Emitter, n: Node, keys: np.ndarray, values: np.ndarray, default: np.ndarray) -> None:
    kinds = {keys.dtype.kind, values.dtype.kind}
    if kinds != {"O", "i"}:
        raise e.refuse("LabelEncoder of version 1 maps between strings and integers only")
    words, numbers = (keys, values) if keys.dtype == object else (values, keys)
    name = "default_int64" if keys.dtype == object else "default_string"
    attrs = {"cats_strings": words.tolist() or None, "cats_int64s": numbers.tolist() or None, name: default.item()}
    ml_node(e, n, "CategoryMapper", [n.operands[0]], **attrs)


def _first_of_each(array: np.ndarray) -> np.ndarray:
    """Positions of the first of each set of equal elements; NaNs are equal."""
    if array.dtype == object:
        found: dict[str, int] = {}
        for i, item in enumerate(array.tolist()):
            found.setdefault(item, i)
        return np.asarray(list(found.values()), np.int64)
    return np.unique(array, return_index=True)[1]


@emits("one_hot_encoder")
def one_hot_encoder(e: Emitter, n: Node) -> None:
    x, cats = n.operands
    ml_node(e, n, "OneHotEncoder", [x], zeros=0, **_labels("cats", fixed(e, cats, "categories")))


@emits("zip_map")
def zip_map(e: Emitter, n: Node) -> None:
    x, keys = n.operands
    ml_node(e, n, "ZipMap", [x], **_labels("classlabels", fixed(e, keys, "keys")))


@emits("cast_map")
def cast_map(e: Emitter, n: Node) -> None:
    size = n.attr("size")
    form = {"map_form": "DENSE"} if size is None else {"map_form": "SPARSE", "max_map": size}
    ml_node(e, n, "CastMap", list(n.operands), cast_to=CASTS[n.attr("to")], **form)


@emits("dict_vectorizer")
def dict_vectorizer(e: Emitter, n: Node) -> None:
    x, words = n.operands
    array = fixed(e, words, "the vocabulary")
    name = "string_vocabulary" if array.dtype == object else "int64_vocabulary"
    ml_node(e, n, "DictVectorizer", [x], **{name: array.tolist()})


# ------------------------------------------------------------------------------------------- support vector machines


def _machine(e: Emitter, n: Node) -> dict[str, Any]:
    """What both machines state: kernel, vectors, coefficients and rho. onnxruntime wants the kernel's parameters always."""
    vectors = n.operand("support_vectors")
    attrs = {name: fixed(e, n.operand(name), name).reshape(-1).tolist() for name in ("coefficients", "rho")}
    if vectors is not None:
        attrs["support_vectors"] = fixed(e, vectors, "support vectors").reshape(-1).tolist()
    params = [float(n.attr(name)) for name in ("gamma", "coef0", "degree")]
    return {**attrs, "kernel_type": n.attr("kernel_type"), "kernel_params": params}


@emits("svm_regressor")
def svm_regressor(e: Emitter, n: Node) -> None:
    vectors = n.operand("support_vectors")
    count = 0 if vectors is None else len(fixed(e, vectors, "support vectors"))
    one_class = 1 if n.attr("one_class") else None
    ml_node(e, n, "SVMRegressor", [n.operands[0]], n_supports=count, one_class=one_class, **_machine(e, n))


@emits("svm_classifier")
def svm_classifier(e: Emitter, n: Node) -> None:
    attrs = _machine(e, n) | _labels("classlabels", fixed(e, n.operand("labels"), "labels"), "ints")
    for name in ("prob_a", "prob_b"):
        if n.operand(name) is not None:
            attrs[name] = fixed(e, n.operand(name), name).tolist()
    if n.attr("vectors_per_class"):
        attrs["vectors_per_class"] = list(n.attr("vectors_per_class"))
    ml_node(e, n, "SVMClassifier", [n.operands[0]], **attrs)
