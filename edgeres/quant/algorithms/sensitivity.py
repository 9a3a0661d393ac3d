"""What a network answers when one of its layers alone is quantized: the layer's weight and what it reads.

For each layer everything else stays in float, so that its noise is seen without that of the others (Wu et al. 2020,
arXiv 2004.09602, section 6.1). The operations in front of a layer are computed once for all layers: an image walks the
float network, and at every quantized layer a branch is run from there to the logits and forgotten. On average a branch
is half of the network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeres.model.graph import IMAGE
from edgeres.model.network import Network
from edgeres.quant.streaming import each_image

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray
    from torch import Tensor

    from edgeres.model.graph import Op
    from edgeres.model.weights import Weights
    from edgeres.progress import Advance
    from edgeres.quant.quantized import Quantized


def one_layer_logits(
    reference: Weights, quantized: Quantized, batches: Iterable[NDArray[np.float32]], advance: Advance | None = None
) -> dict[str, NDArray[np.float32]]:
    """Logits ``[N,classes]`` by name of the one layer that is quantized, in the order of execution.

    Args:
        reference: Float weights that ``quantized`` stands for, in its coordinates.
        quantized: Gives that layer's rounded weight and the scale of what it reads.
        batches: Images float32 ``[N,C,H,W]``; see ``each_image`` for why the batch size changes nothing.
        advance: Called with 1 for each finished image.
    """
    found: dict[str, list[NDArray[np.float32]]] = {}
    for image in each_image(_Branching(reference, quantized), batches, _Branching.branches, advance):
        for layer, logits in image.items():
            found.setdefault(layer, []).append(logits)
    return {layer: np.concatenate(rows) for layer, rows in found.items()}


class _Branching(Network):
    """The float network with its quantized twin inside.

    Args:
        reference: Float weights.
        quantized: The twin.
    """

    def __init__(self, reference: Weights, quantized: Quantized) -> None:
        super().__init__(quantized.spec, reference)
        self.twin = quantized.network()
        self.layers = quantized.placement.weighted

    def branches(self, image: Tensor) -> dict[str, NDArray[np.float32]]:
        """Logits ``[1,classes]`` of one image by quantized layer."""
        found, values, ops = {}, {IMAGE: image}, self.graph.ops
        for place, op in enumerate(ops):
            if op.name in self.layers:
                branch = dict(values)
                self._step(self.twin, op, branch)
                for later in ops[place + 1 :]:
                    self._step(self, later, branch)
                found[op.name] = branch[self.graph.output].numpy()
            self._step(self, op, values)
        return found

    def _step(self, network: Network, op: Op, values: dict[str, Tensor]) -> None:
        """Runs one operation and lets go of what it was the last to read."""
        values[op.name] = network.apply_op(op, [network.read(op, index, values) for index in range(len(op.inputs))])
        for name in set(op.inputs):
            if self._last_use[name] == op.name:
                del values[name]
