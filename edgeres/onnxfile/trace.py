"""Every tensor of a graph on given images, as ONNX Runtime computes it node by node, without optimisations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import ValueInfoProto

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray
    from onnx import ModelProto


def trace(model: ModelProto, images: NDArray[np.float32], tensors: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    """Values of named tensors.

    Args:
        model: A graph with one image input.
        images: float32 ``[N,C,H,W]``.
        tensors: Names of float tensors the graph computes.

    Returns:
        Each tensor's value by name.
    """
    import onnxruntime

    exposed = type(model)()
    exposed.CopyFrom(model)
    del exposed.graph.output[:]
    exposed.graph.output.extend(ValueInfoProto(name=name) for name in tensors)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(exposed.SerializeToString(), options, providers=["CPUExecutionProvider"])
    values = session.run(list(tensors), {session.get_inputs()[0].name: images})
    return dict(zip(tensors, values, strict=True))
