"""Core layers of Keras: dense, embedding, reshaping of the feature axes, masking, and the layers that do nothing at
inference.
"""

from __future__ import annotations

import math
from typing import Any

from ...formats.keras_config import Layer
from ...formats.keras_h5 import Slots
from ...ir import types as t
from ...ir.graph import Value
from . import quant
from .registry import layer, not_quantized, slots_of
from .scope import Scope


@layer(
    "Identity", "Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "AlphaDropout",
    "GaussianDropout", "GaussianNoise", "ActivityRegularization",
    mask="keep",
)  # fmt: skip
def identity(s: Scope, x: Any, *rest: Any, **kwargs: Any) -> Any:
    """What only acts during training is the identity at inference."""
    return x


@layer(
    "RandomFlip", "RandomRotation", "RandomZoom", "RandomTranslation", "RandomContrast", "RandomBrightness",
    "RandomCrop", "RandomShear", "RandomHue", "RandomSaturation", "RandomGrayscale", "RandomErasing",
    "RandomGaussianBlur", "RandomPosterization", "RandomSharpness", "RandomColorJitter", "RandomColorDegeneration",
    "RandomPerspective", "RandomElasticTransform", "RandomInvert", "MixUp", "CutMix", "RandAugment", "AugMix",
)  # fmt: skip
def augmentation(s: Scope, x: Value, **kwargs: Any) -> Value:
    """Augmentation is the identity at inference; cropping and colour-range casts are not, so those are refused."""
    if s.layer.class_name == "RandomCrop":
        raise s.unsupported("it crops at inference too, by a rule of its own", "use CenterCrop")
    return s.cast(x, s.dtype)


@layer("Dense", weights=quant.slots("kernel bias?use_bias", "kernel"), mask="keep")
def dense(s: Scope, x: Value) -> Value:
    """x kernel + bias over the last axis."""
    x, units = s.floating(x), s.size("units")
    _no_lora(s)
    if quant.has_integers(s.layer):
        return _biased(s, quant.product(s, x, s.shape(x)[-1], units), (units,))
    kernel = quant.in_float8(s, s.weight("kernel", (s.shape(x)[-1], units)), "kernel_scale")
    x = quant.in_float8(s, x, "inputs_scale")
    if s.rank(x) == 2:
        return s.activate(s.b.gemm(x, kernel, quant.bias(s, (units,)) if s.has("bias") else None))
    return _biased(s, s.b.matmul(x, kernel), (units,))


def _biased(s: Scope, y: Value, shape: tuple[int, ...] | None = None) -> Value:
    return s.activate(s.b.add(y, quant.bias(s, shape)) if s.has("bias") else y)


def _no_lora(s: Scope) -> None:
    if s.config.get("lora_rank"):
        raise s.unsupported("LoRA weights", "merge them in Keras first")


@layer("EinsumDense", weights=quant.slots("kernel bias?bias_axes", "kernel"))
def einsum_dense(s: Scope, x: Value) -> Value:
    """einsum(equation, x, kernel) + bias; the common `...x,xy->...y` is a plain matmul."""
    _no_lora(s)
    x, equation = s.floating(x), s.text("equation").replace(" ", "")
    if quant.has_integers(s.layer):
        return _biased(s, quant.contraction(s, x, equation))
    x, kernel = quant.in_float8(s, x, "inputs_scale"), quant.in_float8(s, s.weight("kernel"), "kernel_scale")
    left, _, right = equation.partition(",")
    taken, _, made = right.partition("->")
    plain = len(taken) == 2 and left[-1:] == taken[0] and made == left[:-1] + taken[1] and taken[1] not in left
    return _biased(s, s.b.matmul(x, kernel) if plain else s.b.einsum(x, kernel, equation=equation))


@layer("Embedding", weights=quant.slots("embeddings", "embeddings"), mask="own", autocast=False)
def embedding(s: Scope, x: Value) -> Value:
    """Rows of the table; `mask_zero` makes the mask x != 0."""
    _no_lora(s)
    rows, width = s.size("input_dim"), s.size("output_dim")
    table = quant.table(s, rows, width) if quant.has_integers(s.layer) else s.weight("embeddings", (rows, width))
    if s.flag("mask_zero"):
        s.out_masks = [s.b.not_equal(x, s.value(0, x.dtype))]
    return s.b.gather(table, _as_index(s, x), axis=0)


def _as_index(s: Scope, x: Value) -> Value:
    return x if x.dtype in (t.I32, t.I64) else s.cast(x, t.I32)


def _reversible_slots(entry: Layer) -> list[tuple[str, bool]]:
    not_quantized(entry)
    tied = entry.config.get("tie_weights", True)
    return [("embeddings", True)] + ([] if tied else [("reverse_embeddings", True)])


@layer("ReversibleEmbedding", weights=_reversible_slots, mask="own", autocast=False)
def reversible_embedding(s: Scope, x: Value, reverse: bool = False) -> Value:
    """An embedding, or with `reverse` the product with its transpose and an optional soft cap."""
    if not reverse:
        return embedding(s, x)
    tied = s.flag("tie_weights", True)
    kernel = s.weight("embeddings", perm=(1, 0)) if tied else s.weight("reverse_embeddings")
    if s.config.get("reverse_dtype") is not None:
        raise s.unsupported("reverse_dtype")
    y = s.b.matmul(s.cast(x, s.dtype), kernel)
    if s.config.get("logit_soft_cap") is None:
        return y
    cap = s.value(s.number("logit_soft_cap"), y.dtype)
    return s.b.mul(s.b.tanh(s.b.div(y, cap)), cap)


@layer("Masking", mask="own")
def masking(s: Scope, x: Value) -> Value:
    """Steps whose features all equal `mask_value` become zero and are masked."""
    there = s.b.reduce_any(s.b.not_equal(x, s.value(s.number("mask_value", 0.0), x.dtype)), (-1,), keepdims=True)
    s.out_masks = [s.b.squeeze(there, (-1,))]
    return s.b.where(there, x, s.value(0.0, x.dtype))


# ------------------------------------------------------------------------------------------------------------ reshaping


@layer("Flatten")
def flatten(s: Scope, x: Value) -> Value:
    if s.rank(x) == 1:
        return s.expand(x, 1)
    if not s.channels_last() and s.rank(x) > 2:
        x = s.to_last(x)
    shape = s.shape(x)
    return s.reshape(x, (shape[0], math.prod(shape[1:])))


@layer("Reshape")
def reshape(s: Scope, x: Value) -> Value:
    """Everything behind the batch axis into `target_shape`, of which one entry may be -1."""
    target = s.config.get("target_shape")
    if not isinstance(target, (list, tuple)):
        raise s.invalid(f"target_shape is {target!r}, expected a list")
    wanted = tuple(-1 if d in (-1, None) else s.as_size(d, "target_shape", 0) for d in target)
    if wanted.count(-1) > 1:
        raise s.invalid("target_shape leaves two sizes open")
    return s.b.reshape(x, (0, *wanted))


@layer("Permute")
def permute(s: Scope, x: Value) -> Value:
    dims = s.sizes("dims", s.rank(x) - 1)
    return s.transpose(x, (0, *dims))


@layer("RepeatVector")
def repeat_vector(s: Scope, x: Value) -> Value:
    return s.b.expand(s.expand(x, 1), (1, s.size("n"), 1))


# ------------------------------------------------------------------------------------------------------------- wrappers


def wrapped(entry: Layer, key: str = "layer") -> Layer:
    """The layer that a wrapper's config holds."""
    from ...formats.keras_config import parse_layer

    return parse_layer(entry.config.get(key), f"{entry.name}.{key}")


def _wrapped_slots(entry: Layer) -> list[tuple[str, Slots]]:
    return [("layer", slots_of(wrapped(entry)))]


@layer("TimeDistributed", children=_wrapped_slots, mask="keep")
def time_distributed(s: Scope, x: Value) -> Value:
    """The wrapped layer on every step: steps join the batch axis and come apart again."""
    if s.masks:
        raise s.unsupported("it gets a mask", "switch the mask off before it")
    shape = s.shape(x)
    folded = s.reshape(x, (-1, *shape[2:]), x) if _known(shape[2:]) else s.b.reshape(x, s.dims([-1, *shape[2:]], x))
    y = s.run(wrapped(s.layer), folded)
    made = s.shape(y)
    if _known(made[1:]) and isinstance(shape[1], int):
        return s.b.reshape(y, (-1, shape[1], *made[1:]))
    return s.b.reshape(y, s.dims([shape[0], shape[1], *made[1:]], x, y))


def _known(dims: tuple) -> bool:
    return all(isinstance(d, int) for d in dims)


@layer(
    "SpectralNormalization", weights="=kernel ~vector_u", mask="keep",
    children=lambda entry: [("layer", slots_of(wrapped(entry)))],
)  # fmt: skip
def spectral_normalization(s: Scope, x: Value) -> Value:
    """The stored kernel is the normalized one: at inference only the wrapped layer runs."""
    return s.run(wrapped(s.layer), x)


@layer("anyir.Variable", weights=lambda entry: [("", bool(entry.config.get("trainable", True)))], autocast=False)
def variable(s: Scope) -> Value:
    """A variable that an operation of a traced model uses directly."""
    return s.weight("")
