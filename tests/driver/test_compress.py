"""`irc compress` and `irc recipes`: screens, flags, refusals, and the examples of docs/compress.md."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import anyir
import numpy as np
import onnx
import pytest
from anyir.compress.recipe import names
from anyir.driver.cli import cli
from anyir.tests.driver.conftest import settled
from anyir.tests.support.compress_models import Classifier, classifier

ROOT = Path(anyir.__file__).parent
PAGE = (ROOT / "docs" / "compress.md").read_text(encoding="utf-8")


@pytest.fixture
def net(tmp_path: Path) -> Classifier:
    return classifier(tmp_path)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_screen(irc: Any, net: Classifier, tmp_path: Path, golden: Any) -> None:
    done = irc("compress", "net.onnx", "-o", "out.onnx", "--quantize", "int8-weights", "--data", "net.npz")
    assert done.code == 0
    assert files(tmp_path) == ["net.npz", "net.onnx", "out.onnx"]
    shown = re.sub(r"\d+\.\d s$", "#.# s", settled(f"{done.out}--- stderr\n{done.err}"), flags=re.MULTILINE)
    golden.check("driver/compress.txt", shown)


def test_json_has_everything_and_nothing_else_is_said(irc: Any, net: Classifier) -> None:
    done = irc("compress", "net.onnx", "-o", "out.onnx", "--quantize", "int8-weights", "--data", "net.npz", "--json")
    made = done.json
    assert (made["schema"], made["verb"], made["verified"]) == (1, "compress", True)
    assert made["compression"]["loss"]["samples"] == 200
    assert [layer["bits"] for layer in made["compression"]["layers"]] == [[32, 8], [32, 8]]
    assert made["bytes"]["after"] == Path("out.onnx").stat().st_size
    assert made["zipped"][1] < made["zipped"][0]


def test_the_report_file(irc: Any, net: Classifier) -> None:
    done = irc("compress", "net.onnx", "-o", "out.onnx", "--quantize", "dynamic", "--report", "r.json", "-q")
    assert (done.code, done.out) == (0, "")
    made = json.loads(Path("r.json").read_text())
    assert made["compression"]["recipe"]["name"] == "flags" and len(made["compression"]["layers"]) == 2


def test_a_limit_is_exit_code_1_with_the_tables(irc: Any, net: Classifier, tmp_path: Path) -> None:
    Path("r.yaml").write_text("schema: 1\nextends: int8-weights\nbudget: {weights: 10%}\n")
    before = files(tmp_path)
    done = irc("compress", "net.onnx", "-o", "out.onnx", "--recipe", "r.yaml", "--report", "r.json")
    assert done.code == 1 and "error[N030]: bytes of weights" in done.err and "fc1.weight" in done.out
    assert files(tmp_path) == sorted([*before, "r.json"])
    assert json.loads(Path("r.json").read_text())["limits"][0]["passed"] is False


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["-o", "o.onnx"], "R001", "nothing to do; give --recipe, --quantize, --prune or --clip"),
        (["--quantize", "int8"], "R001", "there is no output"),
        (["-o", "o.onnx", "--quantize", "int8"], "R024", "give --data, or use --quantize dynamic or int8-weights"),
        (["-o", "o.onnx", "--quantize", "int9"], "R001", "there is no quantization 'int9'; did you mean int"),
        (["-o", "o.onnx", "--recipe", "int88"], "R020", "there is no recipe 'int88'; did you mean int8"),
        (["-o", "o.onnx", "--recipe", "no.yaml"], "F100", "no.yaml"),
        (["-o", "o.onnx", "--importance", "l1"], "R001", "--importance goes with --prune"),
        (["-o", "o.onnx", "--quantize", "float16", "--where", "op=cnv"], "R012", "there is no op 'cnv'"),
        (["-o", "o.onnx", "--quantize", "float16", "--where", "name=fc1"], "R022", "near: fc1.weight"),
        (["-o", "o.onnx", "--quantize", "float16", "--max-drop", "1"], "R024", "need samples"),
        (["-o", "o.onnx", "--quantize", "int8", "--data", "nowhere"], "R001", "no file or folder 'nowhere'"),
        (["-o", "net.onnx", "--quantize", "float16"], "R001", "would overwrite the input"),
        (["-o", "o.onnx", "--quantize", "float16", "--keep-worst", "-1"], "R001", "--keep-worst"),
        (["-o", "o.onnx", "--prune", "1.5"], "R001", "prune: ratio is 1.5, expected at least 0 and less than 1"),
    ],
)
def test_refusals_say_what_to_do_and_write_nothing(
    irc: Any, net: Classifier, tmp_path: Path, arguments: list[str], code: str, told: str
) -> None:
    before = files(tmp_path)
    done = irc("compress", "net.onnx", *arguments)
    assert f"error[{code}]" in done.err and told in done.err, done.err
    assert done.code == (4 if code == "F100" else 2) and files(tmp_path) == before


def test_a_dry_run_shows_the_plan_and_writes_nothing(irc: Any, net: Classifier, tmp_path: Path) -> None:
    before = files(tmp_path)
    done = irc("compress", "net.onnx", "--quantize", "int8-weights", "--where", "name=fc2.weight", "--dry-run")
    assert (done.code, done.err) == (0, "") and files(tmp_path) == before
    rows = [line.split() for line in done.out.splitlines() if line.startswith("  fc")]
    assert rows == [
        ["fc1.weight", "gemm", str(96 * 24 * 4 + 96 * 4), str(96 * 24)],
        ["fc2.weight", "gemm", str(5 * 96 * 4 + 5 * 4), str(5 * 96), "quantize"],
    ]
    told = irc("compress", "net.onnx", "--quantize", "int8-weights", "--dry-run", "--json").json
    assert told["steps"].startswith("quantize{") and len(told["layers"]) == 2


def test_recipes_are_listed_shown_and_described(irc: Any) -> None:
    listed = irc("recipes", "--json").json["recipes"]
    assert [row["recipe"] for row in listed] == names()
    assert "int4-weights" in irc("recipes").out
    shown = irc("recipes", "int8").out
    assert shown == (ROOT / "compress" / "recipes" / "int8.yaml").read_text()
    schema = json.loads(irc("recipes", "schema").out)
    assert "verify" in schema["properties"]
    done = irc("recipes", "int80")
    assert done.code == 2 and "did you mean int8" in done.err


def test_what_a_recipe_prints_is_a_recipe(irc: Any, net: Classifier) -> None:
    Path("mine.yaml").write_text(irc("recipes", "int8-weights").out)
    for number, recipe in enumerate(("mine.yaml", "int8-weights")):
        assert irc("compress", "net.onnx", "-o", f"{number}.onnx", "--recipe", recipe).code == 0
    assert onnx.load("0.onnx").graph == onnx.load("1.onnx").graph


@pytest.mark.parametrize(("kind", "data"), [("int8", True), ("dynamic", False)])
def test_onnxruntime_computes_every_layer_in_integers(irc: Any, net: Classifier, kind: str, data: bool) -> None:
    """What the report says is what the runtime does: its own optimised graph has no float product left."""
    made = irc(
        "compress", "net.onnx", "-o", "o.onnx", "--quantize", kind, *(["--data", "net.npz"] * data), "--json"
    ).json
    assert all(layer["arithmetic"].startswith("int8") for layer in made["compression"]["layers"])
    assert re.fullmatch(r"onnxruntime \S+ fuses 2 of 2 layers to integers", made["fused"])


# ------------------------------------------------------------------------------------------------------------- the docs


def commands() -> list[str]:
    """Every `irc compress` line of the page's examples."""
    found = [body for kind, body in re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL) if kind in ("sh", "text")]
    return [line.removeprefix("$ ") for body in found for line in body.splitlines() if "irc compress" in line]


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    for name in ("digits.keras", "digits_test.npz"):
        shutil.copy(ROOT / "examples" / name, tmp_path / name)
    classifier(tmp_path)
    return tmp_path


def ran(irc: Any, line: str) -> Any:
    done = irc(*shlex.split(line)[1:], "--json")
    assert done.code == 0, done.err
    assert done.json["verified"] is True
    return done.json["compression"]


def shape_of(path: str, key: str) -> tuple[int, ...]:
    return anyir.load(path).weights[key].type.shape


@pytest.mark.slow
def test_a_keras_h5_file_becomes_int8_tflite(irc: Any, examples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    import keras

    keras.models.load_model("digits.keras").save("digits.h5")
    assert commands()[0].startswith("irc compress digits.h5 -o digits.tflite --quantize int8")
    made = ran(irc, commands()[0])
    output = made["loss"]["outputs"][0]
    assert output["agreement"]["share"] >= 0.98 and made["loss"]["drop"] <= 1
    assert all(layer["arithmetic"].startswith("int8") for layer in made["layers"])


def test_half_of_the_neurons_go(irc: Any, examples: Path) -> None:
    made = ran(irc, commands()[1])
    assert shape_of("half.onnx", "conv/kernel")[0] == 24
    assert made["macs"][1] < 0.4 * made["macs"][0] and made["loss"]["drop"] < 15
    one = ran(irc, commands()[2])
    assert shape_of("half.onnx", "conv/kernel")[:2] == (24, 24)
    assert one["loss"]["drop"] < 3


def test_half_of_the_weights_become_zero(irc: Any, examples: Path) -> None:
    made = ran(irc, commands()[3])
    weights = [w.tensor.numpy() for w in anyir.load("sparse.onnx").weights if len(w.type.shape) > 1]
    assert sum(np.count_nonzero(w) for w in weights) == pytest.approx(sum(w.size for w in weights) / 2, rel=0.02)
    assert any("no speed-up expected" in text for text in made["remarks"])


def test_clipping_removes_what_is_small(irc: Any, examples: Path) -> None:
    made = ran(irc, commands()[4])
    assert shape_of("net.onnx", "fc1.weight") == (96, 24)
    assert shape_of("clipped.onnx", "fc1.weight") == (48, 24) and shape_of("clipped.onnx", "fc2.weight") == (5, 48)
    kept = [w.tensor.numpy() for w in anyir.load("clipped.onnx").weights if len(w.type.shape) > 1]
    assert all(not np.any((w != 0) & (abs(w) < 0.001)) for w in kept)
    assert made["loss"]["outputs"][0]["cosine"] > 0.9999 and made["macs"][1] == made["macs"][0] / 2


def test_steps_go_together(irc: Any, examples: Path) -> None:
    made = ran(irc, commands()[5])
    found = [step["step"].partition("{")[0] for step in made["steps"]]
    assert found.index("prune") < found.index("quantize") and made["loss"]["drop"] <= 2


def test_mostly_zero_weights_are_stored_without_zeros(irc: Any, examples: Path) -> None:
    sizes = []
    for line in (commands()[7], commands()[7].replace(" --sparse", "")):
        ran(irc, line)
        sizes.append(Path("sparse.tflite").stat().st_size)
    assert sizes[0] < 0.3 * sizes[1]


def test_commands_and_options_of_the_page_exist() -> None:
    command = cli.get_command(None, "compress")  # type: ignore[arg-type]
    options = {o for p in command.params for o in p.opts + p.secondary_opts if o.startswith("--")}  # type: ignore[union-attr]
    assert {option for option in options if f"{option}" not in PAGE} == set()
    assert len(commands()) == 8
    for line in commands():
        assert {word for word in shlex.split(line) if word.startswith("--")} <= options
    for kind in re.findall(r"^\| `([^`]+)`(?:, `[^`]+`)? \| (?:int|float)", PAGE, re.MULTILINE):
        from anyir.compress.recipe import KINDS

        assert kind in KINDS


@pytest.mark.slow
def test_the_example_prints_what_each_way_loses(capsys: pytest.CaptureFixture[str]) -> None:
    import runpy

    runpy.run_path(str(ROOT / "examples" / "compress_digits.py"), run_name="__main__")
    rows = [line.rsplit(maxsplit=3) for line in capsys.readouterr().out.splitlines()[1:]]
    assert [row[0] for row in rows] == [
        "int8",
        "int4 weights",
        "half of the channels",
        "a quarter of the channels, int8",
    ]
    assert all(float(row[3]) <= 3 and int(row[1].rstrip("%")) < 35 for row in rows)


def test_keeping_the_worst_needs_a_measure(irc: Any, net: Classifier) -> None:
    done = irc("compress", "net.onnx", "-o", "o.onnx", "--quantize", "dynamic", "--keep-worst", "1")
    assert done.code == 2 and "error[R023]" in done.err and "keep=1 goes with integer activations" in done.err
    kept = irc(
        "compress", "net.onnx", "-o", "o.onnx", "--quantize", "int8", "--keep-worst", "1", "--data", "net.npz", "--json"
    )
    layers = kept.json["compression"]["layers"]
    worst = min(layers, key=lambda layer: layer["sensitivity"])
    assert [layer["arithmetic"] == "float" for layer in layers] == [layer is worst for layer in layers]
