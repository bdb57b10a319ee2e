"""The Python API, the same names everywhere: load, optimize, save, compile, compress, distill, run, verify, to_torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .driver.check import verify
from .driver.compression import compress
from .driver.distillation import distill
from .driver.flow import compile, optimize, run, save
from .driver.load import load
from .ir.graph import Module

if TYPE_CHECKING:
    import torch


def to_torch(module: Module) -> torch.nn.Module:
    """A live torch module that computes `module`, in eval mode: parameters are trainable and keep the weights' keys, tied
    ones stay tied, dynamic dims stay dynamic. In training mode batch norms use and move their statistics as torch's do. Built
    from our own tables, never by running text; `module.load_weights(net.state_dict())` brings weights back. Raises
    MissingPackage without torch, Unsupported."""
    from .backends.torch import to_torch as build

    made = load(module)
    return build(optimize(made.clone(), passes="fix-defaults") if made.defaults() else made)


__all__ = ["compile", "compress", "distill", "load", "optimize", "run", "save", "to_torch", "verify"]
