"""Which channels go together, op by op: exact positions, reasons for what is pinned, and the solver against networkx."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
from anyir.ir.builder import Builder
from anyir.ir.dims import sym
from anyir.ir.graph import Value
from anyir.ir.types import BOOL, F32, I64, TensorType
from anyir.ir.verify import verify
from anyir.kernels.run import run
from anyir.passes.prune.atoms import components
from anyir.passes.prune.groups import Group, find_groups
from anyir.passes.prune.remove import masked, remove_units
from anyir.tests.support.judge import assert_agrees
from anyir.tests.support.random_nets import Net


def net(seed: int = 0) -> Net:
    return Net(np.random.default_rng(seed))


def conv(n: Net, x: Value, to: int, key: str, groups: int = 1) -> Value:
    return n.b.conv(x, n.weight(to, x.shape[1] // groups, 1, 1, key=key), groups=groups)  # type: ignore[index, operator]


def linear(n: Net, x: Value, to: int, key: str) -> Value:
    return n.b.matmul(x, n.weight(x.shape[-1], to, key=key))  # type: ignore[index, arg-type]


def groups_of(n: Net, *outputs: Value, accept_norms: bool = False) -> dict[str, Group]:
    return {g.name: g for g in find_groups(n.done(*outputs).module, accept_norms=accept_norms)}


def reasons(n: Net, *outputs: Value) -> dict[str, str]:
    return {g.name: g.pinned for g in find_groups(n.done(*outputs).module, pinned=True)}


def positions(group: Group, key: str, axis: int) -> list[list[int]]:
    """For each unit, its positions along an axis of the weight."""
    return [
        [int(p) for value, a, at in unit.indices if value.weight.key == key and a == axis for p in at]  # type: ignore[union-attr]
        for unit in group.units
    ]


# ------------------------------------------------------------------------------------------------------- the solver


@pytest.mark.parametrize("seed", range(8))
def test_components_are_those_of_networkx(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 400))
    edges = rng.integers(0, count, (int(rng.integers(0, 2 * count)), 2))
    labels = components(count, edges[:, 0], edges[:, 1])
    graph = nx.Graph()
    graph.add_nodes_from(range(count))
    graph.add_edges_from(edges.tolist())
    for part in nx.connected_components(graph):
        assert {int(labels[i]) for i in part} == {min(part)}


def test_components_of_a_long_path_in_the_worst_order() -> None:
    path = np.random.default_rng(0).permutation(20_000)
    labels = components(len(path), path[:-1], path[1:])
    assert not labels.any()


# ----------------------------------------------------------------------------------------------- element by element


def test_a_residual_joins_producers() -> None:
    n = net()
    x = conv(n, n.input(3, 4, 4), 6, "a")
    y = n.b.add(x, conv(n, n.b.relu(x), 6, "b"))
    group = groups_of(n, conv(n, y, 2, "c"))["a"]
    assert group.size == 6 and group.kind == "channel"
    assert [v.weight.key for _, v, _ in group.producers] == ["a", "b"]  # type: ignore[union-attr]
    assert [v.weight.key for _, v, _ in group.consumers] == ["b", "c"]  # type: ignore[union-attr]
    assert positions(group, "b", 0) == positions(group, "b", 1) == [[i] for i in range(6)]


def test_broadcast_axes_are_free_and_parameters_go_along() -> None:
    n = net()
    y = conv(n, n.input(3, 4, 4), 6, "a")
    y = n.b.mul(n.b.prelu(y, n.weight(6, 1, 1, key="slope")), n.weight(1, 1, 4, key="columns"))
    group = groups_of(n, conv(n, y, 2, "c"))["a"]
    assert [v.weight.key for _, v, _ in group.carriers] == ["slope"]  # type: ignore[union-attr]


def test_inputs_and_outputs_are_pinned_and_said_to_be() -> None:
    n = net()
    x = n.input(6, 4, 4)
    told = reasons(n, conv(n, n.b.add(x, conv(n, x, 6, "a")), 4, "b"))
    assert told == {"a": "an input of the model", "b": "an output of the model"}
    assert find_groups(n.module) == []


@pytest.mark.parametrize("op", ["log", "reciprocal", "rsqrt"])
def test_ops_without_a_value_at_zero_hold_zeroed_channels(op: str) -> None:
    n = net()
    y = n.b.call(op, (n.b.relu(conv(n, n.input(3, 4, 4), 6, "a")),)).result
    assert reasons(n, conv(n, y, 2, "b"))["a"] == f"{op} has no value where a channel is zero"


def test_an_unknown_op_says_which() -> None:
    n = net()
    y = n.b.det(n.b.reshape(linear(n, n.input(5, 7), 9, "a"), (-1, 5, 3, 3)))
    assert reasons(n, linear(n, y, 2, "b"))["a"].startswith("det")


# ------------------------------------------------------------------------------------------- joined, cut and moved


def test_concat_and_slices_share_atoms() -> None:
    n = net()
    a, b = (conv(n, n.input(3, 4, 4), size, key) for size, key in ((4, "a"), (3, "b")))
    y = n.b.concat(a, b, axis=1)
    found = groups_of(n, conv(n, y, 2, "c"), conv(n, n.b.slice(y, (1,), (6,), (1,), (2,)), 2, "d"))
    # channels 1, 3 and 5 of y are read twice; of b that is a single one, which stays
    assert {name: g.size for name, g in found.items()} == {"a": 2, "a#2": 2, "b": 2}
    assert [positions(found[name], "c", 1) for name in found] == [[[0], [2]], [[1], [3]], [[4], [6]]]
    assert positions(found["a#2"], "d", 1) == [[0], [1]]
    assert {g.name: g.pinned for g in find_groups(n.module, pinned=True)}["b#2"] == "there is only one"


def test_concat_with_an_input_leaves_the_other_part_free() -> None:
    n = net()
    x = n.input(3, 4, 4)
    group = groups_of(n, conv(n, n.b.concat(x, conv(n, x, 5, "a"), axis=1), 2, "b"))["a"]
    assert positions(group, "b", 1) == [[i] for i in range(3, 8)]


def test_gather_by_constants_takes_atoms() -> None:
    n = net()
    y = linear(n, n.input(5, 7), 4, "a")
    z = n.b.gather(y, np.array([3, 3, -4, 1]), axis=2)
    group = groups_of(n, linear(n, z, 2, "b"), linear(n, y, 2, "c"))["a"]
    assert (group.size, positions(group, "b", 0)) == (3, [[2], [3], [0, 1]])
    assert positions(group, "c", 0) == [[0], [1], [3]]  # what the gather leaves out is a unit of its own


def test_the_vocabulary_of_an_embedding_is_pinned_its_features_are_free() -> None:
    n = net()
    ids = n.b.graph.add_input(TensorType(I64, (n.batch, 5)), "ids")
    n.feeds["ids"] = np.zeros((2, 5), np.int64)
    y = n.b.gather(n.weight(11, 6, key="words"), ids, axis=0)
    group = groups_of(n, linear(n, y, 2, "out"))["words"]
    assert (group.size, [axis for _, _, axis in group.producers]) == (6, [1])


def test_a_padded_axis_keeps_what_was_padded() -> None:
    n = net()
    y = n.b.pad(conv(n, n.input(3, 4, 4), 4, "a"), (0, 2, 0, 0, 0, 1, 0, 0))
    assert positions(groups_of(n, conv(n, y, 2, "b"))["a"], "b", 1) == [[2], [3], [4], [5]]


def test_a_flatten_repeats_and_a_tile_too() -> None:
    n = net()
    y = n.b.tile(conv(n, n.input(3, 2, 2), 3, "a"), (1, 2, 1, 1))
    group = groups_of(n, n.b.matmul(n.b.flatten(y), n.weight(24, 2, key="b")))["a"]
    assert positions(group, "b", 0)[1] == [4, 5, 6, 7, 16, 17, 18, 19]


@pytest.mark.parametrize(("mode", "block"), [("DCR", [1, 4, 7, 10]), ("CRD", [4, 5, 6, 7])])
def test_depth_to_space_takes_blocks(mode: str, block: list[int]) -> None:
    n = net()
    y = n.b.depth_to_space(conv(n, n.input(3, 2, 2), 12, "a"), blocksize=2, mode=mode)
    group = groups_of(n, conv(n, y, 2, "b"))["a"]
    assert (group.size, positions(group, "a", 0)[1], positions(group, "b", 1)[1]) == (3, block, [1])


def test_a_channel_shuffle_goes_by_places() -> None:
    n = net()
    y = n.b.transpose(n.b.reshape(conv(n, n.input(3, 2, 2), 8, "a"), (-1, 2, 4, 2, 2)), perm=(0, 2, 1, 3, 4))
    group = groups_of(n, conv(n, n.b.reshape(y, (-1, 8, 2, 2)), 2, "b"))["a"]
    assert group.size == 4
    assert positions(group, "a", 0)[1] == [1, 5] and positions(group, "b", 1)[1] == [2, 3]


# ------------------------------------------------------------------------------------------------------ products


def test_groups_of_a_convolution_go_whole_where_they_are_many() -> None:
    n = net()
    y = conv(n, conv(n, n.input(3, 2, 2), 8, "a"), 12, "g", groups=4)
    group = groups_of(n, conv(n, y, 2, "b"))["a"]
    assert group.size == 4
    assert positions(group, "a", 0)[1] == [2, 3] and positions(group, "b", 1)[1] == [3, 4, 5]


def test_groups_of_a_convolution_go_by_places_where_they_are_few() -> None:
    n = net()
    y = conv(n, conv(n, n.input(3, 2, 2), 8, "a"), 6, "g", groups=2)
    found = groups_of(n, conv(n, y, 2, "b"))
    assert {name: g.size for name, g in found.items()} == {"a": 4, "g": 3}
    assert positions(found["a"], "a", 0)[1] == [1, 5] and positions(found["a"], "g", 1)[1] == [1]
    assert positions(found["g"], "g", 0)[1] == [1, 4]


def test_whole_groups_that_lead_to_an_input_give_way_to_places() -> None:
    n = net()
    found = groups_of(n, conv(n, conv(n, n.input(8, 2, 2), 12, "g", groups=4), 2, "b"))
    assert {name: g.size for name, g in found.items()} == {"g": 3}


def test_depthwise_with_a_multiplier() -> None:
    n = net()
    y = n.b.conv(conv(n, n.input(3, 2, 2), 4, "a"), n.weight(12, 1, 1, 1, key="d"), groups=4)
    group = groups_of(n, conv(n, y, 2, "b"))["a"]
    assert positions(group, "d", 0)[1] == positions(group, "b", 1)[1] == [3, 4, 5]
    assert [v.weight.key for _, v, _ in group.carriers] == ["d"]  # type: ignore[union-attr]


def test_gemm_honours_its_transposes() -> None:
    n = net()
    x = n.b.gemm(n.input(5), n.weight(6, 5, key="a"), n.weight(6, key="bias"), transB=True)
    group = groups_of(n, n.b.gemm(x, n.weight(6, 2, key="b")))["a"]
    sides = [(v.weight.key, axis) for _, v, axis in (*group.producers, *group.carriers, *group.consumers)]  # type: ignore[union-attr]
    assert sides == [("a", 0), ("bias", 0), ("b", 0)]


def test_a_sum_over_what_is_not_zero_when_masked_is_pinned() -> None:
    """sigmoid(0) = 1/2 counts in the sum over features of two towers; a relu's 0 does not."""
    for op, held in (("sigmoid", True), ("relu", False)):
        n = net()
        a, b = (n.b.call(op, (n.b.matmul(n.input(5), n.weight(5, 6, key=key)),)).result for key in "ab")
        told = reasons(n, n.b.matmul(a, n.b.transpose(b, perm=(1, 0))))
        assert bool(told["a"]) == held


def test_einsum_goes_by_its_labels() -> None:
    n = net()
    y = n.b.einsum(n.input(5, 7), n.weight(7, 3, 4, key="a"), equation="btc,chd->bhtd")
    found = groups_of(n, n.b.einsum(y, n.weight(3, 4, 2, key="b"), equation="bhtd,hdo->bto"))
    assert sorted((g.size, [(v.weight.key, a) for _, v, a in g.producers + g.consumers]) for g in found.values()) == [  # type: ignore[union-attr]
        (3, [("a", 1), ("b", 0)]), (4, [("a", 2), ("b", 1)])
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------------------ norms


def test_a_layer_norm_holds_its_axis_unless_written_out() -> None:
    def built() -> tuple[Net, Value]:
        n = net()
        y = n.b.layer_norm(linear(n, n.input(5, 7), 6, "a"), n.weight(6, key="g"), n.weight(6, key="h"))
        return n, linear(n, y, 2, "b")

    n, y = built()
    assert "accept_norms" in reasons(n, y)["a"]
    n, y = built()
    assert groups_of(n, y, accept_norms=True)["a"].size == 6


def test_an_rms_norm_holds_nothing_but_what_is_not_zero() -> None:
    n = net()
    x = linear(n, n.input(5, 7), 6, "a")
    assert groups_of(n, linear(n, n.b.rms_norm(x, n.weight(6)), 2, "b"))["a"].size == 6
    n = net()
    x = n.b.sigmoid(linear(n, n.input(5, 7), 6, "a"))
    assert "not zero" in reasons(n, linear(n, n.b.rms_norm(x, n.weight(6)), 2, "b"))["a"]


def test_a_group_norm_goes_by_whole_groups() -> None:
    n = net()
    y = n.b.group_norm(conv(n, n.input(3, 4, 4), 6, "a"), n.weight(6), n.weight(6), num_groups=3)
    assert positions(groups_of(n, conv(n, y, 2, "b"))["a"], "a", 0) == [[0, 1], [2, 3], [4, 5]]


def test_softmax_holds_its_axis_alone() -> None:
    n = net()
    y = n.b.softmax(linear(n, n.input(5, 7), 6, "a"), axis=1)
    assert groups_of(n, linear(n, y, 2, "b"))["a"].size == 6
    n = net()
    y = n.b.softmax(linear(n, n.input(5, 7), 6, "a"), axis=2)
    assert reasons(n, linear(n, y, 2, "b"))["a"] == "softmax normalises over it"


# --------------------------------------------------------------------------------------------------- heads and units


def attended(heads: int, kv: int, whole: bool = False) -> dict[str, Group]:
    n = net()
    x = n.input(5, 7)
    q, k, v = (linear(n, x, h * 4, key) for h, key in ((heads, "q"), (kv, "k"), (kv, "v")))
    if whole:
        y, *_ = n.b.attention(q, k, v, q_num_heads=heads, kv_num_heads=kv)
    else:
        q, k, v = (
            n.b.transpose(n.b.reshape(z, (-1, 5, h, 4)), perm=(0, 2, 1, 3)) for z, h in ((q, heads), (k, kv), (v, kv))
        )
        y, *_ = n.b.attention(q, k, v)
        y = n.b.reshape(n.b.transpose(y, perm=(0, 2, 1, 3)), (-1, 5, heads * 4))
    return groups_of(n, linear(n, y, 2, "o"))


@pytest.mark.parametrize("whole", [False, True])
def test_a_key_head_takes_its_query_heads_along(whole: bool) -> None:
    group = attended(4, 2, whole)["q"]
    assert (group.size, group.kind) == (2, "head")
    assert positions(group, "q", 1)[1] == positions(group, "o", 0)[1] == list(range(8, 16))
    assert positions(group, "k", 1)[1] == positions(group, "v", 1)[1] == [4, 5, 6, 7]


@pytest.mark.parametrize("whole", [False, True])
def test_one_key_head_for_all_leaves_query_heads_free(whole: bool) -> None:
    found = attended(3, 1, whole)
    assert (found["q"].size, found["q"].kind) == (3, "head")
    assert positions(found["q"], "q", 1)[2] == positions(found["q"], "o", 0)[2] == [8, 9, 10, 11]
    assert "k" not in {v.weight.key for _, v, _ in found["q"].producers}  # type: ignore[union-attr]


@pytest.mark.parametrize(("op", "gates"), [("lstm", 4), ("gru", 3), ("rnn", 1)])
def test_a_hidden_unit_is_a_row_of_every_gate(op: str, gates: int) -> None:
    n = net()
    weights = [n.weight(2, gates * 3, 7, key="w"), n.weight(2, gates * 3, 3, key="r"), n.weight(2, gates * 6, key="b")]
    x = n.b.transpose(n.input(5, 7), perm=(1, 0, 2))
    made = n.b.call(op, (x, *weights), {"hidden_size": 3, "direction": "bidirectional"})
    y = n.b.reshape(n.b.transpose(made.results[0], perm=(0, 2, 1, 3)), (5, -1, 6))
    group = groups_of(n, linear(n, y, 2, "o"))["w"]
    assert (group.size, group.kind) == (3, "hidden")
    rows = [1 + 3 * gate for gate in range(gates)]
    assert positions(group, "w", 1)[1] == rows and positions(group, "r", 1)[1] == rows
    assert positions(group, "r", 2)[1] == [1] and positions(group, "o", 0)[1] == [1, 4]
    assert positions(group, "b", 1)[1] == [1 + 3 * i for i in range(2 * gates)]


# ----------------------------------------------------------------------------------------------------- constants


def test_a_matrix_used_twice_ties_and_a_vector_does_not() -> None:
    n = net()
    bias, shared = n.weight(6, key="bias"), n.weight(7, 6, key="shared")
    x, y = n.input(5, 7), n.input(5, 7)
    a = n.b.relu(n.b.add(n.b.matmul(x, shared), bias))
    b = n.b.relu(n.b.add(n.b.matmul(y, shared), bias))
    c = n.b.add(linear(n, x, 6, "free"), bias)
    found = groups_of(n, linear(n, a, 2, "oa"), linear(n, b, 3, "ob"), linear(n, c, 2, "oc"))
    assert {name: g.size for name, g in found.items()} == {"shared": 6, "free": 6}
    assert {v.weight.key for _, v, _ in found["shared"].consumers} == {"oa", "ob"}  # type: ignore[union-attr]


def test_what_nothing_uses_ties_nothing() -> None:
    n = net()
    x = n.input(5, 7)
    a, b = linear(n, x, 6, "a"), linear(n, x, 6, "b")
    n.b.add(a, b)
    assert set(groups_of(n, linear(n, a, 2, "oa"), linear(n, b, 2, "ob"))) == {"a", "b"}


def test_layers_that_start_from_the_same_zeros_are_not_tied() -> None:
    n = net()
    n.batch = 2
    x = n.b.transpose(n.input(5, 7), perm=(1, 0, 2))
    state = n.b.expand(np.zeros((1, 1, 1), np.float32), (1, 2, 3))
    made = []
    for key in "ab":
        operands = (x, n.weight(1, 9, 7, key=key), n.weight(1, 9, 3, key=f"{key}r"), None, None, state)
        y = n.b.call("gru", operands, {"hidden_size": 3}).results[0]
        made.append(linear(n, n.b.squeeze(y, (1,)), 2, f"{key}o"))
    assert set(groups_of(n, *made)) == {"a", "b"}


# ------------------------------------------------------------------------------------------------------- regions


def test_atoms_go_through_the_branches_of_an_if() -> None:
    n = net()
    x = linear(n, n.input(5, 7), 6, "a")
    flag = n.b.graph.add_input(TensorType(BOOL, ()), "flag")
    n.feeds["flag"] = np.array(True)
    regions = []
    for key in ("then", "else"):
        region = n.module.new_region(key)
        inner = Builder(region)
        taken = region.add_input(x.type, "x")
        region.set_outputs([inner.matmul(taken, n.weight(6, 4, key=key))])
        regions.append(region)
    y = n.b.if_(flag, x, regions=regions)
    found = groups_of(n, linear(n, y, 2, "o"))
    assert {name: g.size for name, g in found.items()} == {"a": 6, "then": 4}
    assert [v.weight.key for _, v, _ in found["then"].producers] == ["then", "else"]  # type: ignore[union-attr]


def test_a_loop_ties_what_it_carries() -> None:
    n = net()
    x = linear(n, n.input(5, 7), 6, "a")
    body = n.module.new_region("body")
    inner = Builder(body)
    body.add_input(TensorType(I64, ()), "i")
    go, state = body.add_input(TensorType(BOOL, ()), "go"), body.add_input(x.type, "state")
    body.set_outputs([inner.identity(go), inner.relu(inner.matmul(state, n.weight(6, 6, key="again")))])
    y = n.b.loop(3, True, x, carried=1, regions=[body])
    group = groups_of(n, linear(n, y, 2, "o"))["a"]
    assert [(v.weight.key, a) for _, v, a in group.producers + group.consumers] == [  # type: ignore[union-attr]
        ("a", 1), ("again", 1), ("again", 0), ("o", 0)
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------------------ the interface


def test_names_are_unique_and_units_of_data_are_found() -> None:
    n = net()
    a, b = n.b.split(linear(n, n.input(5, 7), 8, "w"), axis=2, num_outputs=2)
    y = n.b.concat(b, a, axis=2)
    found = groups_of(n, linear(n, a, 2, "oa"), linear(n, b, 3, "ob"), linear(n, y, 3, "oy"))
    assert list(found) == ["w", "w#2"]
    assert found["w"].units_of(y, 2).tolist() == [-1, -1, -1, -1, 0, 1, 2, 3]


def test_groups_of_one_graph_of_two() -> None:
    n = net()
    n.done(linear(n, linear(n, n.input(5, 7), 6, "a"), 2, "b"))
    other = n.module.add_graph("other")
    inner = Builder(other)
    x = other.add_input(TensorType(F32, (2, 7)), "x")
    other.set_outputs([inner.matmul(inner.matmul(x, n.weight(7, 4, key="c")), n.weight(4, 2, key="d"))])
    n.module.add_signature("t", other, ["x"], ["y"])
    assert [g.name for g in find_groups(n.module)] == ["a", "c"]
    assert [g.name for g in find_groups(other)] == ["c"]


def test_an_axis_of_unknown_size_is_left_alone() -> None:
    n = net()
    x = n.input(5, 7)
    wide = n.b.graph.add_input(TensorType(F32, (7, n.batch)), "wide")
    n.feeds["wide"] = np.zeros((7, 2), np.float32)
    y = n.b.reduce_sum(n.b.matmul(x, wide), (2,))
    assert find_groups(n.done(y).module) == []


@pytest.mark.parametrize("symbolic", [False, True])
def test_heads_folded_into_the_batch_come_out_again(symbolic: bool) -> None:
    """[B, H, T, D] as [B H, T, D] and back, as exporters write the transposition of keys: the batch may be symbolic."""
    n = net()
    n.batch = sym("N") if symbolic else 2
    x = n.input(5, 7)
    q, k, v = (
        n.b.transpose(n.b.reshape(linear(n, x, 12, key), (-1, 5, 3, 4)), perm=(0, 2, 1, 3)) for key in ("q", "k", "v")
    )
    k = n.b.mul(n.b.transpose(n.b.reshape(k, (-1, 5, 4)), perm=(0, 2, 1)), 0.5)
    scores = n.b.softmax(n.b.matmul(n.b.reshape(q, (-1, 5, 4)), k), axis=-1)
    y = n.b.matmul(n.b.reshape(scores, (-1, 3, 5, 5)), v)
    y = n.b.reshape(n.b.transpose(y, perm=(0, 2, 1, 3)), (0, 0, -1))
    group = groups_of(n, linear(n, y, 2, "o"))["q"]
    assert (group.size, group.kind) == (3, "head")
    assert positions(group, "k", 1)[1] == positions(group, "o", 0)[1] == [4, 5, 6, 7]
    shadow = masked(n.module, {group: [1]})
    assert remove_units(n.module, {group: [1]}) == 1
    verify(n.module)
    assert_agrees(shadow, n.feeds, run(n.module, n.feeds))


def test_a_batch_with_heads_folded_in_is_held_by_ops_that_look_at_it() -> None:
    n = net()
    n.batch = sym("N")
    x = n.b.transpose(n.b.reshape(linear(n, n.input(5, 7), 12, "a"), (-1, 5, 3, 4)), perm=(0, 2, 1, 3))
    y = n.b.cumsum(n.b.reshape(x, (-1, 5, 4)), 0)
    y = n.b.reshape(n.b.transpose(n.b.reshape(y, (-1, 3, 5, 4)), perm=(0, 2, 1, 3)), (-1, 5, 12))
    (group,) = groups_of(n, linear(n, y, 2, "o")).values()
    assert group.size == 4  # features of a head, not heads
