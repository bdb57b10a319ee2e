"""Removal: what becomes of shape constants, attributes, norms, shared constants and keys; and the law that it is masking."""

from __future__ import annotations

import numpy as np
import pytest
from anyir.ir.builder import Builder
from anyir.ir.errors import UsageError
from anyir.ir.graph import Module, Node, Value
from anyir.ir.types import F32, I8, I64, TensorType
from anyir.ir.verify import verify
from anyir.kernels.compare import compare, limits_for
from anyir.kernels.run import run
from anyir.passes.prune.groups import Group, find_groups
from anyir.passes.prune.remove import masked, remove_units
from anyir.tests.support.random_nets import Net, random_net


def net(seed: int = 0) -> Net:
    return Net(np.random.default_rng(seed))


def conv(n: Net, x: Value, to: int, key: str, groups: int = 1) -> Value:
    return n.b.conv(x, n.weight(to, x.shape[1] // groups, 1, 1, key=key), groups=groups)  # type: ignore[index, operator]


def linear(n: Net, x: Value, to: int, key: str) -> Value:
    return n.b.matmul(x, n.weight(x.shape[-1], to, key=key))  # type: ignore[index, arg-type]


def cut(n: Net, *outputs: Value, units: dict[str, list[int]], accept_norms: bool = False) -> Module:
    """Remove units of named groups; the numbers must be those of masking."""
    module = n.done(*outputs).module
    groups = {g.name: g for g in find_groups(module, accept_norms=accept_norms)}
    chosen = {groups[name]: np.array(numbers) for name, numbers in units.items()}
    same(module, chosen, n.feeds)
    return module


def same(module: Module, chosen: dict[Group, np.ndarray], feeds: dict[str, np.ndarray]) -> None:
    shadow = masked(module, chosen)
    remove_units(module, chosen)
    verify(module)
    truth = run(shadow, feeds)
    report = compare(truth, run(module, feeds), limits_for(shadow, feeds, exact=truth))
    assert report.passed, str(report)


def only(module: Module, op: str) -> Node:
    (node,) = module.all_nodes(op)
    return node


def ints(node: Node, index: int) -> tuple[int, ...] | None:
    return node.operands[index].ints()  # type: ignore[union-attr]


# ------------------------------------------------------------------------------------------------------------ the law


def check(seed: int) -> int:
    """Every group alone, with and without norms written out, then all of them together."""
    n = random_net(seed)
    rng, done = np.random.default_rng(seed), 0
    for accept_norms in (False, True):
        count = len(find_groups(n.module, accept_norms=accept_norms))
        for pick in (*range(count), None):
            copy = n.module.clone()
            groups = find_groups(copy, accept_norms=accept_norms)
            taken = groups if pick is None else [groups[pick]]
            sizes = [max(1, g.size // (4 if pick is None else 2)) for g in taken]
            same(copy, {g: rng.choice(g.size, k, replace=False) for g, k in zip(taken, sizes, strict=True)}, n.feeds)
            done += 1
    return done


@pytest.mark.parametrize("seed", range(10))
def test_removal_is_masking_on_random_nets(seed: int) -> None:
    check(seed)


@pytest.mark.slow
def test_removal_is_masking_on_many_random_nets() -> None:
    assert sum(map(check, range(10, 300))) > 2000


def test_random_nets_have_something_to_cut() -> None:
    """A law over nothing would hold: most nets have several groups."""
    counts = [len(find_groups(random_net(seed).module)) for seed in range(30)]
    assert sum(counts) > 60 and sum(c == 0 for c in counts) < 6


# ----------------------------------------------------------------------------------------------------- what is kept


def test_keys_roles_and_origins_stay() -> None:
    n = net()
    module = cut(n, linear(n, n.b.relu(linear(n, n.input(5, 7), 6, "fc1")), 2, "fc2"), units={"fc1": [0, 4]})
    assert {w.key: (w.type.shape, w.role) for w in module.weights} == {
        "fc1": ((7, 4), "param"),
        "fc2": ((4, 2), "param"),
    }
    assert module.weights["fc1"].origin == "4 of 6 slices on axis 1 of fc1"


def test_the_weights_left_are_the_old_ones() -> None:
    n = net()
    y = linear(n, n.b.relu(linear(n, n.input(5, 7), 6, "fc1")), 2, "fc2")
    before = {w.key: w.tensor.numpy() for w in n.module.weights}
    module = cut(n, y, units={"fc1": [0, 4]})
    assert np.array_equal(module.weights["fc1"].tensor.numpy(), before["fc1"][:, [1, 2, 3, 5]])
    assert np.array_equal(module.weights["fc2"].tensor.numpy(), before["fc2"][[1, 2, 3, 5]])


def test_masking_leaves_the_module_as_it_was() -> None:
    n = random_net(3)
    text, groups = str(n.module), find_groups(n.module)
    masked(n.module, {g: [0] for g in groups})
    assert str(n.module) == text


def test_nothing_chosen_changes_nothing() -> None:
    n = random_net(3)
    text = str(n.module)
    assert remove_units(n.module, {}) == 0
    assert remove_units(n.module, {g: [] for g in find_groups(n.module)}) == 0
    assert str(n.module) == text


# ------------------------------------------------------------------------------------------------ shapes and attributes


@pytest.mark.parametrize(
    ("shape", "becomes"), [((-1, 6, 16), (-1, 4, 16)), ((0, 0, 16), (0, 0, 16)), ((0, -1, 16), (0, -1, 16))]
)
def test_a_reshape_keeps_what_minus_one_and_zero_mean(shape: tuple, becomes: tuple) -> None:
    n = net()
    y = n.b.reshape(conv(n, n.input(3, 4, 4), 6, "a"), shape)
    module = cut(n, n.b.matmul(n.b.transpose(y, perm=(0, 2, 1)), n.weight(6, 2)), units={"a": [1, 2]})
    assert ints(only(module, "reshape"), 1) == becomes


def test_a_computed_shape_is_followed_where_it_stands() -> None:
    """view(x.size(0), 4, -1): the batch is read off the data, and the numbers beside it change."""
    n = net()
    x = linear(n, n.input(5, 7), 8, "a")
    b = n.b
    y = b.reshape(x, b.concat(b.shape(x, start=0, end=1), b.const([5, 4, 2]), axis=0))
    y = b.reshape(b.transpose(y, perm=(0, 2, 1, 3)), b.concat(b.shape(x, start=0, end=1), b.const([4, 10]), axis=0))
    module = cut(n, n.b.matmul(b.transpose(y, perm=(0, 2, 1)), n.weight(4, 2)), units={"a": [3]})
    assert [node.result.shape[1:] for node in module.all_nodes("reshape")] == [(5, 3, 2), (3, 10)]


def test_a_scale_read_off_a_shape_stays_the_old_one() -> None:
    """1/sqrt(d) is part of the function, d is not."""
    n = net()
    x = n.input(5, 7)
    b = n.b
    q, k = linear(n, x, 6, "q"), linear(n, x, 6, "k")
    size = b.cast(b.squeeze(b.shape(q, start=2, end=3), (0,)), to=F32)
    scores = b.div(b.matmul(q, b.transpose(k, perm=(0, 2, 1))), b.sqrt(size))
    module = cut(n, b.softmax(scores, axis=-1), units={"q": [0, 1, 2]})
    assert module.weights["q"].type.shape == module.weights["k"].type.shape == (7, 3)


def test_slices_move_their_bounds_and_steps_become_indices() -> None:
    n = net()
    y = conv(n, n.input(3, 4, 4), 8, "a")
    first, second = n.b.slice(y, (2, 1), (7, 3), (1, 2)), n.b.slice(y, (0,), (8,), (1,), (3,))
    n.done(conv(n, first, 2, "b"), conv(n, second, 2, "c"))
    groups = {g.name: g for g in find_groups(n.module)}
    chosen = {g: np.array([0]) for g in groups.values()}
    assert len(chosen) >= 2
    same(n.module, chosen, n.feeds)
    assert [len(list(n.module.all_nodes(op))) for op in ("slice", "gather")] == [2, 1]


def test_a_split_into_equal_parts_gets_lengths() -> None:
    n = net()
    a, b = n.b.split(conv(n, n.input(3, 4, 4), 8, "w"), axis=1, num_outputs=2)
    module = cut(n, n.b.add(conv(n, a, 2, "a"), conv(n, b, 2, "b")), units={"w": [0, 1, 3]})
    node = only(module, "split")
    assert (ints(node, 1), node.attr("num_outputs")) == ((1, 4), None)


def test_a_squeeze_of_all_ones_does_not_take_a_new_one() -> None:
    n = net()
    n.batch = 2
    y = n.b.squeeze(n.b.reduce_mean(linear(n, n.input(5, 7), 6, "a"), (1,)))
    module = cut(n, n.b.matmul(y, n.weight(6, 2)), units={"a": [0, 1, 2, 3, 4]})
    assert ints(only(module, "squeeze"), 1) == (1,)


def test_groups_heads_and_hidden_sizes_follow() -> None:
    n = net()
    y = conv(n, conv(n, n.input(3, 2, 2), 8, "a"), 8, "g", groups=8)
    module = cut(n, conv(n, y, 2, "b"), units={"a": [0, 7, 3]})
    assert [node.attr("groups") for node in module.all_nodes("conv")] == [1, 5, 1]
    n = net()
    x = n.input(5, 7)
    y, *_ = n.b.attention(
        *(linear(n, x, size, key) for size, key in ((16, "q"), (8, "k"), (8, "v"))), q_num_heads=4, kv_num_heads=2
    )
    node = only(cut(n, linear(n, y, 2, "o"), units={"q": [1]}), "attention")
    assert (node.attr("q_num_heads"), node.attr("kv_num_heads"), node.attr("scale")) == (2, 1, None)


def test_a_scale_left_to_the_features_is_written_down_when_they_are_cut() -> None:
    n = net()
    x = n.input(5, 7)
    q, k, v = (n.b.unsqueeze(linear(n, x, 4, key), (1,)) for key in "qkv")
    y, *_ = n.b.attention(q, k, v)
    module = cut(n, linear(n, y, 2, "o"), units={"q": [1]})
    assert only(module, "attention").attr("scale") == 0.5


def test_an_rms_norm_keeps_the_old_length_in_scale_and_epsilon() -> None:
    n = net()
    y = n.b.rms_norm(
        linear(n, n.input(5, 7), 8, "a"), n.b.const(np.ones(8, np.float32), key="g", role="param"), epsilon=0.25
    )
    module = cut(n, linear(n, y, 2, "b"), units={"a": [0, 1, 2, 3, 4, 5]})
    assert only(module, "rms_norm").attr("epsilon") == 1.0
    assert module.weights["g"].tensor.numpy().tolist() == [2.0, 2.0]


def test_a_layer_norm_is_written_out_and_can_be_cut_again() -> None:
    n = net()
    y = n.b.layer_norm(linear(n, n.input(5, 7), 8, "a"), n.weight(8, key="g"), n.weight(8, key="h"), epsilon=0.25)
    module = cut(n, linear(n, y, 2, "b"), units={"a": [0, 5]}, accept_norms=True)
    assert not list(module.all_nodes("layer_norm"))
    again = {g.name: g for g in find_groups(module)}
    same(module, {again["a"]: np.array([1, 3])}, n.feeds)
    assert module.weights["a"].type.shape == (7, 4)


def test_a_group_norm_loses_whole_groups() -> None:
    n = net()
    y = n.b.group_norm(conv(n, n.input(3, 4, 4), 6, "a"), n.weight(6, key="g"), n.weight(6, key="h"), num_groups=3)
    module = cut(n, conv(n, n.b.relu(y), 2, "b"), units={"a": [1]})
    assert only(module, "group_norm").attr("num_groups") == 2
    assert module.weights["g"].type.shape == (4,)


def test_a_mean_over_channels_keeps_its_divisor() -> None:
    n = net()
    y = n.b.reduce_mean(n.b.relu(linear(n, n.input(5, 7), 8, "a")), (2,), keepdims=False)
    module = cut(n, linear(n, y, 2, "b"), units={"a": [0, 5]})
    assert module.weights["a"].type.shape == (7, 6)


# ------------------------------------------------------------------------------------------------- constants of several


def test_a_vector_that_two_layers_share_is_cut_for_each() -> None:
    n = net()
    x, bias = n.input(5, 7), n.weight(6, key="bias")
    a, b = (n.b.relu(n.b.add(linear(n, x, 6, key), bias)) for key in "ab")
    old = n.module.weights["bias"].tensor.numpy()
    module = cut(n, linear(n, a, 2, "oa"), linear(n, b, 2, "ob"), units={"a": [0, 1], "b": [5]})
    cuts = sorted(node.operands[1].array().tolist() for node in module.all_nodes("add"))  # type: ignore[union-attr]
    assert cuts == sorted([old[2:].tolist(), old[:5].tolist()])
    assert [w.wanted for w in module.weights].count("bias") == 2


def test_a_vector_that_two_layers_share_and_cut_alike_stays_shared() -> None:
    n = net()
    x, bias = n.input(5, 7), n.weight(6, key="bias")
    a, b = (n.b.relu(n.b.add(linear(n, x, 6, key), bias)) for key in "ab")
    module = cut(n, linear(n, a, 2, "oa"), linear(n, b, 2, "ob"), units={"a": [0, 1], "b": [0, 1]})
    assert {w.key for w in module.weights} == {"a", "b", "oa", "ob", "bias"}


def test_quantised_weights_are_cut_with_their_scales() -> None:
    n = net()
    rng, x = np.random.default_rng(0), n.input(5, 7)

    def stored(i: int, o: int, key: str) -> Value:
        q = n.b.const(rng.integers(-100, 100, (i, o)).astype(np.int8), key=key, role="param")
        scale = n.b.const(rng.uniform(0.01, 0.02, (1, o)).astype(np.float32), key=f"{key}.scale")
        point = n.b.const(rng.integers(-9, 9, (1, o)).astype(np.int8), key=f"{key}.point")
        return n.b.dequantize(q, scale, point, to=F32)

    y = n.b.matmul(x, stored(7, 6, "a"))
    step = n.b.const(rng.uniform(0.01, 0.05, (1, 1, 6)).astype(np.float32), key="step")
    y = n.b.dequantize(n.b.quantize(y, step, None, to=I8), step, None, to=F32)
    module = cut(n, n.b.matmul(n.b.relu(y), stored(6, 2, "b")), units={"a": [0, 5, 2]})
    shapes = {w.key: w.type.shape for w in module.weights}
    assert shapes == {
        "a": (7, 3), "a.scale": (1, 3), "a.point": (1, 3), "b": (3, 2), "b.scale": (1, 2), "b.point": (1, 2), "step": (1, 1, 3)
    }  # fmt: skip


def test_a_scale_for_each_block_holds_the_axis_of_the_blocks() -> None:
    n = net()
    rng, x = np.random.default_rng(0), n.input(5, 7)
    q = n.b.const(rng.integers(-9, 9, (8, 2)).astype(np.int8), key="q", role="param")
    w = n.b.dequantize(q, rng.uniform(0.1, 0.2, (2, 2)).astype(np.float32), None, to=F32)
    told = {g.name: g.pinned for g in find_groups(n.done(n.b.matmul(linear(n, x, 8, "a"), w)).module, pinned=True)}
    assert "block" in told["a"]


# --------------------------------------------------------------------------------------------------------- refusals


def test_groups_of_a_graph_that_has_changed_are_refused() -> None:
    n = random_net(3)
    groups = find_groups(n.module)
    node = next(iter(n.module.all_nodes("relu", "conv")))
    Builder(node.graph, after=node).neg(node.result)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="changed since"):
        remove_units(n.module, {groups[0]: [0]})


def test_new_contents_of_weights_are_no_change_of_the_graph() -> None:
    n = random_net(3)
    group = find_groups(n.module)[0]
    weight = group.members[0].value.weight
    assert weight is not None
    n.module.set_weight(weight, weight.tensor.numpy() * 2)
    assert remove_units(n.module, {group: [0]}) == 1


@pytest.mark.parametrize("units", [[99], [-1]])
def test_units_that_a_group_does_not_have(units: list[int]) -> None:
    n = random_net(3)
    with pytest.raises(UsageError, match="units"):
        remove_units(n.module, {find_groups(n.module)[0]: units})


def test_groups_of_another_module() -> None:
    n = random_net(3)
    with pytest.raises(UsageError, match="not of one analysis"):
        remove_units(n.module, {find_groups(n.module.clone())[0]: [0]})


def test_pinned_groups_say_why_they_may_not_be_cut() -> None:
    n = random_net(3)
    group = next(g for g in find_groups(n.module, pinned=True) if g.pinned)
    with pytest.raises(UsageError, match=group.pinned):
        remove_units(n.module, {group: [0]})


def test_all_of_an_axis_is_refused_and_nothing_is_changed() -> None:
    n = random_net(3)
    text, group = str(n.module), find_groups(n.module)[0]
    with pytest.raises(UsageError, match="nothing would be left"):
        remove_units(n.module, {group: range(group.size)})
    assert str(n.module) == text


# ------------------------------------------------------------------------------------------------------------ regions


def test_constants_in_the_body_of_a_loop_are_cut() -> None:
    n = net()
    x = linear(n, n.input(5, 7), 6, "a")
    body = n.module.new_region("body")
    inner = Builder(body)
    body.add_input(TensorType(I64, ()), "i")
    go, state = body.add_input(n.b.const(True).type, "go"), body.add_input(x.type, "state")
    body.set_outputs([inner.identity(go), inner.tanh(inner.matmul(state, n.weight(6, 6, key="again")))])
    module = cut(n, linear(n, n.b.loop(3, True, x, carried=1, regions=[body]), 2, "o"), units={"a": [0, 3]})
    assert module.weights["again"].type.shape == (4, 4)
    assert only(module, "loop").regions[0].inputs[2].shape[1:] == (5, 4)  # type: ignore[index]


def test_the_branches_of_an_if_are_cut_alike() -> None:
    n = net()
    x = linear(n, n.input(5, 7), 6, "a")
    flag = n.b.graph.add_input(n.b.const(True).type, "flag")
    n.feeds["flag"] = np.array(True)
    regions = []
    for key in ("then", "else"):
        region = n.module.new_region(key)
        inner = Builder(region)
        taken = region.add_input(x.type, "x")
        region.set_outputs([inner.relu(inner.matmul(taken, n.weight(6, 4, key=key)))])
        regions.append(region)
    module = cut(n, linear(n, n.b.if_(flag, x, regions=regions), 2, "o"), units={"a": [0, 3], "then": [2]})
    assert module.weights["else"].type.shape == module.weights["then"].type.shape == (4, 3)


def test_a_scan_is_cut_through_its_states_slices_and_outputs() -> None:
    n = net()
    n.batch = 2
    x = linear(n, n.b.transpose(n.input(5, 7), perm=(1, 0, 2)), 6, "a")
    start = n.weight(2, 6, key="start")
    body = n.module.new_region("body")
    inner = Builder(body)
    state, part = (body.add_input(TensorType(F32, (2, 6)), name) for name in ("state", "part"))
    made = inner.add(inner.tanh(inner.matmul(state, n.weight(6, 6, key="again"))), part)
    body.set_outputs([made, inner.matmul(made, n.weight(6, 4, key="read"))])
    last, every = n.b.scan(start, x, carried=1, num_scan_inputs=1, regions=[body])
    module = cut(n, linear(n, last, 2, "o"), linear(n, every, 3, "p"), units={"a": [0, 5], "read": [1]})
    assert [module.weights[k].type.shape for k in ("again", "read", "start", "p")] == [(4, 4), (4, 3), (2, 4), (3, 3)]
