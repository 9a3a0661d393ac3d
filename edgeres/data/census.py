"""``Census``: what the images of a data set are as stored, counted from the headers that were read at opening."""

from __future__ import annotations

from collections import Counter
from statistics import median_low
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from edgeres.settings import settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from edgeres.data.images import Header
    from edgeres.data.split import Split

Count = Annotated[int, Field(ge=0)]
Counts = dict[str, Count]

GREY = frozenset({"1", "L", "LA", "La", "I", "F", "I;16", "I;16L", "I;16B", "I;16N"})
"""Pillow modes of one channel of brightness."""


@settings
class Range:
    """Smallest, median and largest of some lengths in pixels; the median is one of them."""

    low: Count
    median: Count
    high: Count


@settings
class MaskCensus:
    """Pixels of all masks as stored, by class name in the order of the outputs, and the number of ignored ones.

    ``images`` has the number of images in which a class occurs.
    """

    pixels: dict[str, Count]
    images: dict[str, Count]
    ignored: Count

    @classmethod
    def of(cls, classes: Sequence[str], splits: Sequence[Split]) -> MaskCensus | None:
        """Counts the masks of some splits; None where they have none."""
        masked = [split for split in splits if split.masks is not None]
        if not masked:
            return None
        counts = np.array([row for split in masked for row in split.annotations], dtype=np.int64)
        every = sum(image.header.width * image.header.height for split in masked for image in split.images)
        pixels, present = counts.sum(0).tolist(), (counts > 0).sum(0).tolist()
        return cls(
            pixels=dict(zip(classes, pixels, strict=True)),
            images=dict(zip(classes, present, strict=True)),
            ignored=every - sum(pixels),
        )

    @property
    def row(self) -> tuple[str, str]:
        """The census as a row of a table: the share of each class, the commonest first."""
        total = max(1, sum(self.pixels.values()) + self.ignored)
        ranked = sorted(self.pixels.items(), key=lambda item: -item[1])
        shares = [f"{name} {100 * count / total:.3g} %" for name, count in (*ranked, ("ignored", self.ignored))]
        return "Pixels of the masks", ", ".join(shares)


@settings
class Census:
    """Counts of images over all kinds of them, calibration included.

    Attributes:
        formats: Images by encoded format; ``array`` without one.
        modes: Images by Pillow mode: RGB, L (grey), P (palette), CMYK, RGBA, ...
        depths: Images by bits of a stored channel.
        orientations: Images by EXIF orientation; ``1`` is upright.
        alpha: Images with transparency, which is ignored.
        grey: Images of one channel of brightness; palettes are not among them.
        sizes: Number of distinct sizes.
        commonest: The commonest size, ``WIDTHxHEIGHT``, the smaller of two as common ones.
        masks: Pixels of the masks of the images, None without masks.
    """

    images: Count
    formats: Counts
    modes: Counts
    depths: Counts
    orientations: Counts
    alpha: Count
    grey: Count
    widths: Range
    heights: Range
    sizes: Count
    commonest: str
    masks: MaskCensus | None = None

    @classmethod
    def of(cls, headers: Iterable[Header], masks: MaskCensus | None = None) -> Census | None:
        """Counts headers; None without any."""
        every = list(headers)
        if not every:
            return None
        sizes = Counter((header.width, header.height) for header in every)
        width, height = min(sizes, key=lambda size: (-sizes[size], size))
        modes = _counted(header.mode for header in every)
        return cls(
            images=len(every),
            formats=_counted(header.format for header in every),
            modes=modes,
            depths=_counted(str(header.depth) for header in every),
            orientations=_counted(str(header.orientation) for header in every),
            alpha=sum(header.alpha for header in every),
            grey=sum(count for mode, count in modes.items() if mode in GREY),
            widths=_range([header.width for header in every]),
            heights=_range([header.height for header in every]),
            sizes=len(sizes),
            commonest=f"{width}x{height}",
            masks=masks,
        )

    @property
    def rows(self) -> tuple[tuple[str, str], ...]:
        """The census as a table: what is counted, and the counts."""
        turned = {value: count for value, count in self.orientations.items() if value != "1"}
        rows = [
            ("Images", f"{self.images:,}"),
            ("Formats", _listed(self.formats)),
            ("Colour (Pillow's mode)", _listed(self.modes)),
            ("Grey among colour", f"{self.grey:,} of {self.images:,}" if 0 < self.grey < self.images else "none"),
            ("Transparency", f"{self.alpha:,}, which is ignored" if self.alpha else "none"),
            ("Bits of a channel", _listed(self.depths)),
            ("EXIF orientations", _listed(turned) if turned else "none, all upright"),
            ("Width", _spread(self.widths)),
            ("Height", _spread(self.heights)),
            ("Sizes", f"{self.sizes:,}, the commonest {self.commonest}"),
        ]
        return (*rows, self.masks.row) if self.masks else tuple(rows)


def _counted(values: Iterable[str]) -> Counts:
    """How often each value is there, in the order of the values."""
    return dict(sorted(Counter(values).items()))


def _range(lengths: list[int]) -> Range:
    return Range(low=min(lengths), median=median_low(lengths), high=max(lengths))


def _listed(counts: Counts) -> str:
    """``JPEG 900, PNG 12``, the commonest first."""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{name} {count:,}" for name, count in ranked)


def _spread(lengths: Range) -> str:
    if lengths.low == lengths.high:
        return f"{lengths.low:,} px"
    return f"{lengths.low:,} to {lengths.high:,} px, median {lengths.median:,}"
