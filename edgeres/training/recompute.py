"""Gradient checkpointing: each block's activations are recomputed in the backward pass.

Chen et al. 2016, arXiv 1604.06174. The second pass does not update the running statistics of the norms; with that,
gradients and weights equal those of plain training to the last bit.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from torch import nn
from torch.utils.checkpoint import checkpoint

from edgeres.model.unit import units

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from torch import Tensor

    from edgeres.model.network import Network
    from edgeres.model.unit import Unit


class Recomputed:
    """The forward pass of a network with block-wise gradient checkpointing."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def __call__(self, images: Tensor) -> Tensor:
        """Logits ``[N,classes]`` of images ``[N,C,H,W]``."""
        x = images

        def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
            return nullcontext(), self._still_statistics()

        for unit in units(self._network.graph):
            forward = self._forward(unit)
            if unit.name in ("stem", "head"):
                x = forward(x)
            else:
                x = checkpoint(forward, x, use_reentrant=False, context_fn=contexts)
        return x

    def _forward(self, unit: Unit) -> Callable[[Tensor], Tensor]:
        def forward(x: Tensor) -> Tensor:
            values = {unit.source: x}
            for op in unit.ops:
                self._network.step(op, values)
            return values[unit.output]

        return forward

    @contextmanager
    def _still_statistics(self) -> Iterator[None]:
        """Disables updates of the norms' running statistics; both passes must save the same tensors."""
        norms = [module for module in self._network.modules() if isinstance(module, nn.BatchNorm2d)]
        before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
        for norm in norms:
            norm.momentum, norm.num_batches_tracked = 0.0, None
        try:
            yield
        finally:
            for norm, (momentum, batches) in zip(norms, before, strict=True):
                norm.momentum, norm.num_batches_tracked = momentum, batches
