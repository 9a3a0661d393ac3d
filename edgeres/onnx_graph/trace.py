"""Values of every tensor of a graph, computed node by node by ONNX Runtime without optimisations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import ValueInfoProto

from edgeres.errors import StageError
from edgeres.onnx_graph.execute import open_session, session_options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray
    from onnx import ModelProto


def trace(model: ModelProto, images: NDArray[np.float32], tensors: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    """Values of the named tensors.

    Args:
        model: A graph with one image input.
        images: float32 ``[N,C,H,W]``.
        tensors: Names of float tensors of the graph.

    Returns:
        Each tensor's value by name.
    """
    return _exposing(model, tensors)(images)


def channel_peaks(
    model: ModelProto, batches: Iterable[NDArray[np.float32]], tensors: Sequence[str], advance: Callable[[int], None]
) -> dict[str, NDArray[np.float64]]:
    """Range ``[C]`` of every channel: the mean over images of its largest magnitude.

    Args:
        model: A float graph with one image input.
        batches: Images ``[1,C,H,W]``.
        tensors: Names of tensors ``[N,C,...]`` of the graph, or of its input.
        advance: Called with the number of finished images.

    Raises:
        StageError: There is no image, or a tensor is not finite.
    """
    image = model.graph.input[0].name
    run = _exposing(model, [name for name in tensors if name != image])
    sums: dict[str, NDArray[np.float64]] = {}
    count = 0
    for batch in batches:
        for name, value in {**run(batch), image: batch}.items():
            peaks = np.abs(value.astype(np.float64)).reshape(*value.shape[:2], -1).max(axis=2).sum(axis=0)
            sums[name] = sums.get(name, 0.0) + peaks
        count += len(batch)
        advance(len(batch))
    if not count or not all(np.isfinite(total).all() for total in sums.values()):
        raise StageError("no range of a channel is known: no images, or NaN", "check the images and the weights")
    return {name: sums[name] / count for name in tensors}


def _exposing(
    model: ModelProto, tensors: Sequence[str]
) -> Callable[[NDArray[np.float32]], dict[str, NDArray[np.float32]]]:
    """Runs a graph for the values of some tensors."""
    exposed = type(model)()
    exposed.CopyFrom(model)
    del exposed.graph.output[:]
    exposed.graph.output.extend(ValueInfoProto(name=name) for name in tensors)
    session = open_session(exposed, session_options("none"))
    name = session.get_inputs()[0].name
    return lambda images: dict(zip(tensors, session.run(list(tensors), {name: images}), strict=True))
