"""Diagonal Fisher information of activations and weights: the KL divergence that noise in one place causes.

Small noise ``n`` with variance ``v`` per element changes the softmax by ``KL = 1/2 sum F v`` nats on average, to second
order, where ``F`` is the diagonal of ``J^T H J``, ``J`` the Jacobian of the logits and ``H = diag(p) - p p^T`` the
curvature of the divergence at float's probabilities ``p`` (Martens 2014, arXiv 1412.1193, section 9). A backward pass
from ``r`` with covariance ``H`` gives the squares of a gradient whose mean is ``F`` (Hutchinson 1990): no labels are
needed, and one pass serves every tensor and every weight.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from edgeres.model.network import Network
from edgeres.quant.streaming import each_image, single_images

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from numpy.typing import NDArray
    from torch import Tensor

    from edgeres.model.graph import Graph
    from edgeres.model.operation import Op
    from edgeres.model.weights import Weights
    from edgeres.progress import Advance
    from edgeres.quant.placement import Placement
    from edgeres.quant.streaming import Images

    Floats = NDArray[np.float64]
    Direction = Callable[[Tensor, Tensor], Tensor]
    """Random direction whose covariance is the curvature of a divergence, from outputs and signs of their shape."""

Number = TypeVar("Number", np.float32, np.float64)

TAIL = 8  # power of the norm that estimates a channel's range: near the maximum, but less sensitive to one outlier


@dataclass(frozen=True, slots=True)
class Importance:
    """Fisher information and range of channels.

    ``activations`` is ``E[sum over positions of F]`` ``[C]`` of every quantized tensor with noise of its own, where its
    values are not zero: a zero is rounded to itself. ``reach`` is ``(sum over images and positions of
    |x|^TAIL)^(1/TAIL)`` ``[C]`` of the same tensors, ``weights`` is ``F`` ``[C_out, C_in / groups]`` of every integer
    weight, summed over the kernel.
    """

    activations: dict[str, Floats] = field(default_factory=dict)
    reach: dict[str, Floats] = field(default_factory=dict)
    weights: dict[str, NDArray[np.float32]] = field(default_factory=dict)


class Probe(Network):
    """A float network with a zero noise tensor added to every tensor that is read through Q/DQ.

    ``noise`` has the zeros by tensor, set by each forward pass, and ``seen`` the tensors they were added to.
    """

    def __init__(
        self, graph: Graph, weights: Weights, placement: Placement, direction: Direction | None = None
    ) -> None:
        super().__init__(graph, weights)
        self._direction = direction or softmax_direction
        self.requires_grad_(requires_grad=False).eval()
        self._edges = placement.edges
        self._silent = placement.on_grid
        self.noise: dict[str, Tensor] = {}
        self.seen: dict[str, Tensor] = {}
        self._noisy: dict[str, Tensor] = {}

    def read(self, op: Op, index: int, values: dict[str, Tensor]) -> Tensor:
        """The tensor, plus its noise tensor if this is an edge with Q/DQ."""
        tensor = op.inputs[index]
        x = values[tensor]
        if (op.name, index) not in self._edges or tensor in self._silent:
            return x
        if tensor not in self.noise:
            self.noise[tensor] = torch.zeros_like(x, requires_grad=True)
            self.seen[tensor] = x.detach()
            self._noisy[tensor] = x + self.noise[tensor]
        return self._noisy[tensor]

    def differentiate(self, image: Tensor, seed: int) -> None:
        """One forward and one backward pass; gradients are left in ``noise`` and in weights that require them.

        The random direction depends on the seed and on the content of the image ``[1,C,H,W]``.
        """
        self.noise, self.seen, self._noisy = {}, {}, {}
        self.zero_grad(set_to_none=True)
        logits = self(image)
        content = hashlib.sha256(image.contiguous().numpy().tobytes() + seed.to_bytes(8, "little")).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(content[:7], "little"))
        signs = torch.randint(0, 2, logits.shape, generator=generator) * 2.0 - 1
        (logits * self._direction(logits.detach(), signs)).sum().backward()
        self._noisy = {}


def softmax_direction(logits: Tensor, signs: Tensor) -> Tensor:
    """``r = sqrt(p) e - p <sqrt(p), e>`` for signs ``e``: its covariance is ``diag(p) - p p^T``."""
    p = logits.softmax(1)
    share = p.sqrt() * signs
    return share - p * share.sum(1, keepdim=True)


def importance(
    graph: Graph,
    weights: Weights,
    placement: Placement,
    images: Images,
    *,
    limit: int = 64,
    seed: int = 0,
    direction: Direction | None = None,
    advance: Advance | None = None,
) -> Importance:
    """Fisher information of a float network on the first ``limit`` images; ``advance`` is called with 1 for each.

    ``direction`` is that of the task's divergence, by default the softmax's.
    """
    probe = Probe(graph, weights, placement, direction)
    for name in placement.weighted:
        probe.get_parameter(f"{name}.weight").requires_grad = True

    def measure(probe: Probe, image: Tensor) -> Importance:
        probe.differentiate(image, seed)
        terms = Importance()  # reaches still to the power of TAIL
        for tensor, noise in probe.noise.items():
            x, gradient = probe.seen[tensor], noise.grad
            assert gradient is not None
            terms.activations[tensor] = _per_channel(gradient.double().square_() * (x != 0))
            terms.reach[tensor] = _per_channel(x.double().abs_().pow_(TAIL))
        for name in sorted(placement.weighted):
            gradient = probe.get_parameter(f"{name}.weight").grad
            assert gradient is not None
            square = gradient.square_()
            terms.weights[name] = (square.flatten(2).sum(2) if square.ndim == 4 else square).numpy()
        return terms

    total, count = Importance(), 0
    for one in each_image(probe, first(images(), limit), measure, advance, gradients=True):
        count += 1
        _add(total.activations, one.activations)
        _add(total.reach, one.reach)
        _add(total.weights, one.weights)
    return Importance(
        {name: value / count for name, value in total.activations.items()},
        {name: value ** (1 / TAIL) for name, value in total.reach.items()},
        {name: value / np.float32(count) for name, value in total.weights.items()},
    )


def _add(sums: dict[str, NDArray[Number]], terms: Mapping[str, NDArray[Number]]) -> None:
    """Adds terms to sums by name."""
    for name, term in terms.items():
        sums[name] = sums[name] + term if name in sums else term


def _per_channel(x: Tensor) -> Floats:
    """Sum ``[C]`` over everything but the channels."""
    return np.asarray(x.sum([axis for axis in range(x.ndim) if axis != 1]).numpy())


def first(batches: Iterable[NDArray[np.float32]], limit: int) -> Iterator[NDArray[np.float32]]:
    """The first images, each a batch of its own."""
    return islice(single_images(batches), limit)
