"""Writes modules as ONNX files of opset 13 and later. `onnx` is imported when called.

write(module, "net.onnx")
write(module, "net.onnx", opset=17, external_data=True)
proto = to_model_proto(module)
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnx import ModelProto

    from ...ir.graph import Module
    from .legalization import Offender

FORMAT = "onnx"
SUFFIXES = (".onnx",)


def write(
    module: Module,
    path: str | os.PathLike,
    *,
    opset: int | None = None,
    quant_form: str = "qdq",
    raise_opset: bool = False,
    ort: bool = False,
    external_data: bool | None = None,
    signature: str | None = None,
    protect: Iterable[str | os.PathLike] = (),
    **_: Any,
) -> list[str]:
    """Write `module` (left unchanged) and return the files written, the model last.

    `quant_form` says how quantised layers are spelled: qdq, qoperator or matmulnbits (see quant_forms.py). `raise_opset`
    writes the lowest opset, from the model's own on, at which the file has the fewest nodes; `ort` fuses into operators of
    com.microsoft (see ort_forms.py): such a file runs in onnxruntime only.
    `external_data` True puts weights into `<name>.data` beside the model, False forbids it, None does it above 2 GiB.
    `protect` are files that must not be overwritten; those that the module maps are protected anyway. Raises Unsupported,
    UsageError, LimitExceeded, SystemFailure; on an error nothing is written.
    """
    from .legalization import legalize
    from .writer import write_legal

    made = legalize(module, opset=opset, quant_form=quant_form, raise_opset=raise_opset, ort=ort)
    return write_legal(made, path, external_data, signature, protect)


def to_model_proto(
    module: Module,
    *,
    opset: int | None = None,
    quant_form: str = "qdq",
    raise_opset: bool = False,
    ort: bool = False,
    signature: str | None = None,
) -> ModelProto:
    """The module as a ModelProto with its weights inside. Raises Unsupported, LimitExceeded."""
    from .legalization import legalize
    from .writer import proto_of_legal

    made = legalize(module, opset=opset, quant_form=quant_form, raise_opset=raise_opset, ort=ort)
    return proto_of_legal(made, signature)


def check_options(**options: Any) -> None:
    """Raises UsageError for options of `write` that cannot be met by any module."""
    from .legalization import check_options as check

    check(**options)


#: The options of `write` that decide which operators are written.
FORM = ("opset", "quant_form", "raise_opset", "ort")


def legalize(module: Module, **options: Any) -> Module:
    """A clone of ONNX operators only; see `legalization.legalize`."""
    from .legalization import legalize as run

    return run(module, **{key: options[key] for key in FORM if key in options})


def offenders(module: Module, **options: Any) -> list[Offender]:
    """Every node that cannot be written, with reasons; empty when all can."""
    from .legalization import offenders as run

    return run(module, **{key: options[key] for key in FORM if key in options})


def support(name: str) -> str:
    """How the op `name` is written: direct, decomposed, or - when there is no way."""
    from .legalization import support as run

    return run(name)


__all__ = ["FORMAT", "SUFFIXES", "legalize", "offenders", "support", "to_model_proto", "write"]
