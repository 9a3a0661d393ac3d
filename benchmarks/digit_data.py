"""scikit-learn's digits as pictures in any format, and networks whose classifier is fitted to them in closed form.

The body of a network has drawn weights and the batch norms' measured statistics; the classifier is the ridge regression
of its features onto the labels. Nothing is downloaded and nothing is trained in steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import nn

from edgeres.model.graph import graph
from edgeres.model.network import Network
from edgeres.model.spec import Block, ResNetSpec, Stem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from edgeres.data.preprocess import Preprocess
    from edgeres.data.size import Size

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
"""In the order of the network's outputs, which is not that of the alphabet."""

NUMBERS = tuple("0123456789")
TRAIN, VALIDATION = 600, 400
BATCH = 100
RIDGE = 1e-1
"""Of the regression, relative to the variance of a feature."""
_INK, _PAPER = np.array([250.0, 200.0, 120.0]), np.array([20.0, 40.0, 70.0])


@dataclass(frozen=True, slots=True)
class Digit:
    """A picture of one digit: its ``split``, number in the split, class and grey values ``[8,8]`` in 0..1."""

    split: str
    number: int
    label: int
    grey: NDArray[np.float64]

    def pixels(self, size: Size) -> NDArray[np.uint8]:
        """Coloured pixels uint8 ``[H,W,3]``: blue paper and yellow ink, so that swapped channels show."""
        levels = Image.fromarray((255 * self.grey).astype(np.uint8)).resize((size.width, size.height))
        share = np.asarray(levels, dtype=np.float64)[..., None] / 255
        coloured: NDArray[np.uint8] = (_PAPER + share * (_INK - _PAPER)).round().astype(np.uint8)
        return coloured

    def image(self, size: Size) -> Image.Image:
        """The picture in RGB."""
        return Image.fromarray(self.pixels(size))


@cache
def digits() -> tuple[Digit, ...]:
    """600 digits of split ``train`` and 400 of ``val``, in the order of scikit-learn."""
    from sklearn.datasets import load_digits

    data = load_digits()
    parts = (("train", 0, TRAIN), ("val", TRAIN, TRAIN + VALIDATION))
    return tuple(
        Digit(split, number, int(data.target[number]), data.images[number] / 16)
        for split, first, last in parts
        for number in range(first, last)
    )


def folders(root: Path, save: Callable[[Digit, Path], None], names: tuple[str, ...] = NUMBERS) -> Path:
    """``root/<split>/<class>/<number>``, each file written by ``save``, which adds the suffix."""
    for digit in digits():
        place = root / digit.split / names[digit.label]
        place.mkdir(parents=True, exist_ok=True)
        save(digit, place / f"{digit.number:04}")
    return root


def narrow(classes: int = 10, channels: int = 3, **fields: object) -> ResNetSpec:
    """``resnet20_b`` with half the channels inside its blocks, 21 million MACs at 32 pixels."""

    def block(width: int, index: int) -> Block:
        first = width > 16 and index == 0
        return Block(inner=(width // 2,), out=width, stride=2 if first else 1, projected=first)

    stages = tuple(tuple(block(width, index) for index in range(3)) for width in (16, 32, 64))
    stem = Stem(width=16, kernel=3, stride=1, pool=False)
    return ResNetSpec(kind="basic", stem=stem, stages=stages, classes=classes, channels=channels, **fields)  # type: ignore[arg-type]


def pixels(images: Iterator[Image.Image] | list[Image.Image], preprocess: Preprocess) -> Tensor:
    """Network inputs float32 ``[N,C,H,W]``."""
    return torch.from_numpy(np.stack([preprocess.apply(image) for image in images]))


def network(spec: ResNetSpec) -> Network:
    """A network of drawn weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = Network(graph(spec))
    for key, parameter in made.named_parameters():
        if key.endswith("bn2.weight"):  # small but present branches: deeper drawn features say less of the image
            nn.init.constant_(parameter, 0.1)
    return made


@torch.no_grad()
def fit(module: nn.Module, images: Tensor, targets: Tensor, classifier: str = "fc") -> None:
    """Measures the batch norms on the images and fits the classifier, a linear layer, to ``targets`` ``[N,K]``."""
    layer = module.get_submodule(classifier)
    assert isinstance(layer, nn.Linear)
    for part in module.modules():
        part.train(isinstance(part, nn.BatchNorm2d))
        if isinstance(part, nn.BatchNorm2d):
            part.reset_running_stats()
            part.momentum = 1.0
    module(images)  # one batch: deep networks of drawn weights differ between the mean of statistics and any batch's
    module.eval()
    features = torch.cat([_features(module, layer, batch) for batch in torch.split(images, BATCH)]).double()
    middle, spread = features.mean(0), features.std(0) + 1e-6
    scaled = (features - middle) / spread
    gram = scaled.T @ scaled + RIDGE * len(scaled) * torch.eye(scaled.shape[1], dtype=torch.float64)
    solved = torch.linalg.solve(gram, scaled.T @ (targets - targets.mean(0)).double()) / spread[:, None]
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = 0.0  # an export in training mode leaves the statistics as they are
    layer.weight.copy_(solved.T)
    layer.bias.copy_(targets.mean(0) - middle @ solved)


def _features(module: nn.Module, layer: nn.Linear, images: Tensor) -> Tensor:
    """What the classifier reads ``[N,F]``."""
    seen: dict[str, Tensor] = {}
    if isinstance(module, Network):
        module(images, seen.__setitem__)
        return seen["flatten"]
    hook = layer.register_forward_pre_hook(lambda _, given: seen.update(features=given[0]))
    module(images)
    hook.remove()
    return seen["features"]


def one_hot(labels: list[int], classes: int = 10) -> Tensor:
    """``4`` for the class and ``-2`` for the others, float32 ``[N,K]``."""
    return 6.0 * nn.functional.one_hot(torch.tensor(labels), classes) - 2.0


def training() -> list[Digit]:
    """The digits of split ``train``."""
    return [digit for digit in digits() if digit.split == "train"]
