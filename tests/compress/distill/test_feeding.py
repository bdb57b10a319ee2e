"""Batches for training: the same for the same seed and epoch, whatever the source, and whole where a model wants that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from anyir.compress.data import open_data
from anyir.compress.distill import feeding
from anyir.compress.distill.feeding import Feed, seeded
from anyir.ir.builder import Builder
from anyir.ir.dims import sym
from anyir.ir.errors import InvalidData
from anyir.ir.graph import Module
from anyir.ir.types import F32, TensorType
from anyir.tests.support.distillation import mlp

X = np.arange(40, dtype=np.float32).reshape(10, 4)
Y = np.arange(10)


def image_model(batch: Any = None, size: Any = None) -> Module:
    module = Module()
    graph = module.add_graph("main")
    b = Builder(graph)
    shape = (sym("N") if batch is None else batch, 3, *((sym("H"), sym("W")) if size is None else (size, size)))
    x = graph.add_input(TensorType(F32, shape), "image")
    graph.set_outputs([b.reduce_mean(x, (2, 3), keepdims=False)])
    module.add_signature("main", graph, ["image"], ["y"])
    return module


def feed(source: Any, size: int = 3, seed: int = 0, module: Module | None = None) -> Feed:
    return Feed(open_data(source, module or mlp((4, 3), 0)), size, seed, None, source)


def rows(batches: Any) -> list[list[int]]:
    """Which samples each batch holds, by their labels."""
    return [batch.labels.tolist() for batch in batches]


@pytest.mark.parametrize("held", [True, False])
def test_an_epoch_is_a_function_of_seed_and_number(held: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the samples do not stay in memory and are read by their places."""
    if not held:
        monkeypatch.setattr(feeding, "HELD_BYTES", 0)
    one, two = feed({"x": X, "labels": Y}), feed({"x": X, "labels": Y})
    first = rows(one.epoch(0))
    assert [len(batch) for batch in first] == [3, 3, 3] and one.steps() == 3, "one sample alone waits"
    assert first == rows(two.epoch(0)) and first != rows(one.epoch(1)) and rows(one.epoch(0, 1)) == first[1:]
    assert first != rows(feed({"x": X, "labels": Y}, seed=1).epoch(0))
    for batch in one.epoch(2):
        np.testing.assert_array_equal(batch.feeds["x"], X[batch.labels])
    assert len({label for batch in first for label in batch}) == 9
    four = rows(feed({"x": X, "labels": Y}, 4).epoch(0))
    assert sorted(label for batch in four for label in batch) == list(range(10))
    assert rows(one.in_order()) == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]


def test_the_order_does_not_depend_on_where_samples_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "data.npz", x=X, labels=Y)
    wanted = [sorted(batch) for batch in rows(feed({"x": X, "labels": Y}).epoch(3))]
    monkeypatch.setattr(feeding, "HELD_BYTES", 0)
    assert [sorted(batch) for batch in rows(feed(str(tmp_path / "data.npz")).epoch(3))] == wanted


def test_a_fixed_batch_is_always_whole() -> None:
    module = image_model(batch=4, size=2)
    x = np.arange(10 * 12, dtype=np.float32).reshape(10, 3, 2, 2)
    made = feed({"image": x, "labels": Y}, 64, module=module)
    assert made.size == 4 and [len(batch) for batch in rows(made.epoch(0))] == [4, 4]
    assert rows(made.in_order(1)) == [[0, 1, 2, 3], [4, 5, 6, 7]] and made.first().count == 4
    with pytest.raises(InvalidData, match="takes 4 at a time"):
        feed({"image": x[:3]}, module=module).first()


def test_shapes_never_share_a_batch() -> None:
    sizes = [4, 6, 4, 4, 6]
    images = [(np.full((1, 3, n, n), i, np.float32), np.array([i])) for i, n in enumerate(sizes)]
    made = feed(images, 5, module=image_model())
    found = rows(made.epoch(0))
    assert sorted(sorted(batch) for batch in found) == [[0, 2, 3], [1, 4]]


def test_a_shuffling_source_follows_our_seed() -> None:
    """It draws from the global generators, which we seed for each epoch and put back."""

    def shuffled() -> Any:
        for i in np.random.permutation(10):
            yield X[i : i + 1], Y[i : i + 1]

    np.random.seed(5)
    before = np.random.get_state()[1].copy()  # type: ignore[index, union-attr]
    with seeded((0, 0)):
        made = Feed(open_data(shuffled, mlp((4, 3), 0)), 3, 0)
    assert rows(made.epoch(0)) == rows(made.epoch(0)) != rows(made.epoch(1))
    assert rows(made.epoch(0, 2)) == rows(made.epoch(0))[2:] and made.count == 10
    assert (np.random.get_state()[1] == before).all()  # type: ignore[index]


def test_labels_are_whole_numbers() -> None:
    with pytest.raises(InvalidData, match="whole numbers"):
        list(feed({"x": X, "labels": Y / 2}).epoch(0))
    assert feed({"x": X}).first().labels is None
