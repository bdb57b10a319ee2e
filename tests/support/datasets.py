"""Labelled data and photos for compression: MNIST-5k, crops of twenty ImageNet photos, rendered words.

All arrays come out the same on every call. The files are those of models.py, read through its cache.
"""

from __future__ import annotations

import gzip
import re
from functools import cache
from typing import NamedTuple

import numpy as np

from .models import MODELS, model_path

PIXELS = 224
PHOTOS = tuple(name for name in MODELS if name.startswith("imagenet-"))


class Digits(NamedTuple):
    """Images as rows of 784 float32 in 0..1 and their labels: 4,000 to train or calibrate, 1,000 to test."""

    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


@cache
def mnist5k() -> Digits:
    """MNIST-5k, 500 images of each digit, split once with a fixed seed."""
    text = gzip.decompress(model_path("mnist-5k").read_bytes()).decode()
    table = np.array([row.split(",") for row in text.split()], np.float32)
    order = np.random.default_rng(0).permutation(len(table))
    x, y = table[order, :-1] / np.float32(255), table[order, -1].astype(np.int64)
    return Digits(x[:4000], y[:4000], x[4000:], y[4000:])


@cache
def imagenet_crops(fold: int, per_photo: int = 25, seed: int = 0) -> np.ndarray:
    """Seeded random crops [10 * per_photo, 3, 224, 224], (x - 127) / 128, of the even (fold 0) or odd (fold 1) photos."""
    rng = np.random.default_rng((seed, fold))
    crops = [_crop(name, rng) for name in PHOTOS[fold::2] for _ in range(per_photo)]
    return np.stack(crops)


@cache
def imagenet_photos() -> tuple[np.ndarray, np.ndarray]:
    """Centre crops (.875 of the short side) of all twenty photos, [20, 3, 224, 224], and their classes."""
    from PIL import Image

    images, labels = [], []
    for name in PHOTOS:
        photo = Image.open(model_path(name)).convert("RGB")
        side = round(min(photo.size) * 0.875)
        left, top = (photo.width - side) // 2, (photo.height - side) // 2
        images.append(_pixels(photo.crop((left, top, left + side, top + side))))
        labels.append(int(re.search(r"_(\d+)\.jpg$", MODELS[name].path).group(1)))
    return np.stack(images), np.array(labels)


def _crop(name: str, rng: np.random.Generator) -> np.ndarray:
    """A square of half to all of the short side, anywhere in the photo."""
    photo = _photo(name)
    side = int(min(photo.size) * rng.uniform(0.5, 1))
    left, top = int(rng.integers(photo.width - side + 1)), int(rng.integers(photo.height - side + 1))
    return _pixels(photo.crop((left, top, left + side, top + side)))


@cache
def _photo(name: str):
    from PIL import Image

    return Image.open(model_path(name)).convert("RGB")


def _pixels(image) -> np.ndarray:
    from PIL import Image

    square = np.asarray(image.resize((PIXELS, PIXELS), Image.Resampling.BICUBIC), np.float32)
    return np.ascontiguousarray((square.transpose(2, 0, 1) - 127) / 128)


def ocr_words(count: int, seed: int = 0) -> tuple[np.ndarray, list[str]]:
    """Words of Python's own manual rendered as PP-OCR's recogniser takes them: [count, 3, 48, 320] in -1..1, and the words."""
    from pydoc_data import topics

    from PIL import Image, ImageDraw, ImageFont

    known = sorted(set(re.findall(r"\b[a-z]{4,11}\b", " ".join(topics.topics.values()))))
    words = [str(w) for w in np.random.default_rng(seed).choice(known, count, replace=False)]
    font = ImageFont.load_default(size=34)
    images = np.zeros((count, 3, 48, 320), np.float32)
    for image, word in zip(images, words, strict=True):
        width = min(int(font.getlength(word)) + 16, 320)
        canvas = Image.new("L", (width, 48), 255)
        ImageDraw.Draw(canvas).text((8, 24), word, fill=0, font=font, anchor="lm")
        image[:, :, :width] = np.asarray(canvas, np.float32) / 127.5 - 1
    return images, words
