"""Quantize: calibrate on real images, choose scales, and repair what integers cost until the accuracy limit is met."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from edgeres.artifact import Checkpoint, Step
from edgeres.errors import RecipeError, StageError
from edgeres.ladder import bill, latency
from edgeres.ladder.climb import OUT_OF_TIME, Policy
from edgeres.ladder.jury import Jury
from edgeres.ladder.ladder import CHAINS, RUNGS, Ladder, RungName
from edgeres.ladder.workshop import Workshop
from edgeres.quant.table import calibration_digest
from edgeres.settings import plain, settings
from edgeres.stages.stage import Read

if TYPE_CHECKING:
    from edgeres.ladder.climb import Climb
    from edgeres.ladder.workshop import Candidate
    from edgeres.quant.calibration_table import CalibrationTable
    from edgeres.stages.stage import Context


_CHANGES_SCALES: tuple[RungName, ...] = ("equalize", "refine", "nncf")


@settings
class Quantize:
    """Recipe entry ``quantize``.

    Attributes:
        calibrator: How a range follows from an activation histogram; ``auto`` tries all and keeps the one that leaves
            the answers nearest to float.
        weights: How a weight range is chosen per output channel; ``auto`` tries both.
        rung: ``auto`` climbs until the accuracy limit is met on the tuning images; a name takes that rung on top of
            the quick ones below it for as long as they take, and keeps it whatever it is worth.
        quantizer: ``best`` gives NNCF a rung of its own, ``edgeres`` leaves it out, ``nncf`` takes NNCF's network.
        time_budget_s: Seconds that climbing may take; None for no limit. What a finished run wrote down has none: it
            names what was left out instead.
        skip: Rungs to leave out.
    """

    name: ClassVar[str] = "quantize"
    version: ClassVar[int] = 5
    reads: ClassVar[tuple[Read, ...]] = ("target", "calibration", "tuning", "seed", "margin", "scales")

    calibrator: Literal["auto", "minmax", "moving_average", "percentile", "entropy", "mse"] = "auto"
    weights: Literal["auto", "max", "mse"] = "auto"
    rung: Literal["auto"] | RungName = "auto"
    quantizer: Literal["edgeres", "nncf", "best"] = "best"
    time_budget_s: Annotated[float, Field(ge=0)] | None = 600.0
    skip: tuple[RungName, ...] = ()

    def __call__(self, artifact: Checkpoint, context: Context) -> Checkpoint:
        """Adds a ``QuantTable``; a target without integers passes the network through and says so.

        Raises:
            StageError: Batch norms that belong into convolutions are still there, or there are no tuning images.
            DataError: Scales were given that are for another network, scheme or preprocessing.
        """
        if context.target.scheme is None:
            note = "the target has no INT8: the network stays in float"
            step = Step(stage=self.name, settings=plain(self), metrics={}, notes=(note,))
            return replace(artifact, card=artifact.card.after(step))
        if artifact.spec.norm:
            raise StageError("quantize needs folded batch norms", "put '- fold_batchnorm' before '- quantize'")
        shop = _workshop(artifact, context)
        saved = context.scales
        ladder = Ladder(shop, self.calibrator, self.weights, saved)
        order, forced = self._order() if saved is None else self._order_with_scales()
        policy = Policy(forced=forced, skip=frozenset(self.skip), budget_s=self.time_budget_s)
        climb = ladder.climb(order, policy, context.laps.add)
        step = Step(
            stage=self.name,
            settings=plain(self if forced else self._pinned(climb)),
            metrics=_metrics(climb) | _latencies(artifact, climb, context),
            notes=(
                *bill.notes(climb, context.margin, saved.table.images if saved else len(context.calibration)),
                *(_refused(order[-1], climb) if forced else ()),
                *(_reused(saved, artifact, context) if saved else ()),
            ),
            rungs=bill.rows(climb, order),
            sensitivity=ladder.noise,
        )
        chosen = climb.chosen.candidate
        weights = chosen.quantized.weights
        deployed = None if weights.digest == artifact.weights.digest else weights
        return replace(artifact, card=artifact.card.after(step), quant=chosen.table, deployed=deployed)

    def _order(self) -> tuple[tuple[RungName, ...], bool]:
        """The rungs to climb, and whether all of them, gate or no gate."""
        if self.quantizer == "nncf":
            return CHAINS["nncf"], True
        if self.rung != "auto":
            return CHAINS[self.rung], True
        return tuple(name for name in RUNGS if name != "nncf" or self.quantizer == "best"), False

    def _order_with_scales(self) -> tuple[tuple[RungName, ...], bool]:
        """The same where scales are given: what is forced may build on them, nothing may calibrate anew."""
        if self.quantizer == "nncf" or self.rung in _CHANGES_SCALES:
            asked = "quantizer=nncf" if self.quantizer == "nncf" else f"rung={self.rung}"
            raise RecipeError(f"quantize.{asked} calibrates anew beside --scales", "leave either out")
        chain = CHAINS["calibrate" if self.rung == "auto" else self.rung]
        return tuple(name for name in chain if name not in _CHANGES_SCALES), True

    def _pinned(self, climb: Climb[Candidate]) -> Quantize:
        """Settings that lead to the same network on a machine of any speed: what time cut off is left out by name."""
        skipped = {*self.skip, *(name for name, why in climb.skipped.items() if why == OUT_OF_TIME)}
        return replace(self, time_budget_s=None, skip=tuple(name for name in RUNGS if name in skipped))


def _refused(asked: RungName, climb: Climb[Candidate]) -> tuple[str, ...]:
    """That a forced rung gave nothing, if so."""
    why = climb.skipped.get(asked)
    return (f"{asked} was asked for and is not what goes on: {why}",) if why else ()


def _reused(saved: CalibrationTable, artifact: Checkpoint, context: Context) -> tuple[str, ...]:
    """Where scales come from that nobody observed here."""
    notes = [f"scales of an earlier calibration, sha256 {saved.digest}: no image was observed"]
    if saved.table.data != calibration_digest(context.calibration, artifact.card.preprocess):
        notes.append(
            "those scales come from other images than this run's calibration images; whether validation images were "
            "among them is not known"
        )
    return tuple(notes)


def _workshop(artifact: Checkpoint, context: Context) -> Workshop:
    scheme, preprocess = context.target.scheme, artifact.card.preprocess
    assert scheme is not None
    margin, progress = context.margin, context.progress
    jury = Jury(artifact.spec, artifact.weights, context.tuning, preprocess, margin=margin, progress=progress)
    return Workshop(
        spec=artifact.spec,
        weights=artifact.weights,
        scheme=scheme,
        calibration=context.calibration,
        preprocess=preprocess,
        seed=int(context.seed),
        jury=jury,
        progress=progress,
    )


def _metrics(climb: Climb[Candidate]) -> dict[str, float]:
    """Figures of the network that goes on, on the tuning images."""
    trial, placement = climb.chosen.trial, climb.chosen.candidate.quantized.placement
    found = {
        "agreement": trial.agreement,
        "kl": trial.kl,
        "sqnr_db": trial.sqnr_db,
        "tuning_top1": trial.top1,
        "tuning_drop_pp": trial.drop_pp,
        "activation_quantizers": float(len(placement.tensors)),
        "integer_weights": float(len(placement.weighted)),
    }
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _latencies(artifact: Checkpoint, climb: Climb[Candidate], context: Context) -> dict[str, float]:
    """Expected milliseconds of each kind of graph; where its runtime is here, measured ones go beside the artifact."""
    kinds = {latency.MIXED if one.rung == "mixed" else latency.INTEGER: one.candidate for one in climb.tried}
    variants = {kind: candidate.quantized for kind, candidate in kinds.items()}
    side = artifact.card.preprocess.crop
    models = latency.graphs(artifact.spec, artifact.weights, variants, side, context.target)
    if latency.runs_here(context.target):
        with context.progress.task("latency", 1) as advance:
            for kind, seconds in latency.measured_s(models, artifact.card, context.target, context.workspace).items():
                context.laps.add(f"latency {kind}", seconds)
            advance(1)
    return {f"expected_ms_{kind}": ms for kind, ms in latency.predicted_ms(models, context.target).items()}
