"""``edgeres recipes``: the recipes that ship, and with ``--keys`` every setting that ``--set`` takes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from edgeres.cli.console import Screen
from edgeres.pipeline.shipped_recipes import recipe_names, stage_names

if TYPE_CHECKING:
    from argparse import Namespace


def recipes_command(options: Namespace, given: list[str]) -> int:
    """``edgeres recipes``."""
    screen = Screen(quiet=False)
    if options.keys:
        _keys(screen, as_json=options.json)
    elif options.json:
        from edgeres.pipeline.recipe import load_recipe

        screen.out.out(json.dumps({name: load_recipe(name).entries() for name in recipe_names()}, indent=2))
    else:
        screen.table(("recipe", "stages"), ((name, " -> ".join(stage_names(name))) for name in recipe_names()))
        screen.line("'edgeres recipes --keys' lists every setting that --set takes.")
    return 0


def _keys(screen: Screen, *, as_json: bool) -> None:
    from edgeres.pipeline.setting_keys import setting_keys

    keys = setting_keys()
    if as_json:
        rows = [
            {"name": k.name, "type": k.type, "default": k.default, "choices": list(k.choices), "about": k.about}
            for k in keys
        ]
        screen.out.out(json.dumps(rows, indent=2))
        return
    for key in keys:
        screen.line(f"{key.name}={key.shown_default}  ({key.shown_type}){f'  {key.about}' if key.about else ''}", 4)
