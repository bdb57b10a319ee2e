"""The Keras frontend: `.keras`, `.h5` and `.hdf5` files without Keras or TensorFlow, and live Keras models.

    module = read("model.keras")

Files are data: classes are looked up in our own tables (`registry`), never imported. Data keep the order of axes that
the user sees (channels last by default); spatial layers stand between transposes, which the optimiser cancels.
"""

from .reader import read, read_file

__all__ = ["read", "read_file"]
