"""Trains the example network: a small Keras CNN on scikit-learn's digits (8 x 8 grey images, 10 classes).

    KERAS_BACKEND=torch python examples/train_digits.py

writes `digits.keras` (the trained model) and `digits_test.npz` (the test images `x` and labels `y`) beside itself.
Seeded: the same versions give the same file. Needs keras, torch and scikit-learn.
"""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

HERE = Path(__file__).resolve().parent
SEED = 7


def data() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training and test images [N, 8, 8, 1] in 0..1, and their labels."""
    digits = load_digits()
    images = (digits.images / 16.0).astype("float32")[..., None]
    labels = digits.target.astype("int64")
    x, x_test, y, y_test = train_test_split(images, labels, test_size=360, random_state=SEED, stratify=labels)
    return x, y, x_test, y_test


def network() -> keras.Model:
    """Convolution, batch normalization, a depthwise residual block, pooling, a dense softmax head."""
    image = keras.Input((8, 8, 1), name="image")
    x = layers.Conv2D(24, 3, padding="same", use_bias=False, name="stem")(image)
    x = layers.BatchNormalization(name="stem_norm")(x)
    x = layers.ReLU(name="stem_relu")(x)
    y = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="depthwise")(x)
    y = layers.BatchNormalization(name="depthwise_norm")(y)
    y = layers.ReLU(name="depthwise_relu")(y)
    y = layers.Conv2D(24, 1, name="pointwise")(y)
    x = layers.Add(name="residual")([x, y])
    x = layers.MaxPooling2D(2, name="pool")(x)
    x = layers.Conv2D(48, 3, padding="same", activation="relu", name="conv")(x)
    x = layers.AveragePooling2D(2, name="mean_pool")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dropout(0.2, name="dropout")(x)
    return keras.Model(image, layers.Dense(10, activation="softmax", name="digit")(x), name="digits")


def main() -> None:
    keras.utils.set_random_seed(SEED)
    x, y, x_test, y_test = data()
    model = network()
    model.compile(optimizer=keras.optimizers.Adam(3e-3), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, batch_size=48, epochs=12, verbose=0)
    accuracy = float((model.predict(x_test, verbose=0).argmax(axis=1) == y_test).mean())
    print(f"test accuracy {accuracy:.4f} on {len(y_test)} images")
    model.compile()
    inference = keras.Model(model.input, model.output, name="digits")
    inference.save(HERE / "digits.keras")
    np.savez_compressed(HERE / "digits_test.npz", x=x_test, y=y_test)


if __name__ == "__main__":
    main()
