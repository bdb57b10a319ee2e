"""Recipes: what is read, what is refused and where, how they extend each other, and what flags stand for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from anyir.compress import document
from anyir.compress.recipe import (
    KINDS,
    ORDER,
    TARGETS,
    Recipe,
    find_recipe,
    from_flags,
    merged,
    most,
    names,
    parse_recipe,
)
from anyir.compress.schema import json_schema
from anyir.driver.formats import FORMATS
from anyir.ir.errors import AnyIRError, LimitExceeded, UsageError
from anyir.passes.manager import all_pass_names, check_pipeline, find_pass
from anyir.passes.pipeline import Step, parse_pipeline

MISTAKEN = """\
schema: 1
extend: int8
data: {source: 3, count: 1.5, evaluatoin: 4}
steps:
  - {pass: fold, max_byte: 3}
  - {pass: fodl}
  - pass: dead-weights
    bound: "x"
  - {pass: quantize, where: 'op=conv &', weights: int8}
verify: {drop: yes}
budget: {file: half}
"""


def mistakes(text: str, file: str = "r.yaml", suffix: str = ".yaml") -> UsageError:
    with pytest.raises(UsageError) as error:
        parse_recipe(text, file, suffix)
    assert error.value.code == "R020" and error.value.exit_code == 2
    return error.value


def test_every_mistake_is_told_at_once_with_its_place(golden: Any) -> None:
    golden.check("compress/recipe-mistakes.txt", f"{MISTAKEN}--- is told as\n{mistakes(MISTAKEN)}\n")


def test_one_mistake_is_one_line() -> None:
    error = mistakes("schema: 1\nsteps:\n- {pass: fold, max_byte: 3}\n")
    assert error.where == "r.yaml:3:16"
    assert error.message == "steps[0].max_byte: fold has no such option; did you mean max_bytes?"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "a recipe is a mapping"),
        ("- 1", "a recipe is a mapping"),
        ("steps: []", "the key 'schema' is missing"),
        ("schema: 2\nsteps: [{pass: dce}]", "should be 1, the only version there is"),
        ("schema: true\nsteps: [{pass: dce}]", "should be a number"),
        ("schema: 1", "there is nothing to do"),
        ("schema: 1\nsteps: [{pass: 3}]", "should be a valid string"),
        ("schema: 1\nsteps: [{where: op=conv}]", "the key 'pass' is missing"),
        ("schema: 1\nsteps: [{pass: dce, where: op=conv}]", "dce has no such option"),
        ("schema: 1\nextends: int9\nsteps: []", "there is no recipe or file 'int9'; did you mean int8"),
        ("schema: 1\nschema: 1", "the key 'schema' is given twice"),
        ("schema: !!python/name:os.system ''", "the tag"),
        ("schema: [1", "not YAML"),
        ("schema: 1\nsteps: [{pass: dead-weights, bound: true}]", "expected float"),
        ("schema: 1\nbudget: {file: -3}\nsteps: [{pass: dce}]", "a number of at least 0 or a share"),
        ("schema: 1\noptimize: 4\nsteps: [{pass: dce}]", "less than or equal to 3"),
        ("schema: 1\nsteps: [{pass: prune, ratio: 1.5}]", "steps[0]: prune: ratio is 1.5, expected at least 0"),
        ("schema: 1\nsteps: [{pass: prune, structure: '3:2'}]", "unknown structure '3:2'"),
        ("schema: 1\nsteps: [{pass: prune, structure: none, macs: 0.5}]", "macs goes with structure=channel"),
        ("schema: 1\nsteps: [{pass: clip, threshold: -1}]", "threshold is -1"),
        ("schema: 1\nsteps: [{pass: quantize, per: 'block:1'}]", "per is channel, tensor, or block:32"),
        ("schema: 1\nextends: int8\nsteps: [{pass: quantize, weights: int4}]", "int4 weights per channel go with"),
        (
            "schema: 1\nsteps: [{pass: dce}]\ntargets: {onnx: [{pass: integer-ops, form: x}]}",
            "targets.onnx[0]: option form",
        ),
    ],
)
def test_what_is_refused(text: str, what: str) -> None:
    assert what in str(mistakes(text))


SAME = {
    ".yaml": "schema: 1\nsteps:\n  - pass: dead-weights\n    bound: 1e-3\nbudget: {file: 27%}\nverify:\n  drop: 1\n",
    ".toml": 'schema = 1\n[[steps]]\npass = "dead-weights"\nbound = 1e-3\n[budget]\nfile = "27%"\n[verify]\ndrop = 1\n',
    ".json": '{"schema": 1, "steps": [{"pass": "dead-weights", "bound": 1e-3}],\n'
    ' "budget": {"file": "27%"}, "verify": {"drop": 1}}',
}


def test_yaml_toml_and_json_say_the_same() -> None:
    made = {suffix: parse_recipe(text, "same", suffix) for suffix, text in SAME.items()}
    assert made[".yaml"] == made[".toml"] == made[".json"]
    assert made[".yaml"].steps == (Step("dead-weights", {"bound": 0.001}),)
    assert made[".yaml"].digest == made[".json"].digest


@pytest.mark.parametrize(
    ("suffix", "text", "place"),
    [
        (".yaml", "schema: 1\nsteps:\n  - pass: dead-weights\n    boundd: 3\n", "4:5"),
        (".toml", 'schema = 1\n[[steps]]\npass = "dce"\n[[steps]]\npass = "dead-weights"\n  boundd = 3\n', "6:3"),
        (".json", '{"schema": 1,\n\t"steps": [\n\t{"pass": "dead-weights",\n\t\t"boundd": 3}]}', "4:3"),
        (".toml", "schema = 1\nsteps = [\n", "3:1"),
        (".toml", "schema = 1\nsteps = ]\n", "2:9"),
        (".json", '{"schema": 1,\n"steps": [}', "2:11"),
        (".yaml", 'schema: 1\nsteps: "x\n', "3:1"),
    ],
)
def test_mistakes_have_a_place_in_every_format(suffix: str, text: str, place: str) -> None:
    assert mistakes(text, "r", suffix).where == f"r:{place}"


@pytest.mark.parametrize(
    ("plain", "value"),
    [
        ("1e-3", 0.001), ("1.5", 1.5), (".5", 0.5), ("-7", -7), ("2:4", "2:4"), ("no", "no"), ("on", "on"), ("0x1f", "0x1f"),
        ("null", None), ("~", None), ("", None), ("true", True), ("'1'", "1"), ('"true"', "true"), ("2024-01-01", "2024-01-01"),
        ("block:4x1", "block:4x1"), ("27%", "27%"), ("1_000", "1_000"), (".inf", ".inf"), ("=", "="),
    ],
)  # fmt: skip
def test_scalars_are_those_of_yaml_1_2(plain: str, value: Any) -> None:
    found = document.parse(f"key: {plain}", "x").value["key"]
    assert found == value and type(found) is type(value)


LAUGHS = [f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]" for old, new in zip("abcdefg", "bcdefgh", strict=True)]
HOSTILE = {
    "laughs": "\n".join(["a: &a [x, x, x]", *LAUGHS]),
    "itself": "a: &a [*a]",
    "deep": "a: " + "[" * 100_000,
    "deep and closed": "a: " + "[" * 5000 + "]" * 5000,
    "wide": "a: [" + "1," * 20_000 + "1]",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_yaml_is_bounded(name: str) -> None:
    with pytest.raises(LimitExceeded):
        document.parse(HOSTILE[name], "bomb.yaml")


@pytest.mark.parametrize("suffix", [".toml", ".json"])
def test_hostile_nesting_is_bounded_elsewhere(suffix: str) -> None:
    text = "[" * 100_000 + "]" * 100_000
    with pytest.raises((LimitExceeded, UsageError)):
        document.parse(text if suffix == ".json" else f"a = {text}", "bomb", suffix)
    with pytest.raises(LimitExceeded):
        document.parse(
            '{"a": ' + "[" * 30 + "]" * 30 + "}" if suffix == ".json" else f"a = {'[' * 30}{']' * 30}", "b", suffix
        )


def test_files_are_bounded_and_must_be_text(tmp_path: Path) -> None:
    (tmp_path / "big.yaml").write_bytes(b"a: 1\n" * 300_000)
    with pytest.raises(AnyIRError):
        find_recipe(tmp_path / "big.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"schema: 1\ndescription: \xff\n")
    with pytest.raises(UsageError, match="not UTF-8"):
        find_recipe(tmp_path / "latin.yaml")
    with pytest.raises(UsageError, match="there is no recipe 'int88'; did you mean int8"):
        find_recipe("int88")
    (tmp_path / "recipe.txt").write_text("schema: 1")
    with pytest.raises(UsageError, match="a recipe is a .yaml, .toml or .json file"):
        find_recipe(tmp_path / "recipe.txt")


def test_extending_changes_options_and_puts_new_steps_in_order(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(
        "schema: 1\ndata: {count: 10, seed: 3}\nsteps: [{pass: dead-weights, bound: 0.5}, {pass: fold}]\n"
    )
    (tmp_path / "own.yaml").write_text(
        "schema: 1\nextends: base.yaml\ndata: {count: 20}\nsteps: [{pass: dead-weights, bound: 0.25}, {pass: dce}]\n"
    )
    made = find_recipe(tmp_path / "own.yaml")
    assert made.pipeline == "dead-weights{bound=0.25},fold,dce"
    assert (made.data.count, made.data.seed) == (20, 3)


def test_circles_and_long_chains_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("schema: 1\nextends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("schema: 1\nextends: a.yaml\n")
    with pytest.raises(UsageError, match=r"in a circle: a.yaml -> b.yaml -> a.yaml"):
        find_recipe(tmp_path / "a.yaml")
    for i in range(12):
        (tmp_path / f"{i}.yaml").write_text(f"schema: 1\nextends: {i + 1}.yaml\n")
    with pytest.raises(UsageError, match="more than 8 recipes"):
        find_recipe(tmp_path / "0.yaml")


def test_an_ambiguous_extension_is_refused(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("schema: 1\nsteps: [{pass: dce}, {pass: fold}, {pass: dce}]\n")
    (tmp_path / "own.yaml").write_text("schema: 1\nextends: base.yaml\nsteps: [{pass: dce}]\n")
    with pytest.raises(UsageError, match="several steps of this pass"):
        find_recipe(tmp_path / "own.yaml")


@pytest.mark.parametrize("name", names())
def test_built_in_recipes_are_right_and_tell_what_they_do(name: str) -> None:
    made = find_recipe(name)
    assert made.name == name and made.description and made.steps
    ranks = [ORDER.index(step.name) for step in made.steps]
    assert ranks == sorted(ranks)
    assert [str(step) for step in check_pipeline(made.pipeline)] == [str(step) for step in made.steps]
    assert parse_pipeline(made.pipeline) == list(made.steps)
    assert "needs data" in made.description or "int8" not in name or "dynamic" in name or "weights" in name


def test_flags_stand_for_built_in_recipes() -> None:
    for kind, name in KINDS.items():
        assert from_flags(quantize=kind).steps == find_recipe(name).steps
    with pytest.raises(UsageError, match="there is no quantization 'int9'"):
        from_flags(quantize="int9")
    with pytest.raises(UsageError, match="nothing to do"):
        from_flags()


def test_flags_are_put_together_in_the_one_right_order() -> None:
    made = from_flags(quantize="int8", prune={"ratio": 0.25}, clip={"threshold": 0.001})
    found = [step.name for step in made.steps]
    assert found == [name for name in ORDER if name in found]
    assert {"prune", "clip", "dead-weights", "quantize", "fold-quantize"} <= set(found)
    assert next(s for s in made.steps if s.name == "prune").options["ratio"] == 0.25


def test_flags_beat_the_recipe() -> None:
    base = find_recipe("prune-half")
    made = from_flags(base, prune={"ratio": 0.75}, where="op=conv")
    assert made.steps[0].options == {**base.steps[0].options, "ratio": 0.75, "where": "op=conv"}
    with pytest.raises(UsageError, match="has a quantize step of its own"):
        from_flags(find_recipe("int8"), quantize="int4")
    with pytest.raises(UsageError, match="no step takes keep"):
        from_flags(base, keep=3)
    kept = from_flags(find_recipe("int8"), keep=3)
    assert next(s for s in kept.steps if s.name == "quantize").options["keep"] == 3
    with pytest.raises(UsageError, match="did you mean ratio"):
        from_flags(prune={"ration": 0.5})
    with pytest.raises(UsageError, match="at column 4"):
        from_flags(prune={"ratio": 0.5}, where="op=")


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        ({"prune": {"ratio": 1.5}}, "ratio is 1.5"),
        ({"prune": {"ratio": float("nan")}}, "ratio is nan"),
        ({"prune": {"macs": 0}}, "macs is 0"),
        ({"prune": {"ratio": 0.5, "rounds": 0}}, "at least 1"),
        ({"prune": {"ratio": 0.5, "structure": "none", "importance": "obs"}}, "obs ranks whole units"),
        ({"clip": {"percentile": 101}}, "percentile is 101"),
        ({"clip": {"threshold": 0.1, "percentile": 5}}, "not both"),
        ({"quantize": "int8", "keep": -1}, "keep=-1"),
    ],
)
def test_values_out_of_range_are_refused_before_there_is_a_model(flags: dict[str, Any], what: str) -> None:
    with pytest.raises(UsageError, match=what):
        from_flags(**flags)


def test_merged_keeps_what_stands_and_ranks_what_is_new() -> None:
    base = [Step("prune"), Step("quantize"), Step("fold-quantize")]
    made = merged(base, [Step("equalize"), Step("quantize", {"keep": 1}), Step("clip")])
    assert [str(s) for s in made] == ["equalize", "prune", "clip", "quantize{keep=1}", "fold-quantize"]


def test_the_text_is_the_whole_recipe_without_paths() -> None:
    one = parse_recipe("schema: 1\ndata: {source: /a/b.npz}\nsteps: [{pass: dce}]")
    two = parse_recipe("schema: 1\n# a comment\ndata: {source: /c.npz}\nsteps:\n  - pass: dce")
    assert one.text == two.text and "/a" not in one.text
    assert json.loads(one.text)["steps"] == [{"pass": "dce"}]
    assert parse_recipe("schema: 1\nsteps: [{pass: fold}]").digest != one.digest
    assert Recipe().digest != one.digest


TARGETED = """\
schema: 1
steps: [{pass: dead-weights, bound: 0.5}]
targets:
  onnx: [{pass: dead-weights, bound: 0.25}]
"""


def test_options_may_differ_by_the_format_that_is_written(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(TARGETED)
    made = find_recipe(tmp_path / "base.yaml")
    assert made.for_target("onnx").pipeline == "dead-weights{bound=0.25}"
    assert made.for_target("tflite").pipeline == made.for_target("").pipeline == "dead-weights{bound=0.5}"
    (tmp_path / "own.yaml").write_text("schema: 1\nextends: base.yaml\nsteps: [{pass: dead-weights, bound: 0.75}]\n")
    assert find_recipe(tmp_path / "own.yaml").for_target("onnx").pipeline == "dead-weights{bound=0.75}"
    error = mistakes("schema: 1\nsteps: [{pass: dce}]\ntargets:\n  onx: [{pass: dead-weights, bund: 1}]\n")
    assert "r.yaml:4:3: targets.onx: there is no format to write of that name; did you mean onnx?" in str(error)
    assert "r.yaml:4:30: targets.onx[0].bund: dead-weights has no such option; did you mean bound?" in str(error)


def test_every_format_that_is_written_may_be_a_target() -> None:
    assert set(TARGETS) == {fmt.name for fmt in FORMATS if fmt.backend}


def test_paths_are_relative_to_the_recipe_and_functions_never_run(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("schema: 1\ndata: {source: x/a.npz, evaluation: /b.npz}\nsteps: [{pass: dce}]\n")
    made = find_recipe(tmp_path / "own.yaml").data
    assert (made.source, made.evaluation) == (str(tmp_path / "x/a.npz"), "/b.npz")
    for key in ("source", "evaluation"):
        error = mistakes(f"schema: 1\ndata: {{{key}: 'os.path:getcwd'}}\nsteps: [{{pass: dce}}]\n")
        assert "recipes never run Python, give functions with --data" in str(error)


def test_budgets_are_numbers_or_shares() -> None:
    assert most("27%", 1000) == 270 and most("12.5%", 8) == 1 and most(300, 1000) == 300


def test_the_json_schema_knows_every_pass_and_option() -> None:
    made = json_schema()
    steps = {item["properties"]["pass"]["const"]: item for item in made["$defs"]["StepPart"]["oneOf"]}
    assert sorted(steps) == all_pass_names()
    for name, item in steps.items():
        assert set(item["properties"]) == {"pass", *find_pass(name).options}
        assert item["additionalProperties"] is False
    assert made["required"] == ["schema"] and made["additionalProperties"] is False
    json.dumps(made)
