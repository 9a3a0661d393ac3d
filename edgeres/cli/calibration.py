"""``edgeres calibration``: saves a run's table of scales, and compares two tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from edgeres.errors import UsageError

if TYPE_CHECKING:
    from argparse import Namespace

    from edgeres.cli.command_line import Commands
    from edgeres.cli.console import Screen
    from edgeres.quant.calibration_table import CalibrationTable, ScaleChange, TableChange

DIFFERENT = 3


def add_parser(commands: Commands) -> None:
    """Adds ``edgeres calibration save`` and ``edgeres calibration diff``."""
    command = commands.add_parser("calibration", help="keep a run's scales, or set two tables side by side")
    actions = command.add_subparsers(dest="action", required=True, metavar="ACTION")
    save = actions.add_parser("save", help="keep a run's scales in a file, for 'edgeres compile --scales FILE'")
    save.set_defaults(function=_save)
    save.add_argument("run", metavar="RUN", help="run folder, such as build/resnet18-jetson")
    save.add_argument("file", metavar="FILE", help="where to; a file that holds something else is not overwritten")
    save.add_argument("--force", action="store_true", help="overwrite FILE")
    codes = "exit codes: 0 nothing differs, 2 bad usage or input, 3 something differs"
    diff = actions.add_parser("diff", help="compare two tables, scale by scale", epilog=codes)
    diff.set_defaults(function=_diff)
    diff.add_argument("first", metavar="A", help="a saved table, or a run folder")
    diff.add_argument("second", metavar="B", help="another one")
    diff.add_argument("--json", action="store_true", help="machine-readable output")


def _save(options: Namespace, screen: Screen, arguments: list[str]) -> int:
    """Writes a run's table to a file, with the same bytes as the run's own ``calibration.json``.

    Raises:
        UsageError: The file exists with other content, and ``--force`` is not set.
    """
    from edgeres.artifacts.store import reading, write_beside
    from edgeres.quant.calibration_table import encode, read_table

    table, path = read_table(Path(options.run)), Path(options.file)
    data = encode(table).encode()
    if path.exists() and not options.force:
        with reading(path):
            same = path.is_file() and path.read_bytes() == data
        if not same:
            raise UsageError(
                f"{path} is there already and holds something else", "choose another name, or pass --force"
            )
    write_beside(path, data)
    screen.out.out(f"{path}: {_description(table)}", highlight=False)
    return 0


def _description(saved: CalibrationTable) -> str:
    """How many scales a table has, of which model, by which calibrator and from how many images."""
    table = saved.table
    return (
        f"{len(table.activations)} activations and {len(table.weights)} weights of {saved.model}, "
        f"{table.calibrator} on {table.images:,} images; sha256 {saved.digest}"
    )


def _diff(options: Namespace, screen: Screen, arguments: list[str]) -> int:
    """Prints the facts and scales in which two tables differ; 3 where any does."""
    from edgeres.quant.calibration_table import difference, read_table

    change = difference(read_table(Path(options.first)), read_table(Path(options.second)))
    if options.json:
        screen.out.out(json.dumps(_plain(change), indent=2))
    else:
        _print(change, options, screen)
    return 0 if change.equal else DIFFERENT


def _print(table_change: TableChange, options: Namespace, screen: Screen) -> None:
    """Prints one table of facts and one of scales, each where something differs."""
    if table_change.facts:
        screen.table(
            ("what differs", options.first, options.second),
            ((n, _short(a), _short(b)) for n, a, b in table_change.facts),
        )
        screen.out.out("")
    if table_change.scales:
        screen.table(
            ("kind", "tensor", "first", "second", "change", "bits", "channels", "codes"),
            map(_cells, table_change.scales),
        )
        screen.out.out("")
    screen.out.out(f"{len(table_change.scales)} of {table_change.compared} scales differ", highlight=False)
    if any(name == "weights" for name, _, _ in table_change.facts):
        screen.out.out("the tables are for different weights: their ranges differ for that alone", highlight=False)


def _cells(change: ScaleChange) -> tuple[str, ...]:
    """The row of a scale: values to six digits, change in percent and in bits."""
    first, second = ("-" if value is None else f"{value:.6g}" for value in (change.first, change.second))
    percent, bits = change.percent, change.bits
    return (
        change.kind,
        change.tensor,
        first,
        second,
        "one table alone" if percent is None else f"{percent:+.3g} %",
        "-" if bits is None else f"{bits:+.2g}",
        str(change.channels),
        change.codes,
    )


def _short(value: str) -> str:
    """The first 12 digits of a sha256; any other value as it is."""
    return value[:12] if len(value) == 64 else value


def _plain(table_change: TableChange) -> dict[str, object]:
    """The differences for ``--json``."""
    facts = [{"name": name, "first": first, "second": second} for name, first, second in table_change.facts]
    scales = [
        {
            "kind": change.kind,
            "tensor": change.tensor,
            "first": change.first,
            "second": change.second,
            "percent": change.percent,
            "bits": change.bits,
            "channels": change.channels,
            "codes": change.codes,
        }
        for change in table_change.scales
    ]
    return {"equal": table_change.equal, "compared": table_change.compared, "facts": facts, "scales": scales}
