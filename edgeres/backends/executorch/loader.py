"""ExecuTorch backend: lowers the graph to a ``.pte`` file for XNNPACK, on phones, boards and this host."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from edgeres.backends.backend import engine_path, expected_kernels, kernel_counts, layer_times
from edgeres.backends.bundle.write import graph_input
from edgeres.backends.converter import Converter
from edgeres.backends.executorch.runner import PACKAGE, open_pte, without_chatter
from edgeres.errors import StageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from numpy.typing import NDArray
    from onnx import ModelProto

    from edgeres.artifacts.artifact import Engine, KernelCounts
    from edgeres.backends.backend import LayerTime, Role
    from edgeres.backends.executorch.runner import Event, PteSession
    from edgeres.backends.session import Package

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
class ExecuTorch(Converter):
    """ExecuTorch with XNNPACK on a CPU: on this host, or from a bundle on a device."""

    name: ClassVar[str] = "executorch"
    package: ClassVar[Package] = PACKAGE
    entry: ClassVar[str] = "model.pte"

    def convert(self, model: ModelProto, shown: Sequence[str] = ()) -> tuple[bytes, tuple[str, ...]]:
        """A ``.pte`` file, with a note on the nodes that XNNPACK does not support."""
        content, left = lower(model, shown)
        note = f"XNNPACK left to ExecuTorch's portable kernels: {', '.join(left)}"
        return content, (note,) if left else ()

    def open(self, content: bytes, threads: int | None) -> AbstractContextManager[PteSession]:
        """Opens a ``.pte`` file."""
        return open_pte(content, threads)

    def integer_kernels(self, engine: Engine) -> KernelCounts:
        """Counts the kernels executed for one image, by the event tracer of ExecuTorch's runtime."""
        graph = engine.exported.model.path
        blank = np.zeros((1, *graph_input(graph).shape), np.float32)
        (events,) = _traced(engine_path(engine), blank, threads=1, calls=1) or ((),)
        portable = sum(event.name.startswith(PORTABLE) for event in events)
        how = "recorded by ExecuTorch's event tracer while it ran the file on this host; "
        how += f"{portable} of {len(events)} kernels are portable ones, the others XNNPACK's"
        counts = kernel_counts(((_kind(event), _role(event)) for event in events), how)
        if counts.weighted == 0:
            return expected_kernels(graph, "this ExecuTorch does not report what it ran")
        return counts

    def layer_times(
        self, engine: Path, image: NDArray[np.float32], *, threads: int, calls: int
    ) -> tuple[LayerTime, ...]:
        """Kernel times by the event tracer; XNNPACK does not keep the graph's names, so kernels are numbered."""
        runs = _traced(engine, image, threads=threads, calls=calls + 1)[1:]  # the first one warms up
        taken = {}
        for position, events in enumerate(zip(*runs, strict=True), start=1):
            kind = _kind(events[0])
            taken[f"{position}: {kind}", kind, _role(events[0])] = [event.ticks / 1e6 for event in events]
        return layer_times(taken)


BACKENDS = (ExecuTorch,)


def _traced(engine: Path, image: NDArray[np.float32], *, threads: int, calls: int) -> tuple[tuple[Event, ...], ...]:
    """Kernels of each of some calls of a ``.pte`` file."""
    with open_pte(engine.read_bytes(), threads, traced=True) as session:
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


def lower(model: ModelProto, shown: Sequence[str] = ()) -> tuple[bytes, tuple[str, ...]]:
    """The ``.pte`` file of a classifier, in float or with Q/DQ, with its scales and with XNNPACK as delegate.

    The batch is fixed to 1: measured on ResNet-18 at 224, eight images one by one take 6 % longer than in one call, and
    an open batch splits the graph in two and takes twice as long for one image. Codes named by ``shown`` become outputs
    besides the logits. The second result names the nodes that XNNPACK does not support, each with the portable operator
    used instead. Public interface: docs.pytorch.org/executorch, "Lowering a model to XNNPACK".

    Raises:
        BackendUnavailable: ExecuTorch is not installed.
        StageError: The graph has no form in ExecuTorch.
    """
    with without_chatter():
        exir = PACKAGE.load("exir")
        partition = PACKAGE.load("backends.xnnpack.partition.xnnpack_partitioner")
        import torch

        from edgeres.backends.executorch.torch_program import torch_program
        from edgeres.onnx_graph.execute import first_line
        from edgeres.onnx_graph.operator_counts import image_of
        from edgeres.onnx_graph.static_shapes import for_one_image

        program = torch_program(for_one_image(model), shown)
        try:
            exported = torch.export.export(program.module, (torch.zeros(1, *image_of(model)[1]),))
            edge = exir.to_edge_transform_and_lower(exported, partitioner=[partition.XnnpackPartitioner()])
            calls = (node.name for node in exported.graph.nodes if node.op == "call_function")
            left = tuple(_left(edge.exported_program(), dict(zip(calls, program.names, strict=True))))
            return bytes(edge.to_executorch().buffer), left
        except (RuntimeError, AssertionError, ValueError, TypeError) as refusal:
            what = f"ExecuTorch refused the graph: {first_line(refusal)}"
            raise StageError(what, "choose a target with another runtime") from refusal


def _left(program: Any, names: dict[str, str]) -> Iterator[str]:
    """Nodes outside every delegate, as ``<node of the graph> (<torch operator>)``."""
    for node in program.graph.nodes:
        kind = getattr(node.target, "__name__", str(node.target))
        if node.op == "call_function" and kind not in ("getitem", "executorch_call_delegate"):
            sources = (names[name] for name in _origins(node.meta.get("from_node", ())) if name in names)
            yield f"{next(sources, node.name)} ({kind.removeprefix('aten.').partition('.')[0]})"


def _origins(sources: Any) -> Iterator[str]:
    """Names of a node in earlier graphs, the latest first."""
    for source in sources:
        yield source.name
        yield from _origins(source.from_node)
