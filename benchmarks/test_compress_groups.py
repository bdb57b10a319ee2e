"""Speed of the dependency engine: a ResNet-50-shaped network, and chains, in whose length it is linear.

pytest benchmarks/test_compress_groups.py --benchmark-enable -s
"""

from __future__ import annotations

import time

import numpy as np
import pytest
from anyir.ir.builder import Builder
from anyir.ir.dims import sym
from anyir.ir.graph import Module, Value, bulk
from anyir.ir.types import F32, TensorType
from anyir.passes.prune.groups import find_groups
from anyir.passes.prune.remove import remove_units

from .test_core import ROUNDS, slowness

#: CPU seconds on the budgets' machine.
BUDGETS = {"resnet-50": 0.3, "solve": 0.02, "chain": 0.8, "remove": 0.8}
CHAIN = 10_000
WIDTH = 8


def start(*shape: int) -> tuple[Builder, Value]:
    b = Builder(Module().add_graph("main"))
    return b, b.graph.add_input(TensorType(F32, (sym("N"), *shape)), "x")


def done(b: Builder, y: Value) -> Module:
    b.graph.set_outputs([y])
    b.module.add_signature("s", b.graph, ["x"], ["y"])
    return b.module


def weight(b: Builder, *shape: int) -> Value:
    """A weight of any size in no memory."""
    return b.const(np.broadcast_to(np.float32(0.5), shape), key="w", role="param")


def chain(nodes: int) -> Module:
    """Dense layers and relus."""
    with bulk():
        b, x = start(WIDTH)
        for _ in range(nodes // 2):
            x = b.relu(b.gemm(x, weight(b, WIDTH, WIDTH)))
        return done(b, x)


def resnet50() -> Module:
    def conv(x: Value, to: int, kernel: int, stride: int = 1, *, relu: bool = True) -> Value:
        y = b.conv(
            x, weight(b, to, x.shape[1], kernel, kernel), strides=(stride, stride), pads=(kernel // 2,) * 4  # type: ignore[index, arg-type]
        )  # fmt: skip
        y = b.batch_norm(y, *(weight(b, to) for _ in range(4)))
        return b.relu(y) if relu else y

    b, x = start(3, 224, 224)
    x = b.max_pool(conv(x, 64, 7, 2), kernel_shape=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1))
    for width, blocks, first in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(blocks):
            stride = 1 if block else first
            y = conv(conv(conv(x, width, 1), width, 3, stride), 4 * width, 1, relu=False)
            x = b.relu(b.add(y, x if block else conv(x, 4 * width, 1, stride, relu=False)))
    return done(b, b.gemm(b.flatten(b.global_average_pool(x)), weight(b, 2048, 1000)))


def seconds(function, *args) -> float:
    """CPU seconds, the best of some rounds."""
    found = []
    for _ in range(ROUNDS):
        began = time.process_time()
        function(*args)
        found.append(time.process_time() - began)
    return min(found)


def judge(name: str, found: float) -> None:
    print(f"{name}: {found:.3f} CPU s")
    assert found <= BUDGETS[name] * slowness()


def test_resnet50() -> None:
    module = resnet50()
    groups = find_groups(module)
    assert (len(groups), sum(group.size for group in groups)) == (37, 11456)
    judge("resnet-50", seconds(find_groups, module))
    space = groups[0].analysis.walk.space  # type: ignore[union-attr]
    print(f"{space.count} atoms")
    judge("solve", seconds(space.solve))


@pytest.mark.slow
def test_chain_is_linear() -> None:
    short, long = (seconds(find_groups, chain(nodes)) for nodes in (CHAIN, 10 * CHAIN))
    judge("chain", short)
    assert long < 13 * short


def test_removal_along_a_chain() -> None:
    module = chain(CHAIN)
    groups = find_groups(module)
    assert len(groups) == CHAIN // 2 - 1
    began = time.process_time()
    remove_units(module, {group: [0] for group in groups})
    judge("remove", time.process_time() - began)
    kept = WIDTH - 1
    assert {weight.type.shape for weight in module.weights} == {(WIDTH, kept), (kept, kept), (kept, WIDTH)}
