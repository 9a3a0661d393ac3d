"""``edgeres targets``: the targets, their versions, and what each one still needs on this host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeres.cli._command_line import Commands, Options
    from edgeres.cli._console import Screen

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
    for target in targets().values():
        missing = find_backend(target.backend).missing()
        row: dict[str, Any] = {"name": target.name, "aliases": list(target.aliases), "title": target.title}
        row |= {"build_on": target.build_on, "runtime": target.runtime.name, "missing": missing}
        rows.append({**row, "version": target.version, "versions": list(target.versions)})
    if options.json:
        screen.json(rows)
        return 0
    screen.table(
        ("target", "aliases", "what", "versions", "built on", "missing here"),
        (
            (r["name"], ", ".join(r["aliases"]), r["title"], _versions(r), r["build_on"], _first(r["missing"]))
            for r in rows
        ),
    )
    for missing in dict.fromkeys(r["missing"] for r in rows if r["missing"]):
        screen.line(missing)
    return 0


def _first(missing: str | None) -> str:
    """The first part of the text on what is missing, without the hint; ``-`` where nothing is missing."""
    return missing.partition(":")[0] if missing else "-"


def _versions(row: dict[str, Any]) -> str:
    """The versions that can follow the target's colon, the default with a star."""
    return " ".join(f"{name}*" if name == row["version"] else name for name in row["versions"]) or "-"
