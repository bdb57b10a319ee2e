"""The proof of each removal, as rows of the report: plain JSON values."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from ..prune.groups import Analysis
from ..prune.walk import PRODUCER
from .liveness import Liveness
from .plan import BOUNDED, CONSTANT, DUPLICATE, MERGED, NEAR, NEAR_TWIN, SCALED, Edit

ZERO, UNREAD = "zero-channel", "unread-channel"
_ORDER = (NEAR, NEAR_TWIN, SCALED, DUPLICATE, MERGED, CONSTANT)

PROOFS = {
    ZERO: "zero wherever it is read",
    UNREAD: "every weight that reads it is zero, or leads to what nothing reads",
    CONSTANT: "the same number at every position; what readers made of it went into their biases",
    MERGED: "the same number at every position; its readers' weights went into those of another such channel",
    DUPLICATE: "made by the same weights as another channel; its readers' weights were added to those of that one",
    SCALED: "made by a power of two times the weights of another channel; so many times its readers' weights were added to those",
    NEAR_TWIN: "its distance from a number times another channel, times the weights that read it, is within the bound; so many "
    "times these were added to that one's",
    NEAR: "its distance from a constant times the weights that read it is within the bound; the constant went into biases",
}


def kinds_of(analysis: Analysis, live: Liveness, edits: list[Edit], gone: np.ndarray) -> dict[int, str]:
    """Why each class goes, by root."""
    kinds = dict.fromkeys(np.flatnonzero(gone).tolist(), UNREAD)
    for exit_ in live.exits:
        x = live.spans.at(exit_.product.x, exit_.product.data_axis).wide(exit_.product.channels)
        for root in exit_.roots_in[x.zero].tolist():
            if root in kinds:
                kinds[root] = ZERO
    planned: dict[int, int] = {}
    for edit in edits:
        for i, kind in edit.kinds.items():
            root = int(edit.exit.roots_in[i])
            planned[root] = min(planned.get(root, len(_ORDER)), _ORDER.index(kind))
    kinds.update({root: _ORDER[rank] for root, rank in planned.items() if root in kinds})
    return kinds


def rows(analysis: Analysis, edits: list[Edit], kinds: dict[int, str], bound: float) -> list[dict[str, Any]]:
    """One row for each layer and kind; one for each certificate of a layer that reads near-dead channels."""
    counts: Counter[tuple[str, str]] = Counter()
    names = _makers(analysis, kinds)
    for root, kind in kinds.items():
        counts[names[root], kind] += 1
    made = [
        {"pass": "dead-weights", "layer": name, "kind": kind, "count": count, "proof": PROOFS[kind],
         "bound": bound if kind in BOUNDED else 0.0}
        for (name, kind), count in sorted(counts.items(), key=lambda item: item[0][1] in BOUNDED)
    ]  # fmt: skip
    for edit in edits:
        for certificate in edit.certificates:
            size = f" times the largest |element| of {certificate.unit}" if certificate.unit else ""
            made.append({
                "pass": "dead-weights", "layer": edit.exit.product.name, "kind": "certificate",
                "count": sum(kind in BOUNDED for kind in edit.kinds.values()),
                "proof": f"no result of the layer moves by more than {certificate.error:.3g}{size}; the layer can reach "
                         f"{certificate.reach:.3g}{size}",
                "bound": bound, "error": certificate.error, "reach": certificate.reach, "unit": certificate.unit,
            })  # fmt: skip
    return made


def _makers(analysis: Analysis, kinds: dict[int, str]) -> dict[int, str]:
    """The weight that makes each class: the first in the order of the graph."""
    names: dict[int, str] = {}
    for use in analysis.walk.uses:
        if use.part == PRODUCER:
            holding = analysis.walk.holdings[use.slot.number]
            for root in analysis.classes.roots[holding.axes[use.slot.axis].ids].tolist():  # type: ignore[union-attr]
                if root in kinds:
                    names.setdefault(root, holding.value.weight.key)  # type: ignore[union-attr]
    return names
