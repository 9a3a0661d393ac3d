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
from edgeres.latency.benchmark.variants import at_home, lacking
from edgeres.progress import Silent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from numpy.typing import NDArray

    from edgeres.artifacts.artifact import Exported
    from edgeres.parity.integer.network import IntegerNetwork
    from edgeres.progress import Progress
    from edgeres.quant.quantized import QuantNetwork
    from edgeres.targets.target import Target

    Images = NDArray[np.float32]
    Logits = NDArray[Any]
    Codes = Mapping[str, NDArray[Any]]

REFERENCE, FAKE, UNOPTIMISED = "reference", "torch", "onnxruntime_unoptimised"
_TITLES = {
    "onnxruntime": "ONNX ParityRuntime",
    "onnxruntime_mobile": "ONNX ParityRuntime mobile",
    "openvino": "OpenVINO",
    "executorch": "ExecuTorch",
    "litert": "LiteRT",
    "tensorrt": "TensorRT",
    "tensorrt_rtx": "TensorRT-RTX",
}


@dataclass(frozen=True, slots=True)
class ParityRuntime:
    """A runtime in a parity study.

    Attributes:
        name: Identifier.
        title: Display name.
        logits: Function from images ``[N,C,H,W]`` to logits ``[N,classes]``.
        codes: Function from images to logits and the codes of every quantized tensor by name; None where it exposes
            none.
    """

    name: str
    title: str
    logits: Callable[[Images], Logits]
    codes: Callable[[Images], tuple[Logits, Codes]] | None = None


def reference(network: IntegerNetwork) -> ParityRuntime:
    """The exact integer reference."""
    return ParityRuntime(REFERENCE, "exact integers", lambda images: network.run(images).logits)


def fake_quantization(network: QuantNetwork) -> ParityRuntime:
    """Fake quantization in torch, float arithmetic between rounded values, with which candidates are evaluated."""
    import torch

    def codes(images: Images) -> tuple[Logits, Codes]:
        found: dict[str, NDArray[Any]] = {}
        params = network.table.activations

        def tap(name: str, x: torch.Tensor) -> None:
            if name in network.placement.tensors:
                kind = np.int8 if params[name].signed else np.uint8
                found[name] = params[name].quantize(x.numpy()).astype(kind)

        with torch.inference_mode():
            x = torch.from_numpy(images).to(memory_format=torch.channels_last)
            return network(x, tap).numpy(), found

    return ParityRuntime(FAKE, "torch, fake quant.", network.logits, codes)


@dataclass(frozen=True, slots=True)
class Opened:
    """Opened runtimes.

    Attributes:
        runtimes: Runtimes in the order of a report.
        absent: Why a runtime is missing, by name.
    """

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
    """Opens the graph in every runtime of this host that takes it.

    Args:
        backends: Names of backends to open besides ONNX Runtime without optimisations.
        exported: The exported graph.
        target: Its target.
        names: Name of the codes in the graph by quantized tensor; empty where they are not compared.
        out: An empty folder for engines.
        progress: Advanced after each runtime.
    """
    absent: dict[str, str] = {}
    with ExitStack() as stack:
        path = intact(exported.model)
        plain, codes = stack.enter_context(onnx_session(path, optimise=False)), None
        if names:
            shown = stack.enter_context(showing_session(path, list(names.values()), optimise=False))
            codes = _by_tensor(shown.run, names)
        found = [ParityRuntime(UNOPTIMISED, "ORT unoptimised", plain.run, codes)]
        opener = _Opener(exported, target, names, out, stack)
        with progress.task("open each runtime", len(backends)) as advance:
            for name in backends:
                try:
                    found.append(opener.runtime(name))
                except EdgeresError as refusal:
                    absent[name] = refusal.what
                advance(1)
        yield Opened(tuple(found), absent)


@dataclass(frozen=True, slots=True)
class _Opener:
    """Opens the sessions of backends: see ``opened``."""

    exported: Exported
    target: Target
    names: Mapping[str, str]
    out: Path
    stack: ExitStack

    def runtime(self, name: str) -> ParityRuntime:
        """A backend's session of an engine that it builds on this host.

        Raises:
            EdgeresError: It is not installed, rejects the graph, or cannot run on this host.
        """
        if why := lacking(name):
            raise EdgeresError(why)
        folder = self.out / name
        folder.mkdir()
        backend, here = find_backend(name), at_home(name, self.target)
        engine = backend.build(self.exported, here, folder, Silent())
        if not engine.runs_here:
            raise EdgeresError("what it builds runs on its device, not here")
        graph, codes = intact(self.exported.model), None
        session = self.stack.enter_context(backend.engine_session(engine, here))
        if self.names and isinstance(backend, ShowsTensors):
            shown = self.stack.enter_context(backend.showing(graph, list(self.names.values())))
            codes = _by_tensor(shown.run, self.names)
        return ParityRuntime(name, _TITLES.get(name, name), session.run, codes)


def _by_tensor(
    run: Callable[[Images], tuple[Logits, Codes]], names: Mapping[str, str]
) -> Callable[[Images], tuple[Logits, Codes]]:
    """Codes by the name of their tensor."""

    def renamed(images: Images) -> tuple[Logits, Codes]:
        logits, codes = run(images)
        return logits, {tensor: codes[name] for tensor, name in names.items()}

    return renamed
