"""``Size``: height and width of an image in pixels, written ``224`` where they are equal and ``96x160`` elsewhere."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic_core import PydanticCustomError, core_schema

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic import GetCoreSchemaHandler

ResizeMode = Literal["fit", "stretch", "letterbox"]

LARGEST = 8192
"""Most pixels of one side."""

_TEXT = re.compile(r"(\d{1,9})(?:x(\d{1,9}))?")


class Size(NamedTuple):
    """Height and width in pixels; ``0`` for both stands for the size that an image already has.

    Plain data, YAML and command lines have the integer ``224`` for a square and the text ``96x160``, height first, for
    anything else.
    """

    height: int
    width: int

    @classmethod
    def square(cls, side: int) -> Size:
        """A square of ``side`` pixels."""
        return cls(side, side)

    @classmethod
    def read(cls, value: object) -> Size:
        """A size from an integer, a text, or a pair of height and width.

        Raises:
            ValueError: It is none of these, or a side is negative, above ``LARGEST``, or zero beside another.
        """
        match value:
            case bool():
                raise ValueError("is no size")
            case int():
                sides = (value, value)
            case str() if match := _TEXT.fullmatch(value.strip().lower()):
                sides = (int(match[1]), int(match[2] or match[1]))
            case (int(height), int(width)):
                sides = (height, width)
            case _:
                raise ValueError("should be a whole number of pixels, or HEIGHTxWIDTH such as 96x160")
        if not 0 <= min(sides) <= max(sides) <= LARGEST or (0 in sides and sides != (0, 0)):
            raise ValueError(f"should be at most {LARGEST} pixels a side, and at least 1")
        return cls(*sides)

    @property
    def plain(self) -> int | str:
        """The size as plain data."""
        return self.height if self.is_square else f"{self.height}x{self.width}"

    @property
    def text(self) -> str:
        """``224`` or ``96x160``."""
        return str(self.plain)

    @property
    def is_square(self) -> bool:
        """Whether height and width are equal."""
        return self.height == self.width

    @property
    def area(self) -> int:
        """Number of pixels."""
        return self.height * self.width

    def holds(self, other: Size) -> bool:
        """Whether neither side of the other size is longer."""
        return self.height >= other.height and self.width >= other.width

    def scaled(self, numerator: Size, denominator: Size) -> Size:
        """Each side times ``numerator / denominator`` of the same side, rounded."""
        return Size(
            round(self.height * numerator.height / denominator.height),
            round(self.width * numerator.width / denominator.width),
        )

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        def validate(value: object) -> Size:
            try:
                return cls.read(value)
            except ValueError as failure:
                raise PydanticCustomError("size", "Input {why}", {"why": str(failure)}) from None

        return core_schema.no_info_plain_validator_function(
            validate, serialization=core_schema.plain_serializer_function_ser_schema(lambda size: size.plain)
        )


def resized_size(image: Size, size: Size, mode: ResizeMode) -> Size:
    """Height and width of an image after it is resized to ``size``.

    Where the aspect is kept, the other side is truncated to whole pixels in the mode ``fit``, as in torchvision, and
    rounded in the mode ``letterbox``, as in Ultralytics.
    """
    if mode == "stretch":
        return size
    whole: Callable[[float], int] = int if mode == "fit" else round
    tall = size.height * image.width <= size.width * image.height  # the width decides where the size is covered
    if tall is (mode == "fit"):
        return Size(max(1, whole(size.width * image.height / image.width)), size.width)
    return Size(size.height, max(1, whole(size.height * image.width / image.height)))
