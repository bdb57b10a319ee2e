"""Outputs in `.npz`: odd names, sequences, strings, dtypes; and nothing that unpacks elsewhere."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
from anyir.driver.npz import flat, gathered, read_inputs, write_outputs
from anyir.ir.graph import Module
from anyir.ir.types import F32, OptionalType, SequenceType, TensorType


def test_names_and_dtypes_come_back(tmp_path: Path) -> None:
    arrays = {
        "file": np.arange(3),
        "a/b:0": np.zeros((2, 0), np.float16),
        "\u6a21": np.array(True),
        "allow_pickle": np.float32(1.5),
    }
    with open(tmp_path / "out.npz", "wb") as file:
        assert write_outputs(file, flat(arrays)) == {}
    found = read_inputs(tmp_path / "out.npz")
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == np.asarray(array).dtype


def test_sequences_and_strings() -> None:
    made = flat({"s": [np.zeros(2), np.zeros(3)], "t": np.array([b"ab", b"c"], object)})
    assert list(made) == ["s[0]", "s[1]", "t"]
    assert made["t"].dtype == np.dtype("S2")
    assert flat({"t": np.array(["é", b"\xff"], object), "o": None})["t"].tolist() == ["é".encode(), b"\xff"]
    assert list(flat({"o": None})) == []


def test_members_that_are_sequences_and_optionals() -> None:
    module = Module()
    graph = module.add_graph("main")
    sequence = SequenceType(TensorType(F32))
    types = {
        "s": sequence,
        "e": sequence,
        "o": OptionalType(sequence),
        "p": OptionalType(TensorType(F32)),
        "x": TensorType(F32),
    }
    for name, type_ in types.items():
        graph.add_input(type_, name)
    graph.set_outputs([])
    signature = module.add_signature("main", graph, list(types), [])
    a, b = np.zeros(2, np.float32), np.zeros(3, np.float32)
    found = gathered(signature, {"s[0]": a, "x": b, "s[1]": b, "s[3]": a})
    assert [len(x) for x in found["s"]] == [2, 3]
    assert found["e"] == [] and found["o"] is None and found["p"] is None and set(found) == {*types, "s[3]"}
    assert [len(x) for x in gathered(signature, {"o[0]": a, "x": b})["o"]] == [2]


def test_no_member_leads_out_of_the_folder() -> None:
    names = ("../../evil", "/etc/evil", "a/../../b", "..\\evil", "", "line\n")
    file = io.BytesIO()
    replaced = write_outputs(file, {name: np.zeros(1) for name in names})
    assert list(replaced) == list(names)
    assert zipfile.ZipFile(file).namelist() == [f"output_{i}.npy" for i in range(len(names))]
