"""What a report says of one stage."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from edgeres.artifacts.candidate import TechniqueResult
from edgeres.runs.findings import Count, Percent
from edgeres.settings import settings


@settings
class StageRow:
    """One stage of the run and what the network was behind it; None where the stage did not measure it.

    Attributes:
        stage: Name of the stage.
        top1: Accuracy in percent on the validation split.
        macs: Multiply-accumulates for one image.
        parameters: Learned parameters.
        mib: Size of the file the stage made, in MiB.
        metrics: Every other figure of the stage by name.
        notes: What the user should know.
        techniques: Candidates of a quantization in the order of the ladder, those that were left out too.
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
    """How long a stage took; rows of the same name pair with ``StageRow`` in order.

    Attributes:
        stage: Name of the stage. cached: Whether it came from the store. seconds: When it ran. timings: Seconds of
        parts of it, by name: techniques, ``predicted`` ones where left out, one inference of a graph.
    """

    stage: str
    cached: bool
    seconds: Annotated[float, Field(ge=0)]
    timings: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
