"""``Plan``: a request whose names, files and settings are resolved and checked before any stage runs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeres.artifacts.companion import Companion, published_companion, read_companion
from edgeres.data.class_order import matched_order, read_names, stated_order
from edgeres.data.dataset import Dataset, open_dataset
from edgeres.errors import UsageError
from edgeres.gate.budget import limits
from edgeres.pipeline.recipe import Recipe, default_recipe, load_recipe, takes_graphs
from edgeres.pipeline.stages.load import Load
from edgeres.pipeline.stages.load_onnx import LoadOnnx
from edgeres.quant.calibration_table import CalibrationTable, read_table
from edgeres.targets.target import Target, find_target

if TYPE_CHECKING:
    from edgeres.artifacts.artifact import Source
    from edgeres.pipeline.request import Request
    from edgeres.progress import Progress

SAMPLE_NOTE = (
    "bundled sample task: neither --weights nor --data was given, so the network is trained on scikit-learn's digits; "
    "pass --weights FILE and --data DIR for your own"
)
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
    """
    target = find_target(request.target)
    limits(request.name, 1, target, request.budget)
    source = request.source()
    recipe = _recipe(request, source)
    asked: tuple[str, ...] = ()
    if request.variant == "float" and target.scheme is not None:
        target, recipe, asked = _without_int8(target, foreign=request.foreign), recipe.in_float(), (FLOAT_NOTE,)
    if request.until is not None:
        recipe = recipe.until(request.until)
    dataset = open_dataset(
        Path(request.data) if request.data else None,
        seed=request.seed,
        calibration=request.calibration,
        allow=frozenset(request.allow),
        progress=progress,
    )
    if source.file is None and source.weights is None:
        source = replace(source, preprocess=request.preprocess.over(dataset.suggested), left_open=())
    source, names = _companion(source, recipe)
    source, dataset, moved = _in_order(request, source, dataset, names)
    notes = (
        *asked,
        *((SAMPLE_NOTE,) if request.data is None else ()),
        *dataset.notes,
        *_orientation(dataset, request),
        *moved,
    )
    return Plan(request, target, source, recipe, dataset, notes, _scales(request, recipe))


def _companion(source: Source, recipe: Recipe) -> tuple[Source, Companion]:
    """Companion file of loaded weights; None where training starts from weights, which may have other classes."""
    if not isinstance(recipe.stages[0], Load | LoadOnnx):
        return source, Companion()
    companion = published_companion(source) or (read_companion(source.file.path) if source.file else Companion())
    return replace(source, suggested=companion.preprocess), companion


def _in_order(
    request: Request, source: Source, dataset: Dataset, companion: Companion
) -> tuple[Source, Dataset, tuple[str, ...]]:
    """The dataset with its classes in the order of the network's outputs, where that order is known."""
    if request.classes is not None:
        if dataset.sample:
            raise UsageError(f"--classes {request.classes} without --data", "pass the folder whose classes it names")
        order = stated_order(read_names(Path(request.classes)), dataset.classes, f"--classes {request.classes}")
        source, how = replace(source, classes=order), f"as --classes {request.classes} has it"
    elif len(companion.classes) == len(dataset.classes):
        order = matched_order(companion.classes, dataset.classes, companion.where)
        how = f"by the class names that travel with it ({companion.where})"
    else:
        return source, dataset, ()
    if order == dataset.classes:
        return source, dataset, ()
    note = f"the class folders are numbered in the order of the network's outputs, {how}, not in sorted order"
    return source, dataset.ordered(order), (note,)


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


def _recipe(request: Request, source: Source) -> Recipe:
    """The recipe of a request, with changed settings, checked against the origin of the network."""
    sample = request.data is None
    recipe = load_recipe(request.recipe or default_recipe(source, sample=sample)).changed(request.changes)
    if takes_graphs(recipe) != request.foreign:
        wanted = "an ONNX file" if takes_graphs(recipe) else "a preset with or without weights"
        raise UsageError(
            f"recipe {recipe.name!r} starts from {wanted}, not from {request.model}", "choose another --recipe"
        )
    if isinstance(recipe.stages[0], Load) and source.file is None and source.weights is None:
        raise UsageError(
            f"recipe {recipe.name!r} loads weights, and none were given",
            "pass --weights, or choose a --recipe that trains",
        )
    return recipe


def check_stage(request: Request, stage: str, run: str) -> None:
    """Checks that the recipe of a run, in the folder ``run``, has a stage that is to be repeated.

    Raises:
        UsageError: The recipe has no such stage, or the run is of a float network and ``stage`` quantizes.
    """
    recipe = _recipe(request, request.source())
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
