"""What is in the files that the backend writes, and what it refuses; no MindSpore needed."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from anyir.backends import mindir as backend
from anyir.backends.mindir.arity import ARITY
from anyir.formats import mindir
from anyir.ir.builder import Builder
from anyir.ir.dims import sym
from anyir.ir.errors import AnyIRError, InternalError, Unsupported, UsageError
from anyir.ir.graph import Module
from anyir.ir.parser import parse_module
from anyir.ir.types import F32, F64, TensorType
from anyir.ir.verify import verify
from anyir.kernels.compare import compare, limits_for, widest
from anyir.kernels.run import run

from tests.support.mindir_models import MODELS
from tests.support.op_modules import core_ops, runnable
from tests.support.ops import samples_of


def written(module: Module, path: Path, **options) -> mindir.MindirModel:
    backend.write(module, path, **options)
    return mindir.read(path)


def one_op(make, *types: TensorType) -> Module:
    module = Module()
    graph = module.add_graph("main")
    values = [graph.add_input(t, f"x{i}") for i, t in enumerate(types)]
    graph.set_outputs([make(Builder(graph), *values)])
    module.add_signature("serving_default", graph, [f"x{i}" for i in range(len(types))], ["y"])
    return module


@pytest.mark.parametrize("name", MODELS)
def test_structure(name: str, tmp_path: Path) -> None:
    """Unique names, definitions before uses, arguments counted, `shape` and `domain` everywhere, whole weights."""
    model = written(MODELS[name]()[0], tmp_path / "m.mindir")
    record = model.record
    primitives = {p.name: p.op_type for p in record.primitives}
    assert len(primitives) == len(record.primitives)
    functions = {f.name for f in record.functions}
    parameters = {p.name for p in record.graph.parameter}
    names: Counter[str] = Counter(parameters)
    for graph in (record.graph, *record.functions):
        seen = {slot.name for slot in graph.input} | parameters | functions
        names.update(slot.name for slot in graph.input)
        for node in graph.node:
            assert set(node.input) <= seen and list(node.output) == [node.name]
            seen.add(node.name)
            names[node.name] += 1
            if node.op_type != "Constant":
                _check_operator(node, primitives, seen | functions)
        assert {slot.name for slot in graph.output} <= seen
    assert max(names.values()) == 1
    for parameter in record.graph.parameter:
        model.tensor(parameter)


def _check_operator(node, primitives: dict[str, str], callees: set[str]) -> None:
    target = node.op_type.removeprefix("REF::")
    if target in primitives:
        assert ARITY[primitives[target]] in (None, len(node.input)), node.name
    else:
        assert target in callees
    assert [a.name for a in node.attribute] == ["shape"] and node.domain.startswith("Default/")


@pytest.mark.parametrize("name", MODELS)
def test_legalised_models_run_print_and_verify(name: str) -> None:
    module, inputs = MODELS[name]()
    before = str(module)
    legal = backend.legalize(module)
    verify(legal)
    assert str(module) == before, "the user's module changed"
    assert parse_module(str(legal), weights={w.tensor.digest(): w.tensor for w in legal.weights}) == legal
    for given in inputs:
        limits = widest(limits_for(module, given), limits_for(legal, given))
        assert compare(run(module, given), run(legal, given), limits).passed


@pytest.mark.parametrize("symbolic", [False, True], ids=["static", "symbolic"])
@pytest.mark.parametrize("name", core_ops())
def test_every_sample_is_legalised_or_refused(name: str, symbolic: bool) -> None:
    for number in range(len(samples_of(name))):
        case = runnable(name, number, symbolic=symbolic)
        if case is None:
            continue
        module, inputs, wanted = case
        try:
            legal = backend.legalize(module)
        except Unsupported:
            assert backend.offenders(module)
            continue
        verify(legal)
        limits = widest(limits_for(module, inputs), limits_for(legal, inputs))
        report = compare(wanted, run(legal, inputs), limits)
        assert report.passed, f"{name} sample {number}\n{report}\n{legal}"


def test_interface_names_are_the_users(tmp_path: Path) -> None:
    module, _ = MODELS["outputs_of_every_kind"]()
    graph = written(module, tmp_path / "m.mindir").record.graph
    assert [mindir.short_name(s.name) for s in graph.input] == ["x0", "x1"]
    assert [mindir.short_name(s.name) for s in graph.output] == ["out:0", "out:1", "out:2", "out:3"]
    assert [mindir.short_name(p.name) for p in graph.parameter] == ["w"]
    nodes = {n.name for n in graph.node}
    assert all(s.name in nodes for s in graph.output), "each output is a node of its own"


def test_dynamic_dims_stay(tmp_path: Path) -> None:
    model = written(MODELS["upsampling"]()[0], tmp_path / "m.mindir")
    assert [list(s.tensor[0].dims) for s in model.record.graph.input] == [[-1, 3, -1, -1]]
    kinds = {p.op_type for p in model.record.primitives}
    assert "TensorToTuple" not in kinds, "dims that symbols spell need no data-dependent shapes"


@pytest.mark.parametrize("external", [None, True])
def test_same_input_same_bytes(tmp_path: Path, external) -> None:
    made = []
    for seed in ("0", "1"):
        path = tmp_path / f"{seed}.mindir"
        code = (
            "import sys; from tests.support.mindir_models import MODELS; from anyir.backends import mindir;"
            f"mindir.write(MODELS['transformer']()[0], sys.argv[1], external_data={external})"
        )
        root = str(Path(__file__).resolve().parents[3])
        subprocess.run([sys.executable, "-c", code, str(path)], check=True, env={"PYTHONHASHSEED": seed}, cwd=root)
        made.append(path.read_bytes().replace(b"0.mindir.data", b"").replace(b"1.mindir.data", b""))
        if external:
            made[-1] += Path(f"{path}.data").read_bytes()
    assert made[0] == made[1]


def test_all_offenders_are_named_at_once() -> None:
    module = one_op(
        lambda b, x: b.bitcast(b.conv(x, np.ones((1, 1, 1, 1)), None), to=F64), TensorType(F64, (1, 1, 4, 4))
    )
    found = [offender.op for offender in backend.offenders(module)]
    assert found == ["conv", "bitcast"]
    with pytest.raises(Unsupported, match=r"conv.*f64.*bitcast"):
        backend.legalize(module)


def test_refusals(tmp_path: Path) -> None:
    empty = one_op(lambda b, x: b.relu(x), TensorType(F32, (2, 0)))
    with pytest.raises(Unsupported, match="without elements"):
        backend.write(empty, tmp_path / "m.mindir")
    assert not list(tmp_path.iterdir())
    same = one_op(lambda b, x: b.relu(x), TensorType(F32, (2,)))
    same.signatures["serving_default"].outputs[0] = same.signature.inputs[0]
    with pytest.raises(Unsupported, match="called 'x0'"):
        backend.write(same, tmp_path / "m.mindir")
    with pytest.raises(UsageError):
        backend.legalize(same, signature="other")


def test_wrong_arity_never_reaches_a_file(monkeypatch) -> None:
    from anyir.backends.mindir import emit, registry

    module = backend.legalize(one_op(lambda b, x: b.relu(x), TensorType(F32, (2,))))
    row = registry.ROWS["relu"]
    monkeypatch.setitem(registry.ROWS, "relu", row._replace(emit=lambda n: registry.Call("ReLU", (*n.operands, 1))))
    with pytest.raises(InternalError, match="ReLU is called with 2 arguments, it takes 1"):
        emit.Emission(module, module.signature, "0").build()


def test_a_clash_of_weight_and_output_names_spares_the_output(tmp_path: Path) -> None:
    module = one_op(
        lambda b, x: b.mul(x, b.const(np.ones(2, "f"), key="y", role="param")), TensorType(F32, (sym("N"), 2))
    )
    graph = written(module, tmp_path / "m.mindir").record.graph
    assert graph.output[0].name == "main:y" and graph.parameter[0].name == "main:y_1"


def test_every_emitted_primitive_is_counted() -> None:
    """The table knows what the rows emit: no row for a primitive that was never counted."""
    for name in core_ops():
        for number in range(len(samples_of(name))):
            case = runnable(name, number)
            if case is None:
                continue
            try:
                legal = backend.legalize(case[0])
            except AnyIRError:
                continue
            from anyir.backends.mindir.registry import ROWS

            for node in legal.main.nodes():
                if not node.regions:
                    assert ROWS[node.name].emit(node).primitive in ARITY
