"""``edgeres calibration``: saves a run's table of scales, and compares two tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgeres.errors import UsageError

if TYPE_CHECKING:
    from edgeres.cli._console import Screen
    from edgeres.cli._options import Commands, Options
    from edgeres.quant.calibration_table import ScaleChange, TableChange

PLACE = 190

DIFFERENT = 3
_SCALE_KEYS = ("kind", "tensor", "first", "second", "percent", "bits", "channels", "codes")
"""Keys of a scale that differs, for ``--json``."""


def add_parser(commands: Commands) -> None:
    """Adds ``edgeres calibration save`` and ``edgeres calibration diff``."""
    command = commands.add_parser("calibration", help="keep a run's scales, or set two tables side by side")
    actions = command.add_subparsers(dest="action", required=True, metavar="ACTION")
    save = actions.add_parser("save", help="keep a run's scales in a file, for 'edgeres compile --scales FILE'")
    save.add_argument("run", metavar="RUN", help="run folder, such as build/resnet18-jetson")
    save.add_argument("file", metavar="FILE", help="where to; a file that holds something else is not overwritten")
    save.add_argument("--force", action="store_true", help="overwrite FILE")
    codes = "exit codes: 0 nothing differs, 2 bad usage or input, 3 something differs"
    diff = actions.add_parser("diff", help="compare two tables, scale by scale", epilog=codes)
    diff.add_argument("first", metavar="A", help="a saved table, or a run folder")
    diff.add_argument("second", metavar="B", help="another one")
    diff.add_argument("--json", action="store_true", help="machine-readable output")


def run(options: Options, screen: Screen) -> int:
    """Saves a run's table, or compares two."""
    return _save(options, screen) if options.action == "save" else _diff(options, screen)


def _save(options: Options, screen: Screen) -> int:
    """Writes a run's table to a file, with the same bytes as the run's own ``calibration.json``."""
    from edgeres.artifacts.store import reading, write_beside
    from edgeres.quant.calibration_table import encode, read_table

    table, path = read_table(Path(options.run)), Path(options.file)
    data = encode(table).encode()
    if path.exists() and not options.force:
        with reading(path):
            same = path.is_file() and path.read_bytes() == data
        if not same:
            what = f"{path} is there already and holds something else"
            raise UsageError(what, "choose another name, or pass --force")
    write_beside(path, data)
    scales = f"{len(table.table.activations)} activations and {len(table.table.weights)} weights of {table.model}"
    images = f"{table.table.calibrator} on {table.table.images:,} images"
    screen.command(f"{path}: {scales}, {images}; sha256 {table.digest}")
    return 0


def _diff(options: Options, screen: Screen) -> int:
    from edgeres.quant.calibration_table import difference, read_table

    change = difference(read_table(Path(options.first)), read_table(Path(options.second)))
    if options.json:
        facts = [dict(zip(("name", "first", "second"), fact, strict=True)) for fact in change.facts]
        scales = [{name: getattr(scale, name) for name in _SCALE_KEYS} for scale in change.scales]
        screen.json({"equal": change.equal, "compared": change.compared, "facts": facts, "scales": scales})
    else:
        _print(change, options, screen)
    return 0 if change.equal else DIFFERENT


def _print(table_change: TableChange, options: Options, screen: Screen) -> None:
    if table_change.facts:
        # A sha256 is shown by its first 12 digits.
        facts = [(name, *(v[:12] if len(v) == 64 else v for v in values)) for name, *values in table_change.facts]
        screen.table(("what differs", options.first, options.second), facts)
        screen.out.out("")
    if table_change.scales:
        heads = ("kind", "tensor", "first", "second", "change", "bits", "channels", "codes")
        screen.table(heads, map(_cells, table_change.scales))
        screen.out.out("")
    screen.command(f"{len(table_change.scales)} of {table_change.compared} scales differ")
    if any(name == "weights" for name, _, _ in table_change.facts):
        screen.command("the tables are for different weights: their ranges differ for that alone")


def _cells(change: ScaleChange) -> tuple[str, ...]:
    """The row of a scale: values to six digits, change in percent and in bits."""
    first, second = ("-" if value is None else f"{value:.6g}" for value in (change.first, change.second))
    percent = "one table alone" if change.percent is None else f"{change.percent:+.3g} %"
    bits = "-" if change.bits is None else f"{change.bits:+.2g}"
    return (change.kind, change.tensor, first, second, percent, bits, str(change.channels), change.codes)
