"""Quantize: calibrate on images, choose scales, and search for the technique nearest to float."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from edgeres.artifacts.artifact import Checkpoint, Step
from edgeres.artifacts.candidate import graph_kind
from edgeres.errors import RecipeError, StageError
from edgeres.pipeline.stages.stage import Read
from edgeres.quant.quant_table import calibration_digest
from edgeres.recovery import latency
from edgeres.recovery.context import QuantizationContext
from edgeres.recovery.evaluator import Evaluator
from edgeres.recovery.registry import TECHNIQUES, TechniqueName, chain
from edgeres.recovery.search import Policy, Reason, Search, notes, search, technique_results
from edgeres.recovery.technique import Effort
from edgeres.settings import plain, settings

if TYPE_CHECKING:
    from edgeres.pipeline.stages.stage import Context
    from edgeres.quant.calibration_table import CalibrationTable


@settings
class Quantize:
    """Recipe entry ``quantize``.

    Attributes:
        calibrator: Method that computes a range from an activation histogram; ``auto`` tries all and keeps the one
            whose logits are nearest to float.
        weights: Method that computes the weight range per output channel; ``auto`` tries both.
        effort: ``quick`` tries the techniques that cost seconds, ``default`` those that cost minutes too, ``max`` all.
        technique: ``auto`` searches for the candidate nearest to float; a name applies that technique on top of the
            quick ones before it, and keeps it whatever its accuracy.
        quantizer: ``best`` tries NNCF as a technique, ``edgeres`` leaves it out, ``nncf`` takes NNCF's network.
        time_budget_s: Time budget of the search in seconds; None for no limit. The locked recipe of a run has none: it
            names the skipped techniques instead.
        skip: Techniques to leave out.
    """

    name: ClassVar[str] = "quantize"
    version: ClassVar[int] = 8
    reads: ClassVar[tuple[Read, ...]] = ("target", "calibration", "tuning", "seed", "margin", "scales")

    calibrator: Literal["auto", "minmax", "moving_average", "percentile", "entropy", "mse"] = "auto"
    weights: Literal["auto", "max", "mse"] = "auto"
    effort: Effort = "default"
    technique: Literal["auto"] | TechniqueName = "auto"
    quantizer: Literal["edgeres", "nncf", "best"] = "best"
    time_budget_s: Annotated[float, Field(ge=0)] | None = 600.0
    skip: tuple[TechniqueName, ...] = ()

    renamed: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "rung": "technique",
            "adaround": "gptq",
            "equalize": "equalization",
            "refine": "range_search",
            "bias": "bias_correction",
            "reconstruct": "block_reconstruction",
            "mixed": "mixed_precision",
        }
    )
    """Former keys and values, with their present names."""

    def __call__(self, artifact: Checkpoint, context: Context) -> Checkpoint:
        """Adds a ``QuantTable``; for a target without integers the network is unchanged, with a note.

        Raises:
            StageError: Foldable batch norms are present, or there are no tuning images.
            DataError: The given scales are for another network, scheme or preprocessing.
        """
        if context.target.scheme is None:
            note = "the target has no INT8: the network stays in float"
            step = Step(stage=self.name, settings=plain(self), metrics={}, notes=(note,))
            return replace(artifact, metadata=artifact.metadata.after(step))
        if artifact.spec.norm:
            raise StageError("quantize needs folded batch norms", "put '- fold_batchnorm' before '- quantize'")
        saved = context.scales
        quantization = self._quantization_context(artifact, context)
        order, forced = self._order() if saved is None else self._order_with_scales()
        techniques = [TECHNIQUES[name](quantization) for name in order]
        policy = Policy(effort=self.effort, forced=forced, skip=frozenset(self.skip), budget_s=self.time_budget_s)
        found = search(techniques, quantization.evaluate, policy, context.timings.add)
        for name, one in found.skipped.items():
            if one.seconds is not None:
                context.timings.add(f"predicted {name}", one.seconds)
        step = Step(
            stage=self.name,
            settings=plain(self if forced else self._pinned(found)),
            metrics=_metrics(found) | _latencies(artifact, found, context),
            notes=(
                *notes(found, context.margin, saved.table.images if saved else len(context.calibration)),
                *(_refused(order[-1], found) if forced else ()),
                *(_reused(saved, artifact, context) if saved else ()),
            ),
            techniques=technique_results(found, order),
            sensitivity=next((one.sensitivity for one in techniques if one.sensitivity), ()),
        )
        chosen = found.chosen.candidate
        weights = chosen.quantized.weights
        deployed = None if weights.digest == artifact.weights.digest else weights
        return replace(artifact, metadata=artifact.metadata.after(step), quant=chosen.table, deployed=deployed)

    def _quantization_context(self, artifact: Checkpoint, context: Context) -> QuantizationContext:
        scheme, preprocess, progress = context.target.scheme, artifact.metadata.preprocess, context.progress
        assert scheme is not None
        return QuantizationContext(
            spec=artifact.spec,
            weights=artifact.weights,
            scheme=scheme,
            calibration=context.calibration,
            preprocess=preprocess,
            seed=int(context.seed),
            evaluator=Evaluator(
                artifact.spec, artifact.weights, context.tuning, preprocess, margin=context.margin, progress=progress
            ),
            progress=progress,
            calibrator=self.calibrator,
            weight_method=self.weights,
            scales=context.scales,
        )

    def _order(self) -> tuple[tuple[str, ...], bool]:
        """The techniques to try, and whether all of them are applied."""
        if self.quantizer == "nncf":
            return chain("nncf"), True
        if self.technique != "auto":
            return chain(self.technique), True
        return tuple(name for name in TECHNIQUES if name != "nncf" or self.quantizer == "best"), False

    def _order_with_scales(self) -> tuple[tuple[str, ...], bool]:
        """The techniques to try where scales are given: a forced technique may use them, none may calibrate again."""
        asked = "calibrate" if self.technique == "auto" else self.technique
        if self.quantizer == "nncf" or TECHNIQUES[asked].changes_scales:
            setting = "quantizer=nncf" if self.quantizer == "nncf" else f"technique={self.technique}"
            raise RecipeError(f"quantize.{setting} calibrates anew beside --scales", "leave either out")
        return tuple(name for name in chain(asked) if not TECHNIQUES[name].changes_scales), True

    def _pinned(self, search: Search) -> Quantize:
        """Settings that give the same network on a machine of any speed: they skip what the time budget cut off."""
        skipped = {*self.skip, *(name for name, one in search.skipped.items() if one.reason is Reason.TIME)}
        return replace(self, time_budget_s=None, skip=tuple(name for name in TECHNIQUES if name in skipped))


def _refused(asked: str, search: Search) -> tuple[str, ...]:
    """Note that a forced technique gave no result, or None."""
    skipped = search.skipped.get(asked)
    return (f"{asked} was asked for and is not kept: {skipped.note}",) if skipped else ()


def _reused(saved: CalibrationTable, artifact: Checkpoint, context: Context) -> tuple[str, ...]:
    """Origin of scales that were not calibrated by this run."""
    notes = [f"scales of an earlier calibration, sha256 {saved.digest}: no image was observed"]
    if saved.table.data != calibration_digest(context.calibration, artifact.metadata.preprocess):
        notes.append(
            "those scales come from other images than this run's calibration images; whether validation images were "
            "among them is not known"
        )
    return tuple(notes)


def _metrics(search: Search) -> dict[str, float]:
    """Metrics of the chosen network on the tuning images."""
    evaluation, placement = search.chosen.evaluation, search.chosen.candidate.quantized.placement
    found = {
        "agreement": evaluation.agreement,
        "kl": evaluation.kl,
        "sqnr_db": evaluation.sqnr_db,
        "tuning_top1": evaluation.top1,
        "tuning_drop_pp": evaluation.drop_pp,
        "activation_quantizers": float(len(placement.tensors)),
        "integer_weights": float(len(placement.weighted)),
    }
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _latencies(artifact: Checkpoint, search: Search, context: Context) -> dict[str, float]:
    """Predicted milliseconds of each kind of graph; measured ones are added where the runtime is installed."""
    variants = {graph_kind(one.candidate.records): one.candidate.quantized for one in search.tried}
    side = artifact.metadata.preprocess.crop
    models = latency.graphs(artifact.spec, artifact.weights, variants, side, context.target)
    if latency.runs_here(context.target):
        with context.progress.task("latency", 1) as advance:
            for kind, seconds in latency.measured_s(models, side, context.target, context.workspace).items():
                context.timings.add(f"latency {kind}", seconds)
            advance(1)
    return {f"expected_ms_{kind}": ms for kind, ms in latency.predicted_ms(models, context.target).items()}
