"""Brings a finished Q/DQ graph into the form that one generation of a runtime takes; the numbers stay."""

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
        runtime: ``float_weights`` asks for weights in front of QuantizeLinear, ``strongly_typed`` for FP16 where the
            graph computes in float.
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
