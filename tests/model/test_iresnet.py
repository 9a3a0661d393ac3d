"""ArcFace's networks: equal to a module written down from the paper, with insightface's names, also after folding."""

import numpy as np
import pytest
import torch
from stored_tensors import stored
from torch import nn

from edgeres.errors import ModelError
from edgeres.model.cost import shapes
from edgeres.model.graph import graph
from edgeres.model.network import Network
from edgeres.model.presets import PRESETS, preset
from edgeres.model.spec import Block, ResNetSpec, Stem
from edgeres.model.weights import RawFile
from edgeres.model.zoo import assemble
from edgeres.pipeline.stages.fold_batchnorm import folded


class Improved(nn.Module):
    """BN, 3x3, BN, PReLU, 3x3 with the stride, BN, and the add without an activation."""

    def __init__(self, width, out, stride):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(width), nn.Conv2d(width, out, 3, 1, 1, bias=False)
        self.bn2, self.prelu = nn.BatchNorm2d(out), nn.PReLU(out)
        self.conv2, self.bn3 = nn.Conv2d(out, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
        shortcut = nn.Sequential(nn.Conv2d(width, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        self.downsample = shortcut if stride > 1 else None

    def forward(self, x):
        y = self.bn3(self.conv2(self.prelu(self.bn2(self.conv1(self.bn1(x))))))
        return y + (x if self.downsample is None else self.downsample(x))


class Face(nn.Module):
    def __init__(self, widths, depth, embedding, side):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0])
        self.prelu, width, stages = nn.PReLU(widths[0]), widths[0], []
        for number, out in enumerate(widths, start=1):
            blocks = [Improved(width if not index else out, out, 1 if index else 2) for index in range(depth)]
            stages.append(nn.Sequential(*blocks))
            self.add_module(f"layer{number}", stages[-1])
            width = out
        self.stages = tuple(stages)
        self.bn2, self.dropout = nn.BatchNorm2d(width), nn.Dropout(0.4)
        self.fc, self.features = nn.Linear(width * side**2, embedding), nn.BatchNorm1d(embedding)

    def forward(self, x):
        x = self.prelu(self.bn1(self.conv1(x)))
        for stage in self.stages:
            x = stage(x)
        return self.features(self.fc(torch.flatten(self.dropout(self.bn2(x)), 1)))


@pytest.fixture(scope="module")
def face():
    torch.manual_seed(0)
    module = Face((8, 12, 16, 20), 2, 6, 2)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.5)
            part.momentum = 1.0
        if isinstance(part, nn.PReLU):
            nn.init.uniform_(part.weight, -0.3, 0.6)
    with torch.no_grad():
        module.train()(torch.randn(8, 3, 32, 32))
    return module.eval()


def test_insightfaces_tensors_are_read_and_answer_alike_before_and_after_folding(face):
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = face(images).numpy()
    loaded = assemble("face", RawFile(stored(face.state_dict())), None)
    spec, weights = folded(loaded.spec, loaded.weights)
    for network in (Network(graph(loaded.spec), loaded.weights), Network(graph(spec), weights)):
        np.testing.assert_allclose(network.logits(images.numpy()), expected, atol=2e-5 * np.abs(expected).max())
    # The norm in front of a padded convolution stays, one per block; every other one is gone.
    assert [op.name for op in graph(spec).ops if op.kind == "norm"] == [f"{name}.bn1" for name, _, _ in spec.blocks]
    assert loaded.spec.grid == (2, 2)


def test_a_leading_norm_folded_into_a_padded_convolution_would_be_wrong_at_the_border(face):
    """Zeros around the normalized image are not what any single padding of the image before the norm becomes."""
    block = face.layer1[1]
    gain = block.bn1.weight / torch.sqrt(block.bn1.running_var + block.bn1.eps)
    shift = block.bn1.bias - block.bn1.running_mean * gain
    x = torch.randn(1, 8, 6, 6)
    with torch.no_grad():
        expected = block.conv1(block.bn1(x))
        weight = block.conv1.weight * gain.reshape(1, -1, 1, 1)
        bias = (block.conv1.weight * shift.reshape(1, -1, 1, 1)).sum((1, 2, 3))
        merged = torch.nn.functional.conv2d(x, weight, bias, padding=1)
    torch.testing.assert_close(merged[:, :, 1:-1, 1:-1], expected[:, :, 1:-1, 1:-1], rtol=1e-4, atol=1e-4)
    assert (merged - expected).abs().max() > 0.1


def test_presets_take_faces_of_112_pixels_alone():
    assert shapes(graph(preset("iresnet50")), 112, 112)["flatten"] == (25088,)
    with pytest.raises(ModelError, match="the head reads 49 pixels of features") as caught:
        shapes(graph(preset("iresnet50")), 224, 224)
    assert "112" in caught.value.hint


@pytest.mark.parametrize(("name", "millions"), [("18", 24.0), ("34", 34.1), ("50", 43.6), ("100", 65.2)])
def test_parameters_are_those_that_insightface_has(name, millions):
    from edgeres.model.cost import parameters

    assert parameters(graph(PRESETS[f"iresnet{name}"])) / 1e6 == pytest.approx(millions, abs=0.1)


def test_a_leading_norm_in_a_bottleneck_is_refused():
    with pytest.raises(ModelError, match="leading norm"):
        ResNetSpec(
            kind="bottleneck",
            stem=Stem(),
            stages=((Block(inner=(8, 8), out=64),),),
            leading_norm=True,
        )
