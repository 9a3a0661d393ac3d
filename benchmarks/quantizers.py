"""Quantizers side by side: the same network, the same calibration images, the same judges.

``python -m benchmarks.quantizers [--networks NAME ...] [--seeds 5] [--keep DIR] [--write docs/quantization.md]``
quantizes each network with edgeres at its defaults, with edgeres' techniques alone and with its peers, under TensorRT's
scheme and under x86's, each in a process of its own, and says of each goal whether it is met. ``--keep`` keeps finished
rows: a run that was killed goes on. A kept row of older code is shown, marked as such; ``--renew`` measures it again.
``--fast`` is a quick look.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from benchmarks import child
from benchmarks.bench import Bench
from benchmarks.command import positive, run, said
from benchmarks.contenders import PEERS, QUANTIZERS
from benchmarks.keep import Keep
from benchmarks.means import means
from benchmarks.page import BRIEF, PAGE, brief, page, renew
from benchmarks.quantizer import SCHEMES, missing, versions
from benchmarks.row import Row
from benchmarks.tasks import TASKS
from benchmarks.techniques import source_digest
from edgeres.errors import UsageError
from edgeres.settings import digest, plain, sha256_file
from edgeres.targets.target import find_target

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.quantizer import SchemeName
    from benchmarks.tasks import Task
    from edgeres.targets.target import QuantScheme

JUDGE: dict[SchemeName, int] = {"tensorrt": 1, "x86": 2}
"""Raised when the judge counts or computes something else: kept rows are of one judge."""
_SHARE = 0.9
"""Share of the free memory that a contender may take before it is ended."""
_FAST = (128, 500, 500)


@dataclass(frozen=True, slots=True)
class Counts:
    """Images of each kind."""

    images: int
    validation: int | None
    held_out: int

    def arguments(self) -> tuple[str, ...]:
        """For ``benchmarks.bench``."""
        judged = () if self.validation is None else ("--validation", str(self.validation))
        return ("--images", str(self.images), "--held-out", str(self.held_out), *judged)


def key(task: Task, counts: Counts, scheme: SchemeName, quantizer: str, seed: int) -> dict[str, Any]:
    """Everything that decides a row."""
    contender = QUANTIZERS[quantizer]
    target = find_target(SCHEMES[scheme])
    ours = quantizer not in PEERS
    return {
        "task": task.name,
        "scheme": scheme,
        "quantizer": quantizer,
        "seed": seed,
        "settings": repr(contender),
        "counts": [counts.images, counts.validation, counts.held_out],
        "network": sha256_file(task.checkpoint),
        "wanted": _wanted(target.scheme, ours=ours),
        "versions": versions(contender),
        "edgeres": source_digest() if ours else "",
        "judge": JUDGE[scheme],
    }


def _wanted(scheme: QuantScheme | None, *, ours: bool) -> str:
    """What of a scheme reaches a contender: signedness is all that peers are told."""
    if scheme is None:
        return "float"
    return digest(plain(scheme)) if ours else f"signed {scheme.signed}"


def measured(folder: Path, task: str, scheme: str, quantizer: str, seed: int) -> Row:
    """Quantizes in one process and judges in another; a contender that fails has a row that says so."""
    absent = missing(QUANTIZERS[quantizer])
    if absent:
        return Row(task, scheme, quantizer, seed, failure=absent)
    free, load = child.available_mib(), os.getloadavg()[0]
    arguments = [str(folder), scheme, quantizer]
    done = child.python("benchmarks.contenders", arguments, None if free is None else _SHARE * free)
    load = max(load, os.getloadavg()[0])
    row = Row(task, scheme, quantizer, seed, done.peak_mib, load=load)
    if done.code:
        return replace(row, failure="killed, out of memory" if done.starved else _last(done))
    judged = child.python("benchmarks.judge", arguments)
    if judged.code:
        return replace(row, failure=f"judging failed: {_last(judged)}")
    seconds = json.loads(done.output.splitlines()[-1])["seconds"]
    found = json.loads(judged.output.splitlines()[-1])
    Bench(folder).model(f"{scheme}-{quantizer}", QUANTIZERS[quantizer].suffix).unlink()
    return Row.of({**replace(row, seconds=seconds).plain(), **found})


def _last(ended: child.Child) -> str:
    return (ended.errors.strip().splitlines() or [f"exit code {ended.code}"])[-1]


@contextmanager
def _place(kept: Path | None) -> Iterator[Path]:
    """The folder to keep things in, or one that goes when the run ends."""
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept
        return
    with tempfile.TemporaryDirectory(prefix="edgeres-bench-") as folder:
        yield Path(folder)


def _benched(place: Path, task: Task, counts: Counts, seed: int) -> Path:
    """The folder of one seed, made if it is not there; of two runs that keep in one place, the second one waits."""
    checkpoint = task.checkpoint
    identity = digest([sha256_file(checkpoint), plain(task.preprocess), counts.validation])[:16]
    folder = place / "benches" / f"{task.name}-{identity}" / f"seed-{seed}-{counts.images}-{counts.held_out}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / "lock"):
        if not Bench(folder).complete:
            said(f"{task.name}, seed {seed}: decoding images")
            which = ["--task", task.name, "--checkpoint", str(checkpoint), "--seed", str(seed)]
            child.python("benchmarks.bench", [str(folder), *which, *counts.arguments()]).checked("decoding")
    return folder


def rows(options: argparse.Namespace, place: Path) -> Iterator[Row]:
    """Every row asked for, one after the other: all contenders of a seed are neighbours in time."""
    keep, counts = Keep(place), Counts(options.images, options.validation, options.held_out)
    for task in (TASKS[name] for name in options.networks):
        for seed in range(options.seeds):
            for scheme, name in pairs(options.schemes, options.quantizers):
                absent, identity = missing(QUANTIZERS[name]), key(task, counts, scheme, name, seed)
                row = keep.find(identity)
                if row is None and (absent or options.kept or not options.renew):
                    row = keep.find_older(identity)
                if row is None and (absent or options.kept):
                    row = Row(task.name, scheme, name, seed, failure=absent or "not measured yet")
                elif row is None:
                    row = measured(_benched(place, task, counts, seed), task.name, scheme, name, seed)
                    row = replace(row, code=identity["edgeres"])
                    keep.put(identity, row)
                    said(told(row))
                yield row


def pairs(schemes: Sequence[SchemeName], quantizers: Sequence[str]) -> tuple[tuple[SchemeName, str], ...]:
    """Schemes with the contenders that have an answer for them."""
    return tuple((scheme, name) for scheme in schemes for name in quantizers if scheme in QUANTIZERS[name].schemes)


def told(row: Row) -> str:
    """One line about a fresh row."""
    what = f"{row.task} {row.scheme} {row.quantizer} seed {row.seed}"
    if row.validation is None or row.seconds is None:
        return f"{what}: {row.failure}"
    figures = row.validation
    return (
        f"{what}: drop {figures.drop_pp:+.2f} pp, changed {figures.changed:.2f} %, KL {1e3 * figures.kl:.3f}e-3, "
        f"{row.seconds:.0f} s at a load of {row.load:.1f}"
    )


def work(options: argparse.Namespace) -> str:
    """Runs every contender.

    Raises:
        UsageError: Something it needs is absent.
        EdgeresError: Decoding or judging failed.
    """
    for name in options.networks:
        TASKS[name].check()
    for document in (options.write, options.brief):
        if document is not None and not document.is_file():
            raise UsageError(f"{document} is not there", "name a Markdown file, such as docs/quantization.md")
    if options.fast:
        options.images, options.validation, options.held_out = _FAST
    with _place(options.keep) as place:
        found = list(rows(options, place))
    summary = means(found)
    body = page(summary, options.images, options.held_out)
    if options.write is not None:
        renew(options.write, body, PAGE)
    if options.brief is not None:
        renew(options.brief, brief(summary), BRIEF)
    return json.dumps([row.plain() for row in found], indent=2) if options.json else body


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.quantizers", description=__doc__.partition("\n")[0])
    made.add_argument("--networks", nargs="+", choices=TASKS, default=["resnet18-imagenette"], metavar="NAME")
    made.add_argument("--images", type=positive, default=512, metavar="N", help="calibration images (default 512)")
    made.add_argument("--validation", type=positive, metavar="N", help="validation images (default all)")
    made.add_argument("--held-out", type=positive, default=1024, metavar="N", help="training images to choose on")
    made.add_argument("--seeds", type=positive, default=1, metavar="N", help="draws of calibration images")
    made.add_argument("--schemes", nargs="+", choices=SCHEMES, default=tuple(SCHEMES), metavar="NAME")
    made.add_argument("--quantizers", nargs="+", choices=QUANTIZERS, default=tuple(QUANTIZERS), metavar="NAME")
    made.add_argument("--fast", action="store_true", help="128 calibration, 500 validation, 500 held-out images")
    made.add_argument("--keep", type=Path, metavar="DIR", help="keep finished rows here and go on from them")
    made.add_argument("--kept", action="store_true", help="measure nothing: draw what --keep has")
    made.add_argument("--renew", action="store_true", help="measure rows of older code or packages again")
    made.add_argument("--write", type=Path, metavar="FILE.md", help="renew the tables in this document")
    made.add_argument("--brief", type=Path, metavar="FILE.md", help="renew the short block in this document")
    made.add_argument("--json", action="store_true", help="print every row for machines")
    return made


def main(given: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return run(parser(), work, given)


if __name__ == "__main__":
    sys.exit(main())
