"""Fits the few parameters of a class of kernels to published rows, on a grid: the same rows give the same parameters.

The loss is the mean ``|log(predicted / published)|`` of networks predicted from another one of their entry, plus that
of networks predicted from peaks: absolute logarithms, so that a few rows that cannot be right weigh little. But for the
Jetsons, the grid knows no memory bandwidth, which few rows tell; what is validated does.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.latencies import WIDTHS, LatencyRow, Pair
from edgeres.latency.roofline import KernelClass, PredictionError, Roofline
from edgeres.settings import parse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

MULTIPLE = 16
"""Channels of a tile, as every target's scheme has it."""
_FIXED_SHARE = 0.8
_PAIRS_WEIGH = 3.0
"""A pair needs no peak, so no error of a data sheet is in it. From 1 to 10, the errors move by a point or two."""
_NOBODY = PredictionError(median_pct=0.0, p90_pct=0.0, factor=1.0, predictions=0, chips=0)

_GRIDS: dict[str, tuple[float, ...]] = {
    "gain": (1.0, 1.25, 1.5, 1.75, 2.0, 2.5),
    "balance": (0.0, 10.0, 20.0, 30.0, 40.0, 60.0, 80.0, 100.0, 125.0, 150.0, 200.0, 300.0),
    "layer_us": (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0, 12.0, 15.0, 20.0, 25.0, 30.0, 40.0),
    "call_ms": (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 1.0),
    "wrapper_ms": (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 1.0),
    "call_gops": (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0),
}


_EFFICIENCIES = np.round(0.05 * 1.05 ** np.arange(62), 3)
"""From 0.05 to 0.98 in steps of 5 %."""


@dataclass(frozen=True, slots=True)
class Form:
    """Which parameters of a class are free.

    Attributes:
        title: The class in words.
        free: Names of free parameters; the others stay at what they are by default.
        known: Parameters that are set, not fitted.
    """

    title: str
    free: tuple[str, ...]
    known: tuple[tuple[str, float], ...] = ()


_DRAM = 0.75
"""Share of a Jetson's theoretical bandwidth that its kernels reach. A copy on a Jetson Nano reaches 0.70 (17.95 of 25.6
GB/s); fitted to the Orins' rows it comes out between 0.7 and 0.75, too few rows to leave it free."""
_WAIT_MS = 0.01
"""What the host waits beyond copies and GPU compute: trtexec on a Jetson prints 0.012 ms (AGX Xavier, github
wang-xinyu/tensorrtx#707) and 0.013 ms (Xavier NX, OE4T/meta-tegra#1124), end to end less latency."""
_JETSON = (("bandwidth_share", _DRAM), ("call_ms", _WAIT_MS))


FORMS = {
    "jetson": Form("TensorRT on a Jetson, Orin or newer", ("layer_us",), _JETSON),
    "jetson_xavier": Form("TensorRT on a Jetson, Xavier", ("layer_us", "wrapper_ms"), _JETSON),
    "jetson_cuda": Form("TensorRT on a Jetson's CUDA cores", ("gain",), _JETSON),
    "card": Form("TensorRT on graphics cards, INT8", ("layer_us",)),
    "card_float": Form("TensorRT on graphics cards, float", ("layer_us",)),
    "npu": Form("mobile NPUs", ("balance", "call_gops")),
    "vulkan": Form("Vulkan and OpenCL on GPUs", ("balance", "call_ms")),
    "arm_dot": Form("Arm CPUs with dot product, INT8", ("balance",)),
    "arm_int8": Form("Arm CPUs without dot product, INT8", ("gain",)),
    "arm_fp16": Form("Arm CPUs, FP16", ("gain",)),
    "arm_fp32": Form("Arm CPUs, FP32", ("gain",)),
    "x86_int8": Form("x86 CPUs, INT8", ("balance", "call_ms")),
    "x86_fp32": Form("x86 CPUs, FP32", ("balance", "call_ms")),
}
"""Every class of ``latencies.csv``. Arm's kernels in float, and in INT8 without dot product, use Winograd's algorithm:
the gain is free there; a call to an NPU takes longer on a slower one, so it is counted in operations. Most of Xavier's
rows were timed through torch2trt, whose Python is a parameter of its own that no prediction has."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """A class as rows give it.

    Attributes:
        kind: Its parameters.
        wrapper_ms: Milliseconds that torch2trt's Python adds to a call, in the rows that it timed.
    """

    kind: KernelClass
    wrapper_ms: float

    def ms(self, row: LatencyRow) -> float:
        """Milliseconds it predicts for a row from the device's peaks, in the row's own figure."""
        return roofline(self.kind, row).total_ms(row.works, row.judged) + self._wrapper(row)

    def asked_ms(self, two: Pair) -> float:
        """Milliseconds it predicts for the second network of a pair, calibrated by the first."""
        known, asked = two.known, two.asked
        least = known.ms * (1 - _FIXED_SHARE)
        found = roofline(self.kind, known).calibrated(
            known.works, max(least, known.ms - self._wrapper(known)), known.judged
        )
        return found.total_ms(asked.works, asked.judged) + self._wrapper(asked)

    def _wrapper(self, row: LatencyRow) -> float:
        return self.wrapper_ms if row.wrapped else 0.0


def fit(name: str, rows: Sequence[LatencyRow], twos: Sequence[Pair]) -> Fitted:
    """The class's parameters from some rows.

    Args:
        name: One of ``FORMS``.
        rows: Published rows; those without a peak tell nothing on their own.
        twos: Pairs to predict the second of from the first.
    """
    form = FORMS[name]
    rows = [row for row in rows if row.has_peak]
    best: tuple[float, dict[str, float], float | None] | None = None
    for values in product(*(_GRIDS[key] for key in form.free)):
        point = dict(form.known) | dict(zip(form.free, values, strict=True))
        losses = _absolute(point, rows) + _PAIRS_WEIGH * _relative(point, twos)
        place = int(np.argmin(losses))
        if best is None or losses[place] < best[0] - 1e-9:
            best = float(losses[place]), point, float(_EFFICIENCIES[place]) if rows else None
    assert best is not None
    _, point, efficiency = best
    wrapper_ms = point.pop("wrapper_ms", 0.0)
    known = {"name": name, "title": form.title, "efficiency": efficiency, "calibrated": _NOBODY}
    return Fitted(parse(KernelClass, known | point, name), wrapper_ms)


def roofline(kind: KernelClass, row: LatencyRow) -> Roofline:
    """The roofline of a row's device, all of whose kernels are of that class."""
    width = WIDTHS[row.precision]
    return Roofline(
        integer=kind,
        floating=kind,
        float_bytes=2 if width == 2 else 4,
        peaks={} if row.gops is None else {width: row.gops * 1e9},
        bandwidth=None if row.gbs is None else row.gbs * 1e9,
        multiple=MULTIPLE,
    )


def _relative(point: dict[str, float], twos: Sequence[Pair]) -> NDArray[np.float64]:
    """Mean absolute log error ``[E]`` of the second network of every pair, at each efficiency."""
    if not twos:
        return np.zeros(len(_EFFICIENCIES))
    a, b = [pair.known for pair in twos], [pair.asked for pair in twos]
    ms = np.array([row.ms for row in a])
    fixed = _fixed(point, a)
    share = np.minimum(1.0, _FIXED_SHARE * ms / np.maximum(fixed, 1e-12))
    scaled = (ms - share * fixed) * _scaled(point, b) / _scaled(point, a)
    off = np.log((scaled + share * _fixed(point, b)) / np.array([row.ms for row in b]))
    return np.asarray(np.mean(np.abs(off), axis=1))


def _absolute(point: dict[str, float], rows: Sequence[LatencyRow]) -> NDArray[np.float64]:
    """Mean absolute log error ``[E]`` of rows whose peak is known, at each efficiency."""
    if not rows:
        return np.zeros(len(_EFFICIENCIES))
    ms, fixed = np.array([row.ms for row in rows]), _fixed(point, rows)
    return np.asarray(np.mean(np.abs(np.log((_scaled(point, rows) + fixed) / ms)), axis=1))


def _fixed(point: dict[str, float], rows: Sequence[LatencyRow]) -> NDArray[np.float64]:
    """Milliseconds ``[N]`` that do not go with the device's speed; calls and wrappers cost the host alone."""
    kernels = np.array([len(row.works) for row in rows])
    calls = np.array([row.judged == "host_latency" for row in rows])
    wrappers = point.get("wrapper_ms", 0.0) * np.array([row.wrapped for row in rows])
    return wrappers + point.get("call_ms", 0.0) * calls + 1e-3 * point.get("layer_us", 0.0) * kernels


def _scaled(point: dict[str, float], rows: Sequence[LatencyRow]) -> NDArray[np.float64]:
    """Milliseconds ``[E,N]`` that go with the device's speed, at each efficiency; without a peak, but for a factor."""
    gain, balance, share = point.get("gain", 1.0), point.get("balance", 0.0), point.get("bandwidth_share")
    if share is not None:
        return np.array(
            [_moved(row.network, row.size, row.precision, row.gops, row.gbs, gain, share) for row in rows]
        ).T
    kernels = [_kernels(row.network, row.size, row.precision, gain, balance) for row in rows]
    at_peak = np.array([(row.gops or 1.0) * 1e6 for row in rows])
    return np.asarray((np.array(kernels) + 1e9 * point.get("call_gops", 0.0)) / at_peak / _EFFICIENCIES[:, None])


@cache
def _kernels(network: str, size: int, precision: str, gain: float, balance: float) -> float:
    """The sum over the kernels, by ``Roofline`` itself at a rate of one operation per microsecond."""
    kind = KernelClass(name="", title="", gain=gain, balance=balance, calibrated=_NOBODY)
    row = LatencyRow("", "", "", "", precision, None, size, network, 0.0, None, 0, 1e-3, None, "")
    return 1e3 * sum(cost.ms for cost in roofline(kind, row).costs(row.works))


@cache
def _moved(
    network: str, size: int, precision: str, gops: float | None, gbs: float | None, gain: float, share: float
) -> tuple[float, ...]:
    """The sum over the kernels in milliseconds, by ``Roofline`` itself, at each efficiency."""
    row = LatencyRow("", "", "", "", precision, None, size, network, 0.0, None, 0, gops, gbs, "")
    kinds = [
        KernelClass(name="", title="", gain=gain, bandwidth_share=share, efficiency=efficiency, calibrated=_NOBODY)
        for efficiency in map(float, _EFFICIENCIES)
    ]
    return tuple(sum(cost.ms for cost in roofline(kind, row).costs(row.works)) for kind in kinds)
