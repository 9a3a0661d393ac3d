"""Measurement of a ``HostProfile``: the latency lookup table of this host, its scale, and its prediction error.

After every layer a few known networks are measured, which set the scale of the table. Other networks are predicted
first and measured afterwards: their largest error is the band of the profile.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import exp, log
from pathlib import Path
from statistics import fmean, median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from edgeres.backends.registry import find_backend
from edgeres.errors import BackendUnavailable, UsageError
from edgeres.latency.host_profile import HostProfile, Lookup, ProfileValidation, Table
from edgeres.latency.lookup_table import WHOLE, layer_table
from edgeres.latency.timer import LAYER_TIMING, PRECISIONS, Timer
from edgeres.latency.workload import of_model
from edgeres.targets.host import machine

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnx import ModelProto

    from edgeres.latency.lookup_table import ProfiledLayer
    from edgeres.latency.timer import Precision, Timing
    from edgeres.progress import Progress
    from edgeres.targets.target import Target


_LONGER, _VISITS = 3, 3
"""Time limit of a network as a multiple of a layer's, and number of visits."""


@dataclass(frozen=True, slots=True)
class ProfiledNetwork:
    """A network that scales or validates a profile: its name, and its ONNX graph in each precision."""

    name: str
    models: Mapping[Precision, ModelProto]


def measure_profile(
    target: Target,
    known: Sequence[ProfiledNetwork],
    networks: Sequence[ProfiledNetwork],
    progress: Progress,
    *,
    threads: int = 2,
    timing: Timing = LAYER_TIMING,
    layers: tuple[ProfiledLayer, ...] = WHOLE,
) -> HostProfile:
    """Measures the latency lookup table of this host in every precision, in the runtime of a target, and validates it.

    The measured times of ``known`` networks set the scale of the table, by their geometric mean; ``networks`` validate
    it. The default timing takes 1 to 2 minutes in all.

    Raises:
        UsageError: The target does not run on this host.
        BackendUnavailable: Its runtime is not installed.
        StageError: The machine is too loaded to measure a layer.
    """
    check_host(target)
    host, tables, trials = machine(), {}, []
    with TemporaryDirectory(prefix="edgeres-profile-") as folder:
        for precision in PRECISIONS:
            timer = Timer(target, threads, Path(folder), precision)
            table = layer_table(timer, timing, progress, layers)
            measured = network_ms(timer, table, (*known, *networks), timing, progress)
            expected = [_sum_ms(table, network.models[precision]) for network in known]
            errors = [log(ms / table_ms) for ms, table_ms in zip(measured, expected, strict=False)]
            tables[precision] = replace(table, scale=exp(fmean(errors)))
            trials += predicted_trials(tables[precision], precision, networks, measured[len(known) :])
    return HostProfile(
        target=target.name,
        runtime=target.runtime.name,
        cpu=host.cpu,
        cores=host.cores,
        threads=threads,
        load=round(host.load, 2),
        known=tuple(network.name for network in known),
        tables=tables,
        trials=tuple(trials),
    )


def check_host(target: Target) -> None:
    """Checks that a target runs on this host.

    Raises:
        UsageError: It does not.
        BackendUnavailable: Its runtime is not installed.
    """
    if target.build_on != "host" or target.runtime.tensorrt is not None:
        raise UsageError(f"{target.name} does not run on this host", "profile x86 or cpu")
    if missing := find_backend(target.backend).missing():
        raise BackendUnavailable(missing)


def predicted_trials(
    table: Table, precision: Precision, networks: Sequence[ProfiledNetwork], measured: Sequence[float]
) -> list[ProfileValidation]:
    """Latency in ms that the table predicts for each network, with its ``measured`` latency."""
    return [
        ProfileValidation(
            name=network.name,
            precision=precision,
            predicted_ms=table.scale * _sum_ms(table, network.models[precision]),
            measured_ms=ms,
        )
        for network, ms in zip(networks, measured, strict=True)
    ]


def network_ms(
    timer: Timer, table: Table, networks: Sequence[ProfiledNetwork], timing: Timing, progress: Progress
) -> list[float]:
    """Latency of each network in ms: the median of several visits some time apart.

    The interleaved reference brings them to the machine's load while the table was measured.
    """
    slower = replace(timing, limit_s=_LONGER * timing.limit_s)
    validations: list[list[float]] = [[] for _ in networks]
    with progress.task(f"networks in {timer.precision}", _VISITS * len(networks)) as advance:
        for _ in range(_VISITS):
            for network, figures in zip(networks, validations, strict=True):
                with timer.opened({"network": network.models[timer.precision]}) as runs:
                    figures.append(timer.relative(runs, slower)["network"] * table.unit_ms)
                advance(1)
    return [median(figures) for figures in validations]


def _sum_ms(table: Table, model: ModelProto) -> float:
    lookup = Lookup(table)
    return table.call_ms + sum(lookup.ms(work) for work in of_model(model, adds=True))
