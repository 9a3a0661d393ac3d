"""Block reconstruction: codes and activation scales of a residual block, learned on the block's output error.

Li et al. 2021 (BRECQ, arXiv 2102.05426): errors of layers in a block compensate each other, those of blocks hardly do,
so the objective is the mean squared error of a block's output, with the quantized network's activations as input and
the float network's as target. Learned are, as in ``edgeres.quant.learned_network``,

* weights in units of their scale, ``v``. It starts at the codes of ``edgeres.quant.algorithms.gptq``, moved towards
  ``W / s`` as far as it rounds to the same code: a code whose neighbour is nearly as good has the shortest way to it.
* logarithms of activation scales: Wei et al. 2022 (QDrop, arXiv 2203.05740) and others learn them with the codes.

Each unit's layers are rounded by GPTQ first; afterwards biases are set as in ``edgeres.quant.algorithms.gptq``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from edgeres.model.unit import units
from edgeres.quant.algorithms import gptq
from edgeres.quant.algorithms.gptq import correct_bias, rounded_units
from edgeres.quant.algorithms.layerwise import BATCH, Walk
from edgeres.quant.learned_network import LearnedNetwork

if TYPE_CHECKING:
    from torch import Tensor

    from edgeres.model.operation import Op
    from edgeres.model.unit import Unit
    from edgeres.model.weights import Weights
    from edgeres.progress import Advance
    from edgeres.quant.quantized import Quantized
    from edgeres.quant.streaming import Images

ITERATIONS = 100  # default number of batches per unit
RATE = 0.01  # Adam's initial learning rate of codes, in codes; it falls to 0 along a cosine
SCALE_RATE = 0.002  # Adam's initial learning rate of the natural logarithms of activation scales
_EDGE = 0.4  # largest initial distance from a code: at 0.49 the first steps turn many codes at once


def steps(quantized: Quantized, iterations: int = ITERATIONS) -> int:
    """Units of progress that ``reconstructed`` reports: one per rounded layer, one per batch learned from."""
    return gptq.steps(quantized) + iterations * sum(bool(_learned(unit, quantized)) for unit in units(quantized.graph))


def _learned(unit: Unit, quantized: Quantized) -> list[Op]:
    """Layers of a unit with integer weights."""
    return [op for op in unit.weighted if op.name in quantized.table.weights]


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

    ``iterations`` is the number of batches per unit; the seed is also that of the order of images. The rest is as in
    ``edgeres.quant.algorithms.gptq.gptq_rounded``.
    """
    network = LearnedNetwork(quantized, blockwise=True).requires_grad_(False)
    network.activation_pace.fill_(1.0)
    walk = Walk(reference, quantized, network, images)
    generator = torch.Generator().manual_seed(seed)
    for unit, means in rounded_units(walk, reference, quantized.table, generator, advance):
        layers = _learned(unit, quantized)
        if iterations and layers:
            moves = [_start(network, op, quantized, reference) for op in layers]
            _descend(walk, network, unit, moves, iterations=iterations, generator=generator, advance=advance)
            _settle(network, layers)
            for op in (op for op in unit.weighted if op.bias):
                correct_bias(walk, unit, op, means[op.name])
    weights = quantized.weights.replaced(network.weights())
    return replace(quantized, weights=weights, table=replace(quantized.table, activations=network.table().activations))


@torch.no_grad()
def _start(network: LearnedNetwork, op: Op, quantized: Quantized, reference: Weights) -> Tensor:
    """Moves a layer's weight towards the float one as far as it rounds to the same codes; the parameter to learn."""
    params, weight = quantized.table.weights[op.name], network.get_parameter(f"{op.name}.weight")
    scales = torch.from_numpy(params.scales(weight.ndim))
    codes = torch.from_numpy(params.quantize(weight.numpy())).float()
    wanted = torch.from_numpy(np.array(reference[f"{op.name}.weight"])) / scales
    weight.copy_(torch.clamp(wanted, codes - _EDGE, codes + _EDGE) * scales)
    return network.get_parameter(f"{op.name}.weight_move").requires_grad_()


@torch.no_grad()
def _settle(network: LearnedNetwork, layers: list[Op]) -> None:
    """Sets the weights of layers to their learned codes, and ends learning."""
    for op in layers:
        move, codes = network.get_parameter(f"{op.name}.weight_move"), network.parameter(op, "weight")
        assert codes is not None
        network.get_parameter(f"{op.name}.weight").copy_(codes)
        move.zero_().requires_grad_(False)
    network.activation_steps.requires_grad_(False)


def _descend(
    walk: Walk,
    network: LearnedNetwork,
    unit: Unit,
    moves: list[Tensor],
    *,
    iterations: int,
    generator: torch.Generator,
    advance: Advance | None,
) -> None:
    """Optimizes the codes and scales of a unit, from random batches without repetition until all images were used."""
    scales = network.activation_steps.requires_grad_()
    inputs = {tensor for op in unit.ops for tensor in op.inputs}
    # A scale that is shared with a tensor of an earlier unit is fixed.
    inner = torch.tensor([float(tensor in inputs) for tensor in network.placement.owners])
    groups = [{"params": moves, "lr": RATE}, {"params": [scales], "lr": SCALE_RATE}]
    optimizer = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    order: list[int] = []
    for _ in range(iterations):
        if len(order) < BATCH:
            order += torch.randperm(walk.images, generator=generator).tolist()
        chosen, order = order[:BATCH], order[BATCH:]
        optimizer.zero_grad()
        for images in walk.batches(unit, chosen):
            # Adam's steps do not depend on the scale of the loss, so the sum is as good as the mean.
            torch.autograd.backward((walk.tensors(unit, images)[unit.output] - walk.wanted(images)).square().sum())
        if scales.grad is not None:
            scales.grad.mul_(inner)
        optimizer.step()
        schedule.step()
        if advance is not None:
            advance(1)
