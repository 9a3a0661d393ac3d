"""Activation ranges chosen by what they do to the answers."""

from dataclasses import replace

import numpy as np
import pytest
from test_importance import calibrated

from edgeres.errors import StageError
from edgeres.metrics import kl
from edgeres.model.graph import graph
from edgeres.model.network import Network
from edgeres.quant.algorithms.range_search import FACTORS, best_factors, divergences, refined
from edgeres.quant.quantized import QuantNetwork


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(32, 3, 12, 12)).astype(np.float32)


@pytest.fixture
def soft(thin_weights):
    """Weights whose answers are open enough to be moved."""
    return thin_weights.replaced({"fc.weight": thin_weights["fc.weight"] / 6, "fc.bias": np.zeros(5)})


def spoiled(quantized, tensor, factor):
    """The network with one scale that is wrong by a factor, and those that share it."""
    table, placement = quantized.table, quantized.placement
    wrong = {
        name: replace(params, scale=(float(np.float32(params.scale[0] * factor)),))
        for name, params in table.activations.items()
        if placement.shared.get(name, name) == tensor
    }
    return replace(quantized, table=replace(table, activations={**table.activations, **wrong}))


def test_predicted_divergence_is_the_measured_one(thin, soft, images, scheme):
    """A range cut to 0.7 of the calibrated one, everything else in float."""
    quantized = calibrated(thin, soft, scheme, images)
    tensor = "layer2.0.relu1"

    class Alone(QuantNetwork):
        def read(self, op, index, values):
            read = super().read(op, index, values)
            return read if op.inputs[index] == tensor else values[op.inputs[index]]

    cut = spoiled(quantized, tensor, FACTORS[0])
    table = replace(cut.table, weights={})
    alone = Alone(graph(thin), soft, table, quantized.placement)
    measured = kl(Network(graph(thin), soft).logits(images), alone.logits(images))
    many = np.concatenate([images + np.float32(1e-5 * index) for index in range(6)])  # other directions each
    predicted = divergences(quantized, lambda: [many], limit=len(many))[tensor][0]
    assert predicted == pytest.approx(measured, rel=0.35)


@pytest.mark.parametrize("factor", [0.6, 1.6])
def test_a_wrong_scale_is_put_right(thin, soft, images, scheme, factor):
    quantized = calibrated(thin, soft, scheme, images)
    tensor = "layer1.0.relu"
    wrong = spoiled(quantized, tensor, factor)
    found = refined(wrong, lambda: [images])
    change = found.table.activations[tensor].scale[0] / wrong.table.activations[tensor].scale[0]
    assert change > 1.2 if factor < 1 else change < 0.9
    expected = Network(graph(thin), soft).logits(images)
    if factor < 1:
        assert kl(expected, found.network().logits(images)) < kl(expected, wrong.network().logits(images)) / 2
    assert found.weights is wrong.weights
    assert {p.zero_point for p in found.table.activations.values()} == {
        p.zero_point for p in wrong.table.activations.values()
    }


def test_tensors_of_one_scale_keep_one(thin, soft, images, scheme):
    quantized = calibrated(thin, soft, scheme, images)
    for origin in set(quantized.placement.shared.values()):
        quantized = spoiled(quantized, origin, 0.6)
    found = refined(quantized, lambda: [images]).table.activations
    for tensor, origin in quantized.placement.shared.items():
        assert found[tensor] == found[origin]


def test_any_batches_give_the_same_scales(thin, soft, images, scheme):
    quantized, ticks = calibrated(thin, soft, scheme, images), []
    one = divergences(quantized, lambda: [images], advance=ticks.append)
    other = divergences(quantized, lambda: (images[i : i + 5] for i in range(0, 32, 5)))
    assert sum(ticks) == 32
    assert all(np.array_equal(one[tensor], other[tensor]) for tensor in one)
    assert set(one) == set(quantized.placement.observed)
    with pytest.raises(StageError, match="no calibration images"):
        refined(quantized, list)


def test_the_least_is_looked_for_among_averages_with_neighbours():
    """4, 1, 9, 2, 2, 2, ... has its least at 1, its averages 15, 15, 21, 15, 8, 8, ... theirs at the first 8."""
    costs = np.array([4.0, 1, 9, 2, 2, 2, 5, 5, 5])
    assert best_factors({"x": costs}) == {"x": FACTORS[4]}
    assert best_factors({"x": np.zeros(9)}) == {"x": 1.0}
