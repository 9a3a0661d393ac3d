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
from edgeres.backends.tensorrt.settings import build_settings
from edgeres.errors import StageError
from edgeres.settings import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

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
