"""Networks that know nothing: random weights and made-up scales, of the right shapes and so of the right speed."""

from __future__ import annotations

from dataclasses import replace
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

    from edgeres.model.spec import Block, ResNetSpec
    from edgeres.targets.target import Target

_ACTIVATION_SCALE, _WEIGHT_DEVIATION = 0.05, 0.02
_MULTIPLE, _LEAST = 16, 0.4
"""Widths are multiples of the first, and no smaller than the second as a share of what they were."""


def thinned(spec: ResNetSpec, seed: int) -> ResNetSpec:
    """A network as a pruner might leave it: every width inside a block and every stream is drawn anew.

    Args:
        spec: What is pruned.
        seed: Of the drawing.
    """
    random = np.random.default_rng(seed)

    def drawn(width: int) -> int:
        kept = width * random.uniform(_LEAST, 1.0)
        return max(_MULTIPLE, _MULTIPLE * round(kept / _MULTIPLE))

    stem = drawn(spec.stem.width)
    width, stages = stem, []
    for stage in spec.stages:
        projected = stage[0].projected
        out = drawn(stage[-1].out) if projected else width
        blocks: list[Block] = []
        for block in stage:
            inner = tuple(drawn(channels) for channels in block.inner)
            blocks.append(replace(block, inner=inner, out=out))
        stages.append(tuple(blocks))
        width = out
    return replace(spec, stem=replace(spec.stem, width=stem), stages=tuple(stages))


def unlearned(spec: ResNetSpec, side: int, target: Target) -> dict[Literal["int8", "float"], ModelProto]:
    """A network in INT8, as the target wants its Q/DQ pairs, and in float, norms folded.

    Args:
        spec: The network.
        side: Of the image in pixels.
        target: Its scheme and runtime.
    """
    spec = replace(spec, norm=False)
    network, random, scheme = graph(spec), np.random.default_rng(0), target.scheme
    weights = Weights({
        key: (_WEIGHT_DEVIATION * random.standard_normal(shape)).astype(np.float32)
        for key, shape in network.parameters.items()
    })  # fmt: skip
    size, runtime = (side, side), target.runtime
    plain = write_model(spec, weights, size, opset=runtime.opset, ir_version=runtime.ir_version)
    if scheme is None:
        return {"float": plain}
    placement = place(network, scheme)
    activation = QParams(scale=(_ACTIVATION_SCALE,), signed=scheme.signed)
    scales = {
        name: QParams(scale=(_WEIGHT_DEVIATION / 32,) * len(weights[f"{name}.weight"]), axis=0, narrow=True)
        for name in sorted(placement.weighted)
    }
    table = QuantTable(
        activations=dict.fromkeys(placement.tensors, activation), weights=scales, calibrator="none", data="", images=0
    )
    quantized = write_model(
        spec, weights, size, opset=runtime.opset, ir_version=runtime.ir_version, table=table, placement=placement
    )
    return {"int8": quantized, "float": plain}
