"""``torch_program``: a Q/DQ graph as a torch program for ExecuTorch, with the graph's scales."""

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
        names: Name of the ONNX node of each call, in order.
    """

    module: GraphModule
    names: tuple[str, ...]


def torch_program(model: ModelProto, shown: Sequence[str] = ()) -> TorchProgram:
    """The computation of an ONNX graph in torch operators.

    Weights are int8 codes where the layer can run in integers, and dequantized floats where it
    cannot: its data or its output is float, or its weight has zero-points.

    Args:
        model: A self-contained classifier with one image input.
        shown: Codes, outputs of QuantizeLinear, that become outputs besides the logits.

    Raises:
        StageError: An unsupported operator, or form of one; the message names the node.
    """
    translator = Translator(GraphIndex.of(model), OPERATORS)
    return TorchProgram(translator.module(shown), tuple(translator.names))


def as_in_graph(model: ModelProto, name: str, codes: NDArray[np.int8]) -> NDArray[np.generic]:
    """Codes of a torch program in the graph's type: uint8 where its quantizer has it."""
    view = GraphIndex.of(model)
    zero = zero_point(view, view.producers[name])
    return codes if zero is None or zero.dtype != np.uint8 else (codes.astype(np.int16) + SHIFT).astype(np.uint8)
