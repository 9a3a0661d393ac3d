"""Norms among the layers read off an ONNX graph: of the image, of one epsilon, and folded into convolutions.

Exporters fold some or all of them, write them as a product and a sum, or add constants of their own to variances.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from edgeres.model.operation import IMAGE, NORM_EPS, Op
from edgeres.onnx_graph.layer_windows import Unknown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from edgeres.data.preprocess import Preprocess
    from edgeres.model.probe import Answers

    Array = NDArray[np.float32]

AFFINE = 0.0
"""Epsilon of a norm that is a product and a sum alone, with a mean of 0 and a variance of 1."""


@dataclass(frozen=True)
class ImageNorm:
    """Factor, above 0, and offset ``[C]`` by which a graph normalises its input in front of the first operation."""

    factor: tuple[float, ...]
    offset: tuple[float, ...]

    def before(self, answers: Answers) -> Answers:
        """A function of images ``[N,C,H,W]`` as the network gets them, for images as the graph gets them."""
        factor, offset = (np.array(values, np.float32).reshape(-1, 1, 1) for values in (self.factor, self.offset))
        return lambda images: answers(images * factor + offset)

    def within(self, preprocess: Preprocess) -> Preprocess:
        """Preprocessing for the network instead of the graph."""
        return preprocess.followed_by(self.factor, self.offset)


@dataclass(frozen=True)
class FloatLayers:
    """Operations in execution order, named as their tensors, and their arrays by key; see ``Op``.

    ``image`` is None where the first operation reads the image as it is.
    """

    ops: tuple[Op, ...]
    arrays: Mapping[str, Array]
    image: ImageNorm | None = None

    def readers(self, tensor: str) -> list[Op]:
        """Operations that read a tensor."""
        return [op for op in self.ops if tensor in op.inputs]

    def affine(self, norm: Op) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Factor and offset ``[C]`` of a norm, in float64."""
        keys = ("weight", "bias", "running_mean", "running_var")
        gain, shift, mean, variance = (self.arrays[f"{norm.name}.{key}"].astype(np.float64) for key in keys)
        factor = gain / np.sqrt(variance + norm.eps)
        return factor, shift - factor * mean


def without_image_norm(layers: FloatLayers) -> FloatLayers:
    """The layers without a norm that alone reads the image, as MXNet's second ResNets begin with.

    Raises:
        Unknown: It changes the sign of a channel.
    """
    readers = layers.readers(IMAGE)
    if len(readers) != 1 or readers[0].kind != "norm":
        return layers
    norm = readers[0]
    factor, offset = layers.affine(norm)
    if not (factor > 0).all():
        raise Unknown(f"{norm.name}: a norm of the image that changes the sign of a channel")
    ops = [_reading(op, norm.name, IMAGE) for op in layers.ops if op is not norm]
    return replace(layers, ops=tuple(ops), image=ImageNorm(tuple(factor.tolist()), tuple(offset.tolist())))


def with_one_epsilon(layers: FloatLayers) -> FloatLayers:
    """The layers with norms of one epsilon, the most frequent: ``var' = var + eps - eps'`` for the others.

    Raises:
        Unknown: A variance would be negative.
    """
    stated = Counter(op.eps for op in layers.ops if op.kind == "norm" and op.eps != AFFINE)
    eps = max(stated, key=lambda one: (stated[one], -one)) if stated else NORM_EPS
    ops, arrays = [], dict(layers.arrays)
    for op in layers.ops:
        if op.kind == "norm" and op.eps != eps:
            key = f"{op.name}.running_var"
            variance = arrays[key].astype(np.float64) + (op.eps - eps)
            if (variance < 0).any():
                raise Unknown(f"{op.name}: a batch norm that adds another constant to variances near 0")
            arrays[key] = variance.astype(np.float32)
        ops.append(replace(op, eps=eps) if op.kind == "norm" else op)
    return replace(layers, ops=tuple(ops), arrays=arrays)


def folded_norms(layers: FloatLayers) -> FloatLayers:
    """The layers with every norm that can be folded into the convolution or matrix product before it."""
    made = {op.name: op for op in layers.ops}
    arrays, ops = dict(layers.arrays), dict(made)
    names = {IMAGE: IMAGE} | {name: name for name in made}
    for norm in layers.ops:
        before = made.get(norm.inputs[0])
        if norm.kind != "norm" or before is None or before.kind not in ("conv", "linear"):
            continue
        if len(layers.readers(before.name)) > 1:
            continue
        factor, offset = layers.affine(norm)
        weight, bias = arrays[f"{before.name}.weight"], arrays.get(f"{before.name}.bias", np.zeros(1))
        arrays[f"{before.name}.weight"] = (weight * factor.reshape(-1, *(1,) * (weight.ndim - 1))).astype(np.float32)
        arrays[f"{before.name}.bias"] = (bias * factor + offset).astype(np.float32)
        ops[before.name] = replace(before, bias=True)
        del ops[norm.name]
        names[norm.name] = before.name
    kept = tuple(replace(op, inputs=tuple(names[name] for name in op.inputs)) for op in ops.values())
    return replace(layers, ops=kept, arrays=arrays)


def _reading(op: Op, tensor: str, instead: str) -> Op:
    return replace(op, inputs=tuple(instead if name == tensor else name for name in op.inputs))
