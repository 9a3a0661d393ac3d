"""TensorRT backends: a bundle that builds its engine on a Jetson, and TensorRT-RTX engines for desktop GPUs.

TensorRT-RTX builds without a GPU, so it also validates the parsing of a Jetson's graph.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgeres.artifacts.artifact import Engine, File, KernelCounts
from edgeres.backends.backend import Backend, engine_path, expected_kernels, intact, kernel_counts
from edgeres.backends.bundle.engine import PLAN
from edgeres.backends.bundle.write import filled, graph_input, write_bundle
from edgeres.backends.session import Package, onnx_session
from edgeres.backends.tensorrt.runner import (
    PYTHON_API,
    UNITS,
    build_settings,
    compile_graph,
    gpu,
    gpu_session,
    timing_flags,
    trtexec_flags,
    version,
)
from edgeres.errors import BackendUnavailable
from edgeres.settings import plain

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from types import ModuleType

    from edgeres.artifacts.artifact import Exported
    from edgeres.backends.backend import Role
    from edgeres.backends.session import Session
    from edgeres.progress import Advance, Progress
    from edgeres.targets.target import Target

PACKAGE = Package("tensorrt", "TensorRT", "'edgeres[tensorrt]' on a machine with an NVIDIA GPU")
JETSON = Path("/etc/nv_tegra_release")
"""File that identifies a Jetson (L4T)."""
RTX_PACKAGE = Package("tensorrt_rtx", "TensorRT-RTX", "'edgeres[tensorrt-rtx]'")
RTX_ENTRY = "model.rtx.engine"
CAPABILITIES = ("SM86", "SM89", "SM120")
"""Ampere, Ada and Blackwell desktops, which one portable engine covers (docs.nvidia.com, TensorRT-RTX CPU engines)."""
_COMMANDS = ("build_engine.py", "run_engine.py", "engine.py", "device.py", "pixels.py")


@dataclass(frozen=True, slots=True)
class TensorRT(Backend):
    """TensorRT, whose engines are tied to the GPU and version of the device that builds them."""

    name: ClassVar[str] = "tensorrt"
    package: ClassVar[Package] = PACKAGE

    def missing(self) -> str | None:
        """Why TensorRT is not available; ``build`` writes its bundle without it."""
        missing = PACKAGE.missing()
        return missing and f"{missing}, or let the device build the engine from its bundle"

    def build(self, exported: Exported, target: Target, out: Path, progress: Progress) -> Engine:
        """Writes a device bundle below ``out``; on the Jetson itself the engine too.

        Elsewhere TensorRT (with a GPU) or TensorRT-RTX (without) parses and builds the graph, so that an unsupported
        graph is found before anything is copied to a device.
        """
        graph = intact(exported.model)
        with progress.task("tensorrt bundle", 1) as advance:
            files = tensorrt_bundle(exported, target, out)
            advance(1)
        with progress.task("tensorrt", UNITS) as advance:
            runtime = _runtime()
            if runtime is not None and _is_device(runtime, target):
                (out / PLAN).write_bytes(compile_graph(runtime, graph, target, advance=advance))
                files |= {PLAN: File.of(out / PLAN)}
                evidence = f"TensorRT {runtime.__version__} built and loaded the engine on {gpu()}"
            else:
                evidence = _proof(runtime, graph, target, advance)
        entry = PLAN if PLAN in files else "model.onnx"
        return Engine(exported, self.name, entry, files, PLAN in files, (evidence,))

    def session(
        self, graph: Path, target: Target, *, engine: Path | None = None, threads: int | None = None
    ) -> AbstractContextManager[Session]:
        """Runs the engine on the Jetson; elsewhere simulates it: the graph as written, without optimisations.

        A float reference has no rounding to follow and runs with every optimisation.
        """
        if engine is not None and engine.name == PLAN:
            return gpu_session(PACKAGE.load(), engine.read_bytes())
        if engine is None and (runtime := _runtime()) is not None and _is_device(runtime, target):
            return gpu_session(runtime, compile_graph(runtime, graph, target))
        return onnx_session(engine or graph, optimise=engine is None, threads=threads)

    def concurrent(self, engine: Engine) -> bool:
        """Whether it is simulated: sessions of ONNX Runtime share no state."""
        return not engine.runs_here

    def integer_kernels(self, engine: Engine) -> KernelCounts:
        """Integer kernels by TensorRT's engine inspector on the Jetson; elsewhere those that the Q/DQ pairs allow."""
        if not engine.runs_here:
            return expected_kernels(engine.exported.model.path, "TensorRT has not run here")
        with gpu_session(PACKAGE.load(), engine_path(engine).read_bytes()) as session:
            counts = session.layer_counts()
        how = "counted by TensorRT's engine inspector on this device"
        return KernelCounts(integer=counts["integer"], weighted=counts["weighted"], counts=counts["kernels"], how=how)


@dataclass(frozen=True, slots=True)
class TensorRTRTX(Backend):
    """TensorRT-RTX, whose engine is compiled ahead of time on this host and specialised on the GPU at first use."""

    name: ClassVar[str] = "tensorrt_rtx"
    package: ClassVar[Package] = RTX_PACKAGE

    def build(self, exported: Exported, target: Target, out: Path, progress: Progress) -> Engine:
        """Builds ``model.rtx.engine`` below ``out``.

        TensorRT-RTX numbers its internal tensors by a counter that depends on the order of a hash map, so two engines
        of one graph differ in those numbers only.
        """
        with progress.task("tensorrt-rtx", UNITS) as advance:
            (out / RTX_ENTRY).write_bytes(compile_portable(intact(exported.model), target, advance))
        here = gpu()
        evidence = (
            f"TensorRT-RTX {RTX_PACKAGE.load().__version__} built the engine for {', '.join(CAPABILITIES)}; "
            + (f"it runs here on {here}" if here else "no GPU has run it"),
            "the engine's bytes differ from build to build in the numbers of internal tensors",
        )
        return Engine(exported, self.name, RTX_ENTRY, {RTX_ENTRY: File.of(out / RTX_ENTRY)}, here is not None, evidence)

    def session(
        self, graph: Path, target: Target, *, engine: Path | None = None, threads: int | None = None
    ) -> AbstractContextManager[Session]:
        """Runs the engine on a GPU; without one, simulates it: the graph as written, without optimisations."""
        if gpu() is None:
            return onnx_session(graph, optimise=False, threads=threads)
        return gpu_session(RTX_PACKAGE.load(), engine.read_bytes() if engine else compile_portable(graph, target))

    def integer_kernels(self, engine: Engine) -> KernelCounts:
        """Counts convolutions with int8 operands in the engine, or in the graph if the engine does not list them."""
        counts = plan_kernel_counts(engine_path(engine).read_bytes())
        if counts.weighted == 0:
            return expected_kernels(engine.exported.model.path, "this TensorRT-RTX does not report what it built")
        return counts


BACKENDS = (TensorRT, TensorRTRTX)


def _runtime() -> ModuleType | None:
    """The ``tensorrt`` module where it loads and there is a GPU; its wheels install without their libraries."""
    try:
        return PACKAGE.load() if gpu() else None
    except BackendUnavailable:
        return None


def _is_device(runtime: ModuleType, target: Target) -> bool:
    """Whether this host is a Jetson with the target's version of TensorRT."""
    return JETSON.is_file() and f"{runtime.__version__}.".startswith(f"{target.runtime.tensorrt}.")


def _proof(runtime: ModuleType | None, graph: Path, target: Target, advance: Advance) -> str:
    """Note on which builder parsed and built the graph on this host."""
    if runtime is not None:
        compile_graph(runtime, graph, target, advance=advance)
        return f"TensorRT {runtime.__version__} parsed and built the graph here for {gpu()}, which is not the target"
    if RTX_PACKAGE.missing():
        return f"not proven on this host: pip install {RTX_PACKAGE.pip}"
    built_by = f"TensorRT-RTX {RTX_PACKAGE.load().__version__}"
    compile_portable(graph, target, advance)
    return f"{built_by} parsed and built the graph on this host: evidence of that and of nothing more"


def compile_portable(graph: Path, target: Target, advance: Advance = lambda units: None) -> bytes:
    """An engine for every GPU in ``CAPABILITIES``; no GPU is needed.

    There must be no timing cache: setting one asks for a GPU (TensorRT-RTX release notes, limitations).

    Raises:
        BackendUnavailable: TensorRT-RTX is not installed.
        StageError: It rejected the graph.
    """
    runtime = RTX_PACKAGE.load()

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
    kernels: list[tuple[str, Role]] = []
    for kind, operands in re.findall(r"\b(corrltn|fully_connected)=\{ name=[^\n]*?input=\{([^{}]*)\}", text):
        read = [types.get(name, "unknown") for name in re.findall(r'"([^"]+)"', operands)[:2]]
        name = f"{'convolution' if kind == 'corrltn' else 'matrix product'} {' x '.join(read)}"
        kernels.append((name, "integer" if read == ["int8", "int8"] else "float"))
    how = "read off the operands of the layers in the engine; the GPU chooses the kernels when it first loads it"
    return kernel_counts(kernels, how)


def tensorrt_bundle(exported: Exported, target: Target, out: Path) -> dict[str, File]:
    """A bundle for a device with TensorRT: graph, golden outputs, and the build commands.

    These are a shell command for ``trtexec`` and, where TensorRT's Python package has the needed functions, two Python
    commands that build, compare golden outputs and measure.
    """
    graph, runtime = exported.model.path, target.runtime
    image, python = graph_input(graph), version(runtime) >= PYTHON_API
    after = (
        "python3 build_engine.py builds it too, compares golden answers and writes device.json"
        if python
        else "README.md says how its answers are compared with the golden ones"
    )
    words = {
        "RUNTIME": " ".join(runtime.name.split()),
        "FLAGS": _lines(trtexec_flags(runtime, image)),
        "TIMING": _lines(timing_flags(runtime, image)),
        "NEXT": after,
    }
    own = {"model.onnx": graph.read_bytes(), "build_engine.sh": filled("build_engine.sh", words)}
    return write_bundle(
        exported,
        target,
        out,
        entry="model.onnx",
        own=own,
        readme="README.tensorrt.md" if python else "README.trtexec.md",
        commands=_COMMANDS if python else (),
        sections={"build": plain(build_settings(runtime, image))},
    )


def _lines(flags: tuple[str, ...]) -> str:
    """Arguments of a shell command, one per line with continuations."""
    return "\n".join(f"  {shlex.quote(flag)} \\" for flag in flags)
