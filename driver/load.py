"""From whatever a user has, a path, a live model, `pkg.module:factory`, or IR text on stdin, to a Module."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from ..ir.errors import AnyIRError, InvalidModel, UsageError
from ..ir.graph import Module
from . import formats
from .options import import_module

STDIN = "-"


def load(
    source: Any,
    *,
    inputs: Any = None,
    dynamic_shapes: Any = None,
    names: Any = None,
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    bind: Mapping[str, Any] | None = None,
    format: str | None = None,
    functions: str | None = None,
    defaults: str | None = None,
) -> Module:
    """Lower a model into a Module.

    `source`: a path, an onnx.ModelProto, a Keras model, a torch.export.ExportedProgram, or a torch.nn.Module with
    example `inputs` (its batch dim is dynamic unless `dynamic_shapes` says otherwise); also `pkg.module:factory` for a
    function that returns one of these, and `-` for IR text on stdin. `names` renames inputs; `shapes` fixes or names
    dims of inputs, `bind` makes inputs constants, by name; `format` overrides the suffix. For ONNX, `functions` is "keep"
    (calls keep their bodies) or "inline", and `defaults` is "keep" (an initializer that is also an input stays one) or
    "fix". Raises an AnyIRError.
    """
    if isinstance(source, Module):
        module = source.clone() if bind or shapes else source
    elif isinstance(source, (str, os.PathLike)):
        module = _load_path(os.fspath(source), format, names, _given(functions=functions, defaults=defaults))
    elif type(source).__name__ == "ModelProto":
        from ..frontends import onnx

        module = onnx.read(source, **_given(functions=functions, defaults=defaults))
    else:
        module = _load_live(source, inputs, dynamic_shapes, names)
    if bind:
        from .bind import bind_inputs

        bind_inputs(module, bind)
    if shapes:
        from .shapes import set_shapes

        set_shapes(module, shapes)
    return module


def source_files(source: Any, module: Module) -> list[str]:
    """Every file that the input consists of: none of them may be overwritten."""
    own = [os.fspath(source)] if isinstance(source, (str, os.PathLike)) and os.path.isfile(source) else []
    return own + [file.path for file in module.files]


def _given(**options: str | None) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value is not None}


def _load_path(path: str, format: str | None, names: Any, for_onnx: dict[str, Any]) -> Module:
    if path == STDIN:
        return _load_stdin()
    if _is_factory(path):
        return load(_call_factory(path), names=names, **for_onnx)
    fmt = formats.by_name(format) if format else formats.of_path(path, "input")
    read = fmt.reader()
    formats.check_content(path, fmt)
    extra = {"names": names} if names is not None and fmt.name in ("pt2", "keras") else {}
    if fmt.name == "onnx":
        extra |= for_onnx
    try:
        module: Module = read(path, **extra)
    except AnyIRError as error:
        raise error if error.where.startswith(path) else error.at(path) from None
    module.metadata.setdefault("source.format", fmt.name)
    return module


def _load_stdin() -> Module:
    from ..ir.parser import parse_module
    from ..ir.storage import check_limit, limit

    data = sys.stdin.buffer.read(limit("file_bytes") + 1)
    check_limit("file_bytes", len(data), "size of the text", "<stdin>")
    try:
        return parse_module(data.decode("utf-8"), "<stdin>")
    except UnicodeDecodeError as error:
        raise InvalidModel(f"not UTF-8: {error.reason} at byte {error.start}", where="<stdin>") from None


def _is_factory(text: str) -> bool:
    """`pkg.module:factory`, the user's own code, named on the command line."""
    head, colon, tail = text.rpartition(":")
    named = bool(colon) and tail.isidentifier() and all(part.isidentifier() for part in head.split("."))
    return named and not os.path.exists(text)


def _call_factory(text: str) -> Any:
    head, _, tail = text.rpartition(":")
    try:
        return getattr(import_module(head), tail)()
    except (ImportError, AttributeError) as error:
        raise UsageError(str(error), where=text, hint="is its folder on PYTHONPATH?") from error
    except Exception as error:  # the user's code may raise anything
        raise UsageError(f"it raised {type(error).__name__}: {error}", where=text) from error


def _load_live(source: Any, inputs: Any, dynamic_shapes: Any, names: Any) -> Module:
    """Tell a live object by the modules of its classes, so that no framework is imported to find out."""
    if isinstance(source, tuple) and len(source) == 2:
        return _load_live(source[0], source[1], dynamic_shapes, names)
    origins = {cls.__module__.partition(".")[0] for cls in type(source).__mro__}
    if "keras" in origins:
        from ..frontends import keras

        return keras.read(source, inputs=inputs, dynamic_shapes=dynamic_shapes, names=names)
    if "torch" in origins:
        from ..frontends import torch

        return torch.read(source, inputs=inputs, dynamic_shapes=dynamic_shapes, names=names)
    raise UsageError(
        f"cannot load a {type(source).__module__}.{type(source).__name__}",
        hint="give a path, a ModelProto, a Keras model, an ExportedProgram, or an nn.Module with inputs=",
    )
