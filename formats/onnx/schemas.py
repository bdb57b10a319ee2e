"""Operator schemas of the installed `onnx` package, reduced to what reading and writing check; imported lazily."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

DEFAULT_DOMAIN = ""
#: Marked as deprecated when the next version corrected it, but what files of its opsets hold.
STILL_VALID = {("GroupNormalization", 18)}
KNOWN_DOMAINS = ("", "ai.onnx.ml", "ai.onnx.preview", "ai.onnx.preview.training")


@dataclass(frozen=True, slots=True)
class Formal:
    """One formal input or output: `types` are spelled like `tensor(float)`; those with one `variable` must agree."""

    name: str
    variable: str
    optional: bool
    variadic: bool
    homogeneous: bool
    types: frozenset[str]


@dataclass(frozen=True, slots=True)
class Attribute:
    """One formal attribute: `type` is the AttributeProto code, `default` its value or None."""

    type: int
    required: bool
    default: object


@dataclass(frozen=True, slots=True)
class Schema:
    """One operator version."""

    op_type: str
    domain: str
    since: int
    deprecated: bool
    inputs: tuple[Formal, ...]
    outputs: tuple[Formal, ...]
    attributes: dict[str, Attribute]
    arity: tuple[int, int]
    results: tuple[int, int]
    has_body: bool
    #: Attributes that have a default, and those that must be given.
    defaults: dict[str, object] = field(init=False)
    required: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        given = {name: a.default for name, a in self.attributes.items() if a.default is not None}
        object.__setattr__(self, "defaults", given)
        object.__setattr__(self, "required", tuple(name for name, a in self.attributes.items() if a.required))

    @property
    def label(self) -> str:
        return f"{self.domain or 'ai.onnx'}::{self.op_type}-{self.since}"


def domain_of(name: str) -> str:
    """`ai.onnx` is a spelling of the default domain."""
    return DEFAULT_DOMAIN if name == "ai.onnx" else name


@cache
def newest(domain: str) -> int:
    """The newest opset of `domain` that the installed onnx knows; 0 for an unknown domain."""
    from onnx import defs

    versions = [s.since_version for s in defs.get_all_schemas_with_history() if s.domain == domain]
    if domain == DEFAULT_DOMAIN:
        return defs.onnx_opset_version()
    return max(versions, default=0)


@cache
def schema(op_type: str, domain: str, opset: int) -> Schema | None:
    """The newest version of the operator not above `opset`, else onnxruntime's own; None when there is none."""
    from onnx import defs

    from . import microsoft

    try:
        found = defs.get_schema(op_type, opset, domain)
    except defs.SchemaError:
        return microsoft.table().get((domain, op_type))
    return _reduced(op_type, domain, found.since_version)


def listed(op_type: str, domain: str) -> bool:
    """The operator has a schema of onnxruntime's (its domain as a whole is not known)."""
    from . import microsoft

    return (domain, op_type) in microsoft.table()


@cache
def first_version(op_type: str, domain: str = DEFAULT_DOMAIN) -> int | None:
    """The opset that introduced the operator; None when no version has it."""
    from onnx import defs

    return min(
        (s.since_version for s in defs.get_all_schemas_with_history() if s.name == op_type and s.domain == domain),
        default=None,
    )


@cache
def _reduced(op_type: str, domain: str, since: int) -> Schema:
    from onnx import defs, helper

    s: Any = defs.get_schema(op_type, since, domain)

    def formal(f: Any) -> Formal:
        option = f.option.name
        return Formal(
            f.name, f.type_str, option == "Optional", option == "Variadic", f.is_homogeneous, frozenset(f.types)
        )

    def attribute(a: Any) -> Attribute:
        has_default = a.default_value.type != 0
        default = helper.get_attribute_value(a.default_value) if has_default else None
        return Attribute(int(a.type.value), bool(a.required), _plain(default))

    return Schema(
        op_type,
        domain,
        since,
        s.deprecated and (op_type, since) not in STILL_VALID,
        tuple(map(formal, s.inputs)),
        tuple(map(formal, s.outputs)),
        {name: attribute(a) for name, a in s.attributes.items()},
        (s.min_input, s.max_input),
        (s.min_output, s.max_output),
        s.has_function or s.has_context_dependent_function,
    )


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list | tuple) or type(value).__name__.startswith("Repeated"):
        return tuple(_plain(v) for v in value)
    return value
