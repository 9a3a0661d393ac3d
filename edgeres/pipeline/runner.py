"""Runner: applies the stages of a recipe in order, each loaded from the store or computed and stored."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from edgeres.data.size import Size
from edgeres.errors import StoreError
from edgeres.gate.budget import limits
from edgeres.pipeline.stages.stage import Context, Stage, StageTimings
from edgeres.progress import Progress, Silent
from edgeres.settings import digest, plain

if TYPE_CHECKING:
    from edgeres.artifacts.artifact import Step
    from edgeres.artifacts.store import Entry, Store
    from edgeres.pipeline.plan import Plan

PACKAGES = (
    "edgeres", "numpy", "torch", "torchvision", "onnx", "onnxruntime", "nncf", "openvino", "tensorrt", "tensorrt_rtx",
    "executorch", "ai-edge-litert", "pillow", "scikit-learn",
)  # fmt: skip
"""Packages whose version is part of every cache key, since another version may compute another result."""


@dataclass(frozen=True)
class FinishedStage:
    """A finished stage with its artifact in the store, whether it was there already, and the steps it recorded."""

    name: str
    entry: Entry
    cached: bool
    steps: tuple[Step, ...]


class Listener(Protocol):
    """Callbacks at the start and end of stages."""

    def planned(self, pipeline: Pipeline) -> None:
        """Called once the plan is resolved, before any stage runs."""

    def note(self, text: str) -> None:
        """Called with a message for the user."""

    def begun(self, stage: str) -> None:
        """Called when a stage starts computing."""

    def finished(self, stage: FinishedStage) -> None:
        """Called when a stage has finished."""


_LAYOUT = 3
"""Layout version of store entries; entries of another version are not found."""


def versions() -> dict[str, str]:
    """Installed version of each package in ``PACKAGES`` that is installed."""
    installed = {}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            installed[name] = metadata.version(name)
    return installed


def key_of(stage: Stage, input_digest: str, context: Context) -> str:
    """Cache key: sha256 over the stage with its settings, its input, the context it reads, and package versions."""
    reads = {read: context.digest_of(read) for read in stage.reads}
    return digest([_LAYOUT, stage.name, stage.version, plain(stage), input_digest, reads, versions()])


class Pipeline:
    """Runs a plan, with a store as the cache of finished stages."""

    def __init__(
        self, plan: Plan, store: Store, progress: Progress | None = None, listener: Listener | None = None
    ) -> None:
        self.plan = plan
        self.store = store
        self.progress = progress or Silent()
        self.listener = listener
        self.done: list[FinishedStage] = []
        self.current = ""

    def context(self) -> Context:
        """The context of the run, without the folders of a stage."""
        plan, dataset = self.plan, self.plan.dataset
        # A drop is in percentage points: its limit is the same for every size of the image.
        drop = limits(plan.request.name, Size.square(1), plan.target, plan.request.budget).get("accuracy_drop_pp")
        return Context(
            target=plan.target,
            train=dataset.train,
            calibration=dataset.calibration,
            tuning=dataset.tuning,
            validation=dataset.validation,
            classes=dataset.classes,
            subset=dataset.subset,
            answers=plan.request.answers,
            seed=plan.request.seed,
            margin=drop.limit if drop else None,
            scales=plan.scales,
            allow=frozenset(plan.request.allow),
            workspace=Path(),
            scratch=Path(),
            progress=self.progress,
        )

    def run(self) -> tuple[FinishedStage, ...]:
        """Runs every stage in order; finished stages are kept in ``done`` whatever happens.

        Raises:
            EdgeresError: A stage failed; ``current`` names it.
        """
        context = self.context()
        input_digest, steps = self.plan.source.digest, 0
        for stage in self.plan.recipe.stages:
            self.current = stage.name
            key = key_of(stage, input_digest, context)
            with self.store.lock(key):
                entry = self.store.find(key)
                cached = entry is not None
                if entry is None:
                    entry = self._compute(stage, key, context)
            finished = FinishedStage(stage.name, entry, cached, entry.steps[steps:])
            self.done.append(finished)
            input_digest, steps = entry.digest, len(entry.steps)
            if self.listener:
                self.listener.finished(finished)
        self.current = ""
        return tuple(self.done)

    def _compute(self, stage: Stage, key: str, context: Context) -> Entry:
        if self.listener:
            self.listener.begun(stage.name)
        artifact = self.done[-1].entry.load() if self.done else self.plan.source
        with self.store.workspace() as workspace:
            scratch, timings = self.store.scratch(key), StageTimings()
            view = replace(context, workspace=workspace, scratch=scratch, timings=timings).view(stage.reads)
            start = time.monotonic()
            try:
                result = stage(artifact, view)
            except OSError as failure:
                what = f"{failure.filename or workspace}: {failure.strerror or failure}"
                raise StoreError(what, "free some space or set --cache") from failure
            return self.store.keep(key, result, workspace, time.monotonic() - start, timings.seconds)

    def pending(self) -> tuple[tuple[Stage, Entry | None], ...]:
        """Every stage with its entry in the store; None from the first missing entry on."""
        context, input_digest = self.context(), self.plan.source.digest
        rows: list[tuple[Stage, Entry | None]] = []
        for stage in self.plan.recipe.stages:
            entry = self.store.find(key_of(stage, input_digest, context)) if input_digest else None
            rows.append((stage, entry))
            input_digest = entry.digest if entry else ""
        return tuple(rows)
