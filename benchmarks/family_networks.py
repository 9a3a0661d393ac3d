"""Networks of many families with drawn weights, and the images of Imagenette on which they are fitted and judged."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from benchmarks.command import IMAGES, require
from benchmarks.digit_data import fit, one_hot
from benchmarks.input_rows.row import exported
from benchmarks.quantizer import IMAGE
from edgeres.data.preprocess import Preprocess
from edgeres.data.size import Size
from edgeres.model.zoo import import_torchvision

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from edgeres.data.dataset import Dataset
    from edgeres.data.split import Split

SIDE = 128
TRANSFORM = Preprocess(resize=Size.square(SIDE), crop=Size.square(SIDE))
TRAIN, VALIDATION = 100, 50
"""Images of each class."""
OUTLIERS, FACTOR = slice(1, None, 8), 100.0


@dataclass(frozen=True, slots=True)
class Family:
    """A network of torchvision's or timm's: its maker's name there, its classifier, and the norms whose channels grow.

    ``outliers`` are pairs of a norm and the one convolution behind its ReLU.
    """

    name: str
    classifier: str
    library: str = "torchvision"
    outliers: tuple[tuple[str, str], ...] = ()

    def build(self) -> nn.Module:
        """The network of drawn weights and ten classes."""
        models: Any = import_torchvision().models
        options: dict[str, Any] = {"num_classes": 10}
        if self.name == "googlenet":
            options |= {"aux_logits": False, "init_weights": False}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            if self.library == "timm":
                import timm

                made: nn.Module = timm.create_model(self.name, **options)
            else:
                made = models.get_model(self.name, weights=None, **options)
        return made


def _bottlenecks(*blocks: str) -> tuple[tuple[str, str], ...]:
    return tuple((f"{block}.bn{number}", f"{block}.conv{number + 1}") for block in blocks for number in (1, 2))


FAMILIES = (
    Family("resnet50", "fc", outliers=_bottlenecks("layer1.0", "layer2.1", "layer3.2", "layer4.1")),
    Family("densenet121", "classifier"),
    Family("mobilenet_v2", "classifier.1"),
    Family("mobilenet_v3_small", "classifier.3"),
    Family("efficientnet_b0", "classifier.1"),
    Family("regnet_y_400mf", "fc"),
    Family("convnext_tiny", "classifier.2"),
    Family("googlenet", "fc"),
    Family("shufflenet_v2_x1_0", "fc"),
    Family("repvgg_a0", "head.fc", library="timm"),
    Family("seresnet50", "fc", library="timm", outliers=_bottlenecks("layer1.0", "layer2.1", "layer3.2", "layer4.1")),
)


@torch.no_grad()
def with_outliers(module: nn.Module, pairs: Sequence[tuple[str, str]]) -> None:
    """Multiplies every eighth channel of the norms by 100, and divides the weights that read it behind a ReLU."""
    for norm, reader in pairs:
        of_norm, of_reader = module.get_submodule(norm), module.get_submodule(reader)
        for name in ("weight", "bias"):
            getattr(of_norm, name)[OUTLIERS] *= FACTOR
        assert isinstance(of_reader, nn.Conv2d)
        assert of_reader.groups == 1, f"{reader} reads few channels"
        of_reader.weight[:, OUTLIERS] /= FACTOR


def subset(folder: Path) -> Path:
    """Links to the first images of every class of Imagenette."""
    images = require(IMAGES)
    for split, count in (("train", TRAIN), ("val", VALIDATION)):
        for label in sorted(path for path in (images / split).iterdir() if path.is_dir()):
            place = folder / split / label.name
            place.mkdir(parents=True, exist_ok=True)
            for file in sorted(label.iterdir())[:count]:
                (place / file.name).symlink_to(file.resolve())
    return folder


def stacked(split: Split) -> tuple[NDArray[np.float32], list[int]]:
    """All images ``[N,3,H,W]`` of a split, and their labels."""
    return np.concatenate([images for images, _ in split.batches(TRANSFORM)]), list(split.labels)


def float_file(folder: Path, family: Family, data: Dataset, *, outliers: bool) -> Path:
    """The network as an ONNX file of a free batch."""
    module = family.build()
    images, labels = stacked(data.train)
    fit(module, torch.from_numpy(images), one_hot(labels), family.classifier)
    if outliers:
        with_outliers(module, family.outliers)
    names: dict[str, Any] = {"input_names": [IMAGE], "dynamic_axes": {IMAGE: {0: "N"}, "scores": {0: "N"}}}
    return Path(exported(folder, module, TRANSFORM, **names))
