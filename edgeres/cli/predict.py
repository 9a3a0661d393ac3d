"""``edgeres predict``: latency of a network on a device that is not here, layer by layer, with an error band."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeres.cli._options import Commands, Options, image_size, limit
from edgeres.errors import UsageError
from edgeres.runs.figures import PREDICTED, line_title, millis, number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeres.artifacts.budget_check import BudgetCheck
    from edgeres.cli._console import Screen
    from edgeres.latency.prediction import Prediction
    from edgeres.runs.model_reference import NamedNetwork
    from edgeres.targets.target import Target

PLACE = 160

_SHOWN = 8
_HOST_LATENCY = (
    "a latency budget means host latency: from launch to the end of the last kernel, copies left out; "
    "trtexec calls the GPU's part 'GPU Compute Time'"
)
_EXIT_CODE = {"passes": 0, "fails": 3, "open": 5}  # exit code of a budget's predicted status
_FIGURES = ("low_ms", "high_ms", "gpu_compute_ms", "call_ms", "basis", "notes")
_SEVERITY = (0, 5, 3)  # exit codes from the best to the worst; that of the worst budget is returned
_EXIT_CODES = (
    "exit codes: 0 the prediction keeps the latency budget, or there is none, 1 error, 2 bad usage or input, "
    "3 its whole band is over the budget, 5 the budget lies inside the band"
)


def add_parser(commands: Commands) -> None:
    """Adds ``edgeres predict``."""
    help_text = "say how long a network takes on a device that is not here, with a band"
    command = commands.add_parser("predict", help=help_text, epilog=_EXIT_CODES)
    add = command.add_argument
    add("model", metavar="MODEL", help="preset (see 'edgeres models'), run folder, or .onnx file")
    add("--target", required=True, help="where it goes (see 'edgeres targets')")
    basis = command.add_mutually_exclusive_group()
    measured = "one network measured on the device: a run, or a JSON (docs/prediction.md)"
    basis.add_argument("--calibrate", metavar="FILE|RUN", help=measured)
    basis.add_argument("--profile", metavar="FILE", help="layers measured on this host by 'edgeres profile'")
    add("--size", type=image_size, metavar="PX|HxW", help="size of the image (default the network's own)")
    precision = "of the network; float is the target's own: FP16 in TensorRT, FP32 on CPUs (default int8)"
    add("--precision", choices=("int8", "fp16", "fp32", "float"), help=precision)
    budget = "a limit, or NAME=none to lift it"
    add("--budget", action="append", default=[], type=limit, metavar="NAME=VALUE", help=budget)
    add("--json", action="store_true", help="every layer, for machines")


def run(options: Options, screen: Screen) -> int:
    """Predicts the latency and prints it beside the latency budgets."""
    from edgeres.gate.budget import latency_lines, limits
    from edgeres.latency.host_profile import read_profile
    from edgeres.runs.model_reference import find_network
    from edgeres.targets.target import find_target

    target = find_target(options.target)
    network = find_network(options.model, target, options.size, options.precision)
    if options.profile:
        prediction = read_profile(Path(options.profile), target).predicted(network.works)
    else:
        prediction = _by_roofline(network, target, options.calibrate)
    budgets = limits(network.name, network.size, target, dict(options.budget))
    lines = latency_lines(budgets, None, "not measured", prediction.predicted)
    if options.json:
        screen.json(_document(network, target, prediction, lines))
    else:
        _print(network, target, prediction, lines, screen)
    codes = (_EXIT_CODE[line.predicted_status] for line in lines if line.predicted_status)
    return max(codes, default=0, key=_SEVERITY.index)


def _by_roofline(network: NamedNetwork, target: Target, calibrate: str | None) -> Prediction:
    """Latency from the device's roofline, scaled to a network measured on it where ``calibrate`` names one.

    A measurement in another precision is refused, because its error is not known.
    """
    from edgeres.latency.prediction import predicted
    from edgeres.latency.roofline import roofline_of
    from edgeres.runs.model_reference import read_measured

    roofline = roofline_of(target, network.precision)
    if calibrate:
        measured = read_measured(calibrate, target)
        if same := [one for one in measured if one.precision == network.precision]:
            return predicted(network.works, roofline, same[0])
        what = f"{network.title} cannot be calibrated by {measured[0].name} in {measured[0].precision.upper()}"
        raise UsageError(what, f"measure a network in {network.precision.upper()}, or ask for the other precision")
    if missing := roofline.missing(network.works):
        hint = "measure any network on it and pass --calibrate FILE"
        if target.build_on == "host":
            hint += f", or measure this host: edgeres profile --target {target.name}"
        raise UsageError(f"nothing to predict {target.name} from: {missing}", hint)
    return predicted(network.works, roofline)


def _document(
    network: NamedNetwork, target: Target, prediction: Prediction, lines: Sequence[BudgetCheck]
) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "model": network.name,
        "size": network.size.plain,
        "precision": network.precision,
        "target": target.name,
        "figure": "host_latency",
        "predicted_ms": prediction.ms,
        **{name: getattr(prediction, name) for name in _FIGURES},
        "lines": lines,
        "layers": [
            {**asdict(cost.work), "ms": cost.ms, "bound": cost.bound, "share_of_tiles": cost.share_of_tiles}
            for cost in prediction.costs
        ],
    }


def _print(
    network: NamedNetwork, target: Target, prediction: Prediction, lines: Sequence[BudgetCheck], screen: Screen
) -> None:
    from edgeres.latency.roofline import float_precisions

    in_float = float_precisions(target)[0] if network.precision == "int8" else network.precision
    slowest = sorted(prediction.costs, key=lambda cost: -cost.ms)
    rows: list[tuple[str, ...]] = []
    for cost in slowest[:_SHOWN]:
        time = (millis(cost.ms), f"{cost.ms / prediction.ms:.0%}")
        tiles = f"{cost.share_of_tiles:.0%}" if cost.work.macs else "-"
        precision = "INT8" if cost.work.integer else in_float.upper()
        rows.append((cost.work.name, cost.work.title, precision, *time, cost.bound, tiles))
    rest = sum(cost.ms for cost in slowest[_SHOWN:])
    for title, ms in ((f"{len(slowest) - _SHOWN} more", rest), ("call, on the host", prediction.call_ms)):
        if ms or title.startswith("call"):
            rows.append((title, "", "", millis(ms), f"{ms / prediction.ms:.0%}", "", ""))
    screen.table(("layer", "kernel", "in", "time", "share", "bound by", "of its tiles"), rows)
    text = [f"\npredicted: {network.title} on {target.title}: {_figures(prediction)}"]
    text += [_budget_line(line) for line in lines]
    if prediction.gpu_compute_ms is not None:
        text.append(_HOST_LATENCY)
    for line in (*text, prediction.basis, *prediction.notes):
        screen.line(line)


def _figures(prediction: Prediction) -> str:
    """Both latencies with their bands: ``GPU compute 0.47 ms (band 0.3 to 0.75 ms), host latency 0.48 ms (...)``."""
    figures = []
    for name, ms in (("GPU compute", prediction.gpu_compute_ms), ("host latency", prediction.ms)):
        if ms is not None:
            low, high = (ms * end / prediction.ms for end in (prediction.low_ms, prediction.high_ms))
            figures.append(f"{name} {millis(ms)} (band {number(low)} to {millis(high)})")
    return ", ".join(figures)


def _budget_line(line: BudgetCheck) -> str:
    at_most = f"at most {millis(line.limit)} ({line.derivation or line.source.partition(' (')[0]})"
    if not line.predicted_status:
        return f"unmeasured: {line_title(line.name)}, {at_most}; a prediction says nothing of the tail"
    return f"{PREDICTED[line.predicted_status]}: {line_title(line.name)}, {at_most}"
