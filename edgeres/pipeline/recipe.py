"""``Recipe``: ordered stages with their settings, read from YAML and checked before any stage runs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

import yaml

from edgeres.artifacts import artifact
from edgeres.artifacts.artifact import Checkpoint, Engine, Exported, VerificationResult
from edgeres.artifacts.source import Source
from edgeres.errors import RecipeError, nearest
from edgeres.pipeline.shipped_recipes import recipe_names, recipe_text
from edgeres.pipeline.stages.build import Build
from edgeres.pipeline.stages.evaluate import Evaluate
from edgeres.pipeline.stages.export import Export
from edgeres.pipeline.stages.fold_batchnorm import FoldBatchnorm
from edgeres.pipeline.stages.load import Load
from edgeres.pipeline.stages.load_onnx import LoadOnnx
from edgeres.pipeline.stages.prune import Prune
from edgeres.pipeline.stages.qat import Qat
from edgeres.pipeline.stages.quantize import Quantize
from edgeres.pipeline.stages.recover import Recover
from edgeres.pipeline.stages.sensitivity import Sensitivity
from edgeres.pipeline.stages.stage import Context, Stage
from edgeres.pipeline.stages.train import Train
from edgeres.pipeline.stages.verify import Verify
from edgeres.settings import digest, parse, plain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_QUANTIZING = (Sensitivity.name, Quantize.name, Qat.name)
_STAGES: tuple[type[Stage], ...] = (
    Load, Train, LoadOnnx, Evaluate, FoldBatchnorm, Prune, Recover, Sensitivity, Quantize, Qat, Export, Build, Verify,
)  # fmt: skip
STAGES = {stage.name: stage for stage in _STAGES}
"""Every stage that a recipe may name."""

_WORDS: dict[type, str] = {
    Source: "the start of a recipe",
    Checkpoint: "a network with its weights",
    Exported: "an exported graph",
    Engine: "a built engine or bundle",
    VerificationResult: "the measured end of a run",
}
"""Display names of the artifact types, for messages."""
_NEEDS = {"recover": ("prune",), "qat": ("quantize",), "verify": ("evaluate or load_onnx",)}
"""Earlier stages that a stage needs besides its input artifact, alternatives joined by ``or``."""
_AFTER_QUANTIZING = dict.fromkeys(("evaluate", "prune", "recover", "sensitivity"), ("quantize", "qat"))
"""Stages of a float network, with those after which the network is no longer float."""


@dataclass(frozen=True)
class Recipe:
    """Checked list of stages: the output type of each is the input type of the next."""

    name: str
    stages: tuple[Stage, ...]

    @property
    def names(self) -> list[str]:
        """Names of the stages."""
        return [stage.name for stage in self.stages]

    @property
    def digest(self) -> str:
        """sha256 over every stage and setting."""
        return digest(self.entries())

    def entries(self) -> list[dict[str, Any]]:
        """The recipe as plain data."""
        return [{stage.name: plain(stage)} for stage in self.stages]

    @property
    def text(self) -> str:
        """The recipe as YAML, with every default written out."""
        return yaml.safe_dump(self.entries(), sort_keys=False)

    def locked(self, written: Sequence[Mapping[str, Any]]) -> Recipe:
        """The recipe with the settings that its first stages recorded.

        They equal the recipe's, except for settings that depend on the speed of a machine, which are pinned to their
        outcome. A stage that records more than its settings, as training does, keeps those of the recipe.
        """
        entries = self.entries()
        for stage, entry, settings in zip(self.stages, entries, written, strict=False):
            if settings.keys() == entry[stage.name].keys():
                entry[stage.name] = dict(settings)
        return _read(entries, self.name, "recipe.lock.yaml")

    def until(self, name: str) -> Recipe:
        """The recipe up to and including its first stage of that name.

        Raises:
            RecipeError: The recipe has no such stage.
        """
        return replace(self, stages=self.stages[: self._first(name) + 1])

    def _first(self, name: str) -> int:
        if name not in self.names:
            raise RecipeError(f"recipe {self.name!r} has no stage {name!r}", nearest(name, self.names))
        return self.names.index(name)

    def in_float(self) -> Recipe:
        """The recipe without quantizing stages."""
        return replace(self, stages=tuple(stage for stage in self.stages if stage.name not in _QUANTIZING))

    def changed(self, assignments: tuple[str, ...]) -> Recipe:
        """The recipe with changed settings, each given as ``stage.key=value``.

        Raises:
            RecipeError: Malformed assignment, unknown stage or key, or a bad value.
        """
        entries = self.entries()
        for assignment in assignments:
            path, equals, value = assignment.partition("=")
            name, dot, key = path.partition(".")
            if not (equals and dot):
                raise RecipeError(f"cannot read {assignment!r}", "write stage.key=value, such as prune.macs=0.5")
            self._first(name)
            for entry in entries:
                if name in entry:
                    _assign(entry[name], key.split("."), _yaml(value, assignment), assignment)
        return _read(entries, self.name, "command line")


def _assign(settings: Any, path: list[str], value: object, assignment: str) -> None:
    for part in path[:-1]:
        settings = settings.setdefault(part, {})
        if not isinstance(settings, dict):
            raise RecipeError(
                f"cannot read {assignment!r}: {part} is one value", "write it without what follows the dot"
            )
    settings[path[-1]] = value


def is_file_name(name: str) -> bool:
    """Whether a recipe's name is the path of a user's file."""
    return name.endswith((".yaml", ".yml"))


def load_recipe(name: str) -> Recipe:
    """Loads a recipe by name or from the user's ``.yaml`` file.

    Raises:
        RecipeError: Unknown name, unreadable file, unknown stage or key, bad value, or a stage whose input type is not
            the output type of the stage before it.
    """
    if is_file_name(name):
        path = Path(name)
        if not path.is_file():
            raise RecipeError(f"no recipe file {name}", f"built in: {', '.join(recipe_names())}")
        return _read(_yaml(_text(path), name), path.stem, name)
    if name not in recipe_names():
        raise RecipeError(f"unknown recipe {name!r}", nearest(name, recipe_names()))
    return _read(_yaml(recipe_text(name), name), name, f"{name}.yaml")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as failure:
        raise RecipeError(f"cannot read {path}: {failure.strerror}", "check its permissions") from failure
    except UnicodeDecodeError as failure:
        raise RecipeError(f"{path} is no UTF-8 text", "save it as UTF-8") from failure


def _yaml(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except RecursionError as failure:
        raise RecipeError(f"{where} is nested too deeply", "correct it") from failure
    except yaml.YAMLError as failure:
        raise RecipeError(f"{where} is not YAML: {' '.join(str(failure).split())}", "correct it") from failure


def _read(data: Any, name: str, where: str) -> Recipe:
    if not isinstance(data, list) or not data:
        raise RecipeError(f"{where}: a recipe is a list of stages", "such as '- prune: {macs: 0.5}' or '- export'")
    recipe = Recipe(name, tuple(_stage(entry, where) for entry in data))
    _check_chain(recipe, where)
    return recipe


def _stage(entry: Any, where: str) -> Stage:
    name, fields = entry, None
    if isinstance(entry, dict) and len(entry) == 1:
        name, fields = next(iter(entry.items()))
    if not isinstance(name, str) or not isinstance(fields, dict | None):
        raise RecipeError(f"{where}: cannot read {entry!r}", "an entry is '- stage' or '- stage: {key: value}'")
    if name not in STAGES:
        raise RecipeError(f"{where}: unknown stage {name!r}", nearest(name, STAGES))
    return parse(STAGES[name], fields or {}, f"{where}: {name}", RecipeError)


def _types(stage: type[Stage]) -> dict[type, type]:
    """Output type of a stage by input type, from the annotations of ``__call__``, imported under ``TYPE_CHECKING``."""
    hints = get_type_hints(stage.__call__, localns={**vars(artifact), "Context": Context})
    taken, given = hints["artifact"], hints["return"]
    return {kind: kind for kind in taken.__constraints__} if isinstance(taken, TypeVar) else {taken: given}


def _check_chain(recipe: Recipe, where: str) -> None:
    """Checks that every stage gets its input type and the stages it needs."""
    input_type: type = Source
    for index, stage in enumerate(recipe.stages):
        types = _types(type(stage))
        before = recipe.names[:index]
        if input_type not in types:
            gets = f"behind {before[-1]} there is {_WORDS[input_type]}" if before else "nothing is there at the start"
            raise RecipeError(
                f"{where}: {stage.name} needs {' or '.join(_WORDS[kind] for kind in types)}, and {gets}",
                _cure(stage, input_type, before),
            )
        if stage.name in _QUANTIZING and Export.name in before:
            what = f"{where}: {stage.name} needs {' or '.join(_WORDS[kind] for kind in types)}"
            raise RecipeError(f"{what}, and export comes before it", f"put '- {stage.name}' before '- export'")
        for needed in _NEEDS.get(stage.name, ()):
            if not {*needed.split(" or ")} & {*before}:
                raise RecipeError(
                    f"{where}: {stage.name} needs {needed} before it", f"put '- {needed.split()[0]}' before it"
                )
        if quantized := [name for name in before if name in _AFTER_QUANTIZING.get(stage.name, ())]:
            raise RecipeError(
                f"{where}: {stage.name} works on a float network, and {quantized[0]} comes before it",
                f"put '- {stage.name}' before '- {quantized[0]}'",
            )
        input_type = types[input_type]


def _cure(stage: Stage, input_type: type, before: list[str]) -> str:
    """Hint that gives a stage its requirement: a stage before it, or another position."""
    wanted = next(iter(_types(type(stage))))
    if wanted is Source:
        return f"put '- {stage.name}' first, or leave it out"
    makers = {name: next(iter(_types(kind).items())) for name, kind in STAGES.items()}
    makers = {name: types for name, types in makers.items() if types[1] is wanted and types[0] is not wanted}
    if used := [name for name in before if name in makers]:
        behind = next(
            name for name in before[before.index(used[-1]) + 1 :] if wanted not in _types(STAGES[name]).values()
        )
        return f"put '- {stage.name}' before '- {behind}'" if behind != stage.name else f"leave the second {behind} out"
    fitting = [name for name, types in makers.items() if types[0] is input_type] or list(makers)
    entries = " or ".join(f"'- {name}'" for name in fitting)
    return (
        f"start with {entries} instead of '- {before[0]}'"
        if before and input_type is not Source and all(types[0] is Source for types in makers.values())
        else f"put {entries} before it"
    )


def default_recipe(source: Source, *, sample: bool) -> str:
    """The default recipe by origin: weights, a preset to train (on the bundled sample task), or an ONNX graph."""
    if source.imported:
        return "onnx"
    if source.file is not None or source.weights is not None:
        return "int8"
    return "sample" if sample else "train"


def takes_graphs(recipe: Recipe) -> bool:
    """Whether the recipe starts from an imported ONNX file."""
    return Exported in _types(type(recipe.stages[0])).values()
