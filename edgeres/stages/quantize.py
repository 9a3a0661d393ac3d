"""Quantize: calibrate on real images, choose scales, keep the network's numbers otherwise."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from edgeres.artifact import Checkpoint, Step
from edgeres.errors import StageError
from edgeres.measure import sqnr_db
from edgeres.model.graph import graph
from edgeres.model.network import Network
from edgeres.quant.calibrator import activation_qparams
from edgeres.quant.fake import QuantNetwork
from edgeres.quant.observer import observe
from edgeres.quant.placement import place
from edgeres.quant.qparams import QuantTable
from edgeres.quant.weights import weight_qparams
from edgeres.settings import digest, plain, settings
from edgeres.stages.stage import Read

if TYPE_CHECKING:
    from edgeres.data.preprocess import Preprocess
    from edgeres.data.split import Split
    from edgeres.quant.placement import Placement
    from edgeres.stages.stage import Context

_COMPARED = 128
"""Tuning images on which the quantized network is compared with the float one."""


@settings
class Quantize:
    """Recipe entry ``quantize``.

    Attributes:
        calibrator: How a range follows from an activation histogram.
        weights: How a weight range is chosen per output channel. At 8 bits the largest magnitude keeps the logits
            nearer to float than the least squared error does: with every calibrator, in ``benchmarks.quantizers``.
    """

    name: ClassVar[str] = "quantize"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[Read, ...]] = ("scheme", "calibration", "tuning")

    calibrator: Literal["minmax", "moving_average", "percentile", "entropy", "mse"] = "mse"
    weights: Literal["max", "mse"] = "max"

    def __call__(self, artifact: Checkpoint, context: Context) -> Checkpoint:
        """Adds a ``QuantTable``; a target without integers passes the network through and says so.

        Raises:
            StageError: Batch norms that belong into convolutions are still there.
        """
        scheme = context.target.scheme
        if scheme is None:
            note = "the target has no INT8: the network stays in float"
            step = Step(stage=self.name, settings=plain(self), metrics={}, notes=(note,))
            return replace(artifact, card=artifact.card.after(step))
        if artifact.spec.norm:
            raise StageError("quantize needs folded batch norms", "put '- fold_batchnorm' before '- quantize'")
        placement = place(graph(artifact.spec), scheme)
        table = self._table(artifact, context, placement)
        metrics = _compare(artifact, table, placement, context)
        metrics |= {"activation_quantizers": len(placement.tensors), "integer_weights": len(placement.weighted)}
        note = f"{self.calibrator} on {table.images} images, weights {self.weights}"
        step = Step(stage=self.name, settings=plain(self), metrics=metrics, notes=(note,))
        return replace(artifact, card=artifact.card.after(step), quant=table)

    def _table(self, artifact: Checkpoint, context: Context, placement: Placement) -> QuantTable:
        scheme, split, preprocess = context.target.scheme, context.calibration, artifact.card.preprocess
        assert scheme is not None
        network = Network(artifact.spec, artifact.weights).eval()
        images = (batch for batch, _ in split.batches(preprocess))
        with context.progress.task("calibrate", len(split)) as advance:
            histograms = observe(network, images, placement.observed, advance)
        found = {
            tensor: activation_qparams(histogram, self.calibrator, scheme) for tensor, histogram in histograms.items()
        }
        found |= {tensor: found[origin] for tensor, origin in placement.shared.items()}
        weights = {
            name: weight_qparams(artifact.weights[f"{name}.weight"], scheme.weight_bits, self.weights)
            for name in sorted(placement.weighted)
        }
        return QuantTable(
            activations={tensor: found[tensor] for tensor in placement.tensors},
            weights=weights,
            calibrator=self.calibrator,
            data=calibration_digest(split, preprocess),
            images=len(split),
        )


def calibration_digest(split: Split, preprocess: Preprocess) -> str:
    """Identity of calibration data: which images, prepared how."""
    return digest([split.digest, plain(preprocess)])


def _compare(artifact: Checkpoint, table: QuantTable, placement: Placement, context: Context) -> dict[str, float]:
    """SQNR of the logits in decibels and top-1 agreement in percent with the float network, on tuning images."""
    split = context.tuning.take(range(min(_COMPARED, len(context.tuning))))
    reference = Network(artifact.spec, artifact.weights).eval()
    quantized = QuantNetwork(artifact.spec, artifact.weights, table, placement).eval()
    expected, given = [], []
    with torch.inference_mode(), context.progress.task("compare with float", len(split)) as advance:
        for batch, _ in split.batches(artifact.card.preprocess):
            images = torch.from_numpy(batch)
            expected.append(reference(images))
            given.append(quantized(images))
            advance(len(batch))
    wanted, got = torch.cat(expected), torch.cat(given)
    agreement = (wanted.argmax(1) == got.argmax(1)).double().mean().item() * 100
    metrics = {"agreement": agreement}
    noise = sqnr_db(wanted.numpy(), got.numpy())
    return metrics | {"sqnr_db": noise} if math.isfinite(noise) else metrics
