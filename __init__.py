"""anyir: any model in, any model out, through one IR.

    module = anyir.load("model.keras")
    anyir.compile("model.keras", "model.tflite")

Everything is loaded on first use: importing this package costs next to nothing.
"""

from __future__ import annotations

if __name__ != "anyir":
    raise ImportError("import this package as `anyir` (pip install -e .), not from inside its own folder")

__version__ = "0.1.0"

_API = ("compile", "compress", "distill", "load", "optimize", "run", "save", "to_torch", "verify")

__all__ = [*_API, "__version__"]


def __getattr__(name: str) -> object:
    if name in _API:
        from . import api

        return getattr(api, name)
    raise AttributeError(f"module 'anyir' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
