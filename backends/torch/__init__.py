"""Writes modules as PyTorch: a readable `net.py` with `net.safetensors` (torch need not be installed), a `.pt2` program
through torch.export, or a live nn.Module. Importing this package imports no torch.

    write(module, "net.py")
    write(module, "net.pt2")
    net = to_torch(module)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from ...ir.errors import MissingPackage, UsageError, clean

if TYPE_CHECKING:
    from ...ir.graph import Module, Value
    from .legalization import Offender

FORMAT = "torch"
SUFFIXES = (".py", ".pt2")


def write(
    module: Module, path: str | os.PathLike[str], *, protect: Iterable[str | os.PathLike[str]] = (), **_: Any
) -> list[str]:
    """Write `module` (left unchanged) and return the files written, the model last.

    `net.py` comes with `net.safetensors` beside it; `net.pt2` needs torch. `protect` are files that must not be
    overwritten. Raises Unsupported, UsageError, MissingPackage, SystemFailure; on an error nothing is written.
    """
    suffix = os.path.splitext(os.fspath(path))[1].lower()
    if suffix == ".pt2":
        from .program import write_pt2

        return write_pt2(module, path, protect)
    if suffix == ".py":
        from .source import write_py

        return write_py(module, path, protect)
    raise UsageError(f"PyTorch output is a .py or .pt2 file, not {clean(suffix)!r}")


def to_torch(module: Module) -> Any:
    """A live torch.nn.Module that computes what `module` computes, built without running any text, in eval mode.

    Weights of the role param are trainable, the state dict has the module's own keys for them and for buffers, tied
    weights are one parameter, sizes stay dynamic. After `.train()` batch norms use and move their statistics, as torch's
    do. Raises Unsupported naming every node that has no torch expression, MissingPackage without torch.
    """
    return _live(module, lambda weights: {v: (v.weight.key, *v.weight.aliases) for v in weights})


def registered(module: Module) -> Any:
    """As `to_torch`, by keys that torch itself can register: for torch.export."""
    from .names import registered_names

    return _live(module, lambda weights: {v: (key,) for v, key in registered_names(weights).items()})


def _live(module: Module, keys: Callable[[list[Value]], dict[Value, tuple[str, ...]]]) -> Any:
    from .legalization import legalize
    from .plan import plan

    try:
        from .live import build
    except ModuleNotFoundError as exc:
        if exc.name != "torch":
            raise
        raise MissingPackage("a live module needs torch", hint="pip install anyir[torch]") from exc
    made = plan(legalize(module))
    return build(made, module.name, keys(made.weights))


def legalize(module: Module, **_: Any) -> Module:
    """A clone whose nodes are single torch calls; see `legalization.legalize`."""
    from .legalization import legalize as run

    return run(module)


def offenders(module: Module, **_: Any) -> list[Offender]:
    """Every node that cannot be written, with reasons; empty when all can."""
    from .legalization import offenders as run

    return run(module)


def support(name: str) -> str:
    """How an op is written: `direct`, `decomposed` into smaller ones, or `-` when it is refused."""
    from .legalization import support as run

    return run(name)


__all__ = ["FORMAT", "SUFFIXES", "legalize", "offenders", "support", "to_torch", "write"]
