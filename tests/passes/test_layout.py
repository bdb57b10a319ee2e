"""Layout assignment: numbers kept exactly, no transpose left inside networks, interfaces as the user gave them."""

import numpy as np
import pytest
from anyir.ir.builder import Builder
from anyir.ir.dims import sym
from anyir.ir.graph import Module
from anyir.ir.types import F32, U2, U4, TensorType
from anyir.ir.verify import verify
from anyir.kernels.run import run
from anyir.passes.layout import assign_layout
from anyir.passes.layout.mincut import BinaryEnergy


class Net:
    """A graph under construction with random weights; all dims differ, so that a wrong order cannot pass by chance."""

    def __init__(self, *shapes):
        self.module = Module("net")
        self.graph = self.module.add_graph("main")
        self.inputs = [self.graph.add_input(TensorType(F32, shape), f"x{i}") for i, shape in enumerate(shapes)]
        self.b = Builder(self.graph)
        self.rng = np.random.default_rng(7)

    def weight(self, *shape):
        return self.b.const(self.rng.normal(size=shape).astype("f4") * 0.3, key="w", role="param")

    def conv(self, x, out, kernel=3, groups=1, **attrs):
        w = self.weight(out, x.shape[1] // groups, kernel, kernel)
        return self.b.conv(x, w, self.weight(out), pads=(kernel // 2,) * 4, groups=groups, **attrs)

    def done(self, *outputs):
        self.graph.set_outputs(outputs)
        names = [f"x{i}" for i in range(len(self.inputs))]
        self.module.add_signature("serving_default", self.graph, names, [f"y{i}" for i in range(len(outputs))])
        return self.module


def check(module, transposes, sizes=(2, 3)):
    """The pass keeps the numbers and leaves exactly `transposes` transposes; returns the assigned module."""
    after = module.clone()
    assign_layout(after)
    verify(after, allow_channels_last=True)
    for n in sizes:
        rng = np.random.default_rng(n)
        shapes = [[d if isinstance(d, int) else n for d in v.shape] for v in module.main.inputs]
        arrays = [rng.normal(size=shape).astype("f4") for shape in shapes]
        expected, got = run(module, arrays), run(after, arrays)
        for name, value in expected.items():
            np.testing.assert_allclose(got[name], value, rtol=1e-5, atol=1e-5)
    found = [str(node) for node in after.main.nodes("transpose")]
    assert len(found) == transposes, "\n".join(found)
    assert all(n.attr("channels_last") for n in after.main.nodes("conv", "max_pool", "global_average_pool"))
    return after


N = sym("N")


def test_plain_cnn_keeps_one_transpose_at_its_nchw_input():
    net = Net((N, 3, 12, 10))
    b = net.b
    y = b.relu(net.conv(net.inputs[0], 8))
    y = b.max_pool(y, kernel_shape=(2, 2), strides=(2, 2))
    y = b.relu(net.conv(y, 6, groups=2))
    y = b.flatten(b.global_average_pool(y), axis=1)
    y = b.softmax(b.gemm(y, net.weight(6, 5), net.weight(5)), axis=1)
    check(net.done(y), 1)


def test_nhwc_input_needs_none():
    net = Net((N, 12, 10, 3))
    b = net.b
    y = b.transpose(net.inputs[0], perm=(0, 3, 1, 2))
    y = b.relu(net.conv(y, 8))
    y = b.transpose(y, perm=(0, 2, 3, 1))
    y = b.add(y, net.weight(8))
    y = b.transpose(y, perm=(0, 3, 1, 2))
    y = b.max_pool(y, kernel_shape=(2, 2), strides=(2, 2))
    check(net.done(b.transpose(y, perm=(0, 2, 3, 1))), 0)


def test_flatten_into_dense_permutes_the_weight_rows():
    net = Net((N, 3, 8, 6))
    b = net.b
    y = net.conv(net.inputs[0], 5)
    y = b.relu(b.reshape(y, (-1, 5 * 8 * 6)))
    y = b.add(b.mul(y, net.weight(1, 240)), net.weight(240))
    module = net.done(b.gemm(y, net.weight(240, 4)), b.gemm(y, net.weight(7, 240), net.weight(7), transB=True))
    check(module, 1)


def test_residual_concat_reduce_softmax_over_channels():
    net = Net((N, 4, 9, 7))
    b = net.b
    x = net.conv(net.inputs[0], 6)
    y = b.add(b.relu(x), net.conv(x, 6))
    y = b.concat(y, x, b.mul(y, net.weight(6, 1, 1)), axis=1)
    y = b.mul(y, b.sigmoid(net.conv(b.reduce_mean(y, (2, 3)), 18, kernel=1)))
    y = b.softmax(net.conv(y, 5), axis=1)
    y = b.pad(y, (0, 0, 1, 2, 0, 0, 0, 1))
    y = b.slice(y, (1, 0), (9, 4), (2, 1))
    y = b.sub(b.reduce_max(y, (1,), keepdims=False), b.reduce_mean(y, (1,), keepdims=False))
    check(net.done(y), 1)


def test_channel_shuffle_and_pixel_shuffle_by_reshape():
    net = Net((N, 4, 6, 10))
    b = net.b
    y = net.conv(net.inputs[0], 12)
    y = b.reshape(y, (-1, 3, 4, 6, 10))
    y = b.reshape(b.transpose(y, perm=(0, 2, 1, 3, 4)), (-1, 12, 6, 10))
    y = net.conv(y, 8)
    y = b.reshape(y, (-1, 2, 2, 2, 6, 10))
    y = b.reshape(b.transpose(y, perm=(0, 1, 4, 2, 5, 3)), (-1, 2, 12, 20))
    after = check(net.done(b.reduce_mean(net.conv(y, 3), (2, 3), keepdims=False)), 3)
    assert len(list(after.main.nodes("transpose"))) <= 3


def test_patch_embedding_needs_only_the_input_transpose():
    net = Net((N, 3, 8, 12))
    b = net.b
    y = b.conv(net.inputs[0], net.weight(10, 3, 4, 4), strides=(4, 4))
    y = b.transpose(b.reshape(y, (-1, 10, 6)), perm=(0, 2, 1))
    y = b.layer_norm(y, net.weight(10), net.weight(10))
    check(net.done(b.matmul(y, net.weight(10, 7))), 1)


def test_image_to_image_has_two():
    net = Net((2, 3, 8, 6))
    y = net.b.resize(net.conv(net.inputs[0], 4), None, (1.0, 1.0, 2.0, 2.0), None)
    check(net.done(net.conv(y, 3)), 2)


def test_conv1d_and_conv3d():
    net = Net((2, 3, 20), (2, 3, 4, 5, 6))
    b = net.b
    y = b.conv(net.inputs[0], net.weight(5, 3, 3), pads=(1, 1))
    y = b.reduce_mean(b.relu(y), (2,), keepdims=False)
    z = b.conv(net.inputs[1], net.weight(4, 3, 2, 2, 2))
    z = b.reduce_sum(b.relu(z), (2, 3, 4), keepdims=False)
    check(net.done(y, z), 2)


def test_squeeze_unsqueeze_and_broadcast_of_lower_rank():
    net = Net((N, 3, 8, 6))
    b = net.b
    y = net.conv(net.inputs[0], 4)
    y = b.mul(y, net.weight(6))
    y = b.add(y, net.weight(4, 8, 1))
    pooled = b.squeeze(b.reduce_mean(y, (2, 3)), (2, 3))
    gate = b.unsqueeze(b.sigmoid(b.gemm(pooled, net.weight(4, 4))), (2, 3))
    y = b.relu(b.mul(y, gate))
    y = b.gather(y, np.asarray([2, 0, 1]), axis=1)
    check(net.done(b.reduce_mean(net.conv(y, 5), (2, 3))), 1)


@pytest.mark.parametrize(("batch", "found"), [(N, 2), (1, 1)])
def test_a_reshape_of_two_open_dims_is_right_for_an_empty_batch(batch, found):
    """Of no elements a -1 says nothing: the target stays as it was where only one would give the sizes."""
    net = Net((batch, sym("T"), 8))
    rows = net.b.split(net.inputs[0], (4, 4), axis=2)
    heads = [net.b.reshape(v, (0, 0, 2, 2)) for v in rows]
    module = net.done(*(net.b.transpose(v, perm=(0, 2, 3, 1)) for v in heads))
    check(module, found, sizes=(0, 1, 3))


def test_two_pinned_users_share_one_transpose():
    net = Net((1, 3, 8, 6))
    b = net.b
    y = net.conv(net.inputs[0], 4)
    first = b.matmul(y, net.weight(6, 5))
    second = b.matmul(y, net.weight(6, 7))
    check(net.done(first, second, b.relu(net.conv(y, 2))), 3)


def test_an_activation_stays_beside_its_convolution():
    """Of two places that cost the same, the transpose stands behind the activation, which a target may fuse; and what is
    channels-last already stays as it is."""
    net = Net((N, 3, 12, 10))
    x = net.b.exp(net.inputs[0])
    after = check(net.done(net.b.relu(net.conv(x, 8))), 2)
    order = [node.name for node in after.main.nodes()]
    assert order.index("exp") < order.index("transpose") and order[-2:] == ["relu", "transpose"]
    again = after.clone()
    assign_layout(again)
    assert str(again) == str(after)


@pytest.mark.parametrize(("rows", "shared", "copied"), [(40, True, False), (40, False, True), (2, True, True)])
def test_a_weight_that_others_read_is_not_copied_in_another_order(rows, shared, copied):
    """A small one is: a node less is worth a kilobyte."""
    net = Net((N, 5, 12))
    b, w = net.b, net.weight(rows, 12)
    y = [b.matmul(net.inputs[0], b.transpose(w, perm=(1, 0)))]
    if shared:
        y.append(b.gather(w, b.const([[1, 0], [0, 1]]), axis=0))
    module = net.done(*y)
    assign_layout(module, channels_last=False)
    assert (next(module.main.nodes("transpose"), None) is None) == copied


@pytest.mark.parametrize(("dtype", "moves"), [(U2, False), (U4, True)], ids=str)
def test_integers_below_four_bits_stay_as_they_are_packed(dtype, moves):
    """onnxruntime's fusion of their dequantisation with a product knows one order only."""
    net = Net((N, 5, 16))
    b = net.b
    stored = b.const(net.rng.integers(0, 4, (6, 16)).astype(dtype.numpy))
    plain = b.dequantize(stored, b.const(np.ones((6, 1), "f4")), to=F32)
    module = net.done(b.matmul(net.inputs[0], b.transpose(plain, perm=(1, 0))))
    assign_layout(module, channels_last=False)
    assert (next(module.main.nodes("transpose"), None) is None) == moves


def test_a_graph_without_spatial_ops_is_left_alone():
    net = Net((N, 4))
    module = net.done(net.b.transpose(net.inputs[0], perm=(1, 0)))
    before = str(module)
    assign_layout(module)
    assert str(module) == before


@pytest.mark.parametrize("seed", range(30))
def test_random_networks_keep_their_numbers(seed):
    rng = np.random.default_rng(seed)
    net = Net((2, 4, 6, 10))
    b = net.b
    pool = [net.conv(net.inputs[0], 4)]
    for _ in range(12):
        x, y = (pool[rng.integers(len(pool))] for _ in range(2))
        step = rng.integers(9)
        if step == 0:
            x = b.relu(x)
        elif step == 1:
            x = b.add(x, y)
        elif step == 2:
            x = net.conv(x, 4)
        elif step == 3:
            x = b.slice(b.concat(x, y, axis=int(rng.integers(1, 4))), (0,), (4,), (1,))
            x = b.slice(x, (0, 0), (6, 10), (2, 3))
        elif step == 4:
            x = b.transpose(b.transpose(x, perm=(0, 2, 3, 1)), perm=(0, 3, 1, 2))
        elif step == 5:
            x = b.reshape(b.reshape(x, (2, 2, 2, 60)), (2, 4, 6, 10))
        elif step == 6:
            x = b.softmax(x, axis=int(rng.integers(1, 4)))
        elif step == 7:
            x = b.mul(x, b.reduce_max(y, (int(rng.integers(1, 4)),)))
        else:
            x = b.matmul(x, net.weight(10, 10))
        pool.append(x)
    module = net.done(pool[-1], b.reduce_mean(pool[-2], (1,), keepdims=False))
    after = module.clone()
    assign_layout(after)
    verify(after, allow_channels_last=True)
    x = rng.normal(size=(2, 4, 6, 10)).astype("f4")
    expected, got = run(module, [x]), run(after, [x])
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("seed", range(40))
def test_minimum_cut_against_all_assignments(seed):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, 8))
    unary = rng.integers(0, 10, (count, 2)).astype(float)
    pairs = [(int(a), int(c), int(w)) for a, c, w in rng.integers(0, (count, count, 9), (2 * count, 3)) if a != c]
    energy = BinaryEnergy()
    for row in unary:
        energy.unary(energy.variable(), *row)
    for a, c, w in pairs:
        energy.pair(a, c, (0.0, float(w), float(w) / 2, 0.0))

    def cost(bits):
        total = sum(unary[i][bit] for i, bit in enumerate(bits))
        return total + sum(
            w if (bits[a], bits[c]) == (0, 1) else w / 2 if (bits[a], bits[c]) == (1, 0) else 0 for a, c, w in pairs
        )

    best = min(cost([k >> i & 1 for i in range(count)]) for k in range(1 << count))
    assert cost(energy.solve()[:count]) == best
