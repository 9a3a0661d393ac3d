"""Latency without the device: a roofline over the layers of a graph.

``t = sum over layers of max(2 MACs / (efficiency * peak), bytes / bandwidth) + overhead`` (Williams et al. 2009, CACM
52(4), with a launch overhead per layer). A layer is a convolution, a matrix product or a pool; bias, norm, activation
and residual add are fused into the layer before them. Bytes are those of the input, the weight and the output, once
each, at the theoretical bandwidth: at batch 1 a GPU's caches hold most of them, so public rows do not tell its share.

Efficiency and overhead are class priors, fitted to public rows at batch 1; what they missed on devices left out of the
fit stands beside each. That makes a prediction a band, a factor of two either way, and never a measurement.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from edgeres.onnxfile import census

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

    from edgeres.target import DeviceProfile, Target

_BAND = 2.0
"""Factor either way of an uncalibrated prediction: the 90 % quantile of what leave-one-device-out fits miss."""

_POOLS = ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")


@dataclass(frozen=True, slots=True)
class Prior:
    """What a class of devices reaches.

    Attributes:
        efficiency: Share of the peak that a layer's arithmetic reaches.
        overhead_us: Microseconds per layer, whatever its size.
        float_bytes: Bytes of a float the runtime computes with: 2 where it picks FP16, 4 where it stays with FP32.
        missed: Relative error on devices left out of the fit in percent, median and 90 % quantile.
        source: What it was fitted to.
    """

    efficiency: float
    overhead_us: float
    float_bytes: int
    missed: tuple[int, int]
    source: str


JETSON = Prior(0.23, 3.7, 2, (31, 41), "ResNet-50 INT8 by TensorRT on 4 Jetson modules, MLPerf v0.7 to v3.1")
CARD = Prior(0.68, 6.7, 2, (8, 56), "ResNet-50 INT8 by TensorRT on 9 graphics cards, MLPerf v0.7 to v3.1")
CPU = Prior(0.29, 0.0, 4, (31, 75), "ResNet-18 and 50 INT8 by ncnn on phones and boards, 2 to 8 threads")


@dataclass(frozen=True, slots=True)
class Prediction:
    """A predicted latency of one image in milliseconds, with its band. Never a measurement.

    Attributes:
        prior: What it rests on.
    """

    ms: float
    low_ms: float
    high_ms: float
    prior: Prior

    def __str__(self) -> str:
        median, p90 = self.prior.missed
        return (
            f"a roofline expects {self.ms:.2g} ms, between {self.low_ms:.2g} and {self.high_ms:.2g}; fitted to "
            f"{self.prior.source}, it missed others by {median} % (median) and {p90} % (p90)"
        )


def prior_of(target: Target) -> Prior:
    """The class a target's device belongs to: a module with a JetPack, another GPU, or a CPU."""
    if target.latency_class == "mobile":
        return CPU
    return JETSON if target.runtime.jetpack else CARD


def predict(model: ModelProto, target: Target) -> Prediction | None:
    """The latency a roofline expects of a graph for one image.

    Args:
        model: The graph, float or with Q/DQ pairs; a layer runs in integers where its inputs are dequantized.
        target: Whose device profile gives the peaks.

    Returns:
        None where the profile lacks the bandwidth, or a peak for arithmetic that the graph uses.
    """
    prior, device = prior_of(target), target.device
    if device.bandwidth_gbs is None:
        return None
    shapes, macs = census.tensor_shapes(model), census.layer_macs(model)
    dequantized = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    seconds = 0.0
    for node in model.graph.node:
        output = node.output[0]
        if output not in macs and node.op_type not in _POOLS:
            continue
        width = 1 if dequantized.issuperset(_operands(node)) else prior.float_bytes
        peak = _peak(device, width)
        if peak is None:
            return None
        moved = width * sum(prod(shapes[name]) for name in (*_operands(node), output))
        compute = 2 * macs.get(output, 0) / (prior.efficiency * peak)
        seconds += max(compute, moved / (device.bandwidth_gbs * 1e9)) + prior.overhead_us * 1e-6
    return Prediction(1e3 * seconds, 1e3 * seconds / _BAND, 1e3 * seconds * _BAND, prior)


def _operands(node: NodeProto) -> tuple[str, ...]:
    """What a layer reads, but for its bias."""
    return tuple(node.input[:1] if node.op_type in _POOLS else node.input[:2])


def _peak(device: DeviceProfile, width: int) -> float | None:
    """Operations per second of arithmetic on numbers of that many bytes."""
    tops = {1: device.int8_tops, 2: device.fp16_tops, 4: device.fp32_tops}[width]
    return None if tops is None else tops * 1e12
