"""The way out of an unknown target: a family of devices, a part of a name, a misspelling, or where the list is."""

from __future__ import annotations

import re
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import yaml

from edgeres.errors import TargetError
from edgeres.settings import parse, settings

if TYPE_CHECKING:
    from collections.abc import Iterable

_CLOSE = 0.7
"""Least similarity of a misspelling, as difflib's ratio; gpu and cpu, one letter of three apart, have 0.67."""

_MOST = 8
"""Names that a message lists."""

_LIST = "'edgeres targets' lists them"


@settings
class DeviceFamily:
    """Words for devices that are no target's name.

    Attributes:
        words: How such a word begins, in lower case.
        about: What is so of them, one clause.
        targets: What edgeres has for them, the likeliest first.
    """

    words: tuple[str, ...]
    about: str
    targets: tuple[str, ...]

    def has(self, word: str) -> bool:
        """Whether a word is one of the family's, alone or with a model's name or number behind it."""
        return any(re.match(rf"{re.escape(known)}(?![a-z])", word) for known in self.words)


@cache
def families() -> tuple[DeviceFamily, ...]:
    """The families in ``hints/targets.yaml``."""
    text = files("edgeres.targets").joinpath("hints", "targets.yaml").read_text(encoding="utf-8")
    rows: list[Any] = yaml.safe_load(text)
    return tuple(parse(DeviceFamily, row, "hints/targets.yaml", TargetError) for row in rows)


def target_hint(word: str, known: Iterable[str]) -> str:
    """What to write instead of an unknown target.

    Args:
        word: What was typed, without a version.
        known: Names and aliases of the targets there are.
    """
    asked, names = word.casefold().replace("_", "-"), sorted(known)
    if asked in names:
        return f"did you mean {asked!r}?"
    family = next((family for family in families() if family.has(asked)), None)
    if family is not None:
        return f"{family.about}; take one of {', '.join(family.targets)} ({_LIST})"
    inside = sorted((name for name in names if len(asked) >= 3 and asked in name), key=len)
    if inside:
        more = ", ..." if len(inside) > _MOST else ""
        return f"take one of {', '.join(inside[:_MOST])}{more} ({_LIST})"
    close = get_close_matches(asked, names, n=1, cutoff=_CLOSE)
    if not close:
        return f"{_LIST}: jetson, rtx, t4, x86, cpu, raspberry-pi, android and more"
    same_word = re.sub(r"\d", "", asked) == re.sub(r"\d", "", close[0])
    return f"the nearest there is: {close[0]!r} ({_LIST})" if same_word else f"did you mean {close[0]!r}?"
