"""What the tests of the child runner run in the child."""

from __future__ import annotations

import os
import time

from anyir.ir.errors import MissingPackage


def work(request: dict, arrays: dict) -> dict:
    do = request["do"]
    if do == "abort":
        os.abort()
    if do == "exit":
        os._exit(3)
    if do == "sleep":
        time.sleep(60)
    if do == "raise":
        raise ValueError("unexpected")
    if do == "missing":
        raise MissingPackage("not here", code="D999")
    return arrays
