"""Channels brought to like ranges, by activations and by weights."""

import numpy as np
import pytest
import torch
from random_weights import random_weights

from edgeres.errors import StageError
from edgeres.model.graph import graph
from edgeres.model.network import Network
from edgeres.model.spec import Block, ResNetSpec, Stem
from edgeres.quant.cross_layer import cross_layer_scales
from edgeres.quant.equalize import LEAST, channel_peaks, equalized, equalizing_scales
from edgeres.quant.placement import place
from edgeres.quant.rescale import channel_units, rescaled
from edgeres.target import find_target

SCHEME = find_target("jetson").scheme


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(9, 3, 12, 12)).astype(np.float32)


def test_peaks_are_the_largest_magnitudes(thin, thin_weights, images):
    network = Network(thin, thin_weights).eval()
    found = channel_peaks(network, [images])
    seen = {}
    with torch.inference_mode():
        network(torch.from_numpy(images), lambda name, x: seen.__setitem__(name, x.abs()))
    assert set(found) == {name for name, x in seen.items() if x.ndim == 4}
    for name, peak in found.items():
        assert peak == pytest.approx(seen[name].amax((0, 2, 3)).numpy(), rel=1e-5, abs=1e-6)


def test_peaks_are_the_same_for_any_batch_size_order_and_threads(thin, thin_weights, images):
    network, ticks = Network(thin, thin_weights), []
    expected = channel_peaks(network, [images], ticks.append)
    assert sum(ticks) == len(images)
    torch.set_num_threads(1 + torch.get_num_threads())
    other = channel_peaks(network, [images[::-1][:2], images[::-1][2:]])
    assert all(np.array_equal(expected[name], other[name]) for name in expected)


def test_peaks_need_images_and_numbers(thin, thin_weights, images):
    with pytest.raises(StageError, match="no calibration images"):
        channel_peaks(Network(thin, thin_weights), [])
    broken = images.copy()
    broken[3, 0, 0, 0] = np.nan
    with pytest.raises(StageError, match="'image' holds NaN"):
        channel_peaks(Network(thin, thin_weights), [broken])


def test_scales_by_hand(thin):
    """Peaks 8, 2 and 0: relative 1, 1/4; at strength 1/2 the ratio is 2, the mean 1, and the dead one stays."""
    placement = place(graph(thin), SCHEME)
    peaks = {"layer1.0.relu1": np.array([8.0, 2.0, 0, 0, 0, 0, 0, 0])}
    scales = equalizing_scales(thin, peaks, placement, 0.5)
    assert scales["layer1.0.relu1"] == pytest.approx([2**0.5, 2**-0.5, 1, 1, 1, 1, 1, 1])
    assert scales["maxpool"] == pytest.approx(np.ones(8))


def test_a_unit_goes_by_the_tensor_that_needs_it_most(thin):
    placement = place(graph(thin), SCHEME)
    quiet, loud = np.full(8, 0.01), np.full(8, 0.5)
    quiet[0], loud[1] = 1, 5  # relative peaks of channel 0: 1 and 0.1; of channel 1: 0.01 and 1
    scales = equalizing_scales(thin, {"maxpool": quiet, "layer1.0.relu": loud}, placement, 1.0)["maxpool"]
    assert scales / scales[0] == pytest.approx([1, 1, *[0.1] * 6])


def test_nearly_dead_channels_do_not_explode(thin):
    peaks = {"maxpool": np.array([1.0, 1e-30, *[1.0] * 6])}
    scales = equalizing_scales(thin, peaks, place(graph(thin), SCHEME), 1.0)["maxpool"]
    assert scales[0] / scales[1] == pytest.approx(1 / LEAST)


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_the_function_stays_and_ranges_come_together(thin, thin_weights, images, strength):
    placement = place(graph(thin), SCHEME)
    before = channel_peaks(Network(thin, thin_weights), [images])
    weights = equalized(thin, thin_weights, before, placement, strength)
    expected = Network(thin, thin_weights).logits(images)
    assert np.abs(Network(thin, weights).logits(images) - expected).max() <= 1e-5 * np.ptp(expected)
    peaks = channel_peaks(Network(thin, weights), [images])["layer1.0.relu1"]
    spread = np.log(before["layer1.0.relu1"]).std()
    assert np.log(peaks).std() == pytest.approx((1 - strength) * spread, abs=1e-5)


def test_cross_layer_equalization_by_hand():
    """Ranges 8 and 2 become 4 and 4 at s = 2; 1 and 9 become 3 and 3 at s = 1/3; scales up to a common factor."""
    spec = ResNetSpec(
        kind="basic", stem=Stem(width=1, kernel=1, pool=False), stages=((Block(inner=(2,), out=1),),), norm=False
    )
    weights = random_weights(spec)
    first, second = np.zeros((2, 1, 3, 3)), np.zeros((1, 2, 3, 3))
    first[:, 0, 0, 0], second[0, :, 1, 1] = [-8, 1], [2, -9]
    weights = weights.replaced({"layer1.0.conv1.weight": first, "layer1.0.conv2.weight": second})
    scales = cross_layer_scales(spec, weights)["layer1.0.relu1"]
    assert scales[0] / scales[1] == pytest.approx(6)
    after = rescaled(spec, weights, cross_layer_scales(spec, weights))
    rows, columns = np.abs(after["layer1.0.conv1.weight"]).max((1, 2, 3)), np.abs(after["layer1.0.conv2.weight"])
    assert rows / columns.max((0, 2, 3)) == pytest.approx(np.full(2, rows[0] / columns[0, 0].max()), rel=1e-5)


def test_cross_layer_equalization_levels_every_unit(thin, thin_weights):
    weights = rescaled(thin, thin_weights, cross_layer_scales(thin, thin_weights))
    images = np.random.default_rng(1).normal(size=(2, 3, 12, 12)).astype(np.float32)
    expected = Network(thin, thin_weights).logits(images)
    assert np.abs(Network(thin, weights).logits(images) - expected).max() <= 1e-5 * np.ptp(expected)
    again = cross_layer_scales(thin, weights)
    assert max(np.abs(np.log(scale)).max() for scale in again.values()) < 1e-3
    units = channel_units(thin)
    rows = np.abs(weights["layer1.0.conv1.weight"]).max((1, 2, 3))
    columns = np.abs(weights["layer1.0.conv2.weight"]).max((0, 2, 3))
    ratio = rows / columns
    assert len(set(units.group[units.of["layer1.0.relu1"]])) == 1
    assert np.log(ratio).std() < 1e-3 < np.log(np.abs(thin_weights["layer1.0.conv1.weight"]).max((1, 2, 3))).std()
