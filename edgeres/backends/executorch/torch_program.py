"""``torch_program``: a Q/DQ graph as a torch program for ExecuTorch, with the graph's scales, at a batch size of 1."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from edgeres.onnx_graph.graph_index import GraphIndex
from edgeres.onnx_graph.torch_operators import OPERATORS
from edgeres.onnx_graph.torch_translator import Translator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx import ModelProto
    from torch.fx import GraphModule


class TorchProgram(NamedTuple):
    """A graph in torch operators, for ``torch.export``, and the name of the ONNX node of each call, in order."""

    module: GraphModule
    names: tuple[str, ...]


def torch_program(model: ModelProto, shown: Sequence[str] = ()) -> TorchProgram:
    """The computation of a self-contained classifier of one image in torch operators.

    Weights are int8 codes where the layer can run in integers, and dequantized floats where it cannot: its data or its
    output is float, or its weight has zero-points. Codes named by ``shown``, outputs of QuantizeLinear, become outputs
    besides the logits.

    Raises:
        StageError: An unsupported operator, or form of one; the message names the node.
    """
    translator = Translator(GraphIndex.of(model), OPERATORS)
    return TorchProgram(translator.module(shown), tuple(translator.names))
