"""Reading back what the backend writes, and refusing what is broken."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from anyir.backends import mindir as backend
from anyir.formats import mindir
from anyir.frontends import mindir as frontend
from anyir.ir.builder import Builder
from anyir.ir.errors import AnyIRError, InvalidModel, Unsupported
from anyir.ir.graph import Module
from anyir.ir.types import F32, TensorType
from anyir.ir.verify import verify
from anyir.kernels.compare import compare, limits_for, widest
from anyir.kernels.run import run

from tests.support.mindir_models import MODELS
from tests.support.op_modules import core_ops, runnable
from tests.support.ops import samples_of


@pytest.mark.parametrize("name", MODELS)
def test_models_come_back(name: str, tmp_path: Path) -> None:
    module, inputs = MODELS[name]()
    backend.write(module, tmp_path / "m.mindir")
    back = frontend.read(tmp_path / "m.mindir")
    verify(back)
    assert back.signature.input_names() == module.signature.input_names()
    assert back.signature.output_names() == module.signature.output_names()
    assert [v.type for v in back.main.inputs] == [v.type for v in module.main.inputs], "symbols come back too"
    legal = backend.legalize(module)
    for given in inputs:
        limits = widest(limits_for(module, given), limits_for(legal, given))
        assert compare(run(module, given), run(back, given), limits).passed


@pytest.mark.parametrize("name", core_ops())
def test_samples_come_back(name: str, tmp_path: Path) -> None:
    path = tmp_path / "m.mindir"
    for number in range(len(samples_of(name))):
        case = runnable(name, number)
        if case is None:
            continue
        module, inputs, wanted = case
        try:
            legal = backend.legalize(module)
            backend.write(module, path)
        except Unsupported:
            continue
        back = frontend.read(path)
        verify(back)
        limits = widest(limits_for(module, inputs), limits_for(legal, inputs))
        report = compare(wanted, run(back, inputs), limits)
        assert report.passed, f"{name} sample {number}\n{report}\n{back}"


def test_weights_keep_their_names(tmp_path: Path) -> None:
    module, _ = MODELS["cnn"]()
    backend.write(module, tmp_path / "m.mindir", external_data=True)
    back = frontend.read(tmp_path / "m.mindir")
    assert {"c1", "c1.bias", "bn.var", "fc", "fc.bias"} <= {w.key for w in back.weights}


def test_a_swapped_padding_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted fault of the writer: the read-back numbers are wrong, whatever the kernels say of the legalised module."""
    module = Module()
    graph = module.add_graph("main")
    x = graph.add_input(TensorType(F32, (1, 1, 4, 4)), "x")
    graph.set_outputs([Builder(graph).conv(x, np.ones((1, 1, 2, 2), np.float32), pads=(1, 0, 0, 0))])
    module.add_signature("serving_default", graph, ["x"], ["y"])
    given = {"x": np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)}
    path = tmp_path / "m.mindir"
    for fault in (False, True):
        if fault:
            monkeypatch.setattr("anyir.backends.mindir.conv.paired", lambda pads: tuple(pads[::-1]))
        backend.write(module, path)
        report = compare(run(module, given), run(frontend.read(path), given), limits_for(module, given))
        assert report.passed != fault


def edited(tmp_path: Path, change) -> Path:
    """The CNN's file with its record changed."""
    path = tmp_path / "m.mindir"
    backend.write(MODELS["cnn"]()[0], path)
    record = mindir.read(path).record
    change(record)
    data = b"".join(bytes(c) for c in mindir.CODEC.encode("ModelProto", record))
    path.write_bytes(data)
    return path


def swap_first_nodes(record) -> None:
    record.graph.node = list(reversed(list(record.graph.node)))


def rename_twice(record) -> None:
    record.graph.node[1].output = list(record.graph.node[0].output)


def drop_argument(record) -> None:
    node = next(n for n in record.graph.node if len(n.input) > 1)
    node.input = list(node.input)[:-1]


def unknown_primitive(record) -> None:
    record.primitives[0].op_type = "NoSuchThing"


def old_dialect(record) -> None:
    record.mind_ir_version = 1


def lost_output(record) -> None:
    record.graph.output[0].name = "main:nowhere"


def odd_dim(record) -> None:
    record.graph.input[0].tensor[0].dims = [-7]


@pytest.mark.parametrize(
    ("change", "kind", "text"),
    [
        (swap_first_nodes, InvalidModel, "before it is made"),
        (rename_twice, InvalidModel, "comes twice"),
        (drop_argument, InvalidModel, "arguments, it takes"),
        (unknown_primitive, Unsupported, "NoSuchThing"),
        (old_dialect, Unsupported, "mind_ir_version 1"),
        (lost_output, InvalidModel, "nowhere"),
        (odd_dim, InvalidModel, "-7"),
    ],
)
def test_broken_files_are_refused(tmp_path: Path, change, kind, text: str) -> None:
    with pytest.raises(kind, match=text) as caught:
        frontend.read(edited(tmp_path, change))
    assert "m.mindir" in str(caught.value)


def test_flipped_bits_never_raise_anything_else(tmp_path: Path) -> None:
    path = tmp_path / "m.mindir"
    backend.write(MODELS["branches"]()[0], path)
    data, rng = bytearray(path.read_bytes()), random.Random(0)
    for _ in range(300):
        at = rng.randrange(len(data))
        changed = bytearray(data)
        changed[at] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        try:
            frontend.read(path)
        except AnyIRError:
            continue
