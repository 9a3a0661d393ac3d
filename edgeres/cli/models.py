"""``edgeres models``: the presets with their MACs and parameters."""

from __future__ import annotations

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
    """Prints one row per preset, at 224x224 with an ImageNet stem and at 32x32 with a CIFAR stem."""
    from edgeres.model.cost import macs, parameters
    from edgeres.model.spec import PRESETS

    rows: list[dict[str, Any]] = []
    for name, spec in PRESETS.items():
        size = 224 if spec.stem.pool else 32
        rows.append({"name": name, "size": size, "macs": macs(spec, size, size), "parameters": parameters(spec)})
    if options.json:
        screen.json(rows)
        return 0
    screen.table(
        ("model", "input", "MACs", "parameters"),
        ((r["name"], f"{r['size']}x{r['size']}", f"{r['macs']:,}", f"{r['parameters']:,}") for r in rows),
    )
    return 0
