"""Resize of images in LiteRT: RESIZE_BILINEAR and RESIZE_NEAREST_NEIGHBOR, whose pixels lie as ONNX's do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeres.backends.litert.tflite.tensor_table import OTHER_RUNTIME
from edgeres.errors import StageError
from edgeres.onnx_graph.graph_index import attribute, label

if TYPE_CHECKING:
    from onnx import NodeProto

    from edgeres.backends.litert.tflite.tensor_table import TensorTable

_CENTRES = 3
"""Version of both operators that has half_pixel_centers."""
_PLACES = {
    b"half_pixel": "halfPixelCenters",
    b"pytorch_half_pixel": "halfPixelCenters",
    b"align_corners": "alignCorners",
}
"""Option for ONNX's coordinate_transformation_mode; pytorch_half_pixel differs only for an output of one pixel."""


def resize(tensors: TensorTable, node: NodeProto) -> None:
    """A Resize of height and width, on codes where all readers read codes of the input's grid."""
    data, output = node.input[0], node.output[0]
    source, target = tensors.shape(data), tensors.shape(output)
    mode = attribute(node, "mode", b"nearest")
    place = attribute(node, "coordinate_transformation_mode", b"half_pixel")
    plain = place == b"asymmetric"
    if len(source) != 4 or source[:2] != target[:2] or not (plain or place in _PLACES):
        raise StageError(f"{label(node)}: a Resize of {source} to {target}, {place.decode()}", OTHER_RUNTIME)
    if place == b"pytorch_half_pixel" and 1 in target[2:] and source[2:] != target[2:]:
        raise StageError(f"{label(node)}: a Resize to one pixel by pytorch_half_pixel", OTHER_RUNTIME)
    floor = attribute(node, "nearest_mode", b"round_prefer_floor") == b"floor"
    if attribute(node, "antialias", 0) or not (mode == b"linear" or (mode == b"nearest" and plain and floor)):
        raise StageError(f"{label(node)}: a Resize by mode {mode.decode()} that LiteRT lacks", OTHER_RUNTIME)
    grid = tensors.grid(data) if tensors.wanted(output) == tensors.grid(data) else None
    size = tensors.constant(f"{output}.size", np.array(target[2:], np.int32))
    kind = ("RESIZE_BILINEAR", "ResizeBilinearOptions")
    if mode == b"nearest":
        kind = ("RESIZE_NEAREST_NEIGHBOR", "ResizeNearestNeighborOptions")
    options = {} if plain else {_PLACES[place]: 1}
    version = _CENTRES if "halfPixelCenters" in options else None
    read = (tensors.read(data, grid), size)
    tensors.operate(kind[0], read, tensors.make(output, grid), kind[1], version, **options)
