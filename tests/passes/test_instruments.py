"""The manager and everything that watches it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from anyir.ir.builder import Builder
from anyir.ir.errors import AnyIRError, NumericsError, PassError, UsageError, VerifyError
from anyir.ir.graph import Graph, Module
from anyir.ir.parser import parse_file
from anyir.ir.types import F32, TensorType
from anyir.kernels.run import run
from anyir.passes import graph_pass, module_pass, pattern_pass
from anyir.passes.instrument import (
    BisectLimit,
    CheckNumerics,
    DumpDir,
    PrintIR,
    Reproducer,
    StopAfter,
    TimePasses,
    VerifyEach,
    bisect,
)  # fmt: skip
from anyir.passes.manager import Context, Instrument, all_pass_names, find_pass, run_pipeline
from anyir.passes.pipeline import Step
from anyir.tests.support.text import assert_equal_modules, module, ops

TEXT = """(%x: f32[2]) {
  %a = neg(%x) : f32[2]
  %b = neg(%a) : f32[2]
  const %c = 2.0 : f32[]
  %d = mul(%b, %c) : f32[2]
  %e = add(%d, %c) : f32[2]
  %dead = exp(%x) : f32[2]
  return(%e)
}"""


@graph_pass("test-drop-add")
def drop_add(graph: Graph, ctx: Context, *, op: str = "add") -> None:
    """Wrong on purpose: add(x, c) -> x."""
    for node in graph.nodes(op):
        node.replace(node.operands[0])


@graph_pass("test-raise")
def raises(graph: Graph, ctx: Context) -> None:
    """Fails half way through."""
    graph.first.result.hint = "touched"
    raise KeyError("lost")


@graph_pass("test-break")
def breaks(graph: Graph, ctx: Context) -> None:
    """Leaves IR that is broken."""
    graph.first.result.type = TensorType(F32, (7,))
    graph.version += 1


@module_pass("test-nothing")
def nothing(
    module: Module, ctx: Context, *, times: int = 1, share: float = 0.5, name: str = "x", flag: bool = False
) -> None:
    """Does nothing, with options."""


@module_pass("test-needs")
def needs(module: Module, ctx: Context, *, amount: int) -> None:
    """Has an option without a default."""


# ------------------------------------------------------------------------------------------------------- manager


def test_options_are_checked_before_anything_runs() -> None:
    made = module(TEXT)
    version = made.version
    for text, message in (
        ("dce,test-nothing{tims=1}", "no option 'tims'; did you mean times"),
        ("dce,test-nothing{times=1.5}", "times of pass 'test-nothing' is 1.5, expected int"),
        ("dce,test-nothing{flag=1}", "expected bool"),
        ("dce,test-needs", "needs the option amount"),
        ("dce,test-nothng", "there is no pass 'test-nothng'; did you mean test-nothing"),
        ("dce,fix(cse,nope)", "there is no pass 'nope'"),
    ):
        with pytest.raises(UsageError) as caught:
            run_pipeline(made, text)
        assert message in str(caught.value)
    assert made.version == version
    run_pipeline(made, "test-nothing{share=1},test-needs{amount=2}")


def test_a_second_pass_of_one_name_is_an_error() -> None:
    with pytest.raises(UsageError, match="two passes are called 'dce'"):
        find_pass("dce")
        graph_pass("dce")(lambda graph, ctx: None)


def test_every_pass_that_is_named_exists_and_says_what_it_does() -> None:
    for name in all_pass_names():
        found = find_pass(name)
        # Passes of other packages, those that tests load among them, are theirs to document.
        assert found.name == name and (found.doc or not found.package.startswith("anyir.")), name


def test_errors_name_the_pass_and_keep_their_class() -> None:
    with pytest.raises(PassError, match="pass 'test-raise'.*raised KeyError: 'lost'"):
        run_pipeline(module(TEXT), "test-raise")
    endless = pattern_pass("test-endless", ["neg(x) -> neg(neg(x))"])
    with pytest.raises(PassError, match="pass 'test-endless'.*@main.*does not come to an end"):
        run_pipeline(module(TEXT), endless.name)


def test_fix_repeats_until_nothing_changes_and_gives_up_loudly() -> None:
    made = module(TEXT)
    watch = TimePasses()
    run_pipeline(made, "fix(canonicalize,dce)", instruments=[watch])
    assert watch.runs["canonicalize"] == 2 and ops(made) == ["mul", "add"]

    @graph_pass("test-restless")
    def restless(graph: Graph, ctx: Context) -> None:
        """Changes something every time."""
        Builder(graph).exp(graph.inputs[0])

    ctx = run_pipeline(module(TEXT), f"fix({restless.name})")
    assert "still changed something after 8 rounds" in ctx.notes[0]


@pytest.mark.parametrize(
    ("pipeline", "runs"),
    [
        ("cse,dce,cse,dce,cse", {"cse": 2, "dce": 2}),
        ("dce,fix(cse,dce),cse", {"dce": 2, "cse": 1}),
        ("test-nothing{times=1},test-nothing{times=2},test-nothing{times=1}", {"test-nothing": 2}),
    ],
)
def test_a_step_that_changed_nothing_waits_until_another_one_has(pipeline: str, runs: dict[str, int]) -> None:
    watch = TimePasses()
    run_pipeline(module(TEXT), pipeline, instruments=[watch])
    assert watch.runs == runs


def test_levels_admit_numerics() -> None:
    text = "(%x: f32[2]) { %s = sigmoid(%x) : f32[2] %y = mul(%x, %s) : f32[2] return(%y) }"
    for level, expected in ((1, ["sigmoid", "mul"]), (2, ["silu"])):
        made = module(text)
        run_pipeline(made, "fuse-activations", Context(level=level))
        assert ops(made) == expected


def test_passes_reach_regions_inner_ones_first() -> None:
    seen = []

    @graph_pass("test-order")
    def order(graph: Graph, ctx: Context) -> None:
        """Notes the graphs."""
        seen.append(graph.name)

    run_pipeline(module("""(%c: bool[], %x: f32[2]) {
      %y = if(%c, %x) : f32[2] {
        then(%t: f32[2]) { return(%t) }
        else(%e: f32[2]) { return(%e) }
      }
      return(%y)
    }"""), order.name)  # fmt: skip
    assert sorted(seen[:2]) == ["else", "then"] and seen[2] == "main"


# --------------------------------------------------------------------------------------------------- instruments


def test_hooks_come_in_order() -> None:
    events = []

    class Log(Instrument):
        def should_run(self, step: Step, module: Module) -> bool:
            events.append(("ask", step.name))
            return step.name != "cse"

        def before(self, step: Step, module: Module, ctx: Context) -> None:
            events.append(("before", step.name))

        def after(self, step: Step, module: Module, ctx: Context, changed: bool) -> None:
            events.append(("after", step.name, changed))

        def failed(self, step: Step, module: Module, ctx: Context, error: AnyIRError) -> None:
            events.append(("failed", step.name, type(error).__name__))

    with pytest.raises(PassError):
        run_pipeline(module(TEXT), "dce,cse,dce,test-raise", instruments=[Log()])
    assert events == [
        ("ask", "dce"), ("before", "dce"), ("after", "dce", True), ("ask", "cse"),
        ("ask", "dce"), ("before", "dce"), ("after", "dce", False),
        ("ask", "test-raise"), ("before", "test-raise"), ("failed", "test-raise", "PassError"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        ({"before_names": frozenset({"dce"})}, ["before dce"]),
        ({"after_names": frozenset({"dce"})}, ["after dce"]),
        ({"after_names": frozenset({"all"})}, ["after dce", "after dce", "after canonicalize"]),
        ({"after_names": frozenset({"changed"})}, ["after dce", "after canonicalize"]),
    ],
)
def test_printing_the_ir(names: dict[str, frozenset[str]], shown: list[str]) -> None:
    out = io.StringIO()
    pipeline = "dce,dce,canonicalize" if len(shown) != 1 else "dce"
    run_pipeline(module(TEXT), pipeline, instruments=[PrintIR(out=out, **names)])
    assert [line.removeprefix("# ---- IR ") for line in out.getvalue().splitlines() if line.startswith("#")] == shown
    assert "mul(" in out.getvalue()


def test_printing_a_part_of_the_ir() -> None:
    out = io.StringIO()
    run_pipeline(module(TEXT), "dce", instruments=[PrintIR(after_names=frozenset({"all"}), scope="mul|exp", out=out)])
    assert out.getvalue().splitlines()[1:] == ["  %d = mul(%b, %c) : f32[2]"]


def test_a_folder_with_the_ir_after_each_pass(tmp_path: Path) -> None:
    run_pipeline(module(TEXT), "dce,dce,fix(canonicalize)", instruments=[DumpDir(tmp_path / "dump")])
    names = sorted(p.name for p in (tmp_path / "dump").iterdir())
    assert names == [
        "000-dce.anyir",
        "001-dce-unchanged.anyir",
        "002-canonicalize.anyir",
        "003-canonicalize-unchanged.anyir",
    ]
    assert ops(parse_file(tmp_path / "dump" / names[-1])) == ["mul", "add"]


def test_times_runs_and_changes() -> None:
    watch = TimePasses()
    run_pipeline(module(TEXT), "dce,dce,cse", instruments=[watch])
    assert watch.runs == {"dce": 2, "cse": 1} and watch.changes == {"dce": 1, "cse": 0}
    assert all(seconds >= 0 for seconds in watch.seconds.values())


def test_statistics_count_what_rules_did() -> None:
    ctx = run_pipeline(module(TEXT), "canonicalize,dce")
    assert ctx.stats["neg(neg(x)) -> x"] == 1 and ctx.stats["dce"] == 1


def test_verifying_after_each_pass_names_the_one_that_broke_it() -> None:
    with pytest.raises(VerifyError, match="pass 'test-break'.*inference says"):
        run_pipeline(module(TEXT), "dce,test-break,cse", instruments=[VerifyEach()])


def test_checking_numerics_names_the_wrong_pass() -> None:
    with pytest.raises(NumericsError) as caught:
        run_pipeline(module(TEXT), "dce,canonicalize,test-drop-add,cse", instruments=[CheckNumerics()])
    assert "pass 'test-drop-add'" in str(caught.value) and caught.value.code == "N010" and caught.value.exit_code == 1
    run_pipeline(module(TEXT), "dce,canonicalize,fold,cse", instruments=[CheckNumerics()])


def test_checking_numerics_with_given_inputs() -> None:
    """With a factor of zero the dropped pass cannot be seen; with other inputs it is."""
    text = "(%x: f32[2], %y: f32[2]) { %p = mul(%x, %y) : f32[2] %z = add(%x, %p) : f32[2] return(%z) }"
    zero, one = np.zeros(2, np.float32), np.ones(2, np.float32)
    run_pipeline(module(text), "test-drop-add", instruments=[CheckNumerics({"x": one, "y": zero})])
    with pytest.raises(NumericsError):
        run_pipeline(module(text), "test-drop-add", instruments=[CheckNumerics({"x": one, "y": one})])


def test_stopping_after_a_pass_still_tells_everyone() -> None:
    made, watch = module(TEXT), TimePasses()
    run_pipeline(made, "dce,fix(canonicalize,test-drop-add),cse", instruments=[StopAfter("canonicalize"), watch])
    assert watch.runs == {"dce": 1, "canonicalize": 1} and "add" in ops(made)


def test_bisecting_finds_the_first_bad_pass() -> None:
    made = module(TEXT)
    before = str(made)
    x = np.array([1, 2], np.float32)

    def good(m: Module) -> bool:
        return run(m, [x])["out0"].tolist() == [4, 6]

    assert bisect(made, "dce,canonicalize,test-drop-add,cse,fold", good) == "test-drop-add"
    assert bisect(made, "dce,canonicalize,fix(cse,fold)", good) is None
    assert bisect(made, "test-drop-add,dce", good) == "test-drop-add"
    assert bisect(made, "dce,cse,test-drop-add", good) == "test-drop-add"
    assert str(made) == before
    with pytest.raises(UsageError, match="bad before the first pass"):
        bisect(made, "dce", lambda m: False)


def test_the_bisect_limit_runs_a_prefix() -> None:
    limit = BisectLimit(2)
    run_pipeline(module(TEXT), "dce,fix(canonicalize,cse),fold", instruments=[limit])
    assert limit.names == ["dce", "canonicalize"]


def test_a_reproducer_runs_again(tmp_path: Path) -> None:
    made = module(TEXT)
    with pytest.raises(NumericsError):
        run_pipeline(made, "dce,test-drop-add{op=add}", instruments=[Reproducer(tmp_path / "case"), CheckNumerics()])
    folder = tmp_path / "case"
    case, pipeline = parse_file(folder / "case.anyir"), (folder / "pipeline.txt").read_text().strip()
    assert ops(case) == ["neg", "neg", "mul", "add"] and pipeline == "test-drop-add{op=add}"
    assert (folder / "error.txt").read_text().startswith("N010: ")
    with pytest.raises(NumericsError):
        run_pipeline(case, pipeline, instruments=[CheckNumerics()])


def test_a_reproducer_keeps_large_weights(tmp_path: Path) -> None:
    made = Module()
    graph = made.add_graph("main")
    w = made.add_weight("w", np.arange(100, dtype=np.float32), "param")
    graph.set_outputs([Builder(graph).neg(w)])
    made.add_signature("s", graph, [], ["y"])
    expected = made.clone()
    with pytest.raises(PassError):
        run_pipeline(made, "test-raise", instruments=[Reproducer(tmp_path / "case")])
    assert_equal_modules(parse_file(tmp_path / "case" / "case.anyir"), expected)
