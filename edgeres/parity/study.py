"""Parity study: layer-by-layer comparison with the integer reference on a few images, predictions on all of them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass, field
from itertools import combinations
from math import log10
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeres.errors import StageError
from edgeres.metrics import agreement, top1
from edgeres.onnx_graph.execute import relative_delta
from edgeres.parity.result import Depth, Pair, Parity, RuntimeRow
from edgeres.parity.runtimes import ParityRuntime

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from edgeres.data.preprocess import Preprocess
    from edgeres.data.split import Split
    from edgeres.parity.integer.network import Answer, Bias, IntegerNetwork, QuantizedTensor
    from edgeres.parity.runtimes import Opened
    from edgeres.progress import Progress

    Array = NDArray[Any]

_REFERENCE = "reference"
_SHOWN, _ANSWERED = 4, 8
"""Images per batch: the reference keeps a few float64 tensors of each."""

LOGITS = "logits"
_LOGITS_SHARE = 2.0**-8
"""Relative error allowed at the logits, as a share of the largest: a float tail may be computed in float16."""


@dataclass(slots=True)
class _MismatchCounts:
    """Sums over images at one tensor: those of ``Depth``, and the energies of signal and noise."""

    numbers: int = 0
    signal: float = 0.0
    noise: float = 0.0
    differing: int = 0
    alone: int = 0
    steps: int = 0
    farthest: float = 0.0
    unexplained: int = 0

    def accumulated(self, exact: Array, actual: Array, zero: int = 0) -> None:
        """Adds tensors of both networks, run from the image on."""
        signal, noise = exact.astype(np.float64) - zero, exact.astype(np.float64) - actual
        self.numbers += exact.size
        self.signal += float(np.sum(signal * signal))
        self.noise += float(np.sum(noise * noise))
        self.differing += int(np.count_nonzero(noise))

    def layer(self, expected: QuantizedTensor, actual: Array) -> None:
        """Adds a layer's codes in the runtime and in the reference, both computed from the runtime's codes before it.

        A code is explained where the exact value, changed by at most the float32 rounding error, gives that code.
        """
        wrong = np.nonzero(expected.codes != actual)
        if not len(wrong[0]):
            return
        codes = actual[wrong].astype(np.int64)
        off = codes - expected.codes[wrong]
        exact = expected.steps()[wrong] + expected.params.zero_point
        beyond = np.where(off > 0, codes - 0.5 - exact, exact - (codes + 0.5))
        self.alone += len(off)
        self.steps = max(self.steps, int(np.abs(off).max()))
        self.farthest = max(self.farthest, float(beyond.max()))
        self.unexplained += int(np.count_nonzero(beyond > expected.bounds()[wrong]))

    def tail(self, expected: Array, actual: Array) -> None:
        """Adds logits computed from the same codes."""
        share = np.abs(expected - actual) / max(float(np.abs(expected).max()), 1e-30)
        beyond = int(np.count_nonzero(~(share <= _LOGITS_SHARE)))
        self.alone, self.unexplained = self.alone + beyond, self.unexplained + beyond
        self.farthest = max(self.farthest, float(share.max()))

    def depth(self, tensor: str, nodes: tuple[str, ...]) -> Depth:
        """The accumulated comparison of a tensor."""
        counts = asdict(self)
        signal, noise = counts.pop("signal"), counts.pop("noise")
        sqnr = 10 * log10(signal / noise) if noise and signal else None
        return Depth(tensor=tensor, nodes=nodes, sqnr_db=sqnr, **counts)


@dataclass(slots=True)
class LayerComparison:
    """One runtime against one integer reference, image by image."""

    network: IntegerNetwork
    counts: defaultdict[str, _MismatchCounts] = field(default_factory=lambda: defaultdict(_MismatchCounts))

    def add(self, images: NDArray[np.float32], exact: Answer, logits: Array, codes: Mapping[str, Array]) -> None:
        """Adds a batch ``[N,C,H,W]``: the reference's output, and the runtime's logits and quantized tensors."""
        params = self.network.params
        for tensor, actual in codes.items():
            self.counts[tensor].accumulated(exact.codes[tensor], actual, params[tensor].zero_point)
        self.counts[LOGITS].accumulated(exact.logits, logits)
        for expected in self.network.layers(images, codes):
            if isinstance(expected, np.ndarray):
                self.counts[LOGITS].tail(expected, logits)
            else:
                self.counts[expected.tensor].layer(expected, codes[expected.tensor])

    @property
    def alone(self) -> int:
        """Number of codes that differ from the reference's, computed from the runtime's codes before them."""
        return sum(counts.alone for counts in self.counts.values())

    def depths(self) -> tuple[Depth, ...]:
        """Comparisons in execution order, the logits last."""
        names = {tensor: tensor for tensor in self.network.codes} | {LOGITS: self.network.output}
        return tuple(self.counts[tensor].depth(tensor, self.network.nodes_of(name)) for tensor, name in names.items())


def nearer(comparisons: Mapping[Bias, LayerComparison]) -> Bias:
    """The treatment of biases under which a runtime differs least; ``float`` where both are equal."""
    return min(comparisons, key=lambda bias: (comparisons[bias].alone, bias != "float"))


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
    network, runtimes = subject.networks.get("float"), opened.runtimes
    if network is not None:
        run = network.run
        runtimes = (ParityRuntime(_REFERENCE, "exact integers", lambda images: run(images).logits), *runtimes)
    classes, margins = _predictions(subject, runtimes, progress)
    rows = []
    for runtime in runtimes:
        unseen = "" if runtime.name == _REFERENCE else "compared by its logits alone"
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


def _pair(first: str, second: str, classes: Mapping[str, Sequence[int]], margins: Array) -> Pair:
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
                moved[runtime.name] = max(moved[runtime.name], relative_delta(runtime.logits(images), logits))
                for comparison in comparisons[runtime.name].values():
                    comparison.add(images, exact, _finite(logits, runtime), codes)
                advance(len(images))
    nearest = {name: nearer(by_bias) for name, by_bias in comparisons.items()}
    return {name: (bias, comparisons[name][bias].depths(), _note(moved[name])) for name, bias in nearest.items()}


def _note(moved: float) -> str:
    if moved == 0:
        return ""
    return f"showing its tensors changed its logits by up to {moved:.1e} of the largest: it fuses less then"


def _finite(logits: Array, runtime: ParityRuntime) -> Array:
    if not np.isfinite(logits).all():
        raise StageError(f"{runtime.title} returns NaN or infinity", "look at the scales in calibration.json")
    return logits


def _predictions(
    subject: Subject, runtimes: Sequence[ParityRuntime], progress: Progress
) -> tuple[dict[str, list[int]], Array]:
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
