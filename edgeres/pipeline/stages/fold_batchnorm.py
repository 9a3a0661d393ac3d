"""Fold batch norms into the convolutions before them.

At inference a batch norm is affine per output channel ``c``, with gain ``gamma``, offset ``beta``, running ``mean`` and
``var``, and a convolution is linear, so both are one convolution (Jacob et al. 2018, arXiv 1712.05877, section 3.2):

    y = gamma * (W x + b - mean) / sqrt(var + eps) + beta
    s = gamma / sqrt(var + eps)                                  [C]
    W' = s * W                                                   [C,1,1,1] * [C,C_in/groups,k,k]
    b' = beta + s * (b - mean)                                   [C]

Computed in float64 and rounded once to float32. In a pre-activation network the norms behind a residual add have no
convolution before them and stay, as do group norms, whose statistics are those of the image. ArcFace's norms before a
3x3 convolution stay too: its padding is of zeros behind the norm, which no padding before it would be for all channels.
The norm before its matrix product folds forwards.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from edgeres.artifacts.results import StageMetrics
from edgeres.errors import StageError
from edgeres.model.graph import graph
from edgeres.model.network import Network
from edgeres.model.weights import Weights
from edgeres.pipeline.stages.stage import Context, Stage
from edgeres.settings import settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from edgeres.artifacts.artifact import Checkpoint
    from edgeres.model.graph import Graph
    from edgeres.model.operation import Op
    from edgeres.model.spec import ResNetSpec

_IMAGES = 64
"""Calibration images on which both networks are compared."""

TOLERANCE = 1e-3
"""Largest difference of logits, relative to their range.

Folding is exact but for float32 rounding: one convolution of ``k`` products errs by about ``sqrt(k) * 2^-24`` of its
result, 4e-6 for the widest (``k = 4608``), and 152 layers in a row by no more than 6e-4. An INT8 step is 4e-3 of a
range, so what passes is far below what quantization adds; a norm folded into the wrong channel is far above.
"""


@settings
class FoldBatchnorm(Stage):
    """Recipe entry ``fold_batchnorm``; it has no settings."""

    name = "fold_batchnorm"
    version = 3
    reads = ("calibration",)

    def __call__(self, artifact: Checkpoint, context: Context) -> Checkpoint:
        """The network without foldable norms and with the same logits.

        Raises:
            StageError: Logits moved by more than ``TOLERANCE``.
        """
        if not artifact.spec.norm:
            step = self.step(notes=("batch norms were folded before: nothing to do",))
            return replace(artifact, metadata=artifact.metadata.after(step))
        spec, weights = folded(artifact.spec, artifact.weights)
        delta, extent = _moved(artifact, replace(artifact, spec=spec, weights=weights), context)
        if not delta <= TOLERANCE * extent:  # NaN fails too
            raise StageError(
                f"folding batch norms moved a logit by {delta:g}, more than {TOLERANCE:g} of their range {extent:g}",
                "check the running variances: tiny ones amplify rounding",
            )
        gone = len(graph(artifact.spec).ops) - len(graph(spec).ops)
        metrics = StageMetrics(max_abs_delta_logit=delta, logit_range=extent, folded=gone)
        step = self.step(metrics, (f"{gone} batch norms folded",))
        return replace(artifact, metadata=artifact.metadata.after(step), spec=spec, weights=weights)


def folded(spec: ResNetSpec, weights: Weights) -> tuple[ResNetSpec, Weights]:
    """Folds every norm that has a convolution before it: the spec without those norms, and weights under its keys."""
    bare = replace(spec, norm=False)
    arrays = {key: weights[key] for key in graph(bare).parameters if key in weights}
    remaining = {op.name for op in graph(bare).ops}
    whole = graph(spec)
    for norm in whole.ops:
        if norm.kind == "norm" and norm.name not in remaining:
            before = whole[norm.inputs[0]]
            if before.kind in ("conv", "linear"):
                arrays |= _fold({**weights, **arrays}, before, norm)
            else:
                arrays |= _fold_forwards({**weights, **arrays}, whole, norm)
    return bare, Weights(arrays)


def _affine(weights: Mapping[str, NDArray[np.float32]], norm: Op) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Factor and offset ``[C]`` of a norm."""
    gamma, beta, mean, var = (
        weights[f"{norm.name}.{key}"].astype(np.float64) for key in ("weight", "bias", "running_mean", "running_var")
    )
    scale = gamma / np.sqrt(var + norm.eps)
    return scale, beta - scale * mean


def _fold(weights: Mapping[str, NDArray[np.float32]], layer: Op, norm: Op) -> dict[str, NDArray[np.float32]]:
    scale, offset = _affine(weights, norm)
    filters = weights[f"{layer.name}.weight"]
    weight = filters * scale.reshape(-1, *[1] * (filters.ndim - 1))
    if layer.bias:
        offset = offset + scale * weights[f"{layer.name}.bias"]
    return {f"{layer.name}.weight": weight.astype(np.float32), f"{layer.name}.bias": offset.astype(np.float32)}


def _fold_forwards(
    weights: Mapping[str, NDArray[np.float32]], network: Graph, norm: Op
) -> dict[str, NDArray[np.float32]]:
    """A norm before a matrix product, of all pixels at once or of one, folded into that; nothing is padded in between.

    ``W (s x + t) + b = (W s) x + (W t + b)``, with ``s`` and ``t`` of a channel for each of its pixels.
    """
    ((reader, _),) = network.consumers(norm.name)
    linear = network.consumers(reader.name)[0][0] if reader.kind == "flatten" else reader
    scale, offset = (np.repeat(values, linear.c_in // norm.c_out) for values in _affine(weights, norm))
    matrix = weights[f"{linear.name}.weight"].astype(np.float64).reshape(linear.c_out, linear.c_in)
    bias = weights[f"{linear.name}.bias"] + matrix @ offset
    weight = (matrix * scale).reshape(weights[f"{linear.name}.weight"].shape)
    return {f"{linear.name}.weight": weight.astype(np.float32), f"{linear.name}.bias": bias.astype(np.float32)}


def _moved(before: Checkpoint, after: Checkpoint, context: Context) -> tuple[float, float]:
    """Largest difference of logits, and the range of the logits before."""
    split = context.calibration.take(range(min(_IMAGES, len(context.calibration))))
    first, second = Network(before.graph, before.weights), Network(after.graph, after.weights)
    delta, low, high = 0.0, np.inf, -np.inf
    with context.progress.task("fold batch norms", len(split)) as advance:
        for images, labels in split.batches(before.metadata.preprocess):
            expected = first.logits(images)
            delta = float(np.maximum(delta, np.abs(second.logits(images) - expected).max()))  # keeps NaN, max() may not
            low, high = min(low, float(expected.min())), max(high, float(expected.max()))
            advance(len(labels))
    return delta, high - low
