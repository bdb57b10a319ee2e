"""Our schema tables against the module that ai-edge-litert ships: every enum value, slot, type and default."""

import inspect
import re

import pytest
from anyir.formats import tflite_schema as schema

reference = pytest.importorskip("ai_edge_litert.schema_py_generated")

_FLAGS = {"Bool": "bool", "Int8": "i8", "Uint8": "u8", "Uint16": "u16", "Int32": "i32", "Uint32": "u32"} | {
    "Int64": "i64",
    "Uint64": "u64",
    "Float32": "f32",
}
_ADD = r"def {}Add(\w+)\(builder, \w+\):\n    builder\.Prepend(\w+)Slot\((\d+), .*, (\S+)\)"


def _squash(name: str) -> str:
    return name.replace("_", "").lower()


def _reference_classes():
    classes = {name: item for name, item in vars(reference).items() if inspect.isclass(item)}
    tables = {name: item for name, item in classes.items() if hasattr(item, "GetRootAs")}
    objects = {f"{name}T" for name in tables}
    enums = {
        n: c for n, c in classes.items() if n not in tables and n not in objects and c.__module__ == reference.__name__
    }
    return tables, enums


TABLES, ENUMS = _reference_classes()
SOURCE = inspect.getsource(reference)


def test_the_same_enums_and_tables():
    assert sorted(schema.ENUMS) == sorted(ENUMS)
    assert sorted(schema.TABLES) == sorted(TABLES)


@pytest.mark.parametrize("name", sorted(ENUMS))
def test_enum(name):
    theirs = {key: value for key, value in vars(ENUMS[name]).items() if isinstance(value, int)}
    assert schema.ENUMS[name] == theirs


def test_sizes_of_the_big_enums():
    assert sorted(schema.ENUMS["BuiltinOperator"].values()) == list(range(210))
    assert sorted(schema.ENUMS["TensorType"].values()) == list(range(23))


def _their_slots(name):
    count = int(re.search(rf"def {name}Start\(builder\):\n    builder\.StartObject\((\d+)\)", SOURCE)[1])
    slots = [None] * count
    for field, kind, index, default in re.findall(_ADD.format(name), SOURCE):
        body = inspect.getsource(getattr(TABLES[name], field))
        slots[int(index)] = (_squash(field), _their_kind(body, kind), float(default) if kind in _FLAGS else 0.0)
    return slots


def _their_kind(body, kind):
    if kind in _FLAGS:
        return _FLAGS[kind]
    vector = "self, j" in body
    flags = re.search(r"number_types\.(\w+)Flags, a \+", body)
    made = re.search(r"obj = (\w+)\(\)", body)
    inner = _FLAGS[flags[1]] if flags else made[1] if made else "string" if "String(" in body else "union"
    return f"[{inner}]" if vector else inner


def _our_kind(slot):
    inner = "union" if slot.union else slot.kind
    return f"[{inner}]" if slot.vector else inner


@pytest.mark.parametrize("name", sorted(TABLES))
def test_table(name):
    ours = [
        None if slot is None else (_squash(slot.name), _our_kind(slot), float(slot.default))
        for slot in schema.TABLES[name].slots
    ]
    assert ours == _their_slots(name)


def test_unions_follow_their_type_byte():
    for table in schema.TABLES.values():
        for before, slot in zip((None, *table.slots), table.slots, strict=False):
            if slot is not None and slot.union:
                assert before.name == f"{slot.name}_type"
                assert all(member == "NONE" or member in schema.TABLES for member in schema.ENUMS[slot.union])


def test_every_operator_has_its_options_and_every_options_table_an_operator():
    used = set(schema.OPTIONS_OF.values())
    unions = {*schema.ENUMS["BuiltinOptions"], *schema.ENUMS["BuiltinOptions2"]} - {"NONE"}
    assert used <= unions
    assert sorted(unions - used) == []
