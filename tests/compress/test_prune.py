"""The pass `prune`: how much goes and where, what is refused, and that every frontend's model leaves by every backend."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from anyir.api import load, optimize, save
from anyir.compress import refine
from anyir.compress.data import open_data
from anyir.ir.builder import Builder
from anyir.ir.cost import macs
from anyir.ir.errors import UsageError
from anyir.ir.graph import Module
from anyir.ir.verify import verify
from anyir.kernels.run import run
from anyir.passes.manager import Context, run_pipeline
from anyir.tests.support import networks
from anyir.tests.support.judge import assert_agrees
from anyir.tests.support.text import module

RNG = np.random.default_rng(2)


def mlp(*sizes: int) -> Module:
    """Dense layers of these sizes with relu between them; weights w0, w1 ... [out, in]."""
    made = module(f"(%x: f32[N, {sizes[0]}]) {{\n return(%x)\n}}")
    b = Builder(made.main, before=made.main.return_node)
    y = made.main.inputs[0]
    for i, (inside, out) in enumerate(zip(sizes, sizes[1:], strict=False)):
        weight = made.add_weight(f"w{i}", RNG.normal(size=(out, inside)).astype(np.float32), "param")
        bias = made.add_weight(f"b{i}", RNG.normal(size=out).astype(np.float32), "param")
        y = b.gemm(y if i == 0 else b.relu(y), weight, bias, transB=True)
    made.main.set_outputs([y])
    made.signatures.clear()
    made.add_signature("serving_default", made.main, ["x"], ["y"])
    return made


def widths(of: Module) -> list[int]:
    return [weight.tensor.shape[0] for weight in of.used_weights() if weight.key.startswith("w")]


def pruned(of: Module, options: str, data: bool = True) -> Context:
    ctx = Context()
    if data:
        size = of.main.inputs[0].shape[1]
        ctx.data = open_data({"x": np.random.default_rng(0).normal(size=(256, size)).astype(np.float32)}, of)
    run_pipeline(of, f"prune{{{options}}}" if options else "prune", ctx)
    verify(of)
    return ctx


def work(of: Module) -> int:
    return sum(macs(node, {"N": 1}) or 0 for node in of.all_nodes())


def test_a_layer_of_a_hundred_neurons_becomes_one_of_fifty() -> None:
    made = mlp(20, 100, 5)
    ctx = pruned(made, "ratio=0.5,importance=l2")
    assert [w.tensor.shape for w in made.used_weights() if w.key.startswith("w")] == [(50, 20), (5, 50)]
    (row,) = [row for row in ctx.records if "kept" in row]
    assert row == {"pass": "prune", "layer": "w0", "kind": "channel", "units": 100, "kept": 50}


def test_the_weakest_neurons_go() -> None:
    made = mlp(8, 10, 4)
    norms = np.linalg.norm(made.weights["w0"].tensor.numpy(), axis=1)
    expected = made.weights["w0"].tensor.numpy()[np.sort(np.argsort(norms)[3:])]
    pruned(made, "ratio=0.3,recover=false")
    np.testing.assert_array_equal(made.weights["w0"].tensor.numpy(), expected)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("ratio=0.7", [12, 6, 3]),
        ("ratio=0.7,rounds=3", [12, 6, 3]),
        ("ratio=0.99", [1, 1, 3]),
        ("ratio=0.99,min_keep=5", [5, 5, 3]),
        ("ratio=0.7,multiple=8", [16, 8, 3]),
        ("ratio=0.1,multiple=16", [32, 16, 3]),
        ("ratio=0.5,where='weight=w1'", [40, 10, 3]),
        ("ratio=0", [40, 20, 3]),
    ],
)
def test_how_much_of_each_layer_stays(options: str, expected: list[int]) -> None:
    made = mlp(12, 40, 20, 3)
    pruned(made, options)
    assert widths(made) == expected


@pytest.mark.parametrize("importance", ["l1", "l2", "pair", "wanda", "obs", "random"])
def test_a_global_ratio_counts_all_units(importance: str) -> None:
    made = mlp(12, 40, 20, 3)
    pruned(made, f"ratio=0.5,ranking=global,importance={importance}")
    assert sum(widths(made)) == 30 + 3


@pytest.mark.parametrize("ranking", ["local", "global"])
@pytest.mark.parametrize("share", [0.75, 0.5, 0.2])
@pytest.mark.parametrize("rounds", [1, 2])
def test_a_budget_of_macs_is_met_and_used(ranking: str, share: float, rounds: int) -> None:
    made = mlp(30, 80, 60, 5)
    before = work(made)
    ctx = pruned(made, f"macs={share},ranking={ranking},importance=wanda,rounds={rounds}")
    assert share - 0.04 < work(made) / before <= share
    assert f"{100 * work(made) / before:.1f}% of the MACs are left" in ctx.notes[-1]


def test_a_budget_that_cannot_be_met_is_said() -> None:
    made = mlp(30, 40, 30)
    ctx = pruned(made, "macs=0.2,min_keep=20")
    assert widths(made)[0] == 20
    assert any("50.0% of the MACs are left where 20.0% were asked for" in note for note in ctx.notes)


def test_macs_of_a_convolutional_net_are_foretold_exactly() -> None:
    made = load(str(networks.network("cnn", "torch").path))
    optimize(made)
    x = networks.shaped("cnn", "torch", networks.digits()[0][:64])
    before = work(made)
    ctx = Context(data=open_data({made.signature.input_names()[0]: x}, made))
    run_pipeline(made, "prune{macs=0.6,ranking=global,importance=wanda}", ctx)
    told = next(note for note in ctx.notes if "of the MACs are left" in note)
    assert f"{100 * work(made) / before:.1f}%" in told and work(made) <= 0.6 * before


def test_without_data_units_go_and_that_nothing_was_fitted_is_said() -> None:
    made = mlp(12, 40, 3)
    ctx = pruned(made, "", data=False)
    assert widths(made) == [20, 3]
    assert any("nothing is fitted anew" in note for note in ctx.notes)


def test_the_same_seed_gives_the_same_module() -> None:
    first, second = (mlp(12, 40, 3) for _ in range(2))
    for weight in second.weights:
        second.set_weight(weight, first.weights[weight.key].tensor)
    for made in (first, second):
        pruned(made, "importance=obs")
    for weight in first.used_weights():
        np.testing.assert_array_equal(weight.tensor.numpy(), second.weights[weight.key].tensor.numpy())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("ratio=1.0", "less than 1"),
        ("ratio=-0.5", "at least 0"),
        ("macs=0", "more than 0"),
        ("macs=1.5", "at most 1"),
        ("ranking=best", "ranking='best'"),
        ("importance=l3", "importance='l3'"),
        ("rounds=0", "at least 1"),
        ("min_keep=0", "at least 1"),
        ("structure='3:2'", "unknown structure '3:2'"),
        ("structure=none,macs=0.5", "structure=channel"),
        ("structure=none,importance=obs", "ranks whole units"),
        ("where='weight=nothing'", "fits no layer"),
    ],
)
def test_what_makes_no_sense_is_refused(options: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        pruned(mlp(6, 8, 3), options)


@pytest.mark.parametrize("importance", ["wanda", "obs"])
def test_what_looks_at_data_refuses_without(importance: str) -> None:
    for structure in ("channel", "none"):
        with pytest.raises(UsageError):
            pruned(mlp(6, 8, 3), f"importance={importance},structure={structure}", data=False)


def test_a_model_without_hidden_units_says_why() -> None:
    with pytest.raises(UsageError, match="no units that may be removed"):
        pruned(mlp(6, 3), "")


# -------------------------------------------------------------------------------------------------------- single weights


@pytest.mark.parametrize("importance", ["l1", "wanda", "random"])
@pytest.mark.parametrize("structure", ["none", "2:4", "block:4x1"])
def test_half_of_the_weights_become_zero(structure: str, importance: str) -> None:
    made = mlp(16, 20, 4)
    ctx = pruned(made, f"ratio=0.5,structure={structure},importance={importance}")
    for key, size in (("w0", 320), ("w1", 80)):
        array = made.weights[key].tensor.numpy()
        assert (array == 0).sum() == size // 2
        if structure == "2:4":
            assert ((array.reshape(-1, 4) == 0).sum(axis=1) == 2).all()
        if structure == "block:4x1":
            zero = (array == 0).reshape(-1, 4, array.shape[1])
            assert (zero.all(axis=1) | ~zero.any(axis=1)).all()
    rows = {row["layer"]: row for row in ctx.records}
    assert rows["w0"]["zeros"] == 160 and rows["w0"]["bytes"] == 1280 and rows["w0"]["sparse"] == 40 + 640
    assert any("No speed-up is expected" in note for note in ctx.notes)


def test_wanda_keeps_the_means_of_the_outputs() -> None:
    made = mlp(16, 40, 4)
    dense = made.clone()
    ctx = pruned(made, "ratio=0.6,structure=none,importance=wanda")
    assert ctx.data is not None
    (x,) = [np.concatenate([batch["x"] for batch in ctx.data.batches()])]
    gap = run(made, {"x": x})["y"].astype(np.float64) - run(dense, {"x": x})["y"]
    np.testing.assert_allclose(gap.mean(axis=0), 0, atol=1e-5)
    assert np.abs(gap).max() > 0.1


# --------------------------------------------------------------------------------------------- frontends and backends


@pytest.mark.parametrize("source", networks.SOURCES)
@pytest.mark.parametrize("name", ["mlp", "cnn", "transformer"])
def test_every_frontends_model_leaves_by_every_backend(
    name: str, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refine, "STEPS", 60)
    trained = networks.network(name, source)
    made = load(str(trained.path))
    optimize(made)
    (input_,), (output,) = made.signature.input_names(), made.signature.output_names()
    x = networks.shaped(name, source, networks.digits()[0][:1024])
    before = sum(w.nbytes for w in made.used_weights())
    alone = made.clone()
    for one, options in ((made, "importance=obs"), (alone, "importance=obs,recover=false")):
        run_pipeline(one, f"prune{{ratio=0.2,{options}}}", Context(data=open_data({input_: x}, one)))
    verify(made)
    assert sum(w.nbytes for w in made.used_weights()) < 0.85 * before

    def lost(module: Module) -> float:
        found = run(module, {input_: trained.x})[output].argmax(axis=1)
        return float((found != trained.expected.argmax(axis=1)).mean())

    assert lost(made) <= max(lost(alone) / 2, 0.05)  # one of three heads is much for so small a network
    feeds = {input_: np.ascontiguousarray(trained.x[:3])}
    for suffix in (".onnx", ".tflite", ".mindir", ".pt2"):
        path = tmp_path / f"net{suffix}"
        save(made, path)
        again = load(str(path))
        outputs = run(again, list(feeds.values()))
        assert_agrees(made, feeds, dict(zip([output], outputs.values(), strict=True)))
