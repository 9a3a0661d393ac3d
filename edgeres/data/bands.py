"""``BandImage``: an image of any number of bands, or of more than 8 bits, as one Pillow image for each band."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from edgeres.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from PIL import Image as Pillow

MOST_BANDS = 256
DTYPES = ("uint8", "uint16", "int16", "int32", "float32", "float64")
"""Types of stored values."""


@dataclass(frozen=True)
class BandImage:
    """Bands of one size, of mode ``L`` (uint8) or, where ``deep``, of mode ``F`` (float32); ``where`` for messages.

    Resizing, cropping and mirroring are Pillow's, band by band.
    """

    bands: tuple[Pillow.Image, ...]
    where: str

    @classmethod
    def of(cls, values: NDArray[np.generic], where: str) -> BandImage:
        """The bands of an array ``[H,W]`` or ``[H,W,C]``.

        Raises:
            DataError: Another number of axes, values of another type, or too many bands.
        """
        from PIL import Image

        check_bands(values.shape, values.dtype, where)
        layers = values[:, :, None] if values.ndim == 2 else values
        kept = np.uint8 if values.dtype == np.uint8 else np.float32
        bands = (np.ascontiguousarray(layers[:, :, band].astype(kept)) for band in range(layers.shape[2]))
        return cls(tuple(Image.fromarray(band) for band in bands), where)

    @property
    def mode(self) -> str:
        """Pillow's mode of each band."""
        return self.bands[0].mode

    @property
    def deep(self) -> bool:
        """Whether values are float32."""
        return self.mode == "F"

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, as Pillow has them."""
        return self.bands[0].size

    @property
    def width(self) -> int:
        """Width in pixels."""
        return self.bands[0].width

    @property
    def height(self) -> int:
        """Height in pixels."""
        return self.bands[0].height

    def resize(self, size: tuple[int, int], resample: Pillow.Resampling) -> BandImage:
        """The image in another width and height."""
        return replace(self, bands=tuple(band.resize(size, resample) for band in self.bands))

    def crop(self, box: tuple[int, int, int, int]) -> BandImage:
        """The part from left and top to right and bottom, zero beyond the image."""
        return replace(self, bands=tuple(band.crop(box) for band in self.bands))

    def transpose(self, method: Pillow.Transpose) -> BandImage:
        """The mirrored or turned image."""
        return replace(self, bands=tuple(band.transpose(method) for band in self.bands))

    def on_canvas(self, size: tuple[int, int], left: int, top: int, fill: Sequence[float]) -> BandImage:
        """The image from a place on, on a canvas of a width and height with a value for each band."""
        from PIL import Image

        canvases = []
        for band, value in zip(self.bands, fill, strict=True):
            canvas = Image.new(band.mode, size, value if self.deep else int(value))
            canvas.paste(band, (left, top))
            canvases.append(canvas)
        return replace(self, bands=tuple(canvases))

    def repeated(self, count: int) -> BandImage:
        """The only band, ``count`` times."""
        return replace(self, bands=self.bands * count)

    @property
    def array(self) -> NDArray[np.generic]:
        """Values ``[H,W,C]``, uint8 or float32."""
        return np.stack([np.asarray(band) for band in self.bands], axis=-1)


def check_bands(shape: tuple[int, ...], dtype: np.dtype[np.generic], where: str) -> None:
    """Checks shape and type of an array of pixels; ``DataError`` names the file."""
    if len(shape) not in (2, 3) or not all(shape):
        raise DataError(f"{where}: an array of shape {list(shape)}", "save each image as [H,W] or [H,W,C]")
    if len(shape) == 3 and shape[2] > MOST_BANDS:
        what = f"{where}: {shape[2]} bands in an array of shape {list(shape)}"
        raise DataError(what, "save it with the bands last, [H,W,C]")
    if dtype.name not in DTYPES:
        raise DataError(f"{where}: values of type {dtype}", f"save them as {', '.join(DTYPES)}")


def pixels_of(image: Pillow.Image | BandImage) -> NDArray[np.generic]:
    """Values ``[H,W,C]``, uint8 or float32."""
    if isinstance(image, BandImage):
        return image.array
    pixels = np.asarray(image)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels
