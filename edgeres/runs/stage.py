"""Rows of a report for one stage."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from edgeres.artifacts.results import StageMetrics, TechniqueResult
from edgeres.runs.findings import Count, Percent
from edgeres.settings import settings

if TYPE_CHECKING:
    from edgeres.artifacts.artifact import Step


@settings
class StageRow:
    """One stage with figures of the network after it; None where the stage did not measure them.

    Attributes:
        top1: Accuracy in percent on the validation split.
        macs: Multiply-accumulates for one image.
        mib: Size of the stage's file in MiB.
        metrics: All other figures of the stage.
        notes: Notes for the user.
        techniques: Quantization techniques in order, including those that were left out.
    """

    stage: str
    top1: Percent | None = None
    macs: Count | None = None
    parameters: Count | None = None
    mib: float | None = None
    metrics: StageMetrics = StageMetrics()
    notes: tuple[str, ...] = ()
    techniques: tuple[TechniqueResult, ...] = ()

    @classmethod
    def of(cls, step: Step) -> StageRow:
        """The row of a finished stage: the metrics that all stages share have fields of their own."""
        columns = {name: getattr(step.metrics, name) for name in ("top1", "macs", "parameters", "mib")}
        rest = replace(step.metrics, top1=None, macs=None, parameters=None, mib=None)
        return cls(stage=step.stage, **columns, metrics=rest, notes=step.notes, techniques=step.techniques)


@settings
class StageTime:
    """Duration of a stage; rows of the same name pair with ``StageRow`` in order.

    Attributes:
        cached: Whether it came from the store.
        timings: Seconds of its parts by name: techniques, ``predicted`` ones of skipped techniques, latency of graphs.
    """

    stage: str
    cached: bool
    seconds: Annotated[float, Field(ge=0)]
    timings: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
