"""``edgeres profile``: latencies of layers on this host, measured once, for ``edgeres predict --profile``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from edgeres.cli._options import Commands, Options, positive
from edgeres.runs.figures import millis

if TYPE_CHECKING:
    from edgeres.cli._console import Screen
    from edgeres.latency.host_profile import HostProfile
    from edgeres.latency.profiling import ProfiledNetwork
    from edgeres.targets.target import Target

PLACE = 170

_SIDE = 224
_NETWORKS = ("resnet18", "resnet34", "resnet50")
_SCALE_SEED, _CHECK_SEED = 10, 0
"""First seeds of the pruned networks that set the profile's scale, and of those that check its predictions."""


def add_parser(commands: Commands) -> None:
    """Adds ``edgeres profile``."""
    help_text = "measure layers on this host once (1 to 2 minutes), for 'edgeres predict --profile'"
    add = commands.add_parser("profile", help=help_text).add_argument
    add("--target", required=True, help="x86 or cpu: whose runtime to measure")
    add("--out", metavar="FILE", help="where to (default build/profile-<target>.json)")
    threads = "of the runtime (default 2); 1 is timed by processor time, which others on the machine hardly disturb"
    add("--threads", type=positive, default=2, metavar="N", help=threads)
    add("--json", action="store_true", help="print the profile")
    add("--quiet", action="store_true", help="no progress bar")


def run(options: Options, screen: Screen) -> int:
    """Measures the layers, checks predictions on pruned networks, and writes the profile as JSON."""
    from edgeres.cli._console import write_file
    from edgeres.latency.host_profile import encode
    from edgeres.latency.profiling import check_host, measure_profile
    from edgeres.targets.target import find_target

    target = find_target(options.target)
    out = Path(options.out or f"build/profile-{target.name}.json")
    check_host(target)
    scale_networks, check_networks = (_subjects(target, seed) for seed in (_SCALE_SEED, _CHECK_SEED))
    profile = measure_profile(target, scale_networks, check_networks, screen, threads=options.threads)
    text = encode(profile)
    write_file(out, text.encode(), "choose another --out", make_folder=True)
    if options.json:
        screen.json(json.loads(text))
    else:
        _print(profile, screen, out)
    return 0


def _subjects(target: Target, seed: int) -> list[ProfiledNetwork]:
    """One randomly pruned network of each depth, with seeds from ``seed`` on."""
    from edgeres.data.size import Size
    from edgeres.latency.profiling import ProfiledNetwork
    from edgeres.latency.random_model import random_model, randomly_pruned
    from edgeres.model.presets import PRESETS

    networks = []
    for number, name in enumerate(_NETWORKS, start=seed):
        model = random_model(randomly_pruned(PRESETS[name], number), Size.square(_SIDE), target)
        networks.append(ProfiledNetwork(f"{name}, pruned by seed {number}", model))
    return networks


def _print(profile: HostProfile, screen: Screen, out: Path) -> None:
    rows = [
        (one.name, one.precision, millis(one.predicted_ms), millis(one.measured_ms), f"{one.ratio - 1:+.1%}")
        for one in profile.trials
    ]
    screen.table(("network", "in", "predicted", "measured", "off"), rows)
    layers = sum(len(table.points) + len(table.stems) + len(table.heads) for table in profile.tables.values())
    load = ""
    if profile.load > profile.cores:
        load = f"; others kept the machine busy ({profile.load:g} processes on {profile.cores} cores)"
    screen.line(f"{layers} layers on {profile.cpu}, {profile.runtime}, {profile.threads} threads{load}")
    screen.line(f"profile: {out}")
