"""`irc passes new NAME`: a pass with one rule and a test of it, to be changed into what is wanted. Both run as they are."""

from __future__ import annotations

import re
from pathlib import Path

from ..ir.errors import UsageError
from ..ir.outputs import atomic_write

_PASS = '''\
"""The pass `{name}`. Run it with: irc opt model.onnx --load {module}.py --passes {name} --check-numerics"""

from anyir.passes import pattern_pass, rewrites


@rewrites(lambda p, x: p.mul(x, p.sigmoid(x)), numerics="ulp")
def {module}_rule(b, x):
    """mul(x, sigmoid(x)) -> silu(x)"""
    return b.silu(x) if x.dtype.is_float else b.decline("silu needs a float input")


{module} = pattern_pass("{name}", [{module}_rule])
'''

_TEST = '''\
"""The pass `{name}`: what it rewrites, what it leaves alone, and that the numbers stay. Run it with: pytest"""

import {module}  # registers the pass
import anyir
import pytest

HIT = """\\
anyir 1
module "hit"
graph @main(%x: f32[N, 3]) {{
  %s = sigmoid(%x) : f32[N, 3]
  %y = mul(%x, %s) : f32[N, 3]
  return(%y)
}}
signature "main" = @main("x" = 0) -> ("y" = 0)
"""
NEAR_MISS = HIT.replace("mul(%x, %s)", "mul(%s, %s)")


@pytest.fixture
def load(tmp_path):
    def from_text(text):
        (tmp_path / "net.anyir").write_text(text)
        return anyir.load(tmp_path / "net.anyir")

    return from_text


def test_it_rewrites(load):
    module = anyir.optimize(load(HIT), passes="{name},dce")
    assert [node.name for node in module.all_nodes()] == ["silu"]
    assert anyir.verify(load(HIT), module).passed


def test_it_leaves_a_near_miss_alone(load):
    assert anyir.optimize(load(NEAR_MISS), passes="{name},dce") == load(NEAR_MISS)
'''


def new_pass(name: str, folder: Path) -> list[Path]:
    """Write `<name>.py` and `test_<name>.py` into `folder`; returns them. Raises UsageError for a name that is no name of a
    pass or is taken, and where one of the files is there already."""
    from ..passes.manager import all_pass_names

    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise UsageError(f"{name!r} is no name of a pass", hint="words of a-z and 0-9 joined by -: fuse-gelu")
    if name in all_pass_names():
        raise UsageError(f"there is a pass {name!r} already", hint="irc passes lists them")
    module = name.replace("-", "_")
    made = {folder / f"{module}.py": _PASS, folder / f"test_{module}.py": _TEST}
    for path in made:
        if path.exists():
            raise UsageError("there is such a file already", where=str(path), hint="choose another name")
    for path, text in made.items():
        with atomic_write(path) as file:
            file.write(text.format(name=name, module=module).encode())
    return list(made)
