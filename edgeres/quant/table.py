"""``QuantTable`` from calibration histograms and weights."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from edgeres.model.graph import graph
from edgeres.quant.calibrator import activation_qparams
from edgeres.quant.quant_table import QuantTable
from edgeres.quant.scale import float32_scales, roomy_scales
from edgeres.quant.sketch import sketch
from edgeres.quant.weights import weight_qparams
from edgeres.settings import digest, plain

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeres.data.preprocess import Preprocess
    from edgeres.data.split import Split
    from edgeres.model.graph import Op
    from edgeres.model.spec import ResNetSpec
    from edgeres.model.weights import Weights
    from edgeres.quant.histogram import Histogram
    from edgeres.quant.placement import Placement
    from edgeres.quant.qparams import QParams
    from edgeres.quant.weights import WeightMethod
    from edgeres.targets.target import QuantScheme


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
    """Every scale of a network.

    ``histograms`` has one for each tensor of ``placement.observed``; ``data`` is the digest of the calibration images
    and ``images`` their number.
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
    """The table with a sketch of every tensor that has a histogram; others are kept while their scale is the same.

    The histograms are of the float network with the channel scales of the table's weights.
    """
    drawn = {name: sketch(histograms[name], params) for name, params in table.activations.items() if name in histograms}
    return replace(table, sketches={**table.sketches, **drawn})


def with_room(table: QuantTable, spec: ResNetSpec, weights: Weights) -> QuantTable:
    """The table with weight scales raised where an accumulator of their layer might exceed int32."""
    found = {op.name: _with_room(op, table, weights) for op in graph(spec).weighted if op.name in table.weights}
    return table if found == table.weights else replace(table, weights={name: found[name] for name in table.weights})


def narrow_channels(table: QuantTable, spec: ResNetSpec, weights: Weights) -> dict[str, int]:
    """Number of output channels of each operation whose bias is too large for the scale of their weights alone.

    Of the table's weight scales only the number of bits is used.
    """
    found: dict[str, int] = {}
    for op in graph(spec).weighted:
        if op.name not in table.weights:
            continue
        peaks = np.abs(weights[f"{op.name}.weight"].reshape(op.c_out, -1)).max(axis=1).astype(np.float64)
        alone = float32_scales(peaks / table.weights[op.name].high)
        params = replace(table.weights[op.name], scale=tuple(alone.tolist()))
        fitting = _with_room(op, replace(table, weights={op.name: params}), weights)
        count = int(np.sum((np.array(fitting.scale, dtype=np.float32) > alone) & (peaks > 0)))
        if count:
            found[op.name] = count
    return found


def _with_room(op: Op, table: QuantTable, weights: Weights) -> QParams:
    """The weight scales of one operation; see ``edgeres.quant.scale``."""
    params, weight = table.weights[op.name], weights[f"{op.name}.weight"]
    bias = weights[f"{op.name}.bias"] if op.bias else np.zeros(len(weight))
    step = table.activations[op.inputs[0]].scale[0]
    scales = roomy_scales(np.array(params.scale, dtype=np.float32), weight, bias, step)
    return replace(params, scale=tuple(scales.tolist()))
