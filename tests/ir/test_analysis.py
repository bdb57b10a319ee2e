"""Questions about graphs, with networkx's own algorithms and plain recounts as oracles."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
from anyir.ir.analysis import critical_path, immediate_dominators, op_counts, quant_of, snapshot, weight_bytes
from anyir.ir.graph import Graph, Node
from anyir.tests.support.graphs import random_module
from anyir.tests.support.text import module

DIAMOND = """(%x: f32[2], %y: f32[2]) {
  %a = neg(%x) : f32[2]
  %b = exp(%a) : f32[2]
  %c = abs(%a) : f32[2]
  %d = add(%b, %c) : f32[2]
  %e = mul(%d, %y) : f32[2]
  return(%e, %a)
}"""


def test_a_snapshot_has_nodes_inputs_return_and_operand_numbers() -> None:
    picture = snapshot(module(DIAMOND).main)
    assert set(picture) == {"in0", "in1", 0, 1, 2, 3, 4, "return"}
    assert [picture.nodes[i]["op"] for i in range(5)] == ["neg", "exp", "abs", "add", "mul"]
    assert {(u, v, d["operand"]) for u, v, d in picture.edges(data=True)} == {
        ("in0", 0, 0), (0, 1, 0), (0, 2, 0), (1, 3, 0), (2, 3, 1), (3, 4, 0), ("in1", 4, 1), (4, "return", 0), (0, "return", 1),
    }  # fmt: skip


def test_a_snapshot_cannot_be_edited_and_can_be_exported() -> None:
    picture = snapshot(module(DIAMOND).main)
    with pytest.raises(nx.NetworkXError):
        picture.add_node("new")
    assert "neg" in "\n".join(nx.generate_graphml(picture))


def test_snapshots_of_generated_modules_are_acyclic_and_complete() -> None:
    for seed in range(60):
        graph = random_module(seed).module.main
        picture = snapshot(graph)
        assert nx.is_directed_acyclic_graph(picture)
        computed = sum(not v.is_const for n in (*graph.nodes(), graph.return_node) for v in n.inputs())
        assert picture.number_of_edges() == computed


def test_clones_are_isomorphic() -> None:
    made = random_module(11).module
    one, two = snapshot(made.main), snapshot(made.clone().main)
    assert nx.is_isomorphic(one, two, node_match=lambda a, b: a["op"] == b["op"] and a["type"] == b["type"])


def test_the_order_of_nodes_is_topological() -> None:
    for seed in range(40):
        graph = random_module(seed).module.main
        position = {number: number for number in range(len(graph))} | {"return": 1 << 30}
        position |= {f"in{v.index}": -1 for v in graph.inputs}
        assert all(position[u] < position[v] for u, v, _ in snapshot(graph).edges)


def dominators_by_removal(graph: Graph) -> dict[object, set[object]]:
    """n dominates m when m is out of reach without n."""
    picture = nx.DiGraph(snapshot(graph))
    sources = [n for n in picture if picture.in_degree(n) == 0]
    picture.add_edges_from(("entry", n) for n in sources)
    found: dict[object, set[object]] = {}
    for node in picture:
        without = picture.copy()
        without.remove_node(node)
        reached = nx.descendants(without, "entry") if node != "entry" else set()
        for other in set(picture) - reached - {node, "entry"}:
            found.setdefault(other, set()).add(node)
    return found


def test_immediate_dominators() -> None:
    for graph in (module(DIAMOND).main, *(random_module(seed).module.main for seed in range(8))):
        parents, all_dominators = immediate_dominators(graph), dominators_by_removal(graph)
        for node, parent in parents.items():
            if node != "entry" and parent is not None:
                chain = set()
                while parent is not None and parent not in chain:
                    chain.add(parent)
                    parent = parents.get(parent)
                assert chain == all_dominators[node]


def longest_by_recursion(graph: Graph) -> int:
    depth: dict[Node, int] = {}
    for node in graph.nodes():
        depth[node] = 1 + max((depth[v.node] for v in node.inputs() if v.node in depth), default=0)
    return max(depth.values(), default=0)


def test_the_critical_path_is_a_longest_chain() -> None:
    for seed in range(60):
        graph = random_module(seed).module.main
        path = critical_path(graph)
        assert len(path) == longest_by_recursion(graph)
        assert all(a in [v.node for v in b.inputs()] for a, b in zip(path, path[1:], strict=False))


def test_counts() -> None:
    made = module("""
      weight "w" param : f32[2, 2] = [1.0, 2.0, 3.0, 4.0]
      weight "unused" param : f32[2] = [1.0, 2.0]
      graph @main(%c: bool[], %x: f32[2, 2]) {
        const %w = @weights["w"] : f32[2, 2]
        %y = matmul(%x, %w) : f32[2, 2]
        %z = if(%c, %y) : f32[2, 2] {
          then(%t: f32[2, 2]) { %u = neg(%t) : f32[2, 2] return(%u) }
          else(%e: f32[2, 2]) { %u = neg(%e) : f32[2, 2] %v = matmul(%u, %w) : f32[2, 2] return(%v) }
        }
        return(%z)
      }""")
    assert op_counts(made) == {"matmul": 2, "neg": 2, "if": 1}
    assert weight_bytes(made) == 16, "each weight once, unused ones not at all"


QUANT = """(%x: f32[2, 2]) {
  const %s = 0.5 : f32[]
  const %z = 3 : u8[]
  %q = quantize(%x, %s, %z) {to = u8} : u8[2, 2]
  %t = transpose(%q) {perm = [1, 0]} : u8[2, 2]
  const %four = [4] : i64[1]
  %r = reshape(%t, %four) : u8[4]
  return(%r)
}"""


def test_quantisation_is_found_through_moves() -> None:
    made = module(QUANT)
    found = quant_of(made.main.outputs[0])
    assert found is not None and found.scale.array() == np.float32(0.5) and found.zero_point.array() == 3
    assert quant_of(made.main.inputs[0]) is None


def test_quantisation_is_found_at_the_user() -> None:
    made = module("""(%q: i8[2]) {
      const %s = 0.25 : f32[]
      %y = dequantize(%q, %s) {to = f32} : f32[2]
      return(%y)
    }""")
    found = quant_of(made.main.inputs[0])
    assert found is not None and found.scale.array() == np.float32(0.25) and found.zero_point is None


def test_quantisation_is_found_through_choices_and_at_integer_layers() -> None:
    made = module("""(%x: f32[1, 2, 4, 4], %w: i8[3, 2, 1, 1]) {
      const %s = 0.5 : f32[]
      const %z = 3 : u8[]
      const %ws = 0.25 : f32[]
      const %wz = 0 : i8[]
      const %ys = 2.0 : f32[]
      %q = quantize(%x, %s, %z) {to = u8} : u8[1, 2, 4, 4]
      %c = qlinear_conv(%q, %s, %z, %w, %ws, %wz, %ys, %z) : u8[1, 3, 4, 4]
      %p = max_pool(%c) {kernel_shape = [2, 2]} : u8[1, 3, 3, 3]
      return(%p)
    }""")
    assert quant_of(made.main.outputs[0]).scale.array() == np.float32(2.0)
    assert quant_of(made.main.inputs[1]).scale.array() == np.float32(0.25)


def test_quantisation_of_values_as_they_come() -> None:
    made = module("""(%x: f32[2, 3]) {
      %q, %s, %z = dynamic_quantize(%x) : u8[2, 3], f32[], u8[]
      %t = transpose(%q) {perm = [1, 0]} : u8[3, 2]
      return(%t, %s, %z)
    }""")
    found = quant_of(made.main.outputs[0])
    assert found is not None and (found.scale, found.zero_point) == tuple(made.main.outputs[1:])


def test_scales_along_an_axis_are_not_looked_for_beyond_a_move() -> None:
    made = module("""(%x: i8[2, 3]) {
      const %s = [0.5, 0.25, 1.0] : f32[1, 3]
      %t = transpose(%x) {perm = [1, 0]} : i8[3, 2]
      %y = dequantize(%x, %s) {to = f32} : f32[2, 3]
      return(%t, %y)
    }""")
    assert quant_of(made.main.inputs[0]).scale.shape == (1, 3)
    assert quant_of(made.main.outputs[0]) is None
