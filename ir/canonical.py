"""The normal forms of the IR. Where two spellings mean the same, one is canonical: passes rewrite to it, patterns are
written in it, and no rule may undo one (a test holds the rules of `canonicalize` to this list)."""

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
    Form("sub(x, c) with a float constant", "add(x, -c)", "sums of constants merge; exact in floating point"),
    Form("div(x, c) with c a power of two", "mul(x, 1/c)", "exact, and products of constants merge"),
    Form("identity(x), cast to the same dtype, expand to the same shape", "x", "nothing is left"),
    Form("transpose with the identity permutation", "x", "nothing is left"),
    Form("transpose(transpose(x))", "one transpose", "layouts compose"),
    Form("reshape(reshape(x))", "one reshape", "only the last shape counts"),
    Form("flatten, squeeze, unsqueeze of known shape", "reshape", "one op that regroups elements"),
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
)
