"""``Family``: targets that share lint rules, by runtime, GPU and instruction set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeres.targets.target import Target

_TURING = (7, 5)


@dataclass(frozen=True, slots=True)
class Family:
    """Targets that share rules: those for which ``holds``; with ``accelerator`` only where ``--dla`` asks for a DLA."""

    title: str
    holds: Callable[[Target], bool]
    accelerator: bool = False


def _tensorrt(target: Target) -> bool:
    return target.runtime.tensorrt is not None


def _capability(target: Target) -> tuple[int, ...]:
    text = target.device.compute_capability
    return tuple(int(part) for part in text.split(".")) if text else (999,)


TENSORRT = Family("TensorRT and TensorRT-RTX", _tensorrt)
STRONGLY_TYPED = Family(
    "TensorRT with strong typing alone (11, RTX)", lambda target: _tensorrt(target) and target.runtime.strongly_typed
)
WITHOUT_INT8 = Family("NVIDIA GPUs without INT8", lambda target: _tensorrt(target) and target.scheme is None)
UP_TO_TURING = Family(
    "NVIDIA GPUs up to compute capability 7.5", lambda target: _tensorrt(target) and _capability(target) <= _TURING
)
ORIN = Family("Jetson Orin", lambda target: _tensorrt(target) and target.device.compute_capability == "8.7")
ONNXRUNTIME = Family("ONNX Runtime on CPUs", lambda target: target.backend.startswith("onnxruntime"))
WITHOUT_VNNI = Family("x86 without VNNI", lambda target: target.device.isa in ("avx2", "avx512"))
MOBILE = Family("ONNX Runtime mobile", lambda target: target.backend == "onnxruntime_mobile")
LITERT = Family("LiteRT", lambda target: target.backend == "litert")
OPENVINO = Family("OpenVINO", lambda target: target.backend == "openvino")
XNNPACK = Family("ExecuTorch with XNNPACK", lambda target: target.backend == "executorch")
DLA = Family("DLA cores (with --dla)", lambda target: target.device.dla_cores > 0, accelerator=True)
WITHOUT_DLA = Family(
    "modules without a DLA (with --dla)", lambda target: target.device.dla_cores == 0, accelerator=True
)

FAMILIES = (
    TENSORRT, STRONGLY_TYPED, WITHOUT_INT8, UP_TO_TURING, ORIN, ONNXRUNTIME, WITHOUT_VNNI, MOBILE, LITERT, OPENVINO,
    XNNPACK, DLA, WITHOUT_DLA,
)  # fmt: skip
"""Every family, in the order of a report."""
