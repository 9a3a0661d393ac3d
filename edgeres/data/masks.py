"""``Masks``: the class of every pixel of a split's images."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from edgeres.errors import DataError
from edgeres.settings import digest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from edgeres.data.images import EncodedImage, StoredImage
    from edgeres.data.preprocess import Preprocess

    Classes = NDArray[np.uint8]
    """Class of each pixel, uint8 ``[H,W]``; 255 where it is ignored."""

IGNORED = 255
"""Value of a pixel without a class, as PASCAL VOC, Cityscapes' trainIds and torchvision's references have it."""


@dataclass(frozen=True)
class Masks:
    """Masks of images in their order; ``outputs`` has the network's output for each value of a mask."""

    files: tuple[EncodedImage, ...] = field(repr=False)
    outputs: tuple[int, ...]

    @cached_property
    def digest(self) -> str:
        """sha256 over the content of each mask, and the outputs of their values."""
        return digest([[file.sha256 for file in self.files], list(self.outputs)])

    def take(self, indices: Sequence[int]) -> Masks:
        """The masks at these indices, in that order."""
        return replace(self, files=tuple(self.files[index] for index in indices))

    def at_input(self, images: Sequence[StoredImage], preprocess: Preprocess) -> Iterator[Classes]:
        """The mask of each image ``[H,W]``, resized to the nearest pixel and cropped as the image is.

        Padding is ignored in the metric.
        """
        table = np.full(IGNORED + 1, IGNORED, dtype=np.uint8)
        table[: len(self.outputs)] = self.outputs
        for file, image in zip(self.files, images, strict=True):
            yield table[placed(file.stored_values(), image.orientation, preprocess)]


def placed(values: Classes, orientation: int, preprocess: Preprocess) -> Classes:
    """Values of a mask ``[H,W]`` at the pixels of the network's input, by the nearest; padding is 255.

    torchvision's references resize masks the same way (references/segmentation/transforms.py). ``orientation`` is the
    EXIF orientation of the image, by which a mask as stored turns with it.
    """
    from PIL import Image

    grey = replace(
        preprocess,
        interpolation="nearest",
        fill=(IGNORED,),
        channels="grey",
        mean=(0.0,),
        std=(1.0,),
        range=None,
        input="float32",
        layout="nchw",
    )
    mask = Image.fromarray(values)
    if preprocess.exif == "apply" and orientation in _TURNS:
        mask = mask.transpose(Image.Transpose[_TURNS[orientation]])
    return np.asarray(grey.centred(grey.resized(mask), grey.crop), dtype=np.uint8)


_TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
"""Pillow's operation for each EXIF orientation (Pillow, ImageOps.exif_transpose)."""


def check_mask(mask: EncodedImage, image: StoredImage) -> None:
    """Checks the header of a mask: 8 bits of grey or a palette, without loss, and the size of its image.

    Raises:
        DataError: It is not a mask of this image.
    """
    header, wanted = mask.header, image.header
    if header.format != "PNG":
        what = f"{mask.where} is {header.format}, which does not keep the class of every pixel"
        raise DataError(what, "save masks as PNG")
    if header.mode not in ("L", "P", "1") or header.depth > 8:
        what = f"{mask.where} is a picture of mode {header.mode} and {header.depth} bits, not a mask of class indices"
        raise DataError(what, "save masks as grey or indexed PNG of 8 bits, whose values are the classes' indices")
    size, expected = (header.width, header.height), (wanted.width, wanted.height)
    if size != expected:
        turned = size == expected[::-1] and image.orientation > 4
        hint = "draw the mask on the pixels as they are stored, or store the image upright" if turned else "redraw it"
        sizes = f"{size[0]}x{size[1]} pixels, its image {expected[0]}x{expected[1]} ({image.where})"
        raise DataError(f"{mask.where} has {sizes}", hint)


def class_pixels(mask: EncodedImage, classes: int) -> tuple[int, ...]:
    """Number of pixels of each class in a mask.

    Raises:
        DataError: A value is neither a class nor 255.
    """
    counts = np.bincount(mask.stored_values().ravel(), minlength=IGNORED + 1)
    strange = np.flatnonzero(counts[classes:IGNORED]) + classes
    if len(strange):
        listed = ", ".join(map(str, strange[:5].tolist())) + (", ..." if len(strange) > 5 else "")
        pixels = int(counts[classes:IGNORED].sum())
        what = f"{mask.where}: {pixels:,} pixels have the value {listed}, and {classes} classes are named"
        raise DataError(what, f"name every class, or write {IGNORED} for pixels that are to be ignored")
    return tuple(int(count) for count in counts[:classes])
