"""Channels levelled against the weights that read them."""

from __future__ import annotations

import numpy as np
import pytest

from edgeres.quant.algorithms.channel_scaling import FIXED, Ties, Units, partition
from edgeres.quant.algorithms.cross_layer_equalization import Carried, Reading, cross_layer_scales


def one_tensor(channels: int, name: str = "x") -> Units:
    ties = Ties()
    return partition({name: ties.fresh(channels)}, ties)


def test_scales_by_hand():
    """Activations 8 and 2, weights 1 and 1: shares 1, 1/4 and 1, 1; s = 1 and 1/2, of geometric mean 1."""
    units = one_tensor(2)
    carried = Carried(units.of["x"], np.array([8.0, 2.0]))
    reading = Reading(units.of["x"][None], np.array([[[1.0, 1.0]]]))
    scales = cross_layer_scales(units, [carried], [reading])["x"]
    assert scales == pytest.approx([2**0.5, 2**-0.5], rel=1e-3)
    assert carried.peaks / scales / (carried.peaks / scales).max() == pytest.approx([1, 0.5], rel=1e-3)
    after = reading.shares(np.concatenate([[1.0], scales]))
    assert after[0] == pytest.approx([1, 0.5], rel=1e-3)


def test_a_scaled_channel_is_brought_back_to_where_it_would_have_been():
    """Whatever factor somebody put on a channel and took from its readers, the network behind is the same."""
    random = np.random.default_rng(0)
    units, factors = one_tensor(16), np.where(np.arange(16) % 5 == 0, 100.0, 1.0)
    peaks, weights = random.lognormal(size=16), random.lognormal(size=(1, 24, 16))
    channels = units.of["x"]

    def levelled(factor):
        carried, reading = Carried(channels, peaks * factor), Reading(channels[None], weights / factor)
        scales = cross_layer_scales(units, [carried], [reading])["x"]
        return carried.peaks / scales, reading.peaks * scales

    for before, after in zip(levelled(np.ones(16)), levelled(factors), strict=True):
        assert after / after.max() == pytest.approx(before / before.max(), rel=2e-3)


def test_dead_and_fixed_channels_stay():
    ties = Ties()
    channels = {"x": np.concatenate([ties.fresh(3), [FIXED]]), "y": ties.fresh(2)}
    units = partition(channels, ties)
    carried = Carried(units.of["x"], np.array([4.0, 0.0, 1.0, 7.0]))
    reading = Reading(units.of["x"][None], np.array([[[1.0, 1.0, 0.5, 3.0]]]))
    scales = cross_layer_scales(units, [carried], [reading])
    assert scales["x"][1] == scales["x"][3] == 1.0
    assert scales["x"][0] > 1 > scales["x"][2]
    assert scales["y"].tolist() == [1.0, 1.0]  # no integer weight reads it


def test_a_nearly_dead_channel_does_not_explode():
    units = one_tensor(3)
    carried = Carried(units.of["x"], np.array([1.0, 1e-30, 1.0]))
    scales = cross_layer_scales(units, [carried], [Reading(units.of["x"][None], np.ones((1, 4, 3)))])["x"]
    assert np.isfinite(scales).all()
    assert scales[0] / scales[1] < 2.0**25


def test_depthwise_weights_cost_nothing_and_activations_become_even():
    units = one_tensor(3)
    carried = Carried(units.of["x"], np.array([9.0, 1.0, 4.0]))
    reading = Reading(units.of["x"].reshape(3, 1), np.array([5.0, 0.1, 2.0]).reshape(3, 1, 1))
    scales = cross_layer_scales(units, [carried], [reading])["x"]
    assert np.ptp(carried.peaks / scales) < 1e-2
