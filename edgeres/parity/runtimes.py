"""Runtimes of this host that take a graph, opened for a parity study."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeres.backends.backend import ShowsTensors, intact
from edgeres.backends.registry import backends, find_backend
from edgeres.backends.session import onnx_session, showing_session
from edgeres.errors import EdgeresError, UsageError, nearest
from edgeres.latency.benchmark.variants import at_home, build_here

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from numpy.typing import NDArray

    from edgeres.artifacts.artifact import Exported
    from edgeres.progress import Progress
    from edgeres.quant.quantized import QuantNetwork
    from edgeres.targets.target import Target

    Images = NDArray[np.float32]
    Logits = NDArray[Any]
    Codes = Mapping[str, NDArray[Any]]
    Show = Callable[[Images], tuple[Logits, Codes]]

FAKE, UNOPTIMISED = "torch", "onnxruntime_unoptimised"


@dataclass(frozen=True, slots=True)
class ParityRuntime:
    """A runtime in a parity study.

    Attributes:
        logits: Function from images ``[N,C,H,W]`` to logits ``[N,classes]``.
        codes: Function from images to logits and the codes of every quantized tensor by name; None where it exposes
            none.
    """

    name: str
    title: str
    logits: Callable[[Images], Logits]
    codes: Show | None = None


def fake_quantization(network: QuantNetwork) -> ParityRuntime:
    """Fake quantization in torch, float arithmetic between rounded values, with which candidates are evaluated."""
    import torch

    def codes(images: Images) -> tuple[Logits, Codes]:
        tensors: dict[str, NDArray[Any]] = {}
        params = network.table.activations

        def tap(name: str, x: torch.Tensor) -> None:
            if name in network.placement.tensors:
                kind = np.int8 if params[name].signed else np.uint8
                tensors[name] = params[name].quantize(x.numpy()).astype(kind)

        with torch.inference_mode():
            x = torch.from_numpy(images).to(memory_format=torch.channels_last)
            return network(x, tap).numpy(), tensors

    return ParityRuntime(FAKE, "torch, fake quant.", network.logits, codes)


@dataclass(frozen=True, slots=True)
class Opened:
    """Opened runtimes in the order of a report, and why a runtime is missing, by name."""

    runtimes: tuple[ParityRuntime, ...]
    absent: dict[str, str]


def chosen(wanted: str | None) -> tuple[str, ...]:
    """Backends by their names with commas between; None chooses all.

    Raises:
        UsageError: A name is unknown.
    """
    names = tuple(backends()) if wanted is None else tuple(wanted.split(","))
    for name in names:
        if name not in backends():
            raise UsageError(f"unknown runtime {name!r}", nearest(name, backends()))
    return names


@contextmanager
def opened(
    backends: Sequence[str],
    exported: Exported,
    target: Target,
    names: Mapping[str, str],
    out: Path,
    *,
    progress: Progress,
) -> Iterator[Opened]:
    """Opens the graph in ONNX Runtime without optimisations, and in every backend of this host that takes it.

    ``names`` has the name of the codes in the graph by quantized tensor, and is empty where they are not compared;
    ``out`` is an empty folder for engines.
    """
    absent: dict[str, str] = {}
    with ExitStack() as stack:
        path = intact(exported.model)
        plain, codes = stack.enter_context(onnx_session(path, optimise=False)), None
        if names:
            shown = stack.enter_context(showing_session(path, list(names.values()), optimise=False))
            codes = _by_tensor(shown.run, names)
        runtimes = [ParityRuntime(UNOPTIMISED, "ORT unoptimised", plain.run, codes)]
        with progress.task("open each runtime", len(backends)) as advance:
            for name in backends:
                try:
                    runtime = _backend_runtime(name, exported, target, names, out)
                    runtimes.append(stack.enter_context(runtime))
                except EdgeresError as refusal:
                    absent[name] = refusal.what
                advance(1)
        yield Opened(tuple(runtimes), absent)


@contextmanager
def _backend_runtime(
    name: str, exported: Exported, target: Target, names: Mapping[str, str], out: Path
) -> Iterator[ParityRuntime]:
    """A backend's session of an engine that it builds on this host below ``out``, or an error where it cannot."""
    backend, here = find_backend(name), at_home(name, target)
    engine = build_here(name, exported, here, out)
    graph, codes = intact(exported.model), None
    with backend.engine_session(engine, here) as session, ExitStack() as stack:
        if names and isinstance(backend, ShowsTensors):
            codes = _by_tensor(stack.enter_context(backend.showing(graph, list(names.values()))).run, names)
        title = backend.package.title + (" mobile" if name == "onnxruntime_mobile" else "")
        yield ParityRuntime(name, title, session.run, codes)


def _by_tensor(run: Show, names: Mapping[str, str]) -> Show:
    """Codes by the name of their tensor."""

    def renamed(images: Images) -> tuple[Logits, Codes]:
        logits, codes = run(images)
        return logits, {tensor: codes[name] for tensor, name in names.items()}

    return renamed
