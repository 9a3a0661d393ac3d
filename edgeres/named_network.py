"""``NamedNetwork``: what a word on the command line means: a preset, a finished run, or an ONNX file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgeres.errors import UsageError
from edgeres.model.spec import PRESETS, preset
from edgeres.onnxfile.layers import image_of, sized
from edgeres.onnxfile.read import read_model
from edgeres.prediction import Measured
from edgeres.report import document
from edgeres.settings import parse, settings
from edgeres.workload import of_model, of_spec

if TYPE_CHECKING:
    from edgeres.report.run import LatencyRow, Run
    from edgeres.target import Target
    from edgeres.workload import Work

Precision = Literal["int8", "float"]
_FILES: dict[Precision, str] = {"int8": "model.onnx", "float": "model.float.onnx"}
_EXAMPLE = '{"model": "resnet50", "precision": "int8", "size": 224, "latency_ms": 1.085}'


@dataclass(frozen=True, slots=True)
class NamedNetwork:
    """A network whose kernels are known.

    Attributes:
        name: Its preset, under which budgets are documented; the file's stem for one that has none.
        side: Side of the image in pixels.
        works: What its kernels have to do.
    """

    name: str
    side: int
    works: tuple[Work, ...]

    @property
    def precision(self) -> Precision:
        """``int8`` where any layer is."""
        return "int8" if any(work.integer for work in self.works) else "float"

    @property
    def title(self) -> str:
        """``resnet50 at 224 px, INT8``."""
        return f"{self.name} at {self.side} px, {'INT8' if self.precision == 'int8' else 'float'}"


@settings
class _Note:
    """One latency somebody measured; see docs/prediction.md."""

    model: str
    precision: Precision = "int8"
    size: int | None = None
    latency_ms: float


def find_network(
    word: str, target: Target, size: int | None = None, precision: Precision | None = None
) -> NamedNetwork:
    """The network a word names.

    Args:
        word: A preset, a run folder, or the path of an ``.onnx``.
        target: Its scheme says what of a preset is quantized.
        size: Side of the image in pixels; None takes the network's own.
        precision: What a preset or a run is taken in; None takes INT8 where the target has it.

    Raises:
        UsageError: Nothing has that name, or the precision is not the user's to choose.
        ModelError: The file holds no graph that can be read.
    """
    if word.lower().endswith(".onnx"):
        if precision is not None:
            raise UsageError(f"{precision} for {word}", "an ONNX file has its precision; name a preset or a run folder")
        return _of_file(Path(word), Path(word).stem, size)
    if (folder := _run_folder(word)) is not None:
        return _of_run(folder, size, precision or "int8")
    spec = preset(word)
    side = size or (224 if spec.stem.pool else 32)
    if precision == "int8" and target.scheme is None:
        raise UsageError(f"{target.name} has no INT8", "ask for float")
    integer = target.scheme is not None and precision != "float"
    left, pools = (target.scheme.float_layers, target.scheme.pools) if target.scheme else ((), True)
    works = of_spec(spec, side, integer=integer, float_layers=left, float_pools=not pools, adds=True)
    return NamedNetwork(word, side, works)


def read_measured(word: str, target: Target) -> tuple[Measured, ...]:
    """The networks that somebody measured: a run with latencies, or one figure in a small JSON.

    Raises:
        UsageError: There is no such file, it holds no latency, or it is of another target.
    """
    folder = _run_folder(word)
    if folder is not None:
        return _of_report(folder, target)
    path = Path(word)
    try:
        data: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as failure:
        reason = getattr(failure, "strerror", None) or failure
        raise UsageError(f"cannot read {path}: {reason}", f"name a run, or a JSON such as {_EXAMPLE}") from failure
    except ValueError as failure:
        raise UsageError(f"{path} is no JSON: {failure}", f"write {_EXAMPLE}") from failure
    note = parse(_Note, data, str(path))
    name = note.model
    if name not in PRESETS and not Path(name).is_absolute():
        name = str(path.parent / name)
    foreign = name.lower().endswith(".onnx")
    network = find_network(name, target, note.size, None if foreign else note.precision)
    return (Measured(network.title, network.works, note.latency_ms),)


def _run_folder(word: str) -> Path | None:
    """The run a word names, by its folder or its report."""
    path = Path(word)
    if path.name == document.JSON:
        return path.parent
    return path if path.is_dir() else None


def _of_run(folder: Path, size: int | None, precision: Precision) -> NamedNetwork:
    """What a run ships, under the name its budgets are documented for."""
    place = folder / _FILES[precision]
    if not place.is_file():
        raise UsageError(f"there is no {place}", "name the folder of a run, such as build/resnet18-jetson")
    return _of_file(place, _report(folder).model, size)


def _of_report(folder: Path, target: Target) -> tuple[Measured, ...]:
    run = _report(folder)
    if run.target.name != target.name:
        raise UsageError(f"{folder} is a run for {run.target.name}", f"calibrate with one measured on {target.name}")
    if not run.timings.latency:
        raise UsageError(
            f"the run in {folder} has no latency: {run.timings.unmeasured or 'nobody timed it'}",
            f"time it on the device and write down {_EXAMPLE}",
        )
    return tuple(_timed(folder, run, row) for row in run.timings.latency)


def _timed(folder: Path, run: Run, row: LatencyRow) -> Measured:
    network = _of_run(folder, None, "int8" if row.variant == "int8" else "float")
    return Measured(f"{run.model} in {row.variant} of {folder}", network.works, row.p50_ms)


def _report(folder: Path) -> Run:
    source = folder / document.JSON
    try:
        text = source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as failure:
        reason = getattr(failure, "strerror", None) or failure
        raise UsageError(f"cannot read {source}: {reason}", "name the folder of a run") from failure
    return document.decode(text, str(source))


def _of_file(path: Path, name: str, size: int | None) -> NamedNetwork:
    model = sized(read_model(path), size)
    _, shape = image_of(model)
    return NamedNetwork(name, shape[1], of_model(model, adds=True))
