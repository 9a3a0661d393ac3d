"""The main job on Imagenette: one compile for each target, through the command line, as a user runs it.

``python -m benchmarks.imagenette [--write README.md]`` prints one row per target: accuracy of the float network and of
what ships on the same 3,925 validation images, Tango's 95 % interval of the drop, and the latency of one image.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import child
from benchmarks.command import IMAGES, WEIGHTS, require, run, said
from benchmarks.table import markdown, with_block
from edgeres.errors import EdgeresError, UsageError
from edgeres.runs import document
from edgeres.runs.figures import millis, percent, points

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeres.runs.run import Run

TARGETS = ("x86", "cpu", "jetson")
HEADS = (
    "target", "runtime", "images", "float top-1", "INT8 top-1", "drop [95 % interval]", "changed", "integer layers",
    "float p50", "INT8 p50", "model.onnx", "compile",
)  # fmt: skip
_OVER_BUDGET = 3


@dataclass(frozen=True, slots=True)
class ImagenetteRow:
    """One compiled network.

    Attributes:
        target: Where it goes.
        runtime: What runs it there.
        images: Validation images.
        float_top1: Percent.
        int8_top1: Percent.
        drop_pp: Percentage points.
        low_pp: Lower end of the 95 % interval of the drop.
        high_pp: Upper end of it.
        changed: Predictions that differ from float's, in percent.
        integer_layers: Convolutions and matrix products in integers.
        weighted_layers: All of them.
        float_ms: Median latency of one image, None where the device is not here.
        int8_ms: The same of what ships.
        mib: Size of ``model.onnx``.
        seconds: Wall time of the command.
    """

    target: str
    runtime: str
    images: int
    float_top1: float
    int8_top1: float
    drop_pp: float
    low_pp: float
    high_pp: float
    changed: float
    integer_layers: int
    weighted_layers: int
    float_ms: float | None
    int8_ms: float | None
    mib: float
    seconds: float

    @classmethod
    def of(cls, report: Run, seconds: float) -> ImagenetteRow:
        """Reads a report.

        Raises:
            EdgeresError: The run did not come to its verdict.
        """
        accuracy, kernels = report.accuracy, report.kernels
        if accuracy is None or kernels is None:
            raise EdgeresError(f"the run for {report.target.name} has no verdict", "look at its report")
        medians = {row.variant: row.p50_ms for row in report.timings.latency}
        return cls(
            target=report.target.name,
            runtime=report.target.runtime,
            images=accuracy.n,
            float_top1=accuracy.float_score,
            int8_top1=accuracy.deployed_score,
            drop_pp=accuracy.drop_pp,
            low_pp=accuracy.low_pp,
            high_pp=accuracy.high_pp,
            changed=100 - accuracy.agreement,
            integer_layers=kernels.integer,
            weighted_layers=kernels.weighted,
            float_ms=medians.get("float32"),
            int8_ms=medians.get("int8"),
            mib=report.files["model.onnx"].size / 2**20,
            seconds=seconds,
        )

    def cells(self) -> tuple[str, ...]:
        """As the table shows it."""
        return (
            self.target,
            self.runtime,
            f"{self.images:,}",
            percent(self.float_top1),
            percent(self.int8_top1),
            f"{points(self.drop_pp)} [{self.low_pp:+.2f}, {self.high_pp:+.2f}]",
            percent(self.changed),
            f"{self.integer_layers} of {self.weighted_layers}",
            _latency(self.float_ms),
            _latency(self.int8_ms),
            f"{self.mib:.1f} MiB",
            f"{self.seconds:.0f} s",
        )


def _latency(value: float | None) -> str:
    return "unmeasured" if value is None else millis(value)


def compiled(target: str, folder: Path, cache: Path) -> tuple[ImagenetteRow, Run]:
    """Compiles for one target in a process of its own.

    Raises:
        EdgeresError: The command failed.
        UsageError: ``../shared`` is absent.
    """
    weights, images = require(WEIGHTS), require(IMAGES)
    said(f"edgeres compile resnet18 --target {target} ...")
    given = ["compile", "resnet18", "--target", target, "--weights", str(weights), "--data", str(images)]
    where = ["--cache", str(cache), "--out", str(folder / target), "--json", "--quiet"]
    done = child.python("edgeres", [*given, *where]).checked(f"edgeres compile --target {target}", _OVER_BUDGET)
    report = document.decode(done.output, f"the report for {target}")
    return ImagenetteRow.of(report, done.seconds), report


def shown(rows: Sequence[ImagenetteRow], report: Run) -> str:
    """The table, with what it was measured on."""
    table = markdown(HEADS, (row.cells() for row in rows), words=2)
    return f"{table}\n\n{machine(report)}"


def machine(report: Run) -> str:
    """Where a run took place, in one sentence."""
    found = report.provenance
    if found is None:
        return ""
    packages = ", ".join(
        f"{name} {found.packages[name]}" for name in ("torch", "onnxruntime", "openvino") if name in found.packages
    )
    threads = {row.threads for row in report.timings.latency}
    latency = f"; latency of one image on {max(threads)} threads" if threads else ""
    return f"{found.cpu}, Python {found.python}, {packages}{latency}."


def write(path: Path, body: str) -> None:
    """Renews the numbers of a document.

    Raises:
        UsageError: It cannot be read or written, or its markers do not pair.
    """
    try:
        path.write_text(with_block(path.read_text(encoding="utf-8"), body), encoding="utf-8")
    except OSError as failure:
        raise UsageError(
            f"cannot renew {path}: {failure.strerror}", "name a Markdown file, such as README.md"
        ) from failure


def work(options: argparse.Namespace) -> str:
    """Compiles for every target.

    Raises:
        EdgeresError: A run failed, or something it needs is absent.
    """
    require(WEIGHTS), require(IMAGES)
    if options.write is not None and not options.write.is_file():
        raise UsageError(f"{options.write} is not there", "name a Markdown file, such as README.md")
    rows, reports = [], []
    with tempfile.TemporaryDirectory(prefix="edgeres-bench-") as folder:
        for target in options.targets:
            row, report = compiled(target, Path(folder), options.cache or Path(folder, "cache"))
            rows.append(row)
            reports.append(report)
    body = shown(rows, reports[0])
    if options.write is not None:
        write(options.write, body)
    return json.dumps([asdict(row) for row in rows], indent=2) if options.json else body


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.imagenette", description=__doc__.partition("\n")[0])
    made.add_argument("--targets", nargs="+", default=TARGETS, metavar="NAME", help=f"default {' '.join(TARGETS)}")
    made.add_argument("--write", type=Path, metavar="FILE.md", help="renew the block of numbers in this document")
    made.add_argument("--cache", type=Path, metavar="DIR", help="keep stages here; the default is an empty folder")
    made.add_argument("--json", action="store_true", help="print the rows for machines")
    return made


def main(given: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return run(parser(), work, given)


if __name__ == "__main__":
    sys.exit(main())
