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


def config_of(name, **values):
    """An edit of the config of layer `name`; a value of None takes the entry out."""

    def edit(config):
        held = entry(config, name)["config"]
        held.update(values)
        for key in [key for key, value in values.items() if value is None]:
            del held[key]

    return edit


def entry_of(name, **values):
    return lambda config: entry(config, name).update(values)


def model_of(**values):
    return lambda config: config["config"].update(values)


def history(name, *source):
    """An edit that makes the input of layer `name` come from `source`."""

    def edit(config):
        entry(config, name)["inbound_nodes"][0]["args"][0]["config"]["keras_history"] = list(source)

    return edit


SYSTEM = {"module": "os", "class_name": "function", "config": "system"}
LOOKUP = {"class_name": "StringLookup", "config": {"name": "act", "vocabulary": "/etc/passwd"}}
EDITS = {
    "lambda": (entry_of("act", class_name="Lambda"), "never run"),
    "lambda-activation": (config_of("first", activation={"class_name": "__lambda__", "config": {}}), "custom"),
    "custom-class": (entry_of("act", module="os", class_name="system", registered_name="evil>system"), "custom code"),
    "unknown-layer": (entry_of("act", class_name="Actiwation"), "not supported"),
    "callable-activation": (config_of("first", activation=SYSTEM), "custom"),
    "unknown-activation": (config_of("first", activation="os.system"), "unknown"),
    "vocabulary-path": (entry_of("act", **LOOKUP), "not supported"),
    "units-negative": (config_of("first", units=-3), "units"),
    "units-text": (config_of("first", units="3"), "units"),
    "units-huge": (config_of("first", units=2**62), "units"),
    "units-other": (config_of("first", units=5), "shape"),
    "units-missing": (config_of("first", units=None), "units"),
    "input-shape": (config_of("x", batch_shape=[None, 5]), "shape"),
    "input-shape-text": (config_of("x", batch_shape=["a"]), "shape"),
    "input-shape-negative": (config_of("x", batch_shape=[None, -4]), "shape"),
    "input-dtype": (config_of("x", dtype="float33"), "dtype"),
    "no-layers": (model_of(layers=[]), ""),
    "layers-of-null": (model_of(layers=[None]), ""),
    "ghost": (history("act", "ghost", 0, 0), "does not exist"),
    "ghost-call": (history("act", "first", 7, 0), "which has 1"),
    "ghost-result": (history("act", "first", 0, 9), "result 9"),
    "ring": (history("first", "second", 0, 0), "ring"),
    "self-ring": (history("act", "act", 0, 0), "ring"),
    "no-outputs": (model_of(output_layers=[]), "no outputs"),
    "outputs-text": (model_of(output_layers="second"), ""),
    "input-is-a-layer": (model_of(input_layers=["first", 0, 0]), "not an InputLayer"),
    "twice-the-same-name": (lambda c: c["config"]["layers"].append(dict(entry(c, "act"))), "two layers"),
    "args-text": (entry_of("act", inbound_nodes=[{"args": "x", "kwargs": {}}]), ""),
    "terminal-escapes": (entry_of("act", class_name="\x1b[31mred"), "red"),
    "custom-model": (lambda c: c.update(class_name="MyModel", registered_name="mine>MyModel"), "custom code"),
}


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


def attribute(path, key, value):
    """An edit of an attribute; None takes it out."""

    def edit(file):
        if value is None:
            del file[path].attrs[key]
        else:
            file[path].attrs[key] = value

    return edit


def unallocated_h5(file):
    del file[FIRST]
    file.create_dataset(FIRST, shape=(1 << 18, 1 << 18), dtype="f4")


FIRST = "model_weights/first/first/kernel"
H5 = {
    "no-config": attribute("/", "model_config", None),
    "config-number": attribute("/", "model_config", 3.0),
    "config-garbage": attribute("/", "model_config", "{]"),
    "lambda": set_config(entry_of("act", class_name="Lambda")),
    "no-weights": deleted("model_weights"),
    "layer-names-do-not-fit": attribute("model_weights", "layer_names", [b"a", b"b"]),
    "weight-names-do-not-fit": attribute("model_weights/first", "weight_names", [b"first/kernel", b"first/ghost"]),
    "weights-swapped": attribute("model_weights/first", "weight_names", [b"first/bias", b"first/kernel"]),
    "weight-names-missing": attribute("model_weights/first", "weight_names", None),
    "external-link": linked(FIRST, h5py.ExternalLink("other.h5", "/x")),
    "declares-2^36": unallocated_h5,
    "strings": replaced(FIRST, np.array([[b"a"] * 3] * 4)),
    "keras-1": attribute("/", "keras_version", "1.2.2"),
}


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


VALUES = [
    None,
    True,
    -1,
    0,
    2,
    2**40,
    2**70,
    0.5,
    "",
    "x",
    "relu",
    [],
    [1, 2],
    [[1]],
    {},
    {"class_name": "Dense"},
    ["x", 0, 0],
]


def places(value, path=()):
    """Paths to everything inside nested JSON."""
    if path:
        yield path
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*path, key))


def test_mutated_configs_never_escape(parts, tmp_path):
    """Any part of the config replaced by something else: read, or refused with one of our errors."""
    rng = np.random.default_rng(11)
    for _ in range(300):

        def edit(config):
            found = list(places(config))
            path = found[int(rng.integers(len(found)))]
            holder = config
            for key in path[:-1]:
                holder = holder[key]
            holder[path[-1]] = VALUES[int(rng.integers(len(VALUES)))]

        (tmp_path / "mutated.keras").write_bytes(with_config(parts, edit))
        try:
            read(tmp_path / "mutated.keras")
        except AnyIRError as error:
            assert not isinstance(error, InternalError), error


def test_custom_layer_with_weights_is_called_custom(parts, tmp_path):
    edit = entry_of("first", module="mine", class_name="Mine", registered_name="mine>Mine")
    assert "custom code" in refused(with_config(parts, edit), tmp_path, errors=Unsupported)


def test_absent_and_folder(tmp_path):
    with pytest.raises(SystemFailure):
        read(tmp_path / "absent.keras")
    with pytest.raises(InvalidModel):
        read(tmp_path)
