"""Trained networks in int8, in every runtime: answers kept, every product in integers, a quarter of the bytes.

pytest tests/compress/test_models.py -m slow -s     prints the figures with their 95% intervals
"""

from __future__ import annotations

from pathlib import Path

import pytest
from anyir.tests.support.compress_metrics import CASES
from anyir.tests.support.int8_files import Made, float_products, judged, quantised

#: Bytes of integers and their parameters over those of floats; of whole files above a megabyte too.
MOST_BYTES, WHOLE_FILES_FROM = 0.27, 1 << 20
#: Below this, scales and biases (one per channel each) are no small part: there the matrices alone are judged.
SMALL = 256 << 10

FAST = ("digits-cnn",)
#: The three smallest networks also go to the targets whose runtimes take long.
SMALLEST = ("digits-mlp", "digits-cnn", "mtcnn-pnet")

ROUTES = [
    pytest.param(name, target, id=f"{name}-{target}", marks=() if name in FAST else pytest.mark.slow)
    for name in CASES
    for target in ("onnx", "tflite")
]
OTHERS = [pytest.param(name, target, id=f"{name}-{target}") for name in SMALLEST for target in ("mindir", "torch")]
RUNTIMES = {"onnx": "onnxruntime", "tflite": "ai_edge_litert", "mindir": "mindspore", "torch": "torch"}


def check(name: str, target: str, folder: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip(RUNTIMES[target])
    made = quantised(name, target, folder)
    told = judged(made)
    print(f"\n{name} as {target}: weights {100 * made.weights:.1f}%, file {100 * made.file:.2f}% of float")
    print(f"  {len(made.layers)} layers, {made.seconds:.0f} CPU s", *told, sep="; ")
    assert made.verified
    assert [row for row in made.layers if not row[1].startswith("int8")] == []
    check_sizes(made)
    if target in ("onnx", "tflite"):
        assert float_products(made) == []
    for one in told:
        assert one.holds, str(one)


def check_sizes(made: Made) -> None:
    assert made.matrices == 0.25
    if made.source_bytes >= SMALL:
        assert made.weights <= MOST_BYTES
    if made.source_bytes >= WHOLE_FILES_FROM:
        assert made.file <= MOST_BYTES


@pytest.mark.parametrize(("name", "target"), ROUTES)
def test_int8_keeps_the_answers(name: str, target: str, tmp_path: Path) -> None:
    check(name, target, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "target"), OTHERS)
def test_the_same_as_mindir_and_pytorch(name: str, target: str, tmp_path: Path) -> None:
    check(name, target, tmp_path)
