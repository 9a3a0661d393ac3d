"""Latency without the device: a roofline over the layers of a graph.

``t = sum over layers of max(2 MACs / (efficiency * peak), bytes / bandwidth) + overhead``, one layer per convolution or
matrix product, its bias, activation and residual add fused into it (Williams et al. 2009, CACM 52(4), with a launch
overhead per layer). At batch 1 a GPU's caches hold weights and activations, so efficiency and overhead decide.

Efficiency and overhead are class priors, fitted to public rows of ResNet-50 at batch 1: TensorRT INT8 on Jetson modules
(MLPerf inference v0.7 to v3.1, SingleStream), ncnn INT8 on phones and boards (Tencent/ncnn benchmark). On rows left out
they missed by 31 % (median) and 41 % (p90) for the first, 30 % and 75 % for the second, so the band is a factor of two.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from edgeres.onnxfile import census

if TYPE_CHECKING:
    from onnx import ModelProto

    from edgeres.target import Target

_BAND = 2.0
"""Factor either way of an uncalibrated prediction."""


@dataclass(frozen=True, slots=True)
class Prior:
    """What a class of devices reaches: share of the peak, and seconds of overhead per layer."""

    efficiency: float
    overhead_s: float


PRIORS = {"gpu": Prior(0.23, 3.7e-6), "mobile": Prior(0.29, 0.0)}


@dataclass(frozen=True, slots=True)
class Prediction:
    """A predicted latency at batch 1 in milliseconds, with its band. Never a measurement."""

    ms: float
    low_ms: float
    high_ms: float

    def __str__(self) -> str:
        return f"predicted {self.ms:.2f} ms, band {self.low_ms:.2f} to {self.high_ms:.2f} ms (uncalibrated roofline)"


def predict(model: ModelProto, target: Target) -> Prediction | None:
    """The latency a roofline expects of a graph.

    Args:
        model: The graph, float or with Q/DQ pairs.
        target: Whose device profile gives the peaks.

    Returns:
        None where the profile has no peak for the graph's arithmetic.
    """
    quantized = census.qdq(model).weights > 0
    device, prior = target.device, PRIORS[target.latency_class]
    tops = device.int8_tops if quantized else device.fp16_tops if target.latency_class == "gpu" else device.fp32_tops
    if tops is None or device.bandwidth_gbs is None:
        return None
    width = 1 if quantized else 2 if target.latency_class == "gpu" else 4
    shapes = census.tensor_shapes(model)
    macs = census.layer_macs(model)
    seconds = 0.0
    for node in model.graph.node:
        if (output := node.output[0]) in macs:
            moved = width * sum(prod(shapes[name]) for name in (*node.input[:2], output) if name in shapes)
            compute = 2 * macs[output] / (prior.efficiency * tops * 1e12)
            seconds += max(compute, moved / (device.bandwidth_gbs * 1e9)) + prior.overhead_s
    return Prediction(seconds * 1e3, seconds * 1e3 / _BAND, seconds * 1e3 * _BAND)
