"""Pictures of coloured shapes with masks, and a narrow dilated network whose classifier is fitted to them.

The body has fixed random weights with batch norms of measured statistics; the last 1x1 convolution is the closed-form
ridge regression of its features onto the masks.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from edgeres.data.preprocess import Preprocess
from edgeres.data.size import Size

SIDE = 32
CLASSES = ("ground", "square", "disc", "bar")
PREPROCESS = Preprocess(resize=Size.square(0), crop=Size.square(SIDE), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
OPTIONS = ["--resize", "0", "--crop", str(SIDE), "--mean", ".5,.5,.5", "--std", ".25,.25,.25"]
_COLOURS = ((220, 60, 60), (60, 200, 80), (70, 90, 220))


def picture(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Noise with one or two shapes of their class's colour, and the mask; the outline of a shape is ignored."""
    pixels = rng.integers(70, 130, (SIDE, SIDE, 3)).astype(np.uint8)
    mask = np.zeros((SIDE, SIDE), dtype=np.uint8)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    for _ in range(rng.integers(1, 3)):
        kind, (row, column), radius = rng.integers(1, 4), rng.integers(6, SIDE - 6, 2), rng.integers(5, 9)
        across, down = np.abs(columns - column), np.abs(rows - row)
        distance = {1: np.maximum(across, down), 2: np.hypot(across, down), 3: np.maximum(across, 2 * down)}[int(kind)]
        inside = distance <= radius
        pixels[inside] = np.clip(np.array(_COLOURS[kind - 1]) + rng.normal(0, 12, (int(inside.sum()), 3)), 0, 255)
        mask[inside] = kind
        mask[(distance > radius) & (distance <= radius + 1)] = 255
    return pixels, mask


def write(folder: Path, *, train: int = 160, val: int = 300) -> Path:
    """``images/`` and ``masks/`` with ``train`` and ``val``, and ``classes.txt``."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for kind in ("images", "masks"):
            (folder / kind / split).mkdir(parents=True)
        for number in range(count):
            pixels, mask = picture(rng)
            Image.fromarray(pixels).save(folder / "images" / split / f"{number:03}.png")
            Image.fromarray(mask).save(folder / "masks" / split / f"{number:03}.png")
    (folder / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    return folder


def pairs(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Network inputs ``[N,3,H,W]`` and masks ``[N,H,W]`` of a split."""
    files = sorted((folder / "images" / split).glob("*.png"))
    images = np.stack([PREPROCESS.apply(Image.open(file)) for file in files])
    masks = np.stack([np.asarray(Image.open(folder / "masks" / split / file.name)) for file in files])
    return images, masks


def _conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, dilation * (kernel // 2), dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


class _Pooled(nn.Module):
    """Global average, 1x1 convolution, resized back to the map: the image branch of ASPP."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = _conv(width, width, 1)

    def forward(self, x):
        pooled = self.conv(x.mean((2, 3), keepdim=True))
        return nn.functional.interpolate(pooled, x.shape[-2:], mode="bilinear", align_corners=False)


class DeepLab(nn.Module):
    """A dilated body of stride 2, ASPP with dilations 1, 2 and 4 and a pooled branch, and a bilinear resize."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.body = nn.Sequential(_conv(3, 16), _conv(16, width, stride=2), _conv(width, width, dilation=2))
        self.branches = nn.ModuleList(
            [_conv(width, width, 1), _conv(width, width, dilation=2), _conv(width, width, dilation=4), _Pooled(width)]
        )
        self.join = _conv(4 * width, 2 * width, 1)
        self.classifier = nn.Conv2d(2 * width, len(CLASSES), 1)

    def features(self, x):
        x = self.body(x)
        return self.join(torch.cat([branch(x) for branch in self.branches], 1))

    def forward(self, x):
        maps = self.classifier(self.features(x))
        return nn.functional.interpolate(maps, x.shape[-2:], mode="bilinear", align_corners=False)


def fitted(images: np.ndarray, masks: np.ndarray) -> DeepLab:
    """The network with a classifier fitted to masks at the centres of its pixels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = DeepLab()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            module.momentum = None  # the mean over all batches
    pixels = torch.from_numpy(images)
    with torch.no_grad():
        network.train().features(pixels)
        features = network.eval().features(pixels)
        classes = torch.from_numpy(masks[:, 1::2, 1::2].astype(np.int64))
        valid = (classes < len(CLASSES)).flatten()
        columns = features.permute(0, 2, 3, 1).flatten(0, 2)[valid]
        inputs = torch.cat([columns, torch.ones(len(columns), 1)], 1).double()
        target = nn.functional.one_hot(classes.flatten()[valid], len(CLASSES)).double()
        weighted = inputs * (target / target.mean(0).sqrt()).sum(1, keepdim=True)  # rare classes count more
        ridge = weighted.T @ inputs + 1e-2 * torch.eye(inputs.shape[1])
        solved = torch.linalg.solve(ridge, weighted.T @ (8 * target - 2)).float()
        network.classifier.weight.copy_(solved[:-1].T[:, :, None, None])
        network.classifier.bias.copy_(solved[-1])
    return network


def exported(path: Path, network: nn.Module, *, dynamo: bool = False) -> Path:
    """An ONNX file of a network, with a free batch."""
    names = {"input_names": ["image"], "output_names": ["out"]}
    free = {"image": {0: "N"}, "out": {0: "N"}}
    torch.onnx.export(
        network.eval(),
        (torch.zeros(1, 3, SIDE, SIDE),),
        str(path),
        opset_version=17,
        dynamo=dynamo,
        dynamic_axes=free,
        **names,
    )
    return path
