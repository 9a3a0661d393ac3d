"""``edgeres calibration``: tables of scales, kept and compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from edgeres.cli.console import Screen
from edgeres.errors import UsageError

if TYPE_CHECKING:
    from argparse import Namespace

    from edgeres.quant.calibration_diff import ScaleChange, TableChange
    from edgeres.quant.calibration_table import CalibrationTable

DIFFERENT = 3


def calibration_command(options: Namespace, given: list[str]) -> int:
    """``edgeres calibration save`` and ``edgeres calibration diff``."""
    return _save(options) if options.action == "save" else _diff(options)


def _save(options: Namespace) -> int:
    """Keeps a run's table; the same bytes as the ``calibration.json`` it was published as.

    Raises:
        UsageError: The file holds something else, and ``--force`` was not given.
    """
    from edgeres.artifacts.store import reading, write_beside
    from edgeres.quant.calibration_table import encode, read_table

    saved, place = read_table(Path(options.run)), Path(options.file)
    data = encode(saved).encode()
    if place.exists() and not options.force:
        with reading(place):
            same = place.is_file() and place.read_bytes() == data
        if not same:
            raise UsageError(
                f"{place} is there already and holds something else", "choose another name, or pass --force"
            )
    write_beside(place, data)
    Screen(quiet=False).out.out(f"{place}: {_told(saved)}", highlight=False)
    return 0


def _told(saved: CalibrationTable) -> str:
    table = saved.table
    return (
        f"{len(table.activations)} activations and {len(table.weights)} weights of {saved.model}, "
        f"{table.calibrator} on {table.images:,} images; sha256 {saved.digest}"
    )


def _diff(options: Namespace) -> int:
    from edgeres.quant.calibration_diff import difference
    from edgeres.quant.calibration_table import read_table

    screen = Screen(quiet=False)
    found = difference(read_table(Path(options.first)), read_table(Path(options.second)))
    if options.json:
        screen.out.out(json.dumps(_plain(found), indent=2))
    else:
        _draw(found, options, screen)
    return 0 if found.equal else DIFFERENT


def _draw(found: TableChange, options: Namespace, screen: Screen) -> None:
    if found.facts:
        screen.table(
            ("what differs", options.first, options.second), ((n, _short(a), _short(b)) for n, a, b in found.facts)
        )
        screen.out.out("")
    if found.scales:
        screen.table(
            ("kind", "tensor", "first", "second", "change", "bits", "channels", "codes"), map(_cells, found.scales)
        )
        screen.out.out("")
    screen.out.out(f"{len(found.scales)} of {found.compared} scales differ", highlight=False)
    if any(name == "weights" for name, _, _ in found.facts):
        screen.out.out("the tables are for different weights: their ranges differ for that alone", highlight=False)


def _cells(change: ScaleChange) -> tuple[str, ...]:
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
    """A digest by its first digits."""
    return value[:12] if len(value) == 64 else value


def _plain(found: TableChange) -> dict[str, object]:
    facts = [{"name": name, "first": first, "second": second} for name, first, second in found.facts]
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
        for change in found.scales
    ]
    return {"equal": found.equal, "compared": found.compared, "facts": facts, "scales": scales}
