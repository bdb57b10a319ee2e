"""Loads the family files of the Keras frontend, which fill the tables of `registry` when they are imported."""

from __future__ import annotations


def load() -> None:
    """Fill the tables; calling it again costs nothing."""
    from . import (  # noqa: F401
        activation,
        attention,
        conv,
        core,
        merge,
        norm,
        ops_math,
        ops_nn,
        ops_shape,
        pool,
        preprocessing,
        recurrent,
        reshaping,
    )
