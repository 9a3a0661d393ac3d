"""Golden inputs and the outputs that a device has to reproduce."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeres.backends.session import onnx_session
from edgeres.errors import StageError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from edgeres.artifacts.artifact import Exported
    from edgeres.data.preprocess import Preprocess

COUNT = 8
SEED = 20151210  # date of the residual network paper
TOLERANCE = 0.03
"""Tolerance as a share of the logits' range. Another order of rounding changes a logit by up to 0.012 of it (ResNet-18
with random weights, ONNX Runtime with and without its rewrites), so a larger difference is an error.
"""


@dataclass(frozen=True, slots=True)
class Golden:
    """Normalised images float32 ``[8,C,H,W]``, their logits ``[8,classes]``, and the largest difference of a logit."""

    inputs: NDArray[np.float32]
    outputs: NDArray[np.float32]
    tolerance: float


@dataclass(frozen=True, slots=True)
class GraphInput:
    """The image input of a graph: its name, its shape ``(C, H, W)``, and whether its batch size is free."""

    name: str
    shape: tuple[int, int, int]
    free: bool


def graph_input(graph: Path) -> GraphInput:
    """Reads the image input of an ONNX file.

    Raises:
        StageError: It is not an image of one size.
    """
    import onnx

    image = onnx.load(graph, load_external_data=False).graph.input[0]
    dims = image.type.tensor_type.shape.dim
    if len(dims) != 4:
        raise StageError(f"{graph.name}: the input has {len(dims)} dimensions", "edgeres compiles [N,C,H,W] graphs")
    channels, height, width = (dim.dim_value for dim in dims[1:])
    if not (channels and height and width):
        raise StageError(f"{graph.name}: the input has no fixed size", "export the graph for images of one size")
    return GraphInput(image.name, (channels, height, width), free=not dims[0].HasField("dim_value"))


def golden(exported: Exported) -> Golden:
    """The golden images of a graph with their logits by ONNX Runtime without optimisations.

    Raises:
        StageError: The logits are all alike or not finite, and so unsuitable as a check.
    """
    graph = exported.model.path
    inputs = golden_inputs(exported.metadata.preprocess, *graph_input(graph).shape)
    with onnx_session(graph, optimise=False, threads=1) as session:
        outputs = session.run(inputs)
    spread = float(outputs.max() - outputs.min())
    if not np.isfinite(spread) or spread == 0:
        raise StageError(f"{graph.name} answers every golden image alike or not at all", "check weights and scales")
    return Golden(inputs, outputs, TOLERANCE * spread)


def golden_inputs(preprocess: Preprocess, channels: int, height: int, width: int) -> NDArray[np.float32]:
    """Eight normalised images ``[8,C,H,W]``, the same on every machine: smooth coloured blobs with noise.

    Values are drawn in ``[0,1]`` as pixels are and normalised as the network's images are, so that activations are near
    their calibrated ranges.
    """
    rng = np.random.Generator(np.random.PCG64(SEED))
    coarse = rng.random((COUNT, channels, 7, 7), dtype=np.float32)
    grain = rng.random((COUNT, channels, height, width), dtype=np.float32)
    rows, columns = (np.arange(size) * 7 // size for size in (height, width))
    pixels = np.float32(0.8) * coarse[:, :, rows][:, :, :, columns] + np.float32(0.2) * grain
    order = 1 if preprocess.channels == "rgb" else -1
    mean, std = (
        np.resize(np.asarray(value[::order], np.float32), channels).reshape(channels, 1, 1)
        for value in (preprocess.mean, preprocess.std)
    )
    return ((pixels - mean) / std).astype(np.float32)
