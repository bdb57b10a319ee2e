"""Operators that TFLite has and the core IR has not, named `tfl.*`: channels-last, SAME/VALID padding, its own weights.

Attributes carry the names of the schema's option slots, so writing one is copying them. What TFLite shares with the
core (exp, concat, transpose ...) stays a core op until it is written. Every op has a kernel beside it, in terms of core
kernels, so a legalised graph runs, prints and parses like any other.
"""

from . import control, hybrid, image, integer, integer_unary, math, shape

__all__ = ["control", "hybrid", "image", "integer", "integer_unary", "math", "shape"]
