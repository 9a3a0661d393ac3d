"""``edgeres verify``: accuracy and latency of a finished run, measured again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeres.cli._compilation import add_stage_parser, run_again

if TYPE_CHECKING:
    from edgeres.cli._options import Commands

PLACE = 60
run = run_again


def add_parser(commands: Commands) -> None:
    """Adds ``edgeres verify``."""
    add_stage_parser(commands, "verify", "measure a finished run's artifact again and judge it")
