"""A finished run as others left it: its report and its answers, checked against each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeres.errors import UsageError
from edgeres.gate import predictions
from edgeres.runs import document
from edgeres.settings import read_text, sha256_file

if TYPE_CHECKING:
    from pathlib import Path

    from edgeres.gate.predictions import Answers
    from edgeres.runs.run import Run

_AGAIN = "run the same command again"


@dataclass(frozen=True, slots=True)
class Finished:
    """A verified run.

    Attributes:
        run: Its report.
        answers: Its answers, image by image.
    """

    run: Run
    answers: Answers

    @property
    def margin_pp(self) -> float | None:
        """The accuracy drop its budget allows; None without such a budget line."""
        return next((line.limit for line in self.run.lines if line.name == "accuracy_drop_pp"), None)

    @property
    def retrained(self) -> tuple[str, ...]:
        """Stages that changed the network behind its float baseline, other than by quantizing it."""
        stages = [row.stage for row in self.run.stages]
        behind = stages[stages.index("evaluate") :] if "evaluate" in stages else []
        return tuple(stage for stage in behind if stage in ("train", "prune", "recover"))


def read_finished(place: Path) -> Finished:
    """Reads a run folder, or the ``report.json`` in it.

    Raises:
        UsageError: There is no report, the run ended early, it has no answers, or they are not those it reported.
    """
    folder = place.parent if place.name == document.JSON else place
    beside = folder / predictions.NAME
    run = document.load(folder, "name the folder of a run, such as build/resnet18-jetson")
    if run.error:
        raise UsageError(f"{folder} holds a run that ended early: {run.error.what}", run.error.hint or _AGAIN)
    if predictions.NAME not in run.files:
        why = f"it stopped after {run.until}" if run.until else "it was not verified, or by an older edgeres"
        raise UsageError(f"the run in {folder} has no answers to judge: {why}", "compile to the end")
    text = read_text(beside, _AGAIN)
    if sha256_file(beside) != run.files[predictions.NAME].sha256:
        raise UsageError(f"{beside} is not the file that its run reported", _AGAIN)
    return Finished(run, predictions.decode(text, str(beside)))
