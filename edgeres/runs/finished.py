"""Contents of a finished run's folder, verified against its report: predictions and ONNX graphs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgeres.errors import UsageError
from edgeres.gate import predictions
from edgeres.runs import document
from edgeres.settings import read_text, sha256_file

if TYPE_CHECKING:
    from pathlib import Path

    from edgeres.artifacts.artifact import Exported
    from edgeres.gate.predictions import Answers
    from edgeres.runs.run import Run

_AGAIN = "run the same command again"


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """The report of a run and its predictions, image by image."""

    run: Run
    answers: Answers

    @property
    def retrained(self) -> tuple[str, ...]:
        """Stages after the float baseline that changed the network, other than by quantizing it."""
        stages = [row.stage for row in self.run.stages]
        behind = stages[stages.index("evaluate") :] if "evaluate" in stages else []
        return tuple(stage for stage in behind if stage in ("train", "prune", "recover"))


def read_finished(place: Path) -> FinishedRun:
    """Reads a run folder, or the ``report.json`` in it; ``UsageError`` where the run ended early or has no answers."""
    folder = document.folder_of(place)
    run = document.load(folder, "name the folder of a run, such as build/resnet18-jetson")
    if run.error:
        raise UsageError(f"{folder} holds a run that ended early: {run.error.what}", run.error.hint or _AGAIN)
    return FinishedRun(run, read_answers(folder, run))


def read_answers(folder: Path, run: Run) -> Answers:
    """The predictions of the run in a folder.

    Raises:
        UsageError: The run was not verified, or its predictions are missing or changed.
    """
    path = folder / predictions.NAME
    if predictions.NAME not in run.files:
        why = f"it stopped after {run.until}" if run.until else "it was not verified, or by an older edgeres"
        raise UsageError(f"the run in {folder} has no answers to judge: {why}", "compile to the end")
    text = read_text(path, _AGAIN)
    if sha256_file(path) != run.files[predictions.NAME].sha256:
        raise UsageError(f"{path} is not the file that its run reported", _AGAIN)
    return predictions.decode(text, str(path))


def read_graphs(folder: Path, run: Run) -> Exported:
    """The graphs that the report of a run in a folder names.

    Raises:
        UsageError: The run ended before the export, or a graph is missing or changed.
    """
    from edgeres.artifacts.artifact import Exported, File, ModelMetadata
    from edgeres.artifacts.companion import read_companion
    from edgeres.data.preprocess import Preprocess
    from edgeres.data.size import Size
    from edgeres.onnx_graph.operator_counts import image_of
    from edgeres.onnx_graph.read import read_model
    from edgeres.quant.calibration_table import NAME as SCALES

    files = {}
    for name in ("model.onnx", "model.float.onnx", SCALES):
        row, path = run.files.get(name), folder / name
        if row is None and name != SCALES:
            raise UsageError(f"the run in {folder} has no {name}: it ended before export", "compile to the end")
        if row is not None:
            if not path.is_file() or sha256_file(path) != row.sha256:
                raise UsageError(f"{path} is not the file that its run reported", _AGAIN)
            files[name] = File(path.absolute(), row.sha256)
    stated = read_companion(files["model.onnx"].path).preprocess
    if stated is not None:
        metadata = ModelMetadata(name=run.model, preprocess=stated, classes=())
        return Exported(metadata, files["model.onnx"], files["model.float.onnx"], files.get(SCALES))
    _, (channels, *sides) = image_of(read_model(files["model.onnx"].path))
    size = Size(*sides)
    metadata = ModelMetadata(
        name=run.model, preprocess=replace(Preprocess.usual(channels), resize=size, crop=size), classes=()
    )
    return Exported(metadata, files["model.onnx"], files["model.float.onnx"], files.get(SCALES))
