"""``edgeres profile``: what layers take on this machine, measured once, for ``edgeres predict --profile``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from edgeres.cli.console import Screen
from edgeres.errors import StoreError
from edgeres.runs.figures import millis

if TYPE_CHECKING:
    from argparse import Namespace

    from edgeres.latency.host_profile import HostProfile
    from edgeres.latency.profiling import ProfiledNetwork
    from edgeres.targets.target import Target

_SIDE = 224
_NETWORKS = ("resnet18", "resnet34", "resnet50")
_KNOWN, _TRIED = 10, 0
"""Seeds of the pruned networks that set the scale, and of those that are tried."""


def profile_command(options: Namespace, given: list[str]) -> int:
    """``edgeres profile``."""
    from edgeres.latency.host_profile import encode
    from edgeres.latency.profiling import check_host, measure_profile
    from edgeres.targets.target import find_target

    screen, target = Screen(quiet=options.quiet), find_target(options.target)
    out = Path(options.out or f"build/profile-{target.name}.json")
    check_host(target)
    known, tried = (_subjects(target, seed) for seed in (_KNOWN, _TRIED))
    profile = measure_profile(target, known, tried, screen, threads=options.threads)
    text = encode(profile)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
    except OSError as failure:
        raise StoreError(f"cannot write {out}: {failure.strerror}", "choose another --out") from failure
    if options.json:
        screen.out.out(json.dumps(json.loads(text), indent=2))
    else:
        _print(profile, screen, out)
    return 0


def _subjects(target: Target, seed: int) -> list[ProfiledNetwork]:
    """Pruned networks of every depth."""
    from edgeres.latency.profiling import ProfiledNetwork
    from edgeres.latency.random_model import random_model, randomly_pruned
    from edgeres.model.spec import PRESETS

    return [
        ProfiledNetwork(
            f"{name}, pruned by seed {seed + index}",
            random_model(randomly_pruned(PRESETS[name], seed + index), _SIDE, target),
        )
        for index, name in enumerate(_NETWORKS)
    ]


def _print(profile: HostProfile, screen: Screen, out: Path) -> None:
    screen.table(
        ("network", "in", "predicted", "measured", "off"),
        (
            (
                trial.name,
                trial.precision,
                millis(trial.predicted_ms),
                millis(trial.measured_ms),
                f"{trial.ratio - 1:+.1%}",
            )
            for trial in profile.trials
        ),
    )
    layers = sum(len(table.points) + len(table.stems) + len(table.heads) for table in profile.tables.values())
    busy = ""
    if profile.load > profile.cores:
        busy = f"; others kept the machine busy ({profile.load:g} processes on {profile.cores} cores)"
    for line in (
        f"{layers} layers on {profile.cpu}, {profile.runtime}, {profile.threads} threads{busy}",
        f"profile: {out}",
    ):
        screen.line(line)
