"""What `net.py` files consist of besides a model's own statements: header, imports, class, loader, helpers.

The writer puts these together, the reader accepts nothing else. Knows neither torch nor the IR.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from functools import cache
from pathlib import Path

HEADER = '''"""A PyTorch module written by anyir. Its weights are in the .safetensors file of the same name beside it.

    net = load("{stem}.py")   # in Python: from {stem} import load
    outputs = net(inputs)
"""
'''
FORMAT_LINE = "# anyir-torch 1"
IMPORTS = """
import os

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn
"""

BODY = '''
class Net(nn.Module):
    """Parameters, buffers and constants by the names of WEIGHTS; `state_dict` has the first two."""

    def __init__(self, tensors):
        super().__init__()
        for name, role in WEIGHTS:
            place(self, name, tensors[name], role)

    def tensors(self):
        return [find(self, name) for name, _ in WEIGHTS]
'''

TAIL = '''

def place(module, name, tensor, role):
    """Register a tensor under a dotted name, in plain modules made on the way."""
    *path, last = name.split(".")
    for part in path:
        if part not in module._modules:
            module.add_module(part, nn.Module())
        module = module._modules[part]
    if role == "param" and (tensor.is_floating_point() or tensor.is_complex()):
        module.register_parameter(last, nn.Parameter(tensor))
    else:
        module.register_buffer(last, tensor, persistent=role != "const")


def find(module, name):
    *path, last = name.split(".")
    for part in path:
        module = module._modules[part]
    found = module._parameters.get(last)
    return module._buffers[last] if found is None else found


def load(path=__file__):
    """The module with its weights."""
    return Net(load_file(os.path.splitext(path)[0] + ".safetensors")).eval()
'''

#: Functions that return several tensors; all others return one.
SEVERAL = frozenset(
    ["torch.split", "helpers.topk", "helpers.max_pool_with_indices", "helpers.lstm", "helpers.gru", "helpers.rnn"]
)


@cache
def helper_sources() -> dict[str, str]:
    """The text of every function in `torch_helpers.py`, in order."""
    text = Path(__file__).with_name("torch_helpers.py").read_text(encoding="utf-8")
    tree = ast.parse(text)
    return {
        item.name: ast.get_source_segment(text, item) or "" for item in tree.body if isinstance(item, ast.FunctionDef)
    }


def helper_text(names: Iterable[str]) -> list[str]:
    """Sources of the named helpers and of those that they call, in the order of `torch_helpers.py`."""
    sources = helper_sources()
    wanted: dict[str, None] = {}
    pending = list(names)
    while pending:
        name = pending.pop()
        if name not in wanted:
            wanted[name] = None
            called = {node.id for node in ast.walk(ast.parse(sources[name])) if isinstance(node, ast.Name)}
            pending.extend(sorted(called & sources.keys()))
    return [f"{source}\n" for name, source in sources.items() if name in wanted]
