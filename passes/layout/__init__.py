"""Layout assignment: which axis order every tensor has in memory, decided for the whole graph at once."""

from .assign import assign_layout
from .simplify import simplify_transposes

__all__ = ["assign_layout", "simplify_transposes"]
