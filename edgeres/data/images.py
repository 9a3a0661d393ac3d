"""One encoded image, decoded on demand; the only module that parses untrusted image files.

Both kinds of image have a source ``where`` for messages, the ``sha256`` of their content, a ``header``, and a
``fingerprint``: equal for equal contents, rarely equal for others, and cheaper than the hash of a large file.
"""

from __future__ import annotations

import hashlib
import struct
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np

from edgeres.data.bands import BandImage, check_bands
from edgeres.data.preprocess import MAX_PIXELS, orientation_of
from edgeres.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

    from numpy.typing import NDArray
    from PIL import Image as Pillow

    from edgeres.data.content import Content, Stream
    from edgeres.data.preprocess import ChannelOrder, DecodedImage

EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff", ".npy"}
)  # file extensions of images, in lower case
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "PPM", "TIFF")
"""Enabled image parsers, whatever the extension; Pillow's EPS reader, for one, would start Ghostscript."""

DEEP_MODES = frozenset({"I", "F", "I;16", "I;16L", "I;16B", "I;16N"})
"""Pillow modes with more than 8 bits per channel: converting them to RGB saturates nearly every pixel."""
LFS_POINTER = "is a Git LFS pointer, not the file itself"
LFS_HINT = "fetch it with 'git lfs pull'"

_NPY = b"\x93NUMPY"  # magic of NumPy's format (numpy.lib.format)
_HEAD = 4096
_TAIL = 65536


@dataclass(frozen=True, slots=True)
class Header:
    """What an encoded image states before its pixels: format, Pillow's mode, size in pixels, and EXIF orientation.

    ``depth`` is the number of bits of a stored channel, ``bands`` the number of channels, ``orientation`` 1 (upright)
    to 8, ``alpha`` whether there is transparency.
    """

    format: str
    mode: str
    width: int
    height: int
    depth: int = 8
    orientation: int = 1
    alpha: bool = False
    bands: int = 3


@dataclass(frozen=True, eq=False)
class EncodedImage:
    """An encoded image whose header has been read once; its fingerprint is its size and the hash of the first 4 KiB."""

    content: Content
    fingerprint: tuple[int, bytes]
    header: Header

    @classmethod
    def probe(cls, content: Content) -> EncodedImage:
        """Reads the header and the end, a few kilobytes; ``DataError`` for an image that cannot be used."""
        from PIL import Image

        with _refusing_corrupt(content.where), content.open() as stream:
            head = stream.read(_HEAD)
            size = stream.seek(0, 2)
            stream.seek(max(0, size - _TAIL))
            tail = stream.read()
            stream.seek(0)
            if is_lfs_pointer(head):
                raise DataError(f"{content.where} {LFS_POINTER}", LFS_HINT)
            if head.startswith(_NPY):
                header = _array_header(stream, size, content.where)
                return cls(content, (size, hashlib.sha256(head).digest()), header)
            with Image.open(stream, formats=FORMATS) as image:
                _check_header(content.where, image)
                _check_end(content.where, image.format, head, tail, size)
                header = _header(image, head)
        return cls(content, (size, hashlib.sha256(head).digest()), header)

    @property
    def where(self) -> str:
        """Where the content is, as UTF-8."""
        return self.content.where

    @property
    def orientation(self) -> int:
        """EXIF orientation, 1 (upright) to 8."""
        return self.header.orientation

    @cached_property
    def sha256(self) -> str:
        """sha256 of the encoded bytes, read on first access."""
        with _refusing_corrupt(self.where), self.content.open() as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    def decode(self, channels: ChannelOrder = "rgb") -> DecodedImage:
        """The image without rotation, with its EXIF; JPEG's draft mode, which changes pixels, is off.

        Images of 8 bits are RGB or grey, as ``channels`` has it; arrays, deeper images and those whose ``bands`` are
        wanted as stored are a ``BandImage``.
        """
        from PIL import Image

        if self.header.format == "NPY":
            with _refusing_corrupt(self.where), self.content.open() as stream:
                return BandImage.of(np.load(stream, allow_pickle=False), self.where)
        with (
            _refusing_corrupt(self.where),
            self.content.open() as stream,
            Image.open(stream, formats=FORMATS) as image,
        ):
            _check_header(self.where, image)
            if image.mode in DEEP_MODES:
                return BandImage.of(np.asarray(image), self.where)
            if channels != "bands":
                return image.convert("L" if channels == "grey" else "RGB")
            return BandImage(image.split(), self.where)

    def stored_values(self) -> NDArray[np.uint8]:
        """Grey values, or palette indices of an indexed image, as stored, uint8 ``[H,W]``."""
        from PIL import Image

        with (
            _refusing_corrupt(self.where),
            self.content.open() as stream,
            Image.open(stream, formats=FORMATS) as image,
        ):
            _check_header(self.where, image)
            return np.asarray(image, dtype=np.uint8)


@dataclass(frozen=True, eq=False)
class ArrayImage:
    """An upright image in memory or in a memory map: uint8 ``[H,W]`` (grey) or ``[H,W,3]`` (RGB)."""

    pixels: NDArray[np.uint8] = field(repr=False)
    where: str
    orientation: int = 1

    @property
    def header(self) -> Header:
        """Mode and size of the pixels."""
        height, width = self.pixels.shape[:2]
        return _shared(Header("array", "L" if self.pixels.ndim == 2 else "RGB", width, height, 8, self.orientation))

    @cached_property
    def sha256(self) -> str:
        """sha256 of shape and pixels."""
        return hashlib.sha256(f"{self.pixels.shape}".encode() + self.pixels.tobytes()).hexdigest()

    @property
    def fingerprint(self) -> Hashable:
        """The hash itself."""
        return self.sha256

    def decode(self, channels: ChannelOrder = "rgb") -> DecodedImage:
        """The pixels as RGB or grey, or their bands as they are."""
        from PIL import Image

        if channels == "bands":
            return BandImage.of(self.pixels, self.where)
        return Image.fromarray(self.pixels).convert("L" if channels == "grey" else "RGB")


StoredImage = EncodedImage | ArrayImage


def is_lfs_pointer(head: bytes) -> bool:
    """Whether a file that begins with ``head`` is a small text in place of a large file that was not fetched.

    The version is its first line (git-lfs docs/spec.md).
    """
    return head.startswith(b"version https://git-lfs.github.com/spec/")


@lru_cache(4096)
def _shared(header: Header) -> Header:
    """One object for equal headers, of which a data set has few."""
    return header


def _header(image: Pillow.Image, head: bytes) -> Header:
    """The header of an opened image whose file begins with ``head``; no pixel is decoded."""
    # A PNG may have its EXIF after the pixels, which are not decoded to find it.
    states_exif = image.format != "PNG" or "exif" in image.info
    orientation = orientation_of(image) if states_exif else 1
    depth = {"1": 1, "I": 32, "F": 32}.get(image.mode, 16 if image.mode.startswith("I;16") else 8)
    if image.format == "PNG":  # Pillow reads 16-bit colour as 8 bits; IHDR has the stored depth (PNG, 11.2.2)
        depth = head[24]
    alpha = image.has_transparency_data
    # A MPO of several pictures is a JPEG to whoever reads its first.
    name = "JPEG" if image.format == "MPO" else str(image.format)
    return _shared(
        Header(name, image.mode, image.width, image.height, depth, orientation, alpha, len(image.getbands()))
    )


def _array_header(stream: Stream, size: int, where: str) -> Header:
    """The header of a ``.npy`` file of ``size`` bytes; its values are not read."""
    version = np.lib.format.read_magic(stream)
    reading = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = reading(stream)
    check_bands(shape, dtype, where)
    if shape[0] * shape[1] > MAX_PIXELS:
        raise DataError(f"{where}: {shape[1]}x{shape[0]} pixels, more than {MAX_PIXELS:,}", "shrink it or remove it")
    if stream.tell() + dtype.itemsize * int(np.prod(shape)) > size:
        raise DataError(f"{where} is cut short, its end is missing", "copy the file again or remove it")
    bands = shape[2] if len(shape) == 3 else 1
    return _shared(Header("NPY", f"{dtype.name}x{bands}", shape[1], shape[0], 8 * dtype.itemsize, bands=bands))


def _check_header(path: str, image: Pillow.Image) -> None:
    """Refuses images by their header, before any pixel is decoded."""
    if image.width * image.height > MAX_PIXELS:
        what = f"{path}: {image.width}x{image.height} pixels, more than {MAX_PIXELS:,}"
        raise DataError(what, "shrink the image or remove it")


def _check_end(path: str, kind: str | None, head: bytes, tail: bytes, size: int) -> None:
    """Refuses truncated files without decoding them.

    JPEG ends with an end-of-image marker and PNG with an IEND chunk, possibly followed by camera data; BMP and WebP
    begin with their length.
    """
    complete = {
        "JPEG": b"\xff\xd9" in tail,
        "PNG": b"IEND" in tail,
        "BMP": int.from_bytes(head[2:6], "little") <= size,
        "WEBP": int.from_bytes(head[4:8], "little") + 8 <= size,
    }
    if not complete.get(kind or "", True):
        raise DataError(f"{path} is cut short, its end is missing", "copy the file again or remove it")


@contextmanager
def _refusing_corrupt(path: str) -> Iterator[None]:
    """Converts exceptions of Pillow for files that are damaged, truncated or not images to ``DataError``."""
    from PIL import Image, UnidentifiedImageError

    try:
        yield
    except UnidentifiedImageError as failure:
        what = f"{path} is not an image of a known format ({', '.join(FORMATS)})"
        raise DataError(what, "convert it or remove it") from failure
    except Image.DecompressionBombError as failure:
        raise DataError(f"{path}: more than {MAX_PIXELS:,} pixels", "shrink the image or remove it") from failure
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as failure:
        reason = failure.strerror if isinstance(failure, OSError) and failure.strerror else failure
        raise DataError(f"{path} cannot be read: {reason}", "repair the file or remove it") from failure
