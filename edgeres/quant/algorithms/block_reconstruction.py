"""Block reconstruction: codes and activation scales of a residual block, learned on the block's output error.

Li et al. 2021 (BRECQ, arXiv 2102.05426): errors of layers in a block compensate each other, those of blocks hardly do,
so the objective is the mean squared error of a block's output, with the quantized network's activations as input and
the float network's as target. Learned are, with ``s`` the weight scales and ``v`` as many numbers as weights:

* codes ``q = clip(round(v))`` with the straight-through estimator (Bengio et al. 2013, arXiv 1308.3432). ``v`` starts
  at the codes of ``edgeres.quant.algorithms.gptq``, moved towards ``W / s`` as far as it rounds to the same code: a
  code whose neighbour is nearly as good has the shortest way to it.
* activation scales ``s_a exp(u)``, with LSQ's gradient (Esser et al. 2020, arXiv 1902.08153, section 2.1): Wei et al.
  2022 (QDrop, arXiv 2203.05740) and others learn them with the codes.

Each unit's layers are rounded by GPTQ first; afterwards biases are set as in ``edgeres.quant.algorithms.gptq``.
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
"""Default number of batches per unit."""

RATE = 0.01
"""Adam's initial learning rate of codes, in codes; it falls to 0 along a cosine."""

SCALE_RATE = 0.002
"""Adam's initial learning rate of the natural logarithms of activation scales."""

_EDGE = 0.4
"""Largest initial distance from a code: at 0.49 the first steps turn many codes at once, and their errors no longer
compensate each other.
"""


def steps(quantized: Quantized, iterations: int = ITERATIONS) -> int:
    """Units of progress that ``reconstructed`` reports: one per rounded layer, one per batch learned from."""
    return gptq.steps(quantized) + iterations * sum(_learns(unit, quantized) for unit in units(quantized.spec))


def _learns(unit: Unit, quantized: Quantized) -> bool:
    return any(op.name in quantized.table.weights for op in unit.ops)


class Learnable(QuantNetwork):
    """A quantized network whose codes and activation scales have gradients while a unit is learned.

    Args:
        quantized: The initial network.

    Attributes:
        numbers: ``v`` by layer, in codes, of the weight's shape.
        shifts: ``u`` by tensor whose scale it changes.
    """

    def __init__(self, quantized: Quantized) -> None:
        super().__init__(quantized.spec, quantized.weights, quantized.table, quantized.placement)
        self.requires_grad_(requires_grad=False)
        self.numbers: dict[str, Tensor] = {}
        self.shifts: dict[str, Tensor] = {}

    def read(self, op: Op, index: int, values: dict[str, Tensor]) -> Tensor:
        """The tensor after Q/DQ, whose scale has a gradient where it is learned."""
        tensor = op.inputs[index]
        owner = self.placement.shared.get(tensor, tensor)
        if (op.name, index) not in self.placement.edges or owner not in self.shifts:
            return super().read(op, index, values)
        params = self.table.activations[tensor]
        scale = self.shifts[owner].exp() * params.scale[0]
        low, high = params.low - params.zero_point, params.high - params.zero_point
        return rounded(values[tensor] / scale).clamp(low, high) * scale

    def parameter(self, op: Op, key: str) -> Tensor | None:
        """A parameter; a learned weight is dequantized from its present codes."""
        if key != "weight" or op.name not in self.numbers:
            return super().parameter(op, key)
        params, numbers = self.table.weights[op.name], self.numbers[op.name]
        codes = rounded(numbers).clamp(params.low, params.high)
        return codes * torch.from_numpy(params.scales(numbers.ndim))

    @torch.no_grad()
    def keep(self) -> None:
        """Stores the learned codes and scales, and ends learning."""
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
    """Rounds to nearest with the straight-through estimator."""
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
        seed: Seed of the order of images, and of the output pixels that each contributes.
        iterations: Number of batches per unit.
        advance: Called with units of progress, ``steps`` in all.

    Returns:
        Weights on their grid, corrected biases, refined activation scales; shared scales remain shared.

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
    """Initializes the codes and scales of a unit."""
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
    """Optimizes the codes and scales of a unit, from random batches without repetition until all images were used."""
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
            # Adam's steps do not depend on the scale of the loss, so the sum is as good as the mean.
            torch.autograd.backward((walk.given(unit, images)[unit.output] - walk.wanted(images)).square().sum())
        optimizer.step()
        schedule.step()
        if advance is not None:
            advance(1)
