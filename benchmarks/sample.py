"""The main job on the bundled sample task, timed: first from nothing, then from the cache.

``python -m benchmarks.sample --write README.md`` renews the report README opens with.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.child import python
from benchmarks.command import run
from benchmarks.table import REPORT, with_block

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMAND = ("compile", "resnet18", "--target", "jetson")


def work(options: argparse.Namespace) -> str:
    """Runs the job twice in a folder of its own.

    Raises:
        EdgeresError: It failed, or the document cannot be renewed.
    """
    with tempfile.TemporaryDirectory(prefix="edgeres-sample-") as folder:
        place = ("--out", f"{folder}/resnet18-jetson", "--cache", f"{folder}/cache")
        first = python("edgeres", (*COMMAND, *place)).checked("the main job")
        again = python("edgeres", (*COMMAND, *place)).checked("the repeated job")
        said = "\n".join((first.errors.strip(), first.output.strip())).replace(folder, "build")
    text = "\n".join(line for line in said.splitlines() if not line.startswith("  ... "))
    body = f"```\n{text}\n```\n\n{first.seconds:.0f} s from nothing, {again.seconds:.1f} s when repeated."
    if options.write is not None:
        document = options.write.read_text(encoding="utf-8")
        options.write.write_text(with_block(document, body, REPORT), encoding="utf-8")
    return body


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.sample", description=__doc__.partition("\n")[0])
    made.add_argument("--write", type=Path, metavar="FILE.md", help="renew the report in this document")
    return made


def main(given: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return run(parser(), work, given)


if __name__ == "__main__":
    sys.exit(main())
