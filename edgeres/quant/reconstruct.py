"""Block reconstruction: codes, biases and activation scales of a residual block, learned together.

Li et al. 2021 (BRECQ, arXiv 2102.05426): layers of a block make up for each other's errors, blocks hardly do.
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

ITERATIONS = 200
"""Batches that each unit learns from by default."""


def steps(quantized: Quantized, iterations: int = ITERATIONS) -> int:
    """Units of progress that ``reconstructed`` reports."""
    raise NotImplementedError


def reconstructed(
    reference: Weights,
    quantized: Quantized,
    images: Callable[[], Iterable[NDArray[np.float32]]],
    *,
    seed: int,
    iterations: int = ITERATIONS,
    advance: Advance | None = None,
) -> Quantized:
    """A quantized network whose codes, biases and activation scales are learned block by block.

    Args:
        reference: Float weights that compute the same function as the float network.
        quantized: Scales to start from; its weights are replaced.
        images: Gives batches ``[N,C,H,W]`` of calibration images anew at each call.
        seed: Order of the images, and the output pixels that each contributes.
        iterations: Batches that each unit learns from.
        advance: Called with units of progress, ``steps`` in all.

    Returns:
        Weights on their grid, corrected biases, refined activation scales; tensors that share a scale still do.

    Raises:
        StageError: No images.
    """
    raise NotImplementedError
