"""`irc opt` and the instruments: what can be watched while passes run, and how a bad pass is found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyir
import pytest
from anyir.ir.parser import parse_module
from anyir.tests.driver.conftest import broken_pass


def test_ir_goes_to_stdout_and_parses(irc: Any, net: str) -> None:
    done = irc("opt", net, "--passes", "canonicalize", "--elide-weights", "1000", "--stats", "--time-passes", "-v")
    assert done.code == 0
    module = parse_module(done.out)
    assert "batch_norm" in done.out
    assert "CPU s" in done.err and "canonicalize" in done.err
    assert module.signature.input_names() == ["image"]


def test_ir_for_reading_is_a_golden(irc: Any, net: str, golden: Any) -> None:
    golden.check("driver/opt.txt", irc("opt", net).out)


def test_saving(irc: Any, net: str) -> None:
    assert irc("opt", net, "-o", "out.anyir").code == 0
    optimised = anyir.optimize(anyir.load(net))
    assert anyir.load("out.anyir") == optimised
    done = irc("opt", net, "-o", "net.onnx")
    assert done.code == 2 and "would overwrite" in done.err
    assert irc("opt", net, "--json").json["ir"].startswith("anyir 1\n")


def test_print_ir(irc: Any, net: str) -> None:
    done = irc(
        "opt", net, "--print-ir-before", "dce", "--print-ir-after", "changed", "--ir-scope", r"= (conv|batch_norm)\("
    )
    heads = [line for line in done.err.splitlines() if line.startswith("# ----")]
    assert heads[0] == "# ---- IR before dce"
    assert "# ---- IR after fold-batch-norm" in heads
    assert "# ---- IR after cse" not in heads
    shown = [line for line in done.err.splitlines() if not line.startswith("#")]
    assert all(" = conv(" in line or " = batch_norm(" in line for line in shown)
    assert irc("opt", net, "--print-ir-after", "all", "--ir-scope", "(").code == 2


def test_dump_dir(irc: Any, net: str, tmp_path: Path) -> None:
    assert irc("opt", net, "--passes", "dce,fold-batch-norm,cse", "--dump-dir", "dumps").code == 0
    names = sorted(path.name for path in (tmp_path / "dumps").iterdir())
    assert names == ["000-dce-unchanged.anyir", "001-fold-batch-norm.anyir", "002-cse-unchanged.anyir"]
    assert "batch_norm(" not in (tmp_path / "dumps" / names[1]).read_text()


def test_stop_after_and_bisect_limit(irc: Any, net: str) -> None:
    assert "batch_norm(" in irc("opt", net, "--stop-after", "canonicalize").out
    assert "batch_norm(" in irc("opt", net, "--bisect-limit", "1").out
    assert "batch_norm(" not in irc("opt", net).out


def test_check_numerics_names_the_wrong_pass(irc: Any, net: str, tmp_path: Path) -> None:
    plugin = broken_pass(tmp_path)
    pipeline = "canonicalize,fold,drop-relu,cse"
    assert irc("opt", net, "--load", plugin, "--passes", pipeline).code == 0
    for verb in (["opt", net], ["compile", net, "-o", "out.onnx"]):
        done = irc(*verb, "--load", plugin, "--passes", pipeline, "--check-numerics")
        assert done.code == 1
        assert "irc: error[N010]: pass 'drop-relu' (anyir_plugin_broken): changed the results" in done.err
    assert not (tmp_path / "out.onnx").exists()
    assert irc("opt", net, "--check-numerics", "--verify-each").code == 0


def test_bisect(irc: Any, net: str, tmp_path: Path) -> None:
    plugin = broken_pass(tmp_path)
    done = irc("opt", net, "--load", plugin, "--passes", "canonicalize,fold,drop-relu,cse", "--bisect")
    assert done.code == 1
    assert "error[N010]: drop-relu is the first pass after which the results differ" in done.err
    done = irc("opt", net, "--bisect")
    assert (done.code, done.out) == (0, "no pass changes the results\n")
    told = irc("opt", net, "--load", plugin, "--passes", "dce,drop-relu", "--bisect", "--json")
    assert (told.code, told.json["culprit"]) == (1, "drop-relu")


def test_reproducer(irc: Any, net: str, tmp_path: Path) -> None:
    plugin = broken_pass(tmp_path)
    options = ["--load", plugin, "--passes", "dce,drop-relu", "--check-numerics", "--reproducer", "case"]
    assert irc("opt", net, *options).code == 1
    assert sorted(p.name for p in (tmp_path / "case").iterdir())[-1] == "pipeline.txt"
    again = irc("opt", "case", "--run-reproducer", "--load", plugin)
    assert again.code == 1
    assert "pass 'drop-relu'" in again.err
    (tmp_path / "case" / "pipeline.txt").write_text("dce\n")
    fixed = irc("opt", "case", "--run-reproducer")
    assert fixed.code == 0 and "the failure is gone" in fixed.err


@pytest.mark.parametrize(
    ("body", "code", "word"),
    [
        (
            "raise ZeroDivisionError('by hand')",
            70,
            "error[X003]: pass 'bad' (anyir_plugin_bad): raised ZeroDivisionError",
        ),
        (
            "n = next(graph.nodes('relu')); n.replace(n.operands[0]); graph.inputs[0].type = graph.outputs[0].type",
            70,
            "error[X002]: pass 'bad' (anyir_plugin_bad)",
        ),
    ],
    ids=["raises", "breaks the IR"],
)
def test_a_bad_pass_is_named(irc: Any, net: str, tmp_path: Path, body: str, code: int, word: str) -> None:
    (tmp_path / "bad.py").write_text(
        f"from anyir.passes import graph_pass\n@graph_pass('bad')\ndef bad(graph, ctx):\n    {body}\n"
    )
    done = irc("opt", net, "--load", "bad.py", "--passes", "dce,bad", "--verify-each", "--reproducer", "case")
    assert done.code == code
    assert word in done.err
    assert (tmp_path / "case" / "error.txt").exists()


@pytest.mark.parametrize(
    ("text", "word"),
    [("1/0", "ZeroDivisionError"), ("import nothing_there", "No module named"), ("def", "SyntaxError")],
)
def test_a_plugin_that_does_not_load(irc: Any, net: str, tmp_path: Path, text: str, word: str) -> None:
    (tmp_path / "plugin.py").write_text(text)
    done = irc("opt", net, "--load", "plugin.py")
    assert done.code == 2
    assert word in done.err and "--load plugin.py" in done.err
    assert irc("opt", net, "--load", "no.such.module").code == 2
