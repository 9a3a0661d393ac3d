"""Types of arguments: what ``type=`` of an option makes of its text, with errors that show a right example."""

from __future__ import annotations

import argparse
import math


def text(word: str) -> str:
    """A text that is not empty; an empty one usually is a shell variable that is not set.

    Raises:
        ArgumentTypeError: It is empty or all spaces.
    """
    if not word.strip():
        raise argparse.ArgumentTypeError("is empty; leave the option out, or give it a value")
    return word


def whole_number(word: str) -> int:
    """An integer.

    Raises:
        ArgumentTypeError: It is none.
    """
    try:
        return int(word)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{word!r} is not a whole number") from None


def positive(word: str) -> int:
    """An integer above zero.

    Raises:
        ArgumentTypeError: It is none.
    """
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word!r} is not a whole number above 0")
    return int(word)


def minutes(word: str) -> float:
    """A finite number of minutes, zero or more.

    Raises:
        ArgumentTypeError: It is none.
    """
    try:
        number = float(word)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{word!r} is no number of minutes, such as 10")
    return number


def triple(word: str) -> tuple[float, float, float]:
    """One number for each of three channels, as in ``0.485,0.456,0.406``.

    Raises:
        ArgumentTypeError: It is not three numbers.
    """
    try:
        red, green, blue = (float(part) for part in word.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{word!r} is not three numbers, such as 0.485,0.456,0.406") from None
    return red, green, blue


def limit(word: str) -> tuple[str, float | None]:
    """The name and limit of a budget; the limit is None for ``NAME=none``.

    Raises:
        ArgumentTypeError: It is not ``NAME=VALUE``.
    """
    name, _, value = word.partition("=")
    try:
        return name, None if value == "none" else float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{word!r} is not NAME=VALUE, such as latency_p90_ms=5") from None
