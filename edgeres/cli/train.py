"""``edgeres train``: the training stage and an evaluation, for no target in particular."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgeres.cli._compilation import compile_and_print
from edgeres.cli._options import EXIT_CODES, Commands, Options, add_running, add_source, new_request, text, whole_number

if TYPE_CHECKING:
    from edgeres.cli._console import Screen

PLACE = 20


def add_parser(commands: Commands) -> None:
    """Adds ``edgeres train``."""
    command = commands.add_parser("train", help="train a network and keep its weights", epilog=EXIT_CODES)
    add = command.add_argument
    add("model", type=text, metavar="MODEL", help="preset (see 'edgeres models')")
    add("--recipe", choices=("he", "modern"), help="training recipe; default modern")
    add("--epochs", type=whole_number, metavar="N", help="passes over the training images")
    add("--freeze", choices=("none", "backbone"), help="train the classifier alone, on --weights")
    add_source(command)
    add_running(command, "build/<model>-trained")


def run(options: Options, screen: Screen) -> int:
    """Trains a network and evaluates it on the validation images."""
    from dataclasses import replace

    settings = {"recipe": options.recipe, "epochs": options.epochs, "freeze": options.freeze}
    changes = tuple(f"train.{name}={value}" for name, value in settings.items() if value is not None)
    request = new_request(options, target="cpu")
    recipe = "train" if request.data else "sample"
    request = replace(request, recipe=recipe, until="evaluate", changes=(*changes, *request.changes))
    out = Path(options.out or f"build/{request.name}-trained")
    return compile_and_print(request, out, options, screen)
