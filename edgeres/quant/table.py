"""From histograms and weights to a ``QuantTable``."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from edgeres.quant.calibrator import activation_qparams
from edgeres.quant.qparams import QuantTable
from edgeres.quant.sketch import sketch
from edgeres.quant.weights import weight_qparams
from edgeres.settings import digest, plain

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeres.data.preprocess import Preprocess
    from edgeres.data.split import Split
    from edgeres.model.weights import Weights
    from edgeres.quant.histogram import Histogram
    from edgeres.quant.placement import Placement
    from edgeres.target import QuantScheme

WeightMethod = Literal["max", "mse"]


def calibration_digest(split: Split, preprocess: Preprocess) -> str:
    """Identity of calibration data: which images, prepared how."""
    return digest([split.digest, plain(preprocess)])


def quant_table(
    weights: Weights,
    histograms: Mapping[str, Histogram],
    placement: Placement,
    scheme: QuantScheme,
    *,
    calibrator: str,
    method: WeightMethod,
    data: str,
    images: int,
) -> QuantTable:
    """Every scale of a network.

    Args:
        weights: Of the folded network.
        histograms: One for each tensor of ``placement.observed``.
        placement: Where the Q/DQ pairs are.
        scheme: What the target wants.
        calibrator: How a range follows from a histogram.
        method: How a weight range is chosen per output channel.
        data: Digest of the calibration images.
        images: How many there were.
    """
    found = {tensor: activation_qparams(histograms[tensor], calibrator, scheme) for tensor in placement.observed}
    found |= {tensor: found[origin] for tensor, origin in placement.shared.items()}
    return QuantTable(
        activations={tensor: found[tensor] for tensor in placement.tensors},
        weights={
            name: weight_qparams(weights[f"{name}.weight"], scheme.bits_of(name), method)
            for name in sorted(placement.weighted)
        },
        calibrator=calibrator,
        data=data,
        images=images,
        network=weights.digest,
    )


def with_sketches(table: QuantTable, histograms: Mapping[str, Histogram]) -> QuantTable:
    """The table with a sketch of every tensor that has a histogram; others keep theirs while their scale is the same.

    Args:
        table: Scales as they ship.
        histograms: Of the float network's tensors, in the coordinates of the weights that the table is for.
    """
    drawn = {name: sketch(histograms[name], params) for name, params in table.activations.items() if name in histograms}
    return replace(table, sketches={**table.sketches, **drawn})
