"""Golden pixels: source images in a bundle with the exact network input that they become before normalisation.

A device's own preprocessing is compared with them by the bundle's checker. The images are drawn, not taken from the
data: edges three pixels apart, which a resampler without antialiasing distorts; a tall and a grey image; and a JPEG
with an EXIF orientation, smooth and without chroma subsampling, so that any decoder gives its pixels to a level.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image as Pillow

    from edgeres.data.preprocess import Preprocess

TOLERANCE = 2
"""Largest difference of a pixel in levels of 0..255: resamplers of one definition differ by a rounding in each of two
passes.
"""


@dataclass(frozen=True, slots=True)
class GoldenPixels:
    """Encoded source images by file name, and their pixels uint8 ``[N,H,W,C]``, red, green and blue, or grey."""

    sources: dict[str, bytes]
    pixels: NDArray[np.uint8]


def golden_pixels(preprocess: Preprocess) -> GoldenPixels | None:
    """Draws the sources for a transform, and applies it without its normalisation.

    None for bands and images of more than 8 bits, which no drawn image stands for.
    """
    from PIL import Image

    if preprocess.channels == "bands" or preprocess.range is not None:
        return None
    order: Literal["rgb", "grey"] = "grey" if preprocess.channels == "grey" else "rgb"
    plain = replace(preprocess, channels=order, input="uint8", layout="nhwc")
    sources = _sources(max(32, *preprocess.resize, *preprocess.crop))
    pixels = []
    for content in sources.values():
        with Image.open(io.BytesIO(content)) as image:
            pixels.append(plain.apply(image))
    return GoldenPixels(sources, np.stack(pixels))


def resampler(preprocess: Preprocess) -> str:
    """What resizes the images, as text."""
    import PIL

    antialiased = "" if preprocess.interpolation == "nearest" else " with antialiasing"
    return f"Pillow {PIL.__version__}, {preprocess.interpolation}{antialiased}"


def _sources(side: int) -> dict[str, bytes]:
    """Encoded images for a network input of about ``side`` pixels: larger ones and a smaller one."""
    from PIL import Image

    wide = _drawn(side * 3 // 2 + 5, side * 2 + 11)
    tall = _drawn(side * 2 + 3, side // 2 + 1)
    grey = _drawn(side // 2 + 7, side * 2 // 3 + 1).mean(2).astype(np.uint8)
    smooth = Image.fromarray(_smooth(side + 9, side * 3 // 2))
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "pixels_0.png": _encoded(Image.fromarray(wide)),
        "pixels_1.png": _encoded(Image.fromarray(tall)),
        "pixels_2.png": _encoded(Image.fromarray(grey)),
        "pixels_3.jpg": _encoded(smooth, format="JPEG", quality=95, subsampling=0, exif=exif),
    }


def _encoded(image: Pillow.Image, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, **({"format": "PNG"} | options))  # type: ignore[arg-type]  # Pillow's options are untyped
    return stream.getvalue()


def _smooth(height: int, width: int) -> NDArray[np.uint8]:
    """A colour gradient uint8 ``[height,width,3]`` without symmetry."""
    rows, columns = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    planes = np.stack([30 + 190 * columns, 40 + 160 * rows * columns, 220 - 150 * rows], axis=2)
    return planes.astype(np.uint8)


def _drawn(height: int, width: int) -> NDArray[np.uint8]:
    """The gradient with stripes of one pixel in three in its right half, and a disc in red."""
    image = _smooth(height, width)
    rows, columns = np.mgrid[0:height, 0:width]
    image[(columns % 3 == 0) & (2 * columns > width)] = (250, 250, 240)
    disc = (rows - height // 3) ** 2 + (columns - width // 3) ** 2 < (min(height, width) // 6) ** 2
    image[disc] = (220, 20, 30)
    return image
