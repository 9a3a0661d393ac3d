"""Hint for an unknown target: a family of devices, part of a name, a misspelling, or the command that lists targets."""

from __future__ import annotations

import re
from difflib import get_close_matches
from functools import cache
from typing import TYPE_CHECKING

from edgeres.errors import TargetError
from edgeres.settings import parse, settings
from edgeres.targets.yaml_files import yaml_files

if TYPE_CHECKING:
    from collections.abc import Iterable

_CLOSE = 0.7
"""Least similarity of a misspelling, as difflib's ratio; gpu and cpu have 0.67."""

_MOST = 8
"""Most names in a message."""

_LIST = "'edgeres targets' lists them"


@settings
class DeviceFamily:
    """Words for devices that are no target names.

    Attributes:
        words: Prefixes of such words, in lower case.
        about: Description, one clause.
        targets: Matching targets, the likeliest first.
    """

    words: tuple[str, ...]
    about: str
    targets: tuple[str, ...]

    def has(self, word: str) -> bool:
        """Whether a word belongs to the family, alone or followed by a model's name or number."""
        return any(re.match(rf"{re.escape(known)}(?![a-z])", word) for known in self.words)


@cache
def families() -> tuple[DeviceFamily, ...]:
    """The families in ``hints/targets.yaml``."""
    return tuple(parse(DeviceFamily, row, "hints/targets.yaml", TargetError) for row in yaml_files("hints")["targets"])


def target_hint(word: str, known: Iterable[str]) -> str:
    """Suggested targets for an unknown one, without its version, among the names and aliases of all targets."""
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
