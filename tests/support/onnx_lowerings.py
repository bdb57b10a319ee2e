"""Which IR ops each ONNX operator becomes, seen while models are read.

Run as a script it reads the models of the tests beside it and writes `frontends/onnx/lowerings.json`, which
`irc ops --from onnx` and docs/onnx.md show. It takes some minutes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from anyir.frontends import onnx as frontend
from anyir.frontends.onnx import importer
from anyir.frontends.onnx.coverage import FILE, handler_start
from anyir.ir.graph import Graph, Node
from anyir.tests.support import microsoft_models

Lowerings = dict[tuple[str, str, int], set[tuple[str, ...]]]

#: The tests whose models show every operator.
WITNESSES = (
    "suite", "every_schema", "random", "control", "sequence", "text", "ml", "ml_models", "trees", "training", "microsoft*",
)  # fmt: skip


@contextmanager
def watching() -> Iterator[Lowerings]:
    """Inside the block, whatever is read is noted: (domain, operator, start of its handler's range) -> forms."""
    found: Lowerings = {}
    lower = importer.Importer._lower

    def noted(self: Any, node: Any, operands: Any, scope: Any) -> Any:
        graph = self.b.graph
        last = _last(graph)
        made = lower(self, node, operands, scope)
        key = (node.domain, node.op_type, handler_start(node.domain, node.op_type, scope.opsets.get(node.domain, 1)))
        found.setdefault(key, set()).add(tuple(sorted({n.name for n in _behind(graph, last)})))
        return made

    importer.Importer._lower = noted  # type: ignore[method-assign]
    try:
        yield found
    finally:
        importer.Importer._lower = lower  # type: ignore[method-assign]


def _last(graph: Graph) -> Node | None:
    return next(iter(graph.reversed()), None)


def _behind(graph: Graph, last: Node | None) -> Iterator[Node]:
    for node in graph.reversed():
        if node is last:
            return
        yield node


def main() -> None:
    import pytest
    from anyir.frontends.onnx import registry
    from anyir.frontends.onnx.coverage import operators

    tests = Path(__file__).parents[1] / "frontends" / "onnx"
    files = [str(file) for name in WITNESSES for file in sorted(tests.glob(f"test_{name}.py"))]
    with watching() as found:
        if pytest.main(["-q", "-p", "no:cacheprovider", *files]):
            sys.exit("the tests fail: nothing was written")
        for model, _ in microsoft_models.models():
            frontend.read(model)
    known = {(o.domain, o.op_type) for o in operators()} | set(registry.table())
    tree: dict[str, dict[str, dict[str, list]]] = {}
    for (domain, op_type, since), forms in sorted(found.items()):
        if (domain, op_type) in known:
            ordered = sorted(map(list, forms), key=lambda form: (len(form), form))
            tree.setdefault(domain, {}).setdefault(op_type, {})[str(since)] = ordered
    FILE.write_text(json.dumps(tree, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
