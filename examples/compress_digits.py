"""Makes the example network smaller in four ways and prints what each saves and loses.

    python examples/compress_digits.py

Reads `digits.keras` and `digits_test.npz` beside itself and writes nothing. Half of the images are used to calibrate and
fit, the loss is measured on the others.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyir

HERE = Path(__file__).resolve().parent

WAYS: dict[str, dict[str, Any]] = {
    "int8": {"quantize": "int8"},
    "int4 weights": {"quantize": "int4"},
    "half of the channels": {"prune": 0.5},
    "a quarter of the channels, int8": {"prune": 0.25, "quantize": "int8"},
}


def main() -> None:
    print(f"{'':34}{'weights':>9}{'MACs':>8}{'points lost':>13}")
    for name, options in WAYS.items():
        report = anyir.compress(
            HERE / "digits.keras", data=HERE / "digits_test.npz", samples=180, layers=False, **options
        )
        done = report.result
        (before, after), (all_macs, macs) = done.weight_bytes, done.macs
        print(f"{name:34}{after / before:>9.0%}{macs / all_macs:>8.0%}{done.loss.drop:>13.1f}")


if __name__ == "__main__":
    main()
