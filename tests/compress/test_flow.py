"""The flow of a compression: order, data, measuring, limits, provenance, and that nothing half-done stays behind."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import anyir
import numpy as np
import onnx
import pytest
from anyir.compress import flow, report
from anyir.compress.recipe import Budget, Limits, Recipe, find_recipe, parse_recipe
from anyir.driver.compression import CompressReport
from anyir.driver.flow import CheckFailed
from anyir.ir.errors import UsageError
from anyir.ir.provenance import notes_of
from anyir.passes.manager import module_pass
from anyir.passes.pipeline import Step
from anyir.tests.support.compress_models import Classifier, classifier
from anyir.tests.support.rules import FOLDER, RuleFile, parse_graphs, single


@module_pass("test-scale", numerics="approx")
def scale(module: Any, ctx: Any, *, by: float = 1.0, where: str = "") -> None:
    """Every trained matrix times `by`; what it saw goes into the records."""
    seen = [] if ctx.data is None else [len(next(iter(feeds.values()))) for feeds in ctx.data.batches()]
    for weight in list(module.weights):
        if len(weight.type.shape) == 2:
            module.set_weight(weight, (weight.tensor.numpy() * np.float32(by)).astype(np.float32))
    ctx.records.append({"pass": "test-scale", "seen": sum(seen), "layer": "fc1.weight", "sqnr": 3.5})
    ctx.notes.append("scaled")


@module_pass("test-shift", numerics="approx")
def shift(module: Any, ctx: Any, *, by: float = 0.0) -> None:
    """The last bias plus `by` times its place: answers change."""
    weight = module.weights["fc2.bias"]
    module.set_weight(weight, weight.tensor.numpy() + np.arange(5, dtype=np.float32) * np.float32(by))


@pytest.fixture
def net(tmp_path: Path) -> Classifier:
    return classifier(tmp_path)


def recipe(*steps: Step, **parts: Any) -> Recipe:
    return Recipe("test", steps, **parts)


SCALE = recipe(Step("test-scale", {"by": 0.5}))


def compress(net: Classifier, given: Any, output: Path | None = None, **options: Any) -> CompressReport:
    return anyir.compress(net.path, output, recipe=given, data=net.data, **options)


def test_what_is_measured_is_what_the_step_did(net: Classifier) -> None:
    done = compress(net, recipe(Step("test-shift", {"by": 0.25}))).result
    shifted = net.path.parent / "held-out"
    assert not shifted.exists()
    loss = done.loss
    assert loss.samples == 200 and loss.labelled and loss.given
    assert loss.outputs[0].max_abs == pytest.approx(1.0, abs=1e-5)
    assert loss.judged.right[0].value == 1.0
    assert loss.drop == pytest.approx(100 * (1 - loss.judged.right[1].value)) and loss.drop > 0
    assert [(s.text, s.changed) for s in done.steps] == [("test-shift{by=0.25}", True)]


def test_layers_tell_own_and_total_error(net: Classifier) -> None:
    first, second = compress(net, SCALE).result.layers
    assert first.name == "fc1.weight" and second.name == "fc2.weight"
    assert first.sensitivity == 3.5 and second.sensitivity is None
    assert first.own == first.total < 10
    assert second.own == pytest.approx(6.02, abs=0.01)  # half of the signal is gone
    assert second.total < second.own
    assert (first.macs, second.macs) == ((24 * 96, 24 * 96), (96 * 5, 96 * 5))


def test_layers_are_compared_with_what_lossless_steps_made_of_them(net: Classifier) -> None:
    """equalize scales hidden units: values of the source are no measure then, those of the equalised net are."""
    equalized = compress(net, recipe(Step("equalize"))).result
    assert [layer.own for layer in equalized.layers] == [math.inf, math.inf]
    assert not np.array_equal(*(m.weights["fc1.weight"].tensor.numpy() for m in (equalized.source, equalized.module)))
    before = compress(net, recipe(Step("quantize"))).result.layers
    after = compress(net, recipe(Step("equalize"), Step("quantize"))).result.layers
    assert all(a.own > b.own - 3 > 25 for a, b in zip(after, before, strict=True))
    late = compress(net, recipe(Step("test-scale", {"by": 0.5}), Step("equalize"))).result
    assert late.layers[0].own is None and "layers are not compared: equalize came after a lossy step" in late.notes


def test_calibration_and_evaluation_have_no_sample_in_common(net: Classifier) -> None:
    module = anyir.load(net.path)
    data, evaluation = flow.open_sets(module, SCALE, net.data)
    seen = {row.tobytes() for feeds in data.batches() for row in feeds["x"]}
    held = [row.tobytes() for feeds in evaluation.batches() for row in feeds["x"]]
    assert len(seen) == data.count == 200 and len(held) == evaluation.count == 200
    assert not seen & set(held)
    done = compress(net, SCALE).result
    assert done.records[0]["seen"] == 200 and done.calibration.digest == data.digest
    assert done.loss.digest == evaluation.digest != data.digest


def test_other_data_to_evaluate_must_be_other_data(net: Classifier, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="samples in common"):
        compress(net, SCALE, eval_data=net.data)
    other = classifier(tmp_path, name="other", samples=30)
    done = compress(net, SCALE, eval_data={"x": other.x + 1, "labels": other.labels}, samples=50).result
    assert done.calibration.count == 50 and done.loss.samples == 30


@pytest.mark.parametrize(
    ("available", "calibrate", "evaluate", "expected"),
    [(1000, 200, 64, (200, 64)), (264, 200, 64, (200, 64)), (100, 200, 64, (75, 25)), (4, 200, 64, (3, 1)),
     (2, 200, 64, (1, 1)), (1, 200, 64, (1, 0)), (210, 200, 64, (158, 52)), (0, 200, 64, (0, 0))],
)  # fmt: skip
def test_too_few_samples_are_shared_out(available: int, calibrate: int, evaluate: int, expected: Any) -> None:
    assert flow.shared_out(available, calibrate, evaluate) == expected


def test_one_sample_is_not_enough(net: Classifier) -> None:
    with pytest.raises(UsageError, match="is not enough"):
        anyir.compress(net.path, recipe=SCALE, data={"x": net.x[:1]})


def test_the_callers_module_and_the_source_stay_as_they_are(net: Classifier) -> None:
    module = anyir.load(net.path)
    before = module.clone()
    done = anyir.compress(module, recipe=SCALE, data=net.data)
    assert module == before and done.module != before
    assert done.result.source == before


def test_without_data_random_inputs_tell_what_layers_do(net: Classifier) -> None:
    done = anyir.compress(net.path, recipe=SCALE).result
    assert done.calibration is None and not done.loss.given
    assert done.loss.on == "8 inputs of random numbers"
    assert done.layers[1].own == pytest.approx(6.02, abs=0.01)


@pytest.mark.parametrize("limits", [{"drop": 1}, {"cosine": 0.9}])
def test_limits_need_data(net: Classifier, limits: Any) -> None:
    with pytest.raises(UsageError, match="limits of the loss need samples") as error:
        anyir.compress(net.path, recipe=SCALE, limits=limits)
    assert error.value.code == "R024"


def test_what_cannot_do_without_data_says_so_before_it_starts(net: Classifier) -> None:
    quantized = recipe(Step("quantize"))
    assert str(flow.needs_data(quantized)) == "quantize"
    assert flow.needs_data(recipe(Step("quantize", {"activations": "dynamic"}))) is None
    with pytest.raises(UsageError, match="needs samples of the model's inputs") as error:
        anyir.compress(net.path, recipe=quantized)
    assert error.value.code == "R024" and "--quantize dynamic" in error.value.hint


def test_unknown_layers_are_told_before_anything_runs(net: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow, "_run", lambda *_: pytest.fail("a step ran"))
    with pytest.raises(
        UsageError, match=r"step test-scale: .*fits no layer.*name=fc1.wieght \(near: fc1.weight"
    ) as error:
        compress(net, recipe(Step("test-scale", {"where": "name=fc1.wieght"})))
    assert error.value.code == "R022"
    with pytest.raises(UsageError, match="near: fc2.weight"):
        compress(net, recipe(Step("quantize", {"overrides": {"name=fc2.weigh": "float"}})))


# ------------------------------------------------------------------------------------------------- files and limits


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_file_holds_what_was_compressed_and_where_it_comes_from(net: Classifier, tmp_path: Path) -> None:
    done = compress(net, SCALE, tmp_path / "out.onnx")
    assert done.verified and "reference kernels" in {check.judge for check in done.checks}
    kept = {p.key: p.value for p in onnx.load(tmp_path / "out.onnx").metadata_props}
    assert json.loads(kept["anyir.recipe"])["steps"] == [{"by": 0.5, "pass": "test-scale"}]
    assert kept["anyir.recipe.sha256"] == SCALE.digest
    assert kept["anyir.calibration"] == done.result.calibration.digest
    assert len(kept["anyir.source.sha256"]) == 64
    again = anyir.run(str(tmp_path / "out.onnx"), {"x": net.x[:4]})["logits"]
    expected = anyir.run(done.module, {"x": net.x[:4]})["logits"]
    np.testing.assert_allclose(again, expected, rtol=1e-6)


def test_every_format_says_where_it_comes_from(net: Classifier, tmp_path: Path) -> None:
    """Recipe, source, calibration data and version, word for word; a model that was not compressed has no such notes."""
    done = compress(net, SCALE)
    told = notes_of(done.module)
    assert told["anyir.recipe"] == SCALE.text and told["anyir.recipe.sha256"] == SCALE.digest
    assert told["anyir.calibration"] == done.result.calibration.digest and told["anyir.version"] == anyir.__version__
    plain = anyir.load(net.path)
    for suffix in ("onnx", "tflite", "mindir", "py", "pt2", "anyir"):
        anyir.save(done.module, tmp_path / f"out.{suffix}")
        assert notes_of(anyir.load(tmp_path / f"out.{suffix}")) == told, suffix
        anyir.save(plain, tmp_path / f"plain.{suffix}")
        assert notes_of(anyir.load(tmp_path / f"plain.{suffix}")) == {}, suffix


def test_the_same_request_gives_the_same_bytes(net: Classifier, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    copy = tmp_path / "sub" / "data.npz"
    copy.write_bytes(net.data.read_bytes())
    for name, data in (("a", net.data), ("b", net.data), ("c", copy)):
        anyir.compress(net.path, tmp_path / f"{name}.onnx", quantize="dynamic", data=data)
    made = {(tmp_path / f"{name}.onnx").read_bytes() for name in "abc"}
    assert len(made) == 1
    anyir.compress(net.path, tmp_path / "d.onnx", quantize="dynamic", data=net.data, seed=1)
    assert (tmp_path / "d.onnx").read_bytes() not in made


@pytest.mark.parametrize(
    ("parts", "what"),
    [
        ({"verify": Limits(drop=0.1)}, "drop in points"),
        ({"verify": Limits(agreement=0.999)}, "agreement"),
        ({"verify": Limits(cosine=0.99999)}, "cosine"),
        ({"verify": Limits(sqnr=90)}, "SQNR in dB"),
        ({"verify": Limits(max_abs=0.5)}, "largest difference"),
        ({"budget": Budget(weights="50%")}, "bytes of weights"),
        ({"budget": Budget(macs=1000)}, "MACs"),
        ({"budget": Budget(file=100)}, "bytes of files"),
    ],
)
def test_a_limit_that_does_not_hold_leaves_nothing(net: Classifier, tmp_path: Path, parts: Any, what: str) -> None:
    output = tmp_path / "out.onnx"
    output.write_text("the old one")
    before = files(tmp_path)
    with pytest.raises(flow.LimitsExceeded, match=what) as error:
        compress(net, recipe(Step("test-shift", {"by": 0.25}), **parts), output)
    assert (error.value.code, error.value.exit_code) == ("N030", 1)
    assert [v.what for v in error.value.result.failed] == [what]
    assert files(tmp_path) == before and output.read_text() == "the old one"


def test_limits_that_hold_are_in_the_report(net: Classifier, tmp_path: Path) -> None:
    wide = {"verify": Limits(drop=100, cosine=-1, max_abs=10), "budget": Budget(file="300%", macs="100%")}
    done = compress(net, recipe(Step("test-shift", {"by": 0.25}), **wide), tmp_path / "out.onnx").result
    assert len(done.verdicts) == 5 and all(v.passed for v in done.verdicts)


def test_a_limit_that_cannot_be_measured_does_not_hold(net: Classifier) -> None:
    done = compress(net, SCALE).result
    done.loss.outputs[0].agreement = done.loss.outputs[0].right = None
    done.recipe = recipe(*SCALE.steps, verify=Limits(drop=50))
    assert [(v.passed, v.found) for v in flow.judge(done)] == [(False, "cannot be measured: no output ranks classes")]


def test_a_backend_that_writes_something_else_is_caught(
    net: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of compression is no excuse: the file must be what was compressed."""
    from anyir.backends import onnx as backend

    write = backend.write

    def wrong(module: Any, path: Any, **options: Any) -> list[str]:
        made = module.clone()
        weight = made.weights["fc2.bias"]
        made.set_weight(weight, weight.tensor.numpy() + np.float32(0.01))
        return write(made, path, **options)

    monkeypatch.setattr(backend, "write", wrong)
    before = files(tmp_path)
    with pytest.raises(CheckFailed, match="other results than the compressed model"):
        compress(net, recipe(Step("test-scale", {"by": 0.5}), verify=Limits(drop=100)), tmp_path / "out.onnx")
    assert files(tmp_path) == before


def test_a_step_that_fails_leaves_nothing(net: Classifier, tmp_path: Path) -> None:
    before = files(tmp_path)
    with pytest.raises(Exception, match="test-shift"):
        compress(net, recipe(Step("test-shift", {"by": "x"})), tmp_path / "out.onnx")
    assert files(tmp_path) == before


def test_passes_are_no_option(net: Classifier) -> None:
    with pytest.raises(UsageError, match="takes a recipe, not passes"):
        anyir.compress(net.path, passes="dce", recipe=SCALE)


def test_flags_beat_the_recipe_here_too(net: Classifier) -> None:
    given = parse_recipe("schema: 1\noptimize: 1\ndata: {count: 7, seed: 4}\nsteps: [{pass: dce}]\nverify: {drop: 0.1}")
    done = compress(net, given, samples=9, level=2, seed=5, limits={"drop": 3}).result.recipe
    assert (done.data.count, done.level, done.data.seed, done.verify.drop) == (9, 2, 5, 3)
    kept = compress(net, given).result.recipe
    assert (kept.data.count, kept.level, kept.data.seed, kept.verify.drop) == (7, 1, 4, 0.1)


def test_the_package_is_the_function(net: Classifier) -> None:
    import anyir.compress.recipe

    assert callable(anyir.compress) and anyir.compress.recipe.find_recipe is find_recipe
    assert isinstance(anyir.compress(net.path, recipe=SCALE), CompressReport)


def test_long_steps_tell_how_far_they_are(net: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow, "PATIENCE", 0.0)
    told: list[tuple[str, str]] = []
    compress(net, SCALE, progress=lambda stage, text: told.append((stage, text)))
    assert ("test-scale", "200/200 samples") in told
    assert any(stage == "evaluate" for stage, _ in told)


# ------------------------------------------------------------------------------------------------------------ report


def test_the_report_is_json_and_says_what_was_asked(net: Classifier) -> None:
    done = compress(net, SCALE)
    made = json.loads(json.dumps(report.as_json(done.result), allow_nan=False))
    assert made["recipe"]["sha256"] == SCALE.digest and made["report"] == 1
    assert [layer["name"] for layer in made["layers"]] == ["fc1.weight", "fc2.weight"]
    assert made["loss"]["outputs"][0]["right_after"]["count"] == 200
    assert made["records"][0]["sqnr"] == 3.5
    assert "loss" in str(done) and "same answer" in str(done)


def test_zeros_that_save_nothing_are_said_to(net: Classifier) -> None:
    module = anyir.load(net.path)
    weight = module.weights["fc1.weight"]
    array = weight.tensor.numpy().copy()
    array.reshape(-1)[::2] = 0
    module.set_weight(weight, array)
    done = anyir.compress(module, recipe=recipe(Step("dce"))).result
    told = report.remarks(done)
    assert "no speed-up expected" in told[0] and "1 layer with 30 to 50 % zeros" in told[0]
    count = array.size
    assert report.sparse_sizes(done.module)["sparse"] == count // 8 + count // 2 * 4
    assert f"{count * 4} bytes as written" in told[1]
    assert told[-1] == "dce changed nothing"


def test_weights_alone_are_said_to_be_no_faster(net: Classifier) -> None:
    done = anyir.compress(net.path, quantize="int8-weights", data=net.data).result
    assert any("2 layers computing in float (i8 weights): smaller, not faster" in text for text in report.remarks(done))
    assert report.coverage(done.layers) is None
    assert done.weight_bytes[1] < 0.4 * done.weight_bytes[0]


def test_queries_keys_and_values_stay_layers_of_their_own() -> None:
    rule = RuleFile(FOLDER / "merge-heads" / "merge_heads.anyir")
    module = single(parse_graphs(rule.source), "hit_queries_keys_values")
    layers = {w.key for w in flow.prepared(module.clone(), Recipe()).weights if w.type.rank == 2}
    assert layers == {"wq", "wk", "wv"} != {w.key for w in anyir.optimize(module).weights if w.type.rank == 2}
