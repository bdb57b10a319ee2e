"""If, Loop and Scan in all their forms, against onnxruntime on the original and on what we write."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

pytest.importorskip("onnxruntime")

from anyir.frontends import onnx as frontend
from anyir.ir.errors import InvalidModel
from anyir.ir.types import F32, TensorType
from anyir.kernels.run import run
from anyir.passes.decompose import decompose
from anyir.tests.support.onnx_peers import agrees, model, refused, same

F = np.float32
X = np.array([[1, 2, 3], [4, 5, 6]], F)
RNG = np.random.default_rng(3)


def count(n: int) -> np.ndarray:
    return np.array(n, np.int64)


SCAN = """g (float[2,3] x) => (float s, float[A,B] z) {{
  init = Constant <value = float {{0}}> ()
  s, z = Scan <num_scan_inputs = 1, scan_input_axes = [{0}], scan_input_directions = [{1}], scan_output_axes = [{2}],
    scan_output_directions = [{3}], body = b (float si, float[D] v) => (float so, float[D] zo) {{
      total = ReduceSum <keepdims = 0> (v)
      so = Add (si, total)
      zo = Mul (v, so)
    }}> (init, x)
}}"""


@pytest.mark.parametrize(("axis", "put"), product((0, 1, -1, -2), (0, 1, -1)))
def test_scan_along_every_axis_in_every_direction(axis: int, put: int) -> None:
    for way_in, way_out in product((0, 1), (0, 1)):
        module = agrees(model(SCAN.format(axis, way_in, put, way_out)), {"x": X})
        wanted = [np.asarray(y) for y in run(module, {"x": X}).values()]
        decompose(module, lambda node: "no scan here" if node.name == "scan" else None)
        assert not list(module.main.nodes("scan")) and len(list(module.main.nodes("loop"))) == 1
        same(wanted, list(run(module, {"x": X}).values()))


def test_a_scan_over_several_values_with_captures() -> None:
    agrees(
        model("""g (float[N,2] x, float[2,N] y, float[2] k) => (float[2] s, float[A,2] p, float[B,2] q) {
          kk = Neg (k)
          z = Sub (k, k)
          s, p, q = Scan <num_scan_inputs = 2, scan_input_axes = [0, -1],
            body = b (float[2] si, float[2] u, float[2] v) => (float[2] so, float[2] po, float[2] kk) {
              t = Mul (u, v)
              so = Add (si, t)
              po = Add (so, kk)
            }> (z, x, y)
        }"""),
        {"x": X.reshape(3, 2), "y": X, "k": np.array([1, -1], F)},
        expected=[
            [
                (X.reshape(3, 2) * X.T).sum(0),
                np.cumsum(X.reshape(3, 2) * X.T, 0) - np.array([1, -1], F),
                np.tile(np.array([-1, 1], F), (3, 1)),
            ]
        ],
    )


def test_scanned_values_of_different_lengths_are_refused() -> None:
    body = """g (float[{}] x, float[{}] y) => (float s) {{
      z = Constant <value = float {{0}}> ()
      s = Scan <num_scan_inputs = 2, body = b (float si, float u, float v) => (float so) {{
        t = Mul (u, v)
        so = Add (si, t)
      }}> (z, x, y)
    }}"""
    assert "3 and 4 differ" in str(refused(model(body.format(3, 4)), {}))
    feeds = {"x": np.ones(3, F), "y": np.ones(4, F)}
    assert "lengths [3, 4]" in str(refused(model(body.format("N", "M")), feeds))


@pytest.mark.parametrize("lens", [None, [3, 3], [3, 1], [1, 2]])
@pytest.mark.parametrize("directions", ["0, 0", "1, 0", "1, 1"])
def test_scan_of_opset_8_has_a_batch_and_lengths(lens: list[int] | None, directions: str) -> None:
    given = "" if lens is None else "int64[2] lens, "
    proto = model(
        f"""g ({given}float[2,2] s0, float[2,T,2] x, float[2,T] w, float[2] k) => (float[2,2] s, float[2,T,A] z) {{
          n = Neg (k)
          s, z = Scan <num_scan_inputs = 2, directions = [{directions}],
            body = b (float[2] si, float[2] v, float u) => (float[2] so, float[2] zo) {{
              t = Add (si, v)
              so = Mul (t, u)
              zo = Add (so, n)
            }}> ({"lens" if lens else ""}, s0, x, w)
        }}""",
        opset=8,
        ir_version=3,
    )
    feeds = {
        "s0": RNG.standard_normal((2, 2)).astype(F),
        "x": RNG.standard_normal((2, 3, 2)).astype(F),
        "w": RNG.standard_normal((2, 3)).astype(F),
        "k": np.array([5, 6], F),
    }
    agrees(proto, feeds if lens is None else {"lens": np.array(lens, np.int64), **feeds})


LOOPS = {
    "collects": """g (int64 n, float[N,3] x) => (float s, float[T,Q,R] z, float[T2] u, int64[T3] w) {
      go = Constant <value = bool {1}> ()
      s0 = ReduceSum <keepdims = 0> (x)
      s, z, u, w = Loop (n, go, s0) <body = b (int64 i, bool ci, float si)
        => (bool co, float so, float[Q,R] zo, float[V] uo, int64 wo) {
          co = Identity (ci)
          so = Add (si, si)
          zo = Mul (x, so)
          nz = NonZero (x)
          uf = Cast <to = 1> (nz)
          all = Constant <value_ints = [-1]> ()
          uo = Reshape (uf, all)
          wo = Identity (i)
        }>
    }""",
    "grows": """g (int64 n, float[N,3] x) => (float[A,3] y, int64[B] sizes) {
      y, sizes = Loop (n, , x) <body = b (int64 i, bool ci, float[P,3] v) => (bool co, float[Q,3] vo, int64 size) {
        co = Constant <value = bool {1}> ()
        vo = Concat <axis = 0> (v, x)
        s = Shape <start = 0, end = 1> (vo)
        size = ReduceSum <keepdims = 0> (s)
      }>
    }""",
    "changes its rank": """g (int64 n, float[N,3] x) => (float[] y) {
      go = Constant <value = bool {1}> ()
      y = Loop (n, go, x) <body = b (int64 i, bool ci, float[] v) => (bool co, float[] vo) {
        co = Identity (ci)
        axes = Constant <value_ints = [0]> ()
        vo = Unsqueeze (v, axes)
      }>
    }""",
    "nested": """g (int64 n, float[N,3] x) => (float[N,3] y, float[A,B,C,D] z) {
      go = Constant <value = bool {1}> ()
      two = Constant <value = int64 {2}> ()
      y, z = Loop (n, go, x) <body = b (int64 i, bool ci, float[N,3] v) => (bool co, float[N,3] vo, float[P,Q,R] zo) {
        co = Identity (ci)
        vo, zo = Loop (two, ci, v) <body = bb (int64 j, bool cj, float[N,3] w)
          => (bool cjo, float[N,3] wo, float[N,3] wz) {
            cjo = Identity (cj)
            fi = Cast <to = 1> (i)
            fj = Cast <to = 1> (j)
            t = Add (w, fi)
            u = Add (t, x)
            wo = Add (u, fj)
            wz = Mul (wo, v)
          }>
      }>
    }""",
}


@pytest.mark.parametrize("name", LOOPS)
def test_loops(name: str) -> None:
    agrees(model(LOOPS[name]), *({"n": count(n), "x": X} for n in (1, 2, 3)))


@pytest.mark.parametrize("name", LOOPS)
def test_no_iteration(name: str) -> None:
    """Where a size is known of what is visible it is kept: onnxruntime says 0 there."""
    made = run(frontend.read(model(LOOPS[name])), {"n": count(0), "x": X})
    wanted = {
        "collects": [(), (0, 2, 3), (0, 0), (0,)],
        "grows": [(2, 3), (0,)],
        "changes its rank": [(2, 3)],
        "nested": [(2, 3), (0, 0, 2, 3)],  # a condition may end the inner loop early
    }
    assert [y.shape for y in made.values()] == wanted[name]


def test_what_a_body_returns_need_not_be_made_in_it() -> None:
    """Its inputs, captures, constants, and one value twice."""
    x = np.array([1, 2], F)
    agrees(
        model("""g (int64 n, float[2] x) => (float[A] y, float[B] k, float[C,D] o1, float[E,G] o2, int64[H] o3, float[I,J] o4) {
          y, k, o1, o2, o3, o4 = Loop (n, , x, x) <body = b (int64 i, bool ci, float[P] v, float[Q] keep)
            => (bool co, float[R] vo, float[Q] keep, float[S] x, float[2] c, int64 i, float[2] c) {
              co = Constant <value = bool {1}> ()
              c = Constant <value_floats = [7.0, 8.0]> ()
              vo = Concat <axis = 0> (v, x)
            }>
        }"""),
        {"n": count(2), "x": x},
        expected=[
            [np.tile(x, 3), x, np.stack([x, x]), F([[7, 8], [7, 8]]), np.arange(2), F([[7, 8], [7, 8]])],
        ],
    )


def test_a_condition_of_shape_1_and_no_trip_count() -> None:
    agrees(
        model("""g (float[1] x) => (float[A] y, float[B,C] ys) {
          go = Constant <value = bool[1] {1}> ()
          y, ys = Loop (, go, x) <body = b (int64 i, bool ci, float[1] v) => (bool[1] co, float[1] vo, float[1] vs) {
            two = Constant <value_floats = [2.0]> ()
            most = Constant <value_floats = [30.0]> ()
            vo = Mul (v, two)
            vs = Identity (vo)
            co = Less (vo, most)
          }>
        }"""),
        {"x": np.array([1], F)},
        expected=[[np.array([32], F), np.array([[2], [4], [8], [16], [32]], F)]],
    )


def test_a_carried_value_keeps_its_dtype() -> None:
    text = """g (int64 n, float[2] x) => (float[2] y) {
      y = Loop (n, , x) <body = b (int64 i, bool ci, float[2] v) => (bool co, float[2] vo) {
        co = Constant <value = bool {1}> ()
        vo = Cast <to = 7> (v)
      }>
    }"""
    assert "f32[2] and i64[2]" in str(refused(model(text), {}))


BRANCHES = """g (bool c, float[2,3] x) => (float[] y, float[A,B] z) {
  n = Neg (x)
  y, z = If (c) <
    then_branch = t () => (float yt, float[C,D] zt) { yt = ReduceSum <keepdims = 0> (n) zt = Concat <axis = 0> (x, n) },
    else_branch = e () => (float[2,3] ye, float[2,3] x) { ye = Neg (n) }>
}"""


def test_branches_of_different_shape_and_rank() -> None:
    feeds = [{"c": np.array(c), "x": X} for c in (True, False)]
    expected = [[-X.sum(), np.concatenate([X, -X])], [X, X]]
    module = agrees(model(BRANCHES), *feeds, expected=expected)
    y, z = module.main.outputs
    assert y.type is TensorType(F32) and z.type.rank == 2 and not z.type.is_static


def test_a_known_condition_leaves_one_branch() -> None:
    text = BRANCHES.replace("bool c, ", "").replace("n = Neg (x)", "n = Neg (x) c = Constant <value = bool {1}> ()")
    module = frontend.read(model(text))
    assert not list(module.main.nodes("if")) and module.main.outputs[1].type is TensorType(F32, (4, 3))


def test_branches_that_cannot_meet_are_refused() -> None:
    text = BRANCHES.replace("ye = Neg (n)", "ye = Cast <to = 7> (n)")
    with pytest.raises(InvalidModel, match=r"f32\[\] and i64\[2, 3\]"):
        frontend.read(model(text))
