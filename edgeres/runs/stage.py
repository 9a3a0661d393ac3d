"""Rows of a report for one stage."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from edgeres.artifacts.candidate import TechniqueResult
from edgeres.runs.findings import Count, Percent
from edgeres.settings import settings


@settings
class StageRow:
    """One stage with figures of the network after it; None where the stage did not measure them.

    Attributes:
        top1: Accuracy in percent on the validation split.
        macs: Multiply-accumulates for one image.
        mib: Size of the stage's file in MiB.
        metrics: All other figures of the stage by name.
        notes: Notes for the user.
        techniques: Quantization techniques in order, including those that were left out.
    """

    stage: str
    top1: Percent | None = None
    macs: Count | None = None
    parameters: Count | None = None
    mib: float | None = None
    metrics: dict[str, float] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()
    techniques: tuple[TechniqueResult, ...] = ()


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
