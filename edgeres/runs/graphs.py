"""Paths of the ONNX graphs of a finished run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeres.artifacts.artifact import Exported, File, ModelMetadata
from edgeres.data.preprocess import Preprocess
from edgeres.errors import UsageError
from edgeres.onnx_graph.operator_counts import image_of
from edgeres.onnx_graph.read import read_model
from edgeres.quant.calibration_table import NAME as SCALES
from edgeres.settings import sha256_file

if TYPE_CHECKING:
    from pathlib import Path

    from edgeres.runs.run import Run


def read_graphs(folder: Path, run: Run) -> Exported:
    """The graphs that a run's report names.

    Args:
        folder: Its folder.
        run: Its report.

    Raises:
        UsageError: The run ended before the export, or a graph is missing or changed.
    """
    found = {}
    for name in ("model.onnx", "model.float.onnx", SCALES):
        row, path = run.files.get(name), folder / name
        if row is None and name != SCALES:
            raise UsageError(f"the run in {folder} has no {name}: it ended before export", "compile to the end")
        if row is not None:
            if not path.is_file() or sha256_file(path) != row.sha256:
                raise UsageError(f"{path} is not the file that its run reported", "run the same command again")
            found[name] = File(path.absolute(), row.sha256)
    _, (*_, side) = image_of(read_model(found["model.onnx"].path))
    metadata = ModelMetadata(name=run.model, preprocess=Preprocess(resize=side, crop=side), classes=())
    return Exported(metadata, found["model.onnx"], found["model.float.onnx"], found.get(SCALES))
