"""From a legalised module to a file: the record in memory, weights streamed, everything in place at once or nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from ...formats import mindir
from ...ir.graph import Module
from .emit import Emission

#: Names the writer in the file; part of the format's required fields.
WRITER_VERSION = "1"


def write_legal(
    module: Module,
    path: str | os.PathLike,
    external_data: bool | None,
    protect: Iterable[str | os.PathLike],
    quantisation: Mapping[str, dict[str, Any]],
) -> list[str]:
    """Write what `legalize_quantised` made; returns the files, the model last."""
    emission = Emission(module, module.signature, WRITER_VERSION)
    record = emission.build()
    limit = {None: mindir.EXTERNAL_LIMIT, True: -1, False: mindir.NEVER}[external_data]
    guarded = [*protect, *(file.path for file in module.files)]
    named = {emission.by_weight[value]: quantisation.get(value.weight.key) for value in emission.by_weight}
    notes = {name: note for name, note in named.items() if note is not None}
    written = mindir.write(path, record, emission.parameters, protect=guarded, external_limit=limit, quantisation=notes)
    return written[::-1]
