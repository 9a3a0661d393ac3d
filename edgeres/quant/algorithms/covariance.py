"""Covariance of a layer's input patches, from which its rounding error follows.

With ``x [d]`` the patch that a convolution reads for one output pixel, ``W [O,d]`` its weights and ``E = Q s - W``
their error, the error of its output is ``E x`` plus a constant. The best bias removes the mean, which leaves
``E|E (x - E[x])|^2 = tr(E G E^T)`` with the covariance ``G`` of the patches. It is a sum over patches: memory is
``O(d^2)`` for any number of images, and the images themselves are not kept.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from torch import Tensor

    from edgeres.model.graph import Op


class Covariance:
    """Running sums over patches, per group of channels."""

    def __init__(self, op: Op) -> None:
        self._op = op
        self._count = 0
        size = op.c_in // op.groups * op.kernel**2
        self._products = torch.zeros(op.groups, size, size)
        self._sums = torch.zeros(op.groups, size)

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

    ``x`` is its input, ``[N,C,H,W]`` or ``[N,C]``; ``places`` are indices ``[N,K]`` into the ``H' * W'`` output pixels
    of each image, row by row, of a linear operation all 0. The patches are ``[N*K,C,k,k]``, images outermost.
    """
    if op.kind == "linear":
        return x.reshape(*x.shape, 1, 1)
    padded = F.pad(x, (op.padding,) * 4)
    windows = padded.unfold(2, op.kernel, op.stride).unfold(3, op.kernel, op.stride)
    width = windows.shape[3]
    images = torch.arange(len(x))[:, None]
    return windows.permute(0, 2, 3, 1, 4, 5)[images, places // width, places % width].flatten(0, 1)


def some_places(op: Op, shape: tuple[int, ...], wanted: int, generator: torch.Generator) -> Tensor:
    """Distinct random output pixels of each image.

    Indices ``[N, min(wanted, H' * W')]``; ``shape`` is that of the operation's input.
    """
    sides = shape[2:] if op.kind == "conv" else ()
    pixels = prod((side + 2 * op.padding - op.kernel) // op.stride + 1 for side in sides)
    if wanted >= pixels:
        return torch.arange(pixels).expand(shape[0], -1)
    return torch.rand(shape[0], pixels, generator=generator).argsort(1)[:, :wanted]
