"""``Plan``: a request whose names, files and settings are resolved and checked before any stage runs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeres.artifacts.companion import Companion, outputs, published_companion, read_companion
from edgeres.data.dataset import Dataset, open_dataset
from edgeres.data.size import Size
from edgeres.errors import EdgeresError, UsageError
from edgeres.gate.budget import limits
from edgeres.model.presets import preset
from edgeres.model.zoo import read_checkpoint
from edgeres.pipeline.class_choice import with_classes
from edgeres.pipeline.recipe import Recipe, default_recipe, load_recipe, takes_graphs
from edgeres.pipeline.stages.export import Export
from edgeres.pipeline.stages.load import Load
from edgeres.pipeline.stages.load_onnx import LoadOnnx
from edgeres.pipeline.stages.quantize import Quantize
from edgeres.pipeline.stages.train import Train
from edgeres.pipeline.task_choice import with_task
from edgeres.quant.calibration_table import CalibrationTable, read_table
from edgeres.targets.target import Target, find_target
from edgeres.tasks.registry import task_kind

if TYPE_CHECKING:
    from edgeres.artifacts.source import Source
    from edgeres.pipeline.request import Request
    from edgeres.progress import Progress

SAMPLE_NOTE = (
    "bundled sample task: neither --weights nor --data was given, so the network is trained on scikit-learn's digits; "
    "pass --weights FILE and --data DIR for your own"
)
_TRAINING = ("train", "prune", "recover", "qat")
"""Stages whose losses are those of a classifier."""
FLOAT_NOTE = "float ships, as asked: nothing is quantized"


@dataclass(frozen=True)
class Plan:
    """A resolved and checked request; ``notes`` are for the user, ``scales`` are used instead of calibrating."""

    request: Request
    target: Target
    source: Source
    recipe: Recipe
    dataset: Dataset
    notes: tuple[str, ...]
    scales: CalibrationTable | None = None


def prepare(request: Request, progress: Progress | None = None) -> Plan:
    """Resolves and checks a request before any stage runs.

    Raises:
        UsageError: Unknown model, target or recipe; a recipe that cannot take this source; bad data.
        ModelError: Weights or an ONNX file that cannot be read, or are not the named model's.
    """
    target = find_target(request.target)
    limits(request.name, Size.square(1), target, request.budget)
    source, found = with_task(request, request.source())
    source, recipe = _recipe(request, source)
    asked: tuple[str, ...] = ()
    if request.variant == "float" and target.scheme is not None:
        target, recipe, asked = _without_int8(target, foreign=source.imported), recipe.in_float(), (FLOAT_NOTE,)
    if request.until is not None:
        recipe = recipe.until(request.until)
    _check_input(recipe, target, request)
    _check_weights(source, recipe)
    dataset = open_dataset(
        Path(request.data) if request.data else None,
        seed=request.seed,
        calibration=request.calibration,
        allow=frozenset(request.allow),
        labels=task_kind(source.task).label_kind,
        progress=progress,
    )
    if source.file is None and source.weights is None and dataset.suggested is not None:
        source = replace(
            source, preprocess=request.preprocess.over(dataset.suggested), left_open=request.preprocess.measured
        )
    source, names = _companion(source, recipe)
    source, dataset, moved = with_classes(request, source, dataset, names)
    notes = (
        *asked,
        *found,
        *((SAMPLE_NOTE,) if request.data is None else ()),
        *dataset.notes,
        *_orientation(dataset, request),
        *moved,
        *_forgetting(recipe, dataset),
    )
    return Plan(request, target, source, recipe, dataset, notes, _scales(request, recipe))


def _check_weights(source: Source, recipe: Recipe) -> None:
    """Reads weights once, so that a file without the network is refused before the images are looked for.

    Raises:
        ModelError: They cannot be read, or are not the named model's.
    """
    origin = source.file.path if source.file else source.weights
    if origin is None or source.imported or source.recognised:
        return
    model = preset(source.model)
    trained = model.classes if isinstance(recipe.stages[0], Train) else None  # a classifier is made where none is
    read_checkpoint(origin, model, source.weights_key, new_head=trained)


def _companion(source: Source, recipe: Recipe) -> tuple[Source, Companion]:
    """Companion file of loaded weights; None where training starts from weights, which may have other classes."""
    if not isinstance(recipe.stages[0], Load | LoadOnnx):
        return source, Companion()
    companion = published_companion(source) or (read_companion(source.file.path) if source.file else Companion())
    if companion.where.endswith(" beside it") and outputs(source) not in (None, len(companion.classes)):
        companion = replace(companion, classes=(), where="")  # a list of other classes
    return replace(source, suggested=companion.preprocess), companion


def _forgetting(recipe: Recipe, dataset: Dataset) -> tuple[str, ...]:
    """A note on stages that train on a subset of the network's classes."""
    names = [stage.name for stage in recipe.stages if "train" in stage.reads]
    if not dataset.subset or not names:
        return ()
    few, every = f"{len(dataset.subset):,}", f"{len(dataset.classes):,}"
    return (f"{' and '.join(names)}: training on images of {few} of {every} classes makes a network forget the others",)


def _orientation(dataset: Dataset, request: Request) -> tuple[str, ...]:
    """How images with an EXIF orientation are handled."""
    if not dataset.turned:
        return ()
    tag = f"{' and '.join(dataset.turned)} carry an orientation tag (EXIF) that turns them"
    if request.preprocess.exif == "apply":
        return (f"{tag}; it is applied, as asked",)
    if request.preprocess.exif == "ignore":
        return (f"{tag}; it is ignored, as asked",)
    hint = "--exif apply turns them upright, --exif ignore says that this is meant"
    return (f"{tag}; it is ignored, as torchvision does, unless the weights state otherwise: {hint}",)


def _check_input(recipe: Recipe, target: Target, request: Request) -> None:
    """Refuses uint8 pixels for runtimes without such an input, and for images of more than 8 bits."""
    if not any(isinstance(stage, Export) and stage.input == "uint8" for stage in recipe.stages):
        return
    if request.preprocess.range is not None:
        raise UsageError("--input uint8 with --range", "leave --input uint8 out, or convert the images to 8 bits")
    if not target.runtime.uint8_input:
        others = "take a target of ONNX Runtime, OpenVINO, or TensorRT from 8.5 on"
        hint = f"leave --input uint8 out (the bundle states the normalisation), or {others}"
        raise UsageError(f"{target.name} takes no uint8 pixels: {target.runtime.name} gets a float32 input", hint)


def _recognised(source: Source) -> tuple[Source, str]:
    """The source with what its ONNX file is recognised as, and why it is no residual network; empty where it is one."""
    if not source.imported:
        return source, ""
    from edgeres.onnx_graph.read import read_model
    from edgeres.onnx_graph.recognition import read_residual

    assert source.file is not None
    try:
        found = read_residual(source.file.path, source.main_output)
    except EdgeresError:
        read_model(source.file.path)  # raises for a file that nothing can import
        return source, ""
    return (source, found) if isinstance(found, str) else (replace(source, recognised=True), "")


def _recipe(request: Request, source: Source) -> tuple[Source, Recipe]:
    """The recipe of a request, with changed settings, checked against the origin of the network.

    A residual network in an ONNX file is loaded like weights, unless the recipe imports graphs.
    """
    stated, why = load_recipe(request.recipe) if request.recipe else None, ""
    if stated is None or not takes_graphs(stated):
        source, why = _recognised(source)
    recipe = stated or load_recipe(default_recipe(source, sample=request.data is None))
    if takes_graphs(recipe) and any(change.startswith("export.input=uint8") for change in request.changes):
        what = f"--input uint8 for {request.model}"
        hint = "it rebuilds residual networks: leave it out"
        raise UsageError(f"{what}, which is imported as the graph that it is{f': {why}' if why else ''}", hint)
    recipe = recipe.changed(request.changes)
    if takes_graphs(recipe) != source.imported:
        wanted = "an ONNX file" if takes_graphs(recipe) else "a preset with or without weights"
        what = f"recipe {recipe.name!r} starts from {wanted}, not from {request.model}"
        raise UsageError(f"{what}: {why}" if why else what, "choose another --recipe")
    task = task_kind(source.task)
    if not task.trained and (trains := [name for name in recipe.names if name in _TRAINING]):
        raise UsageError(
            f"recipe {recipe.name!r} has {', '.join(trains)}, which learns from one class an image, and this is "
            f"--task {task.name}",
            "train it elsewhere and pass the weights or the ONNX file; --recipe int8 quantizes weights as they are",
        )
    if isinstance(recipe.stages[0], Load) and source.file is None and source.weights is None:
        raise UsageError(
            f"recipe {recipe.name!r} loads weights, and none were given",
            "pass --weights, or choose a --recipe that trains",
        )
    return source, recipe


def check_stage(request: Request, stage: str, run: str) -> None:
    """Checks that the recipe of a run, in the folder ``run``, has a stage that is to be repeated.

    Raises:
        UsageError: The recipe has no such stage, or the run is of a float network and ``stage`` quantizes.
    """
    _, recipe = _recipe(request, request.source())
    if takes_graphs(recipe) and stage == Export.name:
        stage = Quantize.name  # which writes the file of an imported graph
    if stage not in recipe.names:
        raise UsageError(
            f"{run} has no stage {stage!r} to do again: recipe {recipe.name!r} is {', '.join(recipe.names)}",
            "compile with a --recipe that has it",
        )
    if request.variant == "float" and stage not in recipe.in_float().names:
        raise UsageError(
            f"{run} has no stage {stage!r} to do again: it ships a float network, as --variant asked",
            "compile with --variant int8 into another --out",
        )


def _without_int8(target: Target, *, foreign: bool) -> Target:
    """The target for a float network: trtexec must not make up INT8 ranges (``--int8``).

    A preset keeps the scheme, since the pruner keeps to its multiples of channels: the float variant is then the
    network that INT8 is made from. An imported graph loses it, since its one quantization stage follows the scheme.
    """
    flags = tuple(flag for flag in target.runtime.flags if flag != "--int8")
    return replace(target, runtime=replace(target.runtime, flags=flags), scheme=None if foreign else target.scheme)


def _scales(request: Request, recipe: Recipe) -> CalibrationTable | None:
    if request.scales is None:
        return None
    if not any("scales" in stage.reads for stage in recipe.stages):
        raise UsageError(
            f"recipe {recipe.name!r} has no stage that takes --scales {request.scales}", "leave --scales out"
        )
    return read_table(Path(request.scales))
