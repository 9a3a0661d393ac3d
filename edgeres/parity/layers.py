"""Layer-by-layer comparison of a runtime with the integer reference: error of each layer, and accumulated error."""

from __future__ import annotations

from dataclasses import dataclass, field
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
    """Sums over images at one tensor."""

    numbers: int = 0
    signal: float = 0.0
    noise: float = 0.0
    differing: int = 0
    alone: int = 0
    steps: int = 0
    farthest: float = 0.0
    unexplained: int = 0

    def freely(self, exact: Array, found: Array, zero: int = 0) -> None:
        """Adds tensors of both networks, run from the image on."""
        signal, noise = exact.astype(np.float64) - zero, exact.astype(np.float64) - found
        self.numbers += exact.size
        self.signal += float(np.sum(signal * signal))
        self.noise += float(np.sum(noise * noise))
        self.differing += int(np.count_nonzero(noise))

    def alike(self, expected: QuantizedTensor, found: Array) -> None:
        """Adds a layer's codes in the runtime and in the reference, both computed from the runtime's codes before it.

        A code is explained where the exact value, changed by at most the float32 rounding error, gives that code.
        """
        wrong = np.nonzero(expected.codes != found)
        if not len(wrong[0]):
            return
        given = found[wrong].astype(np.int64)
        off = given - expected.codes[wrong]
        exact = expected.steps()[wrong] + expected.params.zero_point
        beyond = np.where(off > 0, given - 0.5 - exact, exact - (given + 0.5))
        allowed = expected.bounds()[wrong]
        self.alone += len(off)
        self.steps = max(self.steps, int(np.abs(off).max()))
        self.farthest = max(self.farthest, float(beyond.max()))
        self.unexplained += int(np.count_nonzero(beyond > allowed))

    def tail(self, expected: Array, found: Array) -> None:
        """Adds logits computed from the same codes."""
        share = np.abs(expected - found) / max(float(np.abs(expected).max()), 1e-30)
        beyond = int(np.count_nonzero(~(share <= SHARE)))
        self.alone, self.unexplained = self.alone + beyond, self.unexplained + beyond
        self.farthest = max(self.farthest, float(share.max()))

    def depth(self, tensor: str, nodes: tuple[str, ...]) -> Depth:
        """The accumulated comparison of a tensor."""
        sqnr = 10 * log10(self.signal / self.noise) if self.noise and self.signal else None
        return Depth(
            tensor=tensor,
            nodes=nodes,
            numbers=self.numbers,
            sqnr_db=sqnr,
            differing=self.differing,
            alone=self.alone,
            steps=self.steps,
            farthest=self.farthest,
            unexplained=self.unexplained,
        )


@dataclass(slots=True)
class LayerComparison:
    """One runtime against one reference, image by image.

    Args:
        network: The integer reference.
    """

    network: IntegerNetwork
    tallies: dict[str, _MismatchCounts] = field(default_factory=dict)

    def add(self, images: NDArray[np.float32], exact: Answer, logits: Array, codes: Mapping[str, Array]) -> None:
        """Adds a batch.

        Args:
            images: ``[N,C,H,W]``.
            exact: Output of the reference.
            logits: Logits of the runtime.
            codes: Quantized tensors of the runtime.
        """
        params = self.network.params
        for tensor, found in codes.items():
            self._at(tensor).freely(exact.codes[tensor], found, params[tensor].zero_point)
        self._at(LOGITS).freely(exact.logits, logits)
        layers = self.network.layers(images, codes)
        for expected in layers:
            if isinstance(expected, np.ndarray):
                self._at(LOGITS).tail(expected, logits)
            else:
                self._at(expected.tensor).alike(expected, codes[expected.tensor])

    def _at(self, tensor: str) -> _MismatchCounts:
        return self.tallies.setdefault(tensor, _MismatchCounts())

    @property
    def alone(self) -> int:
        """Number of codes that differ from the reference's, computed from the runtime's codes before them."""
        return sum(tally.alone for tally in self.tallies.values())

    def depths(self) -> tuple[Depth, ...]:
        """Comparisons in execution order, the logits last."""
        names = {tensor: tensor for tensor in self.network.quantized} | {LOGITS: self.network.output}
        return tuple(self.tallies[tensor].depth(tensor, self.network.nodes_of(name)) for tensor, name in names.items())


def nearer(comparisons: Mapping[Bias, LayerComparison]) -> Bias:
    """The treatment of biases under which a runtime differs least; ``float`` where both are equal."""
    return min(comparisons, key=lambda bias: (comparisons[bias].alone, bias != "float"))
