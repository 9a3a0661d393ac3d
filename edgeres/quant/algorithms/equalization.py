"""Equalization: channel scales of least expected KL divergence, by Fisher information.

Equalization by peaks (Nagel et al. 2019, arXiv 1906.04721) trades activation for weight noise at one exponent for all
channels. Here both are predicted, per unit ``u`` with scale ``s_u``
(``edgeres.quant.algorithms.channel_scaling``), from the Fisher information ``F`` and the reach ``m`` of each channel
(``edgeres.quant.algorithms.fisher_information``):

    KL = 1/24 ( sum_t D_t^2 sum_c F_tc s_c^2  +  share sum_w sum_o d_wo^2 sum_i F_woi / s_i^2 )
    D_t  = k_t ( sum_c (m_tc / s_c)^8 )^(1/8)              step of an activation, k_t from its scale before
    d_wo = max_i |W_oi| s_i / (2^(bits-1) - 1)             step of an output channel's weights

since rounding noise is uniform, ``step^2 / 12``, and stands for ``s_c`` times as much in the channel it came from.
Outputs of a layer have scales of their own, so ``s_o`` cancels. In ``log s`` every term is a sum of exponentials of
linear functions and of maxima of such: the problem is a geometric program, convex with one minimum (Boyd et al. 2007,
"A tutorial on geometric programming"). ``share`` is the remaining share of the weights' rounding noise: 1 for rounding
to nearest, less where bias correction removes its mean or rounding is learned.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.optimize import minimize

from edgeres.quant.algorithms.channel_scaling import FIXED, channel_units, tensor_scales
from edgeres.quant.algorithms.fisher_information import TAIL, Importance

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray
    from torch import Tensor

    from edgeres.model.operation import Op
    from edgeres.quant.quantized import Quantized

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]
    Term = Callable[[Tensor], Tensor]

_LEAST = 1e-4  # lower bound of reach and weights as a share of the largest, for dead channels
_ITERATIONS = 60

_SHARE = 0.25  # share of the weights' rounding noise that remains: rounding is learned afterwards


def balancing_scales(quantized: Quantized, importance: Importance) -> dict[str, Floats]:
    """The scale ``[C]`` of every tensor's channels that minimises the expected divergence.

    ``quantized`` has its scales before and float weights, on which the Fisher information was measured.
    """
    units = channel_units(quantized.graph)
    terms = _terms(quantized, importance, units.of)
    free = torch.ones(units.count, dtype=torch.float64)
    free[FIXED] = 0

    def cost(logs: Floats) -> tuple[float, Floats]:
        x = torch.tensor(logs, requires_grad=True)
        scaled = x * free
        value = (torch.stack([term(scaled) for term in terms]).sum() / 24).log()
        value.backward()  # type: ignore[no-untyped-call]  # torch's stubs leave it out
        assert x.grad is not None
        return float(value.detach()), x.grad.numpy()

    minimum = minimize(cost, np.zeros(units.count), jac=True, method="L-BFGS-B", options={"maxiter": _ITERATIONS})
    return tensor_scales(units, np.exp(minimum.x))


def _terms(quantized: Quantized, importance: Importance, units: Mapping[str, Ints]) -> list[Term]:
    """Terms of the expected divergence, as functions of the logarithms of all units' scales."""
    ops = quantized.graph
    activations = [
        _activation(
            torch.from_numpy(units[tensor]),
            torch.from_numpy(np.log(np.maximum(importance.reach[tensor], importance.reach[tensor].max() * _LEAST))),
            torch.from_numpy(fisher),
            quantized.table.activations[tensor].scale[0],
        )
        for tensor, fisher in importance.activations.items()
        if fisher.any() and importance.reach[tensor].any()
    ]
    layers = [
        _layer(ops[name], units[ops[name].inputs[0]], quantized, fisher)
        for name, fisher in importance.weights.items()
        if not ops[name].rows
    ]
    return [*activations, *layers]


def _activation(units: Tensor, reach: Tensor, fisher: Tensor, step: float) -> Term:
    """``D_t^2 sum_c F_c s_c^2`` of one tensor."""
    log_factor = float(np.log(step)) - float(torch.logsumexp(TAIL * reach, 0)) / TAIL

    def term(logs: Tensor) -> Tensor:
        own = logs[units]
        log_step = torch.logsumexp(TAIL * (reach - own), 0) / TAIL + log_factor
        return (2 * log_step).exp() * (fisher * (2 * own).exp()).sum()

    return term


def _layer(op: Op, channels: Ints, quantized: Quantized, fisher: NDArray[np.float32]) -> Term:
    """``share sum_o d_o^2 sum_i F_oi / s_i^2`` of one layer's weights; the large matrices in float32."""
    weight = quantized.weights[f"{op.name}.weight"]
    magnitudes = (
        np.abs(weight).reshape(op.groups, -1, op.c_in // op.groups, op.reads * op.groups // op.c_in).max(axis=3)
    )
    units, peaks = torch.from_numpy(channels.reshape(op.groups, 1, -1)), torch.from_numpy(magnitudes)
    scale = max(float(fisher.max()), np.finfo(np.float64).tiny)
    relative = torch.from_numpy((fisher / scale).reshape(magnitudes.shape).astype(np.float32))
    factor = _SHARE / quantized.table.weights[op.name].high ** 2 * scale

    def term(logs: Tensor) -> Tensor:
        own = logs[units]
        steps = (peaks * own.exp().float()).amax(2)
        noise = (relative @ (-2 * own).exp().float().transpose(1, 2)).squeeze(2)
        return (steps.double().square() * noise.double()).sum() * factor

    return term
