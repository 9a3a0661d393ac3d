"""Residual networks and other families in ONNX files, and files of other formats."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from benchmarks.digit_data import (
    fit,
    folders,
    one_hot,
    pixels,
    training,
)
from edgeres.model.zoo import import_torchvision

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np


from benchmarks.input_rows.row import LARGER, PLAIN, SQUARE, STATED, Row, Words, body, exported, png, uint8

SECTION = "ONNX files"


def residual_file(
    folder: Path, change: Callable[[Path], None] | None = None, kind: torch.dtype = torch.float32, **more: Any
) -> Words:
    """A recognised residual network, perhaps changed as a file."""
    file = exported(folder, body().to(kind), PLAIN, **more)
    if change is not None:
        change(folder / "net.onnx")
    return [file, "--data", str(folders(folder / "data", png)), *STATED]


def other_file(folder: Path, build: Callable[[], nn.Module], classifier: str) -> Words:
    """Another family at 64 pixels with its classifier fitted."""
    import_torchvision()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = build()
    images = pixels([digit.image(LARGER.crop) for digit in training()], LARGER)
    fit(made, images, one_hot([one.label for one in training()]), classifier)
    data = folders(folder / "data", partial(png, size=LARGER.crop))
    words = ["--resize", "0", "--crop", "64", *STATED[4:]]
    return [exported(folder, made, LARGER), "--data", str(data), *words]


def quantized(file: Path) -> None:
    """ONNX Runtime's static quantization in place of the file."""
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # ships no usable type information
        def __init__(self) -> None:
            chosen = [digit.image(SQUARE) for digit in training()[:16]]
            self._left = iter([{"pixels": image[None].numpy()} for image in pixels(chosen, PLAIN)])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._left, None)

    quantization.quantize_static(str(file), str(file), Reader())


def renamed(folder: Path, suffix: str, start: bytes) -> Words:
    """The first bytes of another format."""
    (folder / f"net.{suffix}").write_bytes(start + bytes(64))
    return [str(folder / f"net.{suffix}"), "--data", str(folders(folder / "data", png))]


def _mobilenet_v2() -> nn.Module:
    from torchvision.models.mobilenetv2 import MobileNetV2

    setting = [[1, 16, 1, 1], [6, 24, 1, 2], [6, 32, 1, 2], [6, 64, 1, 2]]
    made: nn.Module = MobileNetV2(num_classes=10, inverted_residual_setting=setting)
    return made


def _mobilenet_v3() -> nn.Module:
    from torchvision.models import mobilenet_v3_small

    made: nn.Module = mobilenet_v3_small(num_classes=10)
    return made


def _densenet() -> nn.Module:
    from torchvision.models.densenet import DenseNet

    made: nn.Module = DenseNet(12, (3, 3, 3), 24, num_classes=10)
    return made


def _efficientnet() -> nn.Module:
    from torchvision.models.efficientnet import EfficientNet, MBConvConfig

    stages = [MBConvConfig(1, 3, 1, 32, 16, 1), MBConvConfig(6, 3, 2, 16, 24, 1), MBConvConfig(6, 5, 2, 24, 40, 1)]
    made: nn.Module = EfficientNet(stages, 0.2, num_classes=10)
    return made


def _regnet() -> nn.Module:
    from torchvision.models.regnet import BlockParams, RegNet

    made: nn.Module = RegNet(BlockParams.from_init_params(5, 24, 20, 2.5, 8, se_ratio=0.25), num_classes=10)
    return made


def _convnext() -> nn.Module:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    made: nn.Module = ConvNeXt(
        [CNBlockConfig(32, 64, 1), CNBlockConfig(64, 96, 1), CNBlockConfig(96, None, 1)], num_classes=10
    )
    return made


def _vit() -> nn.Module:
    from torchvision.models import VisionTransformer

    made: nn.Module = VisionTransformer(64, 16, 2, 4, 64, 128, num_classes=10)
    return made


def _swin() -> nn.Module:
    from torchvision.models import SwinTransformer

    made: nn.Module = SwinTransformer([4, 4], 32, [1, 1], [2, 4], [4, 4], num_classes=10)
    return made


def _inception() -> nn.Module:
    from torchvision.models import googlenet

    made: nn.Module = googlenet(num_classes=10, aux_logits=False, init_weights=False)
    return made


def _rows() -> tuple[Row, ...]:
    training_mode: dict[str, Any] = {"training": torch.onnx.TrainingMode.TRAINING, "do_constant_folding": False}
    others = (
        ("MobileNetV2", _mobilenet_v2, "classifier.1"),
        ("MobileNetV3 small", _mobilenet_v3, "classifier.3"),
        ("DenseNet", _densenet, "classifier"),
        ("EfficientNet", _efficientnet, "classifier.1"),
        ("RegNet Y", _regnet, "fc"),
        ("ConvNeXt", _convnext, "classifier.2"),
        ("ViT", _vit, "heads.head"),
        ("Swin", _swin, "head"),
        ("GoogLeNet (Inception)", _inception, "fc"),
    )
    return (
        Row(SECTION, "a ResNet, norms folded by torch", residual_file),
        Row(SECTION, "a ResNet, exported in training mode", partial(residual_file, **training_mode)),
        Row(SECTION, "a ResNet, batch of 2 fixed", partial(residual_file, dynamic_axes={})),
        Row(SECTION, "a ResNet in float16", partial(residual_file, kind=torch.float16)),
        Row(SECTION, "a ResNet with Q/DQ", partial(residual_file, change=quantized)),
        *(
            Row(SECTION, f"{title}, reduced", partial(other_file, build=build, classifier=classifier))
            for title, build, classifier in others
        ),
        Row(SECTION, "MobileNetV2, uint8 pixels [N,H,W,C]",
            partial(uint8, layout="nhwc", make=partial(other_file, build=_mobilenet_v2, classifier="classifier.1"))),
        Row(SECTION, "a `.tflite` file", partial(renamed, suffix="tflite", start=b"\x1c\0\0\0TFL3")),
        Row(SECTION, "a Keras `.h5` file", partial(renamed, suffix="h5", start=b"\x89HDF\r\n\x1a\n")),
    )  # fmt: skip


ROWS = _rows()
"""Rows of this section."""
