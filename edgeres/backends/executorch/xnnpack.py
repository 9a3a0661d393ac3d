"""Lowering of an ONNX graph to a ``.pte`` file, with XNNPACK as delegate for every operator it supports.

Public interface: docs.pytorch.org/executorch, "Lowering a model to XNNPACK" (``to_edge_transform_and_lower``).
"""

from __future__ import annotations

import logging
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgeres.backends.loading import load
from edgeres.errors import StageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from onnx import ModelProto

TITLE, PIP = "ExecuTorch", "'edgeres[executorch]'"


@dataclass(frozen=True, slots=True)
class Lowered:
    """A network in ExecuTorch's file format, for one image at a time.

    Attributes:
        data: The ``.pte`` file.
        left: Nodes of the graph that XNNPACK does not support, each with the portable operator used instead.
    """

    data: bytes
    left: tuple[str, ...]


def lower(model: ModelProto, shape: tuple[int, int, int], shown: Sequence[str] = ()) -> Lowered:
    """Lowers a graph to ExecuTorch, with its scales.

    The batch is fixed to 1: measured on ResNet-18 at 224, eight images one by one take 6 % longer than in one call, and
    an open batch splits the graph in two and takes twice as long for one image.

    Args:
        model: A classifier, in float or with Q/DQ.
        shape: ``(C, H, W)`` of an image.
        shown: Codes that become outputs besides the logits.

    Raises:
        BackendUnavailable: ExecuTorch is not installed.
        StageError: The graph has no form in ExecuTorch.
    """
    with without_chatter():
        exir = load("executorch.exir", TITLE, PIP)
        partition = load("executorch.backends.xnnpack.partition.xnnpack_partitioner", TITLE, PIP)
        import torch

        from edgeres.backends.executorch.torch_program import torch_program

        program = torch_program(model, shown)
        try:
            exported = torch.export.export(program.module, (torch.zeros(1, *shape),))
            edge = exir.to_edge_transform_and_lower(exported, partitioner=[partition.XnnpackPartitioner()])
            calls = (node.name for node in exported.graph.nodes if node.op == "call_function")
            names = dict(zip(calls, program.names, strict=True))
            left = tuple(_left(edge.exported_program(), names))
            data = bytes(edge.to_executorch().buffer)
        except (RuntimeError, AssertionError, ValueError, TypeError) as refusal:
            first = (str(refusal).splitlines() or [type(refusal).__name__])[0]
            raise StageError(
                f"ExecuTorch refused the graph: {first}", "choose a target with another runtime"
            ) from refusal
    return Lowered(data, left)


@contextmanager
def without_chatter() -> Iterator[None]:
    """Silences warnings of torchao, torch and ExecuTorch while they are imported and while they lower a graph.

    The warnings concern optional GPU libraries and deprecated calls among themselves. The partitioner's module also
    adds a handler to the root logger, which is removed.
    """
    root = logging.getLogger()
    handlers, disabled = list(root.handlers), root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(disabled)
        root.handlers[:] = handlers


def _left(program: Any, names: dict[str, str]) -> Iterator[str]:
    """Nodes outside every delegate, as ``<node of the graph> (<torch operator>)``."""
    for node in program.graph.nodes:
        kind = getattr(node.target, "__name__", str(node.target))
        if node.op == "call_function" and kind not in ("getitem", "executorch_call_delegate"):
            origin = next(
                (names[name] for name in _origins(node.meta.get("from_node", ())) if name in names), node.name
            )
            yield f"{origin} ({kind.removeprefix('aten.').partition('.')[0]})"


def _origins(sources: Any) -> Iterator[str]:
    """Names of a node in earlier graphs, the latest first."""
    for source in sources:
        yield source.name
        yield from _origins(source.from_node)
