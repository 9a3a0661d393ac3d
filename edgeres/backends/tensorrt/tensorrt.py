"""TensorRT backend for Jetson: a bundle that builds its engine on the device, validated on this host."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from edgeres.artifacts.artifact import Engine, File, KernelCounts
from edgeres.backends.bundle.write import tensorrt_bundle
from edgeres.backends.loading import absent, intact, load
from edgeres.backends.session import onnx_session
from edgeres.backends.tensorrt import rtx
from edgeres.backends.tensorrt.api import UNITS, compile_graph, gpu, gpu_session, inspect
from edgeres.backends.tensorrt.expected import expected_kernels
from edgeres.errors import BackendUnavailable

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from types import ModuleType

    from edgeres.artifacts.artifact import Exported
    from edgeres.backends.backend import Session
    from edgeres.progress import Advance, Progress
    from edgeres.targets.target import Target

TITLE, MODULE, PIP = "TensorRT", "tensorrt", "'edgeres[tensorrt]' on a machine with an NVIDIA GPU"
PLAN = "model.plan"
JETSON = Path("/etc/nv_tegra_release")
"""File that identifies a Jetson (L4T)."""


@dataclass(frozen=True, slots=True)
class TensorRT:
    """TensorRT, whose engines are tied to the GPU and version of the device that builds them."""

    name: ClassVar[str] = "tensorrt"

    def missing(self) -> str | None:
        """Why TensorRT is not available; ``build`` writes its bundle without it."""
        return absent(MODULE, TITLE, f"{PIP}, or let the device build the engine from its bundle")

    def build(self, exported: Exported, target: Target, out: Path, progress: Progress) -> Engine:
        """Writes a device bundle below ``out``; on the Jetson itself the engine too.

        Elsewhere TensorRT (with a GPU) or TensorRT-RTX (without) parses and builds the graph, so that an unsupported
        graph is found before anything is copied to a device.

        Raises:
            StageError: One of them rejected the graph; the message quotes it.
        """
        with progress.task("tensorrt bundle", 1) as advance:
            files = tensorrt_bundle(exported, target, out)
            advance(1)
        with progress.task("tensorrt", UNITS) as advance:
            runtime = _runtime()
            if runtime is not None and JETSON.is_file() and _same_version(runtime, target):
                (out / PLAN).write_bytes(
                    compile_graph(runtime, exported.model, exported.metadata.preprocess, target, advance=advance)
                )
                files |= {PLAN: File.of(out / PLAN)}
                evidence = f"TensorRT {runtime.__version__} built and loaded the engine on {gpu()}"
            else:
                evidence = _proof(runtime, exported, target, advance)
        entry = PLAN if PLAN in files else "model.onnx"
        return Engine(exported, self.name, entry, files, PLAN in files, (evidence,))

    def session(
        self, engine: Engine, target: Target, model: File | None = None, threads: int | None = None
    ) -> AbstractContextManager[Session]:
        """Runs the engine on the Jetson; elsewhere simulates it: the graph as written, without optimisations.

        A float reference has no rounding to follow and runs with every optimisation.
        """
        if not engine.runs_here:
            path = intact(model or engine.files[engine.entry])
            return onnx_session(path, optimise=model is not None, threads=threads)
        runtime = load(MODULE, TITLE, PIP)
        if model is None:
            return gpu_session(runtime, intact(engine.files[PLAN]).read_bytes())
        return gpu_session(runtime, compile_graph(runtime, model, engine.metadata.preprocess, target))

    def concurrent(self, engine: Engine) -> bool:
        """Whether it is simulated: sessions of ONNX Runtime share no state."""
        return not engine.runs_here

    def integer_kernels(self, engine: Engine, target: Target) -> KernelCounts:
        """Integer kernels by TensorRT's engine inspector on the Jetson; elsewhere those that the Q/DQ pairs allow."""
        if not engine.runs_here:
            return expected_kernels(engine.exported.model.path, "TensorRT has not run here")
        found = inspect(load(MODULE, TITLE, PIP), intact(engine.files[PLAN]).read_bytes())
        how = "counted by TensorRT's engine inspector on this device"
        return KernelCounts(integer=found["integer"], weighted=found["weighted"], counts=found["kernels"], how=how)


def _runtime() -> ModuleType | None:
    """The ``tensorrt`` module where it loads and there is a GPU; its wheels install without their libraries."""
    try:
        return load(MODULE, TITLE, PIP) if gpu() else None
    except BackendUnavailable:
        return None


def _same_version(runtime: ModuleType, target: Target) -> bool:
    return f"{runtime.__version__}.".startswith(f"{target.runtime.tensorrt}.")


def _proof(runtime: ModuleType | None, exported: Exported, target: Target, advance: Advance) -> str:
    """Note on which builder parsed and built the graph on this host."""
    if runtime is not None:
        compile_graph(runtime, exported.model, exported.metadata.preprocess, target, advance=advance)
        return f"TensorRT {runtime.__version__} parsed and built the graph here for {gpu()}, which is not the target"
    if rtx.TensorRTRTX().missing():
        return f"not proven on this host: pip install {rtx.PIP}"
    version = load(rtx.MODULE, rtx.TITLE, rtx.PIP).__version__
    rtx.compile_portable(exported.model, exported.metadata.preprocess, target, advance)
    return f"TensorRT-RTX {version} parsed and built the graph on this host: evidence of that and of nothing more"
