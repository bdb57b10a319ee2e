"""Well-known architectures at full size with seeded random weights, exported by PyTorch: for benchmarks, where torchvision and
transformers are installed (they need no pretrained weights). Imports them only when called.

    python tests/support/exported_large.py FOLDER        makes all of them once
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: Two sizes of each dynamic dim, by the names that the files give them.
SIZES: dict[str, tuple[dict[str, int], dict[str, int]]] = {
    "torch-resnet50": ({"batch": 1}, {"batch": 2}),
    "torch-resnet50-ts": ({"batch": 1}, {"batch": 2}),
    "torch-mobilenetv3": ({"batch": 1}, {"batch": 2}),
    "torch-bert4": ({"batch": 1, "seq": 9}, {"batch": 2, "seq": 6}),
    "torch-gpt2": ({"batch": 1, "seq": 9}, {"batch": 2, "seq": 6}),
}


def available() -> str | None:
    """Why the models cannot be made here; None when they can."""
    try:
        _torchvision()
        import onnxscript  # noqa: F401
        import transformers  # noqa: F401
    except Exception as error:  # a package that is built for another torch raises what it likes
        return f"torchvision and transformers are needed: {type(error).__name__}: {error}"
    return None


def source(name: str, folder: Path) -> Path:
    """The file of a model, made in `folder` when it is not there."""
    path = folder / f"{name}.onnx"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        _MAKERS[name](part)
        part.rename(path)
    return path


_DEFINED: list[Any] = []


def _torchvision() -> Any:
    """The package; its model definitions also work when its compiled operators are of another torch build."""
    import torch

    if not _DEFINED:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _DEFINED.append(library)
    import torchvision

    return torchvision


def _image_network(name: str) -> Any:
    """Batch norms are far from the identity: else every fusion of them looks right."""
    import torch
    from torch import nn

    models = _torchvision().models
    torch.manual_seed(0)
    model = getattr(models, name)(weights=None)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0.0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model.eval()


def _image(name: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        import torch

        shapes = ({0: torch.export.Dim("batch", min=1, max=64)},)
        _dynamo(_image_network(name), (torch.zeros(2, 3, 224, 224),), shapes, path)

    return make


def _resnet_torchscript(path: Path) -> None:
    """The older exporter with nothing folded, batch norms kept."""
    import torch

    options: dict[str, Any] = {"dynamo": False, "do_constant_folding": False, "opset_version": 17, "input_names": ["x"]}
    options |= {"dynamic_axes": {"x": {0: "batch"}}, "training": torch.onnx.TrainingMode.PRESERVE}
    torch.onnx.export(_image_network("resnet50"), (torch.zeros(1, 3, 224, 224),), str(path), **options)


def _bert(path: Path) -> None:
    import torch

    _torchvision()
    from transformers import BertConfig, BertModel

    config = BertConfig(num_hidden_layers=4, hidden_size=768, attn_implementation="eager", use_cache=False)
    torch.manual_seed(0)
    model = BertModel(config, add_pooling_layer=False).eval()
    _dynamo(_Outputs.of(model), _tokens(), _token_shapes(), path)


def _gpt2(path: Path) -> None:
    import torch

    _torchvision()
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        n_layer=4, n_embd=256, n_head=4, n_positions=512, vocab_size=6000, attn_implementation="eager", use_cache=False
    )
    torch.manual_seed(0)
    _dynamo(_Outputs.of(GPT2LMHeadModel(config).eval()), _tokens(), _token_shapes(), path)


class _Outputs:
    """A model's first output alone, from ids and mask by position."""

    @staticmethod
    def of(model: Any) -> Any:
        from torch import nn

        class First(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.model = model

            def forward(self, input_ids: Any, attention_mask: Any) -> Any:
                return self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)[0]

        return First().eval()


def _tokens() -> tuple[Any, Any]:
    import torch

    return torch.zeros(2, 7, dtype=torch.int64), torch.ones(2, 7, dtype=torch.int64)


def _token_shapes() -> tuple[Any, Any]:
    import torch

    dims = {0: torch.export.Dim("batch", min=1, max=64), 1: torch.export.Dim("seq", min=2, max=500)}
    return dims, dims


def _dynamo(model: Any, inputs: tuple, shapes: tuple, path: Path) -> None:
    import torch

    made = torch.onnx.export(model, inputs, dynamo=True, dynamic_shapes=shapes, external_data=False, verbose=False)
    made.save(str(path))


_MAKERS: dict[str, Callable[[Path], None]] = {
    "torch-resnet50": _image("resnet50"),
    "torch-mobilenetv3": _image("mobilenet_v3_large"),
    "torch-bert4": _bert,
    "torch-gpt2": _gpt2,
    "torch-resnet50-ts": _resnet_torchscript,
}


if __name__ == "__main__":
    for each in _MAKERS:
        print(source(each, Path(sys.argv[1])))
