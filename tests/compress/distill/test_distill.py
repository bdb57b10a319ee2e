"""Whole runs: what is learned, what comes back, every kind of data, and how runs end."""

from __future__ import annotations

import json
from typing import Any

import anyir
import numpy as np
import pytest
import torch
from anyir.compress.distill import DKD, KD, Hint, distill
from anyir.compress.distill.report import sparkline
from anyir.ir.builder import Builder
from anyir.ir.dims import sym
from anyir.ir.errors import AnyIRError, InvalidData, Unsupported, UsageError
from anyir.ir.graph import Module
from anyir.ir.ops import get_op
from anyir.ir.types import F32, I64, TensorType
from anyir.kernels.rounding import TAIL
from anyir.kernels.run import run
from anyir.tests.support.distillation import accuracy, mlp, points
from torch.utils.data import DataLoader, TensorDataset

X, Y = points(768, 0)
X_TEST, Y_TEST = points(512, 1)
TEST = {"x": X_TEST, "labels": Y_TEST}
QUICK: dict[str, Any] = {"epochs": 6, "rate": 0.02, "batch": 64}


@pytest.fixture(scope="module")
def teacher() -> Module:
    """A net that has learned from the labels alone: our own loop is its trainer."""
    start = mlp((4, 48, 48, 3), 1, name="teacher")
    report = distill(start, start, {"x": X, "labels": Y}, losses="labels", epochs=25, rate=0.01)
    assert report.module is not None and accuracy(report.module, X_TEST, Y_TEST) > 0.9
    assert report.losses == ["labels"] and report.metric == ""
    return report.module


@pytest.fixture
def student() -> Module:
    return mlp((4, 12, 3), 2, name="student")


def weights_of(module: Module | None) -> dict[str, np.ndarray]:
    assert module is not None
    return {w.key: w.tensor.numpy() for w in module.weights}


def same(a: Module | None, b: Module | None) -> bool:
    one, two = weights_of(a), weights_of(b)
    return one.keys() == two.keys() and all(np.array_equal(one[key], two[key]) for key in one)


def test_a_student_learns_without_labels(teacher: Module, student: Module) -> None:
    """From the teacher's logits alone; both modules stay as they were, and the report has the curves."""
    before = weights_of(student.clone()), weights_of(teacher.clone())
    report = distill(teacher, student, X, eval_data=X_TEST, **QUICK)
    assert report.metric == "agreement" and report.after > report.before + 0.2
    agreed = run(report.module, [X_TEST])["y"].argmax(-1) == run(teacher, [X_TEST])["y"].argmax(-1)
    assert report.after == pytest.approx(agreed.mean())
    assert [row["epoch"] for row in report.epochs] == list(range(7)) and report.steps == 72 == report.curve[-1]["step"]
    assert report.curve[-1]["loss"] < 0.75 * report.curve[0]["loss"]
    assert report.check["passed"] and report.check["max_abs"] <= report.check["limit"]
    assert {len(str(line)) for line in str(report).splitlines() if line.startswith("  loss")} and "agreement" in str(
        report
    )
    json.dumps(report.as_dict(), allow_nan=False)
    for module, kept in zip((student, teacher), before, strict=True):
        assert all(np.array_equal(array, kept[key]) for key, array in weights_of(module).items())


def test_equal_runs_give_equal_bits(teacher: Module, student: Module) -> None:
    short = {**QUICK, "epochs": 2}
    first, second = (distill(teacher, student, {"x": X, "labels": Y}, **short) for _ in range(2))
    assert same(first.module, second.module) and first.curve == second.curve
    assert first.losses == ["kd{weight=0.9}", "labels{weight=0.1}"]
    assert not same(first.module, distill(teacher, student, {"x": X, "labels": Y}, **short, seed=1).module)


def test_the_best_weights_come_back(teacher: Module, student: Module) -> None:
    """A rate that ruins the student: epoch 0, the student as it came, is the best."""
    good = distill(teacher, student, X, eval_data=TEST, **QUICK).module
    report = distill(
        teacher, good, X, eval_data=TEST, epochs=2, rate=5.0, optimizer="sgd", schedule="constant", clip_norm=1.0
    )
    assert report.best == 0 and same(report.module, good) and report.after == report.before
    assert report.metric == "accuracy" and report.after == pytest.approx(accuracy(good, X_TEST, Y_TEST))


LOADERS = {
    "arrays": lambda: {"x": X, "labels": Y},
    "function": lambda: lambda: ((X[i : i + 50], Y[i : i + 50]) for i in range(0, len(X), 50)),
    "loader": lambda: DataLoader(TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)), 32, shuffle=True),
    "seeded loader": lambda: DataLoader(
        TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)), 32, True, generator=torch.Generator().manual_seed(3)
    ),
}


@pytest.mark.parametrize("kind", list(LOADERS))
def test_every_source_of_data(kind: str, teacher: Module, student: Module) -> None:
    """And each gives the same weights again: shuffling of a DataLoader goes by our seed."""
    torch.manual_seed(77)
    state = torch.get_rng_state()
    made = [distill(teacher, student, LOADERS[kind](), eval_data=TEST, **{**QUICK, "epochs": 3}) for _ in range(2)]
    assert made[0].after > made[0].before + 0.1 and same(made[0].module, made[1].module)
    assert made[0].samples == len(X) and made[0].steps == 36
    assert torch.equal(torch.get_rng_state(), state), "the caller's generator is left alone"


def test_a_number_of_samples_to_evaluate_on(teacher: Module, student: Module) -> None:
    report = distill(teacher, student, {"x": X, "labels": Y}, eval_data=100, **{**QUICK, "epochs": 1})
    assert report.samples == len(X) - 100 and report.metric == "accuracy"
    with pytest.raises(UsageError, match="768 of 768 different samples"):
        distill(teacher, student, X, eval_data=768)
    with pytest.raises(UsageError, match="in common"):
        distill(teacher, student, X, eval_data=np.concatenate([X_TEST, X[5:6]]))


def test_every_loss_teaches(teacher: Module, student: Module) -> None:
    """DKD, standardised KD, mse, and hints with a regressor where widths differ (12 and 48)."""
    hint = Hint(0.1, teacher="hidden0", student="hidden0")
    for losses in ("dkd{warmup=1,beta=2}", "kd{standardize=true,temperature=2}", "mse", [KD(temperature=2.0), hint]):
        report = distill(teacher, student, {"x": X, "labels": Y}, eval_data=TEST, losses=losses, metric="loss", **QUICK)
        assert report.after < 0.7 * report.before, losses
    assert set(report.curve[0]) == {"step", "epoch", "loss", "kd", "hint", "rate", "steps"}
    assert weights_of(report.module).keys() == weights_of(student).keys(), "the regressor stays behind"


def test_hints_name_layers_too(teacher: Module, student: Module) -> None:
    both = [distill(teacher, student, X, losses=["kd", Hint(teacher=t, student=s)], epochs=1) for t, s in (
        ("fc0", "fc0"), ("fc0.weight", "fc0.weight"),
    )]  # fmt: skip
    assert same(both[0].module, both[1].module)
    with pytest.raises(UsageError, match="no value or layer 'fc7'"):
        distill(teacher, student, X, losses=Hint(teacher="fc7", student="fc0"))


def test_softmax_at_the_end_is_looked_through(teacher: Module, student: Module) -> None:
    """Teacher and student that return probabilities give the same weights as those that return logits."""
    softened = []
    for module in (teacher, student):
        made = module.clone()
        b = Builder(made.main)
        made.main.set_outputs([b.softmax(made.main.outputs[0], axis=-1)])
        softened.append(made)
    first = distill(teacher, student, {"x": X, "labels": Y}, epochs=1)
    second = distill(*softened, {"x": X, "labels": Y}, epochs=1)
    assert same(first.module, second.module)


def test_a_teacher_that_torch_cannot_express(teacher: Module, student: Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs on the kernels, each sample once, and a note says so."""
    from anyir.compress.distill import teacher as teaching

    asked = []
    monkeypatch.setattr(teaching, "run", lambda *a: asked.append(1) or run(*a))
    graph = teacher.clone()
    b = Builder(graph.main)
    y = graph.main.outputs[0]
    branch, other = graph.new_region("then"), graph.new_region("else")
    for region in (branch, other):
        region.set_outputs([region.add_input(y.type)])
    always = b.less(b.reduce_sum(b.mul(y, 0.0), keepdims=False), 1.0)
    graph.main.set_outputs([b.make(get_op("if"), (always, y), {}, (branch, other)).results[0]])
    report = distill(graph, student, X[:64], epochs=3, rate=0.02)
    assert len(asked) == 64 and "reference kernels" in report.notes[0]
    direct, spread = (
        weights_of(distill(t, student, X[:64], epochs=3, rate=0.02).module) for t in (teacher, rounded(teacher))
    )
    for key, array in weights_of(report.module).items():
        assert np.abs(array - direct[key]).max() <= TAIL * np.abs(spread[key] - direct[key]).max(), key


def rounded(module: Module) -> Module:
    """With every weight moved by up to one unit in the last place, as another order of sums would move its results."""
    made, rng = module.clone(), np.random.default_rng(0)
    for weight in made.weights:
        array = weight.tensor.numpy()
        moved = array * (1 + rng.uniform(-1, 1, array.shape) * np.finfo(array.dtype).eps)
        made.set_weight(weight, moved.astype(array.dtype))
    return made


def test_batch_norms_move_or_not(teacher: Module) -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.BatchNorm1d(16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
    student = anyir.load(net.eval(), inputs=(torch.zeros(2, 4),), names=["x"])
    moved = distill(teacher, student, X, eval_data=X_TEST, **QUICK)
    frozen = distill(teacher, student, X, eval_data=X_TEST, norms="freeze", **QUICK)
    assert moved.after > moved.before and frozen.after > frozen.before
    assert np.abs(weights_of(moved.module)["1.running_mean"]).max() > 0
    assert np.abs(weights_of(frozen.module)["1.running_mean"]).max() == 0


def test_one_sample_alone_makes_no_batch(teacher: Module) -> None:
    """65 samples in batches of 64: the last one waits, for it has no statistics of its own."""
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 3)).eval()
    student = anyir.load(net, inputs=(torch.zeros(2, 4),), names=["x"])
    assert distill(teacher, student, X[:65], epochs=2).steps == 2
    assert distill(teacher, student, X[:66], epochs=2).steps == 4


def test_augmentation_is_seeded(teacher: Module, student: Module) -> None:
    def noisy(feeds: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
        return {"x": feeds["x"] + rng.normal(0, 0.05, feeds["x"].shape).astype(np.float32)}

    made = [distill(teacher, student, X, augment=noisy, epochs=2) for _ in range(2)]
    assert same(made[0].module, made[1].module) and not same(
        made[0].module, distill(teacher, student, X, epochs=2).module
    )
    for wrong, message in (
        (lambda f, r: {}, "dict of the inputs"),
        (lambda f, r: {"x": f["x"].astype("f8")}, "float64"),
        (lambda f, r: 1 / 0, "ZeroDivisionError"),
    ):
        with pytest.raises(UsageError, match=message):
            distill(teacher, student, X, augment=wrong)


def test_a_run_that_diverges_stops_and_keeps_the_best(teacher: Module, student: Module) -> None:
    good = distill(teacher, student, X, eval_data=TEST, **QUICK).module
    report = distill(
        teacher, good, X, eval_data=TEST, losses="mse", optimizer="sgd", rate=1e30, epochs=3, schedule="constant"
    )
    assert report.stopped.startswith("epoch 1, step") and ("inf" in report.stopped or "nan" in report.stopped)
    assert same(report.module, good) and "stopped" in str(report)
    json.dumps(report.as_dict(), allow_nan=False)
    without = distill(teacher, good, X, losses="mse", optimizer="sgd", rate=1e30, schedule="constant")
    assert same(without.module, good)


def test_every_tensor_says_where_it_lies(teacher: Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU what says no device lies on the CPU. Here what says none lies nowhere: a step that made one would fail."""
    from anyir.compress.distill.loop import Trainer

    losses = Trainer.losses

    def elsewhere(self: Trainer, batch: Any) -> Any:
        with torch.device("meta"):
            return losses(self, batch)

    monkeypatch.setattr(Trainer, "losses", elsewhere)
    small = mlp((4, 12, 3), 2, softmax=True)
    b = Builder(small.main)
    (made,) = small.main.outputs
    positions = b.cast(b.range(np.int64(0), b.squeeze(b.shape(made, start=0, end=1), (0,)), np.int64(1)), to=F32)
    small.main.set_outputs([b.add(made, b.mul(b.unsqueeze(positions, (1,)), 0.0))])
    dynamic = mlp((4, 12, 3), 2)
    for student in (small, dynamic, rounding(dynamic)):
        for choice in (
            ["kd", "labels", "mse", Hint(teacher="fc0", student="fc0")],
            ["dkd{warmup=1}", "kd{standardize=true}"],
        ):
            report = distill(teacher, student, {"x": X[:64], "labels": Y[:64]}, losses=choice, epochs=1)
            assert not report.stopped and report.steps == 1


def rounding(module: Module) -> Module:
    """With inputs that are quantised by their own range."""
    made = module.clone()
    (node,) = (user for user in made.main.inputs[0].users if user.name == "gemm")
    b = Builder(made.main, before=node)
    node.set_operand(0, b.dequantize(*b.dynamic_quantize(made.main.inputs[0]), to=F32))
    return made


def test_a_gpu_is_taken_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from anyir.compress.distill.loop import device_of

    for there, wanted in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert (device_of("auto").type, device_of("cpu").type) == (wanted, "cpu")
    with pytest.raises(UsageError, match="no GPU"):
        device_of("cuda")


# ------------------------------------------------------------------------------------------------ refusals


def token_model(classes: int) -> Module:
    module = Module("tokens")
    graph = module.add_graph("main")
    b = Builder(graph)
    ids = graph.add_input(TensorType(I64, (sym("N"), 4)), "x")
    table = b.const(np.ones((9, classes), np.float32), key="table", role="param")
    graph.set_outputs([b.reduce_mean(b.gather(table, ids, axis=0), (1,), keepdims=False)])
    module.add_signature("main", graph, ["x"], ["y"])
    return module


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: mlp((4, 8, 5), 0), r"output 'y' is f32\[N, 5\], the teacher's 'y' f32\[N, 3\]"),
        (lambda: mlp((6, 8, 3), 0), r"input 'x' is f32\[N, 6\], the teacher's 'x' f32\[N, 4\]"),
        (lambda: token_model(3), r"input 'x' is i64\[N, 4\]"),
    ],
)
def test_interfaces_that_differ_are_shown(other: Any, message: str, teacher: Module) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        distill(
            teacher,
            other(),
            np.zeros((8, 4), np.int64)
            if "i64" in message
            else np.zeros((8, 6), np.float32)[:, : 6 if "6" in message else 4],
        )
    assert caught.value.code == "N003" and "teacher inputs" in str(caught.value)


def test_another_number_of_outputs_is_shown(teacher: Module, student: Module) -> None:
    two = teacher.clone()
    two.main.set_outputs([*two.main.outputs, two.main.outputs[0]])
    two.signatures.clear()
    two.add_signature("main", two.main, ["x"], ["a", "b"])
    with pytest.raises(UsageError, match="1 outputs, the teacher 2"):
        distill(two, student, X)


def test_interfaces_go_by_position_where_names_differ(teacher: Module, student: Module) -> None:
    renamed = teacher.clone()
    renamed.signatures.clear()
    renamed.add_signature("main", renamed.main, ["image"], ["logits"])
    assert same(distill(renamed, student, X, epochs=1).module, distill(teacher, student, X, epochs=1).module)


def test_data_and_losses_that_do_not_fit(teacher: Module, student: Module) -> None:
    cases: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
        (X[:0], {}, InvalidData, "no sample"),
        ([], {}, InvalidData, "no sample"),
        ({"x": np.full((8, 4), np.nan, np.float32)}, {}, InvalidData, "NaN"),
        (X, {"losses": "labels"}, InvalidData, "the data has none"),
        ({"x": X, "labels": Y + 2}, {}, InvalidData, "labels from 2 to 4 for 3 classes"),
        ({"x": X, "labels": np.stack([Y, Y], 1)}, {}, InvalidData, "labels \\[64, 2\\] for logits \\[64, 3\\]"),
        (X, {"losses": "kd{output=z}"}, UsageError, "no output 'z'"),
        (X, {"eval_data": X_TEST, "metric": "accuracy"}, UsageError, "wants labels"),
        (X, {"epochs": 1, "patience": 3}, UsageError, "no option 'patience'"),
        (X, {"resume": True}, UsageError, "resume needs the checkpoint"),
    ]
    for data, options, kind, message in cases:
        with pytest.raises(kind, match=message):
            distill(teacher, student, data, **options)
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="no GPU"):
            distill(teacher, student, X, device="cuda")
        assert distill(teacher, student, X, device="auto", epochs=1).device == "cpu"


def raising() -> Any:
    yield X[:8]
    raise OSError("the disk is gone")


HOSTILE: dict[str, tuple[Any, dict[str, Any], str]] = {
    "evaluation data of another shape": (X, {"eval_data": X[:, :3]}, r"input 'x' is \[3\], the model wants"),
    "no evaluation data": (X, {"eval_data": X[:0]}, "no sample"),
    "fewer than no samples to evaluate on": (X, {"eval_data": -1}, "-1 of 768"),
    "a source that fails": (raising, {}, "OSError: the disk is gone"),
    "a source of nothing": (lambda: iter(()), {}, "no sample"),
    "a source of no arrays": (lambda: iter([None]), {}, "numbers are expected"),
    "other sources": (object(), {}, "data cannot come from object"),
    "too few labels": ({"x": X, "labels": Y[:5]}, {}, "5 labels for 768 samples"),
    "infinite data": (np.full((8, 4), np.inf, np.float32), {}, "NaN or infinity"),
    "no loss": (X, {"losses": 3}, "a int is no loss"),
    "a checkpoint in no folder": (X, {"checkpoint": "nowhere/state"}, "cannot write"),
}


@pytest.mark.parametrize("case", list(HOSTILE))
def test_hostile_requests_are_clear_errors(case: str, teacher: Module, student: Module) -> None:
    """Nothing of the student changes, and only errors of ours come out."""
    data, options, message = HOSTILE[case]
    before = weights_of(student.clone())
    with pytest.raises(AnyIRError, match=message):
        distill(teacher, student, data, **{"epochs": 1, **options})
    assert all(np.array_equal(array, before[key]) for key, array in weights_of(student).items())


@pytest.mark.parametrize("who", ["teacher", "student"])
def test_models_that_give_nan_are_told_apart_from_training(who: str, teacher: Module, student: Module) -> None:
    """The run ends at once, the student is what it was, and the report says that training is not to blame."""
    models = {"teacher": teacher.clone(), "student": student.clone()}
    weight = models[who].weights["fc0.weight"]
    models[who].set_weight(weight, np.full(weight.tensor.shape, np.nan, np.float32))
    report = distill(models["teacher"], models["student"], X[:64], epochs=1)
    assert "nothing was trained yet: teacher or student gives no finite numbers" in report.stopped
    assert all(
        np.array_equal(array, weights_of(report.module)[key], equal_nan=True)
        for key, array in weights_of(models["student"]).items()
    )


def test_a_student_without_parameters_is_refused(teacher: Module) -> None:
    fixed = mlp((4, 8, 3), 0)
    for weight in fixed.weights:
        weight.role = "const"
    with pytest.raises(Unsupported, match="no weights to train"):
        distill(teacher, fixed, X)


def test_models_that_are_no_classifiers_match_outputs() -> None:
    """[N, 1] has no classes: mse is the default."""
    report = distill(mlp((4, 16, 1), 3), mlp((4, 4, 1), 4), X, eval_data=X_TEST, **QUICK)
    assert report.losses == ["mse{output=y}"] and report.metric == "loss" and report.after < report.before
    with pytest.raises(UsageError, match="no classes"):
        distill(mlp((4, 16, 1), 3), mlp((4, 4, 1), 4), X, losses="kd")
    assert DKD().kind == "dkd"


def test_sparklines() -> None:
    assert sparkline([0.0, 1.0]) == "▁█" and sparkline([]) == "" and sparkline([2.0, 2.0]) == "▁▁"
    assert len(sparkline(list(range(1000)))) == 40 and sparkline(list(range(8))) == "▁▂▃▄▅▆▇█"
    assert sparkline([1.0, float("inf"), 2.0]) == "▁█"
