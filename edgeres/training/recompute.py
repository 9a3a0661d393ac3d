"""Gradient checkpointing: each block's activations are recomputed in the backward pass.

Chen et al. 2016, arXiv 1604.06174. The second pass must not update the running statistics of the norms, or they would
be updated twice per step; with that, gradients and weights equal those of plain training to the last bit.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from itertools import groupby
from typing import TYPE_CHECKING

from torch import nn
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from torch import Tensor

    from edgeres.model.graph import Op
    from edgeres.model.network import Network


class Recomputed:
    """The forward pass of a network with block-wise gradient checkpointing."""

    def __init__(self, network: Network) -> None:
        self._network = network
        blocks = {name for name, _, _ in network.spec.blocks}
        grouped = groupby(network.graph.ops, key=lambda op: _block_of(op, blocks))
        self._segments = [(block is not None, list(ops)) for block, ops in grouped]

    def __call__(self, images: Tensor) -> Tensor:
        """Logits ``[N,classes]`` of images ``[N,C,H,W]``."""
        x = images

        def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
            return nullcontext(), self._still_statistics()

        for in_block, ops in self._segments:
            forward = self._segment(ops)
            x = checkpoint(forward, x, use_reentrant=False, context_fn=contexts) if in_block else forward(x)
        return x

    def _segment(self, ops: list[Op]) -> Callable[[Tensor], Tensor]:
        """A segment of operations with one input tensor, that of the first one, and one output."""

        def forward(x: Tensor) -> Tensor:
            values = {ops[0].inputs[0]: x}
            for op in ops:
                inputs = [self._network.read(op, index, values) for index in range(len(op.inputs))]
                values[op.name] = self._network.apply_op(op, inputs)
            return values[ops[-1].name]

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


def _block_of(op: Op, blocks: set[str]) -> str | None:
    """``layer1.0`` of ``layer1.0.conv1``; None for the stem and the head."""
    prefix = ".".join(op.name.split(".")[:2])
    return prefix if prefix in blocks else None
