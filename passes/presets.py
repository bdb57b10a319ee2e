"""The named pipelines, one line of reason each. `irc passes --level O2` prints them."""

from __future__ import annotations

from collections.abc import Collection

from ..ir.errors import UsageError

#: (pass, why it stands here).
_EXACT = (
    ("inline", "functions that the source defines hide from each other what the passes behind look for"),
    ("dce", "what nobody uses should not cost the passes behind"),
    ("canonicalize", "one spelling per meaning, before anything looks for patterns"),
    ("fold", "constants that canonical forms have brought together"),
    ("cancel-transposes", "what channels-last frontends put around spatial ops; before anything looks across them"),
    ("fix(canonicalize,cse,dce)", "folding makes identities, merging makes dead code"),
)
_ULP = (
    ("fold-batch-norm", "scale and shift go into the weights of conv and gemm before activations are fused"),
    ("fuse-activations", "silu, gelu, hard-swish and layer norm written out become one op again"),
    ("fold", "the folded weights' own arithmetic"),
    ("dead-weights", "zero rows and channels are visible once norms are folded"),
    ("fix(canonicalize,cse,dce)", "fusion and removal leave identities and dead code"),
)

LEVELS: dict[int, tuple[tuple[str, str], ...]] = {
    0: (),
    1: _EXACT,
    2: (*_EXACT, *_ULP),
    3: (*_EXACT, *_ULP[:3], ("dead-weights{bound=1e-5}", "near-dead channels go within the stated bound"), *_ULP[4:]),
}


def preset(level: int, without: Collection[str] = ()) -> str:
    """The pipeline text of an -O level, some steps left out. Raises UsageError for a level that does not exist."""
    if level not in LEVELS:
        raise UsageError(f"there is no level -O{level}", hint="-O0 to -O3")
    return ",".join(step for step, _ in LEVELS[level] if step not in without)
