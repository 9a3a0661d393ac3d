"""TensorRT and TensorRT-RTX through their common Python interface: building and running engines.

The implementation is in ``bundle/engine.py`` and ``bundle/build_engine.py``, which are copied to devices.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from edgeres.backends.bundle.build_engine import build_plan
from edgeres.backends.bundle.device import BundleError
from edgeres.backends.bundle.engine import Cuda, Runner, recorder
from edgeres.backends.bundle.golden import graph_input
from edgeres.backends.bundle.trtexec import build_settings
from edgeres.backends.loading import intact
from edgeres.errors import StageError
from edgeres.settings import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from edgeres.artifacts.artifact import File
    from edgeres.backends.backend import Session
    from edgeres.data.preprocess import Preprocess
    from edgeres.progress import Advance
    from edgeres.targets.target import Target


UNITS = 100
"""Progress units of a build."""


def gpu() -> str | None:
    """Name and compute capability of this host's GPU; None without one."""
    try:
        facts = Cuda().facts()
    except BundleError:
        return None
    return f"{facts['gpu']} (compute capability {facts['sm']})"


def compile_graph(
    runtime: Any,
    model: File,
    preprocess: Preprocess,
    target: Target,
    tune: Callable[[Any], None] = lambda config: None,
    *,
    advance: Advance = lambda units: None,
) -> bytes:
    """The serialized engine of an ONNX graph.

    Args:
        runtime: The ``tensorrt`` or ``tensorrt_rtx`` module.
        model: The graph.
        preprocess: Gives height and width where the graph leaves them open.
        target: Gives precisions, effort and memory cap.
        tune: Sets options of one of the two runtimes on the builder's configuration.
        advance: Called with ``UNITS`` units in all during the build, where the runtime reports progress.

    Raises:
        StageError: The parser or the builder rejected the graph, or would compute wrong results,
            because it reads uint8 codes as int8.
    """
    path, log, told = intact(model), recorder(runtime), 0

    def watch(phase: str, share: float) -> None:
        nonlocal told
        units = int(UNITS * share) - told
        if units > 0:
            told += units
            advance(units)

    build = plain(build_settings(target.runtime, graph_input(path, preprocess)))
    with _refusals():
        plan = build_plan(runtime, path.read_bytes(), build, log, tune, watch=watch)
    misread = [message for _, message in log.problems if "UINT8" in message]
    if misread:
        raise StageError(f"TensorRT reads uint8 codes as int8: {misread[0]}", "quantize for a target with signed: true")
    return plan


@contextmanager
def gpu_session(runtime: Any, plan: bytes) -> Iterator[Session]:
    """Session of an engine on this host's GPU.

    Raises:
        StageError: The engine does not load or does not run.
    """
    with _refusals():
        yield Runner(runtime, plan, recorder(runtime))


def inspect(runtime: Any, plan: bytes) -> dict[str, Any]:
    """Number of weighted and of integer layers by TensorRT's engine inspector; needs the GPU of the engine."""
    with _refusals():
        return Runner(runtime, plan, recorder(runtime)).layer_counts()


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except BundleError as refusal:
        raise StageError(str(refusal), "see the node it names; edgeres lint says what TensorRT takes") from refusal
