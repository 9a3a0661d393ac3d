"""What keeps ONNX Runtime's CPU provider from running a Q/DQ graph in integers.

Source: ``core/optimizer/qdq_transformer/selectors_actions`` of microsoft/onnxruntime (which node groups become integer
operators), confirmed by counting the kernels of optimised graphs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from onnx import TensorProto

from edgeres.lint import tensorrt_nodes as nodes
from edgeres.lint.facts import weight_dequantizer
from edgeres.lint.rule import Defect, Rule, Version, rule
from edgeres.onnxfile.view import View, label

if TYPE_CHECKING:
    from collections.abc import Iterator

SELECTORS = "onnxruntime, core/optimizer/qdq_transformer/selectors_actions"


@rule("O01", "W", "use uint8 activations (scheme.signed: false)", SELECTORS)
def unsigned_adds(view: View, _: Version) -> Iterator[Defect]:
    """Adds read uint8."""
    for node in view.of_type("Add"):
        for name in node.input:
            pair = view.pair(name)
            zero_point = view.constants.get(pair[0].input[2]) if pair is not None and len(pair[0].input) > 2 else None
            if zero_point is not None and zero_point.data_type == TensorProto.INT8:
                yield label(node), "int8 inputs: the add stays in float"
                break


@rule("O02", "W", "quantize data, weight and output", SELECTORS)
def quantized_outputs(view: View, _: Version) -> Iterator[Defect]:
    """Convolutions are integer on both sides."""
    for node in view.of_type("Conv"):
        if weight_dequantizer(view, node) is None:
            continue
        if view.pair(node.input[0]) is None:
            yield label(node), "its data is float: it runs in float"
            continue
        output = node.output[0]
        readers = view.consumers(output)
        if len(readers) == 1 and readers[0][0].op_type in ("Relu", "Clip"):
            readers = view.consumers(readers[0][0].output[0])
        if readers and not any(reader.op_type == "QuantizeLinear" for reader, _index in readers):
            yield label(node), "its output is not quantized: it runs in float"


RULES: tuple[Rule, ...] = (
    *(replace(entry, source=SELECTORS) for entry in (nodes.positive, nodes.equal_volumes, nodes.channel_count)),
    *(replace(entry, severity="W", source=SELECTORS) for entry in (nodes.per_tensor_activations, nodes.paired)),
    unsigned_adds,
    quantized_outputs,
)
