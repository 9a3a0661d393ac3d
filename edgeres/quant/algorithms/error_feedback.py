"""Error feedback: rounds a layer's weights so that the error of its output is small, column by column.

It finds codes ``Q`` on the weight grid with a small ``tr(E G E^T)``, ``E = Q s - W``, where ``G`` is the covariance
of the layer's inputs: that is the mean squared error of its output. Columns are rounded one after another, and each
compensates the errors of those before it. This is the error feedback of OBQ (Frantar and Alistarh 2022, arXiv
2208.11580) and GPTQ (Frantar et al. 2022, arXiv 2210.17323) in the form of Babai's nearest plane algorithm, to which it
is equal (Chen et al. 2025, arXiv 2507.18553): with ``G = L L^T`` the error is ``|L^T e|^2``, whose component ``i``
holds ``e_i`` and later ones only. So the last weight is rounded first, and

    ``q_i = clip(round((w_i - sum_{j>i} L_ji e_j / L_ii) / s))``.

Weights whose input varies most come first, while most others are left to compensate them (GPTQ's order by the
diagonal).
"""

from __future__ import annotations

import torch
from torch import Tensor

DAMPING = 0.01
"""Share of its mean that is added to the diagonal of the covariance (GPTQ, section 3.3).

It regularizes a covariance of few patches, and bounds the condition number in float32.
"""

_TINY = 1e-20
"""Added as well, for layers whose inputs never vary."""

_BLOCK = 128
"""Columns corrected one by one; the others are corrected by matrix products."""


def joint_codes(weight: Tensor, gram: Tensor, scale: Tensor, top: int) -> Tensor:
    """Codes of small joint error.

    Args:
        weight: float32 ``[O,d]``.
        gram: Covariance of the inputs ``[d,d]``.
        scale: Weight scales ``[O]``.
        top: Largest magnitude of a code.

    Returns:
        Integers as float32 ``[O,d]``.
    """
    order = torch.argsort(gram.diagonal(), stable=True)
    damped = gram[order][:, order]
    damped.diagonal().add_(DAMPING * float(gram.diagonal().mean()) + _TINY)
    factor, failed = torch.linalg.cholesky_ex(damped)
    if failed:
        factor = _dominant(damped)
    codes = torch.empty_like(weight)
    codes[:, order] = nearest_plane(weight[:, order], factor, scale, top)
    return codes


def _dominant(gram: Tensor) -> Tensor:
    """Cholesky factor of a matrix that is indefinite in float32, with its diagonal raised until it dominates every row.

    That happens where a layer reads nearly constant inputs: the covariance is then the rounding error of its sums,
    without information on joint errors. By Gershgorin's theorem the raised matrix is positive definite; its diagonal is
    so large that each weight is rounded nearly on its own.
    """
    raised = gram.clone()
    raised.diagonal().copy_(2 * gram.abs().sum(1) + _TINY)
    factor: Tensor = torch.linalg.cholesky(raised)
    return factor


def nearest_plane(weight: Tensor, factor: Tensor, scale: Tensor, top: int) -> Tensor:
    """The module's formula, last column first.

    Args:
        weight: float32 ``[O,d]``.
        factor: ``L``, lower triangular ``[d,d]``.
        scale: Weight scales ``[O]``.
        top: Largest magnitude of a code.

    Returns:
        Integers as float32 ``[O,d]``.
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
