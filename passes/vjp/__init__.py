"""Vector-Jacobian products, one file per family of ops; `RULES` has them all."""

from . import elementwise, products, reduce, shape  # each fills RULES
from .table import RULES, ones_like, zeros_like

__all__ = ["RULES", "elementwise", "ones_like", "products", "reduce", "shape", "zeros_like"]
