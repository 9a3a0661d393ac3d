"""Estimated duration in seconds of each stage of a plan."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from edgeres.model.cost import macs
from edgeres.model.graph import graph
from edgeres.model.presets import preset
from edgeres.pipeline.stages.train import Train, customary_transform

if TYPE_CHECKING:
    from edgeres.pipeline.plan import Plan
    from edgeres.pipeline.runner import Pipeline


@dataclass(frozen=True, slots=True)
class StageEstimate:
    """Estimate of one stage: 0 seconds when the store has it, None where it cannot be estimated; ``why`` it runs."""

    stage: str
    state: Literal["cached", "to run"]
    seconds: float | None
    why: str


def estimate(pipeline: Pipeline) -> tuple[StageEstimate, ...]:
    """Every stage with its state and expected duration.

    A stage's duration is its multiply-accumulates over the throughput of this machine, measured now on a 3x3
    convolution, plus a fixed share; decoding images is not part of it.
    """
    network, speed = _network(pipeline.plan), _speed()
    rows = []
    for stage, entry in pipeline.pending():
        why = (sys.modules[type(stage).__module__].__doc__ or "").splitlines()[0]
        if entry:
            rows.append(StageEstimate(stage.name, "cached", 0.0, why))
        else:
            cost = stage.cost(pipeline.plan.dataset)
            seconds = None if network is None else cost.passes * network / speed + cost.fixed_s
            rows.append(StageEstimate(stage.name, "to run", seconds, why))
    return tuple(rows)


def training_from_scratch(pipeline: Pipeline) -> float | None:
    """Seconds of training from random weights in a pipeline that has not run; None without one, or if it is cached."""
    first, plan = pipeline.plan.recipe.stages[0], pipeline.plan
    if not isinstance(first, Train) or plan.source.file or plan.source.weights:
        return None
    network = _network(plan)
    if network is None or pipeline.pending()[0][1]:
        return None
    cost = first.cost(plan.dataset)
    return cost.passes * network / _speed() + cost.fixed_s


def _network(plan: Plan) -> int | None:
    """MACs of one image; None for an imported ONNX graph, which is not read for a plan.

    The size of the image is the stated one, else the customary one of the network's family.
    """
    if plan.request.foreign:
        return None
    spec = replace(preset(plan.request.model), classes=len(plan.dataset.classes))
    first, stated = plan.recipe.stages[0], plan.source.preprocess
    if isinstance(first, Train):
        size = first.crop or plan.source.stated_over(customary_transform(spec)).crop
    else:
        size = stated.crop if stated else spec.image_size
    return macs(graph(spec), *size)


def _speed() -> float:
    """MACs per second of a 3x3 convolution in torch, float32, measured for a quarter of a second."""
    import torch

    weight, image = torch.ones(128, 128, 3, 3), torch.ones(8, 128, 28, 28)
    cost, done = weight.numel() * 8 * 28 * 28, 0
    with torch.inference_mode():
        torch.nn.functional.conv2d(image, weight, padding=1)
        start = time.perf_counter()
        while (passed := time.perf_counter() - start) < 0.25:
            torch.nn.functional.conv2d(image, weight, padding=1)
            done += cost
    return done / passed
