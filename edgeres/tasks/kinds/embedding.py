"""Embedding: images of one identity have outputs of a high cosine, and a query finds another image of its own.

Recall@1 is leave-one-out: each image is the query, all others of the split are the gallery (Musgrave et al. 2020,
arXiv 2003.08505, section 3). The queries share a gallery, so they are not quite independent; that the same image is
paired with itself takes most of that away.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from edgeres.errors import DataError
from edgeres.gate.paired_test import Paired
from edgeres.metrics import cosines, top1, unit_rows
from edgeres.tasks.comparison import Comparison, Hits
from edgeres.tasks.task import HitTask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from edgeres.data.chance import ChanceTest
    from edgeres.data.preprocess import Preprocess
    from edgeres.data.split import Split
    from edgeres.tasks.task import Array, Outputs

_BLOCK = 1024
"""Queries whose cosines to the gallery are in memory at a time."""
_ALONE = -1
"""Label of an image whose identity has no other one, which is in the gallery and is no query."""


class Embedding(HitTask):
    """Recall@1 of embeddings ``[N,D]`` by cosine; the divergence is 1 less the cosine to float's."""

    name = "embedding"
    metric = "recall@1"
    divergence = "1 - cosine"
    unit = ""
    measures_outputs = True
    label_kind = "identity"

    def check_head(self, classes: Sequence[str], outputs: int) -> None:
        """Two dimensions or more; identities need no output."""
        if outputs < 2:
            raise DataError(f"an embedding of {outputs} dimension has no angle", "pass --task binary for one logit")

    def labels(self, split: Split, preprocess: Preprocess) -> Array:
        """Identity of each image ``[N]``; -1 where no other image has it."""
        counts = Counter(split.labels)
        return np.asarray([label if counts[label] > 1 else _ALONE for label in split.labels], dtype=np.int64)

    def predictions(self, outputs: Outputs, labels: Array) -> Array:
        """Identity of the nearest other image ``[N]``."""
        units = unit_rows(outputs)
        nearest = np.empty(len(units), dtype=np.int64)
        for start in range(0, len(units), _BLOCK):
            block = units[start : start + _BLOCK] @ units.T
            block[np.arange(len(block)), start + np.arange(len(block))] = -np.inf
            nearest[start : start + _BLOCK] = block.argmax(1)
        return np.asarray(labels[nearest], dtype=np.int64)

    def score(self, predictions: Array, labels: Array) -> float:
        """Share of queries whose nearest other image has their identity, in percent."""
        queries = labels != _ALONE
        return top1(predictions[queries].tolist(), labels[queries].tolist()) if queries.any() else 0.0

    def compare(self, before: Array, after: Array, labels: Array) -> Comparison:
        """Queries that one network alone answers, by Tango's score test."""
        queries = labels != _ALONE
        if not queries.any():
            raise DataError("no identity of these images has two of them", "give two images or more of each identity")
        return Hits(Paired.of(*(one[queries].tolist() for one in (before, after, labels))))

    def divergences(self, reference: Outputs, outputs: Outputs) -> NDArray[np.float64]:
        """1 less the cosine of each image's embedding to float's ``[N]``."""
        return np.maximum(1 - cosines(reference, outputs), 0.0)

    def direction(self, outputs: Tensor, signs: Tensor) -> Tensor:
        """``(e - z <z, e>) / |x|`` for ``z = x / |x|``: its covariance is the curvature of the cosine."""
        norms = outputs.norm(dim=1, keepdim=True).clamp_min(1e-12)
        z = outputs / norms
        away: Tensor = (signs - z * (z * signs).sum(1, keepdim=True)) / norms
        return away

    def chance(self, predictions: Array, labels: Array, classes: int) -> ChanceTest | None:
        """The exact binomial test against neighbours that ignore the image."""
        queries = labels != _ALONE
        identities = int(labels.max(initial=0)) + 1
        return super().chance(np.maximum(predictions[queries], 0), labels[queries], identities)


TASK = Embedding
