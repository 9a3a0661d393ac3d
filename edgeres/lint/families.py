"""Rules of a target, by its runtime, GPU and instruction set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeres.lint.rule import FIRST, tensorrt_version
from edgeres.lint.rules import dla, litert, onnxruntime, openvino, tensorrt, tensorrt_devices, xnnpack

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeres.lint.rule import Rule, Version
    from edgeres.targets.target import Target

_TURING = (7, 5)


@dataclass(frozen=True, slots=True)
class RuleFamily:
    """Rules that apply to the same targets.

    Attributes:
        title: Name of the targets.
        rules: The rules.
        holds: Whether they apply to a target.
    """

    title: str
    rules: tuple[Rule, ...]
    holds: Callable[[Target], bool]


def _tensorrt(target: Target) -> bool:
    return target.runtime.tensorrt is not None


def _capability(target: Target) -> tuple[int, ...]:
    text = target.device.compute_capability
    return tuple(int(part) for part in text.split(".")) if text else (999,)


def _onnxruntime(target: Target) -> bool:
    return target.backend.startswith("onnxruntime")


FAMILIES: tuple[RuleFamily, ...] = (
    RuleFamily("TensorRT and TensorRT-RTX", tensorrt.RULES, _tensorrt),
    RuleFamily("TensorRT with strong typing alone (11, RTX)", tensorrt_devices.STRONGLY_TYPED,
           lambda target: _tensorrt(target) and target.runtime.strongly_typed),
    RuleFamily("NVIDIA GPUs without INT8", tensorrt_devices.WITHOUT_INTEGERS,
           lambda target: _tensorrt(target) and target.scheme is None),
    RuleFamily("NVIDIA GPUs up to compute capability 7.5", tensorrt_devices.UP_TO_TURING,
           lambda target: _tensorrt(target) and _capability(target) <= _TURING),
    RuleFamily("Jetson Orin", tensorrt_devices.ORIN,
           lambda target: _tensorrt(target) and target.device.compute_capability == "8.7"),
    RuleFamily("ONNX Runtime on CPUs", onnxruntime.RULES, _onnxruntime),
    RuleFamily("x86 without VNNI", onnxruntime.WITHOUT_VNNI, lambda target: target.device.isa in ("avx2", "avx512")),
    RuleFamily("ONNX Runtime mobile", onnxruntime.MOBILE, lambda target: target.backend == "onnxruntime_mobile"),
    RuleFamily("LiteRT", litert.RULES, lambda target: target.backend == "litert"),
    RuleFamily("OpenVINO", openvino.RULES, lambda target: target.backend == "openvino"),
    RuleFamily("ExecuTorch with XNNPACK", xnnpack.RULES, lambda target: target.backend == "executorch"),
)  # fmt: skip

DLA = RuleFamily("DLA cores (with --dla)", dla.RULES, lambda target: target.device.dla_cores > 0)
NO_DLA = RuleFamily("modules without a DLA (with --dla)", dla.ABSENT, lambda target: target.device.dla_cores == 0)


def rules_for(target: Target, *, accelerator: bool = False) -> tuple[tuple[Rule, ...], Version]:
    """The rules that apply to a target, and its runtime version.

    Args:
        target: The target.
        accelerator: Whether the graph is to run on a DLA instead of the GPU; both have rules of their own.

    Raises:
        TargetError: The target's TensorRT version is malformed.
    """
    version = tensorrt_version(target.runtime.tensorrt) if target.runtime.tensorrt is not None else FIRST
    asked = (*FAMILIES, DLA, NO_DLA) if accelerator else FAMILIES
    rules = (entry for family in asked if family.holds(target) for entry in family.rules)
    return tuple(entry for entry in rules if entry.applies(version)), version
