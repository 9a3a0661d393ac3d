"""Small image folders with several labels, and a narrow ResNet whose head is fitted to them by least squares.

The body has fixed random weights with batch norms of measured statistics; the head is the closed-form ridge regression
of its features onto the labels, so training takes no steps and gives the same weights everywhere up to rounding.
"""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from edgeres.data.preprocess import Preprocess
from edgeres.data.size import Size
from edgeres.model.graph import graph
from edgeres.model.network import Network
from edgeres.model.spec import Block, ResNetSpec, Stem
from edgeres.model.weights import save_checkpoint

SIDE = 16
CLASSES = ("red", "green", "blue")
PREPROCESS = Preprocess(resize=Size.square(0), crop=Size.square(SIDE), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
OPTIONS = ["--resize", "0", "--crop", str(SIDE), "--mean", ".5,.5,.5", "--std", ".25,.25,.25"]


def picture(rng, bits):
    """Noise with a square of each class's colour in its own corner."""
    pixels = rng.integers(60, 120, (SIDE, SIDE, 3)).astype(np.uint8)
    for channel, (row, column) in enumerate(((1, 1), (9, 1), (5, 9))):
        if bits[channel]:
            pixels[row : row + 6, column : column + 6, channel] = 235
    return Image.fromarray(pixels)


def table(folder: Path, train=160, val=300) -> Path:
    """``labels.csv`` with a column for each class, and its images."""
    rng, rows = np.random.default_rng(0), []
    for split, count in (("train", train), ("val", val)):
        (folder / split).mkdir(parents=True)
        for number in range(count):
            bits = (rng.random(3) < 0.4).astype(int)
            picture(rng, bits).save(folder / split / f"{number}.png")
            rows.append((f"{split}/{number}.png", *bits))
    with (folder / "labels.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("path", *CLASSES), *rows])
    return folder / "labels.csv"


def folders(folder: Path, train=160, val=300) -> Path:
    """Class folders ``absent`` and ``present`` of red squares."""
    rng = np.random.default_rng(1)
    for split, count in (("train", train), ("val", val)):
        for number in range(count):
            red = number % 2
            place = folder / split / ("absent", "present")[red]
            place.mkdir(parents=True, exist_ok=True)
            picture(rng, (red, *(rng.random(2) < 0.4))).save(place / f"{number}.png")
    return folder


def colour(identity: int) -> np.ndarray:
    """The colour of an identity, 0 to 1: a point of a grid for those of validation, any for those of training."""
    if identity < 1000:
        return np.random.default_rng(identity).uniform(0.1, 0.9, 3)
    return np.stack(np.unravel_index(identity - 1000, (3, 3, 3))) * 0.4 + 0.1


def identities(folder: Path) -> Path:
    """Folders of identities, others for validation than for training; each has a colour of its own."""
    for split, first, count, images in (("train", 0, 200, 4), ("val", 1000, 25, 12)):
        for identity in range(first, first + count):
            rng = np.random.default_rng(identity)
            place = folder / split / f"p{identity:04}"
            place.mkdir(parents=True)
            for number in range(images):
                pixels = 255 * colour(identity) + rng.normal(0, 12, (SIDE, SIDE, 3))
                Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(place / f"{number}.png")
    return folder


def directions(people: list[int]) -> np.ndarray:
    """Labels ``[N,27]`` of identities: how near the colour is to each of 27, so that other colours differ in angle."""
    centres = np.stack(np.meshgrid(*[np.linspace(0, 1, 3)] * 3), axis=-1).reshape(-1, 3)
    squares = [((colour(identity) - centres) ** 2).sum(1) for identity in people]
    return 0.5 + 0.5 * np.exp(-np.array(squares) / (2 * 0.3**2))


def narrow(classes: int) -> ResNetSpec:
    """resnet20_b."""

    def block(width: int, index: int) -> Block:
        first = width > 16 and not index
        return Block(inner=(width,), out=width, stride=1 + first, projected=first)

    stages = tuple(tuple(block(width, index) for index in range(3)) for width in (16, 32, 64))
    return ResNetSpec(kind="basic", stem=Stem(width=16, kernel=3, stride=1, pool=False), stages=stages, classes=classes)


def face(features: int) -> ResNetSpec:
    """ArcFace's blocks and head, in three stages of one block."""
    stages = tuple((Block(inner=(width,), out=width, stride=2, projected=True),) for width in (16, 32, 48))
    stem = Stem(width=16, kernel=3, stride=1, pool=False)
    return ResNetSpec(
        kind="basic", stem=stem, stages=stages, classes=features, activation="prelu", leading_norm=True, grid=(2, 2)
    )


def fitted(
    path: Path, images: list[Path], labels: np.ndarray, architecture: Callable[[int], ResNetSpec] = narrow
) -> Path:
    """Weights of a network whose outputs ``[N,K]`` are fitted to ``4 labels - 2`` on the images."""
    spec = architecture(labels.shape[1])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Network(graph(spec))
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.ones_(module.weight)
            module.momentum = None  # the mean over all batches
    pixels = torch.from_numpy(np.stack([PREPROCESS.apply(Image.open(image)) for image in images]))
    features: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        network.train()(pixels)
        network.eval()(pixels, features.__setitem__)
        inputs = torch.cat([features["flatten"], torch.ones(len(pixels), 1)], 1).double()
        target = torch.from_numpy(4.0 * labels - 2)
        solved = torch.linalg.solve(inputs.T @ inputs + 1e-2 * torch.eye(inputs.shape[1]), inputs.T @ target).float()
        if spec.leading_norm:
            network.features.reset_running_stats()  # the norm behind the last layer leaves its outputs as they are
        network.fc.weight.copy_(solved[:-1].T)
        network.fc.bias.copy_(solved[-1])
    save_checkpoint(path, spec, network.weights(), PREPROCESS)
    return path
