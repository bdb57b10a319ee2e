"""Broken and malicious Keras files: each ends in one of our errors, names the place, and runs nothing."""

from __future__ import annotations

import io
import json
import os
import zipfile

os.environ.setdefault("KERAS_BACKEND", "torch")

import numpy as np
import pytest

from anyir.frontends.keras import read
from anyir.ir.errors import AnyIRError, InternalError, InvalidModel, LimitExceeded, SystemFailure, Unsupported

keras = pytest.importorskip("keras")
h5py = pytest.importorskip("h5py")
REFUSED = (InvalidModel, Unsupported, LimitExceeded)


@pytest.fixture(scope="module")
def parts():
    """A good archive, taken apart: two dense layers and an activation."""
    keras.utils.clear_session()
    x = keras.Input((4,), name="x")
    y = keras.layers.Dense(3, activation="relu", name="first")(x)
    model = keras.Model(x, keras.layers.Dense(2, name="second")(keras.layers.Activation("tanh", name="act")(y)))
    folder = io.BytesIO()
    path = os.path.join(os.environ.get("TMPDIR", "/tmp"), f"anyir-hostile-{os.getpid()}")
    model.save(path + ".keras")
    model.save(path + ".h5")
    with open(path + ".h5", "rb") as file:
        h5 = file.read()
    with zipfile.ZipFile(path + ".keras") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with open(path + ".keras", "rb") as file:
        folder.write(file.read())
    for suffix in (".keras", ".h5"):
        os.unlink(path + suffix)
    return {"members": members, "h5": h5, "whole": folder.getvalue()}


def packed(members, compression=zipfile.ZIP_STORED):
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return made.getvalue()


def refused(data, tmp_path, suffix=".keras", errors=REFUSED, match=None):
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(data)
    with pytest.raises(errors, match=match) as caught:
        read(path)
    text = str(caught.value)
    assert len(text) < 8192 and "\x1b" not in text and "Traceback" not in text
    return text


def with_config(parts, edit):
    config = json.loads(parts["members"]["config.json"])
    edited = edit(config)
    return packed({**parts["members"], "config.json": json.dumps(config if edited is None else edited).encode()})


def entry(config, name):
    return next(e for e in config["config"]["layers"] if e["name"] == name)


def test_the_good_file_is_read(parts, tmp_path):
    (tmp_path / "good.keras").write_bytes(packed(parts["members"]))
    assert read(tmp_path / "good.keras").signature.output_names() == ["second"]


def test_containers(parts, tmp_path):
    refused(b"", tmp_path)
    refused(b"PK\x03\x04 nothing more", tmp_path)
    refused(b"not a zip at all", tmp_path, match="neither")
    for cut in range(1, len(parts["whole"]), len(parts["whole"]) // 40):
        refused(parts["whole"][:cut], tmp_path)
    for missing in parts["members"]:
        refused(packed({k: v for k, v in parts["members"].items() if k != missing}), tmp_path, match=missing)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"class_name": NaN}',
        b'{"a": 1e999}',
        b'{"a": Infinity}',
        b"\xff\xfe{}",
        b'{"a": 1, "a": 2}',
    ],
)
def test_bad_json(parts, tmp_path, text):
    refused(packed({**parts["members"], "config.json": text}), tmp_path)


def test_deep_and_inflating_json(parts, tmp_path):
    refused(packed({**parts["members"], "config.json": b"[" * 100_000}), tmp_path, errors=LimitExceeded, match="nested")
    bomb = packed({**parts["members"], "config.json": b" " * (200 << 20)}, zipfile.ZIP_DEFLATED)
    refused(bomb, tmp_path, errors=LimitExceeded)


def test_zip_slip_member_is_harmless(parts, tmp_path):
    refused(packed({**parts["members"], "../evil": b"x"}), tmp_path)
    assert not (tmp_path.parent / "evil").exists()


EDITS = {
    "lambda": (lambda c: entry(c, "act").update(class_name="Lambda"), "never run"),
    "lambda-function": (lambda c: entry(c, "first")["config"].update(activation={"class_name": "__lambda__", "config": {"value": "AA"}}), "custom"),
    "custom-class": (lambda c: entry(c, "act").update(module="os", class_name="system", registered_name="evil>system"), "custom code"),
    "unknown-layer": (lambda c: entry(c, "act").update(class_name="Actiwation"), "not supported"),
    "callable-activation": (lambda c: entry(c, "first")["config"].update(activation={"module": "os", "class_name": "function", "config": "system"}), "custom"),
    "unknown-activation": (lambda c: entry(c, "first")["config"].update(activation="os.system"), "unknown"),
    "vocabulary-path": (lambda c: entry(c, "act").update(class_name="StringLookup", config={"name": "act", "vocabulary": "/etc/passwd"}), "not supported"),
    "units-negative": (lambda c: entry(c, "first")["config"].update(units=-3), "units"),
    "units-text": (lambda c: entry(c, "first")["config"].update(units="3"), "units"),
    "units-huge": (lambda c: entry(c, "first")["config"].update(units=2**62), "units"),
    "units-other": (lambda c: entry(c, "first")["config"].update(units=5), "shape"),
    "units-missing": (lambda c: entry(c, "first")["config"].pop("units") and None, "units"),
    "input-shape": (lambda c: entry(c, "x")["config"].update(batch_shape=[None, 5]), "shape"),
    "input-shape-text": (lambda c: entry(c, "x")["config"].update(batch_shape=["a"]), "shape"),
    "input-shape-negative": (lambda c: entry(c, "x")["config"].update(batch_shape=[None, -4]), "shape"),
    "input-dtype": (lambda c: entry(c, "x")["config"].update(dtype="float33"), "dtype"),
    "no-layers": (lambda c: c["config"].update(layers=[]), ""),
    "layers-of-null": (lambda c: c["config"].update(layers=[None]), ""),
    "ghost": (lambda c: entry(c, "act")["inbound_nodes"][0]["args"][0]["config"].update(keras_history=["ghost", 0, 0]), "does not exist"),
    "ghost-call": (lambda c: entry(c, "act")["inbound_nodes"][0]["args"][0]["config"].update(keras_history=["first", 7, 0]), "which has 1"),
    "ghost-result": (lambda c: entry(c, "act")["inbound_nodes"][0]["args"][0]["config"].update(keras_history=["first", 0, 9]), "result 9"),
    "ring": (lambda c: entry(c, "first")["inbound_nodes"][0]["args"][0]["config"].update(keras_history=["second", 0, 0]), "ring"),
    "self-ring": (lambda c: entry(c, "act")["inbound_nodes"][0]["args"][0]["config"].update(keras_history=["act", 0, 0]), "ring"),
    "no-outputs": (lambda c: c["config"].update(output_layers=[]), "no outputs"),
    "outputs-text": (lambda c: c["config"].update(output_layers="second"), ""),
    "input-is-a-layer": (lambda c: c["config"].update(input_layers=["first", 0, 0]), "not an InputLayer"),
    "twice-the-same-name": (lambda c: c["config"]["layers"].append(dict(entry(c, "act"))), "two layers"),
    "args-text": (lambda c: entry(c, "act").update(inbound_nodes=[{"args": "x", "kwargs": {}}]), ""),
    "terminal-escapes": (lambda c: entry(c, "act").update(class_name="\x1b[31mred"), "red"),
    "custom-model": (lambda c: c.update(class_name="MyModel", registered_name="mine>MyModel"), "custom code"),
}  # fmt: skip


@pytest.mark.parametrize("name", EDITS)
def test_edited_config(parts, tmp_path, name):
    edit, words = EDITS[name]
    assert words in refused(with_config(parts, lambda c: edit(c) and None), tmp_path)


def test_all_offenders_are_named(parts, tmp_path):
    def edit(config):
        entry(config, "act").update(class_name="Lambda")
        entry(config, "first").update(class_name="Dance")

    text = refused(with_config(parts, edit), tmp_path, errors=Unsupported)
    assert "'first'" in text and "live model" in text


def edited_weights(parts, edit):
    made = io.BytesIO(parts["members"]["model.weights.h5"])
    with h5py.File(made, "r+") as file:
        edit(file)
    return packed({**parts["members"], "model.weights.h5": made.getvalue()})


def replaced(path, data, **options):
    def edit(file):
        del file[path]
        file.create_dataset(path, data=data, **options)

    return edit


def deleted(path):
    def edit(file):
        del file[path]

    return edit


def linked(path, link):
    def edit(file):
        del file[path]
        file[path] = link

    return edit


def unallocated(file):
    del file["layers/dense/vars/0"]
    file.create_dataset("layers/dense/vars/0", shape=(1 << 18, 1 << 18), dtype="f4")


KERNEL = "layers/dense/vars/0"
WEIGHTS = {
    "wrong-shape": replaced(KERNEL, np.zeros((3, 4), "f4")),
    "strings": replaced(KERNEL, np.array([[b"a"] * 3] * 4)),
    "compound": replaced(KERNEL, np.zeros((4, 3), [("a", "f4"), ("b", "i4")])),
    "complex": replaced(KERNEL, np.zeros((4, 3), "c8")),
    "missing-variable": deleted(KERNEL),
    "missing-layer": deleted("layers/dense"),
    "missing-all": deleted("layers"),
    "one-more": replaced("layers/dense/vars/1", np.zeros((3, 1), "f4")),
    "external-link": linked(KERNEL, h5py.ExternalLink("/etc/passwd", "/x")),
    "soft-link": linked(KERNEL, h5py.SoftLink("/layers/dense_1/vars/0")),
    "declares-2^36": unallocated,
    "group-for-array": lambda f: (f.__delitem__(KERNEL), f.create_group(KERNEL)),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_edited_weights(parts, tmp_path, name):
    refused(edited_weights(parts, WEIGHTS[name]), tmp_path)


def h5_edited(parts, edit):
    made = io.BytesIO(parts["h5"])
    with h5py.File(made, "r+") as file:
        edit(file)
    return made.getvalue()


def set_config(change):
    def edit(file):
        config = json.loads(file.attrs["model_config"])
        change(config)
        file.attrs["model_config"] = json.dumps(config)

    return edit


H5 = {
    "no-config": lambda f: f.attrs.__delitem__("model_config"),
    "config-number": lambda f: f.attrs.__setitem__("model_config", 3.0),
    "config-garbage": lambda f: f.attrs.__setitem__("model_config", "{]"),
    "lambda": set_config(lambda c: entry(c, "act").update(class_name="Lambda")),
    "no-weights": deleted("model_weights"),
    "layer-names-do-not-fit": lambda f: f["model_weights"].attrs.__setitem__("layer_names", [b"a", b"b"]),
    "weight-names-do-not-fit": lambda f: f["model_weights/first"].attrs.__setitem__("weight_names", [b"first/kernel", b"first/ghost"]),
    "weights-swapped": lambda f: f["model_weights/first"].attrs.__setitem__("weight_names", [b"first/bias", b"first/kernel"]),
    "weight-names-missing": lambda f: f["model_weights/first"].attrs.__delitem__("weight_names"),
    "external-link": linked("model_weights/first/first/kernel", h5py.ExternalLink("other.h5", "/x")),
    "declares-2^36": lambda f: (f.__delitem__("model_weights/first/first/kernel"),
                                f.create_dataset("model_weights/first/first/kernel", shape=(1 << 18, 1 << 18), dtype="f4")),
    "strings": replaced("model_weights/first/first/kernel", np.array([[b"a"] * 3] * 4)),
    "keras-1": lambda f: f.attrs.__setitem__("keras_version", "1.2.2"),
}  # fmt: skip


@pytest.mark.parametrize("name", H5)
def test_edited_h5(parts, tmp_path, name):
    refused(h5_edited(parts, H5[name]), tmp_path, ".h5")


def test_h5_containers(parts, tmp_path):
    data = parts["h5"]
    refused(b"\x89HDF\r\n\x1a\n" + b"\x55" * 500, tmp_path, ".h5")
    for cut in range(8, len(data), len(data) // 40):
        refused(data[:cut], tmp_path, ".h5")


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_flipped_bits_never_escape(parts, tmp_path, suffix):
    """Any outcome but a foreign exception: read, or refused with one of our errors."""
    data = parts["h5"] if suffix == ".h5" else packed(parts["members"])
    rng = np.random.default_rng(5)
    path = tmp_path / f"flipped{suffix}"
    for _ in range(300):
        broken = bytearray(data)
        for _ in range(int(rng.integers(1, 6))):
            broken[int(rng.integers(len(broken)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(broken))
        try:
            read(path)
        except AnyIRError as error:
            assert not isinstance(error, InternalError), error


def test_absent_and_folder(tmp_path):
    with pytest.raises(SystemFailure):
        read(tmp_path / "absent.keras")
    with pytest.raises(InvalidModel):
        read(tmp_path)
