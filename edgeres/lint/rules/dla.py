"""Rules of the Deep Learning Accelerator of a Jetson, for ``edgeres lint --dla``.

Sources: NVIDIA/Deep-Learning-Accelerator-SW (README, tools/qdq-translator), the TensorRT guide's page on DLA layers and
restrictions, and the release notes of TensorRT 10.16.1 and 11.4.1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeres.lint.facts import open_inputs, quantized_weights, quantizers
from edgeres.lint.families import DLA, WITHOUT_DLA
from edgeres.lint.rule import Defect, Version, rule
from edgeres.onnx_graph.graph_index import GraphIndex, label

if TYPE_CHECKING:
    from collections.abc import Iterator

TRANSLATOR = "NVIDIA/Deep-Learning-Accelerator-SW, tools/qdq-translator"
RESTRICTIONS = "TensorRT guide, DLA layers and restrictions"
_MAX_BATCH, _MAX_SIDE = 4096, 8192


@rule(
    DLA,
    "D01",
    "E",
    "translate it with qdq-translator: a plain graph and a calibration cache",
    TRANSLATOR,
    until=(11, 0),
)
def no_explicit_pairs(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """Before TensorRT 11 a DLA takes no explicit Q/DQ."""
    for node in quantizers(view)[:1]:
        yield label(node), f"{len(quantizers(view))} Q/DQ nodes, which the DLA of this TensorRT does not take"


@rule(DLA, "D02", "E", "export with a fixed batch", RESTRICTIONS)
def static_shapes(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """A DLA takes static shapes."""
    for value, dimension in open_inputs(view):
        yield value.name, f"dimension {dimension!r} is open"


@rule(DLA, "D03", "E", "use a smaller image or batch", RESTRICTIONS)
def small_shapes(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """A DLA takes batches to 4096 and other dimensions to 8192."""
    for value in view.model.graph.input:
        sizes = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        limits = [_MAX_BATCH, *[_MAX_SIDE] * max(len(sizes) - 1, 0)]
        if any(size > limit for size, limit in zip(sizes, limits, strict=True)):
            yield value.name, f"shape {sizes}"


@rule(
    DLA, "D04", "E", "build for the GPU", "release notes of TensorRT 10.16.1 and 11.4.1", since=(10, 8), until=(11, 4)
)
def supported(view: GraphIndex, version: Version) -> Iterator[Defect]:
    """TensorRT after 10.7 and before 11.4.1 has no DLA."""
    if view.nodes:
        yield "DLA", f"TensorRT {version[0]}.{version[1]} does not run on it"


@rule(DLA, "D05", "I", "compare its answers within one step", TRANSLATOR)
def rounding(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """A DLA rounds half away from zero, ONNX half to even."""
    integer = list(quantized_weights(view, "Conv"))
    for node, _dequantizer in integer[:1]:
        what = f"{len(integer)} integer convolutions may differ from ONNX by one step where a tie is rounded"
        yield label(node), what


@rule(WITHOUT_DLA, "D06", "E", "build for the GPU", "NVIDIA data sheets (research of devices)")
def there_is_one(view: GraphIndex, _: Version) -> Iterator[Defect]:
    """The module has a DLA."""
    if view.nodes:
        yield "DLA", "this module has none"
