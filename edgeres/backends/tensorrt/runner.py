"""TensorRT and TensorRT-RTX through their common Python interface: settings of the builder, building, running.

The implementation is in ``bundle/engine.py`` and ``bundle/build_engine.py``, which are copied to devices.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from edgeres.backends.bundle.build_engine import build_plan
from edgeres.backends.bundle.device import BundleError
from edgeres.backends.bundle.engine import Cuda, Runner, recorder
from edgeres.backends.bundle.write import graph_input
from edgeres.errors import StageError, TargetError
from edgeres.settings import plain, settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from edgeres.backends.bundle.write import GraphInput
    from edgeres.progress import Advance
    from edgeres.targets.runtime import Runtime
    from edgeres.targets.target import Target


UNITS = 100
"""Progress units of a build."""
LEVEL = "--builderOptimizationLevel="
PYTHON_API = (8, 5)
"""First TensorRT whose Python package has the functions of ``engine.py``: tensors by name and ``execute_async_v3``."""
_PERCENTILE = "--percentile="


def gpu() -> str | None:
    """Name and compute capability of this host's GPU; None without one."""
    try:
        facts = Cuda().facts()
    except BundleError:
        return None
    return f"{facts['gpu']} (compute capability {facts['sm']})"


def compile_graph(
    runtime: Any,
    graph: Path,
    target: Target,
    tune: Callable[[Any], None] = lambda config: None,
    *,
    advance: Advance = lambda units: None,
) -> bytes:
    """The engine of an ONNX graph, with the precisions, effort and memory cap of a target.

    ``runtime`` is the ``tensorrt`` or ``tensorrt_rtx`` module; ``tune`` sets options of one of them on the builder's
    configuration; ``advance`` gets ``UNITS`` units in all during the build, where the runtime reports progress.

    Raises:
        StageError: The parser or the builder rejected the graph, or would compute wrong results,
            because it reads uint8 codes as int8.
    """
    log, done = recorder(runtime), 0

    def watch(phase: str, share: float) -> None:
        nonlocal done
        units = int(UNITS * share) - done
        if units > 0:
            done += units
            advance(units)

    build = plain(build_settings(target.runtime, graph_input(graph)))
    with refusals():
        plan = build_plan(runtime, graph.read_bytes(), build, log, tune, watch=watch)
    misread = [message for _, message in log.problems if "UINT8" in message]
    if misread:
        raise StageError(f"TensorRT reads uint8 codes as int8: {misread[0]}", "quantize for a target with signed: true")
    return plan


@contextmanager
def gpu_session(runtime: Any, plan: bytes) -> Iterator[Runner]:
    """Session of an engine on this host's GPU.

    Raises:
        StageError: The engine does not load or does not run.
    """
    with refusals():
        yield Runner(runtime, plan, recorder(runtime))


@contextmanager
def refusals() -> Iterator[None]:
    """Turns the errors of a bundle's commands into those of a stage."""
    try:
        yield
    except BundleError as refusal:
        raise StageError(str(refusal), "see the node it names; edgeres lint says what TensorRT takes") from refusal


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
