"""``with_pixel_input``: a network's graph with uint8 pixels as input and the normalisation inside.

The nodes are those of the preprocessing, ``(pixel / 255 - mean) / std`` in float32 and in that order, so that the
tensor behind them has the same bits as the float input had. Folding them into the first convolution would not be exact:
it pads with zeros, which a shift would change. TensorRT takes uint8 only where a Cast reads it (developer guide).
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from edgeres.onnx_graph.signature import BATCH, IMAGE

if TYPE_CHECKING:
    from onnx import ModelProto

    from edgeres.data.preprocess import Preprocess

PIXELS = "pixels"


def with_pixel_input(model: ModelProto, preprocess: Preprocess) -> ModelProto:
    """The graph with uint8 ``pixels``, ``[N,C,H,W]`` or ``[N,H,W,C]`` by ``layout``, in place of ``image``."""
    changed = deepcopy(model)
    graph = changed.graph
    axis = (1, -1, 1, 1)
    order = slice(None, None, -1) if preprocess.channels == "bgr" else slice(None)
    constants = {
        "pixels.white": np.array(255, np.float32),
        "pixels.mean": np.array(preprocess.mean[order], np.float32).reshape(axis),
        "pixels.std": np.array(preprocess.std[order], np.float32).reshape(axis),
    }
    nodes = [helper.make_node("Cast", [PIXELS], ["pixels.float"], name="pixels.float", to=TensorProto.FLOAT)]
    planar = "pixels.float"
    if preprocess.layout == "nhwc":
        planar = "pixels.planar"
        nodes.append(helper.make_node("Transpose", ["pixels.float"], [planar], name=planar, perm=[0, 3, 1, 2]))
    nodes.append(helper.make_node("Div", [planar, "pixels.white"], ["pixels.unit"], name="pixels.unit"))
    nodes.append(helper.make_node("Sub", ["pixels.unit", "pixels.mean"], ["pixels.centred"], name="pixels.centred"))
    nodes.append(helper.make_node("Div", ["pixels.centred", "pixels.std"], [IMAGE], name="pixels.normalised"))
    present = list(graph.node)
    graph.ClearField("node")
    graph.node.extend([*nodes, *present])
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    graph.ClearField("input")
    shape: list[str | int | None] = [BATCH, *preprocess.shape]
    graph.input.append(helper.make_tensor_value_info(PIXELS, TensorProto.UINT8, shape))
    return changed
