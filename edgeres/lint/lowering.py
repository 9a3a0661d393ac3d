"""Lowering of a graph to a runtime version, with a numerical check that its function is unchanged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeres.errors import StageError
from edgeres.lint.fixes.proof import Proof, prove
from edgeres.onnx_graph.execute import probe
from edgeres.onnx_graph.lowering import ROUNDING, for_runtime

if TYPE_CHECKING:
    from onnx import ModelProto

    from edgeres.targets.runtime import Runtime

_IMAGES = 2


@dataclass(frozen=True, slots=True)
class Shipped:
    """The graph that a runtime gets.

    Attributes:
        model: The graph.
        proof: Numerical comparison with the original graph; None where it is that graph.
        note: Description of the difference, one sentence; empty where there is none.
    """

    model: ModelProto
    proof: Proof | None = None
    note: str = ""


def shipped(model: ModelProto, runtime: Runtime) -> Shipped:
    """A graph in its runtime's form: float weights for TensorRT before 8.5, FP16 casts for strong typing.

    Raises:
        StageError: The lowered graph has another function, which is a defect of edgeres.
    """
    formed = for_runtime(model, runtime)
    if formed is model or formed.graph == model.graph:
        return Shipped(model)
    proof = prove(model, formed, probe(model, _IMAGES), ROUNDING if runtime.strongly_typed else 0.0)
    if not proof.holds:
        raise StageError(f"the graph for {runtime.name} differs at {proof.where!r}", "please report it")
    told = {
        "equal": "every tensor equal",
        "half": f"within FP16 rounding, {proof.steps:.0%} of what is allowed",
    }.get(proof.relation, f"within {proof.steps:.2g} steps")
    form = "weights in float in front of QuantizeLinear" if runtime.float_weights else "FP16 where it computes in float"
    return Shipped(formed, proof, f"the graph has the form {runtime.name} takes, {form}: {told}")
