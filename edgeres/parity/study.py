"""Parity study: layer-by-layer comparison on a few images, predictions on all of them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from edgeres.errors import StageError
from edgeres.metrics import agreement, top1
from edgeres.parity.layers import LayerComparison, nearer
from edgeres.parity.result import Pair, Parity, RuntimeRow
from edgeres.parity.runtimes import REFERENCE, reference

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from numpy.typing import NDArray

    from edgeres.data.preprocess import Preprocess
    from edgeres.data.split import Split
    from edgeres.parity.integer.network import Bias, IntegerNetwork
    from edgeres.parity.result import Depth
    from edgeres.parity.runtimes import Opened, ParityRuntime
    from edgeres.progress import Progress

_SHOWN, _ANSWERED = 4, 8
"""Images per batch: the reference keeps a few float64 tensors of each."""


@dataclass(frozen=True, slots=True)
class Subject:
    """Graph and images of a parity study.

    Attributes:
        target: Name of the target whose graph it is.
        networks: The integer reference by treatment of biases; empty where the graph has none.
        preprocess: Preprocessing of the labelled images.
    """

    model: str
    target: str
    networks: Mapping[Bias, IntegerNetwork]
    images: Split
    preprocess: Preprocess


def spread(split: Split, wanted: int) -> Split:
    """``wanted`` evenly spaced images of a split: folders are sorted by class, so the first ones are of one class."""
    count = min(wanted, len(split))
    return split.take([index * len(split) // count for index in range(count)])


def study(subject: Subject, opened: Opened, progress: Progress, *, shown: int, wanted: float) -> Parity:
    """Compares all runtimes with the reference and with each other.

    ``shown`` images are compared layer by layer; ``wanted`` is the required agreement of every pair in percent.

    Raises:
        StageError: A runtime returns logits that are not finite.
    """
    few = spread(subject.images, shown)
    layers = _layers(subject, opened.runtimes, few, progress)
    network = subject.networks.get("float")
    runtimes = (*(() if network is None else (reference(network),)), *opened.runtimes)
    classes, margins = _predictions(subject, runtimes, progress)
    rows = []
    for runtime in runtimes:
        unseen = "" if runtime.name == REFERENCE else "compared by its logits alone"
        biases, depths, note = layers.get(runtime.name, (None, (), unseen))
        accuracy = top1(classes[runtime.name], subject.images.labels)
        row = RuntimeRow(name=runtime.name, title=runtime.title, top1=accuracy, biases=biases, depths=depths, note=note)
        rows.append(row)
    pairs = [_pair(first, second, classes, margins) for first, second in combinations(classes, 2)]
    return Parity(
        model=subject.model,
        target=subject.target,
        images=len(subject.images),
        shown=len(few),
        wanted=wanted,
        runtimes=tuple(rows),
        pairs=tuple(pairs),
        absent=opened.absent,
        float_nodes=network.float_nodes if network else (),
    )


def _pair(first: str, second: str, classes: Mapping[str, Sequence[int]], margins: NDArray[Any]) -> Pair:
    same = agreement(classes[first], classes[second])
    differ = np.asarray(classes[first]) != np.asarray(classes[second])
    margin = float(margins[differ].max()) if differ.any() else None
    rank = None if margin is None else 100 * float(np.mean(margins <= margin))
    return Pair(first=first, second=second, agreement=same, differing=int(differ.sum()), margin=margin, rank=rank)


def _layers(
    subject: Subject, runtimes: Sequence[ParityRuntime], few: Split, progress: Progress
) -> dict[str, tuple[Bias, tuple[Depth, ...], str]]:
    """Comparisons of every runtime that exposes its tensors, under its nearer treatment of biases, with a note."""
    if not subject.networks:
        return {}
    seeing = [(runtime, runtime.codes) for runtime in runtimes if runtime.codes is not None]
    comparisons: dict[str, dict[Bias, LayerComparison]] = {
        runtime.name: {bias: LayerComparison(network) for bias, network in subject.networks.items()}
        for runtime, _ in seeing
    }
    moved = dict.fromkeys(comparisons, 0.0)
    with progress.task("layer by layer", len(few) * max(1, len(seeing))) as advance:
        for images, _ in few.batches(subject.preprocess, _SHOWN):
            exact = subject.networks["float"].run(images)
            for runtime, show in seeing:
                logits, codes = show(images)
                moved[runtime.name] = max(moved[runtime.name], _difference(logits, runtime.logits(images)))
                for comparison in comparisons[runtime.name].values():
                    comparison.add(images, exact, _finite(logits, runtime), codes)
                advance(len(images))
    nearest = {name: nearer(by_bias) for name, by_bias in comparisons.items()}
    return {name: (bias, comparisons[name][bias].depths(), _note(moved[name])) for name, bias in nearest.items()}


def _difference(shown: NDArray[Any], plain: NDArray[Any]) -> float:
    """Largest difference of logits as a share of the largest logit."""
    return float(np.abs(shown - plain).max() / max(float(np.abs(plain).max()), 1e-30))


def _note(moved: float) -> str:
    if moved == 0:
        return ""
    return f"showing its tensors changed its logits by up to {moved:.1e} of the largest: it fuses less then"


def _finite(logits: NDArray[Any], runtime: ParityRuntime) -> NDArray[Any]:
    if not np.isfinite(logits).all():
        raise StageError(f"{runtime.title} returns NaN or infinity", "look at the scales in calibration.json")
    return logits


def _predictions(
    subject: Subject, runtimes: Sequence[ParityRuntime], progress: Progress
) -> tuple[dict[str, list[int]], NDArray[Any]]:
    """Predicted class of each image by runtime, and the reference's margins between its two best logits."""
    classes: dict[str, list[int]] = {runtime.name: [] for runtime in runtimes}
    margins = []
    with progress.task(f"{len(runtimes)} runtimes answer", len(subject.images)) as advance:
        for images, _ in subject.images.batches(subject.preprocess, _ANSWERED):
            for place, runtime in enumerate(runtimes):
                logits = _finite(runtime.logits(images), runtime)
                classes[runtime.name] += logits.argmax(1).tolist()
                if place == 0:
                    best = np.sort(logits, axis=1)
                    margins.append(best[:, -1] - best[:, -2] if best.shape[1] > 1 else best[:, 0])
            advance(len(images))
    return classes, np.concatenate(margins)
