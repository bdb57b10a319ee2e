"""The front door for people who write passes: `from anyir.passes import graph_pass, pattern_pass, rewrites`."""

from __future__ import annotations

if not __name__.startswith("anyir."):
    raise ImportError("import this package as `anyir.passes`, not from inside the repository's folder")

from .manager import Context, Instrument, graph_pass, module_pass, pattern_pass, run_pipeline
from .pattern import Pattern
from .rewrite import Rule, rewrites, rule

__all__ = [
    "Context",
    "Instrument",
    "Pattern",
    "Rule",
    "graph_pass",
    "module_pass",
    "pattern_pass",
    "rewrites",
    "rule",
    "run_pipeline",
]
