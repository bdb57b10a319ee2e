"""Layout passes under their names in pipelines; backends call `assign_layout` itself with what their target wants."""

from __future__ import annotations

from ...ir.graph import Module
from ..manager import Context, module_pass
from .assign import assign_layout


@module_pass("assign-layout")
def assign_layout_pass(module: Module, ctx: Context) -> None:
    """Run all spatial ops channels-last and place the fewest bytes of transposes. After it only a backend reads the module."""
    assign_layout(module)


@module_pass("cancel-transposes")
def cancel_transposes(module: Module, ctx: Context) -> None:
    """Keep spatial ops channels-first and let all others take the axis order that moves the fewest bytes, with no node more.

    Given:
        %1 = transpose(%0) {perm = [0, 2, 3, 1]}
        %2 = relu(%1)
        %3 = transpose(%2) {perm = [0, 3, 1, 2]}
        %4 = conv(%3, %w)
    Result:
        %2 = relu(%0)
        %4 = conv(%2, %w)
    """
    if any(True for _ in module.all_nodes("transpose")):
        assign_layout(module, channels_last=False)
