"""A graph run in stages over calibration data: what is wanted now is computed from where the last stage ended.

    stage = Stage(module, feeds)
    for x, y in stage.values([node.operands[0], node.result], end=node): ...      # one tuple of arrays per batch

The next values start from what was computed in front of `end`, which is kept for all batches. A stage that would hold too
much is not kept: then the next values start from the one before, which costs time and no memory. Weights of nodes from
`end` on may change in between. Imports no framework.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..ir.graph import Module, Node, Value
from ..kernels.constants import shelf_of
from ..kernels.precision import quiet
from ..kernels.run import bind_inputs, run_node
from ..passes.manager import Feeds

#: Bytes that the kept values of one module may take.
ROOM = 448 << 20

Env = dict[Value, Any]


class Stage:
    """The first signature's graph of `module`, and its values at the end of the last stage, batch by batch."""

    def __init__(self, module: Module, feeds: Feeds, room: int = ROOM) -> None:
        self.module = module
        self.feeds = feeds
        self.graph = module.signature.graph
        self.room = room
        self._kept: list[Env] | None = None

    def values(self, wanted: Sequence[Value], end: Node | None = None) -> Iterator[tuple[np.ndarray, ...]]:
        """The wanted values of every batch in order; only what they depend on is run. With `end` the stage then ends in front
        of that node, if there is room for what the nodes from there on need. To be used up before the next call."""
        live = [] if end is None else self._live_at(end)
        nodes = self._before([*wanted, *live])
        needed = _last_uses(nodes, [*wanted, *live])
        kept: list[Env] | None = None
        for place, env in enumerate(self._environments()):
            self._run(nodes, env, needed)
            if place == 0 and end is not None and self._fits(env, live):
                kept = []
            if kept is not None:
                kept.append({value: env[value] for value in live})
                if self._kept is not None:
                    self._kept[place] = {}  # this batch goes on from its new stage
            made = tuple(env[value] if value.weight is None else value.array() for value in wanted)
            del env
            yield made
        if kept is not None:
            self._kept = kept

    def _fits(self, env: Env, live: Sequence[Value]) -> bool:
        """Whether all samples' values fit, judged by the first batch."""
        held = sum(env[value].nbytes for value in live)
        seen = len(env[self.graph.inputs[0]]) if self.graph.inputs[0] in env else 0
        seen = seen or max((len(env[value]) for value in live if np.ndim(env[value])), default=1)
        return held * self.feeds.count <= self.room * max(seen, 1)

    def _environments(self) -> Iterator[Env]:
        """Fresh dicts of the values that are at hand."""
        if self._kept is not None:
            for env in self._kept:
                yield dict(env)
            return
        signature = self.module.signature
        for batch in self.feeds.batches():
            yield dict(zip(self.graph.inputs, bind_inputs(signature, batch), strict=True))

    def _before(self, wanted: Sequence[Value]) -> list[Node]:
        """The nodes that must run for `wanted`, in order."""
        known = set(self._kept[0]) if self._kept else set(self.graph.inputs)
        pending = [value for value in wanted if value not in known]
        found: dict[Node, None] = {}
        while pending:
            node = pending.pop().node
            if node is not None and node not in found:
                found[node] = None
                pending.extend(value for value in node.inputs() if value not in known)
        return sorted(found, key=lambda node: node.order)

    def _live_at(self, end: Node) -> list[Value]:
        """Computed values (or graph inputs) from in front of `end` that nodes from there on use, in order."""
        live: dict[Value, None] = {}
        user: Node | None = end
        while user is not None:
            for value in user.inputs():
                if value.weight is None and (value.node is None or value.node.before(end)):
                    live[value] = None
            user = user.next
        return list(live)

    def _run(self, nodes: Sequence[Node], env: Env, needed: dict[Value, int]) -> None:
        with shelf_of(self.module) as shelf, quiet():
            for place, node in enumerate(nodes):
                operands = [
                    None if v is None else env[v] if v.weight is None else shelf.array(v.weight.tensor)
                    for v in node.operands
                ]
                env.update(zip(node.results, run_node(node, operands), strict=True))
                del operands
                for value in (*node.inputs(), *node.results):
                    if needed.get(value, -1) <= place:
                        env.pop(value, None)


def _last_uses(nodes: Sequence[Node], wanted: Sequence[Value]) -> dict[Value, int]:
    """The place of the last node that uses a value; a wanted value is used to the end."""
    last = {value: place for place, node in enumerate(nodes) for value in node.inputs()}
    last.update(dict.fromkeys(wanted, len(nodes)))
    return last
