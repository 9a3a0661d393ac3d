"""The page of the quantizers: one table per scheme, with what it says of each goal; and the short form for README."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.means import CORES, HEADS
from benchmarks.quantizer import SCHEMES
from benchmarks.table import markdown, with_block
from benchmarks.tasks import TASKS
from benchmarks.verdicts import goals
from edgeres.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.means import Mean

PAGE = "<!-- quantizers:begin -->", "<!-- quantizers:end -->"
BRIEF = "<!-- quantizers-brief:begin -->", "<!-- quantizers-brief:end -->"
_TITLES = {
    "tensorrt": "TensorRT's scheme (`jetson`), simulated by ONNX Runtime without fusion",
    "x86": "x86's scheme (`cpu`), ONNX Runtime with its integer kernels, without saturation",
}
_LEGEND = f"""\
{{images}} calibration and {{held_out:,}} held-out training images, or as many as there are; validation images:
{{validation}}. Figures are means over the seeds, each another draw of calibration images, ± the standard deviation
between them. KL is the mean divergence of the softmax from the float network's in 1e-3 nats. SQNR of the logits,
changed predictions, top-1 and drop are on the validation images; the interval is Tango's paired one, mean over the
seeds. Seconds cover quantizing: of decoded images for the peers; of JPEGs for edgeres, with every comparison its
stages make; `*` marks a machine on which more than {CORES} processes ran or waited (compare these with their neighbours
only). Rows marked as older are of code or packages that have changed since; `--renew` measures them again. Peak memory
is the whole process's. torchao's networks run in torch, its own runtime, and are judged there."""


def page(found: Sequence[Mean], images: int, held_out: int) -> str:
    """Tables and verdicts for people, as Markdown."""
    parts = []
    for task in dict.fromkeys(mean.task for mean in found):
        parts.append(f"## {TASKS[task].title}")
        for scheme in SCHEMES:
            group = [mean for mean in found if (mean.task, mean.scheme) == (task, scheme)]
            if group:
                lines = "\n".join(goal.line() for goal in goals(group))
                table = markdown(HEADS, (mean.cells() for mean in group))
                parts += [f"### {_TITLES[scheme]}", table, lines]
    judged = {TASKS[mean.task].title.partition(",")[0]: mean.images for mean in found if not mean.failure}
    counts = ", ".join(f"{count:,} of {title}" for title, count in judged.items())
    return "\n\n".join([*parts, _LEGEND.format(images=images, validation=counts or "none", held_out=held_out)])


def brief(found: Sequence[Mean]) -> str:
    """Met and missed goals alone, per network and scheme."""
    lines = []
    for task, scheme in dict.fromkeys((mean.task, mean.scheme) for mean in found):
        told = goals([mean for mean in found if (mean.task, mean.scheme) == (task, scheme)])
        counted = sum(goal.met is True for goal in told), len(told)
        missed = "; ".join(f"{goal.name}: {goal.told}" for goal in told if not goal.met)
        lines.append(
            f"* {TASKS[task].title}, {_TITLES[scheme].partition(',')[0]}: {counted[0]} of {counted[1]} goals met"
            + (f" ({missed})" if missed else "")
        )
    return "\n".join(lines)


def renewed(path: Path, body: str, markers: tuple[str, str]) -> str:
    """A document with another block; before long work, whether there will be a place for what it finds.

    Raises:
        UsageError: It cannot be read, or its markers do not pair.
    """
    try:
        return with_block(path.read_text(encoding="utf-8"), body, markers)
    except OSError as failure:
        raise UsageError(f"cannot renew {path}: {failure.strerror}", "name a Markdown file") from failure


def renew(path: Path, body: str, markers: tuple[str, str]) -> None:
    """Renews the block of a document.

    Raises:
        UsageError: It cannot be read or written, or its markers do not pair.
    """
    try:
        path.write_text(renewed(path, body, markers), encoding="utf-8")
    except OSError as failure:
        raise UsageError(f"cannot renew {path}: {failure.strerror}", "name a Markdown file") from failure
