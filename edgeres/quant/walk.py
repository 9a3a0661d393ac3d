"""``Walk``: the float and the quantized network side by side, unit by unit, over the same images."""

from __future__ import annotations

from itertools import islice
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import torch

from edgeres.errors import StageError
from edgeres.model.cost import shapes
from edgeres.model.network import Network
from edgeres.quant.units import Values, units

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from edgeres.model.weights import Weights
    from edgeres.quant.quantized import Quantized
    from edgeres.quant.units import Unit

    Images = Callable[[], Iterable[NDArray[np.float32]]]

BATCH = 32
"""Images that go through a unit together."""

LIMIT = 256
"""Images that learned rounding looks at, the first ones: twice as many were no better."""

MEMORY = 768 << 20
"""Bytes of activations kept between two units, in both networks together; where they are larger, fewer images are."""


class Walk:
    """Activations of both networks between two units; ``on`` moves them behind the current one.

    They are kept in half precision: its rounding error is an eighth of an INT8 step's at the largest value, and less
    below. The images themselves are kept as they are.

    Args:
        reference: Float weights.
        quantized: The quantized network.
        network: Its module, whose parameters are there to be changed.
        images: Gives batches ``[N,C,H,W]``.

    Raises:
        StageError: No images.
    """

    def __init__(self, reference: Weights, quantized: Quantized, network: Network, images: Images) -> None:
        self.units = units(quantized.spec)
        self.exact = _prepared(Network(quantized.spec, reference))
        self.network = _prepared(network)
        self._kept = [(batch, batch) for batch in _first(images(), quantized)]

    @property
    def images(self) -> int:
        """Number of images in use."""
        return sum(len(exact) for exact, _ in self._kept)

    def __len__(self) -> int:
        """Number of batches."""
        return len(self._kept)

    def some(self, images: Sequence[int]) -> tuple[Tensor, Tensor]:
        """What the current unit reads in some images, in the float and in the quantized network."""
        pairs = [(self._kept[i // BATCH], i % BATCH) for i in images]
        exact, given = (torch.stack([pair[side][at] for pair, at in pairs]) for side in (0, 1))
        return _laid_out(exact), _laid_out(given)

    def values(self, unit: Unit, index: int) -> tuple[Values, Values]:
        """Tensors of the current unit in one batch, in the float and in the quantized network."""
        exact, given = self._kept[index]
        return Values(self.exact, unit, _laid_out(exact)), Values(self.network, unit, _laid_out(given))

    def on(self, unit: Unit) -> None:
        """Leaves a unit behind: what it makes is what the next one reads."""
        with torch.no_grad():
            for index in range(len(self)):
                exact, given = self.values(unit, index)
                self._kept[index] = _half(exact[unit.output]), _half(given[unit.output])


def _prepared(network: Network) -> Network:
    network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs leave it out
    return network


def _laid_out(x: Tensor) -> Tensor:
    """In float32, channels last where there are pixels."""
    return x.float().contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x.float()


def _half(x: Tensor) -> Tensor:
    """A tensor in half precision, unless it holds larger values than that can."""
    half = x.half()
    return half if bool(half.isfinite().all()) else x


def _first(batches: Iterable[NDArray[np.float32]], quantized: Quantized) -> list[Tensor]:
    """The first images in batches of ``BATCH``, as many as memory is meant for."""
    images = (image for batch in batches for image in batch)
    found = list(islice(images, 1))
    if not found:
        raise StageError("learned rounding has no images", "pass at least one batch of calibration images")
    found += islice(images, _affordable(quantized, *found[0].shape[1:]) - 1)
    stacks = (np.stack(found[start : start + BATCH]) for start in range(0, len(found), BATCH))
    return [torch.from_numpy(stack).contiguous(memory_format=torch.channels_last) for stack in stacks]


def _affordable(quantized: Quantized, height: int, width: int) -> int:
    """How many images ``MEMORY`` is enough for, at most ``LIMIT`` and at least one batch."""
    made = shapes(quantized.spec, height, width)
    largest = max(prod(made[unit.output]) for unit in units(quantized.spec))
    return max(BATCH, min(LIMIT, MEMORY // (4 * largest)))
