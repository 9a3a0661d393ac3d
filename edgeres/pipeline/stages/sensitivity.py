"""Sensitivity: the effect on the logits of quantizing each layer alone; the network is unchanged."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from edgeres.artifacts.artifact import Checkpoint, Step
from edgeres.errors import StageError
from edgeres.pipeline.stages.stage import Read
from edgeres.quant.calibrator import CalibratorName
from edgeres.quant.qparams import WeightMethod
from edgeres.recovery.context import QuantizationContext
from edgeres.recovery.evaluator import Evaluator
from edgeres.recovery.layer_sensitivity import layer_noise
from edgeres.recovery.techniques.calibrate import Calibrate
from edgeres.settings import plain, settings

if TYPE_CHECKING:
    from edgeres.pipeline.stages.stage import Context


@settings
class Sensitivity:
    """Recipe entry ``sensitivity``, between ``fold_batchnorm`` and ``quantize``.

    Attributes:
        calibrator: Method that computes a range from an activation histogram.
        weights: Method that computes the weight range per output channel.
    """

    name: ClassVar[str] = "sensitivity"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[Read, ...]] = ("scheme", "calibration", "tuning")

    calibrator: CalibratorName = "mse"
    weights: WeightMethod = "max"

    def __call__(self, artifact: Checkpoint, context: Context) -> Checkpoint:
        """Adds a row for each layer that the target's scheme quantizes, with its weights rounded to nearest.

        Raises:
            StageError: The target has no integers, or foldable batch norms are present.
        """
        scheme, preprocess, progress = context.target.scheme, artifact.metadata.preprocess, context.progress
        if scheme is None:
            raise StageError("sensitivity: the target has no INT8", "choose a target that has")
        if artifact.spec.norm or artifact.quant is not None:
            raise StageError(
                "sensitivity needs a folded float network", "put '- sensitivity' between fold_batchnorm and quantize"
            )
        evaluator = Evaluator(
            artifact.spec, artifact.weights, context.tuning, preprocess, margin=None, progress=progress
        )
        quantization = QuantizationContext(
            spec=artifact.spec,
            weights=artifact.weights,
            scheme=scheme,
            calibration=context.calibration,
            preprocess=preprocess,
            seed=0,
            evaluator=evaluator,
            progress=progress,
            calibrator=self.calibrator,
            weight_method=self.weights,
        )
        rows = layer_noise(Calibrate(quantization).candidate([], None), evaluator)
        worst = max(rows, key=lambda row: row.kl)
        note = f"{worst.layer} hurts most: KL {worst.kl:.1e} alone, on {len(evaluator.few):,} tuning images"
        step = Step(stage=self.name, settings=plain(self), metrics={}, notes=(note,), sensitivity=rows)
        return replace(artifact, metadata=artifact.metadata.after(step))
