"""Estimated duration in seconds of each stage of a plan."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from edgeres.data.preprocess import Preprocess
from edgeres.model.cost import macs
from edgeres.model.spec import preset
from edgeres.pipeline.stages.quantize import Quantize
from edgeres.pipeline.stages.train import Train

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeres.data.dataset import Dataset
    from edgeres.pipeline.plan import Plan
    from edgeres.pipeline.runner import Pipeline
    from edgeres.pipeline.stages.stage import Stage


@dataclass(frozen=True, slots=True)
class StageEstimate:
    """Estimate of one stage.

    Attributes:
        stage: Name of the stage.
        state: Whether the store has it.
        seconds: 0 when it is in the store; None where it cannot be estimated.
        why: Purpose of the stage.
    """

    stage: str
    state: Literal["cached", "to run"]
    seconds: float | None
    why: str


def estimate(pipeline: Pipeline) -> tuple[StageEstimate, ...]:
    """Every stage with its state and expected duration.

    A stage's duration is its multiply-accumulates over the throughput of this machine, measured now on a 3x3
    convolution, plus a fixed share; decoding images is not part of it.
    """
    network = _network(pipeline.plan)
    speed = _speed()
    rows = []
    for stage, entry in pipeline.pending():
        why = (sys.modules[type(stage).__module__].__doc__ or "").splitlines()[0]
        if entry:
            rows.append(StageEstimate(stage.name, "cached", 0.0, why))
        else:
            work = None if network is None else _work(stage, pipeline.plan) * network
            fixed = _FIXED.get(stage.name, 1.0)
            rows.append(StageEstimate(stage.name, "to run", None if work is None else work / speed + fixed, why))
    return tuple(rows)


def training_from_scratch(pipeline: Pipeline) -> float | None:
    """Seconds of training from random weights; None where there is no such training, or it is cached.

    Args:
        pipeline: A pipeline that has not run yet.
    """
    first = pipeline.plan.recipe.stages[0]
    source, network = pipeline.plan.source, _network(pipeline.plan)
    if not isinstance(first, Train) or source.file or source.weights or network is None or pipeline.pending()[0][1]:
        return None
    return _work(first, pipeline.plan) * network / _speed() + _FIXED["train"]


_FIXED = {"build": 20.0, "train": 3.0, "export": 3.0, "verify": 3.0}
"""Fixed seconds of a stage on a small network on two cores: start-up, file work, an engine build."""


def _network(plan: Plan) -> int | None:
    """MACs of one image; None for an imported ONNX graph, which is not read for a plan."""
    if plan.request.foreign:
        return None
    spec = replace(preset(plan.request.model), classes=len(plan.dataset.classes))
    size = _side(plan, pooled=spec.stem.pool)
    return macs(spec, size, size)


def _side(plan: Plan, *, pooled: bool) -> int:
    """Side of the image in pixels: as stated, else the training default, else the customary size of such a stem."""
    first = plan.recipe.stages[0]
    if isinstance(first, Train):
        return first.crop or (plan.source.preprocess or Preprocess()).crop
    return plan.source.preprocess.crop if plan.source.preprocess else 224 if pooled else 32


def _work(stage: Stage, plan: Plan) -> float:
    """Equivalent number of forward passes over one image; a backward pass counts two."""
    data = plan.dataset
    count: dict[str, Callable[[], float]] = {
        "train": lambda: 3.0 * len(data.train) * stage.method().epochs,  # type: ignore[attr-defined]  # Train has it
        "recover": lambda: 4.0 * len(data.train),
        "qat": lambda: 5.0 * len(data.train) * stage.method().epochs,  # type: ignore[attr-defined]  # Qat has it
        "load": lambda: float(min(len(data.tuning), 256)) * 8,
        "evaluate": lambda: float(len(data.validation)),
        "sensitivity": lambda: 1.3 * len(data.calibration) + 12.0 * min(len(data.tuning), 128),
        "quantize": lambda: _searching(stage, data),
        "verify": lambda: 1.5 * len(data.validation),
    }
    return count.get(stage.name, lambda: 0.0)()


def _searching(stage: Stage, data: Dataset) -> float:
    """Equivalent forward passes of the technique search: two calibrations, bias correction, rounding, evaluations."""
    quick = isinstance(stage, Quantize) and stage.effort == "quick"
    learned = 0.0 if quick else 12.0 * len(data.calibration) + 400.0 * 32
    return 15.0 * len(data.calibration) + learned + (14.0 if quick else 20.0) * len(data.tuning)


def _speed() -> float:
    """MACs per second of a 3x3 convolution in torch, float32, measured for a quarter of a second."""
    import torch

    weight, image = torch.ones(128, 128, 3, 3), torch.ones(8, 128, 28, 28)
    cost, done, start = weight.numel() * 8 * 28 * 28, 0, 0.0
    with torch.inference_mode():
        torch.nn.functional.conv2d(image, weight, padding=1)
        start = time.perf_counter()
        while (passed := time.perf_counter() - start) < 0.25:
            torch.nn.functional.conv2d(image, weight, padding=1)
            done += cost
    return done / passed
