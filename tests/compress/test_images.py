"""Other views of images: the symmetries of a square and the orders of colours, judged by numpy; who is shown them."""

from __future__ import annotations

import numpy as np
import pytest
from anyir.compress import images
from anyir.compress.data import open_data
from anyir.ir.errors import UsageError
from anyir.passes.manager import Context, run_pipeline
from anyir.tests.support.text import module


@pytest.mark.parametrize("last", [False, True])
def test_the_views_are_all_symmetries_with_all_orders_of_colours(last: bool) -> None:
    image = np.random.default_rng(0).normal(size=(1, 3, 16, 16))
    given = image.transpose(0, 2, 3, 1) if last else image
    expected = {
        np.rot90(plane, turns, axes=(2, 3))[:, list(order)].tobytes()
        for plane in (image, image[..., ::-1])
        for turns in range(4)
        for order in images.COLOURS
    } - {image[:, list(order)].tobytes() for order in images.COLOURS}
    made = [images.turned(given, images.image_axis(given), number) for number in range(images.VIEWS)]
    seen = {np.ascontiguousarray(one.transpose(0, 3, 1, 2) if last else one).tobytes() for one in made}
    assert seen == expected and len(seen) == images.VIEWS


def test_an_image_that_is_not_square_keeps_its_shape() -> None:
    image = np.random.default_rng(0).normal(size=(1, 1, 20, 16))
    assert {images.turned(image, 2, number).shape for number in range(images.VIEWS)} == {image.shape}


def test_half_of_the_images_are_turned_and_the_same_ones_each_time() -> None:
    net = module("(%x: f32[N, 1, 20, 16]) {\n return(%x)\n}")
    given = np.random.default_rng(0).normal(size=(200, 1, 20, 16)).astype(np.float32)
    name = net.signature.input_names()[0]
    feeds = images.Turned(open_data({name: given}, net), seed=3)
    first, second = (np.concatenate([batch[name] for batch in feeds.batches()]) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    kept = (first == given).all(axis=(1, 2, 3))
    assert 70 < kept.sum() < 130
    np.testing.assert_array_equal(np.sort(first.reshape(200, -1)), np.sort(given.reshape(200, -1)))


def test_what_is_no_image_stays() -> None:
    net = module("(%x: f32[N, 30]) {\n return(%x)\n}")
    given = np.random.default_rng(0).normal(size=(40, 30)).astype(np.float32)
    name = net.signature.input_names()[0]
    feeds = images.Turned(open_data({name: given}, net), seed=0)
    np.testing.assert_array_equal(np.concatenate([batch[name] for batch in feeds.batches()]), given)


@pytest.mark.parametrize("options", ["augment=true", "augment=true,structure=none"])
def test_augment_without_images_or_units_is_refused(options: str) -> None:
    net = module("(%x: f32[N, 30]) {\n return(%x)\n}")
    name = net.signature.input_names()[0]
    data = open_data({name: np.zeros((4, 30), np.float32)}, net)
    with pytest.raises(UsageError, match="augment"):
        run_pipeline(net, f"prune{{{options}}}", Context(data=data))
