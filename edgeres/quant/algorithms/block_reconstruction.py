"""Block reconstruction: codes and activation scales of a residual block, learned together on what the block answers.

Li et al. 2021 (BRECQ, arXiv 2102.05426): layers of a block make up for each other's errors, blocks hardly do, so the
mean squared error of a block's output is what to descend, with the quantized network's activations as input and the
float network's as target. What is learned, with ``s`` the weight scales and ``v`` as many numbers as weights:

* codes ``q = clip(round(v))``, gradients passed straight through the rounding (Bengio et al. 2013, arXiv 1308.3432).
  ``v`` starts at the codes of ``edgeres.quant.algorithms.gptq``, moved towards ``W / s`` as far as rounds to the same
  code: a code whose neighbour is nearly as good has the shortest way to it.
* activation scales ``s_a exp(u)``, with LSQ's gradient (Esser et al. 2020, arXiv 1902.08153, section 2.1): Wei et al.
  2022 (QDrop, arXiv 2203.05740) and others learn them with the codes.

Each unit's layers are rounded first; after the descent biases are set as ``edgeres.quant.algorithms.gptq`` sets them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from edgeres.quant.algorithms import gptq
from edgeres.quant.algorithms.gptq import correct_bias, round_layer
from edgeres.quant.algorithms.layerwise import BATCH, Walk
from edgeres.quant.algorithms.units import units
from edgeres.quant.fake_quantize import QuantNetwork
from edgeres.quant.scale import SMALLEST

if TYPE_CHECKING:
    from torch import Tensor

    from edgeres.model.graph import Op
    from edgeres.model.weights import Weights
    from edgeres.progress import Advance
    from edgeres.quant.algorithms.layerwise import Images
    from edgeres.quant.algorithms.units import Unit
    from edgeres.quant.quantized import Quantized

ITERATIONS = 100
"""Batches that each unit learns from by default."""

RATE = 0.01
"""Adam's first learning rate for codes, in codes; it falls to 0 along a cosine."""

SCALE_RATE = 0.002
"""That of the natural logarithms of activation scales."""

_EDGE = 0.4
"""How far from its code a number may start: at 0.49 the first steps turn many codes at once, and their errors no longer
make up for each other."""


def steps(quantized: Quantized, iterations: int = ITERATIONS) -> int:
    """Units of progress that ``reconstructed`` reports: one per rounded layer, one per batch learned from."""
    return gptq.steps(quantized) + iterations * sum(_learns(unit, quantized) for unit in units(quantized.spec))


def _learns(unit: Unit, quantized: Quantized) -> bool:
    return any(op.name in quantized.table.weights for op in unit.ops)


class Learnable(QuantNetwork):
    """A quantized network whose codes and activation scales have gradients while a unit is learned.

    Args:
        quantized: Where learning starts.

    Attributes:
        numbers: ``v`` by layer, in codes, of the weight's shape.
        shifts: ``u`` by the tensor whose scale it moves.
    """

    def __init__(self, quantized: Quantized) -> None:
        super().__init__(quantized.spec, quantized.weights, quantized.table, quantized.placement)
        self.requires_grad_(requires_grad=False)
        self.numbers: dict[str, Tensor] = {}
        self.shifts: dict[str, Tensor] = {}

    def read(self, op: Op, index: int, values: dict[str, Tensor]) -> Tensor:
        """The value behind Q/DQ, whose scale has a gradient where it is learned."""
        tensor = op.inputs[index]
        owner = self.placement.shared.get(tensor, tensor)
        if (op.name, index) not in self.placement.edges or owner not in self.shifts:
            return super().read(op, index, values)
        params = self.table.activations[tensor]
        scale = self.shifts[owner].exp() * params.scale[0]
        low, high = params.low - params.zero_point, params.high - params.zero_point
        return rounded(values[tensor] / scale).clamp(low, high) * scale

    def parameter(self, op: Op, key: str) -> Tensor | None:
        """The weight of the codes as they are now where they are learned."""
        if key != "weight" or op.name not in self.numbers:
            return super().parameter(op, key)
        params, numbers = self.table.weights[op.name], self.numbers[op.name]
        codes = rounded(numbers).clamp(params.low, params.high)
        return codes * torch.from_numpy(params.scales(numbers.ndim))

    @torch.no_grad()
    def keep(self) -> None:
        """Takes over what has been learned, and learns no more."""
        found = dict(self.table.activations)
        for tensor, params in found.items():
            shift = self.shifts.get(self.placement.shared.get(tensor, tensor))
            if shift is not None:
                scale = max(float(shift.exp() * params.scale[0]), SMALLEST)
                found[tensor] = replace(params, scale=(scale,))
        for name, numbers in self.numbers.items():
            params = self.table.weights[name]
            codes = numbers.round().clamp(params.low, params.high).numpy().astype(np.int32)
            self.get_parameter(f"{name}.weight").copy_(torch.from_numpy(params.dequantize(codes)))
        self.table = replace(self.table, activations=found)
        self.numbers, self.shifts = {}, {}


def rounded(x: Tensor) -> Tensor:
    """The nearest integers; gradients pass as if there were no rounding."""
    return x + (x.round() - x).detach()


def reconstructed(
    reference: Weights,
    quantized: Quantized,
    images: Images,
    *,
    seed: int,
    iterations: int = ITERATIONS,
    advance: Advance | None = None,
) -> Quantized:
    """A quantized network whose codes, biases and activation scales are learned block by block.

    The same arguments give the same bytes with the same number of threads.

    Args:
        reference: Float weights that compute the same function as the float network.
        quantized: Scales to start from, and weights of the layers that stay in float.
        images: Gives batches float32 ``[N,C,H,W]`` of calibration images; read once, and no further than needed.
        seed: Order of the images, and the output pixels that each contributes.
        iterations: Batches that each unit learns from.
        advance: Called with units of progress, ``steps`` in all.

    Returns:
        Weights on their grid, corrected biases, refined activation scales; tensors that share a scale still do.

    Raises:
        StageError: There is no image.
    """
    network = Learnable(quantized)
    walk = Walk(reference, quantized, network, images)
    generator = torch.Generator().manual_seed(seed)
    for unit in walk.units:
        means = walk.lead(unit)
        for op in unit.weighted:
            mean = means[op.name]
            round_layer(walk, unit, op, table=quantized.table, reference=reference, mean=mean, generator=generator)
            if advance is not None:
                advance(1)
        if iterations and _learns(unit, quantized):
            _start(network, unit, reference)
            _descend(walk, network, unit, iterations=iterations, generator=generator, advance=advance)
            network.keep()
            for op in unit.weighted:
                if op.bias:
                    correct_bias(walk, unit, op, means[op.name])
        walk.follow(unit)
    weights = quantized.weights.replaced(network.weights())
    return replace(quantized, weights=weights, table=network.table)


def _start(network: Learnable, unit: Unit, reference: Weights) -> None:
    """Sets what a unit learns to where it starts."""
    for op in unit.weighted:
        if op.name in network.table.weights:
            params, weight = network.table.weights[op.name], reference[f"{op.name}.weight"]
            codes = torch.from_numpy(params.quantize(network.get_parameter(f"{op.name}.weight").numpy())).float()
            wanted = torch.from_numpy(weight / params.scales(weight.ndim))
            network.numbers[op.name] = torch.clamp(wanted, codes - _EDGE, codes + _EDGE).requires_grad_()
    for op in unit.ops:
        for index, tensor in enumerate(op.inputs):
            if (op.name, index) in network.placement.edges and tensor not in network.placement.shared:
                network.shifts[tensor] = torch.zeros((), requires_grad=True)


def _descend(
    walk: Walk, network: Learnable, unit: Unit, *, iterations: int, generator: torch.Generator, advance: Advance | None
) -> None:
    """Learns what ``_start`` set, from random batches without repetition until all images were seen."""
    optimizer = torch.optim.Adam(
        [
            {"params": list(network.numbers.values()), "lr": RATE},
            {"params": list(network.shifts.values()), "lr": SCALE_RATE},
        ]
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    order: list[int] = []
    for _ in range(iterations):
        if len(order) < BATCH:
            order += torch.randperm(walk.images, generator=generator).tolist()
        chosen, order = order[:BATCH], order[BATCH:]
        optimizer.zero_grad()
        for images in walk.batches(unit, chosen):
            # Adam's steps do not depend on the scale of the loss, so a sum does as well as a mean.
            torch.autograd.backward((walk.given(unit, images)[unit.output] - walk.wanted(images)).square().sum())
        optimizer.step()
        schedule.step()
        if advance is not None:
            advance(1)
