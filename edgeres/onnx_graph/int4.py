"""4-bit weights in ONNX: two codes per byte, the first in the low half.

ONNX IR specification 10, ``TensorProto.INT4`` (github.com/onnx/onnx, docs/docsgen/source/technical/int4.md): signed
two's complement, row-major, a last odd code alone in its byte. DequantizeLinear supports the type from opset 21 on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

if TYPE_CHECKING:
    from numpy.typing import NDArray

OPSET, IR_VERSION = 21, 10
"""The first versions with the type."""


def int4_tensor(codes: NDArray[np.int32], name: str) -> TensorProto:
    """An initializer of 4-bit codes.

    Args:
        codes: Integers in ``[-8, 7]`` of any shape.
        name: Name of the initializer.
    """
    assert codes.min(initial=0) >= -8, "below the lowest code"
    assert codes.max(initial=0) <= 7, "above the highest code"
    halves = codes.ravel().astype(np.int8).view(np.uint8) & 0x0F
    padded = np.append(halves, np.zeros(len(halves) % 2, dtype=np.uint8))
    packed = padded[0::2] | padded[1::2] << 4
    return TensorProto(name=name, data_type=TensorProto.INT4, dims=codes.shape, raw_data=packed.tobytes())
