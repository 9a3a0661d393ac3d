"""Every backend by its name in target files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeres.backends.executorch.executorch import ExecuTorch
from edgeres.backends.litert.litert import LiteRT
from edgeres.backends.onnxruntime.mobile import OnnxRuntimeMobile
from edgeres.backends.onnxruntime.onnxruntime import OnnxRuntime
from edgeres.backends.openvino import OpenVino
from edgeres.backends.tensorrt.rtx import TensorRTRTX
from edgeres.backends.tensorrt.tensorrt import TensorRT
from edgeres.errors import TargetError, nearest

if TYPE_CHECKING:
    from edgeres.backends.backend import Backend

BACKENDS: dict[str, type[Backend]] = {
    ExecuTorch.name: ExecuTorch,
    LiteRT.name: LiteRT,
    OnnxRuntime.name: OnnxRuntime,
    OnnxRuntimeMobile.name: OnnxRuntimeMobile,
    OpenVino.name: OpenVino,
    TensorRT.name: TensorRT,
    TensorRTRTX.name: TensorRTRTX,
}


def find_backend(name: str) -> Backend:
    """The backend of that name.

    Raises:
        TargetError: The name is unknown; the message has the nearest one.
    """
    if name not in BACKENDS:
        raise TargetError(f"unknown backend {name!r}", nearest(name, BACKENDS))
    return BACKENDS[name]()
