"""``edgeres export``: the ONNX files of a finished run, written again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeres.cli._compilation import add_stage_parser, run_again

if TYPE_CHECKING:
    from edgeres.cli._options import Commands

PLACE = 40
run = run_again


def add_parser(commands: Commands) -> None:
    """Adds ``edgeres export``."""
    add_stage_parser(commands, "export", "write a finished run's ONNX files again")
