"""GPTQ: weights rounded layer by layer so that the layer's output error is small, followed by bias correction.

The target is the float weights: a regression on the quantized network's inputs removes 0 to 4 % of the activations'
noise on other images, and with few adds to it. AdaRound (Nagel et al. 2020, arXiv 2004.10568) descends the same
quadratic over images and has two thirds of nearest rounding's error after 2.7 s, where error feedback has an eighth
after 0.03 s (``layer1.0.conv2`` of a ResNet-18, 8 bits). The target of biases is the float network: ``b = E[t] - Q s
E[x]`` removes the whole mean error, also that of earlier layers (Nagel et al. 2019, arXiv 1906.04721, section 4.2).

Error feedback finds codes ``Q`` on the weight grid with a small ``tr(E G E^T)``, ``E = Q s - W``, where ``G`` is the
covariance of the layer's inputs: that is the mean squared error of its output. Columns are rounded one after another,
and each compensates the errors of those before it. This is the error feedback of OBQ (Frantar and Alistarh 2022, arXiv
2208.11580) and GPTQ (Frantar et al. 2022, arXiv 2210.17323) as Babai's nearest plane algorithm, to which it is equal
(Chen et al. 2025, arXiv 2507.18553): with ``G = L L^T`` the error is ``|L^T e|^2``, whose component ``i`` holds ``e_i``
and later ones only. So the last weight is rounded first, and ``q_i = clip(round((w_i - sum_{j>i} L_ji e_j / L_ii) /
s))``. Weights whose input varies most come first, while most others are left to compensate them.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from edgeres.quant.algorithms.layerwise import Walk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from edgeres.model.operation import Op
    from edgeres.model.unit import Unit
    from edgeres.model.weights import Weights
    from edgeres.progress import Advance
    from edgeres.quant.qparams import QParams
    from edgeres.quant.quant_table import QuantTable
    from edgeres.quant.quantized import Quantized
    from edgeres.quant.streaming import Images


class Covariance:
    """Covariance ``G`` of the patches ``x [d]`` that a layer reads, per group of channels.

    The best bias removes the mean of the error ``E x``, ``E = Q s - W``, of the layer's output, which leaves
    ``E|E (x - E[x])|^2 = tr(E G E^T)``. ``G`` is a sum over patches: memory is ``O(d^2)`` for any number of images.
    """

    def __init__(self, op: Op) -> None:
        self._op = op
        self._count = 0
        self._products = torch.zeros(op.groups, op.reads, op.reads)
        self._sums = torch.zeros(op.groups, op.reads)

    def add(self, x: Tensor) -> None:
        """Adds patches ``[P,C,k,k]``."""
        rows = x.reshape(len(x), self._op.groups, -1).transpose(0, 1)
        self._products.baddbmm_(rows.transpose(1, 2), rows)
        self._sums += rows.sum(1)
        self._count += len(x)

    def matrices(self) -> Tensor:
        """``Cov(x)``, or ``E[x x^T]`` where no bias can remove the mean; float32 ``[groups,d,d]``."""
        products = self._products / self._count
        if self._op.bias:
            means = self._sums / self._count
            products.baddbmm_(means[:, :, None], means[:, None, :], alpha=-1)
        return products


def patches(op: Op, x: Tensor, places: Tensor) -> Tensor:
    """Input patches of an operation for some of its output pixels.

    ``x`` is its input, ``[N,C,H,W]``, ``[N,C]`` or rows ``[...,C]``; ``places`` are indices ``[N,K]`` into the
    ``H' * W'`` output pixels of each image, row by row, of a linear operation all 0, of rows ``[1,K]`` into all of
    them. The patches are ``[N*K,C,k,k]``, images outermost.
    """
    if op.rows:
        return x.reshape(-1, x.shape[-1])[places[0], :, None, None]
    if op.kind == "linear":
        return x.reshape(*x.shape, 1, 1)
    image = x if x.ndim == 4 else x.unsqueeze(2)
    kernel, strides, _, dilations = op.window
    above, left, below, right = op.pads(image.shape[2:])
    padded = F.pad(image, (left, right, above, below))
    windows = padded
    for axis in (0, 1):
        span = dilations[axis] * (kernel[axis] - 1) + 1
        windows = windows.unfold(2 + axis, span, strides[axis])[..., :: dilations[axis]]
    width = windows.shape[3]
    images = torch.arange(len(x))[:, None]
    return windows.permute(0, 2, 3, 1, 4, 5)[images, places // width, places % width].flatten(0, 1)


def some_places(op: Op, shape: tuple[int, ...], wanted: int, generator: torch.Generator) -> Tensor:
    """Distinct random output pixels ``[N, min(wanted, H' * W')]`` of each image, for an input of that shape.

    Of rows ``[1,K]``, as many on average for each image, whose rows may lie anywhere among all.
    """
    if op.rows:
        count = prod(shape[:-1])
        rows = prod(op.shape[:-1])
        chosen = torch.randperm(count, generator=generator)[: wanted * (count // rows)]
        return chosen.sort().values[None]
    sides = (1,) * (4 - len(shape)) + tuple(shape[2:]) if op.kind == "conv" else ()
    kernel, strides, _, dilations = op.window
    above, left, below, right = op.pads(sides) if sides else (0,) * 4
    padded = zip(sides, (above + below, left + right), kernel, strides, dilations, strict=False)
    pixels = prod((side + pads - step * (taps - 1) - 1) // stride + 1 for side, pads, taps, stride, step in padded)
    if wanted >= pixels:
        return torch.arange(pixels).expand(shape[0], -1)
    return torch.rand(shape[0], pixels, generator=generator).argsort(1)[:, :wanted]


DAMPING = 0.01
"""Share of its mean that is added to the diagonal of the covariance (GPTQ, section 3.3).

It regularizes a covariance of few patches, and bounds the condition number in float32.
"""

_TINY = 1e-20  # added as well, for layers whose inputs never vary
_BLOCK = 128  # columns corrected one by one; the others are corrected by matrix products
ROWS = 4  # patches per column of a covariance, if the images have that many


def steps(quantized: Quantized) -> int:
    """Units of progress that ``gptq_rounded`` reports: one per layer."""
    return len(quantized.graph.weighted)


def gptq_rounded(
    reference: Weights, quantized: Quantized, images: Images, *, seed: int, advance: Advance | None = None
) -> Quantized:
    """A quantized network with codes and biases chosen by GPTQ, layer by layer; its scales are unchanged.

    ``reference`` are float weights of the same function as the float network's. The images are read once, and no
    further than needed; the seed is that of the output pixels that each contributes. The same arguments give the same
    bytes with the same number of threads.
    """
    walk = Walk(reference, quantized, quantized.network(), images)
    generator = torch.Generator().manual_seed(seed)
    for _ in rounded_units(walk, reference, quantized.table, generator, advance):
        pass
    return replace(quantized, weights=quantized.weights.replaced(walk.network.weights()))


def rounded_units(
    walk: Walk, reference: Weights, table: QuantTable, generator: torch.Generator, advance: Advance | None
) -> Iterator[tuple[Unit, dict[str, Tensor]]]:
    """Every unit once its layers are rounded, with the means ``[C]`` of their outputs in the float network."""
    for unit in walk.units:
        means = walk.lead(unit)
        for op in unit.weighted:
            _round_layer(walk, unit, op, table=table, reference=reference, mean=means[op.name], generator=generator)
            if advance is not None:
                advance(1)
        yield unit, means
        walk.follow(unit)


@torch.no_grad()
def _round_layer(
    walk: Walk, unit: Unit, op: Op, *, table: QuantTable, reference: Weights, mean: Tensor, generator: torch.Generator
) -> None:
    """Sets a layer's codes, if it has weight scales, and its bias in the walk's network, from one pass over its input.

    ``mean`` ``[C]`` is that of the layer's output in the float network, which has already run through the unit.
    """
    covariance = Covariance(op) if op.name in table.weights else None
    pixels = -(-ROWS * op.reads // walk.images)
    total: Tensor | None = None
    count = 0
    for images in walk.batches(unit):
        x = walk.tensors(unit, images).read(op, 0)
        if covariance is not None:
            covariance.add(patches(op, x, some_places(op, x.shape, pixels, generator)))
        x = x.reshape(-1, x.shape[-1]) if op.rows else x
        summed, count = x.sum(0, keepdim=True).double(), count + len(x)
        total = summed if total is None else total + summed
    if covariance is not None:
        params, weight = table.weights[op.name], reference[f"{op.name}.weight"]
        walk.network.get_parameter(f"{op.name}.weight").copy_(best_weight(op, params, weight, covariance.matrices()))
    if op.bias and total is not None:
        _correct(walk, op, (total / count).float(), mean)


def best_weight(op: Op, params: QParams, weight: NDArray[np.float32], covariance: Tensor) -> Tensor:
    """A layer's weights rounded to their grid, from the covariance ``[groups,d,d]`` of its input; float32."""
    rows = torch.tensor(weight).reshape(op.groups, -1, covariance.shape[-1])
    scale = torch.tensor(params.scale, dtype=torch.float32).reshape(op.groups, -1)
    codes = [joint_codes(rows[g], covariance[g], scale[g], params.high) for g in range(op.groups)]
    integers = torch.cat(codes).reshape(weight.shape).numpy().astype(np.int32)
    return torch.from_numpy(params.dequantize(integers))


@torch.no_grad()
def correct_bias(walk: Walk, unit: Unit, op: Op, mean: Tensor) -> None:
    """Sets the bias for which a layer of the walk's network has the given output mean ``[C]``."""
    inputs = (walk.tensors(unit, images).read(op, 0) for images in walk.batches(unit))
    rows = [x.reshape(-1, x.shape[-1]) if op.rows else x for x in inputs]
    sums, count = [x.sum(0).double() for x in rows], sum(map(len, rows))
    _correct(walk, op, (torch.stack(sums).sum(0) / count).float()[None], mean)


def _correct(walk: Walk, op: Op, read: Tensor, mean: Tensor) -> None:
    """Sets the bias for which a layer has the given output mean ``[C]``, from the mean ``[1,C,H,W]`` of its input.

    A convolution is linear: its mean output over all images is its output for their mean.
    """
    output = walk.network.apply_op(op, [read]).double().reshape(op.c_out, -1).mean(1)
    walk.network.get_parameter(f"{op.name}.bias").add_((mean - output).float())


def joint_codes(weight: Tensor, gram: Tensor, scale: Tensor, top: int) -> Tensor:
    """Codes of small joint error.

    Integers as float32 ``[O,d]`` up to ``top`` in magnitude, for weights ``[O,d]``, the covariance ``[d,d]`` of the
    inputs and scales ``[O]``.
    """
    order = torch.argsort(gram.diagonal(), stable=True)
    damped = gram[order][:, order]
    damped.diagonal().add_(DAMPING * float(gram.diagonal().mean()) + _TINY)
    factor, failed = torch.linalg.cholesky_ex(damped)
    if failed:
        # Where inputs are nearly constant, the covariance is the rounding error of its sums, without information on
        # joint errors. By Gershgorin's theorem a matrix is positive definite once its diagonal dominates every row; it
        # is then so large that each weight is rounded nearly on its own.
        damped.diagonal().copy_(2 * damped.abs().sum(1) + _TINY)
        factor = torch.linalg.cholesky(damped)
    codes = torch.empty_like(weight)
    codes[:, order] = nearest_plane(weight[:, order], factor, scale, top)
    return codes


def nearest_plane(weight: Tensor, factor: Tensor, scale: Tensor, top: int) -> Tensor:
    """The module's formula, last column first.

    ``factor`` is ``L``, lower triangular ``[d,d]``; the rest as in ``joint_codes``.
    """
    # Columns become rows, so that each step reads and writes contiguous memory.
    wanted = weight.T.contiguous()
    codes, errors = torch.empty_like(wanted), torch.zeros_like(wanted)
    for stop in range(len(wanted), 0, -_BLOCK):
        start = max(0, stop - _BLOCK)
        owed = factor[stop:, start:stop].T @ errors[stop:]
        for i in range(stop - 1, start - 1, -1):
            due = owed[i - start].addmv(errors[i + 1 : stop].T, factor[i + 1 : stop, i])
            codes[i] = ((wanted[i] - due / factor[i, i]) / scale).round_().clamp_(-top, top)
            errors[i] = codes[i] * scale - wanted[i]
    return codes.T
