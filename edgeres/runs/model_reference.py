"""``NamedNetwork``: resolution of a model argument: a preset, a finished run, or an ONNX file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgeres.artifacts.budget_check import Figure
from edgeres.data.size import Size
from edgeres.errors import UsageError
from edgeres.latency.prediction import Measured
from edgeres.latency.roofline import float_precisions
from edgeres.latency.workload import of_model, of_target
from edgeres.model.graph import graph
from edgeres.model.presets import PRESETS, preset
from edgeres.onnx_graph.operator_counts import image_of, sized
from edgeres.onnx_graph.read import read_model
from edgeres.runs import document
from edgeres.settings import parse, parse_json, read_text, settings

if TYPE_CHECKING:
    from edgeres.latency.roofline import Precision
    from edgeres.latency.workload import Work
    from edgeres.targets.target import Target

Asked = Literal["int8", "fp16", "fp32", "float"]
"""Precision of a request; ``float`` is the target's default for float networks."""
_FILES: dict[Precision, str] = {"int8": "model.onnx", "fp16": "model.float.onnx", "fp32": "model.float.onnx"}
_VARIANTS: dict[str, Precision] = {"int8": "int8", "float16": "fp16", "float32": "fp32"}
_NAME_A_RUN = "name the folder of a run"
_EXAMPLE = '{"model": "resnet50", "precision": "int8", "size": 224, "latency_ms": 1.085}'


@dataclass(frozen=True, slots=True)
class NamedNetwork:
    """The kernels of a network at an image size, under the name of its documented budgets or its file."""

    name: str
    size: Size
    works: tuple[Work, ...]
    precision: Precision

    @property
    def title(self) -> str:
        """``resnet50 at 224 px, INT8``."""
        return f"{self.name} at {self.size.text} px, {self.precision.upper()}"


@settings
class _Note:
    """One measured latency; see docs/prediction.md."""

    model: str
    precision: Asked | None = None
    size: Size | None = None
    latency_ms: float
    figure: Figure = "host_latency"


def find_network(word: str, target: Target, size: Size | None = None, precision: Asked | None = None) -> NamedNetwork:
    """The network of a model argument: a preset, a run folder, or the path of an ``.onnx``.

    The size of the image defaults to the network's own, the precision to INT8 where a preset or a run has it. A
    quantized file has no other precision, a float file has no INT8.

    Raises:
        UsageError: Nothing has that name, or neither file nor target has that precision.
        ModelError: The file holds no readable graph.
    """
    asked = _asked(precision, target)
    if word.lower().endswith(".onnx"):
        return _of_file(Path(word), Path(word).stem, target, size, asked)
    if (folder := _run_folder(word)) is not None:
        return _of_run(folder, target, size, asked)
    spec = preset(word)
    size = size or spec.image_size
    taken = asked or ("int8" if target.scheme else float_precisions(target)[0])
    return NamedNetwork(word, size, of_target(graph(spec), size, target, integer=taken == "int8"), taken)


def _asked(precision: Asked | None, target: Target) -> Precision | None:
    """The requested precision, where the target supports it."""
    floats = float_precisions(target)
    if precision is None or precision == "float":
        return floats[0] if precision else None
    known: tuple[Precision, ...] = floats if target.scheme is None else ("int8", *floats)
    if precision not in known:
        raise UsageError(f"{target.name} has no {precision.upper()}", f"ask for {' or '.join(known)}")
    return precision


def read_measured(word: str, target: Target) -> tuple[Measured, ...]:
    """Measured networks: of a run for that target with latencies, or of a JSON file with one figure."""
    if (folder := _run_folder(word)) is not None:
        return _of_report(folder, target)
    path = Path(word)
    text = read_text(path, f"name a run, or a JSON such as {_EXAMPLE}")
    note = parse(_Note, parse_json(text, path, f"write {_EXAMPLE}"), str(path))
    model = note.model if note.model in PRESETS else str(path.parent / note.model)
    network = find_network(model, target, note.size, note.precision)
    return (Measured(network.title, network.works, note.latency_ms, network.precision, note.figure),)


def _run_folder(word: str) -> Path | None:
    path = Path(word)
    return document.folder_of(path) if path.name == document.JSON or path.is_dir() else None


def _of_run(folder: Path, target: Target, size: Size | None, precision: Precision | None) -> NamedNetwork:
    """The deployed network of a run, under the name of its documented budgets."""
    place = folder / _FILES[precision or "int8"]
    if not place.is_file():
        raise UsageError(f"there is no {place}", "name the folder of a run, such as build/resnet18-jetson")
    return _of_file(place, document.load(folder, _NAME_A_RUN).model, target, size, precision)


def _of_report(folder: Path, target: Target) -> tuple[Measured, ...]:
    run = document.load(folder, _NAME_A_RUN)
    if run.target.name != target.name:
        raise UsageError(f"{folder} is a run for {run.target.name}", f"calibrate with one measured on {target.name}")
    if not run.timings.latency:
        raise UsageError(
            f"the run in {folder} has no latency: {run.timings.unmeasured or 'it was not measured'}",
            f"time it on the device and write down {_EXAMPLE}",
        )
    measured = []
    for row in run.timings.latency:
        network = _of_run(folder, target, None, _VARIANTS.get(row.variant, float_precisions(target)[0]))
        name = f"{run.model} in {row.variant} of {folder}"
        measured.append(Measured(name, network.works, row.p50_ms, network.precision))
    return tuple(measured)


def _of_file(path: Path, name: str, target: Target, size: Size | None, precision: Precision | None) -> NamedNetwork:
    """The network in a file; a graph for INT8 without integers is taken as float."""
    model = sized(read_model(path), size)
    _, shape = image_of(model)
    works = of_model(model, adds=True)
    integer = any(work.integer for work in works)
    if precision is not None and integer is not (precision == "int8"):
        kind = "INT8 alone" if integer else "no INT8"
        raise UsageError(f"{precision} for {path}, which has {kind}", "name a preset, a run folder or another file")
    taken = precision or ("int8" if integer else float_precisions(target)[0])
    return NamedNetwork(name, Size(*shape[1:]), works, taken)
