"""Thin ResNets for the corpus of graphs that linters are judged on: as small as every pattern of a ResNet allows."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from edgeres.model.graph import graph
from edgeres.model.spec import Block, ResNetSpec, Stem
from edgeres.model.weights import Weights
from edgeres.onnx_graph.execute import trace
from edgeres.onnx_graph.read import infer
from edgeres.onnx_graph.write import write_model
from edgeres.quant.placement import place
from edgeres.quant.qparams import QParams, weight_qparams
from edgeres.quant.quant_table import QuantTable

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto

    from edgeres.targets.target import Target

SIDE = 32
THIN = ResNetSpec(
    kind="basic",
    stem=Stem(width=16, kernel=3, stride=1, pool=True),
    stages=((Block(inner=(16,), out=16),), (Block(inner=(32,), out=32, stride=2, projected=True),)),
    classes=10,
    norm=False,
)
"""Stem with max-pool, an identity block, a projected block, global pool, classifier."""

_HEADROOM = 1.25
"""Ranges beyond what the calibration images show, so that other random images are not clipped."""


def images(count: int, seed: int = 0, side: int = SIDE) -> NDArray[np.float32]:
    """Standard normal images ``[N,3,side,side]``."""
    return np.random.default_rng(seed).standard_normal((count, 3, side, side)).astype(np.float32)


@cache
def weights(spec: ResNetSpec = THIN, seed: int = 0) -> Weights:
    """Random weights that keep activations of one size through the network (He et al. 2015, arXiv 1502.01852)."""
    random = np.random.default_rng(seed)
    found = {}
    for key, shape in graph(spec).parameters.items():
        deviation = (2 / np.prod(shape[1:])) ** 0.5 if len(shape) > 1 else 0.1
        found[key] = random.normal(0, deviation, shape).astype(np.float32)
    return Weights(found)


def float_network(spec: ResNetSpec = THIN, opset: int = 17, ir_version: int = 8, side: int = SIDE) -> ModelProto:
    """The network in float, its shapes inferred."""
    return infer(write_model(graph(spec), weights(spec), (side, side), opset=opset, ir_version=ir_version))


def ours(target: Target, spec: ResNetSpec = THIN, side: int = SIDE) -> ModelProto:
    """The network as edgeres quantizes and writes it for a target, calibrated on random images."""
    from edgeres.onnx_graph.lowering import for_runtime

    scheme, runtime = target.scheme, target.runtime
    if scheme is None:
        return infer(for_runtime(float_network(spec, runtime.opset, runtime.ir_version, side), runtime))
    placement = place(graph(spec), scheme)
    reference = float_network(spec, side=side)
    names = [name for name in placement.observed if name != "image"]
    pixels = images(8, side=side)
    seen = {**trace(reference, pixels, names), "image": pixels}
    found = {name: _range(value, signed=scheme.signed) for name, value in seen.items() if name in placement.observed}
    found |= {name: found[origin] for name, origin in placement.shared.items()}
    table = QuantTable(
        activations={name: found[name] for name in placement.tensors},
        weights={
            name: weight_qparams(weights(spec)[f"{name}.weight"], scheme.bits_of(name), "max")
            for name in sorted(placement.weighted)
        },
        calibrator="minmax",
        data="",
        images=len(pixels),
    )
    model = write_model(
        graph(spec), weights(spec), (side, side), opset=runtime.opset, ir_version=runtime.ir_version, table=table,
        placement=placement,
    )  # fmt: skip
    return infer(for_runtime(model, runtime))


def _range(values: NDArray[np.float32], *, signed: bool) -> QParams:
    low, high = (float(bound) * _HEADROOM for bound in (min(values.min(), 0), max(values.max(), 0)))
    if signed:
        return QParams(scale=(float(np.float32(max(-low, high) / 127)),))
    scale = float(np.float32((high - low) / 255))
    return QParams(scale=(scale,), zero_point=round(-low / scale), signed=False)


def thin_like(spec: ResNetSpec, width: int = 8) -> ResNetSpec:
    """The same blocks with a fixed small width: the topology of a large network at the cost of a small one."""
    stages = tuple(
        tuple(replace(block, inner=(width,) * len(block.inner), out=width) for block in stage) for stage in spec.stages
    )
    return replace(spec, stem=replace(spec.stem, width=width), stages=stages, norm=False, classes=10)
