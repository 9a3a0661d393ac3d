"""Finds out which preprocessing a network was trained for, where neither its file nor the user says so.

A network's accuracy depends on the apparent size of objects (Touvron et al. 2019, arXiv 1906.06423), so customary
transforms are tried on labelled images that judge nothing else. Sizes come first; then, at the best size, other
normalisations. Whatever answers clearly worse is dropped after 64 images.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from edgeres.data.partition import round_robin
from edgeres.data.preprocess import Preprocess

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from edgeres.data.split import Split
    from edgeres.model.network import Network
    from edgeres.model.spec import ResNetSpec
    from edgeres.progress import Advance

IMAGES = 256
"""Most images a candidate is judged on."""

_FIRST = 64
"""Images that decide whether a candidate is worth the rest."""

_KEPT = 3
"""Sizes that see all images."""

_LARGE = ((256, 224), (232, 224), (0, 224), (192, 160), (160, 128), (146, 128), (64, 64))
"""``(resize, crop)`` for stems that reduce the resolution: torchvision's V1 and V2, no resize, and small trainings."""

_SMALL = ((32, 32), (36, 32), (64, 64), (28, 28))
"""For stems that keep the resolution: CIFAR, with and without a margin, and Tiny ImageNet."""

_NORMALISATIONS = (
    ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),  # statistics of CIFAR-10
    ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),  # [-1, 1], timm's inception convention
    ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),  # [0, 1], no normalisation at all
)
"""Mean and standard deviation tried besides ImageNet's."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One candidate and its answers.

    Attributes:
        preprocess: The candidate.
        right: Whether each image was classified rightly, in the order of the probe.
        loss: Cross-entropy of each image in nats; it orders sizes with equally many right answers.
    """

    preprocess: Preprocess
    right: NDArray[np.bool_]
    loss: NDArray[np.float64]

    @property
    def top1(self) -> float:
        """Accuracy in percent."""
        return float(100 * self.right.mean())

    @property
    def label(self) -> str:
        """The candidate in a few words with its result."""
        resize = f"resize {self.preprocess.resize}" if self.preprocess.resize else "no resize"
        mean = "/".join(f"{value:g}" for value in self.preprocess.mean)
        size = f"{resize}, crop {self.preprocess.crop}, mean {mean}"
        return f"{size}: {self.top1:.1f} % of {len(self.right)}"


def candidates(spec: ResNetSpec) -> tuple[Preprocess, ...]:
    """Customary sizes for a stem, with ImageNet's normalisation."""
    sizes = _LARGE if spec.stem.stride > 1 or spec.stem.pool else _SMALL
    return tuple(Preprocess(resize=resize, crop=crop) for resize, crop in sizes)


def budget(spec: ResNetSpec, images: int) -> int:
    """Images run through the network by a probe, for its progress."""
    images = min(images, IMAGES)
    first, count = min(_FIRST, images), len(candidates(spec))
    return count * first + min(_KEPT, count) * (images - first) + len(_NORMALISATIONS) * images


def probe(network: Network, split: Split, advance: Advance) -> tuple[Trial, tuple[Trial, ...]]:
    """Tries the customary transforms.

    Args:
        network: The network in float.
        split: Labelled images; those without a label are passed over, and the rest drawn class by class.
        advance: Told how many images were run.

    Returns:
        The winner, and every trial in the order tried.
    """
    labelled = [index for index in round_robin(split.labels, seed=0) if split.labels[index] >= 0]
    images = split.take(labelled[:IMAGES])
    first, rest = images.take(range(min(_FIRST, len(images)))), images.take(range(_FIRST, len(images)))
    trials = [_trial(network, first, preprocess, advance) for preprocess in candidates(network.spec)]
    kept = sorted(sorted(range(len(trials)), key=lambda index: _rank(trials[index]))[:_KEPT])
    for index in kept if len(rest) else ():
        trials[index] = _joined(trials[index], _trial(network, rest, trials[index].preprocess, advance))
    size = choose([trials[index] for index in kept])
    others = []
    for mean, std in _NORMALISATIONS:
        trial = _trial(network, first, replace(size.preprocess, mean=mean, std=std), advance)
        if len(rest) and trial.right.sum() > size.right[: len(first)].sum():
            trial = _joined(trial, _trial(network, rest, trial.preprocess, advance))
        else:
            advance(len(rest))
        others.append(trial)
    rivals = [trial for trial in others if len(trial.right) == len(images)]
    return choose([size, *rivals]), (*trials, *others)


def choose(trials: Sequence[Trial]) -> Trial:
    """The trial with the most right answers, or an earlier one that differs from it by no more than noise.

    Two trials differ by noise where the images that only one of them gets right split by no more than one standard
    error, the square root of their number (McNemar 1947). Trials stand in the order of custom, so the more usual
    transform wins a tie. Cross-entropy would separate them sooner, but it also rewards sheer contrast: a smaller crop
    or a stronger normalisation makes a network more sure of itself, not more right.
    """
    best = max(trials, key=lambda trial: int(trial.right.sum()))
    return next(trial for trial in trials if _within_noise(best, trial))


def _within_noise(best: Trial, other: Trial) -> bool:
    discordant = int((best.right != other.right).sum())
    lead = int(best.right.sum()) - int(other.right.sum())
    return bool(lead**2 <= discordant)


def _rank(trial: Trial) -> tuple[int, float]:
    return -int(trial.right.sum()), float(trial.loss.mean())


def _joined(first: Trial, second: Trial) -> Trial:
    right = np.concatenate([first.right, second.right])
    return Trial(first.preprocess, right, np.concatenate([first.loss, second.loss]))


def _trial(network: Network, split: Split, preprocess: Preprocess, advance: Advance) -> Trial:
    right: list[NDArray[np.bool_]] = []
    loss: list[NDArray[np.float64]] = []
    for images, labels in split.batches(preprocess):
        logits = network.logits(images).astype(np.float64)
        shifted = logits - logits.max(1, keepdims=True)
        log_sum = np.log(np.exp(shifted).sum(1))
        right.append(logits.argmax(1) == labels)
        loss.append(log_sum - shifted[np.arange(len(labels)), labels])
        advance(len(labels))
    return Trial(preprocess, np.concatenate(right), np.concatenate(loss))
