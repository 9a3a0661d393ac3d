"""What batch norms know about a network's activations, kept beyond their folding.

At inference a channel behind a norm has mean ``beta`` and standard deviation ``|gamma| sqrt(var / (var + eps))`` over
the training data. The folded convolution makes the same values, so these are statistics of its output that cost no
image (Nagel et al. 2019, arXiv 1906.04721, section 4.2.1). A norm that stays, as those behind a pre-activation add do,
also tells ``mean`` and ``sqrt(var)`` of what it reads.

Statistics are ``Weights`` with the keys ``<tensor>.mean`` and ``<tensor>.std``, float32 ``[C]`` each.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import expit, ndtr

from edgeres.errors import StageError
from edgeres.model.graph import NORM_EPS, Op, graph
from edgeres.model.weights import Weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeres.model.spec import ResNetSpec

    Floats = NDArray[np.float64]
    Moments = tuple[Floats, Floats]


def normal_statistics(spec: ResNetSpec, weights: Weights) -> Weights:
    """Mean and standard deviation of every tensor a norm tells them of, under the tensor's name after folding.

    Args:
        spec: A network with norms.
        weights: Its weights before folding.
    """
    network, remaining = graph(spec), {op.name for op in graph(replace(spec, norm=False)).ops}
    found: dict[str, Floats] = {}
    for norm in network.ops:
        if norm.kind != "norm":
            continue
        gamma, beta, mean, var = (
            weights[f"{norm.name}.{key}"].astype(np.float64)
            for key in ("weight", "bias", "running_mean", "running_var")
        )
        made = norm.name
        if norm.name in remaining:
            found |= {f"{norm.inputs[0]}.mean": mean, f"{norm.inputs[0]}.std": np.sqrt(var)}
        else:
            made = norm.inputs[0]
        found |= {f"{made}.mean": beta, f"{made}.std": np.abs(gamma) * np.sqrt(var / (var + NORM_EPS))}
    return Weights(found)


def expected_activations(spec: ResNetSpec, weights: Weights, statistics: Weights) -> dict[str, Floats]:
    """Mean ``[C]`` of each tensor, as far as statistics of norms tell it.

    Exact, for normally distributed channels: what the statistics name; a ReLU of it, the clipped normal of Nagel et al.
    2019, appendix C; subsampling, zero-padding and the global pool. Approximate: an add, whose inputs are taken as
    independent and whose sum as normal; a max-pool, taken as the larger of two independent normal values, which is
    about what nine overlapping neighbours of a stem amount to; a convolution without a norm, whose borders are taken
    for interior; an excitation's gate, taken at the mean of what it reads. The image's mean is not known, nor what
    depends on it alone.

    Args:
        spec: The folded network.
        weights: Its weights.
        statistics: From ``normal_statistics``.

    Raises:
        StageError: They are of a network of other widths.
    """
    known: dict[str, Moments] = {}
    for op in graph(spec).ops:
        if f"{op.name}.mean" in statistics:
            mean, std = (statistics[f"{op.name}.{key}"].astype(np.float64) for key in ("mean", "std"))
            if len(mean) != op.c_out:
                raise StageError(
                    f"statistics of {op.name!r} are of {len(mean)} channels, the network makes {op.c_out}",
                    "use those of this network, or a correction from images",
                )
            known[op.name] = mean, np.square(std)
        elif all(name in known for name in op.inputs):
            known[op.name] = _moments(op, [known[name] for name in op.inputs], weights)
    return {name: mean for name, (mean, _) in known.items()}


def clipped_normal(mean: Floats, std: Floats) -> Moments:
    """Mean and variance of ``max(0, x)`` for normal ``x``.

    With ``z = mean / std``, ``E = std phi(z) + mean Phi(z)`` and ``E[max(0, x)^2] = (mean^2 + std^2) Phi(z) + mean std
    phi(z)``.
    """
    spread = np.maximum(std, np.finfo(np.float64).tiny)
    z = np.clip(mean / spread, -40, 40)
    density, share = np.exp(-np.square(z) / 2) / np.sqrt(2 * np.pi), ndtr(z)
    first = spread * density + mean * share
    second = (np.square(mean) + np.square(spread)) * share + mean * spread * density
    return first, np.maximum(second - np.square(first), 0)


def _moments(op: Op, inputs: list[Moments], weights: Weights) -> Moments:  # noqa: PLR0911  # one per kind of operation
    """Mean and variance behind one operation."""
    mean, variance = inputs[0]
    match op.kind:
        case "relu":
            return clipped_normal(mean, np.sqrt(variance))
        case "add":
            return mean + inputs[1][0], variance + inputs[1][1]
        case "mul":
            return mean * inputs[1][0], variance * np.square(inputs[1][0])
        case "sigmoid":
            return expit(mean), np.zeros_like(mean)
        case "maxpool":
            return mean + np.sqrt(variance / np.pi), variance * (1 - 1 / np.pi)
        case "gap":
            return mean, np.zeros_like(mean)
        case "zeropad":
            sides = (op.c_out - op.c_in) // 2, op.c_out - op.c_in - (op.c_out - op.c_in) // 2
            return np.pad(mean, sides), np.pad(variance, sides)
        case "conv" | "linear":
            bias = weights[f"{op.name}.bias"].astype(np.float64) if op.bias else 0.0
            kernel = weights[f"{op.name}.weight"].astype(np.float64)
            return contracted(op, kernel, mean) + bias, contracted(op, np.square(kernel), variance)
        case _:
            return mean, variance


def contracted(op: Op, kernel: Floats, channels: Floats) -> Floats:
    """``sum_{i,k} W[o,i,k] x[i]`` ``[C_out]`` of a convolution or linear operation, away from the borders."""
    summed = kernel.reshape(op.c_out, op.c_in // op.groups, -1).sum(axis=2)
    read = np.repeat(channels.reshape(op.groups, -1), op.c_out // op.groups, axis=0)
    total: Floats = (summed * read).sum(axis=1)
    return total
