"""``Preprocess``: the evaluation transform of a network, stored with its weights.

Equal to torchvision's ``Resize(antialias)``, ``CenterCrop``, ``ToTensor`` and ``Normalize`` on PIL images, because it
uses the same resampler (Pillow's) and the same roundings (torchvision/transforms/functional.py).
"""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from edgeres.data.bands import MOST_BANDS, BandImage, pixels_of
from edgeres.data.size import ResizeMode, Size, resized_size
from edgeres.errors import DataError
from edgeres.settings import digest, settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from PIL import Image as Pillow

    DecodedImage = Pillow.Image | BandImage


def _at_least_one_pixel(size: Size) -> Size:
    if size.height < 1:
        raise ValueError("Input should be at least 1 pixel")
    return size


def _listed(values: tuple[int, ...]) -> str:
    return ",".join(map(str, values))


_EIGHT_BITS = (0.0, 255.0)
MAX_PIXELS = 89_478_485  # largest image in pixels: Pillow's limit against decompression bombs, 0.25 GiB of RGB
_ORIENTATION = 0x0112  # EXIF tag of the orientation (CIPA DC-008, EXIF 2.32, section 4.6.4)
Positive = Annotated[float, Field(gt=0)]
Level = Annotated[int, Field(ge=0, le=255)]
Values = Annotated[tuple[float, ...], Field(min_length=1, max_length=MOST_BANDS)]
Deviations = Annotated[tuple[Positive, ...], Field(min_length=1, max_length=MOST_BANDS)]
ChannelOrder = Literal["rgb", "bgr", "grey", "bands"]
Crop = Annotated[Size, AfterValidator(_at_least_one_pixel)]
_NEWER = ("resize_mode", "fill", "range", "input", "layout")
"""Settings that are left out of plain data at their defaults, so that digests of older settings stay equal."""


@settings
class Preprocess:
    """Transform from an image to network input.

    ``resize`` is the size in pixels of the antialiased resizing; 0 does not resize. Its mode ``fit`` keeps the aspect
    and covers the size, so one number is the length of the shorter side; ``stretch`` does not keep the aspect;
    ``letterbox`` keeps the aspect inside the size and pads both ends evenly. ``crop`` is the size of the centre crop;
    smaller images are padded. Padding has the colour ``fill``, of 0..255, one value for all channels or one for each.
    ``channels`` ``rgb`` and ``bgr`` (Caffe's and OpenCV's) convert every image to three channels, ``grey`` to one,
    ``bands`` takes those of the file. ``range`` are the stored values that 0 and 1 stand for; None is 0 to 255, and
    refuses images of more than 8 bits. ``mean`` and ``std`` have one value for each channel on the scale 0..1, always
    in the order red, green, blue. ``exif`` ``apply`` first rotates an image by its EXIF orientation; ``ignore`` takes
    the pixels as stored, as torchvision does. ``input`` ``uint8`` is that of a network with the normalisation in its
    graph: pixels as they are, in the layout ``nchw`` or ``nhwc``.
    """

    resize: Size = Size.square(256)
    crop: Crop = Size.square(224)
    mean: Values = (0.485, 0.456, 0.406)
    std: Deviations = (0.229, 0.224, 0.225)
    interpolation: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    channels: ChannelOrder = "rgb"
    exif: Literal["ignore", "apply"] = "ignore"
    resize_mode: ResizeMode = "fit"
    fill: Annotated[tuple[Level, ...], Field(min_length=1, max_length=MOST_BANDS)] = (0,)
    range: tuple[float, float] | None = None
    input: Literal["float32", "uint8"] = "float32"
    layout: Literal["nchw", "nhwc"] = "nchw"

    @model_validator(mode="after")
    def _consistent(self) -> Preprocess:
        count = len(self.mean)
        fixed = {"rgb": 3, "bgr": 3, "grey": 1}.get(self.channels, count)
        if len(self.std) != count or count != fixed:
            raise ValueError(f"{count} means and {len(self.std)} standard deviations for channels {self.channels!r}")
        if len(self.fill) not in (1, count):
            raise ValueError(f"{len(self.fill)} values of fill for {count} channels")
        if self.range and not self.range[0] < self.range[1]:
            raise ValueError("range does not ascend")
        if self.input == "uint8" and self.range:
            raise ValueError("input uint8 takes images of 8 bits, without a range")
        if self.layout == "nhwc" and self.input == "float32":
            raise ValueError("layout nhwc is that of input uint8")
        return self

    @classmethod
    def usual(cls, count: int) -> Preprocess:
        """The customary transform for images of ``count`` channels; ImageNet's statistics are those of three."""
        if count == 3:
            return cls()
        return cls(mean=(0.5,) * count, std=(0.25,) * count, channels="grey" if count == 1 else "bands")

    @property
    def count(self) -> int:
        """Number of channels."""
        return len(self.mean)

    @model_serializer(mode="wrap")
    def _plain(self, handler: SerializerFunctionWrapHandler) -> dict[str, object]:
        data: dict[str, object] = handler(self)
        usual = {name: field.default for name, field in self.__dataclass_fields__.items()}
        return {name: value for name, value in data.items() if name not in _NEWER or getattr(self, name) != usual[name]}

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one network input, without the batch."""
        height, width = self.crop
        return (self.count, height, width) if self.layout == "nchw" else (height, width, self.count)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the network input."""
        return np.dtype(self.input)

    @property
    def digest(self) -> str:
        """sha256 of the canonical settings."""
        return digest(self)

    @property
    def resizes(self) -> bool:
        """Whether images are resized."""
        return self.resize.height > 0

    @property
    def label(self) -> str:
        """The transform as text: sizes, normalisation, and unusual settings."""
        verb = "resize" if self.resize_mode == "fit" else self.resize_mode
        resize = f"{verb} {self.resize.text}" if self.resizes else "no resize"
        mean, std = (
            "/".join(f"{value:.4g}" for value in (values[:1] if len(set(values)) == 1 else values))
            for values in (self.mean, self.std)
        )
        unusual: list[str] = [self.interpolation] if self.interpolation != "bilinear" else []
        unusual += {"bgr": ["BGR"], "grey": ["grey"], "bands": [f"{self.count} bands"]}.get(self.channels, [])
        unusual += [f"stored values {self.range[0]:g} to {self.range[1]:g}"] if self.range else []
        unusual += ["EXIF applied"] if self.exif == "apply" else []
        unusual += [f"padded with {_listed(self.fill)}"] if any(self.fill) else []
        return ", ".join([resize, f"crop {self.crop.text}", f"mean {mean}", f"std {std}", *unusual])

    @property
    def options(self) -> str:
        """The command-line options that state the transform."""
        mean, std = (",".join(f"{value:.10g}" for value in values) for values in (self.mean, self.std))
        text = f"--resize {self.resize.text} --crop {self.crop.text} --mean {mean} --std {std}"
        for name in ("interpolation", "channels", "exif", "resize_mode"):
            value = getattr(self, name)
            text += "" if value == getattr(Preprocess(), name) else f" --{name.replace('_', '-')} {value}"
        text += f" --range {self.range[0]:.10g},{self.range[1]:.10g}" if self.range else ""
        return text + (f" --fill {_listed(self.fill)}" if any(self.fill) else "")

    def followed_by(self, factor: Sequence[float], offset: Sequence[float]) -> Preprocess:
        """The transform with ``factor * x + offset`` of each channel behind it, in the order of ``channels``.

        Factors are above 0. ``f (p - m) / s + o = (p - (m - o s / f)) / (s / f)``.
        """
        step = -1 if self.channels == "bgr" else 1
        rows = list(zip(self.mean, self.std, factor[::step], offset[::step], strict=True))
        mean = tuple(mean - shift * std / scale for mean, std, scale, shift in rows)
        return replace(self, mean=mean, std=tuple(std / scale for _, std, scale, _ in rows))

    def resize_for(self, crop: Size, mode: ResizeMode | None = None) -> Size:
        """Size of the resizing for another crop, with this transform's margin; the crop itself in another mode."""
        if mode not in (None, "fit", self.resize_mode):
            return crop
        return self.resize.scaled(crop, self.crop)

    def crop_for(self, resize: Size, mode: ResizeMode | None = None) -> Size:
        """Size of the crop after another resizing: this transform's where it is a part of it, else the whole image."""
        part = resize.is_square and (mode or self.resize_mode) == "fit" and resize.holds(self.crop)
        return self.crop if part else resize

    def upright(self, image: DecodedImage) -> DecodedImage:
        """The image rotated by its EXIF orientation where ``exif`` is ``apply``; arrays of bands have none."""
        if self.exif == "ignore" or isinstance(image, BandImage) or orientation_of(image) == 1:
            return image
        from PIL import ImageOps

        return ImageOps.exif_transpose(image)

    def apply(self, image: DecodedImage) -> NDArray[Any]:
        """Network input of one image, in the order of ``channels``: normalised float32 ``[C,H,W]``, or uint8 pixels.

        Raises:
            DataError: The image has other bands, more or fewer bits than ``range`` states, or is so elongated that
                resizing it would exceed ``MAX_PIXELS``.
        """
        # torchvision pads before it crops and rounds differently there.
        window = self.centred(self.resized(self.as_channels(self.upright(image))), self.crop)
        if self.input == "uint8":
            stored = pixels_of(window)[..., ::-1] if self.channels == "bgr" else pixels_of(window)
            return np.ascontiguousarray(stored if self.layout == "nhwc" else stored.transpose(2, 0, 1))
        pixels = pixels_of(window).transpose(2, 0, 1).astype(np.float32, order="C")
        low, high = self.range or _EIGHT_BITS
        if low:
            pixels -= np.float32(low)
        pixels /= np.float32(high - low)
        pixels -= np.asarray(self.mean, dtype=np.float32).reshape(-1, 1, 1)
        pixels /= np.asarray(self.std, dtype=np.float32).reshape(-1, 1, 1)
        return np.ascontiguousarray(pixels[::-1]) if self.channels == "bgr" else pixels

    def as_channels(self, image: DecodedImage) -> DecodedImage:
        """The image with the network's channels: colours converted, other bands as they are.

        Raises:
            DataError: Other bands than the network's, more than 8 bits without a stated range, or 8 bits in a range
                beyond 255, which would be black.
        """
        if not (isinstance(image, BandImage) and image.deep) and self.range is not None and max(self.range) > 255:
            what = (
                f"an image of {image.width}x{image.height} pixels, mode {image.mode}: it is read as 8 bits a channel,"
            )
            what += f" and --range ends at {max(self.range):.10g}"
            raise DataError(what, "leave --range out for images of 8 bits; save 16-bit colours as .npy of [H,W,C]")
        if not isinstance(image, BandImage):
            if self.channels == "bands":
                return self.as_channels(BandImage(image.split(), f"an image of mode {image.mode}"))
            mode = "L" if self.channels == "grey" else "RGB"
            return image if image.mode == mode else image.convert(mode)
        bands = len(image.bands)
        if image.deep and self.range is None:
            what = f"{image.where}: more than 8 bits a channel"
            raise DataError(
                what, "state the values of black and white, such as --range 0,65535, or convert it to 8 bits"
            )
        if bands == self.count:
            return image
        if bands == 1 and self.channels in ("rgb", "bgr"):
            return image.repeated(3)
        what = f"{image.where}: {bands} bands, the network reads {self.count} ({self.channels})"
        hint = f"save {self.count} bands, or take a network of {bands} channels"
        raise DataError(what, hint if self.channels == "bands" else f"{hint} with --channels bands")

    def resized(self, image: DecodedImage) -> DecodedImage:
        """The image in the size ``resize``, by ``resize_mode``; where the aspect is kept, in the size that covers it.

        Raises:
            DataError: The image is so elongated that it would exceed ``MAX_PIXELS``.
        """
        from PIL import Image

        if not self.resizes:
            return image
        height, width = resized_size(Size(image.height, image.width), self.resize, self.resize_mode)
        if height * width > MAX_PIXELS:
            what = f"an image of {image.width}x{image.height} pixels would grow to {width}x{height}"
            raise DataError(what, "remove it from the data, or crop it to a usual aspect ratio")
        if (width, height) != image.size:
            image = image.resize((width, height), Image.Resampling[self.interpolation.upper()])
        return self.centred(image, self.resize) if self.resize_mode == "letterbox" else image

    def centred(self, image: DecodedImage, size: Size) -> DecodedImage:
        """The centre of an image in another size, cropped where it is larger and padded where it is smaller."""
        left, top = _offset(image.width, size.width), _offset(image.height, size.height)
        return self.cut(image, top, left, size)

    def cut(self, image: DecodedImage, top: int, left: int, size: Size) -> DecodedImage:
        """The part of an image that begins at a row and a column, padded with ``fill`` beyond the image."""
        if (left, top, size.width, size.height) == (0, 0, *image.size):
            return image
        low, high = self.range or _EIGHT_BITS
        if not any(self.fill) and not low:  # Image.crop pads with black
            return image.crop((left, top, left + size.width, top + size.height))
        fill = self.fill * (self.count if len(self.fill) == 1 else 1)
        if isinstance(image, BandImage):
            scaled = [low + (high - low) * value / 255 if image.deep else value for value in fill]
            return image.on_canvas((size.width, size.height), -left, -top, scaled)
        from PIL import Image

        canvas = Image.new(image.mode, (size.width, size.height), fill if len(fill) > 1 else fill[0])
        canvas.paste(image, (-left, -top))
        return canvas


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
