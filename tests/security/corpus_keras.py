"""Hostile `.keras` and `.h5` files: archives, configs, weights."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from typing import Any

import h5py
import numpy as np
from anyir.tests.security import seeds
from anyir.tests.security.corpus import bytes_case
from anyir.tests.security.seeds import BIAS, H5_KERNEL, KERNEL, packed

Edit = Callable[[Any], object]


def members(**changed: bytes | None) -> bytes:
    """The good archive with members replaced (underscores for dots), or left out where None."""
    made = seeds.members_of(seeds.keras_file())
    names = {"metadata": "metadata.json", "config": "config.json", "weights": "model.weights.h5"}
    for key, data in changed.items():
        if data is None:
            del made[names[key]]
        else:
            made[names.get(key, key)] = data
    return packed(made)


def layer(config: dict[str, Any], name: str) -> dict[str, Any]:
    return next(entry for entry in config["config"]["layers"] if entry["name"] == name)


def configured(edit: Edit) -> bytes:
    config = seeds.keras_config()
    edit(config)
    return members(config=json.dumps(config).encode())


def h5_edited(data: bytes, edit: Edit) -> bytes:
    made = io.BytesIO(data)
    with h5py.File(made, "r+") as file:
        edit(file)
    return made.getvalue()


# --------------------------------------------------------------------------------------------------- archives


def _inflating() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("metadata.json", b"{}")
        with archive.open("config.json", "w", force_zip64=True) as member:
            for _ in range(10):
                member.write(b" " * (1 << 24))
    return made.getvalue()


def _slip() -> bytes:
    made = seeds.members_of(seeds.keras_file())
    return packed({**made, "../../outside/written": b"x", "/etc/cron.d/x": b"x"})


for _name, _make in {
    "not a zip": lambda: b"this is no archive" * 10,
    "empty": lambda: b"",
    "empty zip": lambda: b"PK\x05\x06" + bytes(18),
    "truncated": lambda: seeds.keras_file()[: len(seeds.keras_file()) // 2],
    "no config": lambda: members(config=None),
    "no weights": lambda: members(weights=None),
    "config is no JSON": lambda: members(config=b"{not json"),
    "config is a list": lambda: members(config=b"[]"),
    "NaN in the config": lambda: members(config=b'{"class_name": NaN}'),
    "1e999 in the config": lambda: members(config=b'{"class_name": 1e999}'),
    "JSON 100000 deep": lambda: members(config=b"[" * 100_000 + b"]" * 100_000),
    "objects 100000 deep": lambda: members(config=b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "duplicate keys": lambda: members(config=b'{"class_name": "A", "class_name": "B"}'),
    "config not UTF-8": lambda: members(config=b'{"class_name": "\xff\xfe"}'),
    "config that inflates a thousandfold": _inflating,
    "weights that are no HDF5": lambda: members(weights=b"PK\x03\x04" * 50),
}.items():
    bytes_case("keras", _name, ".keras", _make)
bytes_case("keras", "zip slip", ".keras", _slip, "either")
bytes_case("keras", "the good one", ".keras", seeds.keras_file, "ok")

# ---------------------------------------------------------------------------------------------------- configs

PAYLOAD = {"module": "os", "class_name": "system", "config": {"command": "touch CANARY"}, "registered_name": None}
LAMBDA = {"class_name": "__lambda__", "config": {"value": "4wEAAAAA", "defaults": None, "closure": None}}


def _set(name: str, **config: Any) -> Edit:
    return lambda c: layer(c, name)["config"].update(config)


def _entry(name: str, **fields: Any) -> Edit:
    return lambda c: layer(c, name).update(fields)


CONFIGS: dict[str, Edit] = {
    "Lambda": _entry("act", class_name="Lambda", config={"name": "act", "function": LAMBDA}),
    "activation is a Lambda": _set("act", activation=LAMBDA),
    "a Python callable for a layer": _entry("act", **PAYLOAD),
    "a Python callable for an activation": _set("first", activation=PAYLOAD),
    "a Python callable for an initializer only": _set("first", kernel_initializer=PAYLOAD, units=-1),
    "a dotted function": _set("first", activation="os.system"),
    "unknown layer": _entry("act", class_name="Densse"),
    "a layer of another module": _entry("act", module="my.package", class_name="Custom", registered_name="my>Custom"),
    "unknown model class": lambda c: c.update(class_name="Pickled"),
    "units -3": _set("first", units=-3),
    "units 2^40": _set("first", units=1 << 40),
    "units a string": _set("first", units="3"),
    "units 3.5": _set("first", units=3.5),
    "unknown activation": _set("first", activation="reluu"),
    "shape with text": _set("x", batch_shape=[None, "4"]),
    "shape negative": _set("x", batch_shape=[None, -4]),
    "shape that does not fit the weights": _set("x", batch_shape=[None, 5]),
    "no input shape": lambda c: layer(c, "x")["config"].pop("batch_shape"),
    "vocabulary path outside": _entry(
        "act", class_name="StringLookup", config={"name": "act", "vocabulary": "../../outside/secret.bin"}
    ),
    "ring of layers": lambda c: layer(c, "first").update(inbound_nodes=[seeds._tensor([None, 3], "act")]),
    "ghost inbound node": lambda c: layer(c, "act").update(inbound_nodes=[seeds._tensor([None, 3], "ghost")]),
    "inbound node of another call": lambda c: layer(c, "act")["inbound_nodes"][0]["args"][0]["config"].update(
        keras_history=["first", 7, 0]
    ),
    "two layers of one name": lambda c: c["config"]["layers"].append(layer(c, "act")),
    "no layers": lambda c: c["config"].update(layers=[]),
    "ghost output": lambda c: c["config"].update(output_layers=[["ghost", 0, 0]]),
    "layers is a dict": lambda c: c["config"].update(layers={}),
    "escapes in a name": _entry("act", class_name="\x1b[31mEvil\u202e\n"),
}
for _name, _edit in CONFIGS.items():
    bytes_case("keras", _name, ".keras", lambda edit=_edit: configured(edit))

# ---------------------------------------------------------------------------------------------------- weights


def _replaced(path: str, data: Any, **options: Any) -> Edit:
    def edit(file: h5py.File) -> None:
        del file[path]
        file.create_dataset(path, data=data, **options)

    return edit


def _linked(path: str, link: Any) -> Edit:
    def edit(file: h5py.File) -> None:
        del file[path]
        file[path] = link

    return edit


def _declares(path: str) -> Edit:
    def edit(file: h5py.File) -> None:
        del file[path]
        file.create_dataset(path, shape=(1 << 18, 1 << 18), dtype="f4", chunks=(1 << 10, 1 << 10))

    return edit


WEIGHTS: dict[str, Edit] = {
    "weights of the wrong shape": _replaced(KERNEL, np.zeros((3, 4), "f4")),
    "weights of the wrong rank": _replaced(KERNEL, np.zeros(12, "f4")),
    "weights of strings": _replaced(KERNEL, np.array([[b"a"] * 3] * 4)),
    "complex weights": _replaced(KERNEL, np.zeros((4, 3), "c8")),
    "compound weights": _replaced(KERNEL, np.zeros((4, 3), [("a", "f4"), ("b", "i4")])),
    "a weight missing": lambda f: f.__delitem__(BIAS),
    "an external link": _linked(KERNEL, h5py.ExternalLink("../outside/secret.bin", "/x")),
    "a soft link": _linked(KERNEL, h5py.SoftLink("/layers/dense_1/vars/0")),
    "a weight that declares 2^36 floats": _declares(KERNEL),
    "a group for a weight": lambda f: (f.__delitem__(KERNEL), f.create_group(KERNEL)),
}
for _name, _edit in WEIGHTS.items():
    bytes_case("keras", _name, ".keras", lambda edit=_edit: members(weights=h5_edited(seeds.weights_h5(), edit)))


def _external_storage(path: str) -> Edit:
    def edit(file: h5py.File) -> None:
        del file[path]
        file.create_dataset(path, shape=(4, 3), dtype="f4", external=[("../outside/secret.bin", 0, 48)])

    return edit


def _attribute(path: str, key: str, value: Any) -> Edit:
    def edit(file: h5py.File) -> None:
        if value is None:
            del file[path].attrs[key]
        else:
            file[path].attrs[key] = value

    return edit


def _h5_config(change: Edit) -> Edit:
    def edit(file: h5py.File) -> None:
        config = seeds.keras_config()
        change(config)
        file.attrs["model_config"] = json.dumps(config)

    return edit


H5: dict[str, Edit] = {
    "no model_config": _attribute("/", "model_config", None),
    "model_config a number": _attribute("/", "model_config", 3.0),
    "model_config no JSON": _attribute("/", "model_config", "{]"),
    "Lambda": _h5_config(CONFIGS["Lambda"]),
    "a Python callable": _h5_config(CONFIGS["a Python callable for a layer"]),
    "external link": _linked(H5_KERNEL, h5py.ExternalLink("../outside/secret.bin", "/x")),
    "external storage": _external_storage(H5_KERNEL),
    "a weight that declares 2^36 floats": _declares(H5_KERNEL),
    "string weights": _replaced(H5_KERNEL, np.array([[b"a"] * 3] * 4)),
    "compound weights": _replaced(H5_KERNEL, np.zeros((4, 3), [("a", "f4"), ("b", "i4")])),
    "complex weights": _replaced(H5_KERNEL, np.zeros((4, 3), "c8")),
    "layer names that do not fit": _attribute("model_weights", "layer_names", [b"a", b"b"]),
    "weight names that do not fit": _attribute(
        "model_weights/first", "weight_names", [b"first/kernel", b"first/ghost"]
    ),
    "weight names with a path": _attribute(
        "model_weights/first", "weight_names", [b"/model_weights/second/second/kernel", b"../x"]
    ),
    "no weights": lambda f: f.__delitem__("model_weights"),
}
for _name, _edit in H5.items():
    bytes_case("h5", _name, ".h5", lambda edit=_edit: h5_edited(seeds.h5_file(), edit))
bytes_case("h5", "garbage behind the magic", ".h5", lambda: b"\x89HDF\r\n\x1a\n" + b"\x55" * 500)
bytes_case("h5", "truncated", ".h5", lambda: seeds.h5_file()[: len(seeds.h5_file()) // 2])
bytes_case("h5", "the good one", ".h5", seeds.h5_file, "ok")
