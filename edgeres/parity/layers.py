"""Layer-by-layer comparison of a runtime with the integer reference: error of each layer, and accumulated error."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass, field
from math import log10
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeres.parity.result import Depth

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from edgeres.parity.integer.network import Answer, Bias, IntegerNetwork, QuantizedTensor

    Array = NDArray[Any]

LOGITS = "logits"
SHARE = 2.0**-8
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
        beyond = int(np.count_nonzero(~(share <= SHARE)))
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
        names = {tensor: tensor for tensor in self.network.quantized} | {LOGITS: self.network.output}
        return tuple(self.counts[tensor].depth(tensor, self.network.nodes_of(name)) for tensor, name in names.items())


def nearer(comparisons: Mapping[Bias, LayerComparison]) -> Bias:
    """The treatment of biases under which a runtime differs least; ``float`` where both are equal."""
    return min(comparisons, key=lambda bias: (comparisons[bias].alone, bias != "float"))
