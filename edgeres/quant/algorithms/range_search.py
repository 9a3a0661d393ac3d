"""Range search: activation scales of least expected KL divergence, instead of least squared error.

A histogram does not show which values matter: the few large ones that a range of least squared error clips may be the
evidence for the class. So for each tensor, with every other one in float, ranges around the calibrated one are compared
by the divergence they cause, to second order:

    KL(f) = 1/2 E[ (r^T J (Q_f(x) - x))^2 ]

with ``Q_f`` the quantizer whose scale is multiplied by ``f``, ``J`` the Jacobian of the logits at the tensor and ``r``
a random direction with the softmax's curvature as its covariance (see ``edgeres.quant.algorithms.fisher_information``).
One backward pass gives ``r^T J`` for every tensor at once, so all candidates of all tensors cost a few passes together.
The product is summed over the tensor before it is squared, so that an error common to many positions, as of clipping,
counts fully. (Nahshan et al. 2019, arXiv 1911.07190, choose ranges by the loss itself; Li et al. 2021, arXiv
2102.05426, use the diagonal alone.)
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from edgeres.quant.algorithms.fisher_information import Probe, first
from edgeres.quant.quantized import fake_quantize
from edgeres.quant.streaming import each_image

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from edgeres.progress import Advance
    from edgeres.quant.algorithms.fisher_information import Direction
    from edgeres.quant.qparams import QParams
    from edgeres.quant.quantized import Quantized
    from edgeres.quant.streaming import Images

    Floats = NDArray[np.float64]

FACTORS = (0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.35, 1.5, 1.7)  # candidate multiples of a calibrated scale


def refined(
    quantized: Quantized,
    images: Images,
    *,
    limit: int = 128,
    seed: int = 0,
    direction: Direction | None = None,
    advance: Advance | None = None,
) -> Quantized:
    """The network with the activation scales of least expected divergence; zero-points are unchanged.

    Measured on the first ``limit`` images with float weights; ``direction`` is that of the task's divergence, by
    default the softmax's; ``advance`` is called with 1 for each image.
    """
    table, placement = quantized.table, quantized.placement
    factors = best_factors(divergences(quantized, images, limit=limit, seed=seed, direction=direction, advance=advance))
    activations = dict(table.activations)
    for tensor in placement.tensors:
        factor = factors.get(placement.shared.get(tensor, tensor), 1.0)
        activations[tensor] = _scaled(activations[tensor], factor)
    return replace(quantized, table=replace(table, activations=activations))


def divergences(
    quantized: Quantized,
    images: Images,
    *,
    limit: int = 128,
    seed: int = 0,
    direction: Direction | None = None,
    advance: Advance | None = None,
) -> dict[str, Floats]:
    """Expected divergence in nats of each tensor's candidates ``[len(FACTORS)]``; tensors of one scale are one."""
    placement = quantized.placement
    probe = Probe(quantized.graph, quantized.weights, placement, direction)
    candidates = {
        tensor: [_scaled(params, factor) for factor in FACTORS]
        for tensor, params in quantized.table.activations.items()
    }

    def measure(probe: Probe, image: Tensor) -> dict[str, Floats]:
        probe.differentiate(image, seed)
        moved: dict[str, Floats] = {}
        for tensor, noise in probe.noise.items():
            assert noise.grad is not None
            owner = placement.shared.get(tensor, tensor)
            moved[owner] = moved.get(owner, 0.0) + _moved(probe.seen[tensor], noise.grad, candidates[tensor])
        return moved

    sums: dict[str, Floats] = {}
    count = 0
    for moved in each_image(probe, first(images(), limit), measure, advance, gradients=True):
        count += 1
        for tensor, change in moved.items():
            sums[tensor] = sums.get(tensor, 0.0) + np.square(change)
    return {tensor: total / (2 * count) for tensor, total in sums.items()}


def best_factors(divergences: dict[str, Floats]) -> dict[str, float]:
    """The factor of least divergence for each tensor, after smoothing over neighbouring factors with weights 1:2:1.

    The minimum of noisy values is biased low where they differ little; smoothing reduces the noise.
    """
    best = {}
    for tensor, costs in divergences.items():
        padded = np.concatenate([costs[:1], costs, costs[-1:]])
        smooth = padded[:-2] + 2 * padded[1:-1] + padded[2:]
        best[tensor] = FACTORS[int(np.argmin(smooth))] if costs.any() else 1.0
    return best


def _moved(x: Tensor, gradient: Tensor, candidates: list[QParams]) -> Floats:
    """``r^T J (Q(x) - x)`` for every candidate."""
    with torch.no_grad():
        change = [float(((fake_quantize(x, params) - x) * gradient).sum(dtype=torch.float64)) for params in candidates]
    return np.array(change)


def _scaled(params: QParams, factor: float) -> QParams:
    return replace(params, scale=(float(np.float32(params.scale[0] * factor)),))
