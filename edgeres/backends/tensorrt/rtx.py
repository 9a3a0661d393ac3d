"""TensorRT-RTX backend: engines for desktop GPUs, built without one, which also validates the graph's parsing."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from edgeres.artifacts.artifact import Engine, File, KernelCounts
from edgeres.backends.backend import Backend, engine_path, expected_kernels, intact
from edgeres.backends.package import Package
from edgeres.backends.session import onnx_session
from edgeres.backends.tensorrt.runner import UNITS, compile_graph, gpu, gpu_session

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from edgeres.artifacts.artifact import Exported
    from edgeres.backends.session import Session
    from edgeres.progress import Advance, Progress
    from edgeres.targets.target import Target

PACKAGE = Package("tensorrt_rtx", "TensorRT-RTX", "'edgeres[tensorrt-rtx]'")
ENTRY = "model.rtx.engine"
CAPABILITIES = ("SM86", "SM89", "SM120")
"""Ampere, Ada and Blackwell desktops, which one portable engine covers (docs.nvidia.com, TensorRT-RTX CPU engines)."""


@dataclass(frozen=True, slots=True)
class TensorRTRTX(Backend):
    """TensorRT-RTX, whose engine is compiled ahead of time on this host and specialised on the GPU at first use."""

    name: ClassVar[str] = "tensorrt_rtx"
    package: ClassVar[Package] = PACKAGE

    def build(self, exported: Exported, target: Target, out: Path, progress: Progress) -> Engine:
        """Builds ``model.rtx.engine`` below ``out``.

        TensorRT-RTX numbers its internal tensors by a counter that depends on the order of a hash map, so two engines
        of one graph differ in those numbers only.
        """
        with progress.task("tensorrt-rtx", UNITS) as advance:
            (out / ENTRY).write_bytes(compile_portable(intact(exported.model), target, advance))
        here = gpu()
        evidence = (
            f"TensorRT-RTX {PACKAGE.load().__version__} built the engine for {', '.join(CAPABILITIES)}; "
            + (f"it runs here on {here}" if here else "no GPU has run it"),
            "the engine's bytes differ from build to build in the numbers of internal tensors",
        )
        return Engine(exported, self.name, ENTRY, {ENTRY: File.of(out / ENTRY)}, here is not None, evidence)

    def session(
        self, graph: Path, target: Target, *, engine: Path | None = None, threads: int | None = None
    ) -> AbstractContextManager[Session]:
        """Runs the engine on a GPU; without one, simulates it: the graph as written, without optimisations."""
        if gpu() is None:
            return onnx_session(graph, optimise=False, threads=threads)
        return gpu_session(PACKAGE.load(), engine.read_bytes() if engine else compile_portable(graph, target))

    def integer_kernels(self, engine: Engine) -> KernelCounts:
        """Counts convolutions with int8 operands in the engine, or in the graph if the engine does not list them."""
        counts = plan_kernel_counts(engine_path(engine).read_bytes())
        if counts.weighted == 0:
            return expected_kernels(engine.exported.model.path, "this TensorRT-RTX does not report what it built")
        return counts


def compile_portable(graph: Path, target: Target, advance: Advance = lambda units: None) -> bytes:
    """An engine for every GPU in ``CAPABILITIES``; no GPU is needed.

    There must be no timing cache: setting one asks for a GPU (TensorRT-RTX release notes, limitations).

    Raises:
        BackendUnavailable: TensorRT-RTX is not installed.
        StageError: It rejected the graph.
    """
    runtime = PACKAGE.load()

    def tune(config: Any) -> None:
        config.num_compute_capabilities = len(CAPABILITIES)
        for index, name in enumerate(CAPABILITIES):
            config.set_compute_capability(getattr(runtime.ComputeCapability, name), index)

    return compile_graph(runtime, graph, target, tune, advance=advance)


def plan_kernel_counts(plan: bytes) -> KernelCounts:
    """Number of weighted layers in an engine's layer listing, and of those with int8 data and int8 weights.

    The listing is an undocumented format (seen in TensorRT-RTX 1.7): tensors have a name and a type, ``corrltn`` is a
    convolution, ``fully_connected`` a matrix product. An unknown format gives no counts.
    """
    text = plan.decode("latin-1")
    types = dict(re.findall(r'tensor=\{[^{}]*(?:\{[^{}]*\}[^{}]*)*?name="([^"]+)"[^\n]*? type=(\w+) \}', text))
    kernels: Counter[str] = Counter()
    integer = weighted = 0
    for kind, operands in re.findall(r"\b(corrltn|fully_connected)=\{ name=[^\n]*?input=\{([^{}]*)\}", text):
        read = [types.get(name, "unknown") for name in re.findall(r'"([^"]+)"', operands)[:2]]
        kernels[f"{'convolution' if kind == 'corrltn' else 'matrix product'} {' x '.join(read)}"] += 1
        weighted += 1
        integer += read == ["int8", "int8"]
    how = "read off the operands of the layers in the engine; the GPU chooses the kernels when it first loads it"
    return KernelCounts(integer=integer, weighted=weighted, counts=dict(sorted(kernels.items())), how=how)
