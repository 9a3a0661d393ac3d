"""Measures a ``HostProfile``: a table of layers, its scale, and how far it is off.

Once every layer is measured, a few known networks are, and set the scale of the table. Others are predicted first and
measured after: how far they are off is the band of the profile.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import exp, log
from pathlib import Path
from statistics import fmean, median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from edgeres.backends.registry import find_backend
from edgeres.errors import BackendUnavailable, UsageError
from edgeres.latency.host_profile import HostProfile, Lookup, Table, Trial
from edgeres.latency.lookup_table import WHOLE, layer_table
from edgeres.latency.timer import PRECISIONS, Pace, Timer
from edgeres.latency.workload import of_model
from edgeres.metrics import machine

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from onnx import ModelProto

    from edgeres.latency.lookup_table import Layer
    from edgeres.latency.timer import Precision
    from edgeres.progress import Progress
    from edgeres.targets.target import Target


_LONGER, _VISITS = 3, 3
"""Times as long as a layer a network is measured, and how often."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A network to try the profile on.

    Attributes:
        name: What it is.
        models: Its graph in each precision.
    """

    name: str
    models: Mapping[Precision, ModelProto]


def measure_profile(
    target: Target, known: Sequence[Subject], subjects: Sequence[Subject], progress: Progress, *, threads: int = 2,
    pace: Pace | None = None, layers: tuple[Layer, ...] = WHOLE,
) -> HostProfile:  # fmt: skip
    """Measures this host.

    Args:
        target: Whose runtime; it must run here.
        known: Networks whose measured times set the scale of the table, by their geometric mean.
        subjects: Networks to try it on.
        progress: Told after every measurement.
        threads: Of the runtime.
        pace: How long; None takes what gives 1 to 2 minutes.
        layers: Of the table.

    Raises:
        UsageError: The target does not run on this host.
        BackendUnavailable: Its runtime is not installed.
        StageError: The machine is too busy to tell a layer's time.
    """
    check_host(target)
    host, pace = machine(), pace or Pace()
    tables, trials = {}, []
    with TemporaryDirectory(prefix="edgeres-profile-") as folder:
        for precision in PRECISIONS:
            bench = Timer(target, threads, Path(folder), precision)
            table = layer_table(bench, pace, progress, layers)
            measured = network_ms(bench, table, (*known, *subjects), pace, progress)
            expected = [_sum_ms(table, subject.models[precision]) for subject in known]
            off = [log(took / ms) for took, ms in zip(measured, expected, strict=False)]
            tables[precision] = replace(table, scale=exp(fmean(off)))
            trials += predicted_trials(tables[precision], precision, subjects, measured[len(known) :])
    return HostProfile(
        target=target.name,
        runtime=target.runtime.name,
        cpu=host.cpu,
        cores=host.cores,
        threads=threads,
        load=round(host.load, 2),
        known=tuple(subject.name for subject in known),
        tables=tables,
        trials=tuple(trials),
    )


def check_host(target: Target) -> None:
    """Whether a target runs on this host.

    Raises:
        UsageError: It does not.
        BackendUnavailable: Its runtime is not installed.
    """
    if target.build_on != "host" or target.runtime.tensorrt is not None:
        raise UsageError(f"{target.name} does not run on this host", "profile x86 or cpu")
    if missing := find_backend(target.backend).missing():
        raise BackendUnavailable(missing)


def predicted_trials(
    table: Table, precision: Precision, subjects: Sequence[Subject], measured: Sequence[float]
) -> list[Trial]:
    """What the table predicts of networks, beside the times ``measured`` of each in ms."""
    return [
        Trial(
            name=subject.name,
            precision=precision,
            predicted_ms=table.scale * _sum_ms(table, subject.models[precision]),
            measured_ms=took,
        )
        for subject, took in zip(subjects, measured, strict=True)
    ]


def network_ms(bench: Timer, table: Table, subjects: Sequence[Subject], pace: Pace, progress: Progress) -> list[float]:
    """Times of networks in ms, each the median of several visits some time apart.

    They are brought to the machine the table saw by the reference that runs in turn with them.
    """
    slower = replace(pace, limit_s=_LONGER * pace.limit_s)
    found: list[list[float]] = [[] for _ in subjects]
    with progress.task(f"networks in {bench.precision}", _VISITS * len(subjects)) as advance:
        for _ in range(_VISITS):
            for subject, figures in zip(subjects, found, strict=True):
                model = subject.models[bench.precision]
                with bench.opened({"network": (model, _image(model))}) as runs:
                    figures.append(bench.relative(runs, slower)["network"] * table.unit_ms)
                advance(1)
    return [median(figures) for figures in found]


def _image(model: ModelProto) -> NDArray[np.float32]:
    shape = tuple(dim.dim_value or 1 for dim in model.graph.input[0].type.tensor_type.shape.dim)
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def _sum_ms(table: Table, model: ModelProto) -> float:
    lookup = Lookup.of(table)
    return table.call_ms + sum(lookup.ms(work) for work in of_model(model, adds=True))
