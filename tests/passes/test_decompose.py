"""Decompositions against the kernels of the ops that they take apart, and against torch and numpy."""

from __future__ import annotations

import numpy as np
import pytest
from anyir.ir.builder import Builder
from anyir.ir.dims import sym
from anyir.ir.errors import InternalError, PassError
from anyir.ir.graph import Module
from anyir.ir.types import BF16, F16, F32, I64, U8, TensorType
from anyir.ir.verify import verify
from anyir.kernels.compare import compare, limits_for, widest
from anyir.kernels.run import run
from anyir.passes.decompose import Declined, decompose, load

from tests.support.mindir_models import MODELS
from tests.support.op_modules import module_of, runnable
from tests.support.ops import samples_of

RULES = sorted(load())
TARGET = "not in this target"
WINDOWS = ("hann_window", "hamming_window", "blackman_window")
#: Samples of these have results in use, computed amounts, or no inputs, where nothing is to be taken apart.
NEEDS_MORE = ("max_pool_with_indices", "bit_shift", "constant_of_shape", "call", "loop", "scan", *WINDOWS)


def take_apart(module: Module) -> dict:
    """Decompose once what the module holds now."""
    first = set(module.main.nodes())
    return decompose(module, lambda node: TARGET if node in first else None)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("symbolic", [False, True], ids=["static", "symbolic"])
def test_samples_keep_their_numbers(name: str, symbolic: bool) -> None:
    taken = 0
    for number in range(len(samples_of(name))):
        case = runnable(name, number, symbolic=symbolic)
        if case is None:
            continue
        module, inputs, wanted = case
        limits = limits_for(module, inputs)
        left = take_apart(module)
        verify(module, allow_channels_last=True)
        taken += not left
        report = compare(wanted, run(module, inputs), widest(limits, limits_for(module, inputs)))
        assert report.passed, f"{name} sample {number}\n{report}\n{module}"
    assert taken or symbolic or name in NEEDS_MORE, "no sample was decomposed"


@pytest.mark.parametrize("name", ["gelu", "silu", "softmax", "layer_norm", "reduce_l2", "average_pool", "selu"])
@pytest.mark.parametrize("half", [F16, BF16])
def test_half_floats_are_rounded_once(name: str, half) -> None:
    sample = next(s for s in samples_of(name) if s.operands[0].dtype == np.float32 and s.operands[0].size)
    operands = tuple(a.astype(half.numpy) if getattr(a, "dtype", None) == np.float32 else a for a in sample.operands)
    module, inputs = module_of(name, sample._replace(operands=operands))
    wanted = run(module, inputs)
    decompose(module, lambda node: TARGET if node.name == name else None)
    assert any(node.name == "cast" for node in module.main.nodes())
    limits = limits_for(module, inputs)
    assert compare(wanted, run(module, inputs), limits).passed


def built(make, **inputs: np.ndarray) -> tuple[Module, dict[str, np.ndarray]]:
    module = Module()
    graph = module.add_graph("main")
    values = [graph.add_input(TensorType(F32 if a.dtype == np.float32 else I64, a.shape), n) for n, a in inputs.items()]
    made = make(Builder(graph), *values)
    made = made if isinstance(made, tuple) else (made,)
    graph.set_outputs(made)
    module.add_signature("serving_default", graph, list(inputs), [f"y{i}" for i in range(len(made))])
    return module, inputs


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("name", WINDOWS)
@pytest.mark.parametrize("periodic", [True, False])
def test_windows_of_a_known_size_are_torchs(name: str, periodic: bool) -> None:
    import torch

    module, _ = built(lambda b: b.call(name, (b.const(np.asarray(9)),), {"periodic": periodic}).result)
    assert not decompose(module, lambda node: TARGET if node.name == name else None)
    assert not list(module.main.nodes(name))
    kwargs = {"alpha": 25 / 46, "beta": 21 / 46} if name == "hamming_window" else {}
    wanted = getattr(torch, name)(9, periodic=periodic, dtype=torch.float64, **kwargs).numpy().astype(np.float32)
    np.testing.assert_array_max_ulp(run(module, {})["y0"] + np.float32(1), wanted + np.float32(1), 1)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("const", [True, False])
def test_integer_convolutions_are_exact_in_runs_of_channels(groups: int, const: bool) -> None:
    """600 products of 255 * 255 are far above what f32 counts exactly; 300 of a computed one may be, of threes are not."""
    x = np.full((1, 150, 3, 4), 255, np.uint8)
    x[0, ::7] = 254
    w = np.full((2, 150 // groups, 2, 2), 255 if groups == 1 else 3, np.uint8)
    w[1, ::3] -= 1
    given = {"x": x} if const else {"x": x, "w": w}

    def make(b: Builder, x, w=w):
        return b.conv_integer(x, b.const(w) if const else w, groups=groups)

    module = Module()
    graph = module.add_graph("main")
    graph.set_outputs([make(Builder(graph), *(graph.add_input(TensorType(U8, a.shape), n) for n, a in given.items()))])
    module.add_signature("serving_default", graph, list(given), ["y0"])
    left = decompose(module, lambda node: TARGET if node.name == "conv_integer" else None)
    if groups == 2 and not const:
        assert "sums over 300 products are not exact" in next(iter(left.values()))
        return
    assert not left
    blocks = [x[:, :, i : i + 2, j : j + 2].astype(np.int64) for i in range(2) for j in range(3)]
    split = [np.split(block, groups, axis=1) for block in blocks]
    rows = np.split(w.astype(np.int64), groups)
    wanted = [[(part * row).sum((1, 2, 3)) for part, row in zip(parts, rows, strict=True)] for parts in split]
    assert np.array_equal(run(module, given)["y0"].reshape(2, -1), np.array(wanted).reshape(6, 2).T)


def torch_cases() -> list:
    """(name, build, torch function): each is judged by torch in float64, after everything is taken apart."""
    import torch
    from torch.nn import functional as F

    x, y = random(2, 6, 5, 4), random(2, 6, 7, 4, seed=1)
    grid = np.random.default_rng(3).uniform(-1.3, 1.3, (2, 3, 3, 2)).astype(np.float32)
    return [
        ("gelu", lambda b, v: b.gelu(v), [x], F.gelu),
        ("gelu-tanh", lambda b, v: b.gelu(v, approximate="tanh"), [x], lambda t: F.gelu(t, approximate="tanh")),
        ("mish", lambda b, v: b.mish(v), [x * 20], F.mish),
        ("softplus", lambda b, v: b.softplus(v), [x * 20], F.softplus),
        ("celu", lambda b, v: b.celu(v, alpha=1.7), [x], lambda t: F.celu(t, 1.7)),
        ("selu", lambda b, v: b.selu(v), [x], F.selu),
        ("erf", lambda b, v: b.erf(v), [x * 3], torch.erf),
        ("atan2", lambda b, v, w: b.atan2(v, w), [x, x[:, ::-1].copy()], torch.atan2),
        ("asinh", lambda b, v: b.asinh(v), [x * 1e-3], torch.asinh),
        ("group_norm", lambda b, v: b.group_norm(v, np.ones(6, "f"), np.zeros(6, "f"), num_groups=3), [x],
         lambda t: F.group_norm(t, 3)),
        ("attention", lambda b, q, k: b.attention(q, k, k)[0], [x, y],
         lambda q, k: F.scaled_dot_product_attention(q, k, k)),
        ("grid", lambda b, v: b.grid_sample(v, grid, padding_mode="reflection"), [x],
         lambda t: F.grid_sample(t, torch.tensor(grid).double(), "bilinear", "reflection", False)),
        ("cubic", lambda b, v: b.resize(v, None, None, (2, 6, 9, 3), mode="cubic"), [x],
         lambda t: F.interpolate(t, size=(9, 3), mode="bicubic")),
        ("adaptive", lambda b, v: b.adaptive_average_pool(v, output_size=(3, 3)), [x],
         lambda t: F.adaptive_avg_pool2d(t, (3, 3))),
        ("logsumexp", lambda b, v: b.reduce_log_sum_exp(v, (1, 3), keepdims=False), [x * 50],
         lambda t: torch.logsumexp(t, (1, 3))),
        ("pixel_shuffle", lambda b, v: b.depth_to_space(v[0] if isinstance(v, tuple) else v, blocksize=2, mode="CRD"),
         [random(1, 8, 3, 5)], lambda t: F.pixel_shuffle(t, 2)),
    ]  # fmt: skip


CASES = ["gelu", "gelu-tanh", "mish", "softplus", "celu", "selu", "erf", "atan2", "asinh", "group_norm", "attention", "grid",
         "cubic", "adaptive", "logsumexp", "pixel_shuffle"]  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_torch_agrees(name: str) -> None:
    import torch

    _, make, arrays, oracle = next(case for case in torch_cases() if case[0] == name)
    module, inputs = built(make, **{f"x{i}": a for i, a in enumerate(arrays)})
    target = module.main.outputs[0].node.name
    decompose(module, lambda node: TARGET if node.name == target else None)
    assert not any(node.name == target for node in module.main.nodes())
    wanted = oracle(*(torch.tensor(a).double() for a in arrays)).numpy().astype(np.float32)
    assert compare({"y0": wanted}, run(module, inputs), limits_for(module, inputs)).passed


@pytest.mark.parametrize("equation", ["ij,jk->ik", "bij,bjk->bik", "abcd,ce->abde", "ij,ij->", "ii->i", "i,j->ij", "abc->cb",
                                      "bhid,bhjd->bhij", "...ij,...jk->...ik", "ij,jk,kl->il", "ij->", "bi,bi->b"])  # fmt: skip
def test_einsum_is_numpys(equation: str) -> None:
    sizes = dict(zip("abcdefhijkl", (2, 3, 4, 5, 6, 2, 3, 3, 5, 4, 6), strict=True))
    terms = equation.partition("->")[0].split(",")
    shapes = [(2,) * term.count("...") + tuple(sizes[c] for c in term.replace("...", "")) for term in terms]
    arrays = [random(*shape, seed=i) for i, shape in enumerate(shapes)]
    module, inputs = built(lambda b, *v: b.einsum(*v, equation=equation), **{f"x{i}": a for i, a in enumerate(arrays)})
    assert not decompose(module, lambda node: TARGET if node.name == "einsum" else None)
    wanted = np.einsum(equation, *(a.astype(np.float64) for a in arrays)).astype(np.float32)
    assert compare({"y0": wanted}, run(module, inputs), limits_for(module, inputs)).passed


@pytest.mark.parametrize("name", ["collecting", "collecting_until"])
def test_loops_carry_what_they_collected(name: str) -> None:
    module, inputs = MODELS[name]()
    wanted = [run(module, given) for given in inputs]
    limits = [limits_for(module, given) for given in inputs]
    assert not decompose(module, lambda node: TARGET if len(node.results) > node.attrs.get("carried", 9) else None)
    verify(module)
    for given, want, limit in zip(inputs, wanted, limits, strict=True):
        assert compare(want, run(module, given), limit).passed
    (loop,) = module.main.nodes("loop")
    assert len(loop.results) == loop.attr("carried")


def test_symbols_survive() -> None:
    """A dim that has a name still has it in the pieces."""
    module = Module()
    graph = module.add_graph("main")
    x = graph.add_input(TensorType(F32, (sym("N"), 8, sym("H"), sym("W"))), "x")
    graph.set_outputs([Builder(graph).group_norm(x, np.ones(8, "f"), np.zeros(8, "f"), num_groups=2)])
    decompose(module, lambda node: TARGET if node.name == "group_norm" else None)
    assert graph.outputs[0].type is x.type


def test_what_no_rule_helps_stays_with_a_reason() -> None:
    module, _ = built(lambda b, v: b.mod(v, np.float32(3), fmod=True), x=random(4))
    left = decompose(module, lambda node: TARGET if node.name == "mod" else None)
    assert [node.name for node in left] == ["mod"] and "rounded wrongly" in next(iter(left.values()))


def test_a_declining_rule_leaves_nothing_behind() -> None:
    def rule(b: Builder, node) -> Declined:
        b.exp(node.operands[0])
        return Declined("no")

    module, _ = built(lambda b, v: b.sin(v), x=random(4))
    left = decompose(module, lambda node: TARGET if node.name == "sin" else None, {"sin": rule})
    assert [node.name for node in module.main.nodes()] == ["sin"] and list(left.values()) == ["no"]


def test_circles_and_faults_are_named() -> None:
    module, _ = built(lambda b, v: b.sin(v), x=random(4))
    with pytest.raises(InternalError, match="does not end"):
        decompose(
            module,
            lambda node: TARGET,
            {"sin": lambda b, n: b.cos(*n.operands), "cos": lambda b, n: b.sin(*n.operands)},
        )
    module, _ = built(lambda b, v: b.sin(v), x=random(4))
    with pytest.raises(PassError, match="decomposition of sin failed"):
        decompose(module, lambda node: TARGET, {"sin": lambda b, n: b.transpose(n.operands[0], perm=(1, 0))})
    with pytest.raises(InternalError, match="expected"):
        decompose(module, lambda node: TARGET, {"sin": lambda b, n: b.reshape(n.operands[0], (2, 2))})


def test_regions_and_dead_nodes() -> None:
    module, _ = built(lambda b, v: (b.silu(v), b.mish(v))[0], x=random(4))
    decompose(module, lambda node: TARGET if node.name in ("silu", "mish") else None)
    assert [node.name for node in module.main.nodes()] == ["sigmoid", "mul"]
