"""Every rewrite rule: a golden file with hits and near misses (see tests/support/rules.py), and the same graphs on other sizes,
dtypes and numbers: dims of size zero, fixed and open ones, NaN, infinities and -0.0."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import anyir
import numpy as np
import pytest
from anyir.ir.errors import AnyIRError
from anyir.ir.graph import Module
from anyir.ir.verify import verify
from anyir.kernels.compare import compare, limits_for
from anyir.kernels.inputs import sample_inputs
from anyir.kernels.jit import interpreted
from anyir.kernels.run import run
from anyir.tests.conftest import Golden
from anyir.tests.support.graphs import with_specials
from anyir.tests.support.rules import (
    DTYPES,
    SEPARATOR,
    RuleFile,
    bindings,
    bound,
    forgotten,
    in_dtype,
    parse_graphs,
    rule_files,
    rules_of_passes,
    single,
)
from anyir.tests.support.text import same_bits

FILES = [pytest.param(file, id="/".join(file.key)) for file in rule_files()]
every_rule = pytest.mark.parametrize("file", FILES)


def test_every_rule_has_a_file() -> None:
    assert not sorted(set(rules_of_passes()) - {file.key for file in rule_files()})


@every_rule
def test_it_fires_on_hits_alone(file: RuleFile, golden: Golden) -> None:
    module = parse_graphs(file.source)
    names = list(module.signatures)
    assert any(n.startswith("hit") for n in names) and any(n.startswith("near") for n in names), names
    assert file.header("near"), "say in `# near:` why the near misses are none"
    for name in names:
        alone = single(module, name)
        if name.startswith("near"):
            assert not file.fires(alone), f"@{name} is no hit"
        else:
            assert name.startswith("hit"), f"@{name}: neither a hit nor a near miss"
            assert file.counted(file.run_pass(alone)), f"@{name} is no hit"
    made = module.clone()
    file.run_pass(made)
    verify(made)
    golden.check(f"rules/{file.pass_name}/{file.path.name}", f"{file.source}{SEPARATOR}{made}")


def variants(file: RuleFile) -> Iterator[tuple[str, Module, dict[str, int]]]:
    """(what it is, a module with one graph, sizes of its symbols)."""
    texts = {"f32": parse_graphs(file.source)} | {dtype: in_dtype(file.source, dtype) for dtype in DTYPES}
    for dtype, module in texts.items():
        for name in module.signatures if module is not None else ():
            alone = single(module, name)  # type: ignore[arg-type]
            for sizes in list(bindings(alone))[: None if dtype == "f32" else 1]:
                yield f"{dtype} @{name} open {sizes}", alone, sizes
                fixed = bound(alone, sizes) if sizes and dtype == "f32" else None
                if fixed is not None:
                    yield f"@{name} fixed {sizes}", fixed, {}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@every_rule
def test_it_keeps_the_numbers(file: RuleFile) -> None:
    """Exact rules to the last bit; others within the limits that are computed for the graph before."""
    tried = 0
    for what, before, sizes in variants(file):
        after = before.clone()
        file.run_pass(after)
        verify(after)
        plain = sample_inputs(before, sizes=sizes)
        for inputs in (plain,) if file.header("finite") else (plain, with_specials(plain, 1)):
            tried += same_numbers(file, what, before, after, inputs)
    assert tried, "no variant of the graphs can be run"


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("dtypes, shapes", [(True, False), (False, True), (True, True)], ids=["dtype", "shape", "both"])
@every_rule
def test_types_may_be_unknown(file: RuleFile, dtypes: bool, shapes: bool) -> None:
    """The rule and all of -O2 do without, and what they make of it is right."""
    source = parse_graphs(file.source)
    for name in source.signatures:
        known = single(source, name)  # type: ignore[arg-type]
        before = forgotten(known, dtypes, shapes)
        inputs, wanted = taken_inputs(known, before)
        for run_passes in (file.run_pass, anyir.optimize):
            after = before.clone()
            run_passes(after)
            verify(after)
            if wanted is not None:
                with interpreted(), np.errstate(all="ignore"):
                    report = compare(wanted, run(after, inputs), limits_for(known, inputs))
                assert report.passed, f"@{name}\n{report}"


def taken_inputs(known: Module, before: Module) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray] | None]:
    """Inputs for the types of `known`, of the first sizes that the graph takes, and what it makes of them; None where it
    takes none."""
    for sizes in bindings(known):
        inputs = sample_inputs(known, sizes=sizes)
        with interpreted(), np.errstate(all="ignore"), suppress(AnyIRError):
            return inputs, run(before, inputs)
    return {}, None


def same_numbers(file: RuleFile, what: str, before: Module, after: Module, inputs: dict[str, np.ndarray]) -> bool:
    """Whether the graph before takes these inputs; then the one after must give the same."""
    with interpreted(), np.errstate(all="ignore"):
        try:
            wanted = run(before, inputs)
        except AnyIRError:
            return False
        found = run(after, inputs)
        if file.numerics == "exact":
            different = [name for name in wanted if not same_bits(wanted[name], found[name])]
            assert not different, f"{what}: {wanted[different[0]]!r} became {found[different[0]]!r}"
        else:
            report = compare(wanted, found, limits_for(before, inputs))
            assert report.passed, f"{what}\n{report}"
    return True
