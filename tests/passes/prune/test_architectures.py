"""The oracle of the dependency engine: in every architecture each group, cut once, leaves what zeroing it leaves."""

from __future__ import annotations

from collections.abc import Mapping

import anyir
import anyir.tests.support.architectures_text  # registers the rest
import numpy as np
import pytest
from anyir.ir.graph import Module
from anyir.ir.verify import verify
from anyir.kernels.compare import compare, limits_for
from anyir.kernels.run import run
from anyir.passes.prune.groups import Group, find_groups
from anyir.passes.prune.remove import masked, remove_units
from anyir.runtimes import onnxruntime
from anyir.tests.support.architectures import ARCHITECTURES
from anyir.tests.support.models import model_path

#: What removal may differ by, relative to the largest output.
RELATIVE = 1e-5


def _marked(names: list[str]) -> list:
    slow = pytest.mark.slow
    return [pytest.param(n, marks=() if ARCHITECTURES[n].fast else slow) for n in names]


def assert_removal_is_masking(
    module: Module, feeds: Mapping[str, np.ndarray], shares: Mapping[int, float], accept_norms: bool = False
) -> tuple[Module, Module]:
    """Cut a share of the units of some groups (by number) of a copy; returns the masked and the pruned module."""
    copy = module.clone()
    groups = find_groups(copy, accept_norms=accept_norms)
    rng = np.random.default_rng(len(groups))
    chosen = {groups[i]: _some(rng, groups[i], share) for i, share in shares.items()}
    shadow = masked(copy, chosen)
    assert remove_units(copy, chosen) == sum(len(units) for units in chosen.values())
    verify(copy)
    truth, found = run(shadow, feeds), run(copy, feeds)
    report = compare(truth, found, limits_for(shadow, feeds, exact=truth))
    assert report.passed, f"{[g.name for g in chosen]}\n{report}"
    for name, wanted in truth.items():
        assert np.abs(found[name] - wanted).max() <= RELATIVE * np.abs(wanted).max(), name
    return shadow, copy


def _some(rng: np.random.Generator, group: Group, share: float) -> np.ndarray:
    count = min(max(1, round(share * group.size)), group.size - 1)
    return np.sort(rng.choice(group.size, count, replace=False))


def assert_every_group(module: Module, feeds: Mapping[str, np.ndarray], count: int, accept_norms: bool = False) -> None:
    groups = find_groups(module, accept_norms=accept_norms)
    assert len(groups) >= count, f"{len(groups)} groups, a person counts {count}: {[g.name for g in groups]}"
    before = run(module, feeds)
    for i, group in enumerate(groups):
        shadow, pruned = assert_removal_is_masking(module, feeds, {i: 0.5}, accept_norms)
        after = run(shadow, feeds)
        assert any((before[n] != after[n]).any() for n in before), f"{group.name}: zeroing it changes nothing"
        assert _size(pruned) < _size(module), group.name


def _size(module: Module) -> int:
    return sum(weight.nbytes for weight in module.weights)


@pytest.mark.parametrize("name", _marked(list(ARCHITECTURES)))
def test_every_group_of(name: str) -> None:
    case = ARCHITECTURES[name]
    module, feeds = case.loaded()
    assert_every_group(module, feeds, case.groups)


@pytest.mark.parametrize("name", _marked([n for n, case in ARCHITECTURES.items() if case.normed]))
def test_norms_written_out_free_more_groups_of(name: str) -> None:
    case = ARCHITECTURES[name]
    assert case.normed >= case.groups
    module, feeds = case.loaded()
    assert_every_group(module, feeds, case.normed, accept_norms=True)


@pytest.mark.parametrize("name", _marked(list(ARCHITECTURES)))
def test_all_groups_at_once_in_onnxruntime(name: str, tmp_path) -> None:
    """The masked and the pruned network, both written and run in onnxruntime."""
    case = ARCHITECTURES[name]
    module, feeds = case.loaded()
    everything = dict.fromkeys(range(len(find_groups(module, accept_norms=True))), 0.4)
    shadow, pruned = assert_removal_is_masking(module, feeds, everything, accept_norms=True)
    files = [str(tmp_path / f"{part}.onnx") for part in ("masked", "pruned")]
    for made, path in zip((shadow, pruned), files, strict=True):
        anyir.save(made, path)
    wanted, found = (onnxruntime.run(path, feeds) for path in files)
    for key, array in wanted.items():
        assert np.abs(found[key] - array).max() <= RELATIVE * np.abs(array).max()


#: Released models: how many groups and units there are to be found at least.
RELEASED = {"ppocrv4-rec": (25, 4500), "ppocr-cls": (20, 500), "mtcnn-pnet": (3, 30), "mtcnn-onet": (4, 200)}


@pytest.mark.slow
@pytest.mark.parametrize("name", RELEASED)
def test_released(name: str) -> None:
    """PP-OCR keeps its weights in Constant nodes, MTCNN has PReLU slopes and a flatten."""

    from anyir.kernels.inputs import sample_inputs

    module = anyir.load(str(model_path(name)))
    groups = find_groups(module)
    least, units = RELEASED[name]
    assert len(groups) >= least
    assert sum(group.size for group in groups) >= units
    feeds = sample_inputs(module, seed=1)
    for i in range(0, len(groups), max(1, len(groups) // 4)):
        assert_removal_is_masking(module, feeds, {i: 0.5})
    assert_removal_is_masking(module, feeds, dict.fromkeys(range(len(groups)), 0.3))
