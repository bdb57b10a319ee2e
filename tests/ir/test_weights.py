"""Signatures, weights, and loading new contents by key."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from anyir.formats import safetensors
from anyir.ir.builder import Builder
from anyir.ir.errors import InvalidModel, SystemFailure, UsageError
from anyir.ir.graph import Module
from anyir.ir.signature import Signature, Slot
from anyir.ir.tensor import as_tensor
from anyir.ir.types import BF16, F32, TensorType
from anyir.ir.weights import Weight, Weights
from anyir.kernels.run import run


def model() -> Module:
    made = Module()
    graph = made.add_graph("main")
    b = Builder(graph)
    x = graph.add_input(TensorType(F32, (2,)))
    w = b.const(np.ones(2, np.float32), key="w", role="param")
    w.weight.aliases = ("tied",)
    mean = b.const(np.zeros(2, np.float32), key="mean", role="buffer")
    graph.set_outputs([b.add(b.mul(b.sub(x, mean), w), b.const(1.0))])
    made.add_signature("serving_default", graph, ["x"], ["y"])
    return made


def stored(path: Path, **arrays: np.ndarray) -> str:
    safetensors.write(path, {name: as_tensor(array) for name, array in arrays.items()})
    return str(path)


def test_weights_are_loaded_by_key_and_alias(tmp_path: Path) -> None:
    made = model()
    f = np.array
    report = made.load_weights(stored(tmp_path / "a.safetensors", tied=f([2, 3], "f4"), other=f([1], "f4")))
    assert report == {"taken": ["w"], "missing": [], "unexpected": ["other"]}
    assert run(made, [f([1, 1], "f4")])["y"].tolist() == [3, 4]
    report = made.load_weights(stored(tmp_path / "b.safetensors", mean=f([1, 1], "f4")))
    assert report == {"taken": ["mean"], "missing": ["w"], "unexpected": []}
    assert run(made, [f([1, 1], "f4")])["y"].tolist() == [1, 1]


def test_constants_are_not_loaded(tmp_path: Path) -> None:
    made = model()
    assert "const" in made.weights
    report = made.load_weights(stored(tmp_path / "a.safetensors", const=np.array(5, "f4")))
    assert report["unexpected"] == ["const"] and report["taken"] == []
    assert made.weights["const"].tensor.numpy() == 1


def test_a_wrong_type_changes_nothing(tmp_path: Path) -> None:
    made = model()
    path = stored(tmp_path / "a.safetensors", mean=np.ones(2, "f4"), w=np.ones(3, "f4"))
    with pytest.raises(InvalidModel, match="'w' is f32\\[2\\], the file has f32\\[3\\]"):
        made.load_weights(path)
    assert made.weights["mean"].tensor.numpy().tolist() == [0, 0]


def test_weights_are_loaded_from_a_mapping() -> None:
    """Arrays, nested lists, torch tensors (bfloat16 too) and Tensors; all or nothing."""
    torch = pytest.importorskip("torch")
    made = model()
    half = made.add_weight("half", np.zeros(2, ml_dtypes.bfloat16))
    tensor = torch.tensor([1.5, -2.0], dtype=torch.bfloat16, requires_grad=True)
    report = made.load_weights(
        {"w": np.array([2, 3], "f4"), "half": tensor, "mean": as_tensor(np.ones(2, "f4")), "z": [1]}
    )
    assert report == {"taken": ["w", "half", "mean"], "missing": [], "unexpected": ["z"]}
    assert half.array().tolist() == [1.5, -2.0] and half.dtype is BF16
    source = np.array([5, 6], "f4")
    made.load_weights({"w": source})
    source[:] = 0
    assert made.weights["w"].tensor.numpy().tolist() == [5, 6], "an array of the caller's is copied"
    wrong = (
        {"w": np.zeros(2, "f8")},
        {"w": np.zeros((2, 1), "f4")},
        {"w": tensor},
        {"w": object()},
        {"w": [[1], [2, 3]]},
    )
    for mapping in wrong:
        with pytest.raises(InvalidModel):
            made.load_weights({"mean": np.zeros(2, "f4"), **mapping})
        assert made.weights["mean"].tensor.numpy().tolist() == [1, 1]
    with pytest.raises(UsageError, match="not from a list"):
        made.load_weights([1])  # type: ignore[arg-type]


def test_names_of_one_weight_must_agree() -> None:
    made = model()
    one = np.ones(2, "f4")
    assert made.load_weights({"tied": one * 2, "w": one * 2})["taken"] == ["w"]
    with pytest.raises(InvalidModel, match="'tied' and 'w' are one weight"):
        made.load_weights({"tied": one, "w": one * 3})
    assert made.weights["w"].tensor.numpy().tolist() == [2, 2]


def test_torch_checkpoints_hold_tensors_and_nothing_else(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    made = model()
    path = tmp_path / "net.pt"
    torch.save({"epoch": 3, "state_dict": {"w": torch.tensor([7.0, 8.0])}, "optimizer": {"lr": 0.1}}, path)
    assert made.load_weights(path)["taken"] == ["w"] and made.weights["w"].tensor.numpy().tolist() == [7, 8]
    torch.save({"w": torch.ones(2).to_sparse()}, path)
    with pytest.raises(InvalidModel, match="sparse"):
        made.load_weights(path)
    torch.save([1, 2], path)
    with pytest.raises(InvalidModel, match="not tensors by name"):
        made.load_weights(path)
    code = f"import os\nclass Evil:\n    def __reduce__(self): return os.mkdir, ({str(tmp_path / 'pwned')!r},)\n"
    names: dict = {}
    exec(code, names)
    torch.save({"w": names["Evil"]()}, path)
    for damage in (None, b"", b"not a zip"):
        if damage is not None:
            path.write_bytes(damage)
        with pytest.raises(InvalidModel, match="not a state dict"):
            made.load_weights(path)
    assert not (tmp_path / "pwned").exists()
    with pytest.raises(SystemFailure):
        made.load_weights(tmp_path / "absent.pt")


def test_loading_counts_as_an_edit(tmp_path: Path) -> None:
    made = model()
    version = made.version
    made.load_weights(stored(tmp_path / "a.safetensors", w=np.ones(2, "f4")))
    assert made.version > version


def test_set_weight_refuses_another_type() -> None:
    made = model()
    for wrong in (np.ones(3, np.float32), np.ones(2, np.float64)):
        with pytest.raises(InvalidModel, match="the new contents are"):
            made.set_weight(made.weights["w"], wrong)


def test_known_elements_follow_new_contents() -> None:
    made = Module()
    value = made.add_weight("shape", np.array([2, 3]), "const")
    assert value.ints() == (2, 3)
    made.set_weight(value.weight, np.array([3, 2]))
    assert value.ints() == (3, 2)


def test_keys_stay_unique() -> None:
    weights = Weights()
    made = [weights.add(Weight("w", as_tensor(np.zeros(1)))) for _ in range(3)]
    assert [w.key for w in made] == ["w", "w_1", "w_2"] and weights["w_1"] is made[1]
    weights.remove(made[0])
    assert "w" not in weights and len(weights) == 2
    weights.reclaim_keys()
    assert [w.key for w in weights] == ["w", "w_2"], "the freed key goes to the first that wanted it"
    assert weights.add(Weight("w_2", as_tensor(np.zeros(1)))).key == "w_2_1"


def test_unknown_roles_are_refused() -> None:
    with pytest.raises(InvalidModel, match="role 'weight'"):
        Weight("w", as_tensor(np.zeros(1)), "weight")


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        (["x", "z"], ["y"], "names 2 inputs, the graph has 1"),
        (["x"], [], "names 0 outputs, the graph has 1"),
    ],
)
def test_signatures_fit_their_graph(inputs: list[str], outputs: list[str], message: str) -> None:
    made = model()
    with pytest.raises(InvalidModel, match=message):
        made.add_signature("other", made.main, inputs, outputs)


def test_names_in_a_signature_are_unique() -> None:
    made = model()
    made.main.add_input(TensorType(F32, (2,)))
    with pytest.raises(InvalidModel, match="two inputs called 'x'"):
        Signature("s", made.main, [Slot("x"), Slot("x")], [Slot("y")]).check()


def test_names_survive_every_rewrite() -> None:
    made = model()
    made.main.set_outputs([made.main.inputs[0]])
    assert made.signature.input_names() == ["x"] and made.signature.output_names() == ["y"]
    assert run(made, {"x": np.zeros(2, np.float32)})["y"].tolist() == [0, 0]
