"""Compression: recipes and what needs data. `anyir.compress(...)` is the function of the Python API, and this package too:
a package of that name hides what the front door would give, so it can be called itself."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

if not __name__.startswith("anyir."):
    raise ImportError("import this package as `anyir.compress`, not from inside the repository's folder")


class _Callable(ModuleType):
    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """`anyir.api.compress`."""
        from ..api import compress

        return compress(*arguments, **options)


sys.modules[__name__].__class__ = _Callable
