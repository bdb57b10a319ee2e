"""Exact minimisation of pairwise binary energies by a minimum cut (Kolmogorov and Zabih, 2004; Dinic's algorithm).

Knows nothing of graphs of ops. Explicit stacks throughout: the number of variables is the model's.
"""

from __future__ import annotations

from collections import deque

_INFINITE = float("inf")


class BinaryEnergy:
    """A sum of costs over variables in {0, 1}: `unary` and submodular `pair` terms, minimised by `solve`."""

    def __init__(self) -> None:
        self.cost: list[list[float]] = []  # per variable: cost of 0, cost of 1
        self.heads: list[list[int]] = [[], []]  # adjacency: edge numbers; node 0 is the source, 1 the sink
        self.to: list[int] = []
        self.room: list[float] = []

    def variable(self) -> int:
        self.cost.append([0.0, 0.0])
        self.heads.append([])
        return len(self.cost) - 1

    def unary(self, variable: int, cost0: float, cost1: float) -> None:
        self.cost[variable][0] += cost0
        self.cost[variable][1] += cost1

    def pair(self, a: int, b: int, costs: tuple[float, float, float, float]) -> None:
        """Costs of (a, b) = 00, 01, 10, 11. Where 00 + 11 exceeds 01 + 10 the excess is dropped: then the solution is
        good, not provably best."""
        c00, c01, c10, c11 = costs
        excess = c00 + c11 - c01 - c10
        if excess > 0:
            taken = min(excess, c00)
            c00, c11 = c00 - taken, c11 - (excess - taken)
        self.unary(a, c00, c10)
        self.unary(b, 0.0, c11 - c10)
        weight = c01 + c10 - c00 - c11
        if weight > 0:
            self._edge(a + 2, b + 2, weight)  # paid when a = 0 and b = 1

    def forbid(self, a: int, b: int) -> None:
        """Never a = 0 together with b = 1."""
        self._edge(a + 2, b + 2, _INFINITE)

    def _edge(self, tail: int, head: int, room: float) -> None:
        for a, b, capacity in ((tail, head, room), (head, tail, 0.0)):
            self.heads[a].append(len(self.to))
            self.to.append(b)
            self.room.append(capacity)

    def solve(self) -> list[int]:
        """The values of a minimum; where both are as cheap, 0."""
        for variable, (cost0, cost1) in enumerate(self.cost):
            if cost1 > cost0:
                self._edge(0, variable + 2, cost1 - cost0)
            elif cost0 > cost1:
                self._edge(variable + 2, 1, cost0 - cost1)
        while (level := self._levels())[1] >= 0:
            self._blocking_flow(level)
        reaches_sink = self._reaching_sink()
        return [1 if reaches_sink[variable + 2] else 0 for variable in range(len(self.cost))]

    def _levels(self) -> list[int]:
        level = [-1] * len(self.heads)
        level[0] = 0
        queue = deque([0])
        while queue:
            node = queue.popleft()
            for edge in self.heads[node]:
                if self.room[edge] > 0 and level[self.to[edge]] < 0:
                    level[self.to[edge]] = level[node] + 1
                    queue.append(self.to[edge])
        return level

    def _blocking_flow(self, level: list[int]) -> None:
        position = [0] * len(self.heads)
        path: list[int] = []
        edge: int | None
        node = 0
        while True:
            if node == 1:
                flow = min(self.room[edge] for edge in path)
                for edge in path:
                    self.room[edge] -= flow
                    self.room[edge ^ 1] += flow
                node, path = 0, []
                continue
            edge = self._open_edge(node, level, position)
            if edge is not None:
                path.append(edge)
                node = self.to[edge]
            elif path:
                level[node] = -1
                node = self.to[path.pop() ^ 1]
            else:
                return

    def _open_edge(self, node: int, level: list[int], position: list[int]) -> int | None:
        edges = self.heads[node]
        while position[node] < len(edges):
            edge = edges[position[node]]
            if self.room[edge] > 0 and level[self.to[edge]] == level[node] + 1:
                return edge
            position[node] += 1
        return None

    def _reaching_sink(self) -> list[bool]:
        reached = [False] * len(self.heads)
        reached[1] = True
        stack = [1]
        while stack:
            node = stack.pop()
            for edge in self.heads[node]:
                tail = self.to[edge]
                if self.room[edge ^ 1] > 0 and not reached[tail]:
                    reached[tail] = True
                    stack.append(tail)
        return reached
