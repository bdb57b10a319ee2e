"""Every layer family: built with Keras, saved as .keras and read by us, run on our kernels, compared with Keras; and saved
as .h5, which must give the same module."""

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
    model.save(tmp_path / "model.keras")
    module = read(tmp_path / "model.keras")
    check(module, model)
    model.save(tmp_path / "model.h5")
    assert read(tmp_path / "model.h5") == module
