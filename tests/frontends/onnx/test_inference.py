"""Type inference says at least what onnx and onnxruntime say together, nothing false, and the same when asked again."""

from __future__ import annotations

import fnmatch
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime")

from anyir.frontends.onnx import read
from anyir.ir.errors import AnyIRError
from anyir.ir.graph import Module
from anyir.ir.infer import infer_module
from anyir.ir.types import TensorType, Type
from anyir.tests.support import onnx_suite as suite
from anyir.tests.support.inference import Comparison, Witness, compared, loaded, symbolic
from anyir.tests.support.model_cases import CASES, inputs_of, source
from anyir.tests.support.models import MODELS, model_path

GROUPS = 16

#: Where a peer says something else: it is wrong, and `test_group` shows that the kernels agree with us.
PEERS_ARE_WRONG = {
    "test_averagepool_2d_ceil_last_window_starts_on_pad/*": "onnx counts windows that start in the end padding",
    "test_maxpool_2d_ceil_output_size_reduce_by_one/*": "onnx counts windows that start in the end padding",
    "test_gathernd_example_int32_batch_dim1/*": "onnxruntime ignores batch_dims",
    "test_quantizelinear_blocked_symmetric/*": "onnxruntime ignores output_dtype",
    "test_rotary_embedding*_expanded/*": "onnxruntime takes a split by computed lengths for an even one",
    "test_sce_*/z": "onnxruntime ignores the reduction",
    "test_split_*_uneven_split_opset18/*": "onnxruntime rounds the lengths of an uneven split down",
    "test_squeeze_negative_axes/y": "onnxruntime drops every axis of size 1 where the axes are not known",
}

#: Where a peer says more than follows from the model.
PEERS_GUESS = {
    "test_attention_*": "onnx says 0 for what it cannot compute",
    "test_split_variable_parts_*": "onnxruntime takes a split by unknown lengths for an even one",
    "test_squeeze/y": "onnxruntime drops every axis of size 1, but another may have size 1 and be meant",
    "test_causal_conv_with_state_*_expanded/present_state": "a slice from 1 - K on takes all of the axis when K is 1",
    "test_linear_attention_*/*": "a state of a loop keeps its dims only if its head count and width are those of the data",
    "test_sequence_map_*_expanded/*": "the elements of a sequence have lengths of their own",
    "test_GLU*/4": "the halves of an axis that a split of opset 2 cuts have one length only if it is even",
}


@pytest.fixture(autouse=True)
def quiet() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def unexplained(differences: dict[str, str], *tables: dict[str, str]) -> dict[str, str]:
    patterns = [pattern for table in tables for pattern in table]
    return {k: v for k, v in differences.items() if not any(fnmatch.fnmatchcase(k, pattern) for pattern in patterns)}


def types_of(module: Module) -> list[Type]:
    return [v.type for graph in module.all_graphs() for node in graph.nodes() for v in node.results]


def assert_settled(module: Module, name: str) -> None:
    """Inferred again, nothing changes: what was made up keeps its name."""
    before = types_of(module)
    infer_module(module)
    after = types_of(module)
    assert all(a is b for a, b in zip(before, after, strict=True)), f"{name}: {before} became {after}"


def witnessed(module: Module, case: suite.Case) -> Witness:
    """The module run on all data of a case, up to the first refusal."""
    witness = Witness(module)
    for inputs, _ in case.sets():
        try:
            witness.run(suite.fed(case.load(), inputs))
        except AnyIRError:
            break
    return witness


@pytest.mark.parametrize("group", range(GROUPS))
def test_group(group: int) -> None:
    """Suite models as they are and with symbols for their inputs' dims: as strong as the peers, sound, settled."""
    total, lies, checked = Comparison(), {}, 0
    for case in suite.sampled(GROUPS, group):
        for form in (case.load(), symbolic(case.load())):
            found = compared(form)
            if found is not None:
                total.add(found, case.name)
        module = loaded(symbolic(case.load())) or loaded(case.load())
        if module is not None:
            assert_settled(module, case.name)
            witness = witnessed(module, case)
            checked += witness.checked
            lies.update({f"{case.name}: {where}": why for where, why in witness.lies.items()})
    assert not lies
    assert not unexplained(total.weaker, PEERS_GUESS)
    assert not unexplained(total.contradicted, PEERS_ARE_WRONG)
    assert total.values > 400 and checked > 500


@pytest.mark.slow
def test_figures(capsys: pytest.CaptureFixture) -> None:
    """The whole suite: the figures, and no entry of the tables is stale."""
    plain, symbols = Comparison(), Comparison()
    for case in suite.cases().values():
        for total, form in ((plain, case.load()), (symbols, symbolic(case.load()))):
            found = compared(form)
            if found is not None:
                total.add(found, case.name)
    with capsys.disabled():
        print(f"\nsuite as it is: {plain}\nwith symbolic inputs: {symbols}")
    for pattern in PEERS_ARE_WRONG:
        assert fnmatch.filter({**plain.contradicted, **symbols.contradicted}, pattern), f"{pattern} is stale"
    for pattern in PEERS_GUESS:
        assert fnmatch.filter({**plain.weaker, **symbols.weaker}, pattern), f"{pattern} is stale"


@pytest.mark.parametrize("name", [name for name, model in MODELS.items() if model.file.suffix == ".onnx"])
def test_packaged_model_against_peers(name: str, capsys: pytest.CaptureFixture) -> None:
    import onnx

    path = model_path(name)
    found = compared(onnx.load(path), path.parent)
    assert found is not None
    with capsys.disabled():
        print(f"\n{name}: {found}", end="")
    assert not found.weaker and not found.contradicted
    assert found.values >= 5


NAMES = [pytest.param(name, marks=[pytest.mark.slow] if case.slow else []) for name, case in CASES.items()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.mark.parametrize("name", NAMES)
def test_model_says_nothing_false(name: str, folder: Path) -> None:
    """Two sizes of each dynamic dim."""
    module = read(source(name, folder))
    assert_settled(module, name)
    for which in (0, 1):
        witness = Witness(module)
        witness.run(inputs_of(name, module, which))
        assert not witness.lies
        assert witness.checked > 5


def test_the_witness_sees_lies() -> None:
    """A planted wrong dim or element is found; so is a symbol that stands for two sizes."""
    import onnx

    text = """<ir_version: 8, opset_import: ["": 17]>
    g (float[N, 4] x, float[M, 4] z) => (int64[2] s, float[N, 4] y, int64[2, K] i, int64[2, L] j) {
      s = Shape(x)
      y = Relu(x)
      i = NonZero(x)
      j = NonZero(z)
    }"""
    inputs = {"x": np.eye(3, 4, dtype=np.float32), "z": np.ones((2, 4), np.float32)}

    def lies(plant: Any) -> int:
        module = read(onnx.parser.parse_model(text))
        plant(*module.main.outputs)
        witness = Witness(module)
        witness.run(inputs)
        return len(witness.lies)

    def plant(**changes: Any) -> Any:
        def change(s: Any, y: Any, i: Any, j: Any) -> None:
            values = {"s": s, "y": y, "i": i, "j": j}
            for name, new in changes.items():
                if isinstance(new, tuple) and name == "s":
                    values[name]._elems = new
                else:
                    values[name].type = new(values)

        return change

    assert lies(plant()) == 0
    assert lies(plant(y=lambda v: TensorType(v["y"].dtype, (v["y"].shape[0], 5)))) == 1
    assert lies(plant(y=lambda v: TensorType(v["y"].dtype, (v["y"].shape[0] + 1, 4)))) == 1
    assert lies(plant(s=(3, 5))) == 1
    assert lies(plant(j=lambda v: v["i"].type)) == 1


def test_a_wrong_declaration_is_reported_and_not_believed() -> None:
    """Like ddddocr: [1, length] is declared for what has rank 3; a tool that trusts it writes a wrong Flatten or Reshape."""
    import onnx
    from onnx import shape_inference

    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
    g (float[1, 8, W] x) => (float[1, length] y, int64[2] s) <float[1, 8] t> {
      t = Transpose <perm = [2, 0, 1]> (x)
      y = Relu(t)
      s = Shape(t)
    }""")
    module = read(model)
    y, s = module.main.outputs
    assert str(y.type) == "f32[W, 1, 8]" and s.shape == (3,)
    told = [line for line in module.diagnostics if "declaration is ignored" in line]
    assert len(told) == 3, "t, y and s"
    assert any("'y' is declared as f32[1, " in line and "it is f32[W, 1, 8]" in line for line in told)
    with pytest.raises(shape_inference.InferenceError):
        shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)


@pytest.mark.parametrize("name", ["ddddocr-common", "ddddocr-old-int8"])
def test_a_real_model_with_a_wrong_declaration(name: str) -> None:
    """Both declare the output as [1, seqlen] and yield rank 3."""
    module = read(model_path(name))
    (output,) = module.main.outputs
    assert output.rank == 3
    assert any("is declared as f32[1, " in line and f"it is {output.type}" in line for line in module.diagnostics)
