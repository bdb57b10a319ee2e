"""Preprocessing: text and recipes, Pillow's pixels, crops and numbers, folders of images, what cannot be done."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from anyir.compress.data import open_data
from anyir.compress.preprocess import MOST_PIXELS, Preprocess, parse_preprocess
from anyir.ir.builder import Builder
from anyir.ir.dims import sym
from anyir.ir.errors import AnyIRError, InvalidData, MissingPackage, UsageError
from anyir.ir.graph import Module
from anyir.ir.types import F32, U8, TensorType

Image = pytest.importorskip("PIL.Image")
RNG = np.random.default_rng(0)


def module(*shape: int, dtype: Any = F32) -> Module:
    made = Module("m")
    graph = made.add_graph("main")
    x = graph.add_input(TensorType(dtype, (sym("N"), *shape)), "image")
    graph.set_outputs([Builder(graph).identity(x)])
    made.add_signature("serving_default", graph, ["image"], ["y"])
    return made


def pixels(height: int, width: int, channels: int = 3) -> np.ndarray:
    made = RNG.integers(0, 256, (height, width, channels)).astype(np.uint8)
    return made if channels > 1 else made[..., 0]


def only(data: Any, size: int = 8) -> np.ndarray:
    return np.concatenate([feeds["image"] for feeds in data.batches(size)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of two images each, one of them grey, one a palette, one 16 bits deep; and a file that is none."""
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
    Image.fromarray(pixels(40, 60)).save(tmp_path / "cat" / "b.png")
    Image.fromarray(pixels(50, 40)).convert("P").save(tmp_path / "cat" / "a.bmp")
    Image.fromarray(pixels(33, 47, 1)).save(tmp_path / "dog" / "x.webp", lossless=True)
    Image.fromarray((RNG.integers(0, 1 << 16, (45, 41))).astype(np.uint16)).save(tmp_path / "dog" / "y.png")
    (tmp_path / "README.txt").write_text("two classes")
    return tmp_path


# Text.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("resize=224,crop=224,scale=1/128,shift=-127/128",
         Preprocess(resize=224, crop=224, scale=1 / 128, shift=-127 / 128)),
        ("resize=256x320, filter=bicubic ,color=gray", Preprocess(resize=(256, 320), filter="bicubic", color="grey")),
        ("scale=1/255,mean=[0.485, 0.456,0.406],std=[0.229,0.224,0.225],layout=nhwc",
         Preprocess(scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), layout="nhwc")),
        ("", Preprocess()),
        ("interpolation=nearest,crop=32x100", Preprocess(filter="nearest", crop=(32, 100))),
    ],
)  # fmt: skip
def test_text_is_read_and_printed_back(text: str, expected: Preprocess) -> None:
    assert parse_preprocess(text) == expected
    assert parse_preprocess(str(expected)) == expected


def test_recipes_say_the_same() -> None:
    given = {"resize": 256, "crop": [224, 200], "scale": "1/255", "mean": [0.5, 0.25, 0], "std": 2, "color": "RGB"}
    assert parse_preprocess(given) == parse_preprocess(
        "resize=256,crop=224x200,scale=1/255,mean=[0.5,0.25,0],std=2,color=rgb"
    )
    assert parse_preprocess(None) is None


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("rezise=224", "preprocess has no 'rezise'"),
        ("resize", "cannot read 'resize'"),
        ("resize=2.5", "resize is '2.5'"),
        ("resize=0", "at least 1 pixel"),
        ("resize=2x3x4", "resize is '2x3x4'"),
        ("scale=1/0", "scale is '1/0'"),
        ("scale=nan", "scale is 'nan'"),
        ("mean=[1,b]", "mean is 'b'"),
        ("std=[1,0,1]", "std is 0"),
        ("layout=nwhc", "layout 'nwhc' is unknown"),
        ("filter=sinc", "filter 'sinc' is unknown"),
        ("scale=1,scale=2", "scale is given twice"),
        ("crop=3,,resize=4", "cannot read"),
    ],
)
def test_bad_text_is_refused(text: str, pattern: str) -> None:
    with pytest.raises(UsageError, match=pattern):
        parse_preprocess(text)


@pytest.mark.parametrize(
    "given", [{"resize": True}, {"scale": True}, {"mean": []}, {"filter": 3}, {"resize": [1.5, 2]}]
)
def test_bad_recipes_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        parse_preprocess(given)


# Pixels.


def test_classification_recipe_step_by_step(folder: Path) -> None:
    """Each image against Pillow and the formula, written out."""
    how = "resize=32,crop=28,scale=1/255,mean=[0.485,0.456,0.406],std=[0.229,0.224,0.225]"
    data = open_data(folder, module(3, 28, 28), preprocess=how)
    sizes = {"cat/a.bmp": (32, 40), "cat/b.png": (48, 32), "dog/x.webp": (45, 32), "dog/y.png": (32, 35)}
    expected = []
    for name, size in sizes.items():
        image = Image.open(folder / name)
        if name == "dog/y.png":
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        image = image.convert("RGB").resize(size, Image.Resampling.BILINEAR)
        left, top = round((size[0] - 28) / 2), round((size[1] - 28) / 2)
        x = np.asarray(image, np.float64)[top : top + 28, left : left + 28] / 255
        expected.append(((x - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).transpose(2, 0, 1))
    np.testing.assert_allclose(only(data), np.stack(expected), rtol=1e-6, atol=1e-6)
    assert data.classes == ("cat", "dog")
    assert data.labels.tolist() == [0, 0, 1, 1]


def test_layout_and_channels_follow_the_model(folder: Path) -> None:
    first = only(open_data(folder, module(3, 28, 28), preprocess="resize=28x28"))
    last = only(open_data(folder, module(28, 28, 3), preprocess="resize=28x28"))
    np.testing.assert_array_equal(first.transpose(0, 2, 3, 1), last)
    grey = only(open_data(folder, module(1, 28, 28), preprocess="resize=28x28,filter=bicubic"))
    expected = Image.open(folder / "cat" / "b.png").convert("L").resize((28, 28), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(grey[1, 0], np.asarray(expected, np.float32))
    turned = only(open_data(folder, module(3, 28, 28), preprocess="resize=28x28,color=bgr"))
    np.testing.assert_array_equal(turned, first[:, ::-1])
    whole = only(open_data(folder, module(3, 28, 28, dtype=U8), preprocess="resize=28x28"))
    np.testing.assert_array_equal(whole, first)


@pytest.mark.parametrize(
    ("size", "resize", "expected"),
    [((50, 61), 37, (37, 45)), ((61, 50), 37, (45, 37)), ((37, 90), 37, (37, 90)), ((20, 10), (7, 9), (7, 9))],
)
def test_short_side_and_whole_sizes(size: tuple[int, int], resize: Any, expected: tuple[int, int]) -> None:
    """Height and width; the long side is int(short * long / short of the image)."""
    image = Image.fromarray(pixels(*size))
    made = Preprocess(resize=resize).image(image, layout="nhwc", channels=3)
    assert made.shape == (*expected, 3)
    plain = image.resize(expected[::-1], Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(made, np.asarray(plain, np.float32))


def test_arrays_are_scaled_and_turned_only_when_it_is_said() -> None:
    x = RNG.integers(0, 256, (5, 28, 28)).astype(np.uint8)
    scaled = x[:, None] / 255
    for shape in ((5, 28, 28), (5, 1, 28, 28)):
        made = only(open_data(x.reshape(shape), module(1, 28, 28), preprocess="scale=1/255"))
        np.testing.assert_array_equal(made, scaled.astype(np.float32))
    turned = only(open_data(x[..., None], module(1, 28, 28), preprocess="scale=1/255,layout=nchw"))
    np.testing.assert_array_equal(turned, scaled.astype(np.float32))
    with pytest.raises(InvalidData, match=r"\[28, 28, 1\], the model wants f32\[N, 1, 28, 28\]"):
        only(open_data(x[..., None], module(1, 28, 28), preprocess="scale=1/255"))
    small = only(open_data(np.repeat(x[..., None], 3, -1), module(3, 14, 14), preprocess="resize=14"))
    expected = np.asarray(Image.fromarray(x[0]).resize((14, 14), Image.Resampling.BILINEAR), np.float32)
    np.testing.assert_array_equal(small[0, 1], expected)
    colours = np.arange(2 * 3 * 4 * 4, dtype=np.float32).reshape(2, 3, 4, 4)
    made = only(open_data(colours, module(3, 4, 4), preprocess="mean=[1,2,3],std=[1,1,2]"))
    np.testing.assert_allclose(made[:, 2], (colours[:, 2] - 3) / 2)


# What cannot be done.


def test_bad_images_are_named(folder: Path) -> None:
    how = "resize=28x28"
    (folder / "cat" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    (folder / "dog" / "z.jpg").write_bytes(b"")
    with pytest.raises(InvalidData) as caught:
        open_data(folder, module(3, 28, 28), preprocess=how)
    assert "0.png: no readable image" in str(caught.value) and "z.jpg: no readable image" in str(caught.value)
    (folder / "cat" / "0.png").write_bytes((folder / "cat" / "b.png").read_bytes()[:-900])
    with pytest.raises(InvalidData, match=r"0\.png: no readable image"):
        open_data(folder, module(3, 28, 28), preprocess=how)


def test_bombs_are_not_decoded(folder: Path) -> None:
    """A PNG of a hundred bytes that declares more pixels than are decoded."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 1 << 14, (MOST_PIXELS >> 14) + 1, 8, 0, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    (folder / "cat" / "0.png").write_bytes(bomb)
    with pytest.raises(InvalidData, match="pixels is too large"):
        open_data(folder, module(3, 28, 28), preprocess="resize=28x28")


def test_misfits_are_said(folder: Path) -> None:
    for shape, how, pattern in (
        ((3, 28, 28), None, r"b.bmp|a.bmp.*\[3, 50, 40\], the model wants"),
        ((3, 28, 28), "crop=60", "50x40 cannot be cropped to 60x60"),
        ((4, 28, 28), "resize=28x28", "image files feed one input of shape"),
        ((28,), "resize=28x28", "image files feed one input of shape"),
        ((3, 28, 3), "resize=28x28", "say layout=nchw or layout=nhwc"),
        ((3, 28, 28), "resize=28x28,mean=[1,2]", "2 numbers for 3 channels"),
    ):
        with pytest.raises(AnyIRError, match=pattern):
            open_data(folder, module(*shape), preprocess=how)
    with pytest.raises(UsageError, match="do not fit an input of uint8"):
        open_data(folder, module(3, 28, 28, dtype=U8), preprocess="resize=28x28,scale=1/255")
    with pytest.raises(InvalidData, match="no image that can be resized"):
        open_data(np.zeros((2, 3, 9, 9), np.float32), module(3, 28, 28), preprocess="resize=28")
    np.save(folder / "x.npy", np.zeros(3))
    with pytest.raises(InvalidData, match=r"images beside \.npy files"):
        open_data(folder, module(3, 28, 28))


def test_without_pillow(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingPackage, match="images need Pillow") as caught:
        open_data(folder, module(3, 28, 28), preprocess="resize=28x28")
    assert (caught.value.code, caught.value.hint) == ("D001", 'pip install "anyir[image]"')
