"""Channels of imported graphs: which can be scaled, and that scaling preserves the function."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
import torch
from quantized_graph import drawn_spec
from random_weights import random_weights
from torch import nn

from edgeres.model.graph import graph
from edgeres.onnx_graph.channels import channel_units, rescaled
from edgeres.onnx_graph.execute import relative_delta, runner
from edgeres.onnx_graph.fold import fold
from edgeres.onnx_graph.graph_index import GraphIndex
from edgeres.onnx_graph.read import infer
from edgeres.onnx_graph.signature import normalise
from edgeres.onnx_graph.write import write_model
from edgeres.quant.algorithms.channel_scaling import FIXED, tensor_scales
from edgeres.quant.algorithms.channel_scaling import channel_units as units_of_spec

if TYPE_CHECKING:
    from pathlib import Path

SIDE = 16


def images(count: int = 8) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 3, SIDE, SIDE)).astype(np.float32)


def exported(net: nn.Module, folder: Path, opset: int = 17):
    """A torch network as folded ONNX."""
    torch.manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
            nn.init.normal_(module.running_mean, 0, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    path = folder / "net.onnx"
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        torch.onnx.export(
            net.eval(), (torch.zeros(1, 3, SIDE, SIDE),), str(path), opset_version=opset, dynamo=False,
            input_names=["pixels"], output_names=["scores"], dynamic_axes={"pixels": {0: "B"}},
        )  # fmt: skip
    return fold(normalise(onnx.load(str(path)), None))


class Residual(nn.Module):
    """Two branches, one of them grouped, with an average pool and a concat behind."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.one = nn.Sequential(nn.Conv2d(8, 16, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1, groups=4))
        self.two = nn.Conv2d(8, 16, 1)
        self.split = nn.Sequential(nn.Conv2d(16, 8, 1), nn.LeakyReLU(0.1))
        self.other = nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(16, 8, 3), nn.ReLU())
        self.norm = nn.Sequential(nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 12, 1), nn.AvgPool2d(4), nn.Flatten())
        self.fc = nn.Sequential(nn.Linear(192, 20), nn.ReLU(), nn.Linear(20, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = torch.relu(self.one(x) + self.two(x))
        return self.fc(self.norm(torch.cat([self.split(x), self.other(x)], 1)))


class Gated(nn.Module):
    """Squeeze and excitation behind a depthwise convolution, with a Clip that has no upper end."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1, groups=8))
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 4, 1), nn.ReLU(), nn.Conv2d(4, 8, 1), nn.Sigmoid()
        )
        self.project = nn.Sequential(nn.Conv2d(8, 6, 1), nn.MaxPool2d(2))
        self.fc = nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.clamp(self.body(x), min=0.0)
        return self.fc(self.project(x * self.gate(x)).mean((2, 3)))


def bounded(act: nn.Module) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), act, nn.Conv2d(8, 8, 3, padding=1), act, nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 5),
    )  # fmt: skip


@pytest.mark.parametrize(
    "kind", [{}, {"squeeze": 4}, {"preactivation": True}, {"shortcut": "padding"}, {"kind": "bottleneck", "groups": 2}]
)
def test_a_resnets_units_are_those_of_its_spec(kind):
    """Up to the numbers: two channels are one unit there where they are one here."""
    spec = drawn_spec(**kind)
    model = infer(write_model(graph(spec), random_weights(spec), (SIDE, SIDE), opset=17, ir_version=8))
    expected, found = units_of_spec(graph(spec)), channel_units(model)
    names = [op.name for op in graph(spec).ops[:-1]]
    first, second = (np.concatenate([units.of[name] for name in names]).tolist() for units in (expected, found))
    pairs = set(zip(first, second, strict=True))
    assert len(pairs) == len(set(first)) == len(set(second)) > 20
    assert all((one == FIXED) == (other == FIXED) for one, other in pairs)


@pytest.mark.parametrize("make", [Residual, Gated])
@pytest.mark.parametrize("opset", [13, 17])
def test_function_is_preserved_under_any_scales(make, opset, tmp_path):
    torch.manual_seed(1)
    model = exported(make(), tmp_path, opset)
    units = channel_units(model)
    scales = tensor_scales(units, np.exp(np.random.default_rng(0).normal(0, 2, units.count)))
    assert max(np.ptp(np.log(scale)) for scale in scales.values() if scale.size) > 3
    before, after = runner(model)(images()), runner(infer(rescaled(model, scales)))(images())
    assert relative_delta(before, after) < 1e-5


def test_unscaled_reader_changes_the_function(tmp_path):
    """What the test above would see: one reader that does not multiply."""
    torch.manual_seed(1)
    model = exported(Residual(), tmp_path)
    units = channel_units(model)
    scales = tensor_scales(units, np.exp(np.random.default_rng(0).normal(0, 2, units.count)))
    last = [node for node in model.graph.node if node.op_type == "Gemm"][-1]
    scales[last.input[0]] = np.ones(20)
    assert relative_delta(runner(model)(images()), runner(infer(rescaled(model, scales)))(images())) > 1e-2


@pytest.mark.parametrize("act", [nn.SiLU(), nn.Hardswish(), nn.ReLU6(), nn.Sigmoid(), nn.ELU()])
def test_non_homogeneous_operator_fixes_its_channels(act, tmp_path):
    model = exported(bounded(act), tmp_path)
    units, view = channel_units(model), GraphIndex.of(model)
    for node in view.of_type("Conv")[1:]:
        assert not units.of[node.input[0]].any()


def test_tensor_that_is_also_an_output_is_fixed(tmp_path):
    model = exported(bounded(nn.ReLU()), tmp_path)
    shown = next(node.output[0] for node in model.graph.node if node.op_type == "Relu")
    assert channel_units(model).of[shown].all()
    model.graph.output.append(onnx.ValueInfoProto(name=shown))
    shape = onnx.helper.make_tensor_value_info(shown, onnx.TensorProto.FLOAT, ["N", 8, SIDE, SIDE])
    model.graph.output[1].CopyFrom(shape)
    assert not channel_units(model).of[shown].any()


def test_rescaling_leaves_its_input_unchanged(tmp_path):
    model = exported(bounded(nn.ReLU()), tmp_path)
    before, units = model.SerializeToString(deterministic=True), channel_units(model)
    rescaled(model, tensor_scales(units, np.exp(np.random.default_rng(0).normal(0, 2, units.count))))
    assert model.SerializeToString(deterministic=True) == before
