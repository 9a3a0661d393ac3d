"""Scales every runtime can hold exactly: positive, normal float32 numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SMALLEST = 2.0**-60
"""Scales below this are raised to it, so that the product of two scales, a bias's, is still a normal float32."""


def float32_scales(steps: NDArray[np.float64]) -> NDArray[np.float32]:
    """Quantization steps as float32 scales of the same shape.

    A step of 0 belongs to values that are all zero; every scale represents those, so theirs is 1.
    """
    return np.where(steps > 0, np.maximum(steps, SMALLEST), 1.0).astype(np.float32)
