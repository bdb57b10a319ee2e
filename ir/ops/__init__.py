"""All core ops, one file per family. `get_op` loads the families on first use."""

from __future__ import annotations

import difflib
import importlib

from ..errors import Unsupported
from ..opdef import OPS, OpDef

FAMILIES = (
    "elementwise",
    "logic",
    "activation",
    "conv",
    "pool",
    "matmul",
    "reduce",
    "norm",
    "shape",
    "arrange",
    "index",
    "resize",
    "signal",
    "vision",
    "attention",
    "recurrent",
    "quant",
    "qlinear",
    "random",
    "sequence",
    "text",
    "control",
    "ml",
    "trees",
    "structure",
)

#: Modules that define the ops of a target, loaded when an op with that prefix is asked for.
NAMESPACES = {
    "tfl": "anyir.backends.tflite.ops",
    "ms": "anyir.backends.mindir.ops",
    "ort": "anyir.backends.onnx.ops",
    "torch": "anyir.backends.torch.ops",
}

_loaded: set[str] = set()


def load_families() -> dict[str, OpDef]:
    """Every core op by name; those of targets, such as `tfl.conv_2d`, are not among them."""
    for family in FAMILIES:
        _load(family)
    return {name: op for name, op in OPS.items() if name.partition(".")[0] not in NAMESPACES}


def core_ops() -> list[OpDef]:
    """Every op of the IR itself, by name: not those of a target, and not `return` and `opaque`, which every graph may hold."""
    own = {f"{__name__}.{family}" for family in FAMILIES}
    found = [
        op for op in load_families().values() if type(op).__module__ in own and op.name not in ("return", "opaque")
    ]
    return sorted(found, key=lambda op: op.name)


def _load(family: str) -> None:
    if family not in _loaded:
        importlib.import_module(f".{family}", __name__)
        _loaded.add(family)


def get_op(name: str) -> OpDef:
    """The op called `name`. Raises Unsupported with near matches when there is none."""
    found = OPS.get(name)
    if found is not None:
        return found
    prefix = name.partition(".")[0]
    pending = [NAMESPACES[prefix]] if prefix in NAMESPACES else [f"{__name__}.{family}" for family in FAMILIES]
    while name not in OPS and pending:
        importlib.import_module(pending.pop(0))
    found = OPS.get(name)
    if found is None:
        near = difflib.get_close_matches(name, load_families(), 3)
        raise Unsupported(
            f"no op {name!r} in the IR", code="U010", hint=f"did you mean {', '.join(near)}" if near else ""
        )
    return found
