"""``predictions.json``: predictions of the float and the deployed network, image by image.

The paired test needs the predictions themselves, not two accuracies. An image is identified by the first 16 hex digits
of its sha256, 64 bits: among 50,000 images two different ones collide with probability 7e-11.
"""

from __future__ import annotations

import json
from collections import defaultdict
from itertools import count
from typing import TYPE_CHECKING, Literal

from edgeres.artifacts.results import Rows
from edgeres.errors import UsageError
from edgeres.settings import parse, parse_json, plain, settings

if TYPE_CHECKING:
    from collections.abc import Sequence

NAME = "predictions.json"
SCHEMA: Literal["edgeres.predictions/1"] = "edgeres.predictions/1"
_DIGITS = 16
_CLASSIFICATION = "classification"


@settings
class Answers:
    """Predictions on a validation split, in its order; ``images`` is the split's digest.

    They are class indices, or rows of figures where ``task`` keeps those.
    """

    schema: Literal["edgeres.predictions/1"] = SCHEMA
    images: str
    hashes: tuple[str, ...]
    labels: Rows
    float_predictions: Rows
    deployed_predictions: Rows
    task: str = _CLASSIFICATION

    def __post_init__(self) -> None:
        lengths = {len(self.hashes), len(self.labels), len(self.float_predictions), len(self.deployed_predictions)}
        if len(lengths) != 1 or not self.hashes:
            raise ValueError(f"columns of {sorted(lengths)} images")

    def __len__(self) -> int:
        return len(self.hashes)

    @classmethod
    def of(
        cls,
        images: str,
        hashes: Sequence[str],
        labels: Rows,
        before: Rows,
        after: Rows,
        *,
        task: str = _CLASSIFICATION,
    ) -> Answers:
        """Float and deployed predictions under whole sha256 hashes, which are cut to their first digits."""
        return cls(
            images=images,
            hashes=tuple(content[:_DIGITS] for content in hashes),
            labels=labels,
            float_predictions=before,
            deployed_predictions=after,
            task=task,
        )

    @property
    def keys(self) -> tuple[tuple[str, int], ...]:
        """A key for every image: its hash and its occurrence number among images of equal content."""
        occurrences: defaultdict[str, count[int]] = defaultdict(count)
        return tuple((content, next(occurrences[content])) for content in self.hashes)


def encode(answers: Answers) -> bytes:
    """JSON text with one column per line, so that diffs are readable; equal predictions give equal bytes."""
    data = plain(answers)
    if answers.task == _CLASSIFICATION:
        del data["task"]  # the first version's bytes
    columns = ",\n".join(f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in sorted(data.items()))
    return f"{{\n{columns}\n}}\n".encode()


def decode(text: str, where: str) -> Answers:
    """Reads ``predictions.json``; ``UsageError`` for anything that ``encode`` does not write."""
    return parse(Answers, parse_json(text, where, "compile again to write it anew"), where)


def shared(ours: Answers, theirs: Answers) -> list[tuple[int, int]]:
    """Positions of the common images of two runs in both, matched by content, in the order of the first.

    Raises:
        UsageError: Fewer than half of the images match, or some of them have another label in the other run.
    """
    places = {key: place for place, key in enumerate(theirs.keys)}
    pairs = [(place, places[key]) for place, key in enumerate(ours.keys) if key in places]
    most = max(len(ours), len(theirs))
    if ours.task != theirs.task:
        raise UsageError(f"the runs are of --task {ours.task} and of --task {theirs.task}", "compare runs of one task")
    if 2 * len(pairs) < most:
        raise UsageError(
            f"only {len(pairs)} of {most} images are in both runs ({len(ours)} here, {len(theirs)} in the baseline)",
            "compare runs on the same validation images",
        )
    moved = sum(ours.labels[here] != theirs.labels[there] for here, there in pairs)
    if moved:
        raise UsageError(
            f"{moved} of {len(pairs)} shared images have another label in the baseline",
            "make the labels or the order of the classes equal, then run the older one again",
        )
    return pairs
