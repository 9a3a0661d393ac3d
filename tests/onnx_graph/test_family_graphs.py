"""Every kind of the ResNet family as an ONNX graph: equal to torch, and exactly what the integer reference computes."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from family_networks import NETWORKS
from quantized_graph import drawn
from random_weights import random_weights

from edgeres.data.size import Size
from edgeres.errors import ModelError
from edgeres.model.cost import layers, macs
from edgeres.model.graph import graph
from edgeres.model.network import Network
from edgeres.onnx_graph import operator_counts
from edgeres.onnx_graph.execute import trace
from edgeres.onnx_graph.write import LOGITS, write_model
from edgeres.pipeline.request import PreprocessFlags, Request
from edgeres.targets.target import find_target

X86, JETSON = find_target("x86").scheme, find_target("jetson").scheme


EVEN = ("averaged downsampling", "pool by average", "ArcFace", "attention pool")
"""Networks whose branches agree on even sizes alone, in timm as here, or whose head takes one size."""


def pixels(side, count=3):
    return np.random.default_rng(1).normal(size=(count, 3, side, side)).astype(np.float32)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("side", [32, 37])
def test_a_float_graph_computes_what_torch_does(name, side):
    if name in EVEN and side % 2:
        pytest.skip("refused: see below")
    for spec in (NETWORKS[name], replace(NETWORKS[name], norm=True)):
        weights, images = random_weights(spec), pixels(side)
        model = write_model(graph(spec), weights, (side, side), opset=17, ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        with torch.no_grad():
            expected = Network(graph(spec), weights).eval()(torch.from_numpy(images)).numpy()
        found = trace(model, images, [LOGITS])[LOGITS]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
        assert operator_counts.macs(model) == macs(graph(spec), side, side)
        shapes = {row.output: row.output_shape for row in operator_counts.layers(model)}
        for row in layers(graph(spec), side, side)[:-1]:
            assert shapes[row.output] == row.output_shape, row.name


@pytest.mark.parametrize("name", EVEN)
def test_a_size_that_a_network_cannot_take_is_refused(name):
    with pytest.raises(ModelError, match=r"for images of 37x37|images of 37x37 give 10x10"):
        macs(graph(NETWORKS[name]), 37, 37)


@pytest.mark.parametrize(("model", "side"), [("resnetaa50d", 57), ("iresnet50", 224), ("resnetblur18", 8)])
def test_a_crop_that_a_model_cannot_take_is_refused_with_the_request(model, side):
    flags = PreprocessFlags(crop=Size.square(side))
    with pytest.raises(ModelError, match=r"multiple of 32|112 for ArcFace|larger crop"):
        Request(model=model, target="x86", preprocess=flags).check_names()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("scheme", [X86, JETSON], ids=["x86", "jetson"])
def test_codes_are_those_of_the_integer_reference(name, scheme, tmp_path):
    sample = drawn(NETWORKS[name], scheme, side=32)
    logits, codes = sample.shown(tmp_path, optimise=False)
    exact, expected = sample.reference.run(sample.images)
    assert codes.keys() == expected.keys()
    for tensor, wanted in expected.items():
        steps = np.abs(codes[tensor].astype(int) - wanted.astype(int))
        assert (steps > 0).mean() <= 0.02, tensor
    assert np.abs(logits - exact).max() <= 0.05 * np.ptp(exact)
    with torch.no_grad():
        fake = sample.torch(torch.from_numpy(sample.images)).numpy()
    assert np.abs(logits - fake).max() <= 0.05 * np.ptp(fake)


def test_a_blur_in_integers_has_codes_of_whole_sixteenths():
    model = drawn(NETWORKS["blur"], X86, side=32).model
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    codes = values["layer2.0.aa.weight.codes"]
    assert codes.dtype == np.int8
    np.testing.assert_array_equal(codes[0, 0], [[1, 2, 1], [2, 4, 2], [1, 2, 1]])
    assert set(values["layer2.0.aa.weight.scale"]) == {np.float32(1 / 16)}
