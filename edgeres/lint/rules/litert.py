"""Rules for LiteRT: supported operations, and integer execution of a Q/DQ graph."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from edgeres.backends.litert.tflite.translate import translate
from edgeres.errors import EdgeresError
from edgeres.lint.families import LITERT
from edgeres.lint.rule import Defect, Version, rule
from edgeres.lint.rules import onnxruntime

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgeres.onnx_graph.graph_index import GraphIndex

SPECIFICATION = "ai.google.dev/edge/litert/models/quantization_spec"


@rule(LITERT, "L01", "E", "take a runtime that reads ONNX: the same target without ':litert'", SPECIFICATION)
def expressible(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Every operation has a form in a .tflite file."""
    try:
        translate(view.model)
    except EdgeresError as refusal:
        where, _colon, what = refusal.what.partition(": ")
        yield (where, what) if what else ("graph", where)


quantized_outputs = replace(onnxruntime.quantized_outputs, family=LITERT, id="L02", source=SPECIFICATION)
static = replace(onnxruntime.static, family=LITERT, id="L03", source=SPECIFICATION)
