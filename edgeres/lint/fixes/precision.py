"""Repair of layers that a strongly typed runtime would run in float32."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeres.lint.fixes.fix import Repair
from edgeres.onnx_graph.lowering import ROUNDING, to_half

if TYPE_CHECKING:
    from onnx import ModelProto

    from edgeres.targets.target import Target


def _half(model: ModelProto, target: Target) -> int:
    return to_half(model)


REPAIRS: tuple[Repair, ...] = (Repair(("P11",), "float parts cast to FP16", _half, ROUNDING),)
