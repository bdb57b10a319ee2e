"""Faults to plant, by name: `pytest -p anyir.tests.support.planted` with PLANTED=<name> in the environment plants one
before the tests are collected. Each is a mistake that somebody could make in one line."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np


def wrong_kernel() -> None:
    """conv forgets its dilations."""
    from anyir.kernels import registry

    right = registry.get_kernel("conv")

    def conv(*operands: Any, dilations: Any, **attrs: Any) -> Any:
        return right(*operands, dilations=(), **attrs)

    registry._KERNELS["conv"] = conv


def dropped_bias() -> None:
    """Batch norm folding leaves the shift out."""
    from anyir.passes.affine import plan as affine_plan

    right = affine_plan.set_bias

    def without(plan: Any, node: Any, made: Any, *rest: Any, **more: Any) -> Any:
        return right(plan, node, made._replace(shift=np.zeros_like(made.shift)), *rest, **more)

    affine_plan.set_bias = without


def shape_off_by_one() -> None:
    """A window too many along every spatial axis."""
    from anyir.ir.ops import window

    right = window.output_size
    window.output_size = lambda *args, **kwargs: right(*args, **kwargs) + 1


def swapped_padding_onnx() -> None:
    """The ONNX backend writes the ends of the padding where the begins belong."""
    from anyir.backends.onnx.emitter import Emitter

    right = Emitter.node

    def node(self: Any, op_type: str, inputs: Any, **attrs: Any) -> None:
        pads = attrs.get("pads")
        if op_type == "Conv" and pads:
            half = len(pads) // 2
            attrs["pads"] = (*pads[half:], *pads[:half])
        right(self, op_type, inputs, **attrs)

    Emitter.node = node  # type: ignore[method-assign]


def swapped_padding_tflite() -> None:
    """The same in the lowering to TFLite."""
    from anyir.backends.tflite.lower import conv

    right = conv.placed

    def placed(*args: Any) -> Any:
        made = right(*args)
        return None if made is None else (made[0], made[2], made[1])

    conv.placed = placed


FAULTS: dict[str, Callable[[], None]] = {
    fault.__name__: fault
    for fault in (wrong_kernel, dropped_bias, shape_off_by_one, swapped_padding_onnx, swapped_padding_tflite)
}


def pytest_configure() -> None:
    if os.environ.get("PLANTED"):
        FAULTS[os.environ["PLANTED"]]()
