"""``python -m benchmarks.inputs``: every kind of input on five targets by the command line, and what each ends in.

The table goes to ``docs/inputs.md``. A cell is ``ok`` with the score of float and of what ships, or ``refused`` with
the sentence that was printed. Any other end makes the command fail. Finished cells are kept and not run again until
the code changes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import re
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib import import_module
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.command import CHECKOUT, run, said
from benchmarks.digit_data import TRAIN, VALIDATION
from benchmarks.input_rows import ROWS
from benchmarks.page import renew, renewed
from benchmarks.table import markdown
from edgeres import __version__
from edgeres.cli import main as edgeres
from edgeres.errors import EdgeresError, UsageError
from edgeres.pipeline.assemble import source_digest
from edgeres.settings import digest, plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.input_rows.row import Row

TARGETS = ("jetson", "x86", "cpu", "cpu:litert", "cpu:executorch")
MARKERS = "<!-- inputs:begin -->", "<!-- inputs:end -->"
SECONDS = 900
"""Most that one command may take."""
IMPORTS = ("edgeres.pipeline.runner", "onnxruntime", "openvino", "scipy.optimize", "nncf", "executorch.exir")
"""Imported once for the processes of all cells."""
REFUSED = (1, 2)
OVER = 3
FINISHED = (0, OVER, 5)
"""Exit codes of a run that was judged: passed, over a budget, and too few images to tell."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One row on one target.

    Attributes:
        row: Title of the row.
        target: Name of the target.
        outcome: ``ok``, ``over the limit``, ``refused`` or ``broken``.
        text: Scores in percent, the sentence of the refusal, or the last line of what broke.
    """

    row: str
    target: str
    outcome: str
    text: str


def attempted(row: Row, words: list[str], target: str, folder: Path) -> Cell:
    """Runs ``edgeres compile`` for one row and one target, in a process of its own that has the imports already."""
    out, printed = folder / target.replace(":", "-"), folder / "stderr.txt"
    command = [
        "compile", *words, "--target", target, "--out", str(out), "--effort", "quick", "--calibration", "64",
        "--cache", str(folder / "cache"), "--budget", "accuracy_drop_pp=3", "--quiet",
    ]  # fmt: skip
    process = multiprocessing.get_context("fork").Process(target=_compile, args=(command, printed))
    process.start()
    process.join(SECONDS)
    if process.exitcode is None:
        process.kill()
        process.join()
        return Cell(row.title, target, "broken", f"took more than {SECONDS} s")
    text = printed.read_text(encoding="utf-8")
    if "Traceback" in text:
        return Cell(row.title, target, "broken", text.strip().splitlines()[-1])
    if process.exitcode in FINISHED:
        found = json.loads((out / "report.json").read_text(encoding="utf-8"))["accuracy"]
        scores = f"{found['float_score']:.1f} -> {found['deployed_score']:.1f}"
        return Cell(row.title, target, "over the limit" if process.exitcode == OVER else "ok", scores)
    if process.exitcode in REFUSED and text.strip():
        return Cell(row.title, target, "refused", _sentence(" ".join(text.split()), folder))
    return Cell(row.title, target, "broken", f"exit code {process.exitcode}: {' '.join(text.split())[-300:]}")


def _compile(words: list[str], printed: Path) -> None:
    """The command line with its messages in a file; the process ends with its exit code."""
    with printed.open("w", encoding="utf-8") as stream, Path(os.devnull).open("w", encoding="utf-8") as nothing:
        os.dup2(stream.fileno(), 2)
        os.dup2(nothing.fileno(), 1)
    sys.exit(edgeres(words))


def _sentence(printed: str, folder: Path) -> str:
    """The refusal without this machine's folders."""
    text = printed.partition("edgeres: ")[2] or printed
    return re.sub(rf"{re.escape(str(folder))}/?", "", text).replace(str(Path.home()), "~")


def page(cells: Sequence[Cell]) -> str:
    """The tables of all sections, and the sentences of the refusals below them."""
    reasons: dict[str, int] = {}
    by_place = {(cell.row, cell.target): cell for cell in cells}
    parts = []
    for section, rows in groupby(ROWS, key=lambda row: row.section):
        lines = []
        for row in rows:
            shown = [_shown(by_place.get((row.title, target)), reasons) for target in TARGETS]
            lines.append((row.title, *shown))
        parts.append(f"### {section}\n\n{markdown(('', *TARGETS), lines, words=1 + len(TARGETS))}")
    listed = "\n".join(f"{number}. {text}" for text, number in reasons.items())
    judged = [cell for cell in cells if cell.outcome != "refused"]
    counts = f"{sum(cell.outcome == 'ok' for cell in cells)} ok, {len(cells) - len(judged)} refused"
    bad = sum(cell.outcome in ("over the limit", "broken") for cell in cells)
    where = (
        f"edgeres {__version__}, Python {platform.python_version()}, {platform.machine()}. {TRAIN} training and "
        f"{VALIDATION} validation images of scikit-learn's digits, 64 calibration images, "
        f"`--effort quick`, limit of the drop 3 pp. {len(cells)} of {len(ROWS) * len(TARGETS)} cells: {counts}, {bad} "
        "neither."
    )
    return "\n\n".join((where, *parts, "### Refusals", listed))


def _shown(cell: Cell | None, reasons: dict[str, int]) -> str:
    if cell is None:
        return "not run"
    if cell.outcome in ("ok", "over the limit"):
        return cell.text if cell.outcome == "ok" else f"{cell.text} (over the limit)"
    text = re.sub(r" for \S+ stopped in ", " for TARGET stopped in ", cell.text)
    number = reasons.setdefault(text, len(reasons) + 1)
    return f"{cell.outcome} ({number})"


def _work(options: argparse.Namespace) -> str:
    chosen = [row for row in ROWS if options.only is None or options.only.lower() in row.title.lower()]
    if not chosen:
        raise UsageError(f"no row has {options.only!r} in its title", f"one is {ROWS[0].title!r}")
    if options.write is not None:
        renewed(options.write, "", MARKERS)
    options.keep.mkdir(parents=True, exist_ok=True)
    # Kept cells are those of this very code: other code may answer otherwise.
    code = digest([source_digest(CHECKOUT / "edgeres"), source_digest(CHECKOUT / "benchmarks" / "input_rows")])
    kept = options.keep / f"cells-{code[:16]}.json"
    cells = [Cell(**cell) for cell in json.loads(kept.read_text())] if kept.exists() else []
    if options.again:
        again = {(row.title, target) for row in chosen for target in options.targets}
        cells = [cell for cell in cells if (cell.row, cell.target) not in again]
    started, finished = time.monotonic(), 0
    present = {(cell.row, cell.target) for cell in cells}
    left = [(row, [one for one in options.targets if (row.title, one) not in present]) for row in chosen]
    total = sum(len(targets) for _, targets in left)
    for name in IMPORTS if total else ():
        import_module(name)
    for row, targets in left:
        if not targets:
            continue
        with tempfile.TemporaryDirectory(prefix="edgeres-inputs-") as name:
            words = row.make(Path(name))
            for target in targets:
                cells.append(attempted(row, words, target, Path(name)))
                fresh = kept.with_suffix(".partial")
                fresh.write_text(json.dumps([plain(cell) for cell in cells], indent=1), encoding="utf-8")
                fresh.replace(kept)
                finished += 1
                left_s = (time.monotonic() - started) / finished * (total - finished)
                said(f"{finished}/{total}, {left_s / 60:.0f} min left: {row.title}, {target}: {_brief(cells[-1])}")
    if options.write is not None:
        renew(options.write, page(cells), MARKERS)
    broken = [cell for cell in cells if cell.outcome == "broken"]
    if broken:
        raise EdgeresError("; ".join(f"{cell.row}, {cell.target}: {cell.text}" for cell in broken))
    return json.dumps([plain(cell) for cell in cells], indent=1) if options.json else page(cells)


def _brief(cell: Cell) -> str:
    return f"{cell.outcome}, {cell.text[:160]}"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.inputs", description=__doc__.partition("\n")[0])
    made.add_argument("--only", metavar="WORDS", help="rows with these words in their title")
    made.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS), metavar="TARGET")
    made.add_argument("--again", action="store_true", help="run cells again that are kept")
    made.add_argument("--keep", type=Path, default=CHECKOUT / "build" / "inputs", metavar="DIR", help="finished cells")
    made.add_argument("--write", type=Path, metavar="FILE.md", help="renew the tables in this document")
    made.add_argument("--json", action="store_true", help="print every cell for machines")
    return made


def main(given: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return run(parser(), _work, given)


if __name__ == "__main__":
    sys.exit(main())
