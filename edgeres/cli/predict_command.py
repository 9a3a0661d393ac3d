"""``edgeres predict``: how long a network takes on a device that is not here, layer by layer, with a band."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeres.cli.console import Screen
from edgeres.errors import UsageError
from edgeres.runs.figures import OUTLOOKS, line_title, millis, number

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence

    from edgeres.artifacts.budget_check import BudgetCheck
    from edgeres.latency.prediction import Measured, Prediction
    from edgeres.runs.model_reference import NamedNetwork
    from edgeres.targets.target import Target

_SHOWN = 8
_MEANT = (
    "a latency budget means host latency: from launch to the end of the last kernel, copies left out; "
    "trtexec calls the GPU's part 'GPU Compute Time'"
)
_EXIT_CODES = {"passes": 0, "fails": 3, "open": 5}


def predict_command(options: Namespace, given: list[str]) -> int:
    """``edgeres predict``."""
    from edgeres.runs.model_reference import find_network
    from edgeres.targets.target import find_target

    target = find_target(options.target)
    network = find_network(options.model, target, options.size, options.precision)
    if options.profile:
        prediction = _by_profile(network, target, Path(options.profile))
    else:
        prediction = _by_roofline(network, target, options.calibrate)
    lines = _lines(network, target, dict(options.budget), prediction)
    if options.json:
        Screen(quiet=False).out.out(json.dumps(_document(network, target, prediction, lines), indent=2))
    else:
        _print(network, target, prediction, lines)
    return max(
        (_EXIT_CODES[line.predicted_status] for line in lines if line.predicted_status), default=0, key=(0, 5, 3).index
    )


def _by_roofline(network: NamedNetwork, target: Target, calibrate: str | None) -> Prediction:
    """From the device's peaks, or calibrated by a network measured on it."""
    from edgeres.latency.prediction import predicted
    from edgeres.latency.roofline import roofline_of
    from edgeres.runs.model_reference import read_measured

    roofline = roofline_of(target, network.precision)
    if calibrate:
        return predicted(network.works, roofline, _alike(read_measured(calibrate, target), network))
    if missing := roofline.missing(network.works):
        hint = "measure any network on it and pass --calibrate FILE"
        if target.build_on == "host":
            hint += f", or measure this host: edgeres profile --target {target.name}"
        raise UsageError(f"nothing to predict {target.name} from: {missing}", hint)
    return predicted(network.works, roofline)


def _by_profile(network: NamedNetwork, target: Target, place: Path) -> Prediction:
    """From a table of layers measured on this host."""
    from edgeres.latency.host_profile import read_profile

    return read_profile(place, target).predicted(network.works)


def _alike(measured: Sequence[Measured], network: NamedNetwork) -> Measured:
    """The one in the network's precision: no public row says how far the other one leads astray."""
    for found in measured:
        if found.precision == network.precision:
            return found
    raise UsageError(
        f"{network.title} cannot be calibrated by {measured[0].name} in {measured[0].precision.upper()}",
        f"measure a network in {network.precision.upper()}, or ask for the other precision",
    )


def _lines(
    network: NamedNetwork, target: Target, overrides: dict[str, float | None], prediction: Prediction
) -> tuple[BudgetCheck, ...]:
    from edgeres.gate.budget import latency_lines, limits

    known = limits(network.name, network.side, target, overrides)
    return latency_lines(known, None, "not measured", prediction.predicted)


def _document(
    network: NamedNetwork, target: Target, prediction: Prediction, lines: Sequence[BudgetCheck]
) -> dict[str, Any]:
    from edgeres.settings import plain

    return {
        "model": network.name,
        "size": network.side,
        "precision": network.precision,
        "target": target.name,
        "figure": "host_latency",
        "predicted_ms": prediction.ms,
        "low_ms": prediction.low_ms,
        "high_ms": prediction.high_ms,
        "gpu_compute_ms": prediction.gpu_compute_ms,
        "call_ms": prediction.call_ms,
        "basis": prediction.basis,
        "notes": list(prediction.notes),
        "lines": [plain(line) for line in lines],
        "layers": [
            {
                **asdict(cost.work),
                "ms": cost.ms,
                "bound": cost.bound,
                "share_of_tiles": cost.share_of_tiles,
            }
            for cost in prediction.costs
        ],
    }


def _print(network: NamedNetwork, target: Target, prediction: Prediction, lines: Sequence[BudgetCheck]) -> None:
    screen = Screen(quiet=False)
    slowest = sorted(prediction.costs, key=lambda cost: -cost.ms)
    rows: list[tuple[str, ...]] = [
        (
            cost.work.name,
            cost.work.title,
            "INT8" if cost.work.integer else _float_of(network, target),
            millis(cost.ms),
            f"{cost.ms / prediction.ms:.0%}",
            cost.bound,
            f"{cost.share_of_tiles:.0%}" if cost.work.macs else "-",
        )
        for cost in slowest[:_SHOWN]
    ]
    rest = sum(cost.ms for cost in slowest[_SHOWN:])
    if rest:
        title = f"{len(slowest) - _SHOWN} more"
        rows.append((title, "", "", millis(rest), f"{rest / prediction.ms:.0%}", "", ""))
    rows.append(
        ("call, on the host", "", "", millis(prediction.call_ms), f"{prediction.call_ms / prediction.ms:.0%}", "", "")
    )
    screen.table(("layer", "kernel", "in", "time", "share", "bound by", "of its tiles"), rows)
    told = [f"\npredicted: {network.title} on {target.title}: {_figures(prediction)}"]
    told += [_judged(line) for line in lines]
    if prediction.gpu_compute_ms is not None:
        told.append(_MEANT)
    for line in (*told, prediction.basis, *prediction.notes):
        screen.line(line)


def _float_of(network: NamedNetwork, target: Target) -> str:
    from edgeres.latency.roofline import float_precisions

    precision = float_precisions(target)[0] if network.precision == "int8" else network.precision
    return precision.upper()


def _figures(prediction: Prediction) -> str:
    """``GPU compute 0.47 ms (0.3 to 0.75 ms), host latency 0.48 ms (0.31 to 0.76 ms)``."""
    found = []
    for name, ms in (("GPU compute", prediction.gpu_compute_ms), ("host latency", prediction.ms)):
        if ms is not None:
            low, high = (ms * end / prediction.ms for end in (prediction.low_ms, prediction.high_ms))
            found.append(f"{name} {millis(ms)} (band {number(low)} to {millis(high)})")
    return ", ".join(found)


def _judged(line: BudgetCheck) -> str:
    limit = f"at most {millis(line.limit)} ({line.derivation or line.source.partition(' (')[0]})"
    if not line.predicted_status:
        return f"unmeasured: {line_title(line.name)}, {limit}; a prediction says nothing of the tail"
    return f"{OUTLOOKS[line.predicted_status]}: {line_title(line.name)}, {limit}"
