"""ExecuTorch backend: compiles the graph to a ``.pte`` file for XNNPACK, on phones, boards and this host."""

from __future__ import annotations

import re
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from statistics import median
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from edgeres.artifacts.artifact import Engine, File
from edgeres.backends.backend import KernelCounts, LayerTime
from edgeres.backends.bundle.golden import compared, graph_input
from edgeres.backends.bundle.write import executorch_bundle
from edgeres.backends.executorch.pte import open_pte
from edgeres.backends.executorch.xnnpack import PIP, TITLE, Lowered, lower
from edgeres.backends.loading import absent, intact, load
from edgeres.backends.session import ShownSession
from edgeres.backends.tensorrt.expected import expected_kernels

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from numpy.typing import NDArray

    from edgeres.artifacts.artifact import Exported
    from edgeres.backends.backend import Role, Session, Shown
    from edgeres.backends.executorch.etdump import Event
    from edgeres.data.preprocess import Preprocess
    from edgeres.progress import Progress
    from edgeres.targets.target import Target

ENTRY = "model.pte"
PORTABLE = "native_call_"
# XNNPACK's names of weighted operators (XNNPACK/src/operator-utils.c) and ExecuTorch's of its portable kernels; QC8 and
# QS8 are int8 data with int8 weights, per channel or per tensor.
_WEIGHTED = re.compile(
    r"(Convolution|Deconvolution|Fully Connected|Batch Matrix Multiply) \(|"
    r"native_call_(convolution|addmm|linear|b?mm)\b"
)
_INTEGER = re.compile(r"\bQ[CS]8\b")
_REFORMAT = re.compile(r"(Convert|Transpose|Copy|Static Reshape|Constant Pad)\b")


@dataclass(frozen=True, slots=True)
class ExecuTorch:
    """ExecuTorch with XNNPACK on a CPU: on this host, or from a bundle on a device."""

    name: ClassVar[str] = "executorch"

    def missing(self) -> str | None:
        """One sentence with the pip line when ExecuTorch is not installed here."""
        return absent("executorch", TITLE, PIP)

    def build(self, exported: Exported, target: Target, out: Path, progress: Progress) -> Engine:
        """Writes ``model.pte`` below ``out`` and compares golden outputs with the graph's; for a device, the bundle.

        Raises:
            BackendUnavailable: ExecuTorch is not installed.
            StageError: The graph has no form in ExecuTorch, or golden outputs differ.
        """
        load("executorch", TITLE, PIP)
        with progress.task("executorch", 2) as advance:
            host = target.build_on == "host"
            lowered, forms = _lower(intact(exported.model), exported.metadata.preprocess, here=host)
            advance(1)
            with open_pte(lowered.data, 1) as session:
                evidence = [compared(session, exported, ENTRY, TITLE), *forms]
            if not host:
                files = executorch_bundle(exported, target, out, ENTRY, lowered.data)
                evidence.append("it ran on this host's processor, not on the device's")
            else:
                (out / ENTRY).write_bytes(lowered.data)
                files = {ENTRY: File.of(out / ENTRY)}
            if lowered.left:
                evidence.append(f"XNNPACK left to ExecuTorch's portable kernels: {', '.join(lowered.left)}")
            advance(1)
        return Engine(exported, self.name, ENTRY, files, host, tuple(evidence))

    def session(
        self, engine: Engine, target: Target, model: File | None = None, threads: int | None = None
    ) -> AbstractContextManager[Session]:
        """Opens the deployed file, or an ONNX graph of the same run converted to that format."""
        if model is None:
            return open_pte(intact(engine.files[engine.entry]).read_bytes(), threads)
        return _open_graph(model, engine.metadata.preprocess, threads)

    @contextmanager
    def showing(self, engine: Engine, tensors: Sequence[str], threads: int | None = None) -> Iterator[Shown]:
        """Lowers the graph with codes as additional outputs, which are converted back to the graph's type."""
        import onnx

        path = intact(engine.exported.model)
        model = onnx.load(str(path))
        data = lower(model, graph_input(path, engine.metadata.preprocess).shape, tensors).data
        with open_pte(data, threads) as session:
            from edgeres.backends.executorch.torch_program import as_in_graph

            def run(image: NDArray[np.float32]) -> list[NDArray[np.generic]]:
                logits, *codes = session.outputs(image)
                return [logits, *(as_in_graph(model, *shown) for shown in zip(tensors, codes, strict=True))]

            yield ShownSession(run, tensors, 1)

    def integer_kernels(self, engine: Engine, target: Target) -> KernelCounts:
        """Counts the kernels executed for one image, by the event tracer of ExecuTorch's runtime."""
        path = engine.exported.model.path
        blank = np.zeros((1, *graph_input(path, engine.metadata.preprocess).shape), np.float32)
        events = [event for run in _runs(engine, blank, threads=1, calls=1) for event in run]
        weighted = [event.name for event in events if _WEIGHTED.match(event.name)]
        if not weighted:
            return expected_kernels(path, "this ExecuTorch does not report what it ran")
        portable = sum(event.name.startswith(PORTABLE) for event in events)
        how = "recorded by ExecuTorch's event tracer while it ran the file on this host; "
        how += f"{portable} of {len(events)} kernels are portable ones, the others XNNPACK's"
        return KernelCounts(
            integer=sum(_INTEGER.search(name) is not None for name in weighted),
            weighted=len(weighted),
            counts=dict(sorted(Counter(map(_kind, events)).items())),
            how=how,
        )

    def layer_times(
        self, engine: Engine, target: Target, image: NDArray[np.float32], *, threads: int, calls: int
    ) -> tuple[LayerTime, ...]:
        """Kernel times by the event tracer; XNNPACK does not keep the graph's names, so kernels are numbered."""
        runs = _runs(engine, image, threads=threads, calls=calls + 1)[1:]  # the first one warms up
        layers = [
            LayerTime(
                name=f"{position}: {_kind(events[0])}",
                kind=_kind(events[0]),
                role=_role(events[0]),
                ms=median(event.ticks for event in events) / 1e6,
            )
            for position, events in enumerate(zip(*runs, strict=True), start=1)
        ]
        return tuple(sorted(layers, key=lambda layer: -layer.ms))


def _runs(engine: Engine, image: NDArray[np.float32], *, threads: int, calls: int) -> tuple[tuple[Event, ...], ...]:
    """Kernels of each of some calls of the engine."""
    with open_pte(intact(engine.files[engine.entry]).read_bytes(), threads, traced=True) as session:
        for _ in range(calls):
            session.run(image)
        return session.trace()


def _kind(event: Event) -> str:
    """A kernel's name without its number."""
    return re.sub(r" #\d+$", "", event.name.removeprefix(PORTABLE))


def _role(event: Event) -> Role:
    if _WEIGHTED.match(event.name):
        return "integer" if _INTEGER.search(event.name) else "float"
    return "reformat" if _REFORMAT.match(event.name) else "other"


@contextmanager
def _open_graph(model: File, preprocess: Preprocess, threads: int | None) -> Iterator[Session]:
    with open_pte(_graph_data(intact(model), model.sha256, preprocess), threads) as session:
        yield session


@lru_cache(maxsize=1)
def _graph_data(path: Path, sha256: str, preprocess: Preprocess) -> bytes:
    """Converted float reference, cached because it is opened twice in a row, for its predictions and its latency."""
    return _lower(path, preprocess, here=True)[0].data


def _lower(path: Path, preprocess: Preprocess, *, here: bool) -> tuple[Lowered, tuple[str, ...]]:
    """The lowered graph with notes on its form, which is the host form where it was measured to be faster."""
    import onnx

    from edgeres.onnx_graph.space_to_depth import in_host_form

    model = onnx.load(str(path))
    form, said = in_host_form(model) if here else (model, ())
    return lower(form, graph_input(path, preprocess).shape), said
