"""Random models: graphs with random weights and scales, which have the shapes and so the speed of trained networks."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np

from edgeres.model.graph import graph
from edgeres.model.weights import Weights
from edgeres.onnx_graph.write import write_model
from edgeres.quant.placement import place
from edgeres.quant.qparams import QParams
from edgeres.quant.quant_table import QuantTable

if TYPE_CHECKING:
    from onnx import ModelProto

    from edgeres.data.size import Size
    from edgeres.model.spec import ResNetSpec
    from edgeres.targets.target import Target

_ACTIVATION_SCALE, _WEIGHT_DEVIATION = 0.05, 0.02
_MULTIPLE, _LEAST = 16, 0.4
"""Widths are multiples of the first, and no smaller than the second as a share of what they were."""


def randomly_pruned(spec: ResNetSpec, seed: int) -> ResNetSpec:
    """A randomly pruned network: the widths inside every block and of every residual stream are drawn at random."""
    random = np.random.default_rng(seed)

    def drawn(width: int) -> int:
        return max(_MULTIPLE, _MULTIPLE * round(width * random.uniform(_LEAST, 1.0) / _MULTIPLE))

    stem = drawn(spec.stem.width)
    width, stages = stem, []
    for stage in spec.stages:
        projected = stage[0].projected
        out = drawn(stage[-1].out) if projected else width
        stages.append(tuple(replace(block, inner=tuple(map(drawn, block.inner)), out=out) for block in stage))
        width = out
    return replace(spec, stem=replace(spec.stem, width=stem), stages=tuple(stages))


def random_model(spec: ResNetSpec, size: Size, target: Target) -> dict[Literal["int8", "float"], ModelProto]:
    """ONNX graphs of a network with random weights: float, and INT8 with the target's Q/DQ placement; norms folded.

    They take images of ``size``.
    """
    spec = replace(spec, norm=False)
    network, random, scheme = graph(spec), np.random.default_rng(0), target.scheme
    weights = Weights({
        key: (_WEIGHT_DEVIATION * random.standard_normal(shape)).astype(np.float32)
        for key, shape in network.parameters.items()
    })  # fmt: skip
    write = partial(
        write_model, network, weights, size, opset=target.runtime.opset, ir_version=target.runtime.ir_version
    )
    if scheme is None:
        return {"float": write()}
    placement = place(network, scheme)
    activation = QParams(scale=(_ACTIVATION_SCALE,), signed=scheme.signed)
    scales = {
        name: QParams(scale=(_WEIGHT_DEVIATION / 32,) * len(weights[f"{name}.weight"]), axis=0, narrow=True)
        for name in sorted(placement.weighted)
    }
    table = QuantTable(
        activations=dict.fromkeys(placement.tensors, activation), weights=scales, calibrator="none", data="", images=0
    )
    return {"int8": write(table=table, placement=placement), "float": write()}
