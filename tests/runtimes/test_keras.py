"""Keras in its child process agrees with the kernels, and its refusals come back as our errors."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from anyir.frontends.keras import read
from anyir.ir.errors import SystemFailure, UsageError
from anyir.kernels.compare import compare, limits_for
from anyir.kernels.run import run as run_kernels
from anyir.runtimes import keras as runtime
from anyir.tests.support.networks import network

pytestmark = pytest.mark.skipif(runtime.available() is None, reason="keras with torch is not installed")


def test_agrees_with_the_kernels():
    net = network("transformer", "keras")
    inputs = {"image": net.x[:5]}
    module = read(net.path)
    report = compare(runtime.run(net.path, inputs), run_kernels(module, inputs), limits_for(module, inputs))
    assert report.passed, str(report)


def test_missing_input_is_named():
    with pytest.raises((UsageError, SystemFailure), match="image"):
        runtime.run(network("mlp", "keras").path, {"other": np.zeros((1, 64), "float32")})


def test_available_imports_nothing():
    before = set(sys.modules)
    assert runtime.available()
    assert not {"keras", "torch"} & (set(sys.modules) - before)
