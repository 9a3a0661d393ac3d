"""Integer codes, scales and zero-points as the arrays of initializers: int8, uint8 or, for 4 bits, ONNX's INT4."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, helper

from edgeres.errors import StageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from edgeres.quant.qparams import QParams

_INT4_OPSET, _INT4_IR_VERSION = 21, 10
"""The first versions with ``TensorProto.INT4`` (ONNX IR specification 10, docs/docsgen/source/technical/int4.md)."""
_INT4 = helper.tensor_dtype_to_np_dtype(TensorProto.INT4)


def check_int4(parameters: Iterable[QParams], opset: int, ir_version: int) -> None:
    """Raises ``StageError`` for 4-bit parameters in an opset or IR version without the type."""
    if (opset >= _INT4_OPSET and ir_version >= _INT4_IR_VERSION) or all(params.bits > 4 for params in parameters):
        return
    wanted = f"runtime.opset to {_INT4_OPSET} and ir_version to {_INT4_IR_VERSION}, or weight_bits to 8"
    raise StageError(f"4-bit weights in opset {opset}, IR {ir_version}", f"set {wanted}")


def stored_codes(codes: NDArray[np.int32], params: QParams) -> NDArray[np.generic]:
    """Codes in the type that holds them."""
    signed = _INT4 if params.bits <= 4 else np.int8
    return codes.astype(signed if params.signed else np.uint8)


def scale_and_zero_point(params: QParams) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    """float32 scales and integer zero-points: scalars per tensor, vectors ``[C]`` per channel."""
    shape = () if params.axis is None else (len(params.scale),)
    zero_points = np.full(shape, params.zero_point, dtype=np.int32)
    return np.array(params.scale, dtype=np.float32).reshape(shape), stored_codes(zero_points, params)
