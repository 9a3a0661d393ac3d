"""Class names of weights and folders, and the class order they give."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from edgeres.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_SHOWN = 20
"""Most names of a list in a message."""

_WORDNET = re.compile(r"(n\d{8})(?:[ _-]+(.+))?")
"""A WordNet id as in ImageNet's folders, with or without words after it."""

_NUMBERS = re.compile(r"\d+")

WAY_OUT = (
    "name the class folders as the network does, or write the folder names in the order of the network's outputs into "
    "a text file, one a line, and pass --classes FILE"
)


def read_names(path: Path) -> tuple[str, ...]:
    """Class names of a text file, one per line; empty lines are ignored.

    Raises:
        DataError: It cannot be read, is not UTF-8, or is empty.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as failure:
        raise DataError(f"--classes {path} cannot be read: {failure.strerror}", "check the path") from failure
    except UnicodeDecodeError as failure:
        raise DataError(f"--classes {path} is no UTF-8 text", "write one folder name a line") from failure
    names = tuple(line.strip() for line in lines if line.strip())
    if not names:
        raise DataError(f"--classes {path} is empty", "write one folder name a line")
    return names


def stated_order(names: Sequence[str], folders: Sequence[str], where: str) -> tuple[str, ...]:
    """The folder names in a stated order.

    Raises:
        DataError: Not the same names, or one of them twice.
    """
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if list(names).count(name) > 1})
        raise DataError(f"{where} has {_some(twice)} more than once", "name each class folder once")
    missing, unknown = sorted(set(folders) - set(names)), sorted(set(names) - set(folders))
    if missing or unknown:
        told = [f"lacks {_some(missing)}"] if missing else []
        told += [f"has {_some(unknown)}, which are no folders"] if unknown else []
        raise DataError(f"{where} {' and '.join(told)}", f"the class folders are {_some(sorted(folders))}")
    return tuple(names)


def matched_order(names: Sequence[str], folders: Sequence[str], where: str) -> tuple[str, ...]:
    """The folder names in the order of the network's outputs, found by name.

    Case, underscores and hyphens are ignored; ``tench, Tinca tinca`` matches by either name, ``n01440764_tench`` by the
    WordNet id or by the word. Folders that are named by WordNet ids or numbers alone keep their sorted order, as
    ImageNet has it, where the network's names are words.

    Args:
        names: The network's class names, in the order of its outputs.
        folders: As many folder names, in the order of the data.
        where: Source of the network's names, for the message.

    Raises:
        DataError: Some folder names match another output than their position, and not all match one;
            or none matches. The message has both lists.
    """
    places: dict[str, set[int]] = {}
    for index, name in enumerate(names):
        for variant in _variants(name):
            places.setdefault(variant, set()).add(index)
    found = [set().union(*(places.get(variant, set()) for variant in _variants(folder))) for folder in folders]
    if all(len(outputs) == 1 for outputs in found) and len(set().union(*found)) == len(folders):
        ordered = [""] * len(folders)
        for folder, outputs in zip(folders, found, strict=True):
            ordered[outputs.pop()] = folder
        return tuple(ordered)
    in_place = all(index in outputs for index, outputs in enumerate(found) if outputs)
    if in_place and (any(found) or _says_nothing(folders)):
        return tuple(folders)
    raise DataError(
        f"the class folders are not named like the network's classes ({where}): folders {_some(folders)}; "
        f"network {_some(names)}",
        WAY_OUT,
    )


def _says_nothing(folders: Sequence[str]) -> bool:
    """Whether all folders are named by WordNet ids or numbers."""
    ids = (_WORDNET.fullmatch(name) for name in folders)
    return all(found is not None and found[2] is None for found in ids) or all(map(_NUMBERS.fullmatch, folders))


def _variants(name: str) -> set[str]:
    """Names of a class, in lower case with single spaces."""
    parts = [name, *name.split(",")]
    if (found := _WORDNET.fullmatch(name.strip())) and found[2]:
        parts += [found[1], found[2], *found[2].split(",")]
    plain = (" ".join(re.split(r"[\s_-]+", part.casefold())).strip() for part in parts)
    return {part for part in plain if part}


def _some(names: Sequence[str]) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
