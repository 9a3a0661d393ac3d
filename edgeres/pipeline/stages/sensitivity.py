"""Sensitivity: the effect on the logits of quantizing each layer alone; the network is unchanged."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from edgeres.errors import StageError
from edgeres.pipeline.stages.imported import float_subject
from edgeres.pipeline.stages.quantization import Quantizable, quantization_context
from edgeres.pipeline.stages.stage import Context, Stage, StageCost
from edgeres.quant.calibrator import CalibratorName
from edgeres.quant.qparams import WeightMethod
from edgeres.recovery.layer_sensitivity import layer_noise
from edgeres.recovery.techniques.calibrate import Calibrate
from edgeres.settings import settings

if TYPE_CHECKING:
    from edgeres.data.dataset import Dataset


@settings
class Sensitivity(Stage):
    """Recipe entry ``sensitivity``, between ``fold_batchnorm`` and ``quantize``.

    Attributes:
        calibrator: Method that computes a range from an activation histogram.
        weights: Method that computes the weight range per output channel.
    """

    name = "sensitivity"
    version = 2
    reads = ("target", "calibration", "tuning")

    calibrator: CalibratorName = "mse"
    weights: WeightMethod = "max"

    def cost(self, dataset: Dataset) -> StageCost:
        """One calibration, and a network with one quantized layer for each layer on a few tuning images."""
        return StageCost(1.3 * len(dataset.calibration) + 12.0 * min(len(dataset.tuning), 128))

    def __call__(self, artifact: Quantizable, context: Context) -> Quantizable:
        """Adds a row for each layer that the target's scheme quantizes, with its weights rounded to nearest.

        Raises:
            StageError: The target has no integers, or foldable batch norms are present.
        """
        if context.target.scheme is None:
            raise StageError("sensitivity: the target has no INT8", "choose a target that has")
        subject = float_subject(artifact, context, self.name, images=1)
        quantization = quantization_context(
            subject, artifact, context, self.calibrator, self.weights, margin=None, seed=0
        )
        evaluator = quantization.evaluator
        rows = layer_noise(Calibrate(quantization).candidate([], None), evaluator)
        worst = max(rows, key=lambda row: row.kl)
        measure = f"{evaluator.task.divergence} {worst.kl:.1e}"
        note = f"{worst.layer} hurts most: {measure} alone, on {len(evaluator.few):,} tuning images"
        return replace(artifact, metadata=artifact.metadata.after(self.step(notes=(note,), sensitivity=rows)))
