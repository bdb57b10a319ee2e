"""All core ops, one file per family. `get_op` loads the families on first use."""

from __future__ import annotations

import difflib
import importlib

from ..errors import Unsupported
from ..opdef import OPS, OpDef

FAMILIES = (
    "elementwise",
    "activation",
    "conv",
    "pool",
    "matmul",
    "reduce",
    "norm",
    "shape",
    "index",
    "resize",
    "attention",
    "recurrent",
    "quant",
    "random",
    "control",
    "structure",
)

#: Modules that define the ops of a target, loaded when an op with that prefix is asked for.
NAMESPACES = {"tfl": "anyir.backends.tflite.ops", "ms": "anyir.backends.mindir.ops"}

_loaded: set[str] = set()


def load_families() -> dict[str, OpDef]:
    """Every core op by name."""
    for family in FAMILIES:
        if family not in _loaded:
            importlib.import_module(f".{family}", __name__)
            _loaded.add(family)
    return OPS


def get_op(name: str) -> OpDef:
    """The op called `name`. Raises Unsupported with near matches when there is none."""
    found = OPS.get(name)
    if found is not None:
        return found
    load_families()
    prefix = name.partition(".")[0]
    if name not in OPS and prefix in NAMESPACES:
        importlib.import_module(NAMESPACES[prefix])
    found = OPS.get(name)
    if found is None:
        near = difflib.get_close_matches(name, OPS, 3)
        raise Unsupported(f"no op {name!r} in the IR", code="U010", hint=f"did you mean {', '.join(near)}" if near else "")
    return found
