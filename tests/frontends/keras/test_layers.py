"""Every layer family: built with Keras, saved as .keras and .h5, read by us, run on our kernels, compared."""

from __future__ import annotations

import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import pytest
from anyir.frontends.keras import read
from anyir.tests.support import keras_ops_cases  # noqa: F401  (fills the table)
from anyir.tests.support.keras_cases import CASES, randomized
from anyir.tests.support.keras_check import check

keras = pytest.importorskip("keras")


@pytest.mark.parametrize("name", CASES)
def test_layer(name, tmp_path):
    keras.utils.clear_session()
    model = randomized(CASES[name]())
    for suffix in (".keras", ".h5"):
        path = tmp_path / f"model{suffix}"
        model.save(path)
        check(read(path), model)
