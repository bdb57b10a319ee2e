"""The formats that `irc` knows, as one table: suffixes, what their first bytes look like, and who reads, writes and
runs them. Names of modules only: nothing is imported until it is used."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from ..ir.errors import InvalidModel, MissingPackage, UsageError
from .options import near


@dataclass(frozen=True)
class Format:
    """One row. `looks_like` are the kinds that `storage.sniff` may report for it; empty parts cannot be done."""

    name: str
    suffixes: tuple[str, ...]
    looks_like: tuple[str, ...]
    frontend: str = ""
    backend: str = ""
    runtime: str = ""
    extra: str = ""

    def reader(self) -> Callable[..., Any]:
        """The function that reads a file into a Module. Raises UsageError when there is none."""
        if not self.frontend:
            raise UsageError(f"{self.name} files cannot be read")
        module, _, function = self.frontend.partition(":")
        return getattr(importlib.import_module(module, __package__), function or "read")

    def writer(self) -> ModuleType:
        """The backend module, with write, legalize and offenders. Raises UsageError when there is none."""
        if not self.backend:
            raise UsageError(
                f"{self.name} files cannot be written", hint=f"write one of: {', '.join(writable_suffixes())}"
            )
        return importlib.import_module(self.backend, __package__)

    def runner(self) -> ModuleType | None:
        """The runtime adapter, or None when the format has none."""
        return importlib.import_module(self.runtime, __package__) if self.runtime else None


FORMATS = (
    Format(
        "onnx",
        (".onnx",),
        ("protobuf", "unknown"),
        "..frontends.onnx",
        "..backends.onnx",
        "..runtimes.onnxruntime",
        "ort",
    ),
    Format("keras", (".keras",), ("zip",), "..frontends.keras", "", "..runtimes.keras", "keras"),
    Format("keras-h5", (".h5", ".hdf5"), ("hdf5",), "..frontends.keras", "", "..runtimes.keras", "keras"),
    Format("pt2", (".pt2",), ("zip",), "..frontends.torch", "..backends.torch", "..runtimes.torch", "torch"),
    Format("torch", (".py",), ("text",), "..frontends.torch", "..backends.torch", "..runtimes.torch", "torch"),
    Format(
        "tflite", (".tflite",), ("tflite",), "..frontends.tflite", "..backends.tflite", "..runtimes.litert", "tflite"
    ),
    Format(
        "mindir",
        (".mindir",),
        ("protobuf",),
        "..frontends.mindir",
        "..backends.mindir",
        "..runtimes.mindspore",
        "mindspore",
    ),
    Format("anyir", (".anyir",), ("anyir", "text"), "..ir.parser:parse_file", "..driver.text_backend"),
)

#: Formats whose inputs may have defaults; for others these become constants.
WITH_DEFAULTS = frozenset({"onnx", "anyir"})

BY_NAME = {fmt.name: fmt for fmt in FORMATS}
BY_SUFFIX = {suffix: fmt for fmt in FORMATS for suffix in fmt.suffixes}

#: Runtimes that `verify --with` and `run --with` take: name -> the format whose runtime it is.
RUNTIMES = {"onnxruntime": "onnx", "litert": "tflite", "mindspore": "mindir", "torch": "pt2", "keras": "keras"}


def writable_suffixes() -> list[str]:
    return [suffix for fmt in FORMATS if fmt.backend for suffix in fmt.suffixes]


def by_name(name: str) -> Format:
    """The format called `name`. Raises UsageError with near matches."""
    if name not in BY_NAME:
        raise UsageError(f"there is no format {name!r}", hint=near(name, list(BY_NAME)))
    return BY_NAME[name]


def of_path(path: str | os.PathLike[str], what: str = "file") -> Format:
    """The format that a file name says. Raises UsageError for an unknown suffix, with near matches."""
    suffix = Path(path).suffix.lower()
    if suffix not in BY_SUFFIX:
        raise UsageError(
            f"the suffix {suffix or '(none)'} of this {what} names no format",
            where=os.fspath(path),
            hint=near(suffix, list(BY_SUFFIX)),
        )
    return BY_SUFFIX[suffix]


def check_content(path: str | os.PathLike[str], fmt: Format) -> None:
    """Compare the first bytes with what the name says. Raises InvalidModel, naming what the file looks like."""
    from ..ir.storage import sniff

    kind = sniff(path)
    if kind not in fmt.looks_like:
        looks = "is empty" if kind == "empty" else f"looks like {_ARTICLES.get(kind, kind)}"
        raise InvalidModel(f"this file {looks}, not {fmt.name}", code="F002", where=str(path), hint=_remedy(kind))


_ARTICLES = {
    "zip": "a zip archive",
    "hdf5": "an HDF5 file",
    "tflite": "a TFLite flatbuffer",
    "protobuf": "a protobuf message",
    "text": "plain text",
    "json": "JSON",
    "pickle": "a Python pickle",
    "unknown": "unknown binary data",
}


def _remedy(kind: str) -> str:
    fitting = [suffix for fmt in FORMATS if kind in fmt.looks_like for suffix in fmt.suffixes]
    if kind == "pickle":
        return "pickles are never loaded; save the model with torch.export.save(..., 'model.pt2')"
    return f"if the content is right, name it {' or '.join(fitting)}, or say --from" if fitting else "export it again"


def need_runtime(fmt: Format) -> ModuleType:
    """The installed runtime of a format. Raises MissingPackage with the pip line."""
    runner = fmt.runner()
    if runner is None:
        raise UsageError(f"{fmt.name} has no runtime of its own; it runs on the reference kernels")
    if runner.available() is None:
        name = fmt.runtime.rpartition(".")[2]
        raise MissingPackage(f"running {fmt.name} files needs {name}", hint=f'pip install "anyir[{fmt.extra}]"')
    return runner
