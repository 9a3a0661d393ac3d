"""``Preprocess``: the evaluation transform of a network, stored with its weights.

Equal to torchvision's ``Resize(antialias)``, ``CenterCrop``, ``ToTensor`` and ``Normalize`` on PIL images, because it
uses the same resampler (Pillow's) and the same roundings (torchvision/transforms/functional.py).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from edgeres.errors import DataError
from edgeres.settings import digest, settings

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image as Pillow

MAX_PIXELS = 89_478_485  # largest image in pixels: Pillow's limit against decompression bombs, 0.25 GiB of RGB
_ORIENTATION = 0x0112  # EXIF tag of the orientation (CIPA DC-008, EXIF 2.32, section 4.6.4)
Positive = Annotated[float, Field(gt=0)]
Resize = Annotated[int, Field(ge=0, le=8192)]
Crop = Annotated[int, Field(ge=1, le=8192)]


@settings
class Preprocess:
    """Transform from an image to network input.

    ``resize`` is the length of the shorter side in pixels after antialiased resizing; 0 does not resize. ``crop`` is
    the side of the centre crop; smaller images are padded with black. ``mean`` and ``std`` are always those of red,
    green and blue on the scale 0..1; channels in the order ``bgr`` are Caffe's and OpenCV's. ``exif`` ``apply`` first
    rotates an image by its EXIF orientation; ``ignore`` takes the pixels as stored, as torchvision does.
    """

    resize: Resize = 256
    crop: Crop = 224
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[Positive, Positive, Positive] = (0.229, 0.224, 0.225)
    interpolation: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    channels: Literal["rgb", "bgr"] = "rgb"
    exif: Literal["ignore", "apply"] = "ignore"

    @property
    def digest(self) -> str:
        """sha256 of the canonical settings."""
        return digest(self)

    @property
    def label(self) -> str:
        """The transform as text: sizes, normalisation, and unusual settings."""
        resize = f"resize {self.resize}" if self.resize else "no resize"
        mean, std = (
            "/".join(f"{value:.4g}" for value in (values[:1] if len(set(values)) == 1 else values))
            for values in (self.mean, self.std)
        )
        unusual: list[str] = [self.interpolation] if self.interpolation != "bilinear" else []
        unusual += ["BGR"] if self.channels == "bgr" else []
        unusual += ["EXIF applied"] if self.exif == "apply" else []
        return ", ".join([resize, f"crop {self.crop}", f"mean {mean}", f"std {std}", *unusual])

    @property
    def options(self) -> str:
        """The command-line options that state the transform."""
        mean, std = (",".join(f"{value:.10g}" for value in values) for values in (self.mean, self.std))
        text = f"--resize {self.resize} --crop {self.crop} --mean {mean} --std {std}"
        for name in ("interpolation", "channels", "exif"):
            value = getattr(self, name)
            text += "" if value == getattr(Preprocess(), name) else f" --{name} {value}"
        return text

    def upright(self, image: Pillow.Image) -> Pillow.Image:
        """The image rotated by its EXIF orientation where ``exif`` is ``apply``."""
        if self.exif == "ignore" or orientation_of(image) == 1:
            return image
        from PIL import ImageOps

        return ImageOps.exif_transpose(image)

    def apply(self, image: Pillow.Image) -> NDArray[np.float32]:
        """Normalised network input float32 ``[3,crop,crop]`` of one image, in the order of ``channels``.

        Anything but RGB is converted to it.

        Raises:
            DataError: The image is so elongated that resizing its shorter side would exceed ``MAX_PIXELS``.
        """
        image = self.upright(image)
        window = self._window(image if image.mode == "RGB" else image.convert("RGB"))
        pixels = np.asarray(window).transpose(2, 0, 1).astype(np.float32, order="C")
        pixels /= np.float32(255)
        pixels -= np.asarray(self.mean, dtype=np.float32).reshape(3, 1, 1)
        pixels /= np.asarray(self.std, dtype=np.float32).reshape(3, 1, 1)
        return pixels if self.channels == "rgb" else np.ascontiguousarray(pixels[::-1])

    def _window(self, image: Pillow.Image) -> Pillow.Image:
        """The resized and centre-cropped RGB image, ``crop`` by ``crop`` pixels."""
        if self.resize:
            image = self._resized(image)
        # Image.crop pads with black; torchvision pads first and rounds differently there.
        left, top = _offset(image.width, self.crop), _offset(image.height, self.crop)
        if (left, top, self.crop, self.crop) == (0, 0, *image.size):
            return image
        return image.crop((left, top, left + self.crop, top + self.crop))

    def _resized(self, image: Pillow.Image) -> Pillow.Image:
        """The image with its shorter side at ``resize`` and the longer one truncated to whole pixels."""
        from PIL import Image

        short, long = sorted(image.size)
        length = int(self.resize * long / short)
        if self.resize * length > MAX_PIXELS:
            what = f"an image of {image.width}x{image.height} pixels would grow to {self.resize}x{length}"
            raise DataError(what, "remove it from the data, or crop it to a usual aspect ratio")
        size = (self.resize, length) if image.width <= image.height else (length, self.resize)
        return image if size == image.size else image.resize(size, Image.Resampling[self.interpolation.upper()])


def orientation_of(image: Pillow.Image) -> int:
    """EXIF orientation of an image, 2 to 8; 1, upright, where there is none, or EXIF that cannot be read."""
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except (OSError, SyntaxError, ValueError, struct.error):  # exceptions of Pillow on damaged EXIF
        return 1
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def _offset(length: int, crop: int) -> int:
    """Start of the centre crop on one axis; negative where it is padded (CenterCrop in torchvision)."""
    return round((length - crop) / 2) if length >= crop else -((crop - length) // 2)
