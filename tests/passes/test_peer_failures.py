"""Models on which other optimisers of ONNX files fail, through load, -O2 and save: what is written passes the checker and
computes what the original does, in fewer or as many nodes.

What the others do, as tried with onnxsim 0.8.1, onnxslim 0.1.98, onnxoptimizer 0.4.2, onnxscript 0.7.2 and onnxruntime 1.32.0:

    contradicting_shapes    onnxslim raises IndexError; the files of all others are refused by the checker
    unsorted_branches       onnxsim and onnxruntime raise; the others leave the order, or break it further: invalid files
    control_flow            onnxsim raises "No Op registered", onnxslim RecursionError; onnxoptimizer's file does not load;
                            onnxruntime adds nodes
    batch_norms             onnxoptimizer makes 26 nodes out of 8
    branches_with_weights   onnxsim's file is longer
    initializers_as_inputs  onnxslim's file is refused by the checker
    outputs_of_no_node      onnxscript renames the input
    awkward_names           onnxruntime raises
    bomb                    onnxsim takes more than a minute, onnxslim twelve seconds
    doubling                the files of onnxsim, onnxslim, onnxscript and onnxruntime are eight times as long

The remaining models are what they had trouble with in earlier versions: attributes that the opset does not have.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from anyir.api import load, save
from anyir.driver.flow import optimize
from anyir.kernels.compare import compare, limits_for
from anyir.kernels.jit import interpreted
from anyir.kernels.run import run
from anyir.tests.support.peer_models import MODELS, feeds_of, sorted_branches
from onnx.reference import ReferenceEvaluator

#: What a file of a few nodes may grow by for names and types, in bytes.
SLACK = 256


def count(model: onnx.ModelProto) -> int:
    """Nodes but constants, those of subgraphs and functions included."""
    total, pending = 0, [model.graph, *model.functions]
    while pending:
        for node in pending.pop().node:
            total += node.op_type != "Constant"
            for attribute in node.attribute:
                pending += [attribute.g] if attribute.HasField("g") else list(attribute.graphs)
    return total


def outputs(model: onnx.ModelProto, feeds: dict[str, Any], runtime: bool = True) -> list[np.ndarray]:
    """What a model gives: in onnxruntime without its optimisations, or by ONNX's own reference."""
    if not runtime:
        return ReferenceEvaluator(model).run(None, feeds)  # type: ignore[return-value]
    ort = pytest.importorskip("onnxruntime")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def original(name: str) -> onnx.ModelProto:
    """The model, or one of the same meaning that runtimes take."""
    return sorted_branches() if name == "unsorted_branches" else MODELS[name]()


def feeds(name: str, seed: int) -> dict[str, Any]:
    made = feeds_of(MODELS[name](), seed)
    return made | {"steps": np.array(3, np.int64)} if "steps" in made else made


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The file that comes out of a model."""
    folder = tmp_path_factory.mktemp("peers")

    def made(name: str) -> Path:
        path = folder / f"{name}.out.onnx"
        if not path.exists():
            onnx.save(MODELS[name](), folder / f"{name}.onnx")
            module = load(folder / f"{name}.onnx")
            optimize(module, 2)
            save(module, path)
        return path

    return made


every_model = pytest.mark.parametrize("name", MODELS)


@every_model
def test_what_is_written_is_valid_and_no_larger(name: str, written: Any) -> None:
    made, source = onnx.load(written(name)), MODELS[name]()
    onnx.checker.check_model(made, full_check=True)
    assert count(made) <= count(source)
    assert written(name).stat().st_size <= 1.05 * source.ByteSize() + SLACK
    assert [i.name for i in made.graph.output] == [i.name for i in source.graph.output]
    given = {i.name for i in source.graph.initializer}
    inputs = [i.name for i in source.graph.input]
    assert [i.name for i in made.graph.input] in (inputs, [name for name in inputs if name not in given])


@every_model
@pytest.mark.parametrize("seed", [0, 1])
def test_it_computes_what_the_original_does(name: str, seed: int, written: Any) -> None:
    """Judged by the reference kernels on the original, which agree with a runtime on it, within the limits computed there."""
    fed, runtime = feeds(name, seed), name != "awkward_names"
    source = load(original(name))
    with interpreted():
        truth, limits = run(source, fed), limits_for(source, fed)
    for model, by_runtime in ((original(name), runtime), (onnx.load(written(name)), True)):
        report = compare(truth, dict(zip(truth, outputs(model, fed, by_runtime), strict=True)), limits)
        assert report.passed, str(report)


def test_batch_norms_vanish_where_they_can(written: Any) -> None:
    """Two behind a convolution go, one behind an activation goes forward into the next; the one before padding stays."""
    types = [node.op_type for node in onnx.load(written("batch_norms")).graph.node]
    assert types.count("BatchNormalization") <= 2 and types.count("Conv") == 2


def test_branches_share_their_weights(written: Any) -> None:
    made = onnx.load(written("branches_with_weights"))
    branches = [a.g for node in made.graph.node for a in node.attribute if a.HasField("g")]
    assert len(branches) == 2 and not any(branch.initializer for branch in branches)
    assert all(node.op_type != "Constant" for branch in branches for node in branch.node)


def test_what_is_tiled_stays_tiled(written: Any) -> None:
    assert "Tile" in [node.op_type for node in onnx.load(written("doubling")).graph.node]
