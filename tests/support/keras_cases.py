"""Small Keras models, one or a few per layer family: what the Keras frontend is compared with Keras itself on.

Each case is a function that builds a model (imported by tests only after Keras chose its backend). Weights are made
random by `randomized`, so that no zero bias or unit scale hides a mistake.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

CASES: dict[str, Callable[[], Any]] = {}


def case(name: str) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    def register(fn: Callable[[], Any]) -> Callable[[], Any]:
        assert name not in CASES, name
        CASES[name] = fn
        return fn

    return register


def randomized(model: Any, seed: int = 0) -> Any:
    """Every weight drawn anew; variances stay positive, kernels small enough to keep values near one."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        shape = tuple(weight.shape)
        fan = max(int(np.prod(shape[:-1])), 1)
        value = rng.normal(size=shape) * (0.5 if len(shape) < 2 else 1.0 / np.sqrt(fan))
        if "variance" in weight.name or weight.name in ("gamma", "scale"):
            value = rng.uniform(0.5, 1.5, size=shape)
        weight.assign(value.astype("float32"))
    return model


def sample_inputs(model: Any, batch: int, seed: int = 1) -> list[np.ndarray]:
    """One array per model input; open sizes become 7, integers stay below 10 and begin with non-zero tokens."""
    rng = np.random.default_rng(seed)
    made = []
    for tensor in model.inputs:
        shape = [batch, *(7 if d is None else d for d in tensor.shape[1:])]
        if str(tensor.dtype).startswith(("int", "uint")):
            made.append(rng.integers(0, 10, size=shape).astype(tensor.dtype))
        elif tensor.dtype == "bool":
            made.append((rng.random(shape) < 0.7) | (np.arange(shape[-1]) == 0))  # no row is masked as a whole
        else:
            made.append(rng.normal(size=shape).astype(tensor.dtype))
    return made


def _chain(shape: tuple, *layers: Any, dtype: str = "float32") -> Any:
    import keras

    x = y = keras.Input(shape, dtype=dtype)
    for layer in layers:
        y = layer(y)
    return keras.Model(x, y)


def _single(name: str, shape: tuple, make: Callable[[Any], Any], dtype: str = "float32") -> None:
    """A case of one layer, `make(keras.layers)`, on an input of `shape`."""

    def build() -> Any:
        import keras

        made = make(keras.layers)
        return _chain(shape, *(made if isinstance(made, list) else [made]), dtype=dtype)

    case(name)(build)


IMG, SEQ, VEC, VOL = (8, 9, 4), (10, 6), (6,), (5, 6, 7, 2)
_single(
    "dense",
    VEC,
    lambda L: [L.Dense(5, activation="relu"), L.Dense(3, use_bias=False), L.Dense(2, activation="softmax")],
)
_single("dense-rank3", SEQ, lambda L: L.Dense(4, activation="gelu"))
_single(
    "einsum-dense",
    SEQ,
    lambda L: [
        L.EinsumDense("abc,cd->abd", output_shape=(None, 5), bias_axes="d"),
        L.EinsumDense("abc,cde->abde", output_shape=(None, 2, 3), bias_axes="de", activation="tanh"),
    ],
)
_single("embedding", (7,), lambda L: [L.Embedding(10, 4), L.Flatten(), L.Dense(3)], dtype="int32")
_single("reshapes", IMG, lambda L: [L.Reshape((-1, 8)), L.Permute((2, 1)), L.Flatten(), L.RepeatVector(3)])
_single("open-flatten", (None, 4), lambda L: [L.Dense(3), L.GlobalMaxPooling1D(), L.RepeatVector(2), L.Flatten()])

_ACTIVATIONS = """relu relu6 sigmoid tanh softplus softsign selu elu gelu silu mish hard_sigmoid hard_silu exponential
leaky_relu log_softmax softmax celu hard_tanh hard_shrink soft_shrink tanh_shrink squareplus sparse_plus sparse_sigmoid
log_sigmoid linear glu"""
for _name in _ACTIVATIONS.split():
    _single(f"activation-{_name}", VEC, lambda L, n=_name: L.Activation(n))
_single(
    "activation-layers",
    IMG,
    lambda L: [
        L.LeakyReLU(0.2),
        L.PReLU(shared_axes=[1, 2]),
        L.ELU(0.7),
        L.ReLU(max_value=1.5, negative_slope=0.1, threshold=0.2),
        L.ReLU(6.0),
        L.PReLU(),
    ],
)
_single("softmax-axes", IMG, lambda L: [L.Softmax(axis=1), L.Softmax(axis=(1, 2))])
_single("activation-layer-as-argument", VEC, lambda L: L.Dense(4, activation=L.LeakyReLU(0.1)))

for _padding in ("valid", "same"):
    _single(f"conv1d-{_padding}", SEQ, lambda L, p=_padding: L.Conv1D(5, 3, strides=2, padding=p, activation="relu"))
    _single(f"conv2d-{_padding}", IMG, lambda L, p=_padding: L.Conv2D(6, (3, 2), strides=(2, 1), padding=p))
    _single(
        f"conv2d-dilated-{_padding}", IMG, lambda L, p=_padding: L.Conv2D(6, 3, dilation_rate=2, padding=p, groups=2)
    )
    _single(f"conv3d-{_padding}", VOL, lambda L, p=_padding: L.Conv3D(3, 2, strides=2, padding=p, use_bias=False))
    _single(
        f"depthwise-{_padding}",
        IMG,
        lambda L, p=_padding: L.DepthwiseConv2D(3, strides=2, padding=p, depth_multiplier=2),
    )
    _single(f"depthwise1d-{_padding}", SEQ, lambda L, p=_padding: L.DepthwiseConv1D(3, padding=p))
    _single(
        f"separable-{_padding}",
        IMG,
        lambda L, p=_padding: L.SeparableConv2D(5, 3, padding=p, depth_multiplier=2, activation="elu"),
    )
    _single(f"separable1d-{_padding}", SEQ, lambda L, p=_padding: L.SeparableConv1D(5, 3, strides=2, padding=p))
    _single(f"max-pool-{_padding}", IMG, lambda L, p=_padding: L.MaxPooling2D((3, 2), strides=2, padding=p))
    _single(f"average-pool-{_padding}", (9, 9, 4), lambda L, p=_padding: L.AveragePooling2D(3, strides=2, padding=p))
    _single(
        f"pool1d-{_padding}",
        SEQ,
        lambda L, p=_padding: [L.MaxPooling1D(2, padding=p), L.AveragePooling1D(3, strides=1, padding=p)],
    )
    _single(
        f"pool3d-{_padding}",
        VOL,
        lambda L, p=_padding: [L.MaxPooling3D(2, strides=1, padding=p), L.AveragePooling3D(3, strides=1, padding=p)],
    )
_single("conv1d-causal", SEQ, lambda L: L.Conv1D(4, 3, dilation_rate=2, padding="causal"))
_single("conv2d-softmax", IMG, lambda L: L.Conv2D(4, 1, activation="softmax"))
_single(
    "conv2d-open",
    (None, None, 3),
    lambda L: [L.Conv2D(4, 3, strides=2, padding="same"), L.MaxPooling2D(2, padding="same")],
)
_single("conv2d-transpose-valid", IMG, lambda L: L.Conv2DTranspose(3, 3, strides=2))
_single("conv2d-transpose-wide-stride", IMG, lambda L: L.Conv2DTranspose(3, 2, strides=3))
_single("conv2d-transpose-same", IMG, lambda L: L.Conv2DTranspose(3, 4, strides=2, padding="same", activation="relu"))
_single("conv2d-transpose-same-odd", IMG, lambda L: L.Conv2DTranspose(3, 3, strides=1, padding="same"))
_single("conv1d-transpose", SEQ, lambda L: L.Conv1DTranspose(3, 4, strides=2, padding="same"))
_single("conv3d-transpose", (3, 4, 3, 2), lambda L: L.Conv3DTranspose(3, 2, strides=2, padding="valid"))
_single("global-pools", IMG, lambda L: [L.Conv2D(3, 1), L.GlobalAveragePooling2D()])
_single("global-pools-keep", IMG, lambda L: [L.GlobalMaxPooling2D(keepdims=True)])
_single("global-pools-1d", SEQ, lambda L: [L.GlobalAveragePooling1D()])
_single("global-pools-3d", VOL, lambda L: [L.GlobalAveragePooling3D(keepdims=True), L.GlobalMaxPooling3D()])
_single("adaptive-pools", IMG, lambda L: [L.AdaptiveAveragePooling2D((3, 4)), L.AdaptiveMaxPooling2D(2)])

_single(
    "batch-norm",
    IMG,
    lambda L: [L.BatchNormalization(), L.BatchNormalization(scale=False), L.BatchNormalization(center=False)],
)
_single("batch-norm-axis1", IMG, lambda L: [L.BatchNormalization(axis=1)])
_single("batch-norm-vector", VEC, lambda L: [L.BatchNormalization(epsilon=0.01)])
_single(
    "layer-norm",
    IMG,
    lambda L: [L.LayerNormalization(), L.LayerNormalization(axis=(2, 3)), L.LayerNormalization(center=False)],
)
_single("group-norm", IMG, lambda L: [L.GroupNormalization(2), L.GroupNormalization(-1, scale=False)])
_single("group-norm-vector", VEC, lambda L: [L.GroupNormalization(3)])
_single("rms-norm", SEQ, lambda L: [L.RMSNormalization()])
_single("unit-norm", SEQ, lambda L: [L.UnitNormalization(), L.UnitNormalization(axis=1)])
_single(
    "spectral-norm", IMG, lambda L: [L.SpectralNormalization(L.Conv2D(3, 3)), L.SpectralNormalization(L.Conv2D(2, 1))]
)

_single("padding-cropping", IMG, lambda L: [L.ZeroPadding2D(((1, 2), (0, 3))), L.Cropping2D(((1, 0), (2, 1)))])
_single("padding-cropping-1d", SEQ, lambda L: [L.ZeroPadding1D((2, 1)), L.Cropping1D((0, 2))])
_single("padding-cropping-3d", VOL, lambda L: [L.ZeroPadding3D(1), L.Cropping3D(((1, 1), (0, 1), (1, 0)))])
_single("upsampling", IMG, lambda L: [L.UpSampling2D((2, 3)), L.UpSampling2D(2, interpolation="bilinear")])
_single("upsampling-1d-3d", VOL, lambda L: [L.UpSampling3D((1, 2, 2)), L.Reshape((-1, 4)), L.UpSampling1D(3)])
_single(
    "preprocessing",
    IMG,
    lambda L: [
        L.Rescaling(1 / 127.5, offset=-1.0),
        L.Resizing(6, 5),
        L.CenterCrop(4, 3),
        L.Normalization(mean=[0.1, 0.2, 0.3, 0.4], variance=[1.0, 2.0, 0.5, 1.5]),
    ],
)
_single("resizing-nearest", IMG, lambda L: [L.Resizing(13, 4, interpolation="nearest")])
_single("category-encoding", (5,), lambda L: [L.CategoryEncoding(10, output_mode="multi_hot")], dtype="int32")
_single(
    "discretization", VEC, lambda L: [L.Discretization([-0.5, 0.1, 0.7]), L.CategoryEncoding(4, output_mode="count")]
)
_single(
    "regularization",
    IMG,
    lambda L: [
        L.Dropout(0.5),
        L.SpatialDropout2D(0.2),
        L.GaussianNoise(0.1),
        L.GaussianDropout(0.1),
        L.AlphaDropout(0.1),
        L.ActivityRegularization(0.1),
        L.Identity(),
        L.Dense(2),
    ],
)

for _cell in ("LSTM", "GRU", "SimpleRNN"):
    _single(f"{_cell}", SEQ, lambda L, c=_cell: getattr(L, c)(5))
    _single(
        f"{_cell}-sequences",
        SEQ,
        lambda L, c=_cell: [getattr(L, c)(5, return_sequences=True, go_backwards=True, use_bias=False)],
    )
    _single(
        f"{_cell}-bidirectional",
        SEQ,
        lambda L, c=_cell: [
            L.Bidirectional(getattr(L, c)(4, return_sequences=True)),
            L.Bidirectional(getattr(L, c)(3), merge_mode="sum"),
        ],
    )
_single("gru-reset-before", SEQ, lambda L: L.GRU(5, reset_after=False))
_single("lstm-activations", SEQ, lambda L: L.LSTM(5, activation="relu", recurrent_activation="hard_sigmoid"))
_single(
    "rnn-cells",
    SEQ,
    lambda L: [
        L.RNN(L.LSTMCell(4), return_sequences=True),
        L.RNN([L.GRUCell(5), L.LSTMCell(3), L.LSTMCell(2)], return_sequences=True),
        L.RNN(L.SimpleRNNCell(2)),
    ],
)
_single("lstm-open", (None, 3), lambda L: [L.LSTM(4, return_sequences=True), L.TimeDistributed(L.Dense(2))])
_single(
    "time-distributed",
    (3, *IMG),
    lambda L: [
        L.TimeDistributed(L.Conv2D(2, 3, padding="same")),
        L.TimeDistributed(L.Flatten()),
        L.TimeDistributed(L.Dense(3)),
    ],
)


def _merge(name: str, make: Callable[[Any], Any], shapes: tuple = (SEQ, SEQ)) -> None:
    def build() -> Any:
        import keras

        xs = [keras.Input(shape) for shape in shapes]
        return keras.Model(xs, make(keras.layers)(xs))

    case(name)(build)


for _name in ("Add", "Multiply", "Average", "Maximum", "Minimum", "Subtract"):
    _merge(f"merge-{_name.lower()}", lambda L, n=_name: getattr(L, n)())
_merge("merge-concatenate", lambda L: L.Concatenate(axis=1), (SEQ, (3, 6)))
_merge("merge-ranks", lambda L: L.Add(), (SEQ, VEC))
_merge("dot", lambda L: L.Dot(axes=(2, 1)), (SEQ, (6, 3)))
_merge("dot-normalized", lambda L: L.Dot(axes=1, normalize=True), (VEC, VEC))
_merge("attention", lambda L: L.Attention(use_scale=True), (SEQ, (4, 6)))
_merge("attention-concat", lambda L: L.Attention(score_mode="concat"), (SEQ, (4, 6), (4, 6)))
_merge("additive-attention", lambda L: L.AdditiveAttention(), (SEQ, (4, 6)))


@case("mha")
def _mha() -> Any:
    import keras

    x, z = keras.Input(SEQ), keras.Input((4, 6))
    y = keras.layers.MultiHeadAttention(2, 3)(x, x, use_causal_mask=True)
    w, scores = keras.layers.MultiHeadAttention(3, 4, value_dim=5, output_shape=7)(y, z, return_attention_scores=True)
    return keras.Model([x, z], [y, w, scores])


@case("mha-variants")
def _mha_variants() -> Any:
    import keras

    L = keras.layers
    x, z, mask = keras.Input(SEQ), keras.Input((4, 6)), keras.Input((10, 4), dtype="bool")
    gated = L.MultiHeadAttention(2, 3, use_gate=True)(x, z, attention_mask=mask)
    window = L.MultiHeadAttention(2, 3, sliding_window=3)(x, x, use_causal_mask=True)
    grouped = L.GroupQueryAttention(4, 6, 2)(x, z, key=z)
    causal = L.GroupQueryAttention(4, 6, 1, use_bias=False)(x, x, use_causal_mask=True)
    return keras.Model([x, z, mask], [gated, window, grouped, causal])


@case("masked-mha-pool")
def _masked() -> Any:
    import keras

    x = keras.Input((7,), dtype="int32")
    e = keras.layers.Embedding(10, 6, mask_zero=True)(x)
    y = keras.layers.Add()([e, keras.layers.MultiHeadAttention(2, 3)(e, e)])
    y = keras.layers.LayerNormalization()(y)
    return keras.Model(x, keras.layers.GlobalAveragePooling1D()(y))


@case("states")
def _states() -> Any:
    import keras

    x = keras.Input(SEQ)
    y, h, c = keras.layers.LSTM(4, return_state=True, return_sequences=True)(x)
    z = keras.layers.LSTM(4)(x, initial_state=[h, c])
    b = keras.layers.Bidirectional(keras.layers.GRU(3, return_state=True), merge_mode=None)(x)
    return keras.Model(x, [y, z, h, c, *b])


@case("residual-shared-nested")
def _nested() -> Any:
    import keras

    L = keras.layers
    inner = keras.Sequential(
        [L.Input((6,)), L.Dense(4, activation="relu"), L.BatchNormalization(), L.Dense(6)], name="inner"
    )
    a, b = keras.Input((6,), name="a"), keras.Input((6,), name="b")
    block = keras.Model([a, b], [L.Add()([a, inner(b)]), L.Dense(2, name="head")(a)], name="block")
    x, z = keras.Input((6,), name="left"), keras.Input((6,), name="right")
    shared = L.Dense(6, name="shared")
    y, h = block([shared(x), shared(z)])
    y2, h2 = block([y, L.Dense(6)(h)])
    again = keras.Sequential([L.Input((6,)), L.Dense(6, activation="tanh")], name="again")
    return keras.Model([x, z], {"sum": again(again(y2)), "heads": [h, h2], "inner": y})


@case("frozen-nested")
def _frozen() -> Any:
    import keras

    L = keras.layers
    frozen = keras.Sequential([L.Input(IMG), L.Conv2D(3, 3), L.BatchNormalization()], name="backbone")
    frozen.layers[0].trainable = False
    top = keras.Sequential([L.Dense(4), L.BatchNormalization(), L.Dense(2)], name="top")
    x = keras.Input(IMG)
    return keras.Model(x, top(L.Flatten()(frozen(x))))
