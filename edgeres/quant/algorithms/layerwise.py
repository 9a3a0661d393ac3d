"""``Walk``: the float and the quantized network run side by side, unit by unit, over the same images."""

from __future__ import annotations

from itertools import islice
from math import prod
from typing import TYPE_CHECKING

import torch

from edgeres.errors import StageError
from edgeres.model.cost import shapes
from edgeres.model.network import Network
from edgeres.model.unit import units
from edgeres.quant.streaming import prepared, single_images

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from edgeres.model.operation import Op
    from edgeres.model.unit import Unit
    from edgeres.model.weights import Weights
    from edgeres.quant.quantized import Quantized
    from edgeres.quant.streaming import Images


class Values:
    """Tensors of one unit for one batch, each computed on first access."""

    def __init__(self, network: Network, unit: Unit, source: Tensor) -> None:
        self._network = network
        self._makers = {op.name: op for op in unit.ops}
        self._known = {unit.source: source}

    def __getitem__(self, tensor: str) -> Tensor:
        """A tensor of the unit, as its operation returns it."""
        waiting = [tensor]
        while waiting:
            if waiting[-1] in self._known:
                waiting.pop()
                continue
            op = self._makers[waiting[-1]]
            if missing := [name for name in op.inputs if name not in self._known]:
                waiting += missing
                continue
            inputs = [self._network.read(op, index, self._known) for index in range(len(op.inputs))]
            self._known[op.name] = self._network.apply_op(op, inputs)
        return self._known[tensor]

    def read(self, op: Op, index: int) -> Tensor:
        """The input of an operation, after Q/DQ where the network has a pair."""
        self[op.inputs[index]]
        return self._network.read(op, index, self._known)


BATCH = 32  # most images that go through a unit together
LIMIT = 256  # number of images for learned rounding, the first ones: twice as many gave no gain
KEPT = 512 << 20
"""Bytes of activations kept between two units, of both networks together, which limit the number of images."""

LARGEST = 16 << 20  # bytes of a batch's largest tensor, which limit the number of images per batch


class Walk:
    """Activations of both networks between two units.

    ``lead`` runs the float network through the next unit, ``follow`` the quantized one, once its weights are chosen in
    the parameters of its module ``network``. Activations are kept in half precision, but not the images: its rounding
    error is an eighth of an INT8 step's at the largest value, and less below.

    Raises:
        StageError: There is no image.
    """

    def __init__(self, reference: Weights, quantized: Quantized, network: Network, images: Images) -> None:
        self.units = units(quantized.graph)
        self.exact = prepared(Network(quantized.graph, reference))
        self.network = prepared(network)
        self._activations = [[image, image] for image in _first(images(), quantized)]
        self._shapes = shapes(quantized.graph, *self._activations[0][0].shape[2:])

    @property
    def images(self) -> int:
        """Number of images in use."""
        return len(self._activations)

    def batches(self, unit: Unit, images: Sequence[int] | None = None) -> Iterator[Sequence[int]]:
        """Images, or all of them, in batches of a size that fits the unit."""
        images = range(self.images) if images is None else images
        largest = max(prod(self._shapes[tensor]) for tensor in (unit.source, *(op.name for op in unit.ops)))
        size = max(1, min(BATCH, LARGEST // (4 * largest)))
        return (images[start : start + size] for start in range(0, len(images), size))

    @torch.no_grad()
    def lead(self, unit: Unit) -> dict[str, Tensor]:
        """Runs the float network through a unit; the means float64 ``[C]`` of its weighted layers' outputs, by name."""
        sums = {op.name: torch.zeros(op.c_out, dtype=torch.float64) for op in unit.weighted}
        for images in self.batches(unit):
            values = Values(self.exact, unit, self._batch(images, 0))
            self._store(images, 0, values[unit.output])
            for op in unit.weighted:
                sums[op.name] += _summed_means(op, values[op.name], len(images))
        return {name: total / self.images for name, total in sums.items()}

    def tensors(self, unit: Unit, images: Sequence[int]) -> Values:
        """Tensors of the current unit in the quantized network, for some images."""
        return Values(self.network, unit, self._batch(images, 1))

    def wanted(self, images: Sequence[int]) -> Tensor:
        """Outputs of the float network for some images, in the unit that it ran through last."""
        return self._batch(images, 0)

    @torch.no_grad()
    def follow(self, unit: Unit) -> None:
        """Runs the quantized network through the unit that the float network ran through."""
        for images in self.batches(unit):
            self._store(images, 1, self.tensors(unit, images)[unit.output])

    def _batch(self, images: Sequence[int], side: int) -> Tensor:
        x = torch.cat([self._activations[image][side] for image in images]).float()
        return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x

    def _store(self, images: Sequence[int], side: int, outputs: Tensor) -> None:
        for image, one in zip(images, outputs.unbind(), strict=True):
            half = one[None].to(torch.float16, copy=True)
            # Values beyond the range of half precision are kept as they are.
            self._activations[image][side] = half if bool(half.isfinite().all()) else one[None].clone()


def _summed_means(op: Op, output: Tensor, images: int) -> Tensor:
    """Sum ``[C]`` over the images of the means of a layer's output over its positions, in float64."""
    if op.rows:
        return output.reshape(-1, op.c_out).double().mean(0) * images
    return output.reshape(images, op.c_out, -1).mean(2).double().sum(0)


def _first(batches: Iterable[NDArray[np.float32]], quantized: Quantized) -> list[Tensor]:
    """The first images ``[1,C,H,W]``: as many as ``KEPT`` allows, at most ``LIMIT`` and at least a batch."""
    images = single_images(batches)
    chosen = list(islice(images, 1))
    if not chosen:
        raise StageError("learned rounding has no images", "pass at least one batch of calibration images")
    sizes = shapes(quantized.graph, *chosen[0].shape[2:])
    largest = max(prod(sizes[unit.output]) for unit in units(quantized.graph))
    chosen += islice(images, max(BATCH, min(LIMIT, KEPT // (4 * largest))) - 1)
    return [torch.tensor(image) for image in chosen]
