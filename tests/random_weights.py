"""Weights of networks nobody trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeres.model.graph import graph
from edgeres.model.network import Network
from edgeres.model.weights import Weights

if TYPE_CHECKING:
    from edgeres.model.spec import ResNetSpec


def random_weights(spec: ResNetSpec, seed: int = 0) -> Weights:
    """Weights whose every number matters: no zero, no channel like another."""
    random = np.random.default_rng(seed)
    network = Network(graph(spec))
    arrays = {}
    for key, array in network.weights().items():
        values = random.normal(0, 1, array.shape) / max(1.0, np.sqrt(array[0].size))
        positive = key.endswith("running_var") or (array.ndim == 1 and key.endswith("weight"))
        arrays[key] = np.abs(values) + 0.5 if positive else values
    return Weights(arrays)
