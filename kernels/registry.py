"""The table of reference kernels: op name -> function on numpy arrays. Families are loaded on first use.

    @kernel("conv")
    def conv(x, w, b=None, *, strides, pads, dilations, groups, auto_pad, channels_last): ...

A kernel takes one array per operand (None for an absent optional; a variadic's arrays one by one, so `*xs`) and the
attributes by keyword; it returns one array, or a tuple with one per result, each in the dtype that inference says.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from ..ir.errors import Unsupported
from ..ir.ops import NAMESPACES, get_op

Kernel = Callable[..., Any]

_KERNELS: dict[str, Kernel] = {}


def kernel(*names: str) -> Callable[[Kernel], Kernel]:
    """Register a function as the kernel of these ops. A second kernel for one op is an error."""

    def register(function: Kernel) -> Kernel:
        for name in names:
            if name in _KERNELS:
                raise TypeError(f"op {name!r} has two kernels: {_KERNELS[name].__module__} and {function.__module__}")
            _KERNELS[name] = function
        return function

    return register


def find_kernel(name: str) -> Kernel | None:
    """The kernel of an op, or None. Loads the family file of the same name as the op's."""
    found = _KERNELS.get(name)
    if found is None:
        family = type(get_op(name)).__module__.rpartition(".")[2]
        if name.partition(".")[0] not in NAMESPACES:
            try:
                importlib.import_module(f"..{family}", __name__)
            except ModuleNotFoundError as error:
                if error.name != f"anyir.kernels.{family}":
                    raise
        found = _KERNELS.get(name)
    return found


def get_kernel(name: str) -> Kernel:
    """The kernel of an op. Raises Unsupported when there is none."""
    found = _KERNELS.get(name) or find_kernel(name)
    if found is None:
        raise Unsupported(
            f"op {name!r} has no reference kernel", code="U020", hint="the result cannot be verified by us"
        )
    return found
