"""Compares a Module with the Keras model that it came from, at two batch sizes, within computed limits."""

from __future__ import annotations

from typing import Any

import numpy as np
from anyir.kernels.compare import compare, limits_for, widest
from anyir.kernels.run import run

from .keras_cases import sample_inputs

#: Keras may round twice where an IR op rounds once: it composes normalizations and activations of several operations.
SLACK = 2


def keras_outputs(model: Any, xs: list[np.ndarray]) -> list[np.ndarray]:
    """What Keras itself says at inference, in its flattening order."""
    import keras

    made = model(xs if len(xs) > 1 else xs[0], training=False)
    return [np.asarray(keras.ops.convert_to_numpy(y)) for y in keras.tree.flatten(made)]


def check(module: Any, model: Any, batches: tuple[int, ...] = (2, 3)) -> None:
    """Assert that `module` computes what `model` does."""
    for batch in batches:
        check_on(module, model, sample_inputs(model, batch))


def check_on(module: Any, model: Any, xs: list[np.ndarray]) -> None:
    feeds = dict(zip(module.signature.input_names(), xs, strict=True))
    wanted = dict(zip(module.signature.output_names(), keras_outputs(model, xs), strict=True))
    limits = {name: limit.atol * SLACK for name, limit in widest(limits_for(module, feeds)).items()}
    report = compare(wanted, run(module, feeds), limits)
    assert report.passed, str(report)
