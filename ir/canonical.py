"""The normal forms of the IR. Where two spellings mean the same, one is canonical: passes rewrite to it, patterns are
written in it, and no rule may undo one (a test holds the rules to this list)."""

from __future__ import annotations

from typing import NamedTuple


class Form(NamedTuple):
    """`spelling` is rewritten to `canonical`; `why` says what that buys."""

    spelling: str
    canonical: str
    why: str


FORMS = (
    Form("add(c, x), mul(c, x): constant first in a commutative op", "constant second", "one pattern instead of two"),
    Form("negative axis in an attribute", "axis >= 0 where the rank is known", "axes compare as numbers"),
    Form("negative or unordered constant axes of reduce, squeeze, unsqueeze", "sorted, >= 0", "axes compare as tuples"),
    Form("absent axes of a reduction", "all axes, when the rank is known", "one form to match"),
    Form("sub(x, c) with a constant", "add(x, -c)", "sums of constants merge; exact, floats and signed integers alike"),
    Form("div(x, c) with c a power of two", "mul(x, 1/c)", "exact, and products of constants merge"),
    Form("identity(x), cast to the same dtype, expand to the same shape", "x", "nothing is left"),
    Form("transpose with the identity permutation", "x", "nothing is left"),
    Form("transpose(transpose(x))", "one transpose", "layouts compose"),
    Form("reshape(reshape(x))", "one reshape", "only the last shape counts"),
    Form(
        "flatten, squeeze, unsqueeze of known shape",
        "reshape to a constant: -1 for the one open dim, 0 for several that stay in place",
        "one op that regroups elements; what no constant says for every size stays squeeze or unsqueeze",
    ),
    Form(
        "reshape to a shape that the model computes",
        "reshape to a constant, else squeeze or unsqueeze",
        "the arithmetic goes, the sizes stay open",
    ),
    Form("slice that takes everything, pad by zero, concat of one, split into one", "x", "nothing is left"),
    Form(
        "pow(x, 2), pow(x, 1)",
        "square(x), x",
        "cheaper and better known; not in double precision, where pow may miss an ulp",
    ),
    Form("mul(x, sigmoid(x))", "silu(x)", "a rich op that targets know"),
    Form("swish with alpha 1", "silu", "one op"),
    Form("div(1, sqrt(x)), reciprocal(sqrt(x))", "rsqrt(x)", "one op"),
    Form("clip(x, 0, 6), clip(x, 0, inf)", "relu6(x), relu(x)", "fused by targets"),
    Form("where(not(c), a, b)", "where(c, b, a)", "one op less"),
    Form("not(equal(a, b)), not(less(a, b)) of integers", "not_equal(a, b), greater_equal(a, b)", "one op less"),
    Form("where(c, 1, 0), where(c, true, false)", "cast(c), c", "casts of bools merge"),
    Form("mul(x, -1)", "neg(x)", "no constant"),
    Form("add(x, neg(y)), sub(x, neg(y))", "sub(x, y), add(x, y)", "one op less"),
    Form(
        "slice that names what it takes whole, or counts from the end",
        "only the axes that are cut, in order, from the front where the size is known",
        "equal slices are equal nodes",
    ),
    Form("pad of named axes, or by an explicit 0", "pad of all axes, by the default", "pads add up"),
    Form("expand in front of an op that broadcasts", "the op alone", "nothing is left"),
    Form(
        "integers computed from shapes",
        "shape(x){start, end} of the first value with these dims, joined with numbers",
        "the arithmetic goes, the sizes stay open",
    ),
    Form("gather(x, range(0, n, 1))", "slice(x, 0, n)", "no indices"),
    Form("mul(mul(x, a), b), add(add(x, a), b) with constants", "mul(x, a * b), add(x, a + b)", "one op less"),
    Form("mul(x, reciprocal(y)), div(x, reciprocal(y))", "div(x, y), mul(x, y)", "one op less"),
    Form("pow(x, 1/2), pow(x, -1)", "sqrt(x), reciprocal(x)", "cheaper and better known"),
    Form("min(max(x, a), b), max(x, 0)", "clip(x, a, b), relu(x)", "one op, fused by targets"),
)
