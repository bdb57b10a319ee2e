"""Dtypes by torch's names, and keys of weights that PyTorch can register. Must not import torch."""

from __future__ import annotations

from collections.abc import Iterable

from ...formats.exported import TORCH_NAMES
from ...ir.graph import Value
from ...ir.types import DType

_NAMES = {dtype: name for name, dtype in TORCH_NAMES.items()}

#: Attributes of nn.Module that a weight or a folder of weights must not hide.
RESERVED = frozenset([
    "T_destination", "add_module", "apply", "bfloat16", "buffers", "call_super_init", "children", "compile", "cpu",
    "cuda", "double", "dump_patches", "eval", "extra_repr", "float", "forward", "get_buffer", "get_extra_state",
    "get_parameter", "get_submodule", "half", "ipu", "load_state_dict", "modules", "mtia", "named_buffers",
    "named_children", "named_modules", "named_parameters", "parameters", "register_backward_hook",
    "register_buffer", "register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook",
    "register_full_backward_pre_hook", "register_load_state_dict_post_hook", "register_load_state_dict_pre_hook",
    "register_module", "register_parameter", "register_state_dict_post_hook", "register_state_dict_pre_hook",
    "requires_grad_", "set_extra_state", "set_submodule", "share_memory", "state_dict", "tensors", "to", "to_empty",
    "train", "training", "type", "xpu", "zero_grad",
])  # fmt: skip


def torch_name(dtype: DType) -> str:
    """`float32` of f32."""
    return _NAMES[dtype]


def registered_names(weights: Iterable[Value]) -> dict[Value, str]:
    """A key for each weight: its own where PyTorch can register it, else `weight_0`, `weight_1` ...

    A key is a path of parts; no part may be empty or hide an attribute of nn.Module, and no key may lie below another.
    """
    taken: set[str] = set()
    folders: set[str] = set()
    found: dict[Value, str] = {}
    for index, value in enumerate(weights):
        key = value.weight.key if value.weight is not None else ""
        if not _fits(key, taken, folders):
            key = f"weight_{index}"
            while not _fits(key, taken, folders):
                key += "_"
        found[value] = key
        taken.add(key)
        folders.update(_folders(key))
    return found


def _folders(key: str) -> list[str]:
    parts = key.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]


def _fits(key: str, taken: set[str], folders: set[str]) -> bool:
    parts = key.split(".")
    plain = all(part and part not in RESERVED and not part.startswith("_") and "\0" not in part for part in parts)
    return (
        plain
        and key not in taken
        and key not in folders
        and not any(f in taken for f in _folders(key))
        and len(key) < 1000
    )
