"""``edgeres targets``: the targets, their versions, and what each one still needs on this host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeres.cli._console import Screen
    from edgeres.cli._options import Commands, Options

PLACE = 200


def add_parser(commands: Commands) -> None:
    """Adds ``edgeres targets``."""
    command = commands.add_parser("targets", help="list targets and what is missing here")
    command.add_argument("--json", action="store_true", help="machine-readable output")


def run(options: Options, screen: Screen) -> int:
    """Prints one row per target; the full text of what is missing is below the table, once for each cause."""
    from edgeres.backends.registry import find_backend
    from edgeres.targets.target import targets

    rows: list[dict[str, Any]] = []
    cells: list[tuple[str, ...]] = []
    for target in targets().values():
        missing = find_backend(target.backend).missing()
        row: dict[str, Any] = {"name": target.name, "aliases": target.aliases, "title": target.title}
        row |= {"build_on": target.build_on, "runtime": target.runtime.name, "missing": missing}
        rows.append({**row, "version": target.version, "versions": target.versions})
        # The versions can follow the target's colon; the default has a star.
        versions = " ".join(f"{name}*" if name == target.version else name for name in target.versions) or "-"
        first = missing.partition(":")[0] if missing else "-"
        cells.append((target.name, ", ".join(target.aliases), target.title, versions, target.build_on, first))
    if options.json:
        screen.json(rows)
        return 0
    screen.table(("target", "aliases", "what", "versions", "built on", "missing here"), cells)
    for missing in dict.fromkeys(row["missing"] for row in rows if row["missing"]):
        screen.line(missing)
    return 0
