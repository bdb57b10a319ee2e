"""What the looking verbs show: goldens of the screens at 80 columns, the keys of their JSON, and explanations."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from anyir.tests.driver.conftest import settled
from anyir.tests.support.small_models import cnn, swish


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("inspect", ["inspect", "net.onnx", "--no-backends", "--weights", "3"]),
        ("inspect_cost", ["inspect", "net.onnx", "--cost", "--weights", "3"]),
        ("diff", ["diff", "net.onnx", "other.onnx"]),
        ("diff_interface", ["diff", "net.onnx", "swish.onnx"]),
        ("run", ["run", "net.onnx", "--inputs", "ones.npz"]),
        ("verify", ["verify", "net.onnx", "same.onnx", "--with", "onnxruntime"]),
        ("verify_differs", ["verify", "net.onnx", "other.onnx"]),
        ("passes", ["passes", "dead-weights"]),
        ("level", ["passes", "--level", "O1"]),
        ("explain_code", ["explain", "N001"]),
        ("explain_rule", ["explain", "fuse_silu", "swish.onnx"]),
    ],
)
def test_screens(irc: Any, tmp_path: Path, golden: Any, name: str, arguments: list[str]) -> None:
    for stem, seed in (("net", 0), ("same", 0), ("other", 1)):
        cnn(tmp_path / f"{stem}.onnx", seed=seed)
    swish(tmp_path / "swish.onnx")
    np.savez("ones.npz", image=np.ones((1, 1, 8, 8), np.float32))
    done = irc(*arguments)
    golden.check(f"driver/{name}.txt", settled(f"$ irc {' '.join(arguments)}\n{done.out}--- stderr\n{done.err}"))
    assert done.code == (1 if name in ("verify_differs", "diff_interface") else 0)


@pytest.mark.parametrize(
    ("arguments", "keys"),
    [
        (["run", "net.onnx"], {"judge", "inputs", "outputs"}),
        (["verify", "net.onnx", "net.onnx"], {"passed", "checks"}),
        (
            ["inspect", "net.onnx", "--no-backends"],
            {"signatures", "ops", "weight_bytes", "weights", "refused", "metadata", "diagnostics"},
        ),
        (["inspect", "net.onnx", "--ir"], {"ir"}),
        (["inspect", "net.onnx", "--cost"], {"cost"}),
        (["diff", "net.onnx", "net.onnx"], {"interface", "totals", "ops", "weights"}),
        (["opt", "net.onnx"], {"pipeline", "rules", "notes", "ir"}),
        (["opt", "net.onnx", "-o", "out.anyir"], {"pipeline", "rules", "notes", "files"}),
        (["passes"], {"passes"}),
        (["passes", "canonicalize"], {"name", "package", "numerics", "options", "doc", "rules"}),
        (["passes", "--level", "O2"], {"level", "pipeline", "steps"}),
        (["explain", "F001"], {"code", "title", "text", "example"}),
        (["explain", "fuse_silu", "net.onnx"], {"rules"}),
        (["ops", "net.onnx", "--to", "onnx"], {"rows"}),
        (["doctor"], {"packages", "missing"}),
    ],
    ids=lambda item: " ".join(item) if isinstance(item, list) else "",
)
def test_json_of_every_verb(irc: Any, net: str, arguments: list[str], keys: set[str]) -> None:
    done = irc(*arguments, "--json")
    assert done.code == 0, done.err
    assert set(done.json) == {"schema", "verb", *keys}
    assert (done.json["schema"], done.json["verb"]) == (1, arguments[0])


def test_run_writes_outputs(irc: Any, net: str) -> None:
    assert irc("run", net, "-o", "out.npz", "--shape", "image=7,1,8,8").code == 0
    with np.load("out.npz") as stored:
        assert stored["scores"].shape == (7, 4)
    done = irc("run", net, "-o", net)
    assert done.code == 2 and "would overwrite" in done.err
    again = Path("again.npz")
    assert irc("run", net, "-o", again, "--shape", "image=7,1,8,8").code == 0
    assert again.read_bytes() == Path("out.npz").read_bytes()
    by_runtime = irc("run", net, "--with", "onnxruntime")
    assert by_runtime.out.startswith("net.onnx on onnxruntime")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["run", "net.onnx", "--with", "onnxruntim"], "did you mean onnxruntime?"),
        (["run", "net.onnx", "--with", "litert"], "litert does not run onnx files"),
        (
            ["verify", "net.onnx", "net.onnx", "--with", "kernels", "--with", "kernels", "--with", "kernels"],
            "once or twice",
        ),
        (["explain", "fuse_silo", "net.onnx"], "did you mean fuse_silu?"),
        (["explain", "dce", "net.onnx"], "not made of rules"),
    ],
)
def test_wrong_questions(irc: Any, net: str, arguments: list[str], word: str) -> None:
    done = irc(*arguments)
    assert done.code == 2
    assert word in done.err


def test_a_missing_runtime(irc: Any, net: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anyir.runtimes.onnxruntime.available", lambda: None)
    done = irc("verify", net, net, "--with", "onnxruntime")
    assert done.code == 5
    assert done.err == 'irc: error[D001]: running onnx files needs onnxruntime; pip install "anyir[ort]"\n'


def test_doctor(irc: Any, golden: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.metadata as metadata
    import platform

    def version(name: str) -> str:
        if name in ("torch", "mindspore"):
            raise metadata.PackageNotFoundError(name)
        return "1.2.3"

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(platform, "python_version", lambda: "3.11.9")
    monkeypatch.setattr(sys, "executable", "/usr/bin/python3")
    done = irc("doctor")
    golden.check("driver/doctor.txt", done.out)
    assert (done.code, done.err) == (0, "")


def test_a_missing_core_package(irc: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.metadata as metadata

    found = metadata.version

    def version(name: str) -> str:
        if name in ("networkx", "mindspore"):
            raise metadata.PackageNotFoundError(name)
        return found(name)

    monkeypatch.setattr(metadata, "version", version)
    done = irc("doctor")
    assert done.code == 5
    assert "core packages are missing: networkx" in done.err
    assert "mindspore missing" in " ".join(done.out.split())
    assert 'pip install "anyir[mindspore]"' in " ".join(done.out.split())


def test_verify_limits_are_computed_or_given(irc: Any, tmp_path: Path) -> None:
    cnn(tmp_path / "a.onnx")
    cnn(tmp_path / "b.onnx", seed=1)
    failed = irc("verify", "a.onnx", "b.onnx")
    assert failed.code == 1
    assert "error[N002]: b.onnx differs from a.onnx" in failed.err
    assert "  scores, inputs 2x1x8x8 at [0, 1]: " in failed.out and "passes with a limit of" in failed.out
    assert irc("verify", "a.onnx", "b.onnx", "--atol", "1").code == 0
    assert irc("verify", "a.onnx", "b.onnx", "--atol", "-1").code == 2


def test_interfaces_that_differ(irc: Any, tmp_path: Path) -> None:
    cnn(tmp_path / "a.onnx")
    swish(tmp_path / "b.onnx")
    done = irc("verify", "a.onnx", "b.onnx")
    assert done.code in (1, 2)
    assert done.err.count("\n") == 1 or "error[" in done.err


def test_ops_lists_every_core_op(irc: Any) -> None:
    from anyir.driver.ops import matrix

    rows = irc("ops", "--to", "onnx", "--json").json["rows"]
    assert {"conv", "softmax", "lstm"} <= {row["op"] for row in rows}
    assert {row["onnx"] for row in rows} <= {"direct", "decomposed", "-"}
    assert len(rows) == len(matrix(("onnx",)))
