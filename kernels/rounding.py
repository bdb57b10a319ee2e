"""How far a correct implementation may be from the reference: rounding simulated on the graph itself.

The reference kernels round once per op. Whoever computes in the declared dtypes, in whatever order of summation, rounds
more. Each inexact op is modelled as backward stable with independent errors: exact for operands moved by g units in
the last place, its result then moved by h more,

    fl(f(x)) = f(x (1 + g eps xi)) (1 + h eps xi'),   xi, xi' uniform in [-1, 1],

with g = sqrt(K) for a reduction over K elements (Higham and Mary, "A new approach to probabilistic rounding error
analysis", SIAM J. Sci. Comput. 41(5), 2019: K independent roundings grow as sqrt(K)), g = 1 otherwise, and h from the
OpenCL C specification's table of maximal errors of mathematical functions (section 7.4, full profile). A few runs of
the graph under this model (Monte Carlo arithmetic: Parker 1997; CESTAC: Vignes 1993) spread each output, and the spread
holds how rounding accumulates along the graph and how the graph's conditioning amplifies it. The limit:

    limit = max(sqrt(2 ln(2 n / p)) * rms, 4 * max, 4 units in the last place of the largest element)

over n differences: what n normal errors exceed with probability p = 1e-6, widened where the tails are heavier.
An output that only exact ops reach has the limit 0, as have integers and bools. Three refinements: sums, differences and
products of whole numbers (`1 - mask`) are exact in any order, so they don't move; a sigmoid is commonly evaluated as
(1 + tanh(x / 2)) / 2, whose error is in units of 1/2 and not of the result. And where terms of one sign are summed, errors of
the partial sums don't cancel as independent ones of the terms do: the result of such a sum moves by sqrt(K) more units.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from ..ir.errors import UsageError
from ..ir.graph import Graph, Module, Node, Value
from ..ir.opdef import MOVEMENT, RANDOM
from .blocks import blockwise
from .numeric import is_float, narrow, wide
from .run import Inputs, bind_inputs, run_graph, run_node

RUNS = 3
EXCEEDED = 1e-6
TAIL = 4.0
FLOOR_ULPS = 4.0
#: An output that moves by more than this share of its own size under rounding alone is called ill-conditioned.
ILL_CONDITIONED = 1e-2

#: Ops that add no rounding error of their own: selections, comparisons, exact arithmetic, conversions rounded once.
EXACT = frozenset((
    "abs", "neg", "sign", "floor", "ceil", "round", "trunc", "min", "max", "clip", "relu", "relu6", "where",
    "cast", "bitcast", "is_nan", "is_inf", "not", "equal", "not_equal", "less", "less_equal", "greater",
    "greater_equal", "and", "or", "xor", "bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_not", "bit_shift",
    "hardmax", "max_roi_pool", "max_pool", "max_pool_with_indices", "global_max_pool", "adaptive_max_pool", "max_unpool",
    "reduce_max", "reduce_min", "reduce_all", "reduce_any", "arg_max", "arg_min", "topk", "shape", "size",
    "range", "constant_of_shape", "eye_like", "trilu", "pad", "one_hot", "non_zero", "compress", "unique",
    "non_max_suppression", "image_decoder", "if", "loop", "scan",
    "sequence_empty", "sequence_construct", "sequence_insert", "sequence_erase", "sequence_at", "sequence_length",
    "split_to_sequence", "concat_from_sequence", "optional", "optional_get_element", "optional_has_element",
    "label_encoder", "one_hot_encoder", "zip_map", "cast_map", "dict_vectorizer",
))  # fmt: skip

#: Units in the last place by which a good library may miss (OpenCL C specification, 7.4); 1 for what is not listed.
ULPS = {
    **dict.fromkeys(("exp", "expm1", "log", "softplus", "div", "reciprocal", "sqrt"), 3.0),
    **dict.fromkeys(("log1p", "rsqrt"), 2.0),
    **dict.fromkeys(("sin", "cos", "sinh", "cosh", "acos", "asin", "asinh", "acosh", "silu", "swish"), 4.0),
    **dict.fromkeys(("tan", "tanh", "atan", "atanh", "sigmoid", "softsign", "softmax", "log_softmax", "celu"), 5.0),
    **dict.fromkeys(("elu", "selu", "lstm", "gru", "rnn", "dynamic_quantize_lstm", "attention"), 5.0),
    "atan2": 6.0,
    **dict.fromkeys(("erf", "gelu", "mish", "pow", "lrn", "lp_normalization"), 16.0),
    **dict.fromkeys(("tree_ensemble", "svm_regressor", "svm_classifier"), 16.0),
}

#: Ops that add no rounding error where operands and results are whole numbers that the type's digits hold.
WHOLE = frozenset(("add", "sub", "mul", "square"))

#: Ops that sum terms of one sign, or may.
ONE_SIGN = frozenset((
    "softmax", "log_softmax", "reduce_sum", "reduce_mean", "reduce_l1", "reduce_l2", "reduce_sum_square", "reduce_log_sum_exp",
    "global_average_pool", "adaptive_average_pool", "layer_norm", "rms_norm", "instance_norm", "group_norm",
))  # fmt: skip

#: The size that an op's own error is relative to, from its result and first operand, where it is not the result's own: the
#: small values of sigmoid and its kin come from a difference of larger ones.
SIZE: dict[str, Callable[[Any, Any], Any]] = {
    "sigmoid": lambda y, x: np.full(y.shape, 0.5),
    **dict.fromkeys(("silu", "swish", "gelu"), lambda y, x: np.abs(x) / 2),
    **dict.fromkeys(("log_softmax", "reduce_log_sum_exp"), lambda y, x: np.abs(y) + 1.0),
}

#: Operands whose last bit decides a shape or a position, not a value: they stay as they are.
FIXED = {
    "resize": ("roi", "scales", "sizes"),
    "one_hot": ("depth",),
    "tree_ensemble": ("x",),
    "roi_align": ("rois",),
    "max_roi_pool": ("rois",),
    "mel_weight_matrix": ("lower_edge_hertz", "upper_edge_hertz"),
}


@dataclass(frozen=True)
class Limit:
    """The largest |difference| that rounding explains for one output, and what it rests on. A caller may give `rtol`, a share of
    the reference's element that comes on top, and the least `cosine` that the whole output must have."""

    atol: float
    reason: str = "exact"
    ill_conditioned: bool = False
    rtol: float = 0.0
    cosine: float = -1.0


def limits_for(
    module: Module,
    inputs: Inputs | None = None,
    *,
    signature: str | None = None,
    runs: int = RUNS,
    seed: int = 0,
    exact: Mapping[str, Any] | None = None,
) -> dict[str, Limit]:
    """A Limit per output name of one signature for these inputs (default: seeded samples). Costs `runs` + 1 runs, one less
    where `exact`, the outputs for these inputs, is at hand."""
    sig = module.signatures.get(signature) if signature else module.signature
    if sig is None:
        raise UsageError(f"no signature {signature!r}", hint=f"there are: {', '.join(module.signatures)}")
    if inputs is None:
        from .inputs import sample_inputs

        inputs = sample_inputs(module, seed=seed, signature=signature)
    arrays = bind_inputs(sig, inputs)
    names = sig.output_names()
    known = None if exact is None else [exact[name] for name in names]
    return dict(zip(names, graph_limits(sig.graph, arrays, runs=runs, seed=seed, exact=known), strict=True))


def limit_for(module: Module, output: str, inputs: Inputs | None = None, *, signature: str | None = None) -> Limit:
    """`limits_for` one output. Raises UsageError for an unknown name."""
    limits = limits_for(module, inputs, signature=signature)
    if output not in limits:
        raise UsageError(f"no output {output!r}", hint=f"there are: {', '.join(limits)}")
    return limits[output]


def graph_limits(
    graph: Graph, arrays: Sequence[Any], *, runs: int = RUNS, seed: int = 0, exact: Sequence[Any] | None = None
) -> list[Limit]:
    """A Limit per output of a graph for these input arrays; `exact` are its outputs for them, where they are at hand."""
    reached = rounded_values(graph)
    inexact = [value in reached for value in graph.outputs]
    exact = run_graph(graph, arrays) if exact is None else exact
    if not any(inexact):
        return [Limit(0.0) for _ in exact]
    moved = [run_graph(graph, arrays, evaluate=_Noise(seed + i)) for i in range(runs)]
    return [
        _limit(wanted, [outputs[i] for outputs in moved]) if inexact[i] else Limit(0.0)
        for i, wanted in enumerate(exact)
    ]


def widest(*limits: Mapping[str, Limit]) -> dict[str, Limit]:
    """The larger limit of each output: for two models that compute the same in different ways."""
    names = dict.fromkeys(name for each in limits for name in each)
    return {name: max((each[name] for each in limits if name in each), key=lambda limit: limit.atol) for name in names}


def is_exact(node: Node) -> bool:
    """The node adds no rounding error; a region counts with everything in it."""
    if node.has(MOVEMENT) or node.has(RANDOM) or node.name in EXACT or node.attrs.get("reduction") == "none":
        return all(is_exact(inner) for region in node.regions for inner in region.nodes())
    kinds = {v.dtype.kind if v.dtype is not None else "float" for v in (*node.inputs(), *node.results)}
    return not kinds & {"float", "complex"}


def rounded_values(graph: Graph) -> set[Value]:
    """The values that some inexact op reaches."""
    reached: set[Value] = set()
    for node in graph.nodes():
        if not is_exact(node) or any(v in reached for v in node.inputs()):
            reached.update(node.results)
    return reached


def reduction_length(node: Node, operands: Sequence[Any]) -> int:
    """How many terms each result element adds up, from the shapes at hand; 1 for elementwise ops."""
    rule = _LENGTHS.get(node.name)
    return max(int(rule(node, operands)), 1) if rule else 1


def _weight_terms(node: Node, operands: Sequence[Any]) -> float:
    """conv: elements of one filter; conv_transpose: a filter's elements over the result channels of a group."""
    w = operands[1]
    return w.size // w.shape[0] if node.name == "conv" else w.size // w.shape[1]


def _gemm_terms(node: Node, operands: Sequence[Any]) -> float:
    return operands[0].shape[0 if node.attr("transA") else 1]


def _einsum_terms(node: Node, operands: Sequence[Any]) -> float:
    """The product of the sizes of the summed letters."""
    inputs, arrow, output = node.attr("equation").replace(" ", "").partition("->")
    terms = inputs.split(",")
    sizes = {
        letter: size
        for term, array in zip(terms, operands, strict=True)
        for letter, size in zip(reversed(term.replace("...", "")), reversed(array.shape), strict=False)
    }
    kept = output if arrow else "".join(c for c in sizes if sum(t.count(c) for t in terms) == 1)
    return math.prod(size for letter, size in sizes.items() if letter not in kept)


def _share(node: Node, operands: Sequence[Any]) -> float:
    """Elements in for each one out."""
    return operands[0].size / max(np.size(run_node(node, operands)[0]), 1)


def _along_axis(node: Node, operands: Sequence[Any]) -> float:
    return operands[0].shape[node.attr("axis")] if operands[0].ndim else 1


def _trailing(node: Node, operands: Sequence[Any]) -> float:
    return math.prod(operands[0].shape[node.attr("axis") % max(operands[0].ndim, 1) :])


def _per_sample(node: Node, operands: Sequence[Any]) -> float:
    return math.prod(operands[0].shape[1:])


def _scanned(node: Node, operands: Sequence[Any]) -> float:
    return operands[0].shape[int(np.asarray(operands[1]).reshape(-1)[0])]


def _recurrent_terms(node: Node, operands: Sequence[Any]) -> float:
    """Input and state of one step."""
    return operands[1].shape[-1] + operands[2].shape[-1]


def _attention_terms(node: Node, operands: Sequence[Any]) -> float:
    """One row of scores, then one sum over keys."""
    return operands[1].shape[-1] + operands[1].shape[-2]


def _transform_terms(node: Node, operands: Sequence[Any]) -> float:
    """The angles of a transform's factors grow with its length, and so does the error of each product."""
    return max(operands[0].shape[:-1], default=1) ** 2


def _window_terms(node: Node, operands: Sequence[Any]) -> float:
    return math.prod(node.attr("kernel_shape"))


Lengths = Callable[[Node, Sequence[Any]], float]

_REDUCTIONS = ("sum", "mean", "prod", "l1", "l2", "log_sum", "log_sum_exp", "sum_square")
_LENGTHS: dict[str, Lengths] = {
    **dict.fromkeys((f"reduce_{name}" for name in _REDUCTIONS), _share),
    **dict.fromkeys(("global_average_pool", "global_lp_pool", "adaptive_average_pool"), _share),
    **dict.fromkeys(("average_pool", "lp_pool"), _window_terms),
    **dict.fromkeys(("conv", "conv_transpose"), _weight_terms),
    **dict.fromkeys(("softmax", "log_softmax", "lp_normalization"), _along_axis),
    **dict.fromkeys(("layer_norm", "rms_norm"), _trailing),
    **dict.fromkeys(("instance_norm", "group_norm", "mean_variance_normalization"), _per_sample),
    **dict.fromkeys(("cumsum", "cumprod"), _scanned),
    **dict.fromkeys(("lstm", "gru", "rnn", "dynamic_quantize_lstm"), _recurrent_terms),
    "matmul": lambda node, operands: operands[0].shape[-1],
    "gemm": _gemm_terms,
    "einsum": _einsum_terms,
    "attention": _attention_terms,
    **dict.fromkeys(("dft", "stft"), _transform_terms),
    "deform_conv": lambda node, operands: operands[1].size // operands[1].shape[0],
    "det": lambda node, operands: operands[0].shape[-1] ** 2,
    "col2im": lambda node, operands: math.prod(int(k) for k in operands[2]),
    "lrn": lambda node, operands: node.attr("size"),
}


class _Noise:
    """Evaluates nodes under the model of this module, with a random stream of its own."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def __call__(self, node: Node, operands: Sequence[Any]) -> tuple[Any, ...]:
        if node.regions or is_exact(node):
            return run_node(node, operands, evaluate=self)
        if node.name in WHOLE and all(_whole(x) for x in operands):
            exact = run_node(node, operands)
            if all(_whole(x) for x in exact):
                return exact
        growth = math.sqrt(reduction_length(node, operands))
        fixed = FIXED.get(node.name, ())
        moved = list(operands)
        for i, value in enumerate(node.operands):
            declared = node.op.operands[min(i, len(node.op.operands) - 1)].name
            if value is not None and not value.is_const and declared not in fixed:
                moved[i] = self.move(operands[i], growth)
        ulps, size = ULPS.get(node.name, 1.0) + (growth if node.name in ONE_SIGN else 0.0), SIZE.get(node.name)
        results = run_node(node, moved)
        return tuple(self.move(y, ulps, size and size(np.asarray(y, np.float64), wide(moved[0]))) for y in results)

    def move(self, array: Any, ulps: float, size: Any = None) -> Any:
        """`array` with every float element off by up to `ulps` units in the last place, of its own or of `size`; anything
        else as it is."""
        if not isinstance(array, np.ndarray) or not is_float(array.dtype):
            return array
        step = float(ml_dtypes.finfo(array.dtype).eps) * ulps
        with np.errstate(all="ignore"):
            if size is None:
                return blockwise(lambda block: self._scaled(block, step), array)
            return narrow(array.astype(np.float64) + size * self._shares(array.shape, step), array.dtype)

    def _scaled(self, block: np.ndarray, step: float) -> np.ndarray:
        factors = self._shares(block.shape, step)
        factors += 1.0
        block *= factors
        return block

    def _shares(self, shape: tuple[int, ...], step: float) -> np.ndarray:
        """step * xi, xi uniform in [-1, 1]."""
        drawn = np.asarray(self.rng.random(shape, dtype=np.float32), np.float64)
        drawn *= 2.0 * step
        drawn -= step
        return drawn


def _whole(array: Any) -> bool:
    """A float array of whole numbers so small that the type's digits hold their sums and products."""
    if not isinstance(array, np.ndarray) or not is_float(array.dtype):
        return False
    bound = 1.0 / float(ml_dtypes.finfo(array.dtype).eps)
    return all(
        bool(np.all((np.abs(part) < bound) & (np.rint(part) == part))) for part in (array.reshape(-1)[:64], array)
    )


def _limit(wanted: Any, moved: Sequence[Any]) -> Limit:
    """The limit of one output from its value and its values under simulated rounding; the widest of a sequence's elements."""
    if isinstance(wanted, dict):
        values = [[np.asarray(item[key]) for key in wanted] for item in (wanted, *moved)]
        return _limit(values[0], values[1:])
    if isinstance(wanted, list):
        as_long = all(len(other) == len(wanted) for other in moved)
        parts = [_limit(part, [other[i] for other in moved]) for i, part in enumerate(wanted)] if as_long else []
        return max(parts, key=lambda limit: limit.atol, default=Limit(0.0, "exact", not as_long))
    if not isinstance(wanted, np.ndarray) or not is_float(wanted.dtype):
        unstable = any(not np.array_equal(wanted, other) for other in moved)
        return Limit(0.0, "exact, though rounding alone changes it" if unstable else "exact", bool(unstable))
    truth = wanted.astype(np.float64)
    alike = [other.astype(np.float64) for other in moved if other.shape == wanted.shape]
    gaps = [np.abs(other - truth)[np.isfinite(other) & np.isfinite(truth)] for other in alike]
    gap = np.concatenate(gaps) if gaps else np.zeros(0)
    info = ml_dtypes.finfo(wanted.dtype)
    size = np.abs(truth[np.isfinite(truth)]).max(initial=0.0)
    rms, worst = (float(np.sqrt(np.mean(gap**2))), float(gap.max())) if gap.size else (0.0, 0.0)
    normal = math.sqrt(2.0 * math.log(2.0 * max(gap.size, 1) / EXCEEDED)) * rms
    floor = FLOOR_ULPS * float(info.eps) * float(size) + float(info.smallest_normal)
    atol = max(normal, TAIL * worst, floor)
    shaky = len(alike) < len(moved) or atol > ILL_CONDITIONED * size + float(info.smallest_normal)
    reason = f"rounding simulated in {len(moved)} runs: rms {rms:.1e}, max {worst:.1e}"
    return Limit(float(atol), reason + (", ill-conditioned" if shaky else ""), bool(shaky))
