"""Networks with drawn weights and scales observed on drawn images: what they answer is noise, how fast is not.

Weights follow He et al. (arXiv 1502.01852), the last convolution of a residual branch a fifth of that, so that a stream
of 50 blocks keeps the range of a trained network's: speed depends on no value as long as none is denormal.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from edgeres.artifacts.artifact import Exported, File, ModelMetadata
from edgeres.data.preprocess import Preprocess
from edgeres.data.size import Size
from edgeres.model.graph import graph
from edgeres.model.weights import Weights
from edgeres.onnx_graph.execute import trace
from edgeres.onnx_graph.write import write_model
from edgeres.quant.placement import place
from edgeres.quant.qparams import QParams
from edgeres.quant.quant_table import QuantTable

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from onnx import ModelProto

    from edgeres.model.spec import ResNetSpec
    from edgeres.quant.placement import Placement
    from edgeres.targets.target import QuantScheme, Target

IMAGES = 4
_BRANCH = 0.2


def drawn(name: str, spec: ResNetSpec, side: int, target: Target, folder: Path) -> Exported:
    """A network in float and in the target's INT8, norms folded, as files.

    Args:
        name: Of the network.
        spec: Its shape.
        side: Of the image in pixels.
        target: Its scheme and runtime.
        folder: Where the files go.
    """
    spec, scheme = replace(spec, norm=False), target.scheme
    assert scheme is not None
    network, size, runtime = graph(spec), (side, side), target.runtime
    weights = _weights(spec)
    plain = write_model(graph(spec), weights, size, opset=runtime.opset, ir_version=runtime.ir_version)
    placement = place(network, scheme)
    quantized = write_model(
        graph(spec), weights, size, opset=runtime.opset, ir_version=runtime.ir_version,
        table=_table(plain, weights, placement, scheme, size), placement=placement,
    )  # fmt: skip
    files = [_saved(model, folder / file) for model, file in ((quantized, "model.onnx"), (plain, "model.float.onnx"))]
    metadata = ModelMetadata(
        name=name, preprocess=Preprocess(resize=Size.square(side), crop=Size.square(side)), classes=()
    )
    return Exported(metadata, files[0], files[1], scales=files[0])


def _weights(spec: ResNetSpec) -> Weights:
    network, random = graph(spec), np.random.default_rng(0)
    adds = {name for op in network.ops if op.kind == "add" for name in op.inputs}
    arrays = {}
    for key, shape in network.parameters.items():
        gain = _BRANCH if key.rpartition(".")[0] in adds else 1.0
        deviation = gain * np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 0.01
        arrays[key] = (deviation * random.standard_normal(shape)).astype(np.float32)
    return Weights(arrays)


def _table(
    model: ModelProto, weights: Weights, placement: Placement, scheme: QuantScheme, size: tuple[int, int]
) -> QuantTable:
    """Scales by the largest values seen."""
    images = np.random.default_rng(1).standard_normal((IMAGES, 3, *size), dtype=np.float32)
    computed = [name for name in placement.tensors if name != model.graph.input[0].name]
    seen = {**trace(model, images, computed), model.graph.input[0].name: images}
    activations = {name: _activation(seen[name], scheme) for name in placement.tensors}
    scales = {}
    for name in sorted(placement.weighted):
        array = weights[f"{name}.weight"]
        most = np.abs(array).reshape(len(array), -1).max(axis=1) / 127
        scales[name] = QParams(scale=tuple(most.tolist()), axis=0, narrow=True)
    return QuantTable(activations=activations, weights=scales, calibrator="minmax", data="drawn", images=IMAGES)


def _activation(values: NDArray[np.float32], scheme: QuantScheme) -> QParams:
    low, high = float(min(values.min(), 0.0)), float(max(values.max(), 1e-6))
    if scheme.signed:
        return QParams(scale=(max(-low, high) / 127,), signed=True)
    scale = (high - low) / 255
    return QParams(scale=(scale,), zero_point=round(-low / scale), signed=False)


def _saved(model: ModelProto, path: Path) -> File:
    path.write_bytes(model.SerializeToString(deterministic=True))
    return File.of(path)
