"""Every layer family: built with Keras, saved as .keras and .h5, read by us, run on the kernels, compared with Keras."""

from __future__ import annotations

import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import numpy as np
import pytest
from support import keras_ops_cases  # noqa: F401  (fills the table)
from support.keras_cases import CASES, randomized, sample_inputs

from anyir.frontends.keras import read
from anyir.kernels.run import run

keras = pytest.importorskip("keras")


def expected(model, xs):
    made = model(xs if len(xs) > 1 else xs[0], training=False)
    return [np.asarray(keras.ops.convert_to_numpy(y)) for y in keras.tree.flatten(made)]


def check(model, module):
    names = module.signature.input_names()
    for batch in (2, 3):
        xs = sample_inputs(model, batch)
        got = list(run(module, dict(zip(names, xs, strict=True))).values())
        wanted = expected(model, xs)
        assert len(got) == len(wanted)
        for mine, theirs in zip(got, wanted, strict=True):
            assert mine.shape == theirs.shape and mine.dtype == theirs.dtype, (
                mine.shape,
                theirs.shape,
                mine.dtype,
                theirs.dtype,
            )
            np.testing.assert_allclose(mine, theirs, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", CASES)
def test_layer(name, tmp_path):
    keras.utils.clear_session()
    model = randomized(CASES[name]())
    for suffix in (".keras", ".h5"):
        path = tmp_path / f"model{suffix}"
        model.save(path)
        check(model, read(path))
