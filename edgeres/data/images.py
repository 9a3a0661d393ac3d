"""One encoded image, decoded on demand; the only module that parses untrusted image files.

Both kinds of image have a source ``where`` for messages, the ``sha256`` of their content, an EXIF ``orientation``, 1
(upright) to 8, and a ``fingerprint``: equal for equal contents, rarely equal for others, and cheaper than the hash of a
large file.
"""

from __future__ import annotations

import hashlib
import os
import struct
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from edgeres.data.preprocess import MAX_PIXELS, orientation_of
from edgeres.errors import DataError
from edgeres.settings import sha256_file

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image as Pillow

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm"})  # file extensions of images, in lower case
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "PPM")
"""Enabled image parsers, whatever the extension; Pillow's EPS reader, for one, would start Ghostscript."""

DEEP_MODES = frozenset({"I", "F", "I;16", "I;16L", "I;16B", "I;16N"})
"""Pillow modes with more than 8 bits per channel: converting them to RGB saturates nearly every pixel."""
LFS_POINTER = "is a Git LFS pointer, not the file itself"
LFS_HINT = "fetch it with 'git lfs pull'"

_HEAD = 4096
_TAIL = 65536


@dataclass(frozen=True, eq=False)
class ImageFile:
    """An image file whose header has been read once; its fingerprint is its size and the hash of the first 4 KiB."""

    path: Path
    fingerprint: tuple[int, bytes]
    orientation: int = 1

    @classmethod
    def probe(cls, path: Path) -> ImageFile:
        """Reads the header and the end, a few kilobytes; ``DataError`` for an image that cannot be used."""
        from PIL import Image

        with _refusing_corrupt(path), path.open("rb") as stream:
            head = stream.read(_HEAD)
            size = stream.seek(0, 2)
            stream.seek(max(0, size - _TAIL))
            tail = stream.read()
            stream.seek(0)
            if is_lfs_pointer(head):
                raise DataError(f"{path} {LFS_POINTER}", LFS_HINT)
            with Image.open(stream, formats=FORMATS) as image:
                _check_header(path, image)
                _check_end(path, image.format, head, tail, size)
                # A PNG may have its EXIF after the pixels, which are not decoded to find it.
                states_exif = image.format != "PNG" or "exif" in image.info
                orientation = orientation_of(image) if states_exif else 1
        return cls(path, (size, hashlib.sha256(head).digest()), orientation)

    @property
    def where(self) -> str:
        """The path as UTF-8."""
        return os.fsencode(self.path).decode("utf-8", errors="replace")

    @cached_property
    def sha256(self) -> str:
        """sha256 of the file's bytes, read on first access."""
        with _refusing_corrupt(self.path):
            return sha256_file(self.path)

    def decode(self) -> Pillow.Image:
        """The RGB image without rotation, with its EXIF; JPEG's draft mode, which changes pixels, is off."""
        from PIL import Image

        with _refusing_corrupt(self.path), Image.open(self.path, formats=FORMATS) as image:
            _check_header(self.path, image)
            return image.convert("RGB")


@dataclass(frozen=True, eq=False)
class ArrayImage:
    """An upright image in memory or in a memory map: uint8 ``[H,W]`` (grey) or ``[H,W,3]`` (RGB)."""

    pixels: NDArray[np.uint8] = field(repr=False)
    where: str
    orientation: int = 1

    @cached_property
    def sha256(self) -> str:
        """sha256 of shape and pixels."""
        return hashlib.sha256(f"{self.pixels.shape}".encode() + self.pixels.tobytes()).hexdigest()

    @property
    def fingerprint(self) -> Hashable:
        """The hash itself."""
        return self.sha256

    def decode(self) -> Pillow.Image:
        """The pixels as RGB."""
        from PIL import Image

        return Image.fromarray(self.pixels).convert("RGB")


StoredImage = ImageFile | ArrayImage


def is_lfs_pointer(head: bytes) -> bool:
    """Whether a file that begins with ``head`` is a small text in place of a large file that was not fetched.

    The version is its first line (git-lfs docs/spec.md).
    """
    return head.startswith(b"version https://git-lfs.github.com/spec/")


def _check_header(path: Path, image: Pillow.Image) -> None:
    """Refuses images by their header, before any pixel is decoded."""
    if image.width * image.height > MAX_PIXELS:
        what = f"{path}: {image.width}x{image.height} pixels, more than {MAX_PIXELS:,}"
        raise DataError(what, "shrink the image or remove it")
    if image.mode in DEEP_MODES:
        raise DataError(f"{path}: more than 8 bits a channel (mode {image.mode})", "convert it to 8 bits")


def _check_end(path: Path, kind: str | None, head: bytes, tail: bytes, size: int) -> None:
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
def _refusing_corrupt(path: Path) -> Iterator[None]:
    """Converts exceptions of Pillow for files that are damaged, truncated or not images to ``DataError``."""
    from PIL import Image, UnidentifiedImageError

    try:
        yield
    except UnidentifiedImageError as failure:
        what = f"{path} is not an image of a known format ({', '.join(FORMATS)})"
        raise DataError(what, "convert it or remove it") from failure
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as failure:
        reason = failure.strerror if isinstance(failure, OSError) and failure.strerror else failure
        raise DataError(f"{path} cannot be read: {reason}", "repair the file or remove it") from failure
