"""Biases that take back what quantization adds to a mean."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from random_weights import random_weights

from edgeres.errors import StageError
from edgeres.model.graph import graph
from edgeres.model.network import Network
from edgeres.model.presets import preset
from edgeres.quant.algorithms.bias_correction import empirical_bias
from edgeres.quant.observer import observe
from edgeres.quant.placement import place
from edgeres.quant.quant_table import quant_table
from edgeres.quant.quantized import Quantized


def coarse(spec, weights, scheme, images, bits=4):
    """A network with few levels for its weights, so that means move."""
    scheme = replace(scheme, weight_bits=bits)
    placement = place(graph(spec), scheme)
    histograms = observe(Network(graph(spec), weights), [images], placement.observed)
    table = quant_table(
        weights, histograms, placement, scheme, calibrator="mse", method="max", data="", images=len(images)
    )
    return Quantized(graph(spec), weights, table, scheme)


@pytest.fixture(scope="module")
def images():
    return (np.random.default_rng(0).normal(size=(40, 3, 12, 12)) + 0.5).astype(np.float32)


@pytest.fixture
def quantized(thin, thin_weights, scheme, images):
    return coarse(thin, thin_weights, scheme, images)


def means(network, images):
    """Mean ``[C]`` of every convolution's output."""
    seen = {}

    def tap(name, x):
        if network.graph[name].kind == "conv" if name != "image" else False:
            seen[name] = x.double().mean((0, 2, 3)).numpy()

    with torch.inference_mode():
        network.eval()(torch.from_numpy(images), tap)
    return seen


def layer_by_layer(quantized, images):
    """The definition: one pass for each layer, in execution order."""
    wanted = means(Network(quantized.graph, quantized.weights), images)
    for op in quantized.graph.weighted:
        if op.name in quantized.table.weights:
            lacking = wanted[op.name] - means(quantized.network(), images)[op.name]
            key = f"{op.name}.bias"
            quantized = replace(quantized, weights=quantized.weights.replaced({key: quantized.weights[key] + lacking}))
    return quantized


def test_one_block_of_images_is_exactly_layer_by_layer(thin, thin_weights, quantized, images):
    some = images[:16]
    expected = layer_by_layer(quantized, some)
    found = empirical_bias(Network(graph(thin), thin_weights), quantized, lambda: [some])
    for key in expected.weights:
        assert found.weights[key] == pytest.approx(expected.weights[key], abs=2e-5), key


def test_many_blocks_restore_the_means_of_all_images(thin, thin_weights, quantized, images):
    ticks = []
    found = empirical_bias(Network(graph(thin), thin_weights), quantized, lambda: [images], ticks.append)
    wanted = means(Network(graph(thin), thin_weights), images)
    before, after = means(quantized.network(), images), means(found.network(), images)
    assert sum(ticks) == len(images)
    for name in quantized.table.weights:
        moved = np.abs(before[name] - wanted[name]).max()
        assert np.abs(after[name] - wanted[name]).max() < moved / 3, name
    assert found.table == quantized.table
    assert all(np.array_equal(found.weights[k], thin_weights[k]) for k in thin_weights if k.endswith("weight"))


def test_biases_are_the_same_for_any_batches(thin, thin_weights, quantized, images):
    network = Network(graph(thin), thin_weights)
    one = empirical_bias(network, quantized, lambda: [images])
    other = empirical_bias(network, quantized, lambda: (images[start : start + 7] for start in range(0, 40, 7)))
    assert one.weights.digest == other.weights.digest


def test_no_images_are_refused(thin, thin_weights, quantized):
    with pytest.raises(StageError, match="no images"):
        empirical_bias(Network(graph(thin), thin_weights), quantized, list)


def test_convolutions_without_a_bias_stay(scheme, images):
    full = preset("resnetv2_18")
    blocks = tuple(tuple(replace(block, inner=(8,), out=8, projected=False, stride=1) for block in stage[:1])
                   for stage in full.stages[:1])  # fmt: skip
    spec = replace(full, stem=replace(full.stem, width=8), stages=blocks, classes=3, norm=False)
    weights = random_weights(spec)
    quantized = coarse(spec, weights, scheme, images)
    found = empirical_bias(Network(graph(spec), weights), quantized, lambda: [images])
    changed = {key for key in weights if not np.array_equal(found.weights[key], weights[key])}
    assert changed == {"layer1.0.conv1.bias"}
