"""Quantized networks of random weights, with the ranges that their tensors really have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from random_weights import random_weights

from edgeres.backends.session import showing_session
from edgeres.model.graph import graph
from edgeres.model.network import Network
from edgeres.model.spec import Block, ResNetSpec, Stem
from edgeres.onnx_graph.write import write_model
from edgeres.parity.integer.network import IntegerNetwork
from edgeres.quant.placement import place
from edgeres.quant.qparams import QParams, weight_qparams
from edgeres.quant.quant_table import QuantTable
from edgeres.quant.quantized import QuantNetwork

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

    from edgeres.targets.target import QuantScheme

SIDE = 12


def drawn_spec(*, kind="basic", shortcut="projection", preactivation=False, squeeze=0, groups=1, pool=True):
    """Three blocks: an untouched identity, one that changes shape, and one behind it."""
    inner = (8,) if kind == "basic" else (8, 8)
    first = Block(inner=inner, out=8, squeeze=squeeze, groups=groups)
    second = Block(inner=inner, out=12, stride=2, squeeze=squeeze, groups=groups, projected=shortcut == "projection")
    third = Block(inner=inner, out=12, squeeze=squeeze, groups=groups)
    return ResNetSpec(
        kind=kind,
        stem=Stem(width=8, kernel=3, stride=1, pool=pool),
        stages=((first,), (second, third)),
        classes=5,
        shortcut=shortcut,
        preactivation=preactivation,
        norm=False,
    )


@dataclass
class Drawn:
    """A quantized network with some images."""

    model: onnx.ModelProto
    torch: QuantNetwork
    images: np.ndarray

    @property
    def reference(self) -> IntegerNetwork:
        return IntegerNetwork(self.model)

    def shown(self, folder: Path, *, optimise: bool, model: onnx.ModelProto | None = None):
        """Logits, and codes by tensor, of ONNX Runtime."""
        path, names = folder / "shown.onnx", self.reference.codes
        path.write_bytes((model or self.model).SerializeToString())
        with showing_session(path, list(names.values()), optimise=optimise, threads=1) as session:
            logits, codes = session.run(self.images)
        return logits, {tensor: codes[name] for tensor, name in names.items()}


def drawn(spec: ResNetSpec, scheme: QuantScheme, seed: int = 0, images: int = 2, side: int = SIDE) -> Drawn:
    """Weights and images by chance, scales by the largest values there are."""
    random, weights = np.random.default_rng(seed), random_weights(spec, seed)
    batch = random.normal(size=(images, 3, side, side)).astype(np.float32)
    values: dict[str, np.ndarray] = {}
    with torch.no_grad():
        Network(graph(spec), weights).eval()(torch.from_numpy(batch), lambda name, x: values.update({name: x.numpy()}))
    placement = place(graph(spec), scheme)
    found = {tensor: _range(values[tensor], signed=scheme.signed) for tensor in placement.observed}
    found |= {tensor: found[origin] for tensor, origin in placement.shared.items()}
    table = QuantTable(
        activations={tensor: found[tensor] for tensor in placement.tensors},
        weights={
            name: weight_qparams(weights[f"{name}.weight"], scheme.bits_of(name), "max")
            for name in sorted(placement.weighted)
        },
        calibrator="minmax",
        data="0",
        images=images,
    )
    model = write_model(graph(spec), weights, (side, side), opset=17, ir_version=8, table=table, placement=placement)
    return Drawn(model, QuantNetwork(graph(spec), weights, table, placement).eval(), batch)


def _range(x: np.ndarray, *, signed: bool) -> QParams:
    low, high = min(0.0, float(x.min())), max(0.0, float(x.max()))
    if signed:
        return QParams(scale=(float(np.float32(max(high, -low, 1e-3) / 127)),))
    step = float(np.float32(max(high - low, 1e-3) / 255))
    return QParams(scale=(step,), zero_point=round(-low / step), signed=False)
