"""Hostile `.pt2` archives, IR text with its weight file, TFLite and MindIR files."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from anyir.tests.security import seeds
from anyir.tests.security.corpus import bytes_case, case
from anyir.tests.security.seeds import packed

Edit = Callable[[Any], object]
GRAPH, WEIGHTS = "models/model.json", "data/weights/model_weights_config.json"

# -------------------------------------------------------------------------------------------------------- pt2


def pt2(change: Callable[[dict[str, bytes]], object]) -> bytes:
    members = seeds.members_of(seeds.pt2_file())
    change(members)
    return packed(members)


def member(suffix: str, members: dict[str, bytes]) -> str:
    return next(name for name in members if name.endswith(suffix))


def in_json(suffix: str, edit: Edit) -> Callable[[dict[str, bytes]], None]:
    def change(members: dict[str, bytes]) -> None:
        name = member(suffix, members)
        data = json.loads(members[name])
        edit(data)
        members[name] = json.dumps(data).encode()

    return change


def drop(suffix: str) -> Callable[[dict[str, bytes]], None]:
    return lambda members: members.pop(member(suffix, members))


def replace(suffix: str, data: bytes) -> Callable[[dict[str, bytes]], None]:
    return lambda members: members.update({member(suffix, members): data})


def nodes(data: Any) -> list[Any]:
    return data["graph_module"]["graph"]["nodes"]


def first_weight(data: Any) -> dict[str, Any]:
    return next(iter(data["config"].values()))


def _undefined(data: Any) -> None:
    for node in nodes(data):
        for entry in node["inputs"]:
            if "as_tensor" in entry["arg"]:
                entry["arg"]["as_tensor"]["name"] = "ghost"


PT2: dict[str, Callable[[dict[str, bytes]], object]] = {
    "no graph": drop(GRAPH),
    "no weights config": drop(WEIGHTS),
    "no weight bytes": drop("weight_0"),
    "graph is no JSON": replace(GRAPH, b"{]"),
    "graph is a list": replace(GRAPH, b"[]"),
    "JSON 100000 deep": replace(GRAPH, b"[" * 100_000 + b"]" * 100_000),
    "unknown op": in_json(GRAPH, lambda d: nodes(d)[0].update(target="torch.ops.aten.evil.default")),
    "op that is a Python name": in_json(GRAPH, lambda d: nodes(d)[0].update(target="os.system")),
    "op by attributes": in_json(GRAPH, lambda d: nodes(d)[0].update(target="torch.ops.aten.__class__.__init__")),
    "undefined value": in_json(GRAPH, _undefined),
    "node twice": in_json(GRAPH, lambda d: nodes(d).append(nodes(d)[0])),
    "no nodes": in_json(GRAPH, lambda d: d["graph_module"]["graph"].update(nodes=[])),
    "schema of the future": in_json(GRAPH, lambda d: d.update(schema_version={"major": 99, "minor": 0})),
    "weight is a pickle": in_json(WEIGHTS, lambda d: first_weight(d).update(use_pickle=True)),
    "weight outside the archive": in_json(
        WEIGHTS, lambda d: first_weight(d).update(path_name="../../outside/secret.bin")
    ),
    "weight that is not there": in_json(WEIGHTS, lambda d: first_weight(d).update(path_name="weight_99")),
    "weight larger than its bytes": in_json(
        WEIGHTS, lambda d: first_weight(d)["tensor_meta"].update(sizes=[{"as_int": 1 << 40}, {"as_int": 4}])
    ),
    "weight of negative size": in_json(
        WEIGHTS, lambda d: first_weight(d)["tensor_meta"].update(sizes=[{"as_int": -3}, {"as_int": 4}])
    ),
    "weight bytes cut off": replace("weight_0", b"\0" * 7),
}
for _name, _change in PT2.items():
    bytes_case("pt2", _name, ".pt2", lambda change=_change: pt2(change))
bytes_case("pt2", "truncated", ".pt2", lambda: seeds.pt2_file()[: len(seeds.pt2_file()) // 2])
bytes_case("pt2", "not a zip", ".pt2", lambda: b"\x80\x02ctorch\n_utils\n." * 20)
bytes_case("pt2", "the good one", ".pt2", seeds.pt2_file, "ok")


def _poisoned(members: dict[str, bytes]) -> None:
    """Sample inputs, which are pickled and are not looked at, call os.system."""
    name = next(n for n in members if "sample_inputs" in n)
    members[name] = b"cos\nsystem\n(S'touch CANARY'\ntR."


bytes_case("pt2", "poisoned sample inputs", ".pt2", lambda: pt2(_poisoned), "either")

# ---------------------------------------------------------------------------------------------------- IR text


def text(edit: Callable[[str], str]) -> bytes:
    """The text of a module whose weights stand in it."""
    import anyir
    from anyir.ir.printer import Printer

    folder = seeds.written(".onnx")
    assert folder
    module = anyir.load(_onnx_module())
    return edit(Printer(elide=10**6).module(module)).encode("utf-8", "surrogatepass")


def _onnx_module() -> Any:
    import anyir.frontends.onnx

    return anyir.frontends.onnx.read(seeds.onnx_file())


TEXTS: dict[str, Callable[[str], str]] = {
    "version of the future": lambda t: t.replace("anyir 1", "anyir 99", 1),
    "unknown op": lambda t: t.replace("= relu(", "= rleu("),
    "undefined value": lambda t: t.replace("relu(%", "relu(%ghost_"),
    "defined twice": lambda t: t.replace("  return(", "  %c = relu(%image) : f32[2, 1, 8, 8]\n  return("),
    "a type that lies": lambda t: t.replace("f32[2, 6, 8, 8]", "f32[2, 6, 8, 9]"),
    "dims of 30 digits": lambda t: t.replace("f32[2, 1, 8, 8]", f"f32[{'9' * 30}, 1, 8, 8]"),
    "attributes 5000 deep": lambda t: t.replace("pads = [", "pads = " + "[" * 5000),
    "dims 5000 deep": lambda t: t.replace("f32[2, 1, 8, 8]", f"f32[{'(' * 5000}2{')' * 5000}, 1, 8, 8]"),
    "no end": lambda t: t[: len(t) // 2],
    "control characters": lambda t: t.replace("graph @main", "graph @\x1b[31mmain\x07"),
    "weight file outside": lambda t: t.replace(
        'module "g"', 'module "g" { weights = "../outside/secret.bin" }'
    ).replace('module "net"', 'module "net" { weights = "../outside/secret.bin" }'),
    "weight file absent": lambda t: t.replace('module "net"', 'module "net" { weights = "ghost.weights" }'),
}
for _name, _edit in TEXTS.items():
    bytes_case("text", _name, ".anyir", lambda edit=_edit: text(edit))
bytes_case("text", "not UTF-8", ".anyir", lambda: b'anyir 1\nmodule "\xff\xfe"\n')
bytes_case("text", "the good one", ".anyir", lambda: text(lambda t: t), "ok")


@case("text", "weights that were changed")
def _changed_weights(folder: Path) -> Path:
    for name, data in seeds.written(".anyir").items():
        changed = data[:70] + bytes([data[70] ^ 1]) + data[71:] if name.endswith(".weights") else data
        (folder / name).write_bytes(changed)
    return folder / "bad.anyir"


@case("text", "weights cut off")
def _cut_weights(folder: Path) -> Path:
    for name, data in seeds.written(".anyir").items():
        (folder / name).write_bytes(data[:-20] if name.endswith(".weights") else data)
    return folder / "bad.anyir"


# ------------------------------------------------------------------------------------------- TFLite and MindIR

for _suffix in (".tflite", ".mindir"):
    _group = _suffix[1:]
    bytes_case(_group, "empty", _suffix, lambda: b"")
    bytes_case(_group, "random bytes", _suffix, lambda: bytes((i * 97 + i // 7) % 256 for i in range(2000)))
    bytes_case(_group, "the good one", _suffix, lambda s=_suffix: list(seeds.written(s).values())[-1], "either")
    bytes_case(
        _group, "truncated", _suffix, lambda s=_suffix: (d := list(seeds.written(s).values())[-1])[: len(d) // 2]
    )
bytes_case("tflite", "root offset past the end", ".tflite", lambda: struct.pack("<I", 1 << 31) + b"TFL3" + bytes(64))
bytes_case("tflite", "table that points at itself", ".tflite", lambda: struct.pack("<I", 8) + b"TFL3" + bytes(64))
