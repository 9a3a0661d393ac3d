"""ONNX Runtime backend: executes the ONNX graph itself."""

from __future__ import annotations

import json
import shutil
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, ClassVar

from edgeres.artifacts.artifact import Engine, File
from edgeres.backends.backend import KernelCounts, LayerTime
from edgeres.backends.bundle.write import onnxruntime_bundle
from edgeres.backends.loading import absent, intact
from edgeres.backends.session import PIP, TITLE, load_graph, onnx_session, options, showing_session
from edgeres.targets.isa import host_isa, saturates

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager

    import numpy as np
    from numpy.typing import NDArray
    from onnx import GraphProto

    from edgeres.artifacts.artifact import Exported
    from edgeres.backends.backend import Role, Session, Shown
    from edgeres.progress import Progress
    from edgeres.targets.target import Target

# Operator names of the weighted layers after ONNX Runtime's rewrites, from docs/OperatorKernels.md and
# docs/ContribOperators.md of github.com/microsoft/onnxruntime; they are unique without their domain.
INTEGER_KERNELS = frozenset(
    {
        "QLinearConv",
        "ConvInteger",
        "QLinearMatMul",
        "QGemm",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "DynamicQuantizeMatMul",
    }
)
FLOAT_KERNELS = frozenset(
    {"Conv", "FusedConv", "NhwcFusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"}
)
_TIMED = "_kernel_time"
"""Suffix of kernel events in a profile."""
REFORMATS = frozenset({"QuantizeLinear", "DequantizeLinear", "ReorderInput", "ReorderOutput", "Transpose", "Cast"})


def kernel_counts(kernels: Mapping[str, int], how: str) -> KernelCounts:
    """Counts executed operators as integer or float weighted layers."""
    integer = sum(count for kind, count in kernels.items() if kind in INTEGER_KERNELS)
    weighted = integer + sum(count for kind, count in kernels.items() if kind in FLOAT_KERNELS)
    return KernelCounts(integer=integer, weighted=weighted, counts=dict(sorted(kernels.items())), how=how)


@dataclass(frozen=True, slots=True)
class OnnxRuntime:
    """ONNX Runtime on a CPU: on this host, or from a bundle on a device."""

    name: ClassVar[str] = "onnxruntime"

    def missing(self) -> str | None:
        """One sentence with the pip line when ONNX Runtime is not installed here."""
        return absent("onnxruntime", TITLE, PIP)

    def build(self, exported: Exported, target: Target, out: Path, progress: Progress) -> Engine:
        """Copies the graph below ``out``; for a device, with golden inputs, preprocessing, a checker and a manifest.

        ONNX Runtime rewrites a graph for the processor it runs on, so the deployed file is the original graph. For this
        host a quantized 7x7 stem is converted to space-to-depth, which ONNX Runtime does not do itself.

        Raises:
            BackendUnavailable: ONNX Runtime is not installed.
            StageError: It rejected the graph.
        """
        with progress.task("onnxruntime", 1) as advance:
            load_graph(intact(exported.model), options(optimise=True))
            if target.build_on == "device":
                files = onnxruntime_bundle(exported, target, out)
                evidence: tuple[str, ...] = (
                    "the file that ships loads and runs in ONNX Runtime on this host's processor",
                )
            else:
                evidence = (*_placed(exported.model.path, out / "model.onnx"), *_precision(target))
                files = {"model.onnx": File.of(out / "model.onnx")}
            advance(1)
        return Engine(exported, self.name, "model.onnx", files, target.build_on == "host", evidence)

    def session(
        self, engine: Engine, target: Target, model: File | None = None, threads: int | None = None
    ) -> AbstractContextManager[Session]:
        """Opens the graph with every optimisation, as a device's ONNX Runtime does."""
        return onnx_session(intact(model or engine.files[engine.entry]), optimise=True, threads=threads)

    def concurrent(self, engine: Engine) -> bool:
        """True: sessions share no state."""
        return True

    def showing(
        self, engine: Engine, tensors: Sequence[str], threads: int | None = None
    ) -> AbstractContextManager[Shown]:
        """Opens the graph with every optimisation and more outputs; outputs of QuantizeLinear prevent no fusion."""
        return showing_session(intact(engine.exported.model), tensors, optimise=True, threads=threads)

    def integer_kernels(self, engine: Engine, target: Target) -> KernelCounts:
        """Counts the operators of the graph after ONNX Runtime's rewrites for this host's processor."""
        import onnx

        with TemporaryDirectory() as folder:
            settings = options(optimise=True)
            settings.optimized_model_filepath = str(Path(folder, "optimised.onnx"))
            load_graph(intact(engine.files[engine.entry]), settings)
            graph = onnx.load(Path(folder, "optimised.onnx"), load_external_data=False).graph
            kernels = Counter(node.op_type for node in graph.node)
        return kernel_counts(
            kernels, f"counted in the graph as ONNX Runtime rewrote it on this host{_simulated(graph)}"
        )

    def layer_times(
        self, engine: Engine, target: Target, image: NDArray[np.float32], *, threads: int, calls: int
    ) -> tuple[LayerTime, ...]:
        """Kernel times of ONNX Runtime's profiler (onnxruntime.ai/docs/performance/tune-performance/profiling)."""
        with TemporaryDirectory() as folder:
            settings = options(optimise=True, threads=threads)
            settings.enable_profiling = True
            settings.profile_file_prefix = str(Path(folder, "profile"))
            session = load_graph(intact(engine.files[engine.entry]), settings)
            for _ in range(calls):
                session.run(None, {session.get_inputs()[0].name: image})
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        taken: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith(_TIMED):
                key = (event["name"].removesuffix(_TIMED), event["args"]["op_name"])
                taken[key].append(1e-3 * event["dur"])
        found = [
            LayerTime(name=name, kind=kind, role=_role(kind), ms=median(times)) for (name, kind), times in taken.items()
        ]
        return tuple(sorted(found, key=lambda layer: -layer.ms))


def _precision(target: Target) -> tuple[str, ...]:
    """Session options that give the same results on this processor."""
    if target.scheme is None or target.scheme.reduce_range or not saturates(host_isa()):
        return ()
    return (
        "this processor has no VNNI: edgeres sets session.x64quantprecision=1; without it ONNX Runtime cuts sums of "
        "8-bit weights off at 16 bits (targets x86-avx2 and x86-avx512 have 7-bit weights instead)",
    )


def _placed(source: Path, place: Path) -> tuple[str, ...]:
    """Copies a graph, with its stem in space-to-depth form where possible; returns a note on it."""
    import onnx

    from edgeres.onnx_graph.space_to_depth import in_host_form

    form, said = in_host_form(onnx.load(str(source)))
    if not said:
        shutil.copyfile(source, place)
        return ()
    place.write_bytes(form.SerializeToString(deterministic=True))
    load_graph(place, options(optimise=True))
    return said


def _role(kind: str) -> Role:
    if kind in INTEGER_KERNELS:
        return "integer"
    return "float" if kind in FLOAT_KERNELS else "reformat" if kind in REFORMATS else "other"


def _simulated(graph: GraphProto) -> str:
    """Note on 4-bit weights, for which ONNX Runtime has no CPU kernels."""
    from onnx import TensorProto

    codes = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.INT4}
    floats = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in codes}
    count = sum(node.op_type in FLOAT_KERNELS and not floats.isdisjoint(node.input[1:2]) for node in graph.node)
    return f"; it simulates {count} layers of 4-bit weights in float" if count else ""
