"""``Stage``: base of all stages, and ``Context``: the data, target and folders that a stage may read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from edgeres.artifacts.artifact import Step
from edgeres.artifacts.results import LayerSensitivity, StageMetrics, TechniqueResult
from edgeres.progress import Progress, Silent
from edgeres.settings import digest, plain

if TYPE_CHECKING:
    from pathlib import Path

    from edgeres.data.dataset import Dataset
    from edgeres.data.split import Split
    from edgeres.quant.calibration_table import CalibrationTable
    from edgeres.targets.target import Target

Read = Literal[
    "scheme", "runtime", "device", "budget", "target", "train", "calibration", "tuning", "validation", "classes",
    "seed", "margin", "scales", "allow",
]  # fmt: skip
"""Parts of the context that a stage may declare in ``reads``."""

_UNMEASURED = StageMetrics()

FLOAT_NOTE = "the target has no INT8: the network stays in float"


class StageTimings:
    """Durations of the parts of a stage in seconds; stored beside the artifact, not in it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def add(self, part: str, seconds: float) -> None:
        """Adds seconds to a part's duration."""
        self.seconds[part] = self.seconds.get(part, 0.0) + seconds


@dataclass(frozen=True)
class Context:
    """Inputs of a stage beside its artifact. A stage sees only the parts it declared, which the cache key covers.

    Attributes:
        tuning: Labelled images for choices between candidates, disjoint from calibration and validation.
        classes: Class names in label order: those of the data, and where these are some of the network's, of all its
            outputs.
        subset: Outputs of the network that have a class of the data, where others have none; read with ``classes``.
        answers: Outputs among which the largest is a prediction: all, or those of the subset; read with ``classes``.
        margin: Allowed accuracy drop in percentage points; None allows any.
        scales: A calibration table to use instead of calibrating.
        allow: Exceptions of ``edgeres.data.contract.ALLOW`` that the user allows.
        workspace: Empty folder for the files of this stage.
        scratch: Folder that survives a kill, for checkpoints of unfinished work.
    """

    target: Target
    train: Split
    calibration: Split
    tuning: Split
    validation: Split
    classes: tuple[str, ...]
    seed: int
    workspace: Path
    scratch: Path
    margin: float | None = None
    scales: CalibrationTable | None = None
    allow: frozenset[str] = frozenset()
    subset: tuple[int, ...] = ()
    answers: Literal["all", "subset"] = "all"
    progress: Progress = field(default_factory=Silent)
    timings: StageTimings = field(default_factory=StageTimings)

    @property
    def scored(self) -> tuple[int, ...]:
        """Outputs among which the largest is a prediction; all where it is empty."""
        return self.subset if self.answers == "subset" else ()

    def digest_of(self, read: Read) -> object:
        """Digest of one declared part, for the cache key."""
        match read:
            case "seed" | "margin":
                return getattr(self, read)
            case "classes":
                return [list(self.classes), list(self.subset), self.answers] if self.subset else list(self.classes)
            case "allow":
                return sorted(self.allow)
            case "train" | "calibration" | "tuning" | "validation" | "scales":
                return part.digest if (part := getattr(self, read)) is not None else None
            case "target":
                return digest(self.target)
            case "scheme" | "runtime" | "device" | "budget":
                return plain(getattr(self.target, read))

    def view(self, reads: tuple[Read, ...]) -> Context:
        """A copy in which undeclared parts raise on access."""
        always = ("target", "workspace", "scratch", "progress", "timings", *reads)
        always += ("subset", "answers") if "classes" in reads else ()
        hidden: dict[str, Any] = {part.name: _Hidden(part.name) for part in fields(self) if part.name not in always}
        if "target" not in reads:
            visible: dict[str, object] = {
                read: getattr(self.target, read) for read in reads if hasattr(self.target, read)
            }
            hidden["target"] = _Hidden("target", visible)
        return replace(self, **hidden)


class _Hidden:
    """A part of the context that a stage did not declare; access is a programming error."""

    def __init__(self, name: str, visible: dict[str, object] | None = None) -> None:
        self._name = name
        self._visible = visible or {}

    def __getattr__(self, attribute: str) -> object:
        visible: dict[str, object] = object.__getattribute__(self, "_visible")
        if attribute in visible:
            return visible[attribute]
        raise AttributeError(f"this stage does not declare {self._name}.{attribute} in its reads")

    def __len__(self) -> int:
        raise AttributeError(f"this stage does not declare {self._name} in its reads")


@dataclass(frozen=True, slots=True)
class StageCost:
    """Expected cost: forward passes over one image (a backward pass is two of them) and fixed seconds on two cores."""

    passes: float = 0.0
    fixed_s: float = 1.0


class Stage(ABC):
    """Base of the frozen settings classes with one method from an artifact to the next.

    The annotations of ``__call__`` are the stage's input and output types, on which a recipe is checked.
    """

    __slots__ = ()
    name: ClassVar[str]
    version: ClassVar[int]
    reads: ClassVar[tuple[Read, ...]]

    @abstractmethod
    def __call__(self, artifact: Any, context: Context) -> Any:
        """The next artifact."""

    def cost(self, dataset: Dataset) -> StageCost:
        """Expected cost on a dataset."""
        return StageCost()

    def step(
        self,
        metrics: StageMetrics = _UNMEASURED,
        notes: tuple[str, ...] = (),
        shown: tuple[str, ...] = (),
        *,
        techniques: tuple[TechniqueResult, ...] = (),
        sensitivity: tuple[LayerSensitivity, ...] = (),
        settings: dict[str, object] | None = None,
    ) -> Step:
        """Record of this stage; ``settings`` are its own where none are passed."""
        return Step(
            stage=self.name,
            settings=plain(self) if settings is None else settings,
            metrics=metrics,
            notes=notes,
            shown=shown,
            techniques=techniques,
            sensitivity=sensitivity,
        )
