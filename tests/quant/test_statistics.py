"""What norms know, against samples."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from random_weights import random_weights

from edgeres.model.graph import graph
from edgeres.model.network import Network
from edgeres.model.spec import preset
from edgeres.pipeline.stages.fold_batchnorm import folded
from edgeres.quant.statistics import clipped_normal, contracted, expected_activations, normal_statistics


def normed(spec):
    return replace(spec, norm=True)


def test_a_norm_says_beta_and_gamma_of_the_convolution_before_it(thin):
    spec = normed(thin)
    weights = random_weights(spec).replaced({"bn1.running_var": np.full(8, 4.0)})
    known = normal_statistics(spec, weights)
    assert np.array_equal(known["conv1.mean"], weights["bn1.bias"])
    assert known["conv1.std"] == pytest.approx(np.abs(weights["bn1.weight"]) * np.sqrt(4 / (4 + 1e-5)))
    convolutions = {op.name for op in graph(spec).ops if op.kind == "conv"}
    assert set(known) == {f"{name}.{key}" for name in convolutions for key in ("mean", "std")}


def test_a_norm_that_stays_knows_both_of_its_sides(thin):
    spec = replace(normed(thin), preactivation=True)
    weights = random_weights(spec)
    known = normal_statistics(spec, weights)
    assert np.array_equal(known["layer1.0.add.mean"], weights["layer2.0.bn1.running_mean"])
    assert known["layer1.0.add.std"] == pytest.approx(np.sqrt(weights["layer2.0.bn1.running_var"]))
    assert np.array_equal(known["layer2.0.bn1.mean"], weights["layer2.0.bn1.bias"])
    assert np.array_equal(known["layer1.0.conv1.mean"], weights["layer1.0.bn2.bias"])
    assert "layer1.0.bn2.mean" not in known


@given(st.floats(-3, 3), st.floats(0.01, 3))
def test_the_clipped_normal(mean, std):
    """Against quadrature over 200,001 points."""
    x = np.linspace(mean - 10 * std, mean + 10 * std, 200_001)
    density = np.exp(-(((x - mean) / std) ** 2) / 2) / (std * np.sqrt(2 * np.pi)) * (x[1] - x[0])
    first = (np.maximum(x, 0) * density).sum()
    second = (np.maximum(x, 0) ** 2 * density).sum()
    found = clipped_normal(np.array([mean]), np.array([std]))
    assert found[0][0] == pytest.approx(first, abs=1e-6)
    assert found[1][0] == pytest.approx(second - first**2, abs=1e-5)


def test_constant_channels_are_clipped_like_numbers():
    mean, variance = clipped_normal(np.array([-2.0, 0.0, 3.0]), np.zeros(3))
    assert mean == pytest.approx([0, 0, 3])
    assert variance == pytest.approx([0, 0, 0], abs=1e-9)


def test_a_contraction_by_hand():
    """Two groups of one input: outputs 0 and 1 read input 0, outputs 2 and 3 read input 1."""
    spec = replace(preset("resnext50_32x4d"), norm=False)
    op = replace(graph(spec)["layer1.0.conv2"], c_in=2, c_out=4, groups=2)
    kernel = np.arange(4 * 9).reshape(4, 1, 3, 3).astype(float)
    sums = kernel.sum((1, 2, 3))
    assert contracted(op, kernel, np.array([10.0, 1.0])) == pytest.approx(sums * [10, 10, 1, 1])


@pytest.mark.parametrize("name", ["resnet18", "seresnet18", "resnetv2_18", "resnet20"])
def test_expectations_are_near_the_means_of_the_data_the_norms_saw(name):
    """Norms whose statistics are those of this data: exact behind them, near behind what is approximated."""
    full = preset(name)
    blocks = tuple(tuple(replace(block, inner=(12,), squeeze=4 if block.squeeze else 0) for block in stage[:1])
                   for stage in full.stages[:2])  # fmt: skip
    spec = replace(full, stages=blocks, classes=4)
    torch.manual_seed(0)
    network = Network(spec, random_weights(spec))
    images = torch.nn.functional.interpolate(torch.randn(64, 3, 8, 8), size=32, mode="bilinear")
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    network.train()
    with torch.no_grad():
        network(images)
    bare, weights = folded(spec, network.weights())
    known = normal_statistics(spec, network.weights())
    expected = expected_activations(bare, weights, known)
    seen = {}
    with torch.inference_mode():
        Network(bare, weights).eval()(
            images, lambda tensor, x: seen.__setitem__(tensor, x.transpose(0, 1).flatten(1).double().numpy())
        )
    assert "image" not in expected
    for op in graph(bare).ops:
        if op.kind in ("relu", "conv", "add", "zeropad", "mul") and op.name in expected:
            error = np.abs(expected[op.name] - seen[op.name].mean(1)) / (seen[op.name].std() + 1e-9)
            told = f"{op.name}.mean" in known
            clipped = op.kind == "relu" and f"{op.inputs[0]}.mean" in known
            assert error.mean() < (1e-3 if told else 0.03 if clipped else 0.25), op.name
    assert len(expected) >= len(graph(bare).ops) - 1 - (name == "resnetv2_18")
