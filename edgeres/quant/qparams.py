"""``QParams``: scale, zero-point and integer type of one tensor.

Affine quantization (Jacob et al. 2018, arXiv 1712.05877): ``q = clip(round(x / scale) + zero_point, low, high)`` and
``x' = (q - zero_point) * scale``, rounding half to even as ONNX QuantizeLinear does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from edgeres.settings import settings

if TYPE_CHECKING:
    from numpy.typing import NDArray


@settings
class QParams:
    """Quantization parameters of one tensor.

    A scale is one positive float32 value, or one per channel of ``axis``; the zero-point represents 0.0 in all
    channels. ``narrow`` leaves out the lowest code of a signed range (``[-127, 127]``), as weights do.
    """

    scale: tuple[float, ...]
    zero_point: int = 0
    bits: Annotated[int, Field(ge=2, le=16)] = 8
    signed: bool = True
    axis: int | None = None
    narrow: bool = False

    def __post_init__(self) -> None:
        """Refuses scales that are not positive, and a zero-point outside the range of codes."""
        if not self.scale or min(self.scale) <= 0:
            raise ValueError(f"scales must be positive, and at least one: {self.scale[:4]}")
        if self.axis is None and len(self.scale) != 1:
            raise ValueError(f"{len(self.scale)} scales need an axis")
        if not self.low <= self.zero_point <= self.high:
            raise ValueError(f"zero-point {self.zero_point} is no code of {self.low} to {self.high}")

    @property
    def low(self) -> int:
        """Smallest integer code."""
        return -(1 << (self.bits - 1)) + self.narrow if self.signed else 0

    @property
    def high(self) -> int:
        """Largest integer code."""
        return (1 << (self.bits - 1)) - 1 if self.signed else (1 << self.bits) - 1

    def scales(self, rank: int) -> NDArray[np.float32]:
        """Scales as float32, shaped to broadcast over a tensor of that rank."""
        scale = np.asarray(self.scale, dtype=np.float32)
        if self.axis is None:
            return scale.reshape(())
        return scale.reshape([-1 if axis == self.axis else 1 for axis in range(rank)])

    def quantize(self, x: NDArray[np.float32]) -> NDArray[np.int32]:
        """Integer codes of a float32 tensor, as int32 of the same shape."""
        codes = np.rint(x / self.scales(x.ndim)) + np.float32(self.zero_point)
        clipped: NDArray[np.int32] = np.clip(codes, self.low, self.high).astype(np.int32)
        return clipped

    def dequantize(self, codes: NDArray[np.int32]) -> NDArray[np.float32]:
        """float32 values of integer codes."""
        return ((codes - self.zero_point) * self.scales(codes.ndim)).astype(np.float32)
