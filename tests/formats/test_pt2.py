"""`.pt2` archives: symbolic expressions, what is refused, and that only our errors come out of a broken file."""

from __future__ import annotations

import contextlib
import copy
import json
import random
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from anyir.formats.pt2 import place_of, read_pt2
from anyir.formats.pt2_symbols import parse_symbolic, symbols_of
from anyir.ir.errors import AnyIRError, InvalidModel, LimitExceeded, Unsupported

# ------------------------------------------------------------------------------------------------- expressions


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("s77", "s77"),
        ("2*s0 + 1", ("add", ("mul", 2, "s0"), 1)),
        ("-s0**2", ("mul", -1, ("pow", "s0", 2))),
        ("(s0 - 1)//2", ("floordiv", ("add", "s0", ("mul", -1, 1)), 2)),
        ("Mod(s0, 2)", ("mod", "s0", 2)),
        ("Mul(Integer(2), Symbol('s40', positive=True, integer=True))", ("mul", 2, "s40")),
        ("torch.utils._sympy.functions.FloorDiv(Symbol('s0'), Integer(-3))", ("floordiv", "s0", -3)),
        ("FloatPow(ToFloat(Symbol('s0')), Float('0.5', precision=53))", ("pow", ("float", "s0"), 0.5)),
        ("Max(1, s0, s1)", ("max", 1, "s0", "s1")),
    ],
)
def test_expressions(text: str, tree: Any) -> None:
    assert parse_symbolic(text) == tree


def test_symbols_in_order_of_appearance() -> None:
    assert symbols_of(parse_symbolic("s1*s0 + s1")) == ["s1", "s0"]


@pytest.mark.parametrize(
    "text",
    [
        "", "s0 s1", "1.5.5", "Symbol('a b')", "Symbol(s0)", "Integer('3')", "2**", "(", ")", "Mod(s0)", "Float('..')",
        "s0=1", "9" * 40, "Foo(1)", "__import__('os')", "s0.__class__()", "lambda: 0", "s0[0]", "'x'", "1e999999", "a" * 20000,
        "(" * 3000, "-" * 3000, "2**" * 3000 + "2", "Add(" * 3000, "s0," * 10,
    ],
)  # fmt: skip
def test_bad_expressions(text: str) -> None:
    with pytest.raises((InvalidModel, Unsupported, LimitExceeded)):
        parse_symbolic(text)


def test_places_do_not_depend_on_folders() -> None:
    stack = "L__self__,,m.Net;L__self__conv,layer.conv,torch.nn.modules.conv.Conv2d"
    frames = [("/home/a/net.py", 7), ("/x/torch/nn/modules/conv.py", 9), ("<eval>.3", 1)]
    trace = "\n".join(f'File "{file}", line {line}, in forward' for file, line in frames)
    assert place_of(stack, trace) == ("layer.conv", ("net.py", 7))
    assert place_of("", "") == ("", None)


# ---------------------------------------------------------------------------------------------------- archives


class Small(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 2, 3)
        self.norm = torch.nn.BatchNorm2d(2)
        self.head = torch.nn.Linear(2, 3)
        self.register_buffer("table", torch.arange(12.0).reshape(3, 4).t()[:3, 1:])  # a strided view

    def forward(self, image: torch.Tensor) -> Any:
        y = self.norm(self.conv(image)).relu()
        y += 1
        y = y.mean((2, 3)).reshape(image.shape[0], -1)
        a, b = self.head(y).split([1, 2], 1)
        return {"a": a, "b": [b, torch.cat([a, b], 1) @ self.table], "c": torch.zeros(image.shape[0] * 2)}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pt2") / "small.pt2"
    torch.manual_seed(0)
    program = torch.export.export(
        Small().eval(), (torch.randn(3, 1, 6, 6),), dynamic_shapes=({0: torch.export.Dim("b")},)
    )
    torch.export.save(program, path)
    return path


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rewritten(path: Path, target: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """A copy with changed members."""
    found = members(path)
    change(found)
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in found.items():
            archive.writestr(name, data)
    return target


def edit(suffix: str, change: Callable[[Any], None]) -> Callable[[dict[str, bytes]], None]:
    def run(found: dict[str, bytes]) -> None:
        name = next(name for name in found if name.endswith(suffix))
        data = json.loads(found[name])
        change(data)
        found[name] = json.dumps(data).encode()

    return run


GRAPH, WEIGHTS = "models/model.json", "data/weights/model_weights_config.json"


def weight(**changed: Any) -> Callable[[dict[str, bytes]], None]:
    def change(data: Any) -> None:
        entry = data["config"]["conv.weight"]
        entry.update({key: value for key, value in changed.items() if key in entry})
        entry["tensor_meta"].update({key: value for key, value in changed.items() if key in entry["tensor_meta"]})

    return edit(WEIGHTS, change)


def node(index: int, **changed: Any) -> Callable[[dict[str, bytes]], None]:
    return edit(GRAPH, lambda data: data["graph_module"]["graph"]["nodes"][index].update(changed))


def ints(*sizes: int) -> list[dict[str, int]]:
    return [{"as_int": size} for size in sizes]


def graph(change: Callable[[Any], None]) -> Callable[[dict[str, bytes]], None]:
    return edit(GRAPH, lambda data: change(data["graph_module"]["graph"]))


def drop(suffix: str) -> Callable[[dict[str, bytes]], None]:
    return lambda found: [found.pop(name) for name in list(found) if name.endswith(suffix)] and None


BROKEN: dict[str, tuple[Callable[[dict[str, bytes]], None], str]] = {
    "no graph": (drop(GRAPH), "models"),
    "no weights table": (drop(WEIGHTS), "model_weights_config.json"),
    "no weight": (drop("weights/weight_0"), "weight_0"),
    "byte order": (lambda f: f.update({n: b"big" for n in f if n.endswith("byteorder")}), "byteorder"),
    "not json": (lambda f: f.update({n: b"{" for n in f if n.endswith(GRAPH)}), "model.json"),
    "deep json": (lambda f: f.update({n: b"[" * 100000 + b"]" * 100000 for n in f if n.endswith(GRAPH)}), "nest"),
    "nan": (
        lambda f: f.update({n: f[n].replace(b'"as_float": 1e-05', b'"as_float": NaN') for n in f if n.endswith(GRAPH)}), "NaN",
    ),
    "schema": (edit(GRAPH, lambda d: d["schema_version"].update(major=9)), "schema version 9"),
    "opset": (edit(GRAPH, lambda d: d["opset_version"].update(aten=99)), "opset 99"),
    "unknown op": (node(1, target="torch.ops.aten.conv9d.default"), "no handler for aten.conv9d"),
    "python op": (node(1, target="os.system"), "no handler for os.system"),
    "unknown argument": (
        graph(lambda g: g["nodes"][1]["inputs"][0].update(name="evil")), "evil",
    ),
    "undefined value": (
        graph(lambda g: g["nodes"][1]["inputs"][0]["arg"].update(as_tensor={"name": "nope"})), "nope",
    ),
    "defined twice": (
        graph(lambda g: g["nodes"].append(g["nodes"][1])), "twice",
    ),
    "custom object": (
        graph(lambda g: g["inputs"].append({"as_custom_obj": {"name": "x", "class_fqn": "y"}})), "as_custom_obj",
    ),
    "pickled weight": (weight(use_pickle=True), "pickle"),
    "weight path": (weight(path_name="../weight_0"), "plain member name"),
    "weight folder": (weight(path_name="a/b"), "plain member name"),
    "weight absent": (weight(path_name="weight_99"), "weight_99"),
    "weight dtype": (weight(dtype=99), "99"),
    "weight too large": (weight(sizes=ints(2000, 1, 3, 3)), "bytes"),
    "weight beyond memory": (weight(sizes=ints(1 << 40, 1, 3, 3), strides=ints(0, 9, 3, 1)), "bytes"),
    "weight of nothing": (weight(sizes=ints(1 << 60, 0, 3, 3)), ""),
    "weight negative": (weight(sizes=ints(-2, 1, 3, 3)), "-2"),
    "weight stride": (weight(strides=ints(1 << 40, 9, 3, 1)), "bytes"),
    "weight offset": (weight(storage_offset={"as_int": 1 << 62}), "bytes"),
    "weight shape": (weight(sizes=ints(2, 1, 9), strides=ints(9, 9, 1)), "declares"),
    "sparse weight": (weight(layout=1), "layout"),
    "result type": (
        graph(lambda g: g["tensor_values"]["conv2d"].update(dtype=8)), "declares",
    ),
    "result shape": (
        graph(lambda g: g["tensor_values"]["conv2d"].update(sizes=ints(3, 2, 5, 5))), "declares",
    ),
    "symbol": (
        graph(lambda g: g["tensor_values"]["image"]["sizes"].__setitem__(0, {"as_expr": {"expr_str": "exec('1')"}})), "exec",
    ),
    "signature": (edit(GRAPH, lambda d: d["graph_module"]["signature"]["input_specs"].pop()), "signature"),
    "training": (
        graph(lambda g: g["nodes"][2]["inputs"][5]["arg"].update(as_bool=True)), "eval",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_archives(name: str, archive: Path, tmp_path: Path) -> None:
    from anyir.frontends import torch as frontend

    change, words = BROKEN[name]
    path = rewritten(archive, tmp_path / "broken.pt2", change)
    with pytest.raises((InvalidModel, Unsupported, LimitExceeded)) as caught:
        frontend.read(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value) or name in (
        "unknown op",
        "python op",
        "training",
        "result type",
        "result shape",
        "unknown argument",
        "weight shape",
    )


def test_sample_inputs_are_never_opened(archive: Path, tmp_path: Path) -> None:
    def poison(found: dict[str, bytes]) -> None:
        found.update({name: b"cos\nsystem\n(S'exit 1'\ntR." for name in found if "sample_inputs" in name})

    assert read_pt2(rewritten(archive, tmp_path / "poisoned.pt2", poison)).weights


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"garbage" * 100, b"\x80\x02}q\x00."])
def test_not_an_archive(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bad.pt2"
    path.write_bytes(content)
    with pytest.raises(AnyIRError):
        read_pt2(path)


def test_truncation_and_bit_flips(archive: Path, tmp_path: Path) -> None:
    from anyir.frontends import torch as frontend

    data = archive.read_bytes()
    path, rng = tmp_path / "bad.pt2", random.Random(0)
    for length in range(0, len(data), len(data) // 25):
        path.write_bytes(data[:length])
        with pytest.raises(AnyIRError):
            frontend.read(path)
    for _ in range(60):
        flipped = bytearray(data)
        flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        with contextlib.suppress(AnyIRError):
            frontend.read(path)


ODD: list[Any] = [
    None, True, 0, -1, 1 << 31, 1 << 63, 1 << 64, 1.5, "", "x", "Infinity", [], {}, [1], [[]], {"as_int": 3}, {"as_none": True},
    {"as_tensor": {"name": "image"}}, {"as_ints": [1, 2]}, {"as_expr": {"expr_str": "s0 + 1"}}, {"as_string": "a"}, 5, 12,
]  # fmt: skip


def places(data: Any) -> list[tuple[Any, ...]]:
    found, stack = [], [((), data)]
    while stack:
        path, value = stack.pop()
        found.append(path)
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        stack.extend(((*path, key), item) for key, item in items)
    return found[1:]


def test_fuzzed_json_gives_our_errors_only(archive: Path, tmp_path: Path) -> None:
    from anyir.frontends import torch as frontend

    found = members(archive)
    rng = random.Random(7)
    for _ in range(250):
        name = rng.choice([n for n in found if n.endswith((GRAPH, WEIGHTS))])
        data = json.loads(found[name])
        *path, last = rng.choice(places(data))
        owner = data
        for step in path:
            owner = owner[step]
        owner[last] = copy.deepcopy(rng.choice(ODD))
        changed = {**found, name: json.dumps(data).encode()}
        broken = rewritten(archive, tmp_path / "fuzz.pt2", lambda f, new=changed: f.update(new))
        try:
            frontend.read(broken)
        except AnyIRError as error:
            assert error.exit_code == 3, error


def test_reading_needs_no_torch(archive: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from anyir.frontends import torch\n"
        f"module = torch.read({str(archive)!r})\n"
        "assert module.signature.input_names() == ['image'] and len(module.main) > 5\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_weights_are_mapped_and_views_kept(archive: Path) -> None:
    program = read_pt2(archive)
    assert program.weights["conv.weight"].span is not None
    table = program.weights["table"]
    assert table.span is None and table.array.tolist() == Small().table.tolist()
