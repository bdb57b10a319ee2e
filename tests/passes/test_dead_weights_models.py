"""Dead weights of released models: what is exactly dead goes at -O2, what is proven within a bound at -O3.

The counts are those of the weights themselves: EfficientNet-Lite0 has depthwise filters and rows without weights, relu6 that can
only be at one of its ends, the recogniser filters of 1e-38 and squeeze-excite units of 1e-7. Two of its channels are a constant
times a gate: what the image can make of the gate, followed back to the image that it gates, is within the bound.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from anyir import load
from anyir.ir.graph import Module
from anyir.ir.verify import verify
from anyir.kernels.compare import compare, limits_for
from anyir.kernels.run import run
from anyir.passes.manager import Context, run_pipeline
from anyir.passes.presets import preset
from anyir.tests.support import trained
from anyir.tests.support.model_cases import inputs_of, source

pytestmark = pytest.mark.slow


def before_the_pass(module: Module) -> Module:
    run_pipeline(module, preset(2).partition(",dead-weights")[0], Context(level=2))
    return module


def removed(module: Module, bound: float = 0.0) -> tuple[Module, Counter[str], list[dict]]:
    made, ctx = module.clone(), Context(level=3 if bound else 2)
    run_pipeline(made, f"dead-weights{{bound={bound}}}", ctx)
    verify(made)
    by_layer: Counter[str] = Counter()
    for row in ctx.records:
        if row["kind"] != "certificate":
            by_layer[row["layer"].split("_2")[0] if row["layer"].endswith("_2") else row["layer"]] += row["count"]
    again = made.version
    run_pipeline(made, f"dead-weights{{bound={bound}}}", Context(level=3))
    assert made.version == again
    return made, by_layer, [row for row in ctx.records if row["kind"] == "certificate"]


def test_efficientnet_lite0_loses_every_dead_channel_without_loss() -> None:
    module = before_the_pass(load(str(trained.efficientnet_lite0())))
    made, by_layer, _ = removed(module)
    assert sum(by_layer.values()) >= 64
    inputs = {"image": np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)}
    report = compare(run(module, inputs), run(made, inputs), limits_for(module, inputs))
    assert report.passed, str(report)


def test_the_recogniser_loses_units_and_channels_within_the_bound(tmp_path: Path) -> None:
    module = before_the_pass(load(str(source("ppocrv4-rec", tmp_path))))
    exact, counts, _ = removed(module)
    assert sum(counts.values()) >= 16
    near, by_layer, certificates = removed(module, 1e-5)
    widths = {w.wanted: w.type.shape[0] for w in near.weights if w.type.shape}
    assert widths["conv2d_106.w_0"] <= 60 - 27 and widths["conv2d_117.w_0"] <= 120 - 29
    backbone = sum(n for name, n in by_layer.items() if name[:10] not in ("conv2d_106", "conv2d_117"))
    assert backbone >= 29
    assert certificates and all(0 <= row["error"] <= 1e-5 * row["reach"] for row in certificates)
    inputs = inputs_of("ppocrv4-rec", module, 0)
    wanted, lossless, found = (next(iter(run(m, inputs).values())) for m in (module, exact, near))
    assert np.abs(wanted - lossless).max() < 1e-5 and np.abs(wanted - found).max() < 1e-4
