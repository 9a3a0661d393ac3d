"""``Moments``: everything a layer's rounding needs to know about its inputs and about what it should answer.

With ``x [d]`` the patch a convolution reads for one output pixel (what the quantized network gives it), ``t [O]`` what
it should answer there, and weights ``W [O,d]`` and bias ``b``, the mean squared error of the layer is a quadratic in
them: ``E|W x + b - t|^2``. The best bias is ``E[t] - W E[x]``; with it the error is ``tr(W G W^T) - 2 tr(W T^T) + c``,
where ``G = Cov(x, x) [d,d]`` and ``T = Cov(t, x) [O,d]``. Both are sums over patches: memory is ``O(d^2)`` for any
number of images, and no image is needed any more once they are known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from torch import Tensor

    from edgeres.model.graph import Op


@dataclass(frozen=True, slots=True)
class Moments:
    """Centred second moments of a layer, per group of its channels.

    Attributes:
        gram: ``Cov(x, x)``, float32 ``[groups,d,d]``.
        cross: ``Cov(t, x)``, float32 ``[groups,O/groups,d]``.
        inputs: ``E[x]``, ``[groups,d]``.
        targets: ``E[t]``, ``[groups,O/groups]``.
    """

    gram: Tensor
    cross: Tensor
    inputs: Tensor
    targets: Tensor


class Tally:
    """Running sums over patches; ``moments`` freezes them.

    Args:
        op: A convolution or linear operation.
    """

    def __init__(self, op: Op) -> None:
        groups, size = op.groups, op.c_in // op.groups * op.kernel**2
        self._op = op
        self._weight = 0.0
        self._gram = torch.zeros(groups, size, size)
        self._cross = torch.zeros(groups, op.c_out // groups, size)
        self._inputs = torch.zeros(groups, size)
        self._targets = torch.zeros(groups, op.c_out // groups)

    def add(self, x: Tensor, target: Tensor, weight: Tensor) -> None:
        """Adds patches ``[P,C,k,k]`` with targets ``[P,O]`` and weights ``[P]``."""
        groups = self._op.groups
        rows = x.reshape(len(x), groups, -1).transpose(0, 1)
        answers = target.reshape(len(x), groups, -1).transpose(0, 1)
        weighted = rows * weight[None, :, None]
        self._gram.baddbmm_(weighted.transpose(1, 2), rows)
        self._cross.baddbmm_(answers.transpose(1, 2), weighted)
        self._inputs += weighted.sum(1)
        self._targets += (answers * weight[None, :, None]).sum(1)
        self._weight += float(weight.sum())

    def moments(self) -> Moments:
        """Means and covariances of what has been added."""
        inputs, targets = self._inputs / self._weight, self._targets / self._weight
        gram = (self._gram / self._weight).baddbmm_(inputs[:, :, None], inputs[:, None, :], alpha=-1)
        cross = (self._cross / self._weight).baddbmm_(targets[:, :, None], inputs[:, None, :], alpha=-1)
        return Moments(gram, cross, inputs, targets)


def patches(op: Op, x: Tensor, places: Tensor) -> Tensor:
    """What an operation reads at some output pixels of each image.

    Args:
        op: A convolution or linear operation.
        x: Its input, ``[N,C,H,W]`` or ``[N,C]``.
        places: Indices ``[N,K]`` into the output's ``H' * W'`` pixels, in row-major order.

    Returns:
        ``[N*K,C,k,k]``, images outermost.
    """
    if op.kind == "linear":
        return x.reshape(*x.shape, 1, 1)
    padded = F.pad(x, (op.padding,) * 4)
    windows = padded.unfold(2, op.kernel, op.stride).unfold(3, op.kernel, op.stride)
    width = windows.shape[3]
    images = torch.arange(len(x))[:, None]
    return windows.permute(0, 2, 3, 1, 4, 5)[images, places // width, places % width].flatten(0, 1)
