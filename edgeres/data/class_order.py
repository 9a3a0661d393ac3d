"""Order of the data's classes among a network's outputs: stated, matched by name, or found from its predictions.

Class folders are sorted by name, and a network's outputs are in the order of its training. Where the two differ, every
prediction is counted as another class. The best order for some labelled images is a linear assignment (Kuhn 1955) on
their confusion matrix. It always fits these images at least as well as the present one, so only its accuracy on images
left out of the assignment counts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeres.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

_SHOWN = 20  # most names of a list in a message
_WORDNET = re.compile(r"(n\d{8})(?:[ _-]+(.+))?")
"""A WordNet id as in ImageNet's folders, with or without words after it."""

_NUMBERS = re.compile(r"\d+")
_HINT = (
    "name the class folders as the network does, or write the folder names in the order of the network's outputs into "
    "a text file, one a line, and pass --classes FILE"
)

_FOLDS = 5  # number of cross-validation folds
_ALPHA = 1e-3  # one-sided significance level of the exact sign test on images that only one order gets right
GAIN = 0.05  # least gain in accuracy on held-out images; smaller ones are confusions of the network
_TIE = 1e-6  # weight of the present order, so that a class without images keeps its index


def read_names(path: Path) -> tuple[str, ...]:
    """Class names of a UTF-8 text file, one per line; empty lines are ignored, and no names are a ``DataError``."""
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
    """The folder names in a stated order; ``DataError`` where it has other names, or one of them twice."""
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if list(names).count(name) > 1})
        raise DataError(f"{where} has {_some(twice)} more than once", "name each class folder once")
    missing, unknown = sorted(set(folders) - set(names)), sorted(set(names) - set(folders))
    if missing or unknown:
        parts = [f"lacks {_some(missing)}"] if missing else []
        parts += [f"has {_some(unknown)}, which are no folders"] if unknown else []
        raise DataError(f"{where} {' and '.join(parts)}", f"the class folders are {_some(sorted(folders))}")
    return tuple(names)


def matched_order(names: Sequence[str], folders: Sequence[str], where: str) -> tuple[str, ...]:
    """The folder names in the order of the network's outputs, found by name; there are as many names as folders.

    Case, underscores and hyphens are ignored; ``tench, Tinca tinca`` matches by either name, ``n01440764_tench`` by the
    WordNet id or by the word. Folders that are named by WordNet ids or numbers alone keep their sorted order, as
    ImageNet has it, where the network's names are words.

    Raises:
        DataError: Some folder names match another output than their position, and not all match one;
            or none matches. The message has both lists.
    """
    places: dict[str, set[int]] = {}
    for index, name in enumerate(names):
        for variant in _variants(name):
            places.setdefault(variant, set()).add(index)
    matches = [set().union(*(places.get(variant, set()) for variant in _variants(folder))) for folder in folders]
    if all(len(outputs) == 1 for outputs in matches) and len(set().union(*matches)) == len(folders):
        ordered = [""] * len(folders)
        for folder, outputs in zip(folders, matches, strict=True):
            ordered[outputs.pop()] = folder
        return tuple(ordered)
    in_place = all(index in outputs for index, outputs in enumerate(matches) if outputs)
    ids = [_WORDNET.fullmatch(folder) for folder in folders]
    wordless = all(match and match[2] is None for match in ids) or all(map(_NUMBERS.fullmatch, folders))
    if in_place and (any(matches) or wordless):
        return tuple(folders)
    raise DataError(
        f"the class folders are not named like the network's classes ({where}): folders {_some(folders)}; "
        f"network {_some(names)}",
        _HINT,
    )


def _variants(name: str) -> set[str]:
    """Names of a class, in lower case with single spaces."""
    parts = [name, *name.split(",")]
    if (match := _WORDNET.fullmatch(name.strip())) and match[2]:
        parts += [match[1], match[2], *match[2].split(",")]
    plain = (" ".join(re.split(r"[\s_-]+", part.casefold())).strip() for part in parts)
    return {part for part in plain if part}


def _some(names: Sequence[str]) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


@dataclass(frozen=True, slots=True)
class Relabelling:
    """A class order that fits a network's predictions significantly better: the output for each class of the data.

    ``before`` is the number of images right in the present order, ``after`` in the other one, each under an order found
    without it.
    """

    outputs: tuple[int, ...]
    before: int
    after: int
    images: int

    @property
    def share(self) -> float:
        """Share of the images right in the other order."""
        return self.after / self.images

    def names(self, classes: tuple[str, ...]) -> tuple[str, ...]:
        """Names of the data's classes in the order of the network's outputs."""
        return tuple(classes[index] for index in np.argsort(self.outputs))


def find_relabelling(
    answers: NDArray[np.int64], labels: NDArray[np.int64], classes: int, tests: int = 1
) -> Relabelling | None:
    """The class order that fits predictions ``[N]`` to labels ``[N]`` better by ``GAIN``, significantly; None without.

    ``tests`` is the number of tested networks or transforms, which divides the level (Bonferroni).
    """
    from scipy.stats import binom

    count = len(labels)
    fold = _folds(labels)
    right = np.zeros(count, dtype=bool)
    for part in range(_FOLDS):
        held = fold == part
        outputs = _assigned(answers[~held], labels[~held], classes)
        right[held] = answers[held] == outputs[labels[held]]
    before = answers == labels
    gained, lost = int((right & ~before).sum()), int((before & ~right).sum())
    if gained - lost < GAIN * count or binom.sf(gained - 1, gained + lost, 0.5) >= _ALPHA / tests:
        return None
    outputs = _assigned(answers, labels, classes)
    return Relabelling(tuple(int(output) for output in outputs), int(before.sum()), int(right.sum()), count)


def _folds(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Fold of each image ``[N]``, stratified by class."""
    seen: dict[int, int] = {}
    folds = np.zeros(len(labels), dtype=np.int64)
    for index, label in enumerate(labels.tolist()):
        seen[label] = seen.get(label, -1) + 1
        folds[index] = (seen[label] + label) % _FOLDS
    return folds


def _assigned(answers: NDArray[np.int64], labels: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Output of each class ``[classes]``, one per class, that maximises the number of correct predictions."""
    from scipy.optimize import linear_sum_assignment

    matrix = _TIE * np.eye(classes)
    np.add.at(matrix, (labels, answers), 1)
    _, outputs = linear_sum_assignment(matrix, maximize=True)
    return np.asarray(outputs, dtype=np.int64)
