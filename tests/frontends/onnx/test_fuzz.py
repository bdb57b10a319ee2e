"""Mutated models of the backend suite: each is refused with our own error, or read into a module that verifies, that runs
within a budget or is refused, and that the passes and the writer take or refuse. One field of a message is changed at a
time, so that most mutants get past the parser."""

from __future__ import annotations

import functools
import random
from typing import Any

import onnx
import pytest
from anyir.backends import onnx as backend
from anyir.frontends.onnx import read
from anyir.ir.errors import AnyIRError, InternalError
from anyir.ir.graph import Module
from anyir.ir.parser import parse_module
from anyir.ir.verify import verify
from anyir.kernels import budget
from anyir.kernels.inputs import sample_inputs
from anyir.kernels.run import run
from anyir.passes.manager import run_pipeline
from anyir.passes.presets import preset
from anyir.tests.support import onnx_suite as suite
from anyir.tests.support.onnx_files import everything

INTS = (0, 1, -1, 2, 3, 7, -2, 99, 1 << 31, -(1 << 31), 1 << 40, (1 << 63) - 1, -(1 << 63), 1 << 62)
FLOATS = (0.0, -1.0, float("nan"), float("inf"), 1e30, -0.0, 1e-40)
BYTES = (b"", b"\0" * 3, b"\xff" * 8, b"NONE")


def leaves(model: Any) -> list[tuple[Any, Any]]:
    """(message, field) for every field that is set, in a fixed order."""
    found, stack = [], [model]
    while stack:
        message = stack.pop()
        for field, value in message.ListFields():
            repeated = field.is_repeated
            if field.message_type is None or repeated:
                found.append((message, field))
            if field.message_type is not None:
                stack.extend(value if repeated else [value])
    return found


def drawn(field: Any, names: list[str], rng: random.Random) -> Any:
    """A value that the field's type can hold."""
    kind = field.cpp_type
    if kind == field.CPPTYPE_STRING:
        return rng.choice(BYTES if field.type == field.TYPE_BYTES else names)
    if kind == field.CPPTYPE_ENUM:
        return rng.choice([v.number for v in field.enum_type.values])
    if kind in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
        return rng.choice(FLOATS)
    bits = 31 if kind == field.CPPTYPE_INT32 else 63
    return rng.choice([v for v in INTS if -(1 << bits) <= v < 1 << bits])


def mutate(model: Any, rng: random.Random) -> None:
    """Change, remove or repeat one thing."""
    fields = leaves(model)
    texts = [getattr(m, f.name) for m, f in fields if f.cpp_type == f.CPPTYPE_STRING and f.type != f.TYPE_BYTES]
    names = ["", "zz", "N", *(t for text in texts for t in ([text] if isinstance(text, str) else text))][:60]
    message, field = rng.choice(fields)
    if not field.is_repeated:
        if rng.random() < 0.15:
            message.ClearField(field.name)
        else:
            setattr(message, field.name, drawn(field, names, rng))
        return
    items = getattr(message, field.name)
    index, action = rng.randrange(len(items)), rng.random()
    if action < 0.3:
        del items[index]
    elif field.message_type is not None:
        items.add().CopyFrom(items[index])
    elif action < 0.7:
        items[index] = drawn(field, names, rng)
    else:
        items.append(drawn(field, names, rng))


@functools.cache
def seeds() -> list[Any]:
    return [case.load() for case in suite.cases().values() if case.load().ByteSize() < 20_000]


def survives(seed: int) -> None:
    rng = random.Random(seed)
    model = onnx.ModelProto()
    model.CopyFrom(rng.choice(seeds()))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        mutate(model, rng)
    for step in STEPS[: 1 if seed % 4 else len(STEPS)]:
        try:
            module = read(model)  # verifies
            step(module)
        except AnyIRError as error:
            assert not isinstance(error, InternalError), f"seed {seed}: {error}"


def executed(module: Module) -> None:
    with budget.spending(budget.Budget(work=10**9, nbytes=1 << 26)):
        run(module, sample_inputs(module))


def optimised(module: Module) -> None:
    run_pipeline(module, preset(2))
    verify(module)


STEPS = (backend.to_model_proto, executed, optimised)


@pytest.mark.parametrize("block", range(4))
def test_mutants(block: int) -> None:
    for seed in range(block * 300, (block + 1) * 300):
        survives(seed)


#: Mutants that once came to more than an error of ours: a crash, minutes, or gigabytes.
FOUND = (105284, 115138, 125812, 158259, 159996, 180871, 198790, 224374, 342084, 350767, 376938)


@pytest.mark.parametrize("seed", FOUND)
def test_mutants_that_were_too_much_once(seed: int) -> None:
    survives(seed)


@pytest.mark.slow
def test_many_mutants() -> None:
    for seed in range(10_000, 30_000):
        survives(seed)


def whole(seed: int, files: list[Any]) -> None:
    """Read in one of the four ways, through text, and written, twice: the same each time."""
    rng = random.Random(seed)
    model = onnx.ModelProto()
    model.CopyFrom(rng.choice(files))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        mutate(model, rng)
    ways = {"functions": rng.choice(("keep", "inline")), "defaults": rng.choice(("keep", "fix"))}
    try:
        module = read(model, **ways)
        assert parse_module(str(module)) == module
        first = backend.to_model_proto(module).SerializeToString(deterministic=True)
        assert backend.to_model_proto(read(first)).SerializeToString(deterministic=True) == first, f"seed {seed}"
    except AnyIRError as error:
        assert not isinstance(error, InternalError), f"seed {seed}: {error}"


def test_mutants_of_files_with_everything_in_them() -> None:
    files = everything()
    for seed in range(400):
        whole(seed, files)


@pytest.mark.slow
def test_many_mutants_of_files_with_everything_in_them() -> None:
    files = everything()
    for seed in range(1000, 9000):
        whole(seed, files)
