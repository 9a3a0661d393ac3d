"""Names, texts and stage names of the recipes in the package, read without importing a stage (no torch)."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable


def recipe_names() -> tuple[str, ...]:
    """Names of the recipes in the package."""
    return tuple(
        sorted(entry.name.removesuffix(".yaml") for entry in _folder().iterdir() if entry.name.endswith(".yaml"))
    )


def recipe_text(name: str) -> str:
    """The YAML text of a recipe in the package."""
    return _folder().joinpath(f"{name}.yaml").read_text(encoding="utf-8")


def stage_names(name: str) -> tuple[str, ...]:
    """Stage names of a recipe in the package, in order."""
    import yaml

    entries: list[Any] = yaml.safe_load(recipe_text(name))
    return tuple(entry if isinstance(entry, str) else next(iter(entry)) for entry in entries)


def _folder() -> Traversable:
    """Folder of the recipes: inside an installed package, beside it in a checkout."""
    packaged = files("edgeres").joinpath("recipes")
    return packaged if packaged.is_dir() else Path(__file__).resolve().parents[2] / "recipes"
