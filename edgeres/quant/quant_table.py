"""``QuantTable``: every scale of a network."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from edgeres.quant.calibrator import activation_qparams
from edgeres.quant.histogram import BINS, Histogram
from edgeres.quant.qparams import QParams, float32_scales, roomy_scales, weight_qparams
from edgeres.settings import digest, plain, settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeres.data.preprocess import Preprocess
    from edgeres.data.split import Split
    from edgeres.model.graph import Graph
    from edgeres.model.operation import Op
    from edgeres.model.weights import Weights
    from edgeres.quant.placement import Placement
    from edgeres.quant.qparams import WeightMethod
    from edgeres.targets.target import QuantScheme

COLUMNS = 48  # number of columns of a sketch, as many as a small plot shows
Share = Annotated[float, Field(ge=0, le=1)]


@settings
class Sketch:
    """Histogram of a tensor over the calibration images, with its clipping and quantization noise.

    ``zeros`` is the share of the values that are zero; the others are counted in ``COLUMNS`` columns of equal width
    from ``low`` to ``high``. ``clipped`` is the share beyond the last rounding border on either side, ``sqnr_db`` is
    ``10 log10(sum x^2 / sum (x - Q(x))^2)``, None without noise.
    """

    scale: float
    zero_point: int
    low: float
    high: float
    zeros: Share
    columns: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=COLUMNS, max_length=COLUMNS)]
    clipped: Share
    sqnr_db: float | None

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError("low is above high")


def sketch(histogram: Histogram, params: QParams) -> Sketch:
    """The sketch of a tensor under one scale.

    Each value is taken at the middle of its bin. A bin is at most 1/32 of a step of signed INT8, which changes the
    noise by less than a thousandth.
    """
    bins = np.flatnonzero(histogram.counts)
    counts = histogram.counts[bins].astype(np.float64)
    index = (bins - BINS).astype(np.float64)
    values = (index - 0.5 * np.sign(index)) * histogram.width
    scale, middle = params.scale[0], params.zero_point
    codes = np.clip(np.rint(values / scale) + middle, params.low, params.high)
    noise = float(counts @ (values - (codes - middle) * scale) ** 2)
    signal, total = float(counts @ values**2), float(counts.sum())
    border_low, border_high = ((end - middle) * scale for end in (params.low - 0.5, params.high + 0.5))
    outside = float(counts[(values < border_low) | (values > border_high)].sum())
    seen = index != 0
    low, high = histogram.low, histogram.high  # the middle of the outermost bins may lie beyond them
    span = (low, high) if low < high else (low - histogram.width, high + histogram.width)
    columns, _ = np.histogram(np.clip(values[seen], *span), COLUMNS, span, weights=counts[seen])
    return Sketch(
        scale=scale,
        zero_point=middle,
        low=low,
        high=high,
        zeros=float(counts[~seen].sum()) / total,
        columns=tuple(int(count) for count in columns),
        clipped=outside / total,
        sqnr_db=10 * float(np.log10(signal / noise)) if noise and signal else None,
    )


@settings
class QuantTable:
    """Every scale of a network.

    ``activations`` are per-tensor parameters by tensor name, ``weights`` per-channel ones (axis 0) by name of the
    convolution or linear operation; ``float_layers`` are operations left in float beyond those of the scheme. ``data``
    is the digest of the calibration images with their preprocessing, ``network`` that of the weights that the scales
    are for. A sketch of another scale than the table's is dropped.
    """

    activations: dict[str, QParams]
    weights: dict[str, QParams]
    calibrator: str
    data: str
    images: int
    float_layers: tuple[str, ...] = ()
    network: str = ""
    sketches: dict[str, Sketch] = Field(default_factory=dict)

    def __post_init__(self) -> None:
        of = {name: (params.scale, params.zero_point) for name, params in self.activations.items()}
        sketches = {name: one for name, one in self.sketches.items() if of.get(name) == ((one.scale,), one.zero_point)}
        object.__setattr__(self, "sketches", sketches)


def calibration_digest(split: Split, preprocess: Preprocess) -> str:
    """Digest of calibration data: images and their preprocessing."""
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
    """Every scale of a network, from a histogram of each tensor of ``placement.observed``.

    ``data`` is the digest of the calibration images and ``images`` their number.
    """
    activations = {
        owner: activation_qparams(joint_histogram(histograms, placement, owner), calibrator, scheme)
        for owner in placement.owners
    }
    activations |= {tensor: activations[origin] for tensor, origin in placement.shared.items()}
    return QuantTable(
        activations={tensor: activations[tensor] for tensor in placement.tensors},
        weights={
            name: weight_qparams(weights[f"{name}.weight"], scheme.bits_of(name), method)
            for name in sorted(placement.weighted)
        },
        calibrator=calibrator,
        data=data,
        images=images,
        network=weights.digest,
    )


def joint_histogram(histograms: Mapping[str, Histogram], placement: Placement, owner: str) -> Histogram:
    """Histogram of all values that a scale has to represent."""
    return reduce(Histogram.merged, (histograms[tensor] for tensor in placement.carriers(owner)))


def with_sketches(table: QuantTable, histograms: Mapping[str, Histogram]) -> QuantTable:
    """The table with a sketch of every tensor that has a histogram, of float weights with the same channel scales."""
    drawn = {name: sketch(histograms[name], params) for name, params in table.activations.items() if name in histograms}
    return replace(table, sketches={**table.sketches, **drawn})


def with_room(table: QuantTable, graph: Graph, weights: Weights) -> QuantTable:
    """The table with weight scales raised where an accumulator of their layer might exceed int32."""
    raised = {op.name: _with_room(op, table, weights) for op in graph.weighted if op.name in table.weights}
    return table if raised == table.weights else replace(table, weights={name: raised[name] for name in table.weights})


def narrow_channels(table: QuantTable, graph: Graph, weights: Weights) -> dict[str, int]:
    """Number of output channels of each operation whose bias is too large for the scale of their weights alone."""
    channels: dict[str, int] = {}
    for op in graph.weighted:
        if op.name not in table.weights:
            continue
        peaks = np.abs(weights[f"{op.name}.weight"].reshape(op.c_out, -1)).max(axis=1).astype(np.float64)
        alone = float32_scales(peaks / table.weights[op.name].high)
        params = replace(table.weights[op.name], scale=tuple(alone.tolist()))
        fitting = _with_room(op, replace(table, weights={op.name: params}), weights)
        count = int(np.sum((np.array(fitting.scale, dtype=np.float32) > alone) & (peaks > 0)))
        if count:
            channels[op.name] = count
    return channels


def _with_room(op: Op, table: QuantTable, weights: Weights) -> QParams:
    """The weight scales of one operation; see ``edgeres.quant.qparams``."""
    params, weight = table.weights[op.name], weights[f"{op.name}.weight"]
    bias = weights[f"{op.name}.bias"] if op.bias else np.zeros(len(weight))
    step = table.activations[op.inputs[0]].scale[0]
    scales = roomy_scales(np.array(params.scale, dtype=np.float32), weight, bias, step)
    return replace(params, scale=tuple(scales.tolist()))
