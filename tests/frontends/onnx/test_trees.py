"""ai.onnx.ml's tree ensembles: onnxruntime is the judge, a walk written down from the specification where it departs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime")

from anyir.backends import onnx as backend
from anyir.frontends import onnx as frontend
from anyir.ir.errors import InvalidModel, Unsupported
from anyir.runtimes import onnxruntime as ort
from anyir.tests.support.ml_models import F32, I64, STR, check_against, check_against_onnxruntime, model, ours, tensor
from onnx import TensorProto, numpy_helper

NAN = np.nan
MODES = ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ"]
FEATURES = 4


def points(rng: np.random.Generator, rows: int = 40, missing: bool = True) -> np.ndarray:
    """Values from a small grid, so that they often equal a split."""
    x = np.round(rng.uniform(-1, 1, (rows, FEATURES)), 1).astype(np.float32)
    if missing:
        x[rng.random(x.shape) < 0.15] = NAN
    return x


def old_nodes(rng: np.random.Generator, trees: int, depth: int, modes: list[str] = MODES[:1]) -> dict[str, list]:
    """Random binary trees of version 1 and 3: inner nodes with a chance to be leaves early. Node ids have gaps."""
    out: dict[str, list] = {
        f"nodes_{n}": [] for n in ("treeids", "nodeids", "featureids", "modes", "values", "truenodeids", "falsenodeids")
    }
    for tree in range(trees):
        pending, made = [(0, 0)], 1
        while pending:
            node, level = pending.pop()
            inner = level < depth and (level == 0 or rng.random() < 0.8)
            children = (made, made + 1) if inner else (0, 0)
            if inner:
                made += 2
                pending += [(child, level + 1) for child in children]
            row = (tree + 3, node, int(rng.integers(FEATURES)), str(rng.choice(modes)) if inner else "LEAF")
            split = float(np.float32(np.round(rng.uniform(-1, 1), 1)))
            for key, item in zip(out, (*row, split if inner else 0.0, *children), strict=True):
                out[key].append(item)
    return out


def votes(
    rng: np.random.Generator, nodes: dict[str, list], prefix: str, targets: int, most: int, low: float = -1.0
) -> dict:
    """One to `most` votes of each leaf, for different targets."""
    out: dict[str, list] = {f"{prefix}_{n}": [] for n in ("treeids", "nodeids", "ids", "weights")}
    for tree, node, mode in zip(nodes["nodes_treeids"], nodes["nodes_nodeids"], nodes["nodes_modes"], strict=True):
        if mode == "LEAF":
            for target in rng.permutation(targets)[: int(rng.integers(1, most + 1))].tolist():
                weight = float(np.float32(rng.uniform(low, 1)))
                for key, item in zip(out, (tree, node, target, weight), strict=True):
                    out[key].append(item)
    return out


def tracks(rng: np.random.Generator, nodes: dict[str, list]) -> dict[str, list[int]]:
    """Where a missing value goes; to the true side where the mode is NEQ, as onnxruntime has it always."""
    made = [int(rng.integers(2)) if mode != "BRANCH_NEQ" else 1 for mode in nodes["nodes_modes"]]
    return {"nodes_missing_value_tracks_true": made}


# ------------------------------------------------------------------------------------------------------- regression


@pytest.mark.parametrize("mode", [*MODES, "all"])
@pytest.mark.parametrize("track", [True, False])
def test_node_modes_and_missing_values(mode: str, track: bool) -> None:
    rng = np.random.default_rng(1)
    nodes = old_nodes(rng, 5, 4, MODES if mode == "all" else [mode])
    attrs = {**nodes, **votes(rng, nodes, "target", 1, 1), "n_targets": 1}
    missing = track or mode not in ("BRANCH_NEQ", "all")
    if track:
        attrs |= tracks(rng, nodes)
    x = points(rng, missing=missing)
    check_against_onnxruntime(model("TreeEnsembleRegressor", {"x": x}, [F32], 3, **attrs), {"x": x})


def test_a_missing_value_takes_the_false_branch_unless_told_otherwise() -> None:
    """NEQ too: the specification makes no difference between modes; onnxruntime takes the true branch there."""
    attrs = {
        "nodes_treeids": [0] * 3, "nodes_nodeids": [0, 1, 2], "nodes_featureids": [0] * 3, "nodes_values": [0.5, 0, 0],
        "nodes_modes": ["BRANCH_NEQ", "LEAF", "LEAF"], "nodes_truenodeids": [1, 0, 0], "nodes_falsenodeids": [2, 0, 0],
        "target_treeids": [0] * 2, "target_nodeids": [1, 2], "target_ids": [0, 0], "target_weights": [1.0, 2.0],
        "n_targets": 1,
    }  # fmt: skip
    x = np.array([[NAN], [0.5], [1.0]], np.float32)
    made = ours(model("TreeEnsembleRegressor", {"x": x}, [F32], 1, **attrs), {"x": x})[0]
    np.testing.assert_array_equal(made, [[2], [2], [1]])


@pytest.mark.parametrize("aggregate", ["SUM", "AVERAGE", "MIN", "MAX"])
@pytest.mark.parametrize("targets", [1, 3])
@pytest.mark.parametrize("version", [1, 3])
def test_aggregates_and_base_values(aggregate: str, targets: int, version: int) -> None:
    rng = np.random.default_rng(2)
    nodes = old_nodes(rng, 12, 3)
    attrs = {
        **nodes, **votes(rng, nodes, "target", targets, 1), "n_targets": targets, "aggregate_function": aggregate,
        "base_values": [0.5, -0.25, 4.0][:targets],
    }  # fmt: skip
    x = points(rng, rows=300)
    check_against_onnxruntime(model("TreeEnsembleRegressor", {"x": x}, [F32], version, **attrs), {"x": x})


@pytest.mark.parametrize("transform", ["LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"])
def test_transforms_of_a_regressor(transform: str) -> None:
    rng = np.random.default_rng(3)
    nodes = old_nodes(rng, 4, 3)
    attrs = {**nodes, **votes(rng, nodes, "target", 3, 3), "n_targets": 3, "post_transform": transform}
    x = points(rng)
    check_against_onnxruntime(model("TreeEnsembleRegressor", {"x": x}, [F32], 1, **attrs), {"x": x})


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.float64])
def test_other_inputs(dtype: Any) -> None:
    """onnxruntime has no integers here; they count as their nearest floats."""
    rng = np.random.default_rng(4)
    nodes = old_nodes(rng, 6, 4)
    attrs = {**nodes, **votes(rng, nodes, "target", 2, 2), "n_targets": 2}
    x = (3 * points(rng, missing=False)).astype(dtype)
    proto = model("TreeEnsembleRegressor", {"x": x}, [F32], 1, **attrs)
    given = x if dtype == np.float64 else x.astype(np.float32)
    truth = ort.run(model("TreeEnsembleRegressor", {"x": given}, [F32], 1, **attrs).SerializeToString(), {"x": given})
    check_against(proto, {"x": x}, truth)


def test_doubles_as_tensors() -> None:
    """Thresholds that float32 cannot tell apart."""
    rng = np.random.default_rng(5)
    nodes = old_nodes(rng, 3, 3)
    splits = np.array(nodes.pop("nodes_values")) + 1e-12
    leaves = votes(rng, nodes, "target", 2, 2)
    weights = np.array(leaves.pop("target_weights"))
    attrs = {
        **nodes, **leaves, "n_targets": 2, "nodes_values_as_tensor": tensor(splits),
        "target_weights_as_tensor": tensor(weights), "base_values_as_tensor": tensor([0.5, 0.25]),
    }  # fmt: skip
    x = points(rng).astype(np.float64) + 1e-12 * rng.integers(-1, 2, (40, FEATURES))
    check_against_onnxruntime(model("TreeEnsembleRegressor", {"x": x}, [F32], 3, **attrs), {"x": x})


def test_a_tree_that_is_a_leaf() -> None:
    attrs = {
        "nodes_treeids": [0, 1, 1, 1], "nodes_nodeids": [0, 0, 1, 2], "nodes_featureids": [0] * 4,
        "nodes_modes": ["LEAF", "BRANCH_LT", "LEAF", "LEAF"], "nodes_values": [0, 0.5, 0, 0],
        "nodes_truenodeids": [0, 1, 0, 0], "nodes_falsenodeids": [0, 2, 0, 0], "target_treeids": [0, 1, 1],
        "target_nodeids": [0, 1, 2], "target_ids": [0] * 3, "target_weights": [10.0, 1.0, 2.0], "n_targets": 1,
    }  # fmt: skip
    x = np.array([[0.0], [0.5], [NAN]], np.float32)
    for version in (1, 3):
        check_against_onnxruntime(model("TreeEnsembleRegressor", {"x": x}, [F32], version, **attrs), {"x": x})
    module = frontend.read(model("TreeEnsembleRegressor", {"x": x}, [F32], 3, **attrs))
    module.metadata["opset.ai.onnx.ml"] = "5"
    made = backend.to_model_proto(module)
    assert [node.op_type for node in made.graph.node] == ["TreeEnsemble"]
    np.testing.assert_array_equal(ours(made, {"x": x})[0], [[11], [12], [12]])


# --------------------------------------------------------------------------------------------------- classification


@pytest.mark.parametrize("labels", [{"classlabels_int64s": [4, -7, 9]}, {"classlabels_strings": ["a", "", "c"]}])
@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX"])
@pytest.mark.parametrize("base", [True, False])
def test_classifier(labels: dict[str, Any], transform: str, base: bool) -> None:
    """Each leaf votes for every class, as those of random forests do."""
    rng = np.random.default_rng(6)
    nodes = old_nodes(rng, 5, 4)
    attrs = {**nodes, **votes(rng, nodes, "class", 3, 1, low=0.0), "post_transform": transform, **labels}
    every: dict[str, list] = {key: [] for key in ("class_treeids", "class_nodeids", "class_ids", "class_weights")}
    for tree, node, mode in zip(nodes["nodes_treeids"], nodes["nodes_nodeids"], nodes["nodes_modes"], strict=True):
        for target, weight in enumerate(rng.dirichlet([1, 1, 1]).tolist() if mode == "LEAF" else ()):
            for key, item in zip(every, (tree, node, target, weight), strict=True):
                every[key].append(item)
    attrs |= every
    if base:
        attrs["base_values"] = [0.5, -0.25, 0.125]
    code = STR if "classlabels_strings" in labels else I64
    x = points(rng)
    check_against_onnxruntime(model("TreeEnsembleClassifier", {"x": x}, [code, F32], 1, **attrs), {"x": x})


@pytest.mark.parametrize("labels", [{"classlabels_int64s": [4, -7]}, {"classlabels_strings": ["no", "yes"]}])
@pytest.mark.parametrize("voted", [0, 1])
@pytest.mark.parametrize("low", [0.0, -1.0])
@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC"])
@pytest.mark.parametrize("base", [(), (0.25,)])
def test_classifier_with_votes_for_one_of_two(
    labels: dict, voted: int, low: float, transform: str, base: tuple
) -> None:
    rng = np.random.default_rng(7)
    nodes = old_nodes(rng, 3, 3)
    attrs = {**nodes, **votes(rng, nodes, "class", 1, 1, low=low), "post_transform": transform, **labels}
    attrs["class_ids"] = [voted] * len(attrs["class_ids"])
    if base and not voted:
        attrs["base_values"] = list(base)
    code = STR if "classlabels_strings" in labels else I64
    x = points(rng)
    check_against_onnxruntime(model("TreeEnsembleClassifier", {"x": x}, [code, F32], 1, **attrs), {"x": x})


def test_two_classes_with_votes_for_both() -> None:
    """The higher score wins. onnxruntime calls every positive score of the second class the winner."""
    rng = np.random.default_rng(8)
    nodes = old_nodes(rng, 3, 3)
    leaves = [i for i, mode in enumerate(nodes["nodes_modes"]) if mode == "LEAF"]
    share = rng.random(len(leaves)).astype(np.float32)
    attrs = {
        **nodes, "classlabels_int64s": [3, 8], "class_ids": [0] * len(leaves) + [1] * len(leaves),
        "class_treeids": [nodes["nodes_treeids"][i] for i in leaves] * 2,
        "class_nodeids": [nodes["nodes_nodeids"][i] for i in leaves] * 2,
        "class_weights": np.concatenate([share, 1 - share]).tolist(),
    }  # fmt: skip
    x = points(rng)
    label, scores = ours(model("TreeEnsembleClassifier", {"x": x}, [I64, F32], 1, **attrs), {"x": x})
    np.testing.assert_array_equal(label, np.where(scores[:, 1] > scores[:, 0], 8, 3))
    np.testing.assert_allclose(scores.sum(axis=1), 3, rtol=1e-6)


def test_one_class() -> None:
    rng = np.random.default_rng(9)
    nodes = old_nodes(rng, 2, 2)
    attrs = {**nodes, **votes(rng, nodes, "class", 1, 1), "classlabels_int64s": [1]}
    x = points(rng)
    check_against_onnxruntime(model("TreeEnsembleClassifier", {"x": x}, [I64, F32], 1, **attrs), {"x": x})
    text = {**attrs, "classlabels_strings": ["a"]}
    del text["classlabels_int64s"]
    with pytest.raises(Unsupported, match="one class with a string"):
        frontend.read(model("TreeEnsembleClassifier", {"x": x}, [STR, F32], 1, **text))


# --------------------------------------------------------------------------------------------------------- version 5


def new_trees(rng: np.random.Generator, dtype: Any, members: bool = False, targets: int = 2) -> dict[str, Any]:
    """The attributes of a random forest of version 5, from one of version 3. Splits and members are whole numbers:
    onnxruntime has sets of integers only."""
    nodes = old_nodes(rng, 4, 4, MODES)
    inner = [i for i, mode in enumerate(nodes["nodes_modes"]) if mode != "LEAF"]
    keys = list(zip(nodes["nodes_treeids"], nodes["nodes_nodeids"], strict=True))
    place = {keys[i]: n for n, i in enumerate(inner)}
    leaf = {key: n for n, key in enumerate(key for key in keys if key not in place)}
    modes = np.array([MODES.index(nodes["nodes_modes"][i]) for i in inner], np.uint8)
    attrs: dict[str, Any] = {}
    if members:
        chosen = rng.random(len(inner)) < 0.5
        modes[chosen] = 6
        sets = [[*rng.integers(-10, 11, int(rng.integers(1, 9))), NAN] for _ in range(int(chosen.sum()))]
        attrs["membership_values"] = tensor(np.concatenate(sets).astype(dtype))
    for side in ("true", "false"):
        children = [(keys[i][0], nodes[f"nodes_{side}nodeids"][i]) for i in inner]
        attrs[f"nodes_{side}nodeids"] = [place[c] if c in place else leaf[c] for c in children]
        attrs[f"nodes_{side}leafs"] = [int(c not in place) for c in children]
    roots = [place[min(key for key in keys if key[0] == tree)] for tree in sorted({tree for tree, _ in keys})]
    return attrs | {
        "nodes_featureids": [nodes["nodes_featureids"][i] for i in inner],
        "nodes_modes": tensor(modes),
        "nodes_splits": tensor(np.array([10 * nodes["nodes_values"][i] for i in inner], dtype)),
        "leaf_targetids": rng.integers(0, targets, len(leaf)).tolist(),
        "leaf_weights": tensor(rng.uniform(-1, 1, len(leaf)).astype(dtype)),
        "tree_roots": roots,
        "n_targets": targets,
    }


def walked(attrs: dict[str, Any], x: np.ndarray) -> np.ndarray:
    """What the text of TreeEnsemble-5 says, row by row and node by node (sums of leaves only)."""
    modes, splits = (numpy_helper.to_array(attrs[f"nodes_{n}"]) for n in ("modes", "splits"))
    weights = numpy_helper.to_array(attrs["leaf_weights"])
    compare = [np.less_equal, np.less, np.greater_equal, np.greater, np.equal, np.not_equal]
    sets: dict[int, set[float]] = {}
    if "membership_values" in attrs:
        values = numpy_helper.to_array(attrs["membership_values"])
        parts = np.split(values, np.flatnonzero(np.isnan(values)) + 1)
        sets = {n: set(part[:-1].tolist()) for n, part in zip(np.flatnonzero(modes == 6).tolist(), parts, strict=False)}
    tracks = attrs.get("nodes_missing_value_tracks_true", [0] * len(modes))
    out = np.zeros((len(x), attrs["n_targets"]))
    for row, features in enumerate(x):
        for node in attrs["tree_roots"]:
            leaf = False
            while not leaf:
                value = features[attrs["nodes_featureids"][node]]
                if np.isnan(value):
                    taken = tracks[node] == 1
                else:
                    taken = value in sets[node] if modes[node] == 6 else compare[modes[node]](value, splits[node])
                side = "true" if taken else "false"
                leaf, node = attrs[f"nodes_{side}leafs"][node], attrs[f"nodes_{side}nodeids"][node]
            out[row, attrs["leaf_targetids"][node]] += weights[node]
    return out.astype(x.dtype)


@pytest.mark.parametrize("members", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("aggregate", [0, 1, 2, 3])
def test_tree_ensemble(members: bool, dtype: Any, aggregate: int) -> None:
    rng = np.random.default_rng(10)
    attrs = new_trees(rng, dtype, members) | {"aggregate_function": aggregate}
    x = np.round(10 * points(rng, missing=False)).astype(dtype)
    code = F32 if dtype == np.float32 else TensorProto.DOUBLE
    check_against_onnxruntime(model("TreeEnsemble", {"x": x}, [code], 5, **attrs), {"x": x})


@pytest.mark.parametrize("members", [True, False])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("track", [True, False])
def test_tree_ensemble_by_the_text(members: bool, dtype: Any, track: bool) -> None:
    """float16 and all that is missing too, where no runtime agrees with another."""
    rng = np.random.default_rng(11)
    attrs = new_trees(rng, dtype, members)
    if track:
        attrs["nodes_missing_value_tracks_true"] = rng.integers(0, 2, len(attrs["nodes_featureids"])).tolist()
    x = np.round(10 * points(rng)).astype(dtype)
    code = {"e": TensorProto.FLOAT16, "f": F32, "d": TensorProto.DOUBLE}[x.dtype.char]
    truth = {"o0": walked(attrs, x)}
    check_against(model("TreeEnsemble", {"x": x}, [code], 5, **attrs), {"x": x}, truth, written=False)


def test_leaves_with_several_votes_at_version_5() -> None:
    """One forest per vote: the same sums, averages and extremes."""
    rng = np.random.default_rng(12)
    for aggregate in ("SUM", "AVERAGE", "MIN", "MAX"):
        nodes = old_nodes(rng, 4, 3)
        attrs = {**nodes, **votes(rng, nodes, "target", 3, 3), "n_targets": 3, "aggregate_function": aggregate}
        x = points(rng)
        module = frontend.read(model("TreeEnsembleRegressor", {"x": x}, [F32], 3, **attrs))
        wanted = ours(backend.to_model_proto(module), {"x": x})[0]
        module.metadata["opset.ai.onnx.ml"] = "5"
        newer = backend.to_model_proto(module)
        assert newer.graph.node[0].op_type == "TreeEnsemble"
        check_against(newer, {"x": x}, {newer.graph.output[0].name: wanted})


# ------------------------------------------------------------------------------------------------------------ hostile

GOOD = {
    "nodes_treeids": [0] * 5, "nodes_nodeids": [0, 1, 2, 3, 4], "nodes_featureids": [0, 0, 1, 0, 0],
    "nodes_modes": ["BRANCH_LEQ", "LEAF", "BRANCH_LEQ", "LEAF", "LEAF"], "nodes_values": [0.5, 0, 0.5, 0, 0],
    "nodes_truenodeids": [1, 0, 3, 0, 0], "nodes_falsenodeids": [2, 0, 4, 0, 0], "target_treeids": [0] * 3,
    "target_nodeids": [1, 3, 4], "target_ids": [0] * 3, "target_weights": [1.0, 2.0, 3.0], "n_targets": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nodes_falsenodeids": [0, 0, 4, 0, 0]}, "form a cycle"),
        ({"nodes_falsenodeids": [2, 0, 0, 0, 0]}, "form a cycle"),
        ({"nodes_falsenodeids": [9, 0, 4, 0, 0]}, "refers to node 9"),
        ({"nodes_truenodeids": [-1, 0, 3, 0, 0]}, "refers to node -1"),
        ({"nodes_truenodeids": [1, 0, 3, 0]}, "nodes_truenodeids has 4 entries, expected 5"),
        ({"nodes_values": [0.5]}, "nodes_values has shape"),
        ({"nodes_nodeids": [0, 1, 2, 3, 3]}, "a node id occurs twice"),
        ({"nodes_modes": ["LEAF"] * 4 + ["BRANCH_MEMBER"]}, "nodes_modes holds 'BRANCH_MEMBER'"),
        ({"nodes_featureids": [-1, 0, 0, 0, 0]}, "a feature id of a tree ensemble is -1"),
        ({"nodes_featureids": [4, 0, 0, 0, 0]}, "a feature id of a tree ensemble is 4"),
        ({"target_ids": [0, 0, 1]}, "a target id of a tree ensemble is 1"),
        ({"target_ids": [0, 0, -1]}, "a target id of a tree ensemble is -1"),
        ({"target_nodeids": [1, 3, 7]}, "target_nodeids refers to node 7"),
        ({"target_treeids": [0, 0, 1]}, "target_treeids refers to tree 1"),
        ({"target_weights": [1.0]}, "target_weights has shape"),
        ({"n_targets": 0}, "0 targets"),
        ({"base_values": [1.0, 2.0]}, "base_values has shape"),
        ({"aggregate_function": "MEDIAN"}, "aggregate_function is 'MEDIAN'"),
        ({"nodes_missing_value_tracks_true": [1]}, "nodes_missing_value_tracks_true has 1 entries"),
        ({"nodes_treeids": [2**62] * 5}, "target_treeids refers to tree 0"),
    ],
)
def test_forests_that_are_refused(change: dict[str, Any], message: str) -> None:
    x = np.zeros((1, FEATURES), np.float32)
    with pytest.raises(InvalidModel, match=message):
        frontend.read(model("TreeEnsembleRegressor", {"x": x}, [F32], 3, **GOOD | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tree_roots": [99]}, "tree_roots refers to nodes that do not exist"),
        ({"tree_roots": [-1]}, "tree_roots refers to nodes that do not exist"),
        ({"leaf_targetids": [0]}, "leaf_targetids has 1 entries"),
        ({"nodes_truenodeids": None}, "nodes_truenodeids refers to nodes or leaves"),
        ({"nodes_splits": tensor(np.zeros(2, np.float32))}, r"nodes_splits is f32\[2\]"),
        ({"nodes_splits": "double"}, "nodes_splits is f64"),
        ({"leaf_weights": tensor(np.zeros((2, 2), np.float32))}, "leaf_weights is"),
        ({"nodes_modes": "unknown"}, "a node mode of a tree ensemble is 7"),
        ({"nodes_modes": "member"}, "0 sets of members"),
        ({"membership_values": tensor(np.array([NAN], np.float32))}, "1 sets of members"),
        ({"aggregate_function": 4}, "aggregate_function is 4"),
        ({"post_transform": 9}, "post_transform is 9"),
    ],
)
def test_new_forests_that_are_refused(change: dict[str, Any], message: str) -> None:
    attrs = new_trees(np.random.default_rng(13), np.float32)
    size = len(attrs["nodes_featureids"])
    made = {
        "double": tensor(np.zeros(size)),
        "unknown": tensor(np.full(size, 7, np.uint8)),
        "member": tensor(np.full(size, 6, np.uint8)),
    }
    change = {key: made[item] if isinstance(item, str) else item for key, item in change.items()}
    if "nodes_truenodeids" in change:
        change["nodes_truenodeids"] = [10**6] * size
    x = np.zeros((1, FEATURES), np.float32)
    with pytest.raises(InvalidModel, match=message):
        frontend.read(model("TreeEnsemble", {"x": x}, [F32], 5, **attrs | change))


def test_a_chain_of_nodes_needs_no_recursion() -> None:
    depth = 50_000
    ids = list(range(2 * depth + 1))
    inner = [i < depth for i in ids]
    attrs = {
        "nodes_treeids": [0] * len(ids), "nodes_nodeids": ids, "nodes_featureids": [0] * len(ids),
        "nodes_modes": ["BRANCH_LEQ" if i else "LEAF" for i in inner],
        "nodes_values": [float(i) if i < depth else 0.0 for i in ids],
        "nodes_truenodeids": [depth + i if i < depth else 0 for i in ids],
        "nodes_falsenodeids": [(i + 1 if i < depth - 1 else 2 * depth) if i < depth else 0 for i in ids],
        "target_treeids": [0] * (depth + 1), "target_nodeids": ids[depth:], "target_ids": [0] * (depth + 1),
        "target_weights": [float(i) for i in range(depth + 1)], "n_targets": 1,
    }  # fmt: skip
    x = np.array([[0.5], [depth - 2.5], [1e9]], np.float32)
    made = ours(model("TreeEnsembleRegressor", {"x": x}, [F32], 1, **attrs), {"x": x})[0]
    np.testing.assert_array_equal(made[:, 0], [1, depth - 2, depth])
