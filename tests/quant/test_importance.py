"""What noise costs, predicted and measured, and the scales that follow."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_weights import random_weights

from edgeres.errors import StageError
from edgeres.metrics import kl
from edgeres.model.graph import graph
from edgeres.model.network import Network
from edgeres.model.spec import Block, ResNetSpec, Stem
from edgeres.model.weights import Weights
from edgeres.quant.algorithms.channel_scaling import FIXED, channel_units, rescaled
from edgeres.quant.algorithms.equalization import _terms, balancing_scales
from edgeres.quant.algorithms.fisher_information import TAIL, Probe, importance, softmax_direction
from edgeres.quant.observer import observe
from edgeres.quant.placement import place
from edgeres.quant.quant_table import quant_table
from edgeres.quant.quantized import Quantized
from edgeres.targets.target import find_target


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(24, 3, 12, 12)).astype(np.float32)


def calibrated(spec, weights, scheme, images, calibrator="minmax"):
    placement = place(graph(spec), scheme)
    histograms = observe(Network(graph(spec), weights), [images], placement.observed)
    table = quant_table(
        weights, histograms, placement, scheme, calibrator=calibrator, method="max", data="", images=len(images)
    )
    return Quantized(graph(spec), weights, table, scheme)


def expected_cost(quantized, found):
    """The expected divergence in nats as a function of the logarithms of all units' scales."""
    terms = _terms(quantized, found, channel_units(quantized.graph).of)
    return lambda logs: float(torch.stack([term(logs) for term in terms]).sum() / 24)


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_directions_have_the_softmax_curvature(seed):
    """The mean of ``r r^T`` over all sign vectors is ``diag(p) - p p^T``."""
    logits = torch.randn(1, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    signs = torch.tensor(np.array(np.meshgrid(*[[-1.0, 1.0]] * 4)).reshape(4, -1).T)
    r = torch.cat([softmax_direction(logits, row[None]) for row in signs])
    p = logits.softmax(1)[0]
    assert torch.allclose(r.T @ r / len(r), torch.diag(p) - p[:, None] * p, atol=1e-12)


def test_predicted_divergence_is_the_measured_one(thin, thin_weights, images):
    """Noise of one variance on one tensor: ``KL = 1/2 v sum_c F_c``, within the sampling error."""
    tensor, deviation = "layer1.0.relu1", 0.02
    scheme = find_target("jetson").scheme
    found = importance(
        graph(thin), thin_weights, place(graph(thin), scheme), lambda: [np.repeat(images, 8, axis=0)], limit=192
    )
    generator = torch.Generator().manual_seed(1)

    class Noisy(Network):
        def read(self, op, index, values):
            x = values[op.inputs[index]]
            if op.inputs[index] != tensor:
                return x
            return x + (x != 0) * deviation * torch.randn(x.shape, generator=generator)

    exact, noisy = Network(graph(thin), thin_weights), Noisy(graph(thin), thin_weights)
    many = [(exact.logits(images), noisy.logits(images)) for _ in range(30)]
    measured = kl(np.concatenate([a for a, _ in many]), np.concatenate([b for _, b in many]))
    assert found.activations[tensor].sum() * deviation**2 / 2 == pytest.approx(measured, rel=0.25)


def test_reaches_are_norms_of_channels(thin, thin_weights, images):
    found = importance(graph(thin), thin_weights, place(graph(thin), find_target("jetson").scheme), lambda: [images])
    seen = {}
    with torch.inference_mode():
        Network(graph(thin), thin_weights).eval()(torch.from_numpy(images), seen.__setitem__)
    expected = seen["maxpool"].double().abs().pow(TAIL).sum((0, 2, 3)).pow(1 / TAIL)
    assert found.reach["maxpool"] == pytest.approx(expected.numpy(), rel=1e-4)


def test_weight_information_is_the_square_of_the_gradient(thin, thin_weights, images):
    placement = place(graph(thin), find_target("jetson").scheme)
    found = importance(graph(thin), thin_weights, placement, lambda: [images], limit=1)
    probe = Probe(graph(thin), thin_weights, placement)
    probe.get_parameter("layer2.0.conv1.weight").requires_grad = True
    probe.differentiate(torch.from_numpy(images[:1]).contiguous(memory_format=torch.channels_last), 0)
    gradient = probe.get_parameter("layer2.0.conv1.weight").grad
    assert found.weights["layer2.0.conv1"] == pytest.approx(gradient.double().square().sum((2, 3)).numpy(), rel=1e-4)


def test_any_batches_give_the_same(thin, thin_weights, images):
    placement, ticks = place(graph(thin), find_target("cpu").scheme), []
    one = importance(graph(thin), thin_weights, placement, lambda: [images], advance=ticks.append)
    other = importance(graph(thin), thin_weights, placement, lambda: (images[i : i + 5] for i in range(0, 24, 5)))
    assert sum(ticks) == 24
    for part in ("activations", "reach", "weights"):
        some, others = getattr(one, part), getattr(other, part)
        assert all(np.array_equal(some[name], others[name]) for name in some)
    with pytest.raises(StageError, match="no calibration images"):
        importance(graph(thin), thin_weights, placement, list)


def test_integers_of_the_same_scale_make_no_noise_of_their_own(thin, thin_weights, images):
    """A pool of integers yields integers where pools are quantized; elsewhere it is rounded itself."""
    found = {name: importance(graph(thin), thin_weights, place(graph(thin), find_target(name).scheme), lambda: [images])
             for name in ("cpu", "jetson")}  # fmt: skip
    assert "maxpool" not in found["cpu"].activations
    assert "relu" in found["cpu"].activations
    assert "maxpool" in found["jetson"].activations


def test_the_cost_by_hand():
    """One channel that is quantized once: ``(D^2 F_x + share d^2 F_w) / 24``, whatever its scale."""
    spec = ResNetSpec(
        kind="basic", stem=Stem(width=1, kernel=1, pool=False), stages=((Block(inner=(1,), out=1),),), classes=2,
        norm=False,
    )  # fmt: skip
    weights, images = random_weights(spec), np.ones((2, 3, 4, 4), np.float32)
    weights = weights.replaced({key: np.abs(value) for key, value in weights.items()})
    quantized = calibrated(spec, weights, find_target("jetson").scheme, images)
    found = importance(graph(spec), weights, quantized.placement, lambda: [images])
    expected = sum(
        fisher.sum() * quantized.table.activations[name].scale[0] ** 2 for name, fisher in found.activations.items()
    )
    for name, fisher in found.weights.items():
        steps = np.abs(weights[f"{name}.weight"]).reshape(fisher.shape[0], -1).max(1) / 127
        expected += 0.25 * (steps**2 * fisher.sum(1)).sum()
    units = channel_units(graph(spec))
    cost = expected_cost(quantized, found)
    logs = torch.full((units.count,), 1.3, dtype=torch.float64)
    logs[FIXED] = 0
    assert cost(torch.zeros(units.count, dtype=torch.float64)) == pytest.approx(expected / 24, rel=1e-5)
    assert cost(logs) == pytest.approx(expected / 24, rel=1e-5)


@pytest.fixture
def uneven(thin, thin_weights):
    """The same function with channels of very different ranges."""
    units = channel_units(graph(thin))
    drawn = np.exp(np.random.default_rng(1).normal(0, 1.2, units.count))
    drawn[FIXED] = 1
    return rescaled(graph(thin), thin_weights, {name: drawn[channels] for name, channels in units.of.items()})


def test_balancing_brings_the_answers_nearer(thin, uneven, images, scheme):
    expected = Network(graph(thin), uneven).logits(images)
    before = calibrated(thin, uneven, scheme, images)
    found = importance(graph(thin), uneven, before.placement, lambda: [images])
    weights = rescaled(graph(thin), uneven, balancing_scales(before, found))
    assert np.abs(Network(graph(thin), weights).logits(images) - expected).max() <= 1e-5 * np.ptp(expected)
    after = calibrated(thin, weights, scheme, images)
    divergence = [kl(expected, one.network().logits(images)) for one in (before, after)]
    assert divergence[1] < divergence[0] / 2


def test_balancing_takes_back_what_outlier_channels_cost(thin, thin_weights, images, scheme):
    """Some channels times 100, the weights that read them by 100: the same function."""
    units = channel_units(graph(thin))
    factors = np.ones(units.count)
    factors[[2, 9, 17]] = 1 / 100
    made = rescaled(graph(thin), thin_weights, {name: factors[channels] for name, channels in units.of.items()})
    expected = Network(graph(thin), thin_weights).logits(images)

    def divergence(weights, *, balanced):
        one = calibrated(thin, weights, scheme, images)
        if balanced:
            found = importance(graph(thin), weights, one.placement, lambda: [images])
            one = calibrated(thin, rescaled(graph(thin), weights, balancing_scales(one, found)), scheme, images)
        return kl(expected, one.network().logits(images))

    outliers = divergence(made, balanced=False)
    assert outliers > 20 * divergence(thin_weights, balanced=False)
    assert divergence(made, balanced=True) < outliers / 50


@pytest.fixture
def problem(thin, uneven, images):
    """The cost of scales, and its minimum."""
    quantized = calibrated(thin, uneven, find_target("jetson").scheme, images)
    found, units = importance(graph(thin), uneven, quantized.placement, lambda: [images]), channel_units(graph(thin))
    cost = expected_cost(quantized, found)
    best = np.zeros(units.count)
    for tensor, scales in balancing_scales(quantized, found).items():
        best[units.of[tensor]] = np.log(scales)
    return (lambda logs: cost(torch.from_numpy(logs * (np.arange(units.count) != FIXED)))), best


def test_the_problem_is_convex(problem):
    cost, _ = problem
    random = np.random.default_rng(3)
    for _ in range(20):
        one, other = random.normal(0, 1, (2, len(problem[1])))
        assert cost((one + other) / 2) <= (cost(one) + cost(other)) / 2 * (1 + 1e-12)


def test_the_minimum_is_found(problem):
    cost, best = problem
    random = np.random.default_rng(4)
    assert cost(best) < cost(np.zeros_like(best)) / 2
    for deviation in (0.02, 0.1, 0.5):
        assert all(cost(best + random.normal(0, deviation, len(best))) > cost(best) * 0.999 for _ in range(20))


def test_dead_channels_do_no_harm(thin, thin_weights, images):
    dead = dict(thin_weights)
    for key in ("layer1.0.conv1.weight", "layer1.0.conv1.bias"):
        dead[key] = dead[key] * (np.arange(8) > 2).reshape(-1, *[1] * (dead[key].ndim - 1))
    weights = Weights(dead)
    quantized = calibrated(thin, weights, find_target("jetson").scheme, images)
    scales = balancing_scales(quantized, importance(graph(thin), weights, quantized.placement, lambda: [images]))
    assert all(np.isfinite(scale).all() and (scale > 0).all() for scale in scales.values())
    expected = Network(graph(thin), weights).logits(images)
    assert np.abs(Network(graph(thin), rescaled(graph(thin), weights, scales)).logits(images) - expected).max() < 1e-4
