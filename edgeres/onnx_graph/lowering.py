"""Lowering of a Q/DQ graph to the form of a runtime version; values are unchanged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeres.onnx_graph.float16 import to_half
from edgeres.onnx_graph.stored_weights import float_weights

if TYPE_CHECKING:
    from onnx import ModelProto

    from edgeres.targets.runtime import Runtime


def for_runtime(model: ModelProto, runtime: Runtime) -> ModelProto:
    """A copy in the runtime's form; the model itself where it has that form already.

    Args:
        model: A graph in the runtime's opset.
        runtime: ``float_weights`` requires weights before QuantizeLinear, ``strongly_typed`` FP16 where the graph
            computes in float.
    """
    if not (runtime.float_weights or runtime.strongly_typed):
        return model
    changed = type(model)()
    changed.CopyFrom(model)
    changed.graph.ClearField("value_info")
    if runtime.float_weights:
        float_weights(changed)
    if runtime.strongly_typed:
        to_half(changed)
    return changed
