"""Decompositions that every target may use: each rich op as a graph of smaller ones, one file per op family."""

from .driver import decompose
from .rules import DECOMPOSITIONS, Declined, Rule, decomposable, load

__all__ = ["DECOMPOSITIONS", "Declined", "Rule", "decomposable", "decompose", "load"]
