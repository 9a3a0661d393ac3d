"""``Feed``: augmented batches in a seeded order, decoded ahead of the training step."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from math import exp, log, sqrt
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import torch
from PIL.Image import Resampling, Transpose
from pydantic import Field

from edgeres.data.bands import BandImage, pixels_of
from edgeres.errors import DataError
from edgeres.model.zoo import import_torchvision
from edgeres.settings import settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray
    from PIL import Image as Pillow
    from torch import Tensor

    from edgeres.data.preprocess import DecodedImage, Preprocess
    from edgeres.data.size import Size
    from edgeres.data.split import Split

    Batch = tuple[Tensor, Tensor]  # images [N,H,W,C], uint8 or float32, and labels int64 [N]

Strength = Annotated[float, Field(ge=0, le=1)]
Box = tuple[int, int, int, int]

_ATTEMPTS = 10


@settings
class Augment:
    """Augmentation of training images.

    Attributes:
        crop: ``resized`` takes a part of random area and aspect and resizes it (Szegedy et al. 2014, arXiv
            1409.4842); ``random`` resizes as evaluation does and crops at a random place (He et al. 2015);
            ``centre`` crops as evaluation does.
        scale: Smallest and largest share of the area a resized crop takes.
        ratio: Smallest and largest width over height of a resized crop, as a share of the network input's; of the whole
            image's where evaluation stretches images.
        padding: Black pixels around the image before a random crop (4 in He et al. 2015, section 4.2).
        flip: Mirror half of the images; wrong for digits, letters and anything with a handedness.
        brightness: Largest change of brightness, as a share.
        contrast: Largest change of contrast, as a share.
        saturation: Largest change of saturation, as a share.
        hue: Largest turn of the hue, in turns.
    """

    crop: Literal["resized", "random", "centre"] = "resized"
    scale: tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0, le=1)]] = (0.35, 1.0)
    ratio: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (3 / 4, 4 / 3)
    padding: Annotated[int, Field(ge=0)] = 0
    flip: bool = True
    brightness: Strength = 0.0
    contrast: Strength = 0.0
    saturation: Strength = 0.0
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0


class Augmenter:
    """Applies an ``Augment`` with torchvision's own functions on PIL images.

    torchvision's transform classes draw from torch's global generator, which threads would share; here the caller gives
    each image a generator of its own. ``preprocess`` is the evaluation transform, for its sizes and its resampling
    filter.
    """

    def __init__(self, augment: Augment, preprocess: Preprocess) -> None:
        import_torchvision()
        from torchvision.transforms.v2 import functional

        self._augment = augment
        self._preprocess = preprocess
        self._filter = Resampling[preprocess.interpolation.upper()]
        self._functional = functional

    def __call__(self, image: DecodedImage, size: Size, rng: np.random.Generator) -> NDArray[np.generic]:
        """One training image ``[H,W,C]`` of a size, uint8 or float32, from an image and its random generator."""
        image = self._cropped(image, size, rng)
        if self._augment.flip and rng.random() < 0.5:
            image = image.transpose(Transpose.FLIP_LEFT_RIGHT)
        return pixels_of(image if isinstance(image, BandImage) else self._coloured(image, rng))

    def _cropped(self, image: DecodedImage, size: Size, rng: np.random.Generator) -> DecodedImage:
        kind = self._augment.crop
        if kind == "resized":
            usual = (
                image.width / image.height if self._preprocess.resize_mode == "stretch" else size.width / size.height
            )
            low, high = self._augment.ratio
            box = draw_box(image.height, image.width, self._augment.scale, (low * usual, high * usual), rng)
            top, left, height, width = box
            part = image.crop((left, top, left + width, top + height))
            return part.resize((size.width, size.height), self._filter)
        evaluation = replace(self._preprocess, resize=self._preprocess.resize_for(size), crop=size)
        image = evaluation.resized(image)
        if kind == "centre":
            return evaluation.centred(image, size)
        padding = self._augment.padding
        height, width = image.height + 2 * padding, image.width + 2 * padding
        top = int(rng.integers(max(0, height - size.height) + 1)) - padding
        left = int(rng.integers(max(0, width - size.width) + 1)) - padding
        return evaluation.cut(image, top, left, size)

    def _coloured(self, image: Pillow.Image, rng: np.random.Generator) -> Pillow.Image:
        for strength, adjust in (
            (self._augment.brightness, self._functional.adjust_brightness),
            (self._augment.contrast, self._functional.adjust_contrast),
            (self._augment.saturation, self._functional.adjust_saturation),
        ):
            if strength:
                image = adjust(image, float(rng.uniform(1 - strength, 1 + strength)))
        if self._augment.hue:
            image = self._functional.adjust_hue(image, float(rng.uniform(-self._augment.hue, self._augment.hue)))
        return image


def draw_box(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], rng: np.random.Generator
) -> Box:
    """A random part of an image as ``(top, left, height, width)``: area uniform, aspect uniform in its logarithm.

    As torchvision's ``RandomResizedCrop``: ten attempts, then the largest centred part of a permitted aspect.
    """
    for _ in range(_ATTEMPTS):
        area = height * width * rng.uniform(*scale)
        aspect = exp(rng.uniform(log(ratio[0]), log(ratio[1])))
        w, h = round(sqrt(area * aspect)), round(sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    w = min(width, round(height * ratio[1]))
    h = min(height, round(w / ratio[0])) if width < height * ratio[0] else height
    return (height - h) // 2, (width - w) // 2, h, w


WORKERS = 2  # threads that decode and augment; Pillow releases the GIL meanwhile
KEPT_BYTES = 256 << 20  # bytes of decoded images kept in memory between epochs; the small data sets fit


class Feed:
    """Training batches by global step; an epoch is every image once, without an incomplete last batch.

    ``preprocess`` is the evaluation transform, for normalisation and sizes; every label must be below ``classes``. A
    batch is the whole split where it is smaller; order and augmentation follow from the seed.

    Raises:
        DataError: Fewer than two images, or a label that is missing or names no class.
    """

    def __init__(
        self, split: Split, preprocess: Preprocess, augment: Augment, *, classes: int, batch: int, seed: int
    ) -> None:
        if len(split) < 2:
            raise DataError(
                f"the training split has {len(split)} images", "give more images, or lower what calibration takes"
            )
        if min(split.labels) < 0 or max(split.labels) >= classes:
            raise DataError(
                f"training labels run from {min(split.labels)} to {max(split.labels)} for a head of {classes} classes",
                "every training image needs a label of a known class",
            )
        self.split = split
        self.preprocess = preprocess
        self.batch = min(batch, len(split))
        self.seed = seed
        self._augmenter = Augmenter(augment, preprocess)
        self._kept: dict[int, DecodedImage] = {}
        self._kept_bytes = 0

    @property
    def steps(self) -> int:
        """Steps in an epoch."""
        return len(self.split) // self.batch

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Image indices in the order of an epoch."""
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.split))

    def batches(self, start: int, stop: int, size: Callable[[int], Size]) -> Iterator[Batch]:
        """The batches of global steps ``start`` to ``stop - 1``; ``size`` gives the image size by epoch."""
        pool = ThreadPoolExecutor(WORKERS, "augment")
        try:
            waiting = deque(
                pool.submit(self._make, step, size) for step in range(start, min(start + WORKERS + 1, stop))
            )
            for ahead in range(start + len(waiting), stop + len(waiting)):
                batch = waiting.popleft().result()
                if ahead < stop:
                    waiting.append(pool.submit(self._make, ahead, size))
                yield batch
        finally:
            pool.shutdown(cancel_futures=True)

    def as_input(self, images: Tensor) -> Tensor:
        """Normalised float32 ``[N,C,H,W]`` of stored values ``[N,H,W,C]``, on the device of the images."""
        mean, std = (
            torch.tensor(values, device=images.device).reshape(-1, 1, 1)
            for values in (self.preprocess.mean, self.preprocess.std)
        )
        low, high = self.preprocess.range or (0, 255)
        pixels = images.permute(0, 3, 1, 2).contiguous().float().sub_(low).div_(high - low).sub_(mean).div_(std)
        return pixels.flip(1) if self.preprocess.channels == "bgr" else pixels

    def _make(self, step: int, size: Callable[[int], Size]) -> Batch:
        epoch, position = divmod(step, self.steps)
        # Permuting each batch again takes microseconds and keeps workers free of shared state.
        indices = self.order(epoch)[position * self.batch : (position + 1) * self.batch]
        images = [
            self._augmenter(self._image(int(index)), size(epoch), np.random.default_rng([self.seed, epoch, int(index)]))
            for index in indices
        ]
        labels = [self.split.labels[index] for index in indices]
        return torch.from_numpy(np.stack(images)), torch.tensor(labels)

    def _image(self, index: int) -> DecodedImage:
        """A decoded image, kept in memory within ``KEPT_BYTES``."""
        cached = self._kept.get(index)
        if cached is not None:
            return cached
        preprocess = self.preprocess
        image = preprocess.as_channels(preprocess.upright(self.split.image(index, preprocess.channels)))
        weight = image.width * image.height * preprocess.count * (4 if image.mode == "F" else 1)
        if self._kept_bytes + weight <= KEPT_BYTES:
            self._kept[index] = image
            self._kept_bytes += weight
        return image
