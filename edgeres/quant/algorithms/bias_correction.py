"""Empirical bias correction: restores the mean of each output channel that quantization changed.

Rounding noise has a mean of its own in every output channel: few weights feed it, and an activation's range is clipped
on one side. Nagel et al. 2019 (arXiv 1906.04721, section 4.2 and appendix D) add ``E[y] - E[y_quantized]`` per output
channel to the bias, from images, layer by layer.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from edgeres.errors import StageError
from edgeres.quant.quantized import QuantNetwork
from edgeres.quant.streaming import grouped, prepared

if TYPE_CHECKING:
    from collections.abc import Container

    from torch import Tensor

    from edgeres.model.network import Network
    from edgeres.model.operation import Op
    from edgeres.progress import Advance
    from edgeres.quant.quantized import Quantized
    from edgeres.quant.streaming import Images

_BLOCK = 16  # images between two corrections


def empirical_bias(
    reference: Network, quantized: Quantized, images: Images, advance: Advance | None = None
) -> Quantized:
    """Corrects biases so that every channel of a quantized layer has its mean of the float network, in one pass.

    Both networks take the images in blocks, and each layer of the quantized one is corrected by a running mean before
    the next one reads it. Its weights grow with the block's number, so that what the first blocks saw behind unfinished
    corrections fades with the square of the number of blocks. One block of all images is exactly layer by layer; many
    differ by the sampling noise of the blocks. ``reference`` has the same channel scales as ``quantized``, whose scales
    and weights are unchanged; ``advance`` is called with the number of images of each block.

    Raises:
        StageError: There is no image.
    """
    network = _Correcting(quantized)
    wanted = copy.deepcopy(reference).eval()
    count = 0
    with torch.inference_mode():
        for count, block in enumerate(grouped(images(), _BLOCK), start=1):
            x = torch.from_numpy(block).contiguous(memory_format=torch.channels_last)
            network.wanted = _means(wanted, x, network.corrections)
            network.start(count * len(block))
            network(x)
            if advance is not None:
                advance(len(block))
    if not count:
        raise StageError("there are no images to take means of", "pass at least one")
    weights = quantized.weights
    corrected = {
        f"{name}.bias": weights[f"{name}.bias"] + correction.numpy() for name, correction in network.corrections.items()
    }
    return replace(quantized, weights=weights.replaced(corrected))


class _Correcting(QuantNetwork):
    """A quantized network that corrects each layer by its running mean error.

    ``corrections`` are float64 ``[C]`` per integer layer with a bias; ``wanted`` are the means ``[C]`` of those layers
    in the float network, on the next block.
    """

    def __init__(self, quantized: Quantized) -> None:
        super().__init__(quantized.graph, quantized.weights, quantized.table, quantized.placement)
        prepared(self)
        self.corrections = {
            op.name: torch.zeros(op.c_out, dtype=torch.float64)
            for op in self.graph.weighted
            if op.bias and op.name in quantized.table.weights
        }
        self.wanted: dict[str, Tensor] = {}
        self._total, self._share = 0, 0.0

    def start(self, weight: int) -> None:
        """Starts a block with its weight in the running mean."""
        self._total += weight
        self._share = weight / self._total

    def apply_op(self, op: Op, inputs: list[Tensor]) -> Tensor:
        """The operation, and its correction."""
        output = super().apply_op(op, inputs)
        if op.name not in self.corrections:
            return output
        lacking = self.wanted[op.name] - channel_means(op, output)
        correction = self.corrections[op.name]
        correction += (lacking - correction) * self._share
        return output + correction.float().reshape(-1, *[1] * (0 if op.rows else output.ndim - 2))


def channel_means(op: Op, x: Tensor) -> Tensor:
    """Mean ``[C]`` in float64 of a layer's output ``[N,C,H,W]``, ``[N,C]`` or rows ``[...,C]``."""
    if op.rows:
        return x.reshape(-1, x.shape[-1]).double().mean(0)
    return x.reshape(*x.shape[:2], -1).mean(2).double().mean(0)


def _means(network: Network, x: Tensor, names: Container[str]) -> dict[str, Tensor]:
    means: dict[str, Tensor] = {}
    layers = {op.name: op for op in network.graph.weighted if op.name in names}

    def tap(name: str, x: Tensor) -> None:
        if name in layers:
            means[name] = channel_means(layers[name], x)

    network(x, tap)
    return means
