"""Layer-wise learned rounding: which way each weight is rounded is chosen for what its layer answers.

Nagel et al. 2020 (AdaRound, arXiv 2004.10568, section 3) showed that rounding to nearest is far from best and posed the
problem solved here, layer by layer: find codes for which the layer, fed by the quantized network, errs least. They
solve it by gradient descent over images. The error is a quadratic in the codes, though, and error feedback on the
covariance of the inputs (``edgeres.quant.lattice``: OBQ, GPTQ) finds far better codes in far less time: an eighth of
nearest rounding's error within 0.03 s where AdaRound's descent on the same quadratic has two thirds after 2.7 s
(``layer1.0.conv2`` of a ResNet-18, 8 bits).

Weights aim at the float weights, not at a regression of the float network's answers on the quantized network's inputs:
on images it was not fitted to, that removes 0 to 4 % of the noise that activations bring, and with few images it adds
to it. Biases do aim at the float network: ``b = E[t] - Q s E[x]`` takes away the whole mean error, also that of earlier
layers (Nagel et al. 2019, arXiv 1906.04721, section 4.2).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from edgeres.model.graph import graph
from edgeres.quant.gram import Covariance, patches, some_places
from edgeres.quant.lattice import joint_codes
from edgeres.quant.walk import Walk

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeres.model.graph import Op
    from edgeres.model.weights import Weights
    from edgeres.progress import Advance
    from edgeres.quant.qparams import QParams
    from edgeres.quant.quantized import Quantized
    from edgeres.quant.units import Unit
    from edgeres.quant.walk import Images

    Arrays = dict[str, NDArray[np.float32]]

ROWS = 4
"""Patches per column of a covariance, where the images have that many."""


def steps(quantized: Quantized) -> int:
    """Units of progress that ``adarounded`` reports: one per layer."""
    return len(graph(quantized.spec).weighted)


def adarounded(
    reference: Weights, quantized: Quantized, images: Images, *, seed: int, advance: Advance | None = None
) -> Quantized:
    """A quantized network whose codes and biases are chosen layer by layer.

    The same arguments give the same bytes with the same number of threads.

    Args:
        reference: Float weights that compute the same function as the float network.
        quantized: Scales, and weights of the layers that stay in float.
        images: Gives batches float32 ``[N,C,H,W]`` of calibration images; read once, and no further than needed.
        seed: Chooses the output pixels that each image contributes.
        advance: Called with 1 for each finished layer.

    Returns:
        The same scales, weights on their grid, corrected biases.

    Raises:
        StageError: There is no image.
    """
    walk = Walk(reference, quantized, quantized.network(), images)
    generator = torch.Generator().manual_seed(seed)
    found: Arrays = {}
    for unit in walk.units:
        for op in unit.weighted:
            key = f"{op.name}.weight"
            if op.name in quantized.table.weights:
                params = quantized.table.weights[op.name]
                found[key] = rounded_weight(walk, unit, op, params=params, weight=reference[key], generator=generator)
            if op.bias:
                found[f"{op.name}.bias"] = corrected_bias(walk, unit, op)
            if advance is not None:
                advance(1)
        walk.on(unit)
    return replace(quantized, weights=quantized.weights.replaced(found))


@torch.no_grad()
def rounded_weight(
    walk: Walk, unit: Unit, op: Op, *, params: QParams, weight: NDArray[np.float32], generator: torch.Generator
) -> NDArray[np.float32]:
    """Weights of a layer on their grid, chosen for their joint error; the walk's network gets them too.

    Args:
        walk: In front of the unit.
        unit: The unit the layer is part of.
        op: The layer.
        params: Its weight scales.
        weight: What to round, of the weight's shape.
        generator: Chooses output pixels.
    """
    covariance = Covariance(op)
    size = op.c_in // op.groups * op.kernel**2
    wanted = -(-ROWS * size // walk.images)
    for images in walk.batches(unit):
        x = walk.values(unit, images)[1].read(op, 0)
        places = some_places(op, x.shape, wanted, generator)
        covariance.add(patches(op, x, places))
    rows = torch.tensor(weight).reshape(op.groups, -1, size)
    scale = torch.tensor(params.scale, dtype=torch.float32).reshape(op.groups, -1)
    matrices = covariance.matrices()
    codes = [joint_codes(rows[g], matrices[g], scale[g], params.high) for g in range(op.groups)]
    parameter = walk.network.get_parameter(f"{op.name}.weight")
    integers = torch.cat(codes).reshape(parameter.shape).numpy().astype(np.int32)
    found = params.dequantize(integers)
    parameter.copy_(torch.from_numpy(found))
    return found


@torch.no_grad()
def corrected_bias(walk: Walk, unit: Unit, op: Op) -> NDArray[np.float32]:
    """The bias with which a layer's mean is that of the float network; the walk's network gets it too."""
    lacking = torch.zeros(op.c_out, dtype=torch.float64)
    for images in walk.batches(unit):
        exact, given = walk.values(unit, images)
        difference = (exact[op.name] - given[op.name]).reshape(len(images), op.c_out, -1)
        lacking += difference.double().mean(2).sum(0)
    bias = walk.network.get_parameter(f"{op.name}.bias")
    bias.add_((lacking / walk.images).float())
    return bias.numpy().copy()
