"""TensorRT builder settings and ``trtexec`` flags of a target's runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeres.errors import TargetError
from edgeres.settings import settings

if TYPE_CHECKING:
    from edgeres.backends.bundle.golden import GraphInput
    from edgeres.targets.runtime import Runtime

LEVEL = "--builderOptimizationLevel="
PYTHON_API = (8, 5)
"""First TensorRT whose Python package has the functions of ``engine.py``: tensors by name and ``execute_async_v3``."""
_PERCENTILE = "--percentile="


@settings
class BuildSettings:
    """Builder settings of ``build_engine.py``, which the manifest holds.

    Attributes:
        model: Name of the ONNX file.
        tensorrt: TensorRT version of the graph.
        precisions: Names of builder flags, set where the version has them (11 has none: it is strongly typed).
        strongly_typed: Whether the network computes in the graph's types; then there are no precisions.
        optimization_level: Builder effort from 0 to 5; None takes TensorRT's default (8.6 and newer).
        workspace_mib: Largest scratch memory of a layer, in MiB.
        image: ``(C, H, W)`` of one input.
        batch: Smallest, best and largest batch: latency is of one image, golden outputs of eight.
    """

    model: str = "model.onnx"
    tensorrt: str
    precisions: tuple[str, ...]
    strongly_typed: bool = False
    optimization_level: int | None
    workspace_mib: int
    image: tuple[int, int, int]
    batch: tuple[int, int, int] = (1, 1, 8)


def build_settings(runtime: Runtime, image: GraphInput) -> BuildSettings:
    """Settings of the Python builder, equal to the target's ``trtexec`` flags."""
    level = [flag.removeprefix(LEVEL) for flag in runtime.flags if flag.startswith(LEVEL)]
    return BuildSettings(
        tensorrt=runtime.tensorrt or "",
        precisions=tuple(name for name in ("INT8", "FP16") if f"--{name.lower()}" in runtime.flags),
        strongly_typed=runtime.strongly_typed,
        optimization_level=int(level[0]) if level else None,
        workspace_mib=runtime.workspace_mib,
        image=image.shape,
    )


def trtexec_flags(runtime: Runtime, image: GraphInput) -> tuple[str, ...]:
    """Flags of ``trtexec`` in the target's TensorRT version: the target's own, memory cap, shapes.

    ``--memPoolSize`` replaced ``--workspace`` in 8.4 (NVIDIA/TensorRT samples/common/sampleOptions.cpp).
    """
    old = version(runtime) < (8, 4)
    memory = f"--workspace={runtime.workspace_mib}" if old else f"--memPoolSize=workspace:{runtime.workspace_mib}"
    batches = zip(("min", "opt", "max"), build_settings(runtime, image).batch, strict=True)
    shapes = (f"--{key}Shapes={_shape(image, batch)}" for key, batch in batches) if image.free else ()
    return (*runtime.flags, memory, *shapes)


def timing_flags(runtime: Runtime, image: GraphInput) -> tuple[str, ...]:
    """Flags with which ``trtexec`` times one image: the target's own, and the shape where the graph leaves it open.

    Before 8.5 it reports one percentile (``--percentile=P``, samples/common/sampleOptions.cpp of 8.4): the highest.
    """
    flags = runtime.timing_flags
    if version(runtime) < (8, 5):
        flags = tuple(f"{_PERCENTILE}{flag.split(',')[-1]}" if flag.startswith(_PERCENTILE) else flag for flag in flags)
    return (f"--shapes={_shape(image, 1)}", *flags) if image.free else flags


def _shape(image: GraphInput, batch: int) -> str:
    return f"{image.name}:{'x'.join(map(str, (batch, *image.shape)))}"


def version(runtime: Runtime) -> tuple[int, ...]:
    """TensorRT's version as integers, ``(10, 3)``.

    Raises:
        TargetError: The target has none.
    """
    try:
        return tuple(int(part) for part in (runtime.tensorrt or "").split("."))
    except ValueError as failure:
        raise TargetError(f"runtime.tensorrt is {runtime.tensorrt!r}", "give its version, such as '10.3'") from failure
