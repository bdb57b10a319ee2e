"""Small torch modules by operator family: one case is a module and example inputs whose first axis is the batch.

Used by the tests of the torch frontend and of the torch backend; imports torch at the top. The tables are in
`torch_cases_math` and `torch_cases_shape`.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anyir.frontends.torch.live import to_numpy
from torch import nn

Inputs = tuple[torch.Tensor, ...]


class Call(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: torch.Tensor) -> Any:
        return self.function(*args)


@dataclass(frozen=True, eq=False)
class Case:
    """`make(batch)` gives the inputs; a case with `batch=False` has fixed shapes only."""

    name: str
    module: nn.Module
    shapes: tuple[Any, ...]
    batch: bool = True

    def inputs(self, batch: int) -> Inputs:
        generator = torch.Generator().manual_seed(len(self.name) + batch)
        return tuple(_draw(shape, batch, generator) for shape in self.shapes)


def _draw(shape: Any, batch: int, generator: torch.Generator) -> torch.Tensor:
    """A tensor for a shape, or for (kind, shape): kind positive, unit, index<n>, bool, or a dtype's name."""
    kind, dims = shape if isinstance(shape[0], str) else ("", shape)
    size = [batch if d is None else d for d in dims]
    if kind.startswith("index"):
        return torch.randint(0, int(kind[5:]), size, generator=generator)
    if kind == "bool":
        return torch.rand(size, generator=generator) > 0.4
    if kind in ("int64", "int32", "uint8", "int8"):
        low = 0 if kind == "uint8" else -9
        return torch.randint(low, 10, size, generator=generator).to(getattr(torch, kind))
    x = torch.randn(size, generator=generator)
    if kind == "positive":
        return x.abs() + 0.1
    if kind == "unit":
        return torch.rand(size, generator=generator) * 1.8 - 0.9
    return x.to(getattr(torch, kind)) if kind else x


CASES: dict[str, list[Case]] = {}

X = (None, 6)
I = (None, 3, 8, 8)  # noqa: E741


def case(family: str, name: str, what: nn.Module | Callable[..., Any], *shapes: Any, **options: Any) -> None:
    torch.manual_seed(len(name))
    module = what if isinstance(what, nn.Module) else Call(what)
    CASES.setdefault(family, []).append(Case(f"{family}-{name}", _settled(module), shapes, **options))


def _settled(module: nn.Module) -> nn.Module:
    """Running statistics and affine parameters that are not the neutral ones."""
    for part in module.modules():
        for name, tensor in [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]:
            if (
                isinstance(part, nn.modules.batchnorm._NormBase | nn.LayerNorm | nn.GroupNorm | nn.RMSNorm)
                and tensor.is_floating_point()
            ):
                tensor.data = (
                    torch.rand_like(tensor) + 0.5
                    if "var" in name or name == "weight"
                    else torch.randn_like(tensor) * 0.3
                )
    return module.eval()


# ----------------------------------------------------------------------------------------------------- running


def all_cases() -> list[Case]:
    """Every case of both tables."""
    from . import torch_cases_math, torch_cases_shape  # noqa: F401  (they fill the table)

    return [one for family in CASES.values() for one in family]


@functools.cache
def exported(case: Case) -> torch.export.ExportedProgram:
    """The program of a case, its batch dynamic where it has one; made once per process."""
    shapes: Any = None
    if case.batch:
        dims = [shape[1] if isinstance(shape[0], str) else shape for shape in case.shapes]
        shapes = tuple({i: torch.export.Dim.AUTO for i, d in enumerate(size) if d is None} or None for size in dims)
        shapes = (shapes,) if isinstance(case.module, Call) else shapes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(case.module, case.inputs(3), dynamic_shapes=shapes)


def saved(case: Case, folder: Path) -> Path:
    """The program of a case as a `.pt2` file."""
    path = folder / "case.pt2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(exported(case), path)
    return path


def arrays(tensors: Any) -> list[np.ndarray]:
    """Tensors, nested as they may be, as arrays; Python numbers as the frontend turns them into scalars."""
    leaves = [leaf for leaf in torch.utils._pytree.tree_leaves(tensors) if leaf is not None]
    return [to_numpy(torch, leaf) if isinstance(leaf, torch.Tensor) else np.asarray(leaf) for leaf in leaves]


def expected(case: Case, batch: int) -> list[np.ndarray]:
    """What torch computes."""
    with torch.no_grad():
        return arrays(case.module(*case.inputs(batch)))


def batches(case: Case) -> tuple[int, ...]:
    return (3, 5) if case.batch else (3,)
