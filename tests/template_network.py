"""Networks whose weights are known by construction, and images they are right on: plain colours, nearest wins."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeres.data.images import ArrayImage
from edgeres.data.split import Split
from edgeres.model.graph import graph
from edgeres.model.spec import Block, ResNetSpec, Stem

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from edgeres.model.probe import Normalisation

COLOURS = np.array([[110, 50, 30], [110, 100, 40], [70, 60, 20], [130, 80, 70], [85, 85, 60], [50, 20, 10]]) / 255
"""Class centres in 0..1, red, green and blue ``[6,3]``: dark, so that a wrong normalisation takes them for others, and
redder than blue, so that reversed channels are no other order of the classes."""

SPREAD = 0.02
"""Standard deviation of an image's colour around its class centre: its own centre stays the nearest."""

CLASSES = ("ant", "bee", "cow", "dog", "elk", "fox")


def colours(count: int, seed: int = 0, classes: int = len(COLOURS)) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Colours ``[N,3]`` in 0..1 and the class of each ``[N]``, the classes in turn."""
    labels = np.arange(count) % classes
    drawn = COLOURS[labels] + np.random.default_rng(seed).normal(0, SPREAD, (count, 3))
    return np.clip(drawn, 0, 1), labels


def plain_images(count: int, seed: int = 0, classes: int = len(COLOURS), side: int = 12) -> Split:
    """Images of one colour each."""
    values, labels = colours(count, seed, classes)
    images = tuple(
        ArrayImage(np.broadcast_to(np.rint(255 * value), (side, side, 3)).astype(np.uint8), f"plain {index}")
        for index, value in enumerate(values)
    )
    return Split("tuning", images, tuple(labels.tolist()))


def nearest(one: Normalisation, order: tuple[int, ...]) -> tuple[NDArray[np.float64], ...]:
    """Weight ``[3,3]`` and bias ``[3]`` back to colours in 0..1, then head ``[K,3]`` and its bias ``[K]``.

    Args:
        one: What the input was normalised with.
        order: Class of each output; ``-|x - c|^2`` without ``|x|^2``, which is the same for all, is linear in ``x``.
    """
    swap = np.eye(3) if one.channels == "rgb" else np.eye(3)[::-1]
    weight = np.diag(one.std) @ swap
    centres = COLOURS[list(order)]
    return weight, np.array(one.mean), 100 * centres, -50 * (centres**2).sum(1)


def spec(classes: int) -> ResNetSpec:
    """The least ResNet that passes three colours on."""
    stem = Stem(width=3, kernel=1, stride=1, pool=False)
    return ResNetSpec(kind="basic", stem=stem, stages=((Block(inner=(3,), out=3),),), classes=classes, norm=False)


def tensors(one: Normalisation, order: tuple[int, ...]) -> dict[str, NDArray[np.float32]]:
    """Weights of ``spec``: the block adds nothing, and no colour is negative, so every ReLU passes."""
    weight, bias, head, offset = nearest(one, order)
    arrays = {key: np.zeros(shape, np.float32) for key, shape in graph(spec(len(order))).parameters.items()}
    arrays["conv1.weight"][:] = weight[:, :, None, None]
    arrays["conv1.bias"][:] = bias
    arrays["fc.weight"][:] = head
    arrays["fc.bias"][:] = offset
    return arrays


def onnx_file(path: Path, one: Normalisation, order: tuple[int, ...], side: int | None = 32) -> Path:
    """The same network as another exporter writes it; ``side`` None takes images of any size."""
    weight, bias, head, offset = nearest(one, order)
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["colour"]),
        helper.make_node("Relu", ["colour"], ["positive"]),
        helper.make_node("GlobalAveragePool", ["positive"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "fc.w", "fc.b"], ["y"], transB=1),
    ]
    values = {"w": weight[:, :, None, None], "b": bias, "fc.w": head, "fc.b": offset}
    stored = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in values.items()]
    shape = ["N", 3, side or "H", side or "W"]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", len(order)])
    model = helper.make_graph(nodes, "theirs", [given], [made], stored)
    onnx.save(helper.make_model(model, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path
