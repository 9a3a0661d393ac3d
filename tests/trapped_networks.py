"""Networks with the channels that training and pruning leave behind, and that integers mishandle."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from quantized_graph import SIDE, drawn_spec
from random_weights import random_weights

from edgeres.model.graph import graph
from edgeres.model.network import Network
from edgeres.quant.observer import observe
from edgeres.quant.placement import place
from edgeres.quant.quant_table import quant_table
from edgeres.quant.quantized import Quantized

if TYPE_CHECKING:
    from edgeres.model.spec import ResNetSpec
    from edgeres.model.weights import Weights
    from edgeres.quant.quant_table import QuantTable
    from edgeres.targets.target import QuantScheme

TRAPS = {
    0: (1e-7, 2.0),  # a gain of nearly 0 behind a shift: the bias needs 2**40 codes of the weights' scale
    1: (0.0, 1.5),  # a gain of 0: no weight has a scale
    2: (1e-41, 1.0),  # denormal weights
    3: (1e-7, -3.0),  # dead behind a ReLU
    4: (0.0, 0.0),  # pruned
    5: (1e-4, 0.7),  # small, and still worth its weights
}
"""Factor of a channel's weights, and its bias."""


def trapped(spec: ResNetSpec | None = None, seed: int = 0) -> tuple[ResNetSpec, Weights]:
    """A network with all traps in the first convolution of each block."""
    spec = spec or drawn_spec()
    weights, found = random_weights(spec, seed), {}
    for op in graph(spec).weighted:
        if op.name.endswith("conv1"):
            weight, bias = weights[f"{op.name}.weight"].copy(), weights[f"{op.name}.bias"].copy()
            for channel, (factor, shift) in TRAPS.items():
                weight[channel] *= np.float32(factor)
                bias[channel] = shift
            found |= {f"{op.name}.weight": weight, f"{op.name}.bias": bias}
    return spec, weights.replaced(found)


def images(count: int = 6, seed: int = 0) -> np.ndarray:
    """float32 ``[N,3,12,12]``."""
    return np.random.default_rng(seed).normal(size=(count, 3, SIDE, SIDE)).astype(np.float32)


def table_of(spec: ResNetSpec, weights: Weights, scheme: QuantScheme) -> QuantTable:
    """Scales by the largest values there are, without a look at biases."""
    placement = place(graph(spec), scheme)
    histograms = observe(Network(graph(spec), weights).eval(), [images()], placement.observed)
    return quant_table(
        weights, histograms, placement, scheme, calibrator="minmax", method="max", data="0", images=len(images())
    )


def quantized(spec: ResNetSpec, weights: Weights, scheme: QuantScheme) -> Quantized:
    """The same as every technique takes and gives it."""
    return Quantized(graph(spec), weights, table_of(spec, weights, scheme), scheme)
