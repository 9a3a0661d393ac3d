"""``edgeres models``: the presets with their MACs and parameters."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeres.cli._console import Screen
    from edgeres.cli._options import Commands, Options

PLACE = 210


def add_parser(commands: Commands) -> None:
    """Adds ``edgeres models``."""
    command = commands.add_parser("models", help="list presets with their costs")
    command.add_argument("--json", action="store_true", help="machine-readable output")


def run(options: Options, screen: Screen) -> int:
    """Prints one row per preset at its customary size, the families one after another."""
    from edgeres.model.cost import macs, parameters
    from edgeres.model.graph import graph
    from edgeres.model.presets import PRESETS

    rows: list[dict[str, Any]] = []
    for name, spec in sorted(PRESETS.items(), key=lambda entry: (_family(entry[0]), *_numbers(entry[0]))):
        size = spec.image_size
        costs = {"macs": macs(graph(spec), *size), "parameters": parameters(graph(spec))}
        rows.append({"family": _family(name), "name": name, "size": size.plain, **costs})
    if options.json:
        screen.json(rows)
        return 0
    screen.table(
        ("family", "model", "input", "MACs", "parameters"),
        ((r["family"], r["name"], f"{r['size']}x{r['size']}", f"{r['macs']:,}", f"{r['parameters']:,}") for r in rows),
    )
    return 0


def _family(name: str) -> str:
    """Name of a family: what is in front of the depth."""
    return "resnetv2" if name.startswith("resnetv2") else re.split(r"_?\d", name, maxsplit=1)[0]


def _numbers(name: str) -> tuple[int, str]:
    """Depth and name, so that networks are in the order of their depths."""
    numbers = re.findall(r"\d+", name.removeprefix("resnetv2_"))
    return int(numbers[0]) if numbers else 0, name
