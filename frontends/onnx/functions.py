"""Local functions as calls that keep their bodies, each specialised to the types and attributes of its call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...formats.onnx import schemas, views
from ...ir.builder import Builder
from ...ir.errors import Unsupported, clean
from ...ir.graph import Value

if TYPE_CHECKING:
    from .importer import Importer, Scope


def can_stay(function: views.Function, model: views.Model) -> bool:
    """A local function, and not in the place of an operator with a schema: kept, that would catch what we write."""
    domain, name, _ = function.key
    own = model.functions.get(function.key) is function
    return own and schemas.first_version(name, domain) is None and not schemas.listed(name, domain)


def check_graphs(bindings: dict[str, object], where: str) -> None:
    """A graph that is handed to a function stands on its own. Raises Unsupported for one that uses values around it."""
    for name, value in bindings.items():
        for graph in value if isinstance(value, tuple) else (value,):
            if isinstance(graph, views.Graph) and graph.captures:
                raise Unsupported(
                    f"attribute '{clean(name)}', a graph, takes '{clean(graph.captures[0])}' from the caller",
                    where=where,
                )


def call(
    c: Importer, function: views.Function, operands: tuple[Value | None, ...], scope: Scope
) -> list[Value | None] | None:
    """A `call` with the body as its region. `scope` has the attributes and opsets of the function; what is known of the
    elements of an operand is known inside too, so that shapes computed from it are the same as without the call. None
    where the body cannot be lowered by itself: it may need an operand's contents."""
    domain, name, overload = function.key
    region = c.module.new_region(clean(name))
    for formal, value in zip(function.body.inputs, operands, strict=False):
        if value is not None:
            given = region.add_input(value.type, formal)
            given._elems = value.elems
            scope.values[formal] = given
    absent = set(function.body.inputs) - set(scope.values)
    saved, c.b = c.b, Builder(region)
    try:
        outputs = c.lower_body(function.body, scope, absent)
    except Unsupported:
        region.clear()
        return None
    finally:
        c.b = saved
    region.set_outputs([value for value in outputs if value is not None])
    attrs = {"domain": domain, "name": name, "overload": overload}
    present = [value for value in operands if value is not None]
    made = iter(c.b.call("call", present, attrs, [region]).results)
    return [None if value is None else next(made) for value in outputs]
