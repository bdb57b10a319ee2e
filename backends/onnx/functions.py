"""Calls as functions of the model: bodies that are equal but for their types become one, others get a name of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...formats.onnx import notes
from ...formats.onnx.tensors import tensor_proto
from ...ir.tensor import Tensor
from .emitter import Draft
from .names import sanitise
from .space import PROPERTIES_IR, Space

if TYPE_CHECKING:
    from onnx import FunctionProto

    from .export import Export

Key = tuple[str, str, str]

#: The IR version that brought functions; the one that brought overloads is that of properties.
FUNCTIONS_IR = 8


class Functions:
    """The functions written so far: each with the names that its source has, by what the body is."""

    def __init__(self, export: Export, taken: set[Key]) -> None:
        self.export = export
        self.taken = taken
        self.sources: dict[str, Any] = notes.parse(export.module.metadata, "onnx.functions", dict)
        self._made: dict[tuple[Key, bytes], FunctionProto] = {}

    def made_of(self, draft: Draft) -> tuple[str, str, str, int]:
        """Domain, name, overload and domain version of the function that the region of a call becomes."""
        wanted = draft.domain, draft.op_type, draft.overload
        proto, infos = self._proto(draft, wanted)
        key = wanted, _meaning(proto)
        found = self._made.get(key)
        if found is None:
            found = self._made[key] = self.export.model.functions.add()
            found.CopyFrom(proto)
            found.value_info.extend(infos)
            found.domain, found.name, overload = self._free(wanted)
            if overload:
                found.overload = overload
            self.export.needs_ir(PROPERTIES_IR if overload or found.metadata_props or infos else FUNCTIONS_IR)
        else:  # what is said of values holds for all calls
            kept = [info for info in found.value_info if info in infos]
            del found.value_info[:]
            found.value_info.extend(kept)
        return found.domain, found.name, found.overload, self._version(found.domain)

    def _version(self, domain: str) -> int:
        own = self.export.module.metadata.get(f"opset.{domain}", "")
        return int(own) if own.isdecimal() else 1

    def _free(self, wanted: Key) -> Key:
        """The wanted names; for a second body an overload, or another name where overloads are not known yet."""
        domain, name, overload = key = wanted
        count = 0
        while key in self.taken:
            count += 1
            if self.export.ir_version() >= PROPERTIES_IR:
                key = domain, name, f"{overload}_{count}" if overload else str(count)
            else:
                key = domain, f"{name}_{count}", overload
        self.taken.add(key)
        return key

    def _proto(self, draft: Draft, key: Key) -> tuple[FunctionProto, list[Any]]:
        """The body as a function without a name, and its value_info."""
        import onnx

        region = draft.body
        proto, constants = onnx.FunctionProto(), onnx.FunctionProto()
        source = notes.member(self.sources, notes.function_key(key), dict)

        def hold(name: str, tensor: Tensor) -> None:
            made = constants.node.add()
            made.op_type = "Constant"
            made.output.append(name)
            attribute = made.attribute.add()
            attribute.name, attribute.type = "value", onnx.AttributeProto.TENSOR
            attribute.t.CopyFrom(tensor_proto("", tensor))

        space = Space(self.export, hold, source, joins=True)
        space.plan(region)  # type: ignore[arg-type]
        for value in region.inputs:  # type: ignore[union-attr]
            space.by_value[value] = space.names.unique(value.hint, "input")
            proto.input.append(space.by_value[value])
        space.nodes(region, proto)  # type: ignore[arg-type]
        proto.output.extend(space.own_outputs(region, proto))  # type: ignore[arg-type]
        constants.node.extend(proto.node)
        del proto.node[:]
        proto.node.extend(constants.node)
        for domain, version in sorted(space.domains.items()):
            entry = proto.opset_import.add()
            entry.domain, entry.version = sanitise(domain), version
        notes.restore(proto, {k: v for k, v in source.items() if k in ("doc_string", "metadata_props")})
        infos = list(proto.value_info)
        kept = [type(info).FromString(info.SerializeToString()) for info in infos]
        del proto.value_info[:]
        return proto, kept


def _meaning(proto: FunctionProto) -> bytes:
    """The same for two bodies that differ in the names of values only."""
    made = type(proto)()
    made.CopyFrom(proto)
    names: dict[str, str] = {"": ""}

    def rename(slots: Any) -> None:
        for index, name in enumerate(slots):
            slots[index] = names.setdefault(name, f"v{len(names)}")

    rename(made.input)
    pending: list[Any] = [made]
    while pending:
        graph = pending.pop()
        for slot in (*graph.input, *graph.output) if graph is not made else ():
            slot.name = names.setdefault(slot.name, f"v{len(names)}")
        for node in graph.node:
            rename(node.input)
            rename(node.output)
            for attribute in node.attribute:
                pending += [attribute.g] if attribute.HasField("g") else list(attribute.graphs)
        del graph.value_info[:]
    rename(made.output)
    return made.SerializeToString(deterministic=True)
