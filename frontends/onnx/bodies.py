"""The function bodies that some operators' schemas carry: the lowering of last resort."""

from __future__ import annotations

from typing import Any

from ...formats.onnx import views
from ...formats.onnx.types import proto_of
from ...ir.errors import clean
from .importer import Call


def body(n: Call) -> views.Function | None:
    """The operator's body for the opset and operand types of this call; None when the schema has none."""
    import onnx
    from onnx import defs

    schema: Any = defs.get_schema(n.node.op_type, n.opset, n.node.domain)
    function = None
    if schema.has_function:
        versions = [v for v in schema.function_opset_versions if v <= n.opset]
        function = schema.get_function_with_opset_version(max(versions)) if versions else schema.function_body
    elif schema.has_context_dependent_function:
        versions = [v for v in schema.context_dependent_function_opset_versions if v <= n.opset]
        types = [b"" if v is None else proto_of(v.type).SerializeToString() for v in n.inputs]
        if versions:
            node = _bound(n).SerializeToString()
            try:
                function = schema.get_context_dependent_function_with_opset_version(max(versions), node, types)
            except (ValueError, RuntimeError, TypeError) as error:
                raise n.invalid(f"the operator's own definition does not take this: {clean(error)}") from None
    if not function:
        return None
    proto = function
    if isinstance(function, bytes):
        proto = onnx.FunctionProto()
        proto.ParseFromString(function)
    _drop_undefined(proto)
    made = views.function_view(proto, {n.node.domain: n.opset, "": n.scope.opsets.get("", n.opset)})
    for name, formal in n.node.schema.attributes.items():  # type: ignore[union-attr]
        if formal.default is not None and made.attributes.get(name) is None:
            made.attributes[name] = formal.default
    views.resolve(made, {})
    return made


def _bound(n: Call) -> Any:
    """The call's NodeProto with references to an outer function's attributes replaced by their values."""
    import onnx
    from onnx import helper

    proto = onnx.NodeProto()
    proto.CopyFrom(n.node.proto)
    bound = [name for name, value in n.node.attrs.items() if isinstance(value, views.Ref)]
    if bound:
        kept = [a for a in proto.attribute if not a.ref_attr_name]
        del proto.attribute[:]
        proto.attribute.extend(kept)
        proto.attribute.extend(helper.make_attribute(name, n.attrs[name]) for name in bound if name in n.attrs)
    return proto


def _drop_undefined(proto: Any) -> None:
    """A body made for a call with fewer outputs still lists all of them: those that it does not compute are left out."""
    made = {name for node in proto.node for name in node.output} | set(proto.input)
    outputs = [name if name in made else "" for name in proto.output]
    del proto.output[:]
    proto.output.extend(outputs)
