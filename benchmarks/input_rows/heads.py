"""Heads of other tasks than one class for each image."""

from __future__ import annotations

import csv
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import nn

from benchmarks.digit_data import (
    Digit,
    digits,
    fit,
    folders,
    narrow,
    network,
    pixels,
    training,
)

if TYPE_CHECKING:
    from pathlib import Path


from benchmarks.input_rows.row import MODEL, PLAIN, SQUARE, STATED, Row, Words, body, exported, png, weights

SECTION = "Heads"


def headed(folder: Path, task: str) -> Words:
    """One logit for odd digits, a logit for each of four properties, or an embedding."""
    data = folder / "data"
    label = {
        "binary": lambda one: [one % 2],
        "multilabel": lambda one: [one % 2, one > 4, one % 3 == 0, one in (0, 6, 8, 9)],
    }
    images = pixels([digit.image(SQUARE) for digit in training()], PLAIN)
    if task == "embedding":
        made = network(narrow(24))
        generator = np.random.default_rng(0)
        anchors = generator.normal(size=(10, 24))
        fit(made, images, torch.tensor(np.stack([anchors[one.label] for one in training()])).float())
        folders(data, png)
    else:
        wanted = torch.tensor([label[task](one.label) for one in training()]).float()
        made = network(narrow(wanted.shape[1]))
        fit(made, images, 6 * wanted - 3)
        if task == "binary":
            folders(data, png, tuple("odd" if index % 2 else "even" for index in range(10)))
        else:
            rows: list[tuple[object, ...]] = [("path", "split", "odd", "large", "three", "round")]
            for digit in digits():
                data.mkdir(exist_ok=True)
                png(digit, data / f"{digit.number}")
                rows.append((f"{digit.number}.png", digit.split, *(int(bit) for bit in label[task](digit.label))))
            with (data / "labels.csv").open("w", newline="") as stream:
                csv.writer(stream).writerows(rows)
            data /= "labels.csv"
    return [MODEL, "--weights", weights(folder, made), "--data", str(data), "--task", task]


class _Maps(nn.Module):
    """A convolution on the features of the second stage, resized to the image."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 24, 3, 1, 2, 2, bias=False), nn.BatchNorm2d(24), nn.ReLU(),
        )  # fmt: skip
        self.fc = nn.Linear(24, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.body(images)
        maps = nn.functional.conv2d(features, self.fc.weight[..., None, None], self.fc.bias)
        return nn.functional.interpolate(maps, images.shape[-2:], mode="bilinear", align_corners=False)


def segmentation(folder: Path) -> Words:
    """Masks of ink and paper."""
    for digit in digits():
        for kind, image in (("images", digit.image(SQUARE)), ("masks", Image.fromarray(mask(digit)))):
            place = folder / "data" / kind / digit.split
            place.mkdir(parents=True, exist_ok=True)
            image.save(place / f"{digit.number:04}.png")
    (folder / "data" / "classes.txt").write_text("paper\nink\n")
    torch.manual_seed(0)
    made = _Maps()
    images = pixels([digit.image(SQUARE) for digit in training()], PLAIN)
    made.train()(images)
    made.eval()
    with torch.no_grad():
        features = made.body(images).permute(0, 2, 3, 1).reshape(-1, 24).double()
        small = np.stack([mask(digit)[::2, ::2] for digit in training()]).reshape(-1)
        features = torch.cat([features, torch.ones(len(features), 1).double()], 1)
        wanted = torch.tensor(np.stack([1 - small, small], 1) * 6.0 - 3)
        solved = torch.linalg.lstsq(features, wanted).solution.float()
        made.fc.weight.copy_(solved[:-1].T)
        made.fc.bias.copy_(solved[-1])
    return [exported(folder, made, PLAIN), "--data", str(folder / "data"), *STATED]


def mask(digit: Digit) -> np.ndarray:
    """Class 1 where the picture has ink, uint8 ``[H,W]``."""
    return (digit.pixels(SQUARE)[..., 0] > 128).astype(np.uint8)


class _Several(nn.Module):
    def __init__(self, made: nn.Module) -> None:
        super().__init__()
        self.made = made

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen: dict[str, torch.Tensor] = {}
        logits = self.made(images, seen.__setitem__)
        return logits, seen["flatten"]


def several_outputs(folder: Path) -> Words:
    """Logits first, features second."""
    file = exported(folder, _Several(body()).eval(), PLAIN, outputs=["logits", "features"])
    return [file, "--data", str(folders(folder / "data", png)), *STATED]


ROWS = (
    Row(SECTION, "binary, one logit", partial(headed, task="binary")),
    Row(SECTION, "several labels", partial(headed, task="multilabel")),
    Row(SECTION, "embedding", partial(headed, task="embedding")),
    Row(SECTION, "segmentation", segmentation),
    Row(SECTION, "logits and features", several_outputs),
)
"""Rows of this section."""
