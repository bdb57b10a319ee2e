"""Every core op, on its own samples: inference says nothing false, and axis labels keep their promise."""

from __future__ import annotations

import pytest
from anyir.ir.ops import load_families
from anyir.tests.support.ops import call, check_axes, check_types, results, samples_of

#: Ops of the graph itself and ops with regions, which have tests of their own.
WITHOUT = {"return", "opaque", "call", "if", "loop", "scan"}
NAMES = sorted(set(load_families()) - WITHOUT)


@pytest.mark.parametrize("name", [n for n in NAMES if "." not in n])
def test_op(name: str) -> None:
    samples = samples_of(name)
    assert len(samples) >= 2, "an op needs samples: they seed everything that is generated"
    for sample in samples:
        node, arrays = call(name, sample)
        made = results(node, arrays)
        check_types(node, made)
        check_axes(node, arrays, made)
        for mode in ({"symbolic": True}, {"const": True}):
            other, arrays = call(name, sample, **mode)
            check_types(other, made)
