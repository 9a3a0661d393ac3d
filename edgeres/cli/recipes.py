"""``edgeres recipes``: the recipes that come with edgeres, and with ``--keys`` every setting that ``--set`` takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeres.cli._console import Screen
    from edgeres.cli._options import Commands, Options

PLACE = 220


def add_parser(commands: Commands) -> None:
    """Adds ``edgeres recipes``."""
    command = commands.add_parser("recipes", help="list recipes and their stages")
    command.add_argument("--json", action="store_true", help="machine-readable output")
    command.add_argument(
        "--keys", action="store_true", help="list every setting that --set takes, with type, default and choices"
    )


def run(options: Options, screen: Screen) -> int:
    """Prints one row per recipe, or with ``--keys`` one line per setting."""
    from edgeres.pipeline.shipped_recipes import recipe_names, stage_names

    if options.keys:
        from edgeres.pipeline.setting_keys import setting_keys  # imports torch

        if options.json:
            screen.json(setting_keys())
            return 0
        for key in setting_keys():
            about = f"  {key.about}" if key.about else ""
            screen.line(f"{key.name}={key.shown_default}  ({key.shown_type}){about}", 4)
    elif options.json:
        from edgeres.pipeline.recipe import load_recipe

        screen.json({name: load_recipe(name).entries() for name in recipe_names()})
    else:
        screen.table(("recipe", "stages"), ((name, " -> ".join(stage_names(name))) for name in recipe_names()))
        screen.line("'edgeres recipes --keys' lists every setting that --set takes.")
    return 0
