"""OpenVINO backend: compiles the graph to an IR of two files for x86-64 processors."""

from __future__ import annotations

import re
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from edgeres.artifacts.artifact import Engine, File
from edgeres.backends.backend import Backend, engine_path, intact, kernel_counts, layer_times
from edgeres.backends.session import BatchedSession, Package, ShownSession
from edgeres.errors import StageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from edgeres.artifacts.artifact import Exported, KernelCounts
    from edgeres.backends.backend import LayerTime, NarrowFloat, Role
    from edgeres.backends.session import Outputs, Session
    from edgeres.progress import Progress
    from edgeres.targets.target import Target

PACKAGE = Package("openvino", "OpenVINO", "'edgeres[openvino]'")
# Node types of the CPU plugin's executable graph (openvino/src/plugins/intel_cpu/src/cpu_types.cpp).
WEIGHTED = frozenset({"Convolution", "Deconvolution", "FullyConnected", "MatMul"})
REFORMATS = frozenset({"Reorder", "Convert", "Transpose", "FakeQuantize", "Subgraph"})
"""``Subgraph`` holds fused element-wise work, which in a convolutional network is quantizing and dequantizing."""
_CAPABILITIES: dict[str, NarrowFloat] = {"BF16": "bfloat16", "FP16": "float16"}
_PRECISIONS: dict[NarrowFloat, str] = {"bfloat16": "bf16", "float16": "f16"}


@dataclass(frozen=True, slots=True)
class OpenVino(Backend):
    """OpenVINO on this host's processor. No call here sends telemetry, which only its model converter does."""

    name: ClassVar[str] = "openvino"
    package: ClassVar[Package] = PACKAGE

    def build(self, exported: Exported, target: Target, out: Path, progress: Progress) -> Engine:
        """Writes ``model.xml`` and ``model.bin`` below ``out``, deterministically."""
        openvino = PACKAGE.load()
        with progress.task("openvino", 2) as advance:
            model = _read(intact(exported.model))
            advance(1)
            _name_by_position(model)
            openvino.save_model(model, str(out / "model.xml"), compress_to_fp16=False)
            advance(1)
        files = {name: File.of(out / name) for name in ("model.xml", "model.bin")}
        return Engine(exported, self.name, "model.xml", files)

    def session(
        self, graph: Path, target: Target, *, engine: Path | None = None, threads: int | None = None
    ) -> AbstractContextManager[Session]:
        """Compiles the IR, or an ONNX graph in its place, for this processor and lowest latency."""
        return _session(engine or graph, threads)

    @contextmanager
    def showing(self, graph: Path, tensors: Sequence[str], threads: int | None = None) -> Iterator[ShownSession]:
        """Compiles the ONNX graph with more outputs; a residual add is then not fused into its convolution."""
        model = _read(graph)
        model.add_outputs(list(tensors))
        outputs, fixed = _outputs(_compiled(model, graph, threads), len(tensors) + 1)
        yield ShownSession(outputs, tensors, fixed)

    def integer_kernels(self, engine: Engine) -> KernelCounts:
        """Counts the primitives of OpenVINO's executable graph by their precision."""
        path = engine_path(engine)
        operations = _compiled(_read(path), path, 1).get_runtime_model().get_ops()
        facts = (node.get_rt_info() for node in operations)
        executed = ((row["layerType"].astype(str), row["runtimePrecision"].astype(str)) for row in facts)
        kernels = (
            (f"{kind} {precision}", _role(kind, precision))
            for kind, precision in executed
            if kind not in ("Const", "Input", "Output")
        )
        return kernel_counts(kernels, "counted in OpenVINO's executable graph on this host")

    def narrow_floats(self) -> tuple[NarrowFloat, ...]:
        """16-bit types for which the CPU plugin reports to be optimised on this processor."""
        capabilities = _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        return tuple(kind for name, kind in _CAPABILITIES.items() if name in capabilities)

    def narrow_session(self, graph: Path, precision: NarrowFloat, threads: int) -> AbstractContextManager[Session]:
        """Compiles a float graph to compute in 16 bits."""
        return _session(graph, threads, INFERENCE_PRECISION_HINT=_PRECISIONS[precision])

    def layer_times(
        self, engine: Path, image: NDArray[np.float32], *, threads: int, calls: int
    ) -> tuple[LayerTime, ...]:
        """Performance counters of the CPU plugin."""
        request = _compiled(_read(engine), engine, threads, PERF_COUNT=True).create_infer_request()
        taken: defaultdict[tuple[str, str, Role], list[float]] = defaultdict(list)
        for _ in range(calls):
            request.infer({0: image})
            for node in request.get_profiling_info():
                kind, kernel = node.node_type, node.exec_type
                key = (node.node_name, f"{kind} {kernel}", _role(kind, kernel))
                taken[key].append(1e3 * node.real_time.total_seconds())
        return layer_times({kernel: times for kernel, times in taken.items() if any(times)})  # others did not run


BACKENDS = (OpenVino,)


def _role(kind: str, kernel: str) -> Role:
    if kind in WEIGHTED:
        return "integer" if kernel.upper().endswith(("I8", "U8")) else "float"
    return "reformat" if kind in REFORMATS else "other"


@contextmanager
def _session(path: Path, threads: int | None, **config: object) -> Iterator[BatchedSession]:
    yield BatchedSession(*_outputs(_compiled(_read(path), path, threads, **config), 1))


def _outputs(compiled: Any, count: int) -> tuple[Outputs, int | None]:
    """The first outputs of a compiled model, and its batch size; None where that is free."""
    request, batch = compiled.create_infer_request(), compiled.input(0).get_partial_shape()[0]

    def outputs(images: NDArray[np.float32]) -> list[Any]:
        results = request.infer({0: images})
        return [results[index] for index in range(count)]

    return outputs, None if batch.is_dynamic else int(batch.get_length())


def _compiled(model: Any, path: Path, threads: int | None, **config: object) -> Any:
    """A model compiled for this processor; ``path`` names it where OpenVINO refuses."""
    # float32 outside the integer layers: a processor with AMX would otherwise compute the float reference in bfloat16.
    config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", **config}
    if threads is not None:
        config["INFERENCE_NUM_THREADS"] = threads
    try:
        return _core().compile_model(model, "CPU", config)
    except RuntimeError as refusal:
        raise StageError(f"OpenVINO cannot compile {path.name}: {refusal}", "see the node it names") from refusal


@cache
def _core() -> Any:
    """The one ``openvino.Core`` of this process.

    Each core that loads the CPU plugin sets the thread's signal stack (src/plugins/intel_cpu/src/plugin.cpp,
    ``SigAltStackSetup``). Of two that end in the order they began, the second restores the first one's, which is
    unmapped by then, and the next Ctrl-C is a segmentation fault.
    """
    return PACKAGE.load().Core()


def _read(path: Path) -> Any:
    try:
        return _core().read_model(path)
    except RuntimeError as refusal:
        raise StageError(f"OpenVINO refused {path.name}: {refusal}", "see the node it names") from refusal


def _name_by_position(model: Any) -> None:
    """Names the operations that OpenVINO inserted by their position in the graph.

    It numbers them by a counter of the whole process (``Constant_7648``), so the second IR of a process would differ
    from the first. Operations of the graph itself keep their names.
    """
    for position, node in enumerate(model.get_ordered_ops()):
        kind = node.get_type_name()
        if re.fullmatch(rf"{kind}_\d+", node.get_friendly_name()):
            node.set_friendly_name(f"{kind}.{position}")
