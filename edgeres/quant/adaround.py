"""Layer-wise learned rounding: which way each weight is rounded is chosen for what the layer answers.

Nagel et al. 2020 (AdaRound, arXiv 2004.10568) showed that rounding to nearest is far from best and posed the problem
solved here, layer by layer: find codes for which the quantized layer, fed by the quantized network, answers what the
float layer answers in the float network. They solve it by gradient descent over images. As that error is a quadratic
in the weights, ``moments`` of the inputs hold all there is to know, and ``lattice`` solves it in closed form.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import numpy as np
    from numpy.typing import NDArray

    from edgeres.model.weights import Weights
    from edgeres.progress import Advance
    from edgeres.quant.quantized import Quantized


def steps(quantized: Quantized, iterations: int = 1) -> int:
    """Units of progress that ``adarounded`` reports."""
    raise NotImplementedError


def adarounded(
    reference: Weights,
    quantized: Quantized,
    images: Callable[[], Iterable[NDArray[np.float32]]],
    *,
    seed: int,
    iterations: int = 1,
    advance: Advance | None = None,
) -> Quantized:
    """A quantized network whose codes and biases are chosen layer by layer.

    Args:
        reference: Float weights that compute the same function as the float network.
        quantized: Scales; its weights are replaced.
        images: Gives batches ``[N,C,H,W]`` of calibration images anew at each call.
        seed: Chooses the output pixels that each image contributes.
        iterations: Sweeps of coordinate descent behind the error feedback.
        advance: Called with units of progress, ``steps`` in all.

    Returns:
        The same scales with weights on their grid and corrected biases.

    Raises:
        StageError: No images.
    """
    raise NotImplementedError
