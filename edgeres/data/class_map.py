"""``ClassMap``: the network's output for each class of the data, stated, or matched by name, WordNet id or number.

The data may have fewer classes than the network. Class folders are sorted by name, and a network's outputs are in the
order of its training, so that position alone says nothing where either has names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from edgeres.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_SHOWN = 20  # most names of a list in a message
_WORDNET = re.compile(r"(n\d{8})(?:[ _-]+(.+))?")
"""A WordNet id as in ImageNet's folders, with or without words after it."""

NUMBER = re.compile(r"\d{1,9}")
_TIMM = "pip install timm, which has ImageNet's WordNet ids"
_KNOWN = 0.9  # share of ImageNet's names at their place by which a network's outputs are ImageNet's
_HINT = (
    "name the class folders as the network does, or pass --classes MAP: a CSV of folder,output with the number or the "
    "name of each folder's output, or a text with the names of all outputs in their order, one a line"
)


@dataclass(frozen=True, slots=True)
class ClassMap:
    """Index of the network's output for each class of the data, and the names of all outputs.

    An output that has a class of the data is named like it.
    """

    outputs: tuple[int, ...]
    names: tuple[str, ...]

    @classmethod
    def of(cls, outputs: Sequence[int], classes: Sequence[str], names: Sequence[str]) -> ClassMap:
        """The map onto a network whose outputs have ``names``; one that a class of the data has too gets its number."""
        named = [f"{name} (output {index})" if name in classes else name for index, name in enumerate(names)]
        for output, name in zip(outputs, classes, strict=True):
            named[output] = name
        return cls(tuple(outputs), tuple(named))

    @property
    def partial(self) -> bool:
        """Whether the data lack classes of the network."""
        return len(self.outputs) < len(self.names)


def matched_map(names: Sequence[str], folders: Sequence[str], where: str) -> ClassMap:
    """The map of class folders onto a network with named outputs, found by name.

    Case, underscores and hyphens are ignored; ``tench, Tinca tinca`` matches by either name, ``n01440764_tench`` by the
    WordNet id or by the word. Where the network's names are ImageNet's, WordNet ids alone match by ImageNet's list.
    Folders that are numbers are the indices of the outputs. As many folders as outputs that are named by WordNet ids or
    numbers alone keep their sorted order, as ImageNet has it, where the network's names are words.

    Raises:
        DataError: There are more folders than outputs; or not each folder matches one output, unless all that match any
            are at their place among as many outputs. The message has both lists.
    """
    matches = _matches(names, folders)
    distinct = len(set().union(*matches)) == len(folders)
    if all(len(outputs) == 1 for outputs in matches) and distinct:
        return ClassMap.of([outputs.pop() for outputs in matches], folders, names)
    numbers = all(map(NUMBER.fullmatch, folders))
    if len(folders) == len(names):
        in_place = all(index in outputs for index, outputs in enumerate(matches) if outputs)
        if in_place and (any(matches) or numbers or _wordless(folders)):
            return ClassMap(tuple(range(len(folders))), tuple(folders))
    elif numbers and (by_number := numbered_map(folders, names)) is not None:
        return by_number
    few = f"{len(folders)} folders, {len(names)} outputs; " if len(folders) != len(names) else ""
    lost = sorted(folder for folder, outputs in zip(folders, matches, strict=True) if not outputs)
    which = f"; no output is named like {some(lost)}" if lost and len(lost) < len(folders) else ""
    raise DataError(
        f"the class folders are not named like the network's classes ({where}): {few}folders {some(folders)}; "
        f"network {some(names)}{which}",
        _HINT if not _wordless(folders) or imagenet() else f"{_TIMM}; or {_HINT}",
    )


def numbered_map(folders: Sequence[str], names: Sequence[str]) -> ClassMap | None:
    """The map of folders that are the numbers of some outputs; None where one is no such number."""
    if not all(map(NUMBER.fullmatch, folders)):
        return None
    outputs = [int(folder) for folder in folders]
    if len(set(outputs)) < len(outputs) or max(outputs) >= len(names):
        return None
    return ClassMap.of(outputs, folders, names)


def imagenet_map(folders: Sequence[str]) -> ClassMap | None:
    """The map onto ImageNet's 1,000 outputs, for a network without names; None where a folder is none of them."""
    names = [f"{synset}, {words}" for synset, words in imagenet()]
    matches = _matches(names, folders)
    if not names or not all(len(outputs) == 1 for outputs in matches):
        return None
    outputs = [found.pop() for found in matches]
    return ClassMap.of(outputs, folders, names) if len(set(outputs)) == len(outputs) else None


def imagenet() -> tuple[tuple[str, str], ...]:
    """WordNet id and words of each of ImageNet's 1,000 classes, as the installed timm has them; empty without it."""
    package = find_spec("timm")
    folder = Path(next(iter(package.submodule_search_locations or ()), ""), "data", "_info") if package else Path()
    try:
        ids = (folder / "imagenet_synsets.txt").read_text(encoding="utf-8").split()
        lines = (folder / "imagenet_synset_to_lemma.txt").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ()
    words = {key: text for key, _, text in (line.partition("\t") for line in lines)}
    return tuple((synset, words.get(synset, "")) for synset in ids)


def some(names: Sequence[str]) -> str:
    """The first names of a list, and how many there are."""
    more = f", ... ({len(names)} in all)" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _matches(names: Sequence[str], folders: Sequence[str]) -> list[set[int]]:
    """Outputs whose name, or WordNet id, is one of each folder's."""
    places = named_outputs([*names])
    if any(_WORDNET.fullmatch(folder) for folder in folders):
        for index, synset in enumerate(_imagenet_ids(names)):
            places.setdefault(synset, set()).add(index)
    matches = []
    for folder in folders:
        match = _WORDNET.fullmatch(folder.strip())
        by_id = places.get(match[1], set()) if match else set()
        matches.append(set(by_id) or set().union(*(places.get(variant, set()) for variant in spellings(folder))))
    return matches


def _imagenet_ids(names: Sequence[str]) -> tuple[str, ...]:
    """The WordNet ids of ImageNet where a network's outputs are its classes; empty otherwise."""
    synsets = imagenet()
    if len(names) != len(synsets):
        return ()
    known = sum(bool(spellings(name) & spellings(words)) for name, (_, words) in zip(names, synsets, strict=True))
    return tuple(synset for synset, _ in synsets) if known >= _KNOWN * len(names) else ()


def named_outputs(names: Iterable[str]) -> dict[str, set[int]]:
    """Indices of the outputs under each of their names."""
    places: dict[str, set[int]] = {}
    for index, name in enumerate(names):
        for variant in spellings(name):
            places.setdefault(variant, set()).add(index)
    return places


def _wordless(folders: Sequence[str]) -> bool:
    """Whether all folders are WordNet ids without words."""
    matches = [_WORDNET.fullmatch(folder) for folder in folders]
    return all(match is not None and match[2] is None for match in matches)


def spellings(name: str) -> set[str]:
    """Names of a class, in lower case with single spaces."""
    parts = [name, *name.split(",")]
    if (match := _WORDNET.fullmatch(name.strip())) and match[2]:
        parts += [match[1], match[2], *match[2].split(",")]
    plain = (" ".join(re.split(r"[\s_-]+", part.casefold())).strip() for part in parts)
    return {part for part in plain if part}
