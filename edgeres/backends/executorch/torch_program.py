"""A Q/DQ graph as a torch program for ExecuTorch, whose quantizers carry the scales that stand in the graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeres.backends.executorch.torch_operators import OPERATORS
from edgeres.backends.executorch.torch_translator import SHIFT, Translator, zero_point
from edgeres.onnx_graph.graph_index import GraphIndex

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from onnx import ModelProto
    from torch.fx import GraphModule


@dataclass(frozen=True, slots=True)
class TorchProgram:
    """A graph in torch operators.

    Attributes:
        module: The computation, for ``torch.export`` at batch 1.
        names: For each call in it, in order, the name of the ONNX node it stands for.
    """

    module: GraphModule
    names: tuple[str, ...]


def torch_program(model: ModelProto, shown: Sequence[str] = ()) -> TorchProgram:
    """The same computation in torch operators.

    Weights go in as int8 codes where the layer can run in integers, and as the floats those codes stand for where it
    cannot: its data or its output is float, or its weight has zero-points.

    Args:
        model: A self-contained classifier with one image input.
        shown: Codes, outputs of QuantizeLinear, that are outputs besides the logits.

    Raises:
        StageError: An operator, or a form of one, that has no counterpart here; the message names the node.
    """
    translator = Translator(GraphIndex.of(model), OPERATORS)
    return TorchProgram(translator.module(shown), tuple(translator.names))


def as_in_graph(model: ModelProto, name: str, codes: NDArray[np.int8]) -> NDArray[np.generic]:
    """Codes of a torch program as the graph has them: uint8 where its quantizer says so."""
    view = GraphIndex.of(model)
    zero = zero_point(view, view.producers[name])
    return codes if zero is None or zero.dtype != np.uint8 else (codes.astype(np.int16) + SHIFT).astype(np.uint8)
