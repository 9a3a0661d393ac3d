"""The jury: tuning images, what float answers on them, and the gate's word on a candidate.

Tuning images share nothing with calibration and with validation, so neither does a candidate look better than it is for
having seen them, nor does the final verdict rest on images that chose the candidate.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from edgeres import gate
from edgeres.errors import StageError
from edgeres.gate import Paired
from edgeres.ladder.climb import Trial
from edgeres.measure import agreement, kl, sqnr_db, top1
from edgeres.model.cost import macs
from edgeres.model.network import Network
from edgeres.quant.streaming import each_image

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from edgeres.data.preprocess import Preprocess
    from edgeres.data.split import Split
    from edgeres.model.spec import ResNetSpec
    from edgeres.model.weights import Weights
    from edgeres.progress import Progress
    from edgeres.quant.quantized import Quantized

    Logits = NDArray[np.float32]

SCREENED = 64
"""Tuning images that choose between variants of one rung; their divergences differ by far more than such a sample."""

_POWER = 0.8


class Jury:
    """Judges candidates for one network.

    Args:
        spec: The folded network.
        weights: Its float weights.
        split: Tuning images with labels.
        preprocess: How they are prepared.
        margin: Accuracy drop in percentage points that is allowed; None allows any.
        progress: Where to report how far a trial is.

    Raises:
        StageError: There are no tuning images, or the float network answers with NaN or infinity.
    """

    def __init__(
        self,
        spec: ResNetSpec,
        weights: Weights,
        split: Split,
        preprocess: Preprocess,
        *,
        margin: float | None,
        progress: Progress,
    ) -> None:
        if not len(split):
            raise StageError(
                "there are no tuning images to judge candidates on", "a tenth of the training images serves: give more"
            )
        self.split, self.preprocess, self.margin, self.progress = split, preprocess, margin, progress
        start = time.monotonic()
        self.reference = self._logits(Network(spec, weights), split, "float on the tuning images")
        if not np.isfinite(self.reference).all():
            raise StageError("the float network answers with NaN or infinity", "check its weights")
        self.pass_s = (time.monotonic() - start) / len(split)
        """Seconds of one float image, reading it included; predictions of what a rung costs rest on it."""
        self.macs_per_s = macs(spec, preprocess.crop, preprocess.crop) / self.pass_s
        """The rate at which that image was computed, for work that goes by weights and not by images."""

    def screen(self, quantized: Quantized, label: str) -> float:
        """Mean divergence from float in nats on the first few tuning images."""
        few = self.few
        return kl(self.reference[: len(few)], self._logits(quantized.network(), few, label))

    @property
    def few(self) -> Split:
        """The images variants are screened on."""
        return self.split.take(range(min(SCREENED, len(self.split))))

    def trial(self, quantized: Quantized, label: str) -> Trial:
        """What all tuning images say of a candidate."""
        logits = self._logits(quantized.network(), self.split, label)
        before, after, labels = self.reference.argmax(1).tolist(), logits.argmax(1).tolist(), self.split.labels
        paired = Paired.of(before, after, labels)
        decision = gate.decide(paired, self.margin) if self.margin is not None else None
        interval = decision.interval if decision else gate.tango(paired, 0.9)
        return Trial(
            n=paired.n,
            top1=top1(after, labels),
            drop_pp=paired.drop,
            low_pp=interval.low,
            high_pp=interval.high,
            agreement=agreement(before, after),
            kl=kl(self.reference, logits),
            sqnr_db=sqnr_db(self.reference, logits),
            integer=len(quantized.placement.weighted),
            outcome=decision.outcome if decision else None,
            doubtful=self._doubtful(paired, decision),
            needed=self._needed(paired),
        )

    def _doubtful(self, paired: Paired, decision: gate.Decision | None) -> bool:
        if self.margin is None or decision is None or decision.outcome is not gate.Outcome.INCONCLUSIVE:
            return False
        spotless = gate.decide(Paired(n=paired.n, b=0, c=0), self.margin)
        return paired.drop > self.margin and spotless.outcome is gate.Outcome.PASS

    def _needed(self, paired: Paired) -> int | None:
        if self.margin is None or self.margin <= 0:
            return None
        return gate.images_needed(0.0, paired.discordance, margin_pp=self.margin, power=_POWER)

    def images(self, split: Split) -> Iterator[NDArray[np.float32]]:
        """Prepared images of a split, batch by batch."""
        return (batch for batch, _ in split.batches(self.preprocess))

    def _logits(self, network: Network, split: Split, label: str) -> Logits:
        """Logits ``[N,classes]``, each image alone, so that they depend on nothing else."""

        def answer(network: Network, image: Tensor) -> Logits:
            found: Logits = network(image).numpy()
            return found

        with self.progress.task(label, len(split)) as advance:
            return np.concatenate(list(each_image(network, self.images(split), answer, advance)))
