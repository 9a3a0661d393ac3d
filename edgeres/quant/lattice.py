"""Rounding as a nearest-point problem on a lattice: codes whose joint error, not whose single errors, are small.

Wanted are codes ``Q`` on the weight grid with the least ``tr(E H E^T)``, ``E = Q s - W``, ``H`` positive definite.
``nearest_plane`` is the column-wise error feedback of OBQ (Frantar and Alistarh 2022, arXiv 2208.11580) and GPTQ
(Frantar et al. 2022, arXiv 2210.17323), in the form of Babai's nearest plane algorithm, to which it is equal (Chen et
al. 2025, arXiv 2507.18553): with ``H = L L^T`` the error is ``|L^T e|^2``, whose component ``i`` holds ``e_i`` and
later ones only. So the last weight is rounded first, and each earlier one makes up for the errors behind it:
``q_i = round((w_i - sum_{j>i} L_ji e_j / L_ii) / s)``. ``descended`` then moves single codes while that lowers the
error: code ``j`` by ``-round((H e)_j / (H_jj s))``, the integer minimum of the quadratic along that code.
"""

from __future__ import annotations

import torch
from torch import Tensor

_BLOCK = 128
"""Columns whose mutual corrections are made one by one; all others come by matrix products."""


def nearest_plane(weight: Tensor, factor: Tensor, scale: Tensor, top: int) -> Tensor:
    """Codes by error feedback, last column first.

    Args:
        weight: ``[O,d]``.
        factor: ``L`` of ``H = L L^T``, lower triangular ``[d,d]``.
        scale: Weight scales ``[O]``.
        top: Largest magnitude of a code.

    Returns:
        Integers as float32 ``[O,d]``.
    """
    # Columns become rows: each step then reads and writes memory that lies together.
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


def descended(codes: Tensor, weight: Tensor, metric: Tensor, scale: Tensor, top: int, sweeps: int) -> Tensor:
    """Codes after coordinate descent, column by column; the error never grows.

    Args:
        codes: Integers ``[O,d]``.
        weight: ``[O,d]``.
        metric: ``H [d,d]``.
        scale: Weight scales ``[O]``.
        top: Largest magnitude of a code.
        sweeps: Times every column is visited, at most; a sweep that changes nothing is the last.
    """
    codes = codes.clone()
    errors = codes * scale[:, None] - weight
    for _ in range(sweeps):
        before = codes.clone()
        for start in range(0, weight.shape[1], _BLOCK):
            stop = min(start + _BLOCK, weight.shape[1])
            slope = errors @ metric[:, start:stop]
            for j in range(start, stop):
                moved = codes[:, j] - torch.round(slope[:, j - start] / (metric[j, j] * scale))
                step = (moved.clamp_(-top, top) - codes[:, j]) * scale
                codes[:, j] = moved
                errors[:, j] += step
                slope.addr_(step, metric[j, start:stop])
        if torch.equal(codes, before):
            break
    return codes
