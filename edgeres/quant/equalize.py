"""Equalization: channels of one tensor share one scale, so they are made to have like ranges first.

Cross-layer equalization (Nagel et al. 2019, arXiv 1906.04721, equation 11) levels the ranges of the weights. This goes
by the ranges of the activations instead, as SmoothQuant does with an exponent between 0 and 1 (Xiao et al. 2022, arXiv
2211.10438, equation 4): per unit of ``edgeres.quant.rescale`` with largest relative magnitude ``r``

    s = r ** strength,    r = max over the unit's quantized tensors t of  peak[t, c] / max_c peak[t, c]

At strength 1 every channel uses the whole range of its tensor, and the rounding noise of the weights that read it grows
the most; at 0 nothing changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeres.errors import StageError
from edgeres.quant.rescale import Units, channel_units, rescaled, tensor_scales
from edgeres.quant.streaming import each_image

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray
    from torch import Tensor

    from edgeres.model.network import Network
    from edgeres.model.spec import ResNetSpec
    from edgeres.model.weights import Weights
    from edgeres.progress import Advance
    from edgeres.quant.placement import Placement

    Floats = NDArray[np.float64]

LEAST = 2.0**-10
"""Smallest relative magnitude that counts: a channel below it is nearly dead, and its scale would explode."""


def channel_peaks(
    network: Network, batches: Iterable[NDArray[np.float32]], advance: Advance | None = None
) -> dict[str, NDArray[np.float64]]:
    """Largest magnitude of every channel over calibration images.

    Args:
        network: A float network.
        batches: Images float32 ``[N,C,H,W]``; each goes through the network alone, so that the peaks are the same to
            the last bit for any batch size, order and number of threads.
        advance: Called with 1 for each finished image.

    Returns:
        Peaks ``[C]`` of every tensor ``[N,C,H,W]``, by name; the image is one of them.

    Raises:
        StageError: No image, or a tensor with NaN or infinite values; the message names it.
    """
    found: dict[str, Floats] = {}

    def peaks(network: Network, image: Tensor) -> dict[str, Floats]:
        seen: dict[str, Floats] = {}

        def tap(name: str, x: Tensor) -> None:
            if x.ndim == 4:
                seen[name] = x.abs().amax((0, 2, 3)).double().numpy()

        network(image, tap)
        return seen

    for seen in each_image(network, batches, peaks, advance):
        for name, peak in seen.items():
            found[name] = np.maximum(found.get(name, peak), peak)
    for name, peak in found.items():
        if not np.isfinite(peak).all():
            raise StageError(f"tensor {name!r} holds NaN or infinite values", "check the weights and the preprocessing")
    return found


def equalizing_scales(
    spec: ResNetSpec, peaks: Mapping[str, Floats], placement: Placement, strength: float
) -> dict[str, Floats]:
    """The scale ``[C]`` of every tensor's channels.

    A channel that is never alive keeps its scale, and so does every unit without a quantized tensor.

    Args:
        spec: The network.
        peaks: Largest magnitude per channel, from ``channel_peaks``.
        placement: Which tensors are quantized.
        strength: Exponent between 0, where nothing changes, and 1, where all peaks of a tensor become alike.
    """
    units = channel_units(spec)
    relative = np.zeros(units.count)
    for tensor in placement.tensors:
        if tensor in peaks and peaks[tensor].any():
            share = peaks[tensor] / peaks[tensor].max()
            np.maximum.at(relative, units.of[tensor], share)
    return tensor_scales(units, _powers(units, relative, strength))


def _powers(units: Units, relative: Floats, strength: float) -> Floats:
    """``relative ** strength``; dead units get the geometric mean of the living ones of their group."""
    alive = relative > 0
    logs = np.where(alive, strength * np.log(np.clip(relative, LEAST, 1)), 0.0)
    sums, counts = (np.bincount(units.group, part, minlength=units.count) for part in (logs, alive.astype(np.float64)))
    means = sums / np.maximum(counts, 1)
    return np.exp(np.where(alive, logs, means[units.group]))


def equalized(
    spec: ResNetSpec, weights: Weights, peaks: Mapping[str, Floats], placement: Placement, strength: float
) -> Weights:
    """Weights of the same function whose activations have more even channels.

    Args:
        spec: The network.
        weights: Its weights.
        peaks: Largest magnitude per channel, from ``channel_peaks``.
        placement: Which tensors are quantized.
        strength: Between 0 and 1; see ``equalizing_scales``.
    """
    return rescaled(spec, weights, equalizing_scales(spec, peaks, placement, strength))
