"""How images and arrays become what a model takes: said once, stored with the module, used again when it is evaluated.

    how = parse_preprocess("resize=256,crop=224,scale=1/255,mean=[0.485,0.456,0.406],std=[0.229,0.224,0.225]")
    how.image(pillow_image, layout="nchw", channels=3)  -> f32 [3, 224, 224]
    str(how)                                            -> text that parses to the same

Steps, in this order: colour, resize, centre crop (Pillow, on pixels 0..255), then `(x * scale + shift - mean) / std` in
float64, then the layout, then one rounding to the model's dtype. Nothing is done that is not asked for, except that an image
takes the number of channels and the layout that the model's input has. Imports Pillow where an image is met, no framework.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..ir.errors import AnyIRError, InvalidData, MissingPackage, UsageError, clean

#: Where the flow keeps the text in `module.metadata`.
METADATA_KEY = "preprocess"
#: Filters by the names that Pillow gives them; all but nearest widen with the reduction (antialiasing).
FILTERS = ("bilinear", "bicubic", "nearest", "lanczos", "box", "hamming")
COLOURS = {"rgb": 3, "bgr": 3, "grey": 1}
LAYOUTS = ("nchw", "nhwc")
#: Pixels of the largest image that is decoded: four bytes each must fit in memory a few times.
MOST_PIXELS = 1 << 27


@dataclass(frozen=True)
class Preprocess:
    """`resize` is the length of the short side, or (height, width); `crop` a centred square or (height, width). `scale`,
    `shift`, `mean` and `std` are one number or one per channel. `layout` is what the model takes: it turns channels-last
    arrays when it is said; images, which are channels-last, are turned as the model's input wants it when it is not."""

    resize: int | tuple[int, int] | None = None
    filter: str = "bilinear"
    crop: int | tuple[int, int] | None = None
    color: str | None = None
    scale: float | tuple[float, ...] = 1.0
    shift: float | tuple[float, ...] = 0.0
    mean: float | tuple[float, ...] = 0.0
    std: float | tuple[float, ...] = 1.0
    layout: str | None = None

    def __post_init__(self) -> None:
        """Raises UsageError."""
        for name, value, known in (
            ("filter", self.filter, FILTERS),
            ("color", self.color, (None, *COLOURS)),
            ("layout", self.layout, (None, *LAYOUTS)),
        ):
            if value not in known:
                offered = ", ".join(str(k) for k in known if k)
                raise UsageError(f"preprocess: {name} {clean(value)!r} is unknown", hint=f"one of {offered}")
        for name in ("resize", "crop"):
            sizes = getattr(self, name)
            if sizes is not None and min(_pair(sizes)) < 1:
                raise UsageError(f"preprocess: {name} must be at least 1 pixel")
        if 0.0 in _numbers(self.std):
            raise UsageError("preprocess: std is 0")

    def __str__(self) -> str:
        parts = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                parts.append(f"{field.name}={_shown(field.name, value)}")
        return ",".join(parts)

    @property
    def cuts(self) -> bool:
        """Whether pixels are moved: only images can be resized, cropped or coloured."""
        return self.resize is not None or self.crop is not None or self.color is not None

    def image(self, image: Any, *, layout: str, channels: int | None, dtype: Any = np.float32) -> np.ndarray:
        """An opened Pillow image as an array of `dtype`, [C, H, W] or [H, W, C]. Raises InvalidData, UsageError."""
        made = self._coloured(image, channels)
        if self.resize is not None:
            made = made.resize(self._resized(made.size), getattr(_pillow().Resampling, self.filter.upper()))
        if self.crop is not None:
            made = made.crop(self._box(made.size))
        dtype, pixels = np.dtype(dtype), np.asarray(made)
        pixels = pixels.reshape(*pixels.shape[:2], -1)
        if self.color == "bgr":
            pixels = pixels[..., ::-1]
        scaled = self._scaled(pixels, -1, dtype)
        turned = scaled.transpose(2, 0, 1) if (self.layout or layout) == "nchw" else scaled
        return np.ascontiguousarray(turned)

    def array(self, array: np.ndarray, *, layout: str | None, channels: int | None, dtype: np.dtype) -> np.ndarray:
        """One sample that is an array already: as an image where pixels are to be moved (u8 [H, W] or [H, W, C]), else
        only scaled, and turned where `self.layout` is "nchw". Raises InvalidData, UsageError."""
        if self.cuts:
            return self.image(_as_image(array), layout=layout or "nhwc", channels=channels, dtype=dtype)
        if self.layout == "nchw":
            if array.ndim != 3:
                raise InvalidData(f"shape {list(array.shape)} is no channels-last image", code="F301")
            return np.ascontiguousarray(self._scaled(array, -1, dtype).transpose(2, 0, 1))
        first = layout == "nchw" and self.layout is None and array.ndim == 3
        return np.ascontiguousarray(self._scaled(array, 0 if first else -1, dtype))

    def _coloured(self, image: Any, channels: int | None) -> Any:
        wanted = self.color or {1: "grey", 3: "rgb"}.get(channels or 3)
        if wanted is None:
            raise InvalidData(f"the model takes images of {channels} channels, an image has 1 or 3", code="F301")
        if image.mode.startswith("I"):  # 16 bits: Pillow's own conversion cuts them off at 255
            deep = np.asarray(image).astype(np.int64) >> 8
            image = _pillow().fromarray(deep.clip(0, 255).astype(np.uint8))
        return image.convert("L" if wanted == "grey" else "RGB")

    def _resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) after the resize; the long side is cut to whole pixels, as torchvision does."""
        width, height = size
        if isinstance(self.resize, tuple):
            return self.resize[1], self.resize[0]
        short, long = self.resize, int(self.resize * max(size) / min(size))
        return (short, long) if width <= height else (long, short)

    def _box(self, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """Left, upper, right, lower of the centred crop; a half pixel goes to the even side, as torchvision does."""
        (height, width), (have_width, have_height) = _pair(self.crop), size
        if width > have_width or height > have_height:
            raise InvalidData(
                f"an image of {have_height}x{have_width} cannot be cropped to {height}x{width}",
                code="F301",
                hint="resize first: resize=N is the short side",
            )
        left, upper = round((have_width - width) / 2), round((have_height - height) / 2)
        return left, upper, left + width, upper + height

    def _scaled(self, x: np.ndarray, axis: int, dtype: np.dtype) -> np.ndarray:
        parts = (self.scale, self.shift, self.mean, self.std)
        if parts == (1.0, 0.0, 0.0, 1.0):
            return x.astype(dtype) if np.can_cast(x.dtype, dtype, "same_kind") else x
        if dtype.kind in "iub":
            raise UsageError(f"preprocess: scaled numbers do not fit an input of {dtype}")
        scale, shift, mean, std = (_along(part, x, axis) for part in parts)
        return ((x.astype(np.float64) * scale + shift - mean) / std).astype(dtype)


def _along(numbers: float | tuple[float, ...], x: np.ndarray, axis: int) -> Any:
    """A number, or one per channel shaped to meet `axis`."""
    if not isinstance(numbers, tuple):
        return numbers
    if x.ndim == 0 or x.shape[axis] != len(numbers):
        have = x.shape[axis] if x.ndim else 0
        raise UsageError(f"preprocess: {len(numbers)} numbers for {have} channels (sample shape {list(x.shape)})")
    shape = [1] * x.ndim
    shape[axis] = len(numbers)
    return np.asarray(numbers).reshape(shape)


def _as_image(array: np.ndarray) -> Any:
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3)):
        raise InvalidData(
            f"{array.dtype} {list(array.shape)} is no image that can be resized, cropped or coloured",
            code="F301",
            hint="u8 [height, width, 1 or 3]",
        )
    return _pillow().fromarray(array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array)


def _pillow() -> Any:
    """Pillow's Image module, or MissingPackage."""
    try:
        from PIL import Image
    except ImportError:
        raise MissingPackage("images need Pillow", hint='pip install "anyir[image]"') from None
    return Image


def decode(data: bytes, where: str) -> Any:
    """A Pillow image from the bytes of a PNG, JPEG, BMP or WebP file. The size that the header declares is checked before a
    pixel is decoded; a rotation in EXIF data is left undone. Raises InvalidData, MissingPackage."""
    import io
    import warnings

    pillow = _pillow()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = pillow.open(io.BytesIO(data), formats=("PNG", "JPEG", "BMP", "WEBP"))
            if image.width * image.height > MOST_PIXELS:
                raise InvalidData(f"an image of {image.width}x{image.height} pixels is too large", where=where)
            image.load()
            return image
    except AnyIRError:
        raise
    except Exception as error:  # whatever a decoder meets in a broken file
        raise InvalidData(f"no readable image: {clean(error)}", where=where) from None


# Text and mappings.

_PART = re.compile(r"\s*([a-z]+)\s*=\s*(\[[^\]]*\]|[^,\[\]]+?)\s*(?:,|\Z)")


def parse_preprocess(source: str | Mapping[str, Any] | Preprocess | None) -> Preprocess | None:
    """From 'resize=224,crop=224,scale=1/128,shift=-127/128', a recipe's mapping, or as it is. Raises UsageError."""
    if source is None or isinstance(source, Preprocess):
        return source
    given = _text_parts(source) if isinstance(source, str) else dict(source)
    known = {field.name: field for field in dataclasses.fields(Preprocess)}
    made: dict[str, Any] = {}
    for name, value in given.items():
        name = {"colour": "color", "interpolation": "filter"}.get(name, name)
        if name not in known:
            raise UsageError(f"preprocess has no {clean(name)!r}", hint=f"it has: {', '.join(known)}")
        if name in made:
            raise UsageError(f"preprocess: {name} is given twice")
        made[name] = _SETTERS.get(name, _word)(name, value)
    return Preprocess(**made)


def _text_parts(text: str) -> dict[str, str]:
    made: dict[str, str] = {}
    at = 0
    while at < len(text):
        found = _PART.match(text, at)
        if found is None:
            raise UsageError(
                f"preprocess: cannot read {clean(text[at:])!r}", hint="for example resize=256,crop=224,scale=1/255"
            )
        if found[1] in made:
            raise UsageError(f"preprocess: {found[1]} is given twice")
        made[found[1]] = found[2]
        at = found.end()
    return made


def _word(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise UsageError(f"preprocess: {name} is {clean(value)!r}, a word is expected")
    made = value.strip().lower()
    return "grey" if made == "gray" else made


def _size(name: str, value: Any) -> int | tuple[int, int]:
    """224, '224', '224x320', [224, 320]: height before width."""
    parts = re.split(r"[x,]", value.strip("[] ")) if isinstance(value, str) else value
    parts = [parts] if isinstance(parts, int) else parts
    try:
        sizes = tuple(int(part) for part in parts)
        exact = all(str(part).strip().isdigit() for part in parts)
    except (TypeError, ValueError):
        sizes, exact = (), False
    if not exact or len(sizes) not in (1, 2):
        raise UsageError(f"preprocess: {name} is {clean(value)!r}", hint=f"{name}=224 or {name}=224x320")
    return sizes[0] if len(sizes) == 1 else (sizes[0], sizes[1])


def _number(name: str, value: Any) -> float | tuple[float, ...]:
    """0.5, '1/255', '[0.485,0.456,0.406]', [1, 2, 3]."""
    text = isinstance(value, str)
    several = value.strip().startswith("[") if text else isinstance(value, Sequence)
    parts = value.strip("[] ").split(",") if text else value if several else [value]
    made = tuple(_one_number(name, part) for part in parts)
    if not made:
        raise UsageError(f"preprocess: {name} has no number")
    return made if several else made[0]


def _one_number(name: str, value: Any) -> float:
    try:
        if isinstance(value, bool):
            raise ValueError
        above, _, below = value.partition("/") if isinstance(value, str) else (value, "", "")
        made = float(above) / float(below) if below else float(above)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        made = math.nan
    if not math.isfinite(made):
        raise UsageError(f"preprocess: {name} is {clean(value)!r}", hint=f"a number or a fraction: {name}=1/255")
    return made


_SETTERS: dict[str, Any] = {"resize": _size, "crop": _size, **dict.fromkeys(("scale", "shift", "mean", "std"), _number)}


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return size if isinstance(size, tuple) else (size, size)


def _numbers(value: float | tuple[float, ...]) -> tuple[float, ...]:
    return value if isinstance(value, tuple) else (value,)


def _shown(name: str, value: Any) -> str:
    if isinstance(value, tuple):
        return "x".join(map(str, value)) if name in ("resize", "crop") else f"[{','.join(map(repr, value))}]"
    return value if isinstance(value, str) else repr(value)
