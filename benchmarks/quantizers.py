"""Quantizers side by side: the same network, the same calibration images, the same judges.

``python -m benchmarks.quantizers [--images 512] [--validation 3925] [--held-out 1024] [--seeds 1]`` quantizes the
shared ResNet-18 with edgeres (every calibrator, both weight methods), NNCF and ONNX Runtime, under TensorRT's scheme
and under x86's, each in a process of its own. Settings are to be chosen on the held-out training images; nothing is
chosen on the validation images. ``--fast`` is a quick look.
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
from benchmarks.command import IMAGES, WEIGHTS, positive, require, run, said
from benchmarks.contenders import QUANTIZERS, SCHEMES
from benchmarks.table import markdown
from edgeres.report.figures import percent, points

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HEADS = (
    "scheme", "quantizer", "seed", "KL held-out", "KL validation", "SQNR", "changed", "drop [95 % interval]",
    "integer layers", "seconds", "peak",
)  # fmt: skip
LEGEND = """\
KL: mean divergence of the softmax from the float network's, in 1e-3 nats, on {held_out:,} training images that
calibrate nothing and on {validation:,} validation images; SQNR of the logits, changed predictions and the paired drop
(Tango) are on the latter. {images} calibration images; seconds of quantizing decoded images, peak memory of the whole
process. Ours quantize everything but the classifier, the peers what they choose."""
_SHARE = 0.9
"""Share of the free memory that a contender may take before it is ended."""


@dataclass(frozen=True, slots=True)
class Figures:
    """A quantized network against its float original, on one set of images; see ``judge.figures``."""

    float_top1: float
    top1: float
    changed: float
    drop_pp: float
    low_pp: float
    high_pp: float
    kl: float
    sqnr_db: float


@dataclass(frozen=True, slots=True)
class Row:
    """One contender.

    Attributes:
        scheme: ``tensorrt`` or ``x86``.
        quantizer: Its name.
        seed: Which calibration images.
        failure: Why there are no figures, or empty.
        seconds: Time of quantizing.
        peak_mib: Most resident memory of its process.
        integer: Layers in integers.
        weighted: All convolutions and matrix products.
        held_out: On held-out training images.
        validation: On validation images.
    """

    scheme: str
    quantizer: str
    seed: int
    peak_mib: float
    failure: str = ""
    seconds: float | None = None
    integer: int = 0
    weighted: int = 0
    held_out: Figures | None = None
    validation: Figures | None = None

    def cells(self) -> tuple[str, ...]:
        """As the table shows it."""
        title, peak = QUANTIZERS[self.quantizer].title, f"{self.peak_mib:,.0f} MiB"
        seconds = "-" if self.seconds is None else f"{self.seconds:.1f}"
        if self.held_out is None or self.validation is None:
            return (self.scheme, f"{title}: {self.failure}", str(self.seed), *["-"] * 6, seconds, peak)
        judged = self.validation
        return (
            self.scheme,
            title,
            str(self.seed),
            f"{1e3 * self.held_out.kl:.2f}",
            f"{1e3 * judged.kl:.2f}",
            f"{judged.sqnr_db:.1f} dB",
            percent(judged.changed),
            f"{points(judged.drop_pp)} [{judged.low_pp:+.2f}, {judged.high_pp:+.2f}]",
            f"{self.integer} of {self.weighted}",
            seconds,
            peak,
        )


def measured(folder: Path, scheme: str, quantizer: str, seed: int, limit_mib: float | None) -> Row:
    """Quantizes in one process and judges in another; a contender that fails has a row that says so."""
    done = child.python("benchmarks.contenders", [str(folder), scheme, quantizer], limit_mib)
    if done.code:
        last = (done.errors.strip().splitlines() or [f"exit code {done.code}"])[-1]
        failure = "killed, out of memory" if done.starved else last
        return Row(scheme, quantizer, seed, done.peak_mib, failure=failure)
    seconds = json.loads(done.output.splitlines()[-1])["seconds"]
    judged = child.python("benchmarks.judge", [str(folder), scheme, quantizer])
    found = json.loads(judged.checked(f"judging {quantizer}").output)
    held_out, validation = (Figures(**found.pop(name)) for name in ("held_out", "validation"))
    return Row(
        scheme, quantizer, seed, done.peak_mib, seconds=seconds, **found, held_out=held_out, validation=validation
    )


def rows(options: argparse.Namespace) -> Iterator[Row]:
    """Every row asked for, one after the other."""
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory(prefix="edgeres-bench-") as folder:
            said(f"seed {seed}: decoding images")
            counts = ["--images", options.images, "--validation", options.validation, "--held-out", options.held_out]
            child.python("benchmarks.bench", [folder, *map(str, counts), "--seed", str(seed)]).checked("decoding")
            for scheme in options.schemes:
                for quantizer in options.quantizers:
                    free = child.available_mib()
                    row = measured(Path(folder), scheme, quantizer, seed, None if free is None else _SHARE * free)
                    said("  ".join(row.cells()))
                    yield row


def work(options: argparse.Namespace) -> str:
    """Runs every contender.

    Raises:
        UsageError: Something it needs is absent.
        EdgeresError: Decoding or judging failed.
    """
    for name in (WEIGHTS, IMAGES):
        require(name)
    if options.fast:
        options.images, options.validation, options.held_out = 128, 500, 500
    found = list(rows(options))
    if options.json:
        return json.dumps([asdict(row) for row in found], indent=2)
    table = markdown(HEADS, (row.cells() for row in found), words=2)
    counts = {name: getattr(options, name) for name in ("images", "validation", "held_out")}
    return f"{table}\n\n{LEGEND.format(**counts)}"


def _quantizers(text: str) -> str:
    if text not in QUANTIZERS:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(QUANTIZERS)}")
    return text


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.quantizers", description=__doc__.partition("\n")[0])
    made.add_argument("--images", type=positive, default=512, metavar="N", help="calibration images (default 512)")
    made.add_argument("--validation", type=positive, default=3925, metavar="N", help="validation images (default all)")
    made.add_argument("--held-out", type=positive, default=1024, metavar="N", help="training images to choose on")
    made.add_argument("--seeds", type=positive, default=1, metavar="N", help="draws of calibration images")
    made.add_argument("--schemes", nargs="+", choices=SCHEMES, default=tuple(SCHEMES), metavar="NAME")
    made.add_argument("--quantizers", nargs="+", type=_quantizers, default=tuple(QUANTIZERS), metavar="NAME")
    made.add_argument("--fast", action="store_true", help="128 calibration, 500 validation, 500 held-out images")
    made.add_argument("--json", action="store_true", help="print the rows for machines")
    return made


def main(given: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return run(parser(), work, given)


if __name__ == "__main__":
    sys.exit(main())
