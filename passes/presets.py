"""The named pipelines, one line of reason each. `irc passes --level O2` prints them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from ..ir.errors import UsageError
from .pipeline import Fix, Step, parse_pipeline, print_pipeline

#: (pass, why it stands here).
_EXACT = (
    ("inline", "functions that the source defines hide from each other what the passes behind look for"),
    ("dce", "what nobody uses should not cost the passes behind"),
    ("canonicalize", "one spelling per meaning, before anything looks for patterns"),
    ("fold", "constants that canonical forms have brought together"),
    ("regions", "branches and loops whose conditions and counts are known by now hide nodes from the passes behind"),
    ("fuse-shuffle", "a transpose between two reshapes may be a pixel shuffle; before either of them moves"),
    ("move-data", "slices, splits, concats, gathers and reshapes meet and cancel"),
    ("cse", "what was moved for two readers in turn counts once where transposes are counted"),
    ("cancel-transposes", "what channels-last frontends put around spatial ops; before anything looks across them"),
    (
        "fix(canonicalize,fold,regions,move-data,cse,cancel-transposes,dce)",
        "folding makes identities, merging makes dead code, dead code frees regions",
    ),
    ("share-weights", "equal bytes are stored once, under both names"),
)
_ULP = (
    ("fuse-activations", "silu, gelu, hard-swish and their kin written out become one op again"),
    ("fuse-norms", "means, vector norms, layer and RMS norm written out become one op again"),
    ("fuse-recurrent", "cells of LSTM and GRU written out, before their products are merged with others"),
    (
        "fold-batch-norm",
        "scale and shift go into the weights of the layers around them, but not those of a written-out op",
    ),
    ("reassociate", "what no rich op has taken: chains of numbers, in fewer operations"),
    ("fold", "the folded weights' own arithmetic"),
    ("dead-weights", "zero rows and channels are visible once norms are folded"),
    (
        "fix(canonicalize,fuse-activations,fuse-norms,fold-batch-norm,reassociate,fold,regions,move-data,cse"
        ",cancel-transposes,dce,dead-weights)",
        "fusion and removal leave identities, dead code, more to fuse and more that is dead",
    ),
    (
        "fix(merge-heads,canonicalize,fold-batch-norm,fold,move-data,cse,dce)",
        "queries, keys and values that are left lie side by side; one bias for them may take in that of the layer in front",
    ),
)

#: Passes that make one layer of several: compression, which gives each layer a scale of its own, leaves them out.
JOINING = ("merge-heads",)
#: From -O3 on near-dead channels go within this bound.
_BOUNDED = "dead-weights{bound=1e-5}"

LEVELS: dict[int, tuple[tuple[str, str], ...]] = {
    0: (),
    1: _EXACT,
    2: (*_EXACT, *_ULP),
    3: (*_EXACT, *((step.replace("dead-weights", _BOUNDED), why) for step, why in _ULP)),
}


def preset(level: int, without: Collection[str] = ()) -> str:
    """The pipeline text of an -O level, some passes left out. Raises UsageError for a level that does not exist."""
    if level not in LEVELS:
        raise UsageError(f"there is no level -O{level}", hint="-O0 to -O3")
    text = ",".join(step for step, _ in LEVELS[level])
    return print_pipeline(tuple(_kept(parse_pipeline(text), without))) if without else text


def _kept(steps: Iterable[Step | Fix], without: Collection[str]) -> Iterator[Step | Fix]:
    for step in steps:
        if isinstance(step, Fix):
            yield Fix(tuple(_kept(step.steps, without)), step.limit)
        elif step.name not in without:
            yield step
