"""``Backend``: the adapter of one runtime, and its optional capabilities."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from statistics import median
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, runtime_checkable

from edgeres.artifacts.artifact import KernelCounts
from edgeres.errors import StageError
from edgeres.settings import settings, sha256_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from edgeres.artifacts.artifact import Engine, Exported, File
    from edgeres.backends.session import Package, Session, ShownSession
    from edgeres.progress import Progress
    from edgeres.targets.target import Target

Role = Literal["integer", "float", "reformat", "other"]
NarrowFloat = Literal["bfloat16", "float16"]


def intact(file: File) -> Path:
    """The path of a file, after checking its sha256.

    Raises:
        StageError: The file is missing or was changed: a native runtime must not read it.
    """
    if not file.path.is_file():
        raise StageError(f"{file.path} is missing", "build again")
    if sha256_file(file.path) != file.sha256:
        raise StageError(f"{file.path} changed after it was made (sha256 differs)", "build again")
    return file.path


def engine_path(engine: Engine) -> Path:
    """The path of an engine's entry, after checking the sha256 of all its files; see ``intact``."""
    return {name: intact(file) for name, file in engine.files.items()}[engine.entry]


@settings
class LayerTime:
    """Time of one executed kernel, from the runtime's profiler.

    Attributes:
        name: The runtime's name of the kernel, which begins with the layer's name in the graph.
        kind: The runtime's name of the operator, and of the kernel where the runtime reports it.
        role: A weighted layer in ``integer`` or in ``float``; a ``reformat`` changes layout or type, which includes
            quantizing and dequantizing; ``other`` is the rest.
        ms: Median over the profiled calls. Profilers slow down execution: compare kernels only with each other.
    """

    name: str
    kind: str
    role: Role
    ms: float


def layer_times(taken: Mapping[tuple[str, str, Role], Sequence[float]]) -> tuple[LayerTime, ...]:
    """Median times of kernels, by name, kind and role, from those of their calls in ms; the slowest first."""
    rows = [LayerTime(name=name, kind=kind, role=role, ms=median(times)) for (name, kind, role), times in taken.items()]
    return tuple(sorted(rows, key=lambda row: -row.ms))


def kernel_counts(kernels: Iterable[tuple[str, Role]], how: str) -> KernelCounts:
    """Counts executed kernels by name, and weighted layers: the kernels with the role ``integer`` or ``float``."""
    executed = list(kernels)
    names, roles = Counter(name for name, _ in executed), Counter(role for _, role in executed)
    weighted = roles["integer"] + roles["float"]
    return KernelCounts(integer=roles["integer"], weighted=weighted, counts=dict(sorted(names.items())), how=how)


class Backend(ABC):
    """Adapter of one runtime; ``registry`` says where it is found by its ``name`` in target files."""

    name: ClassVar[str]
    package: ClassVar[Package]

    def missing(self) -> str | None:
        """Why the runtime is not available, with the pip command; None when it is installed."""
        return self.package.missing()

    @abstractmethod
    def build(self, exported: Exported, target: Target, out: Path, progress: Progress) -> Engine:
        """Builds an engine or a device bundle from a graph; all files are written below the empty folder ``out``.

        Raises:
            BackendUnavailable: The runtime is needed to build and is missing.
            StageError: The runtime rejected the graph; the message quotes it.
        """

    @abstractmethod
    def session(
        self, graph: Path, target: Target, *, engine: Path | None = None, threads: int | None = None
    ) -> AbstractContextManager[Session]:
        """Opens the main file of an engine, or, where ``engine`` is None, an ONNX graph by itself.

        Where the device is not this host, the session simulates it on the graph. Callers check the files' sha256, with
        ``engine_session`` or ``intact``; ``threads`` None takes the runtime's default.

        Raises:
            BackendUnavailable: The runtime is not installed.
            StageError: The runtime rejected the file; the message quotes it.
        """

    def engine_session(
        self, engine: Engine, target: Target, threads: int | None = None
    ) -> AbstractContextManager[Session]:
        """Opens a built engine, after checking the sha256 of its files and of its graph."""
        return self.session(intact(engine.exported.model), target, engine=engine_path(engine), threads=threads)

    @abstractmethod
    def integer_kernels(self, engine: Engine) -> KernelCounts:
        """Counts integer kernels, by the runtime itself where it reports them."""

    def concurrent(self, engine: Engine) -> bool:
        """Whether sessions of this engine share no state, so that they may run concurrently, each on one thread.

        A single thread gives the same bits on any number of cores, and many small images are faster in parallel than
        one after the other with their layers split over threads; on a GPU sessions would wait for each other.
        """
        return False

    def narrow_floats(self) -> tuple[NarrowFloat, ...]:
        """16-bit types with kernels on this processor, in which a float graph can be computed."""
        return ()

    def narrow_session(self, graph: Path, precision: NarrowFloat, threads: int) -> AbstractContextManager[Session]:
        """Opens a float graph in one of ``narrow_floats``."""
        raise StageError(f"{self.name} computes nothing in {precision}", "")


@runtime_checkable
class Profiled(Protocol):
    """A backend whose runtime reports the time of each kernel."""

    def layer_times(
        self, engine: Path, image: NDArray[np.float32], *, threads: int, calls: int
    ) -> tuple[LayerTime, ...]:
        """Kernels of an engine's main file on one image ``[1,C,H,W]``, the slowest first."""


@runtime_checkable
class ShowsTensors(Protocol):
    """A backend whose runtime can return tensors inside a graph."""

    def showing(
        self, graph: Path, tensors: Sequence[str], threads: int | None = None
    ) -> AbstractContextManager[ShownSession]:
        """Opens an ONNX graph with some of its tensors as additional outputs.

        A runtime may use other kernels then: an output has to be stored, so nothing can be fused across it.
        """


def expected_kernels(graph: Path, why: str) -> KernelCounts:
    """Weighted layers of a graph whose data and weight both come from DequantizeLinear.

    In TensorRT only those run in integers, except 4-bit weights, which it computes in float; an add is fused into the
    convolution before it where its other input, the identity, is dequantized too (TensorRT developer guide, Q/DQ
    layer-placement recommendations and "INT4 weight-only quantization"). ``why`` says why the runtime reports none.
    """
    import onnx

    from edgeres.onnx_graph.graph_index import COUNTED

    model = onnx.load(graph, load_external_data=False).graph
    narrow = {tensor.name for tensor in model.initializer if tensor.data_type == onnx.TensorProto.INT4}
    dequantized = {
        node.output[0] for node in model.node if node.op_type == "DequantizeLinear" and node.input[0] not in narrow
    }
    weighted = [node for node in model.node if node.op_type in COUNTED]
    adds = [node for node in model.node if node.op_type == "Add"]
    fused = sum(not dequantized.isdisjoint(node.input) for node in adds)
    how = f"expected from the graph, {fused} of {len(adds)} residual adds among them; {why}"
    integer = sum(dequantized.issuperset(node.input[:2]) for node in weighted)
    return KernelCounts(integer=integer, weighted=len(weighted), counts={}, how=how)
