"""Operators of domains that we don't know: one `opaque` node with everything that the file says of them."""

from __future__ import annotations

from typing import Any

from ...formats.onnx import views
from ...ir.types import UNKNOWN
from .importer import Call, Importer

OWN = ("domain", "op_type", "version", "types", "has")


def lower(c: Importer, n: Call) -> Any:
    """The operator's attributes keep their names; one that the opaque op needs itself gets an underscore behind it."""
    attrs: dict[str, Any] = {
        "domain": n.node.domain,
        "op_type": n.node.op_type,
        "version": n.opset,
        "types": tuple(c.declared(name) or UNKNOWN for name in n.node.outputs),
        "has": tuple(v is not None for v in n.inputs),
    }
    for name, value in n.attrs.items():
        attrs[f"{name}_" if name.rstrip("_") in OWN else name] = _plain(c, n, name, value)
    present = tuple(v for v in n.inputs if v is not None)
    return c.b.call("opaque", present, attrs).results


def _plain(c: Importer, n: Call, name: str, value: Any) -> Any:
    if isinstance(value, views.Graph) or (isinstance(value, tuple) and value and isinstance(value[0], views.Graph)):
        raise n.refuse(f"attribute '{name}' is a graph in a domain that is not known")
    if hasattr(value, "data_type"):
        return c.tensor(value, n.label)
    if isinstance(value, tuple) and value and hasattr(value[0], "data_type"):
        return tuple(c.tensor(v, n.label) for v in value)
    if hasattr(value, "SerializeToString"):
        raise n.refuse(f"attribute '{name}' of type {type(value).__name__} in a domain that is not known")
    return value
