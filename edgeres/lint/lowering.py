"""Lowering of a graph to a runtime version, with a numerical check that its function is unchanged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeres.errors import StageError
from edgeres.lint.fixes.proof import prove
from edgeres.onnx_graph.execute import probe
from edgeres.onnx_graph.float16 import ROUNDING
from edgeres.onnx_graph.lowering import for_runtime

if TYPE_CHECKING:
    from onnx import ModelProto

    from edgeres.targets.runtime import Runtime

_IMAGES = 2


def lowered(model: ModelProto, runtime: Runtime) -> tuple[ModelProto, str]:
    """A graph in its runtime's form, and the difference in one sentence; empty where it is the original graph.

    The form has float weights for TensorRT before 8.5, and FP16 casts for strong typing.

    Raises:
        StageError: The lowered graph has another function, which is a defect of edgeres.
    """
    changed = for_runtime(model, runtime)
    if changed is model or changed.graph == model.graph:
        return model, ""
    proof = prove(model, changed, probe(model, _IMAGES), ROUNDING if runtime.strongly_typed else 0.0)
    if not proof.holds:
        raise StageError(f"the graph for {runtime.name} differs at {proof.where!r}", "please report it")
    closeness = {
        "equal": "every tensor equal",
        "half": f"within FP16 rounding, {proof.steps:.0%} of what is allowed",
    }.get(proof.relation, f"within {proof.steps:.2g} steps")
    form = "weights in float in front of QuantizeLinear" if runtime.float_weights else "FP16 where it computes in float"
    return changed, f"the graph has the form {runtime.name} takes, {form}: {closeness}"
