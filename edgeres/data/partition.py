"""Seeded division of labelled images into disjoint parts, and balanced selection from each class."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from itertools import chain, zip_longest
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def partition(
    labels: Sequence[int], hashes: Sequence[str], quotas: Callable[[int], Sequence[int]], seed: int
) -> tuple[tuple[int, ...], ...]:
    """Divides images into parts with disjoint content.

    Images with equal hashes form one group, which goes to one part as a whole. Within a class, groups are ordered by
    the sha256 of seed and content, so the order of the files does not matter, and an added image moves no
    other one by more than a rank.

    Args:
        labels: Class index per image.
        hashes: Content hash per image.
        quotas: Function from the number of groups of a class to the number of groups in each part; the rest is the last
            part.
        seed: Seed of the order.

    Returns:
        Indices per part, ascending; one part more than there are quotas.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for index, content in enumerate(hashes):
        groups[content].append(index)
    classes: dict[int, list[str]] = defaultdict(list)
    for content, members in groups.items():
        classes[labels[members[0]]].append(content)
    parts: list[list[int]] = []
    for label in sorted(classes):
        order = sorted(classes[label], key=lambda content: _rank(seed, content))
        bounds = np.cumsum([0, *quotas(len(order))]).tolist()
        pieces = [order[low:high] for low, high in zip(bounds, [*bounds[1:], len(order)], strict=True)]
        parts.extend([] for _ in range(len(pieces) - len(parts)))
        for part, piece in zip(parts, pieces, strict=True):
            part.extend(index for content in piece for index in groups[content])
    return tuple(tuple(sorted(part)) for part in parts)


def round_robin(labels: Sequence[int], seed: int) -> tuple[int, ...]:
    """Every index once: one image of each class, then a second of each, and so on.

    Any prefix is therefore balanced, and a longer prefix contains the shorter one. One that is shorter
    than the list of classes holds a random selection of them.

    Args:
        labels: Class index per image.
        seed: Seed of the order of the classes, and of the order within each; they are shuffled independently.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for index, label in enumerate(labels):
        members[label].append(index)
    shuffled = [
        # A seed sequence takes no negative number, and label -1 is an unknown class.
        np.random.default_rng([seed, label + 1]).permutation(members[label]).tolist()
        for label in sorted(members, key=lambda label: _rank(seed, label))
    ]
    return tuple(index for index in chain.from_iterable(zip_longest(*shuffled)) if index is not None)


def _rank(seed: int, name: object) -> bytes:
    """A random sort key that depends on the seed and the name only."""
    return hashlib.sha256(f"{seed}/{name}".encode()).digest()
