"""Logits of a network with one of its layers quantized: the layer's weight and its input.

For each layer everything else stays in float, so that its noise is seen without that of the others (Wu et al. 2020,
arXiv 2004.09602, section 6.1). The operations before a layer are computed once for all layers: an image runs through
the float network, and at every quantized layer a branch runs from there to the logits. On average a branch is half of
the network.
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

    ``reference`` are float weights with the same channel scales as ``quantized``, which has each layer's rounded weight
    and the scale of its input. The batch size does not change the result.
    """
    found: dict[str, list[NDArray[np.float32]]] = {}
    for image in each_image(_Branching(reference, quantized), batches, _Branching.branches, advance):
        for layer, logits in image.items():
            found.setdefault(layer, []).append(logits)
    return {layer: np.concatenate(rows) for layer, rows in found.items()}


class _Branching(Network):
    """The float network with branches through single layers of the quantized network."""

    def __init__(self, reference: Weights, quantized: Quantized) -> None:
        super().__init__(quantized.spec, reference)
        self.quantized_network = quantized.network()
        self.layers = quantized.placement.weighted

    def branches(self, image: Tensor) -> dict[str, NDArray[np.float32]]:
        """Logits ``[1,classes]`` of one image by quantized layer."""
        found, values, ops = {}, {IMAGE: image}, self.graph.ops
        for place, op in enumerate(ops):
            if op.name in self.layers:
                branch = dict(values)
                self._step(self.quantized_network, op, branch)
                for later in ops[place + 1 :]:
                    self._step(self, later, branch)
                found[op.name] = branch[self.graph.output].numpy()
            self._step(self, op, values)
        return found

    def _step(self, network: Network, op: Op, values: dict[str, Tensor]) -> None:
        """Runs one operation and drops tensors that are no longer read."""
        values[op.name] = network.apply_op(op, [network.read(op, index, values) for index in range(len(op.inputs))])
        for name in set(op.inputs):
            if self._last_use[name] == op.name:
                del values[name]
