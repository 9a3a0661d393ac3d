"""How far a profile of this host is off on pruned ResNets it has not seen.

``python -m benchmarks.profile --target cpu --profile FILE`` predicts pruned ResNet-18, 34 and 50 from the file that
``edgeres profile`` wrote, each with other widths, and measures them afterwards, in turn with the profile's reference: a
ratio of two times that share whatever else the machine does. ``--write`` puts the table into docs/prediction.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.command import CHECKOUT, positive, run
from benchmarks.table import markdown, with_block
from edgeres.data.size import Size
from edgeres.latency.host_profile import read_profile
from edgeres.latency.profiling import ProfiledNetwork, check_host, network_ms, predicted_trials
from edgeres.latency.random_model import random_model, randomly_pruned
from edgeres.latency.timer import LAYER_TIMING, PRECISIONS, Timer
from edgeres.model.presets import preset
from edgeres.onnx_graph import operator_counts
from edgeres.progress import Silent
from edgeres.settings import plain
from edgeres.targets.target import find_target

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeres.latency.host_profile import HostProfile, ProfileValidation
    from edgeres.latency.timer import Timing
    from edgeres.progress import Progress
    from edgeres.targets.target import Target

NETWORKS = ("resnet18", "resnet34", "resnet50")
HEADS = ("network", "in", "predicted", "measured", "off")
DOCUMENT = CHECKOUT / "docs" / "prediction.md"
_SIDE = 224
_FIRST_SEED = 100
"""Seeds below are those that ``edgeres profile`` tries itself on."""


def subjects(target: Target, each: int) -> list[ProfiledNetwork]:
    """Pruned networks, ``each`` of every depth; their names hold the share of the MACs that is left."""
    found = []
    for name in NETWORKS:
        whole = operator_counts.macs(random_model(preset(name), Size.square(_SIDE), target)["float"])
        for seed in range(_FIRST_SEED, _FIRST_SEED + each):
            models = random_model(randomly_pruned(preset(name), seed), Size.square(_SIDE), target)
            share = operator_counts.macs(models["float"]) / whole
            found.append(ProfiledNetwork(f"{name}, {share:.1%} of its MACs", models))
    return found


def try_profile(
    profile: HostProfile,
    target: Target,
    subjects: Sequence[ProfiledNetwork],
    progress: Progress,
    timing: Timing = LAYER_TIMING,
) -> tuple[ProfileValidation, ...]:
    """Predicts networks by a profile, and measures them afterwards on the same machine.

    Args:
        profile: Of this host.
        target: The one it is of.
        subjects: The networks.
        progress: Called after every network.
        timing: How long; that of a profile unless stated.

    Raises:
        UsageError: The target does not run on this host.
        BackendUnavailable: Its runtime is not installed.
    """
    check_host(target)
    found: list[ProfileValidation] = []
    with TemporaryDirectory(prefix="edgeres-profile-") as folder:
        for precision in PRECISIONS:
            timer = Timer(target, profile.threads, Path(folder), precision)
            lookup_table = profile.tables[precision]
            measured = network_ms(timer, lookup_table, subjects, timing, progress)
            found += predicted_trials(lookup_table, precision, subjects, measured)
    return tuple(found)


def table(profile: HostProfile, trials: Sequence[ProfileValidation]) -> str:
    """The table for people, and what it amounts to."""
    rows = [
        (
            trial.name, trial.precision, f"{trial.predicted_ms:.2f} ms", f"{trial.measured_ms:.2f} ms",
            f"{100 * (trial.ratio - 1):+.1f} %",
        )
        for trial in trials
    ]  # fmt: skip
    off = [100 * abs(trial.ratio - 1) for trial in trials]
    told = (
        f"{profile.cpu}, {profile.runtime}, {profile.threads} thread{'s' if profile.threads > 1 else ''}: "
        f"{np.median(off):.1f} % off in the median, {max(off):.1f} % at most, on {len(off)} networks the profile has "
        f"not seen."
    )
    return f"{told}\n\n{markdown(HEADS, rows, words=2)}"


def _work(options: argparse.Namespace) -> str:
    target = find_target(options.target)
    profile = read_profile(Path(options.profile), target)
    trials = try_profile(profile, target, subjects(target, options.each), Silent())
    if options.write:
        markers = f"<!-- profile-{target.name}:begin -->", f"<!-- profile-{target.name}:end -->"
        text = with_block(DOCUMENT.read_text(encoding="utf-8"), table(profile, trials), markers)
        DOCUMENT.write_text(text, encoding="utf-8")
    if options.json:
        return json.dumps([plain(trial) for trial in trials], indent=2)
    return table(profile, trials)


def main(given: Sequence[str] | None = None) -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile")
    parser.add_argument("--target", default="cpu", help="x86 or cpu (default cpu)")
    parser.add_argument("--profile", required=True, metavar="FILE", help="what edgeres profile wrote")
    parser.add_argument("--each", type=positive, default=3, metavar="N", help="networks of each depth (default 3)")
    parser.add_argument("--write", action="store_true", help="renew docs/prediction.md")
    parser.add_argument("--json", action="store_true", help="print the trials for machines")
    return run(parser, _work, given)


if __name__ == "__main__":
    sys.exit(main())
