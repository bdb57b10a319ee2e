"""Layout assignment under its name in pipelines; backends call `assign_layout` itself with what their target wants."""

from __future__ import annotations

from ...ir.graph import Module
from ..manager import Context, module_pass
from .assign import assign_layout


@module_pass("assign-layout")
def assign_layout_pass(module: Module, ctx: Context) -> None:
    """Run all spatial ops channels-last and place the fewest bytes of transposes. After it only a backend reads the module."""
    assign_layout(module)
