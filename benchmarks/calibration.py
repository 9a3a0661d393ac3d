"""Time and memory of calibration: ResNet-50 at 224 px, random weights, Imagenette's images.

``python -m benchmarks.calibration [--images 64 512]`` prints, for edgeres, ONNX Runtime's calibrators and NNCF, peak
memory at some counts of images and the slope between them, and what edgeres' observer takes beside one plain float pass
over the same images: both passes in turn, in one process, so that the machine's drift hits both alike. Below stands
what this says of each goal. ``--write docs/quantization.md`` renews the block of that page.
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
from benchmarks.command import IMAGES, positive, require, run, said
from benchmarks.observers import OBSERVERS
from benchmarks.page import renew, renewed
from benchmarks.table import markdown
from edgeres.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

HEADS = ("calibrator", "images", "peak", "slope", "seconds", "images/s")
MARKERS = "<!-- calibration:begin -->", "<!-- calibration:end -->"
PEAK_GB, SLOPE_MB, TIMES = 1.0, 0.1, 1.25
"""Goals of calibrating ResNet-50 at 224 px, whatever the calibrator."""
STEADY = 64
_MB = 2**20 / 1e6
_SHARE = 0.9
"""Share of the free memory that a calibrator may take before it is ended."""


@dataclass(frozen=True, slots=True)
class Memory:
    """One calibration in a process of its own.

    Attributes:
        name: Whose.
        images: How many.
        peak_mib: Most resident memory of the process.
        seconds: Time of calibrating; None where it was ended.
        slope_mib: Memory an image more takes, against the row before of the same name; None for the first.
        failure: Why it was ended, or empty.
    """

    name: str
    images: int
    peak_mib: float
    seconds: float | None = None
    slope_mib: float | None = None
    failure: str = ""

    def cells(self) -> tuple[str, ...]:
        """As the table shows it."""
        title = OBSERVERS[self.name].title + (f": {self.failure}" if self.failure else "")
        slope = "-" if self.slope_mib is None else f"{self.slope_mib:.2f} MiB/image"
        timed = ("-", "-") if self.seconds is None else (f"{self.seconds:.1f}", f"{self.images / self.seconds:.1f}")
        return (title, f"{self.images}", f"{self.peak_mib:,.0f} MiB", slope, *timed)


@dataclass(frozen=True, slots=True)
class Overhead:
    """Seconds of three passes over the same images, taken in turn.

    Attributes:
        images: How many each pass has seen.
        plain: The float network in batches of 32, as ``evaluate`` runs it.
        plain1: The float network image by image.
        observe: The observer.
    """

    images: int
    plain: float
    plain1: float
    observe: float

    def sentence(self) -> str:
        """For people."""
        return (
            f"On {self.images} images in turn, the observer took {self.observe / self.plain:.2f} times a plain float "
            f"pass in batches of 32 ({1e3 * self.observe / self.images:.1f} against "
            f"{1e3 * self.plain / self.images:.1f} ms an image) and {self.observe / self.plain1:.2f} times one image "
            f"by image ({1e3 * self.plain1 / self.images:.1f} ms)."
        )


def slopes(rows: Sequence[Memory]) -> tuple[Memory, ...]:
    """The rows with the slope from each count to the next one of the same calibrator."""
    found: list[Memory] = []
    for row in rows:
        before = found[-1] if found and found[-1].name == row.name else None
        known = before is not None and not row.failure and row.images > before.images
        slope = (row.peak_mib - before.peak_mib) / (row.images - before.images) if known and before else None
        found.append(Memory(row.name, row.images, row.peak_mib, row.seconds, slope, row.failure))
    return tuple(found)


def verdicts(rows: Sequence[Memory], overhead: Overhead) -> tuple[str, ...]:
    """What the figures of edgeres say of each goal: the largest peak, the steepest slope, and the pass it is beside.

    A slope counts from ``STEADY`` images on: before, the process is still growing to its size.
    """
    ours = [row for row in rows if row.name == "edgeres" and not row.failure]
    steady = slopes([row for row in ours if row.images >= STEADY])
    slopes_mb = [row.slope_mib * _MB for row in steady if row.slope_mib is not None]
    peak = max((row.peak_mib for row in ours), default=None)
    return (
        _verdict("peak memory", None if peak is None else peak * _MB / 1e3, PEAK_GB, "GB"),
        _verdict("slope", max(slopes_mb, default=None), SLOPE_MB, "MB per image"),
        _verdict("time", overhead.observe / overhead.plain, TIMES, "times a plain float pass"),
    )


def _verdict(name: str, value: float | None, limit: float, unit: str) -> str:
    if value is None:
        return f"* {name} <= {limit:g} {unit}: **no verdict**; not measured"
    word = "met" if value <= limit else f"missed by {value - limit:.2f}"
    return f"* {name} <= {limit:g} {unit}: **{word}**; {value:.2f}"


def memory(folder: str, name: str, images: int) -> Memory:
    """Calibrates in a process of its own."""
    free = child.available_mib()
    arguments = [folder, name, "--images", str(images)]
    done = child.python("benchmarks.observers", arguments, None if free is None else _SHARE * free)
    if done.starved:
        return Memory(name, images, done.peak_mib, failure="killed, out of memory")
    seconds = json.loads(done.checked(f"{name} on {images} images").output.splitlines()[-1])["seconds"]
    return Memory(name, images, done.peak_mib, seconds)


def work(options: argparse.Namespace) -> str:
    """Measures everything.

    Raises:
        UsageError: ``../shared`` is absent, the counts do not grow, or the document has no place for the table.
        EdgeresError: A calibrator failed.
    """
    require(IMAGES)
    for counts in (options.images, options.theirs):
        if counts != sorted(set(counts)):
            raise UsageError(f"counts of images must grow: {counts}", "put the smaller ones first")
    if options.write is not None:
        renewed(options.write, "", MARKERS)
    found: list[Memory] = []
    with tempfile.TemporaryDirectory(prefix="edgeres-bench-") as folder:
        most = max(*options.images, *options.theirs, options.overhead)
        said(f"decoding {most} images")
        child.python("benchmarks.observers", [folder, "decode", "--images", str(most)]).checked("decoding")
        said(f"overhead on {options.overhead} images")
        passes = child.python("benchmarks.observers", [folder, "overhead", "--images", str(options.overhead)])
        overhead = Overhead(**json.loads(passes.checked("timing the passes").output.splitlines()[-1]))
        said(overhead.sentence())
        for name in OBSERVERS:
            for images in options.images if name == "edgeres" else options.theirs:
                found.append(memory(folder, name, images))
                said("  ".join(found[-1].cells()))
    rows = slopes(found)
    table = markdown(HEADS, (row.cells() for row in rows))
    page = "\n\n".join([table, overhead.sentence(), "\n".join(verdicts(rows, overhead))])
    if options.write is not None:
        renew(options.write, page, MARKERS)
    if options.json:
        return json.dumps({"memory": [asdict(row) for row in rows], "overhead": asdict(overhead)}, indent=2)
    return page


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.calibration", description=__doc__.partition("\n")[0])
    made.add_argument("--images", nargs="+", type=positive, default=[64, 512], metavar="N", help="default 64 512")
    made.add_argument(
        "--theirs", nargs="+", type=positive, default=[16, 64], metavar="N", help="for the peers, default 16 64"
    )
    made.add_argument("--overhead", type=positive, default=128, metavar="N", help="images each pass is timed on")
    made.add_argument("--write", type=Path, metavar="FILE.md", help="renew the table in this document")
    made.add_argument("--json", action="store_true", help="print the rows for machines")
    return made


def main(given: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return run(parser(), work, given)


if __name__ == "__main__":
    sys.exit(main())
