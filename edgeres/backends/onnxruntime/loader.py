"""ONNX Runtime backends: the ONNX graph itself, and an optimised ``.ort`` file for phones."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, ClassVar

from edgeres.artifacts.artifact import Engine, File
from edgeres.backends.backend import Backend, engine_path, intact, kernel_counts, layer_times
from edgeres.backends.bundle.write import CHECK, write_bundle
from edgeres.backends.onnxruntime.ort_format import canonical, operators, required_operators
from edgeres.backends.session import PACKAGE, load_graph, onnx_session, options, showing_session
from edgeres.targets.host import host_isa, saturates

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from contextlib import AbstractContextManager

    import numpy as np
    from numpy.typing import NDArray
    from onnx import GraphProto

    from edgeres.artifacts.artifact import Exported, KernelCounts
    from edgeres.backends.backend import LayerTime, Role
    from edgeres.backends.session import Package, Session, ShownSession
    from edgeres.progress import Progress
    from edgeres.targets.target import Target

# Operator names of the weighted layers after ONNX Runtime's rewrites, from docs/OperatorKernels.md and
# docs/ContribOperators.md of github.com/microsoft/onnxruntime; they are unique without their domain.
_INTEGER_KERNELS = (
    "QLinearConv ConvInteger QLinearMatMul QGemm MatMulInteger MatMulIntegerToFloat DynamicQuantizeMatMul"
)
_FLOAT_KERNELS = "Conv FusedConv NhwcFusedConv ConvTranspose Gemm FusedGemm MatMul FusedMatMul"
_REFORMATS = "QuantizeLinear DequantizeLinear ReorderInput ReorderOutput Transpose Cast"
_ROLES: dict[str, Role] = {
    **dict.fromkeys(_INTEGER_KERNELS.split(), "integer"),
    **dict.fromkeys(_FLOAT_KERNELS.split(), "float"),
    **dict.fromkeys(_REFORMATS.split(), "reformat"),
}
_TIMED = "_kernel_time"
"""Suffix of kernel events in a profile."""
# Blocked layouts exist on x86-64 only: a file optimised with them does not run on phones.
# (onnxruntime/tools/python/convert_onnx_models_to_ort.py disables the same rewrite.)
NOT_FOR_PHONES = ("NchwcTransformer",)


def operator_counts(kinds: Iterable[str], how: str) -> KernelCounts:
    """Counts executed operators, by their operator types, as integer or float weighted layers."""
    return kernel_counts(((kind, _ROLES.get(kind, "other")) for kind in kinds), how)


class _OnnxRuntime(Backend):
    """What ONNX Runtime has in common on a CPU and on a phone."""

    package: ClassVar[Package] = PACKAGE

    def session(
        self, graph: Path, target: Target, *, engine: Path | None = None, threads: int | None = None
    ) -> AbstractContextManager[Session]:
        """Opens a file with every optimisation, as a device's ONNX Runtime does."""
        return onnx_session(engine or graph, optimise=True, threads=threads)

    def concurrent(self, engine: Engine) -> bool:
        """True: sessions share no state."""
        return True


@dataclass(frozen=True, slots=True)
class OnnxRuntime(_OnnxRuntime):
    """ONNX Runtime on a CPU: on this host, or from a bundle on a device."""

    name: ClassVar[str] = "onnxruntime"

    def build(self, exported: Exported, target: Target, out: Path, progress: Progress) -> Engine:
        """Copies the graph below ``out``; for a device, with golden inputs, preprocessing, a checker and a manifest.

        ONNX Runtime rewrites a graph for the processor it runs on, so the deployed file is the original graph. For this
        host a quantized 7x7 stem is converted to space-to-depth, which ONNX Runtime does not do itself.
        """
        entry, graph = "model.onnx", intact(exported.model)
        with progress.task("onnxruntime", 1) as advance:
            load_graph(graph, options(optimise=True))
            if target.build_on == "device":
                own, readme = {entry: graph.read_bytes()}, "README.onnxruntime.md"
                files = write_bundle(exported, target, out, entry=entry, own=own, readme=readme, commands=CHECK)
                evidence: tuple[str, ...] = (
                    "the file that ships loads and runs in ONNX Runtime on this host's processor",
                )
            else:
                evidence = (*_placed(graph, out / entry), *_precision(target))
                files = {entry: File.of(out / entry)}
            advance(1)
        return Engine(exported, self.name, entry, files, target.build_on == "host", evidence)

    def showing(
        self, graph: Path, tensors: Sequence[str], threads: int | None = None
    ) -> AbstractContextManager[ShownSession]:
        """Opens the graph with every optimisation and more outputs; outputs of QuantizeLinear prevent no fusion."""
        return showing_session(graph, tensors, optimise=True, threads=threads)

    def integer_kernels(self, engine: Engine) -> KernelCounts:
        """Counts the operators of the graph after ONNX Runtime's rewrites for this host's processor."""
        import onnx

        with TemporaryDirectory() as folder:
            settings = options(optimise=True)
            settings.optimized_model_filepath = str(Path(folder, "optimised.onnx"))
            load_graph(engine_path(engine), settings)
            graph = onnx.load(Path(folder, "optimised.onnx"), load_external_data=False).graph
        how = f"counted in the graph as ONNX Runtime rewrote it on this host{_simulated(graph)}"
        return operator_counts((node.op_type for node in graph.node), how)

    def layer_times(
        self, engine: Path, image: NDArray[np.float32], *, threads: int, calls: int
    ) -> tuple[LayerTime, ...]:
        """Kernel times of ONNX Runtime's profiler (onnxruntime.ai/docs/performance/tune-performance/profiling)."""
        with TemporaryDirectory() as folder:
            settings = options(optimise=True, threads=threads)
            settings.enable_profiling = True
            settings.profile_file_prefix = str(Path(folder, "profile"))
            session = load_graph(engine, settings)
            for _ in range(calls):
                session.run(None, {session.get_inputs()[0].name: image})
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        taken: defaultdict[tuple[str, str, Role], list[float]] = defaultdict(list)
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith(_TIMED):
                kind = event["args"]["op_name"]
                taken[event["name"].removesuffix(_TIMED), kind, _ROLES.get(kind, "other")].append(1e-3 * event["dur"])
        return layer_times(taken)


@dataclass(frozen=True, slots=True)
class OnnxRuntimeMobile(_OnnxRuntime):
    """ONNX Runtime on a phone: a ``.ort`` file in a bundle, with the operators that an app's build needs for it."""

    name: ClassVar[str] = "onnxruntime_mobile"

    def build(self, exported: Exported, target: Target, out: Path, progress: Progress) -> Engine:
        """Writes ``model.ort``, ``required_operators.config``, golden outputs and a manifest below ``out``."""
        entry = "model.ort"
        with progress.task("onnxruntime mobile", 2) as advance, TemporaryDirectory() as folder:
            settings, saved = options(optimise=True), Path(folder, entry)
            settings.optimized_model_filepath = str(saved)
            settings.add_session_config_entry("session.save_model_format", "ORT")
            signed = target.scheme is not None and target.scheme.signed
            settings.add_session_config_entry("session.qdqisint8allowed", "1" if signed else "0")
            load_graph(intact(exported.model), settings, NOT_FOR_PHONES)
            advance(1)
            content = canonical(saved.read_bytes())
            own = {entry: content, "required_operators.config": required_operators(operators(content)).encode()}
            files = write_bundle(exported, target, out, entry=entry, own=own, readme="README.mobile.md")
            load_graph(files[entry].path, options(optimise=True))
            advance(1)
        evidence = (
            "the .ort file that ships loads and runs in ONNX Runtime on this host's processor, not on a phone's",
        )
        return Engine(exported, self.name, entry, files, runs_here=False, evidence=evidence)

    def integer_kernels(self, engine: Engine) -> KernelCounts:
        """Counts the operators in the ``.ort`` file, whose optimisations are final."""
        kinds = (operator.kind for operator in operators(engine_path(engine).read_bytes()))
        return operator_counts(kinds, "counted in the .ort file that ships")


BACKENDS = (OnnxRuntime, OnnxRuntimeMobile)


def _precision(target: Target) -> tuple[str, ...]:
    """Session options that give the same results on this processor."""
    if target.scheme is None or target.scheme.reduce_range or not saturates(host_isa()):
        return ()
    return (
        "this processor has no VNNI: edgeres sets session.x64quantprecision=1; without it ONNX Runtime cuts sums of "
        "8-bit weights off at 16 bits (targets x86-avx2 and x86-avx512 have 7-bit weights instead)",
    )


def _placed(graph: Path, place: Path) -> tuple[str, ...]:
    """Copies a graph, with its stem in space-to-depth form where possible; returns a note on it."""
    import onnx

    from edgeres.onnx_graph.lowering import in_host_form

    form, notes = in_host_form(onnx.load(str(graph)))
    if not notes:
        shutil.copyfile(graph, place)
        return ()
    place.write_bytes(form.SerializeToString(deterministic=True))
    load_graph(place, options(optimise=True))
    return notes


def _simulated(graph: GraphProto) -> str:
    """Note on 4-bit weights, for which ONNX Runtime has no CPU kernels."""
    from onnx import TensorProto

    codes = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.INT4}
    floats = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in codes}
    layers = (node for node in graph.node if _ROLES.get(node.op_type) == "float")
    count = sum(not floats.isdisjoint(node.input[1:2]) for node in layers)
    return f"; it simulates {count} layers of 4-bit weights in float" if count else ""
