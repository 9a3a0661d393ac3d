"""Quantize: calibrate on images, choose scales, and search for the technique nearest to float."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from edgeres.artifacts.artifact import Exported
from edgeres.artifacts.results import StageMetrics, graph_kind
from edgeres.errors import RecipeError
from edgeres.pipeline.stages.imported import float_subject, written
from edgeres.pipeline.stages.quantization import Quantizable, quantization_context
from edgeres.pipeline.stages.stage import FLOAT_NOTE, Context, Stage, StageCost
from edgeres.quant.quant_table import calibration_digest
from edgeres.recovery import latency
from edgeres.recovery.registry import TECHNIQUES, TechniqueName, chain
from edgeres.recovery.search import Policy, Reason, Search, notes, search, technique_results
from edgeres.recovery.technique import Effort
from edgeres.settings import plain, settings

if TYPE_CHECKING:
    from edgeres.artifacts.artifact import Checkpoint, Step
    from edgeres.data.dataset import Dataset
    from edgeres.data.size import Size
    from edgeres.pipeline.stages.quantization import Subject
    from edgeres.quant.calibration_table import CalibrationTable
    from edgeres.recovery.context import Candidate


@settings
class Quantize(Stage):
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

    name = "quantize"
    version = 9
    reads = ("target", "calibration", "tuning", "seed", "margin", "scales")

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

    def cost(self, dataset: Dataset) -> StageCost:
        """Two calibrations, bias correction, rounding on 32 images and evaluations of the candidates."""
        quick, calibration = self.effort == "quick", len(dataset.calibration)
        learned = 0.0 if quick else 12.0 * calibration + 400.0 * 32
        return StageCost(15.0 * calibration + learned + (14.0 if quick else 20.0) * len(dataset.tuning))

    def __call__(self, artifact: Quantizable, context: Context) -> Quantizable:
        """Adds a ``QuantTable`` to a network, or writes the quantized file of an imported graph.

        For a target without integers the network is unchanged, with a note.

        Raises:
            StageError: Foldable batch norms are present, the network is quantized, there are no tuning images, or NNCF
                rejects an imported graph.
            DataError: The given scales are for another network, scheme or preprocessing.
        """
        if context.target.scheme is None:
            return replace(artifact, metadata=artifact.metadata.after(self.step(notes=(FLOAT_NOTE,))))
        chosen, step = self._searched(artifact, context)
        if isinstance(artifact, Exported):
            return written(artifact, chosen.quantized, chosen.table, step, context)
        weights = chosen.quantized.weights
        deployed = None if weights.digest == artifact.weights.digest else weights
        return replace(artifact, metadata=artifact.metadata.after(step), quant=chosen.table, deployed=deployed)

    def _searched(self, artifact: Checkpoint | Exported, context: Context) -> tuple[Candidate, Step]:
        """The candidate that is kept, and the record of the search."""
        saved = context.scales
        subject = float_subject(artifact, context, self.name, images=1 if saved else None)
        quantization = quantization_context(
            subject,
            artifact,
            context,
            self.calibrator,
            self.weights,
            margin=context.margin,
            seed=int(context.seed),
            scales=saved,
        )
        order, forced = self._order() if saved is None else self._order_with_scales()
        techniques = [TECHNIQUES[name](quantization) for name in order]
        policy = Policy(effort=self.effort, forced=forced, skip=frozenset(self.skip), budget_s=self.time_budget_s)
        result = search(techniques, quantization.evaluate, policy, context.timings.add)
        for name, one in result.skipped.items():
            if one.seconds is not None:
                context.timings.add(f"predicted {name}", one.seconds)
        images = saved.table.images if saved else len(context.calibration)
        refused = result.skipped.get(order[-1]) if forced else None
        step = self.step(
            _metrics(result, _latencies(subject, result, artifact.metadata.preprocess.crop, context)),
            notes=(
                *subject.notes,
                *notes(result, context.margin, images),
                *((f"{order[-1]} was asked for and is not kept: {refused.note}",) if refused else ()),
                *(_reused(saved, artifact, context) if saved else ()),
            ),
            settings=plain(self if forced else self._pinned(result)),
            techniques=technique_results(result, order),
            sensitivity=next((one.sensitivity for one in techniques if one.sensitivity), ()),
        )
        return result.chosen.candidate, step

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


def _reused(saved: CalibrationTable, artifact: Checkpoint | Exported, context: Context) -> tuple[str, ...]:
    """Origin of scales that were not calibrated by this run."""
    notes = [f"scales of an earlier calibration, sha256 {saved.digest}: no image was observed"]
    if saved.table.data != calibration_digest(context.calibration, artifact.metadata.preprocess):
        notes.append(
            "those scales come from other images than this run's calibration images; whether validation images were "
            "among them is not known"
        )
    return tuple(notes)


def _metrics(search: Search, expected_ms: dict[str, float]) -> StageMetrics:
    """Metrics of the chosen network on the tuning images, with the predicted latency of each kind of graph."""
    evaluation, placement = search.chosen.evaluation, search.chosen.candidate.quantized.placement
    return StageMetrics(
        agreement=evaluation.agreement,
        kl=evaluation.kl if math.isfinite(evaluation.kl) else None,
        sqnr_db=evaluation.sqnr_db if math.isfinite(evaluation.sqnr_db) else None,
        tuning_top1=evaluation.top1,
        tuning_score=None if evaluation.top1 is not None else evaluation.score,
        tuning_drop_pp=evaluation.drop_pp,
        activation_quantizers=len(placement.tensors),
        integer_weights=len(placement.weighted),
        expected_ms=expected_ms,
    )


def _latencies(subject: Subject, search: Search, size: Size, context: Context) -> dict[str, float]:
    """Predicted milliseconds by kind of graph; measured ones go to the timings where the runtime is installed."""
    variants = {graph_kind(one.candidate.records): one.candidate.quantized for one in search.tried}
    models = latency.graphs(subject.graph, subject.weights, variants, size, context.target)
    if latency.runs_here(context.target):
        with context.progress.task("latency", 1) as advance:
            for kind, seconds in latency.measured_s(
                models, size, subject.graph.channels, context.target, context.workspace
            ).items():
                context.timings.add(f"latency {kind}", seconds)
            advance(1)
    return latency.predicted_ms(models, context.target)
