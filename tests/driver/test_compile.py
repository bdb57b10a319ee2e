"""`irc compile`: what appears, what does not, what is said."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Any

import anyir
import numpy as np
import onnx
import pytest
from anyir.driver import flow
from anyir.ir.errors import NumericsError
from anyir.tests.support.small_models import cnn


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def wrong_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ONNX backend writes other weights than the module has."""
    from anyir.backends import onnx as backend

    write = backend.write

    def wrong(module: Any, path: Any, **options: Any) -> list[str]:
        made = module.clone()
        weight = made.weights["head"]
        made.set_weight(weight, weight.tensor.numpy()[::-1].copy())
        return write(made, path, **options)

    monkeypatch.setattr(backend, "write", wrong)


@pytest.fixture
def wrong_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """softmax on our kernels is off by a thousandth."""
    from anyir.kernels import registry

    right = registry.get_kernel("softmax")
    table = registry.__dict__["_KERNELS"]
    monkeypatch.setitem(table, "softmax", lambda x, **attrs: (right(x, **attrs) * 1.001).astype(x.dtype))


def test_compile_says_what_it_did(irc: Any, net: str, tmp_path: Path, golden: Any) -> None:
    from anyir.tests.driver.conftest import settled

    done = irc("compile", net, "-o", "out.onnx")
    assert done.code == 0
    assert files(tmp_path) == ["net.onnx", "out.onnx"]
    golden.check("driver/compile.txt", settled(f"{done.out}--- stderr\n{done.err}"))
    onnx.checker.check_model("out.onnx", full_check=True)
    assert [o.name for o in onnx.load("out.onnx").graph.output] == ["scores"]


def test_quiet_and_verbose(irc: Any, net: str) -> None:
    quiet = irc("compile", net, "-o", "out.onnx", "-q")
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")
    verbose = irc("compile", net, "-o", "out.onnx", "-v")
    assert "passes    inline,dce,canonicalize" in verbose.err
    assert "rules" in verbose.out and "fuse_silu 1" in verbose.out
    rules = irc("compile", net, "-o", "out.onnx", "-vv")
    assert "fuse_silu" in rules.err and "fuse_silu" not in verbose.err


def test_what_v_prints_can_be_run_again(irc: Any, net: str) -> None:
    said = irc("compile", net, "-o", "a.onnx", "-v", "-O1").err
    pipeline = next(line.split(None, 1)[1] for line in said.splitlines() if line.startswith("  passes"))
    assert irc("compile", net, "-o", "b.onnx", "--passes", pipeline).code == 0
    assert Path("a.onnx").read_bytes() == Path("b.onnx").read_bytes()


def test_json(irc: Any, net: str) -> None:
    done = irc("compile", net, "-o", "out.onnx", "--json")
    assert done.err == ""
    told = done.json
    assert set(told) == {
        "schema", "verb", "source", "files", "format", "ops", "bytes", "verified", "verdict", "checks", "rules", "notes",
        "proofs", "seconds", "peak_bytes",
    }  # fmt: skip
    assert (told["schema"], told["verb"], told["files"], told["verified"]) == (1, "compile", ["out.onnx"], True)
    assert told["ops"]["before"]["batch_norm"] == 1 and "batch_norm" not in told["ops"]["after"]
    assert {check["judge"].split()[0] for check in told["checks"]} == {"reference", "onnxruntime"}
    assert {check["inputs"] for check in told["checks"]} == {"2x1x8x8", "3x1x8x8"}


def test_an_error_is_json_too(irc: Any) -> None:
    done = irc("compile", "absent.onnx", "-o", "out.onnx", "--json")
    assert done.code == 4
    assert done.json["error"] == {
        "code": "F100",
        "exit_code": 4,
        "message": "cannot read: No such file or directory",
        "where": "absent.onnx",
        "hint": "",
    }
    assert done.err.startswith("irc: error[F100]: absent.onnx: cannot read: ")


@pytest.mark.parametrize("fault", ["wrong_backend", "wrong_kernel"])
def test_a_failed_check_leaves_nothing(irc: Any, net: str, fault: str, request: pytest.FixtureRequest) -> None:
    Path("out.onnx").write_bytes(b"the old one")
    request.getfixturevalue(fault)
    done = irc("compile", net, "-o", "out.onnx")
    assert done.code == 1
    assert done.out == ""
    assert "irc: error[N001]: out.onnx: the written file gives other results than the source" in done.err
    assert "instead of" in done.err and "passes with a limit of" in done.err
    assert "success" not in done.err
    assert Path("out.onnx").read_bytes() == b"the old one"
    assert files(Path()) == ["net.onnx", "out.onnx"]


def test_a_failed_check_in_json(irc: Any, net: str, wrong_backend: None) -> None:
    done = irc("compile", net, "-o", "out.onnx", "--json")
    assert done.code == 1
    assert done.json["verified"] is False and done.json["files"] == []
    assert any(row["verdict"] == "FAIL" for check in done.json["checks"] for row in check["outputs"])


def test_keep_unverified(irc: Any, net: str, wrong_backend: None) -> None:
    done = irc("compile", net, "-o", "out.onnx", "--keep-unverified")
    assert done.code == 1
    assert "FAILED the check by reference kernels and onnxruntime" in done.out
    assert "kept although it failed" in done.err
    assert files(Path()) == ["net.onnx", "out.onnx"]


def test_no_verify_says_so(irc: Any, net: str, wrong_backend: None) -> None:
    done = irc("compile", net, "-o", "out.onnx", "--no-verify")
    assert done.code == 0
    assert done.out.splitlines()[-1] == "  not verified: --no-verify"


def test_a_runtime_that_refuses_the_file_fails_the_check(irc: Any, net: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from anyir.ir.errors import SystemFailure

    def refuse(*_: object, **__: object) -> None:
        raise SystemFailure("invalid graph", code="F130")

    monkeypatch.setattr("anyir.runtimes.onnxruntime.run", refuse)
    done = irc("compile", net, "-o", "out.onnx")
    assert done.code == 1
    assert "inputs 2x1x8x8: invalid graph" in done.err
    assert files(Path()) == ["net.onnx"]


def test_a_runtime_that_is_too_slow_says_nothing(irc: Any, net: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from anyir.ir.errors import SystemFailure

    def late(*_: object, **__: object) -> None:
        raise SystemFailure("did not finish within 300 s", code="F121")

    monkeypatch.setattr("anyir.runtimes.onnxruntime.run", late)
    done = irc("compile", net, "-o", "out.onnx")
    assert done.code == 0
    assert "verified by reference kernels; onnxruntime" in done.out
    assert "cannot run it: did not finish within 300 s" in done.out


def test_a_model_that_costs_too_much_to_run_is_not_verified(irc: Any, tmp_path: Path) -> None:
    from anyir.tests.security.corpus_onnx import _loops

    (tmp_path / "loop.onnx").write_bytes(_loops(1 << 40, 1).SerializeToString())
    done = irc("compile", "loop.onnx", "-o", "out.onnx", "--limit", "run-work=1000000000")
    assert done.code == 0
    assert done.out.splitlines()[-1].startswith("  not verified: loop at onnx")
    assert "--limit run-work=N raises it" in done.out
    done = irc("run", "out.onnx", "--limit", "run-work=1000000000")
    assert done.code == 3
    assert "error[M010]" in done.err


def test_a_runtime_that_is_not_there_is_said(irc: Any, net: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anyir.runtimes.onnxruntime.available", lambda: None)
    done = irc("compile", net, "-o", "out.onnx")
    assert done.code == 0
    verdict = done.out.splitlines()[-1]
    assert verdict == '  verified by reference kernels; onnxruntime not installed (pip install "anyir[ort]")'


def test_inputs_from_a_file(irc: Any, net: str) -> None:
    np.savez("data.npz", image=np.ones((5, 1, 8, 8), np.float32))
    done = irc("compile", net, "-o", "out.onnx", "--inputs", "data.npz")
    assert done.code == 0
    assert "inputs  given inputs 5x1x8x8" in done.out


@pytest.mark.parametrize(
    ("arrays", "code", "word"),
    [
        ({"img": np.zeros((1, 1, 8, 8), np.float32)}, 2, "the inputs are: image"),
        ({"image": np.zeros((1, 1, 8, 9), np.float32)}, 2, "does not fit"),
        ({"image": np.array([None, {}], dtype=object)}, 3, "Object arrays cannot be loaded"),
    ],
    ids=["name", "shape", "pickle"],
)
def test_inputs_that_do_not_fit(irc: Any, net: str, arrays: dict[str, Any], code: int, word: str) -> None:
    np.savez("data.npz", **arrays)
    done = irc("compile", net, "-o", "out.onnx", "--inputs", "data.npz")
    assert (done.code, files(Path())) == (code, ["data.npz", "net.onnx"])
    assert word in done.err


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04garbage", b"\x93NUMPY\x01\x00"])
def test_inputs_that_are_no_npz(irc: Any, net: str, content: bytes) -> None:
    Path("data.npz").write_bytes(content)
    done = irc("compile", net, "-o", "out.onnx", "--inputs", "data.npz")
    assert done.code == 3
    assert done.err.startswith("irc: error[F001]: data.npz: not a")


def test_shape_fixes_and_names_dims(irc: Any, net: str) -> None:
    assert irc("compile", net, "-o", "out.onnx", "--shape", "image=4,1,8,8").code == 0
    dims = onnx.load("out.onnx").graph.output[0].type.tensor_type.shape.dim
    assert [d.dim_value for d in dims] == [4, 4]
    assert irc("compile", net, "-o", "out.onnx", "--shape", "image=batch,?,8,8").code == 0
    dims = onnx.load("out.onnx").graph.output[0].type.tensor_type.shape.dim
    assert (dims[0].dim_param, dims[1].dim_value) == ("batch", 4)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("imag=4,1,8,8", "did you mean image?"),
        ("image=4,1,8", "has 3 dims"),
        ("image=4,1,8,9", "fixes a dim at 8"),
        ("image=4,1,8,x y", "no number and no name"),
        ("4,1,8,8", "NAME=DIM"),
    ],
)
def test_shapes_that_do_not_fit(irc: Any, net: str, text: str, word: str) -> None:
    done = irc("compile", net, "-o", "out.onnx", "--shape", text)
    assert done.code == 2
    assert word in done.err


def test_inputs_are_never_overwritten(irc: Any, tmp_path: Path) -> None:
    cnn(tmp_path / "net.onnx", external=True)
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    assert set(before) == {"net.onnx", "net.onnx.data"}
    os.symlink("net.onnx", "link.onnx")
    os.link("net.onnx", "hard.onnx")
    for target in ("net.onnx", "./net.onnx", "link.onnx", "hard.onnx"):
        done = irc("compile", "net.onnx", "-o", target)
        assert done.code == 2, target
        assert "would overwrite" in done.err
    done = irc("compile", "net.onnx", "-o", "net.onnx.data", "--to", "onnx")
    assert done.code == 2 and "would overwrite" in done.err
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert len(files(tmp_path)) == 4


def test_external_data_appears_with_the_model(irc: Any, net: str, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    done = irc("compile", net, "-o", "sub/out.onnx", "--external-data", "--json")
    assert done.code == 0
    assert done.json["files"] == ["sub/out.onnx.data", "sub/out.onnx"] or files(tmp_path / "sub") == ["out.onnx"]
    assert irc("verify", net, "sub/out.onnx").code == 0


def test_ir_text_in_and_out(irc: Any, net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert irc("compile", net, "-o", "net.anyir", "-O0").code == 0
    assert files(tmp_path) == ["net.anyir", "net.onnx", "net.weights"]
    assert anyir.load("net.anyir") == anyir.load("net.onnx")
    text = irc("opt", net, "--passes", "", "--elide-weights", "100000").out
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert irc("compile", "-", "-o", "piped.onnx").code == 0
    assert irc("verify", net, "piped.onnx").code == 0


@pytest.mark.parametrize("data", [b"", b"\xff\xfe", b"anyir 1\ngraph"])
def test_broken_text_on_stdin(irc: Any, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    done = irc("compile", "-", "-o", "out.onnx")
    assert done.code == 3
    assert "<stdin>" in done.err
    assert files(Path()) == []


def test_a_factory_is_a_source(irc: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    (tmp_path / "mynet.py").write_text(
        "import anyir, onnx\n"
        "def build():\n    return onnx.load('net.onnx')\n"
        "def broken():\n    raise ValueError('no such checkpoint')\n"
        "def nothing():\n    return 5\n"
    )
    cnn(tmp_path / "net.onnx")
    assert irc("compile", "mynet:build", "-o", "out.onnx").code == 0
    for source, word in (
        ("mynet:broken", "it raised ValueError: no such checkpoint"),
        ("mynet:nothing", "cannot load a builtins.int"),
        ("mynet:absent", "has no attribute 'absent'"),
        ("absentnet:build", "is its folder on PYTHONPATH?"),
    ):
        done = irc("compile", source, "-o", "x.onnx")
        assert (done.code, word in done.err) == (2, True), done.err


@pytest.mark.parametrize(
    ("output", "code", "word"),
    [
        ("absent/out.onnx", 4, "there is no such folder"),
        ("folder.onnx", 2, "the output is a folder"),
        ("net.keras", 2, "keras files cannot be written"),
        ("out", 2, "names no format"),
    ],
)
def test_outputs_that_cannot_be(irc: Any, net: str, output: str, code: int, word: str, tmp_path: Path) -> None:
    (tmp_path / "folder.onnx").mkdir()
    done = irc("compile", net, "-o", output)
    assert done.code == code
    assert word in done.err
    assert files(tmp_path) == ["folder.onnx", "net.onnx"]


def test_a_name_that_lies_is_said(irc: Any, net: str, tmp_path: Path) -> None:
    (tmp_path / "net.keras").write_bytes((tmp_path / net).read_bytes())
    done = irc("compile", "net.keras", "-o", "out.onnx")
    assert done.code == 3
    assert "error[F002]: net.keras: this file looks like a protobuf message, not keras" in done.err
    assert irc("compile", "net.keras", "--from", "onnx", "-o", "out.onnx").code == 0


def test_limits_can_be_changed(irc: Any, net: str) -> None:
    done = irc("compile", net, "-o", "out.onnx", "--limit", "file-bytes=100")
    assert done.code == 3
    assert "above the limit 100" in done.err and "--limit file-bytes=N raises it" in done.err
    assert irc("compile", net, "-o", "out.onnx", "--limit", "file-bytes=100000").code == 0


def test_opaque_ops_are_not_verified_in_words(irc: Any, tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    node = helper.make_node("Strange", ["x"], ["y"], "odd", domain="my.ops")
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in "xy"]
    graph = helper.make_graph([node], "g", infos[:1], infos[1:])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("my.ops", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), "odd.onnx")
    done = irc("compile", "odd.onnx", "-o", "out.onnx")
    assert done.code == 0
    assert done.out.splitlines()[-1] == "  not verified: contains my.ops.Strange"


def written(text: str, name: str) -> None:
    onnx.save(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}'), name)


def test_an_output_of_nan_alone_is_not_verified(irc: Any, tmp_path: Path) -> None:
    """NaN on both sides agrees, but nothing was compared: the other output does not stand for it."""
    written("nan (float[N, 3] x) => (float[N, 3] good, float[N, 3] bad) { good = Neg (x) a = Exp (x) b = Neg (a) bad = Log (b) }",
            "nan.onnx")  # fmt: skip
    done = irc("compile", "nan.onnx", "-o", "out.onnx")
    assert done.code == 0 and files(tmp_path) == ["nan.onnx", "out.onnx"]
    assert done.out.splitlines()[-1] == "  not verified: output bad is all NaN on every input tried"
    assert [line.split()[-2:] for line in done.out.splitlines() if "bad  " in line] == [["all", "NaN"]] * 2
    told = irc("compile", "nan.onnx", "-o", "out.onnx", "--json").json
    assert told["verified"] is None and "all NaN" in told["verdict"]
    compared = irc("verify", "nan.onnx", "out.onnx")
    assert compared.code == 1
    assert "error[N004]: not verified: output bad is all NaN on every input tried" in compared.err
    report = anyir.verify("nan.onnx", "out.onnx")
    assert not report and all(check.passed for check in report.checks)
    np.savez("data.npz", x=np.ones((2, 3), np.float32))
    assert "not verified: output bad" in irc("compile", "nan.onnx", "-o", "out.onnx", "--inputs", "data.npz").out


def test_calmer_samples_are_tried_before_nan_is_taken_for_an_answer(irc: Any, tmp_path: Path) -> None:
    """The sum of logarithms is NaN wherever a single sample is negative; of powers of a thousand it is infinite less infinite."""
    written("roots (float[N, 40] x) => (float[N] y) { a = Log (x) y = ReduceSum <keepdims = 0> (a, axes) }".replace(
        "y) {", "y) <int64[1] axes = {1}> {"), "roots.onnx")  # fmt: skip
    written("grows (float[40] x) => (float y) <float p = {1000.0}> { a = Abs (x) b = Pow (a, p) c = ReduceSum <keepdims = 0> (b)"
            " d = Mul (c, p) y = Sub (d, c) }", "grows.onnx")  # fmt: skip
    for name in ("roots.onnx", "grows.onnx"):
        done = irc("compile", name, "-o", "out.onnx")
        assert done.code == 0
        assert "  verified by reference kernels and onnxruntime" in done.out
        assert irc("verify", name, "out.onnx").code == 0


def test_the_api_says_the_same(net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong_backend: None) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NumericsError) as caught:
        anyir.compile("net.onnx", "out.onnx")
    assert isinstance(caught.value, flow.CheckFailed)
    assert caught.value.report.verified is False
    done = anyir.compile("net.onnx")
    assert (done.verified, done.files, done.ops_after.total() < done.ops_before.total()) == (None, [], True)
    assert "not verified" in str(done)


def test_verify_in_the_api(net: str, tmp_path: Path) -> None:
    module = anyir.load(tmp_path / net)
    same = anyir.verify(module, anyir.optimize(module.clone()))
    assert same and same.passed and "reference kernels" in str(same)
    other = anyir.load(cnn(tmp_path / "other.onnx", seed=1))
    assert not anyir.verify(module, other)
    assert list(anyir.run(module, [np.zeros((1, 1, 8, 8), np.float32)])) == ["scores"]
