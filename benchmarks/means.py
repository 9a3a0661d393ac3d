"""``Mean``: a contender over all seeds."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from benchmarks.contenders import PEERS, QUANTIZERS
from edgeres.runs.figures import percent, points

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from benchmarks.row import Row

HEADS = (
    "quantizer", "seeds", "KL held-out", "KL validation", "SQNR", "changed", "top-1", "drop [95 % interval]",
    "integer layers", "seconds", "peak",
)  # fmt: skip
CORES = 2
"""Average load up to which seconds are taken at their word: the cores of the machine this is measured on."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean over seeds and standard deviation between them; the latter is 0 for a single seed."""

    mean: float
    deviation: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Of any number of values but none."""
        found = list(values)
        return cls(fmean(found), stdev(found) if len(found) > 1 else 0.0)


@dataclass(frozen=True, slots=True)
class Mean:
    """One contender under one scheme.

    Attributes:
        task: What was quantized.
        scheme: ``tensorrt`` or ``x86``.
        quantizer: Its name.
        seeds: Draws of calibration images that have figures.
        images: Validation images, so that the noise of a share is known.
        older: Seeds whose kept rows are of code or packages that have changed since.
        failure: Why there are no figures at all, or empty.
        top1: Percent.
        drop_pp: Drop in percentage points.
        worst_pp: The largest drop of any seed.
        low_pp: Lower end of the paired 95 % interval, mean over the seeds. Seeds share their validation images, so
            averaging takes little of this noise away and none is subtracted.
        high_pp: Upper end, likewise.
        changed: Share of changed predictions, in percent.
        kl: Divergence in nats on validation images.
        kl_held_out: The same on held-out training images.
        sqnr_db: Of the logits.
        integer: Layers in integers.
        weighted: All weighted layers.
        seconds: Of quantizing.
        peak_mib: Most resident memory.
        load: Largest load while it was timed.
    """

    task: str
    scheme: str
    quantizer: str
    images: int = 0
    seeds: int = 0
    older: int = 0
    failure: str = ""
    top1: Spread = Spread(0, 0)
    drop_pp: Spread = Spread(0, 0)
    worst_pp: float = 0
    low_pp: float = 0
    high_pp: float = 0
    changed: Spread = Spread(0, 0)
    kl: Spread = Spread(0, 0)
    kl_held_out: Spread = Spread(0, 0)
    sqnr_db: Spread = Spread(0, 0)
    integer: int = 0
    weighted: int = 0
    seconds: Spread = Spread(0, 0)
    peak_mib: float = 0
    load: float = 0

    @property
    def ours(self) -> bool:
        """Whether it is edgeres."""
        return self.quantizer not in PEERS

    def cells(self) -> tuple[str, ...]:
        """As the table shows it."""
        title = QUANTIZERS[self.quantizer].title
        if self.failure:
            return (f"{title}: {self.failure}", "0", *["-"] * (len(HEADS) - 2))
        loaded = "*" if self.load > CORES + 0.5 else ""
        if self.older:
            title += f" (older {'code' if self.ours else 'packages'}: {self.older} of {self.seeds})"
        return (
            title,
            str(self.seeds),
            _pair(self.kl_held_out, 2, 1e3),
            _pair(self.kl, 2, 1e3),
            f"{self.sqnr_db.mean:.1f} dB",
            f"{percent(self.changed.mean)} ± {self.changed.deviation:.2f}",
            percent(self.top1.mean),
            f"{points(self.drop_pp.mean)} ± {self.drop_pp.deviation:.2f} [{self.low_pp:+.2f}, {self.high_pp:+.2f}]",
            f"{self.integer} of {self.weighted}",
            f"{self.seconds.mean:.0f}{loaded}",
            f"{self.peak_mib:,.0f} MiB",
        )


def _pair(spread: Spread, digits: int, factor: float = 1) -> str:
    return f"{factor * spread.mean:.{digits}f} ± {factor * spread.deviation:.{digits}f}"


def means(rows: Sequence[Row]) -> tuple[Mean, ...]:
    """Rows by task, scheme and quantizer, in the order they first come in."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.task, row.scheme, row.quantizer), []).append(row)
    return tuple(_mean(*name, group) for name, group in groups.items())


def _mean(task: str, scheme: str, quantizer: str, rows: Sequence[Row]) -> Mean:
    done = [row for row in rows if row.validation and row.held_out]
    if not done:
        return Mean(task, scheme, quantizer, failure=rows[-1].failure)
    judged = [row.validation for row in done if row.validation]
    held_out = [row.held_out for row in done if row.held_out]
    return Mean(
        task,
        scheme,
        quantizer,
        images=min(row.images for row in done),
        seeds=len(done),
        older=sum(row.older for row in done),
        top1=Spread.of(figures.top1 for figures in judged),
        drop_pp=Spread.of(figures.drop_pp for figures in judged),
        worst_pp=max(figures.drop_pp for figures in judged),
        low_pp=fmean(figures.low_pp for figures in judged),
        high_pp=fmean(figures.high_pp for figures in judged),
        changed=Spread.of(figures.changed for figures in judged),
        kl=Spread.of(figures.kl for figures in judged),
        kl_held_out=Spread.of(figures.kl for figures in held_out),
        sqnr_db=Spread.of(figures.sqnr_db for figures in judged),
        integer=min(row.integer for row in done),
        weighted=done[0].weighted,
        seconds=Spread.of(row.seconds or 0.0 for row in done),
        peak_mib=max(row.peak_mib or 0.0 for row in done),
        load=max(row.load or 0.0 for row in done),
    )
